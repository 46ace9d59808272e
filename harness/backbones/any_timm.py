"""Any network of timm that has no wrapper of its own as a Model, as far as timm's common interface carries."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from harness.adapters import model_input
from harness.backbones.network import NetworkModel, map_tokens
from harness.errors import CapabilityError
from harness.protocols import SiteTokens
from harness.types import BlockTokens, Capability, ModelInfo, ModelOutputs, OutputSpec

_TOLERANCE = 1e-4
"""Between two ways through one network, relative to the largest magnitude."""

_REFUSALS = (
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What networks raise for a part of timm's interface that they do not support."""

_Layout: TypeAlias = Literal["tokens", "map", "channels_last"]
"""How final features hold the last block's tokens: (N, P + K, D), (N, D, H, W) or (N, H, W, D)."""


class AnyTimmModel(NetworkModel):
    """A network of timm by ``forward_features``, ``forward_head`` and ``forward_intermediates``, which nearly all have.

    The network is tried once, on one image of its size (on the meta device if that is where its parameters are), and
    claims what it then gave. Logits are those of a plain call. ``pooled`` is ``forward_head(pre_logits=True)``, or, of
    a network without classes that has no such head, what a plain call gives. Tokens of block i are timm's intermediate
    i, so a block is a stage in networks that have them: a map, a token a place in row-major order, with the prefix
    tokens that the network hands out beside it. They are not claimed of a network whose intermediates cannot be had in
    the pass that gives the logits. ``normed_tokens`` of the last block are the features that the head reads, where
    these are its tokens after the network's norm; of the other blocks, and of networks whose features are something
    else, they are the tokens.

    There is no attention and no intervention.
    """

    def __init__(self, net: Any, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is found by trying.

        Raises :class:`~harness.errors.CapabilityError` for a network that does not make one vector of each image.
        """
        net.eval().requires_grad_(False)
        findings = _try_out(net, card)
        super().__init__(net, findings.info, sites=(), droppable=False)
        self._findings = findings

    def intervene(
        self,
        site: str,
        fn: Callable[[SiteTokens], SiteTokens],  # noqa: ARG002  # the signature of every model's
        *,
        ids: tuple[str, ...],  # noqa: ARG002  # as above
    ) -> AbstractContextManager[None]:
        """Raises :class:`~harness.errors.CapabilityError`: where tokens enter which part is not known here."""
        raise CapabilityError(
            f"model {self.info.name} has no site {site!r}, nor any other: its parts are not known",
            hint="interventions need a network with a wrapper of its own, such as a ViT, ResNet or ConvNeXt",
        )

    def _forward(self, pixels: Tensor, want: OutputSpec) -> ModelOutputs:
        net, found = self.net, self._findings
        blocks, last = sorted(want.tokens | want.normed_tokens), self.info.num_blocks - 1
        normed_last = last in want.normed_tokens and found.features is not None
        features: Any = None
        tokens: dict[int, BlockTokens] = {}
        if blocks:
            whole = want.logits or want.pooled or normed_last
            given = net.forward_intermediates(
                pixels, indices=blocks, intermediates_only=not whole, stop_early=not whole, **found.options
            )
            features, maps = given if whole else (None, given)
            tokens = dict(zip(blocks, map(_tokens, maps), strict=True))
        elif want.pooled and found.pools:
            features = net.forward_features(pixels)
        normed = {i: tokens[i] for i in want.normed_tokens}
        if normed_last and found.features is not None:
            normed[last] = _final_tokens(features, tokens[last], found.features)
        return ModelOutputs(
            logits={"head": self._logits(pixels, features).float()} if want.logits else {},
            pooled=self._pooled(pixels, features) if want.pooled else None,
            tokens={i: tokens[i] for i in want.tokens},
            normed_tokens=normed,
        )

    def _logits(self, pixels: Tensor, features: Any) -> Tensor:
        logits: Tensor = self.net(pixels) if features is None else self.net.forward_head(features)
        return logits

    def _pooled(self, pixels: Tensor, features: Any) -> Tensor:
        pooled: Tensor = self.net(pixels) if features is None else self.net.forward_head(features, pre_logits=True)
        return pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """What came of trying a network.

    ``pools``: whether it has ``forward_features`` and ``forward_head`` whose two halves make its output.
    ``options``: what ``forward_intermediates`` is given each time. ``features``: how what it gives beside the
    intermediates holds the last block's normed tokens, None if it does not.
    """

    info: ModelInfo
    pools: bool
    options: Mapping[str, Any]
    features: _Layout | None


def _try_out(net: Any, card: ModelInfo) -> _Findings:
    # Whether outputs carry a graph back to the image is one of the things to find out.
    with torch.inference_mode(mode=False), torch.enable_grad():
        pixels = model_input(_image(net, card).requires_grad_(), card)
        output = _output(net, pixels, card)
        classes = output.shape[1] if net.num_classes else 0
        pooled = _trial(lambda: _halves(net, net.forward_features(pixels), output))
        walk = None if pooled is None else _walk(net, pixels, output)
    if pooled is None and not classes:
        pooled = output
    capabilities = {
        Capability.LOGITS: classes > 0,
        Capability.POOLED: pooled is not None,
        Capability.TOKENS: walk is not None,
        Capability.GRADIENTS: output.requires_grad,
        Capability.CLASS_TOKEN: walk is not None and "cls" in walk.prefix,
    }
    info = replace(
        card,
        label_space=card.label_space if classes else None,
        num_classes=classes or None,
        num_blocks=0 if walk is None else len(walk.blocks),
        embed_dim=0 if walk is None else walk.blocks[-1].patches.shape[2],
        pooled_dim=None if pooled is None else pooled.shape[1],
        patch_size=None if walk is None else _patch_size(walk.blocks, card.input_size),
        prefix=() if walk is None else walk.prefix,
        heads=("head",) if classes else (),
        capabilities=frozenset(capability for capability, holds in capabilities.items() if holds),
    )
    return _Findings(
        info=info,
        pools=pooled is not None and pooled is not output,
        options={} if walk is None else walk.options,
        features=None if walk is None else walk.features,
    )


def _image(net: Any, card: ModelInfo) -> Tensor:
    """One image (1, 3, S, S), a ramp from black to white, so that no two places and channels are alike."""
    device = next((tensor.device for tensor in (*net.parameters(), *net.buffers())), torch.device("cpu"))
    side = card.input_size
    return torch.linspace(0, 1, 3 * side * side, device=device).reshape(1, 3, side, side)


def _output(net: Any, pixels: Tensor, card: ModelInfo) -> Tensor:
    """What a plain call gives, if that is one vector (1, C)."""
    try:
        output = net(pixels)
    except torch.OutOfMemoryError:
        raise
    except _REFUSALS as error:
        side = card.input_size
        raise CapabilityError(
            f"model {card.name}: a {type(net).__name__} does not take an image of {side} x {side} pixels: {error}",
            hint="its view must crop to the size that it was built for",
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = f"{tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise CapabilityError(
            f"model {card.name}: expected one vector (1, C) of one image, but a {type(net).__name__} gave {found}",
            hint="build it with pooling (global_pool='avg') and without auxiliary heads, or wrap the part that "
            "classifies with harness.adapters.wrap_module",
        )
    return output


def _trial(attempt: Callable[[], Any]) -> Any:
    """What ``attempt`` gives, None if the network refuses."""
    try:
        return attempt()
    except torch.OutOfMemoryError:
        raise
    except _REFUSALS:
        return None


def _halves(net: Any, features: Any, output: Tensor) -> Tensor | None:
    """The pre-logits (1, D) of ``features``, None unless the head makes ``output`` of them."""
    pooled = net.forward_head(features, pre_logits=True)
    fits = isinstance(pooled, Tensor) and pooled.ndim == 2 and _same(net.forward_head(features), output)
    return pooled if fits else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """What ``forward_intermediates`` gives: tokens of every block, and how it is asked for them."""

    blocks: Sequence[BlockTokens]
    prefix: tuple[str, ...]
    options: Mapping[str, Any]
    features: _Layout | None


def _walk(net: Any, pixels: Tensor, output: Tensor) -> _Walk | None:
    """What ``forward_intermediates`` gives, with prefix tokens where they can be had; None if not what a model must."""
    if not callable(getattr(net, "forward_intermediates", None)):
        return None
    taken = inspect.signature(net.forward_intermediates).parameters
    # Some relatives of ViT take the option but break on it where they have no prefix tokens.
    choices: list[dict[str, Any]] = [{"return_prefix_tokens": True}] if "return_prefix_tokens" in taken else []
    walks = (_trial(partial(_walk_with, net, pixels, output, options)) for options in [*choices, {}])
    return next((walk for walk in walks if walk is not None), None)


def _walk_with(net: Any, pixels: Tensor, output: Tensor, options: Mapping[str, Any]) -> _Walk | None:
    features, maps = net.forward_intermediates(pixels, **options)
    if not maps or _halves(net, features, output) is None:
        return None
    blocks = [_tokens(item) for item in maps]
    return _Walk(
        blocks=blocks,
        prefix=_prefix_names(net, blocks[-1].prefix.shape[1]),
        options=options,
        features=_trial(lambda: _layout(net, pixels, options, features, blocks)),
    )


def _tokens(item: Tensor | Sequence[Tensor]) -> BlockTokens:
    """One of timm's intermediates: a map (N, D, H, W) or tokens (N, K, D), alone or with prefix tokens (N, P, D)."""
    patches, *rest = (item,) if isinstance(item, Tensor) else item
    tokens = map_tokens(patches) if patches.ndim == 4 else _row(patches)
    return replace(tokens, prefix=rest[0]) if rest else tokens


def _row(patches: Tensor) -> BlockTokens:
    """Tokens (N, K, D) without a map: a square if they fill one, a row if they do not."""
    n, count, width = patches.shape
    side = math.isqrt(count)
    grid = (side, side) if side * side == count else (1, count)
    return BlockTokens(prefix=patches.new_zeros(n, 0, width), patches=patches, grid=grid)


def _layout(
    net: Any, pixels: Tensor, options: Mapping[str, Any], features: Any, blocks: Sequence[BlockTokens]
) -> _Layout | None:
    """How ``features`` hold the last block's tokens as timm's own ``norm=True`` gives them, None if they do not."""
    last = blocks[-1]
    shapes = _shapes(last)
    fitting = [layout for layout, shape in shapes.items() if isinstance(features, Tensor) and features.shape == shape]
    if not fitting:
        return None
    (given,) = net.forward_intermediates(
        pixels, indices=[len(blocks) - 1], norm=True, intermediates_only=True, **options
    )
    normed = _tokens(given)
    for layout in fitting:
        found = _final_tokens(features, last, layout)
        if _same(found.patches, normed.patches) and _same(found.prefix, normed.prefix):
            return layout
    return None


def _shapes(tokens: BlockTokens) -> dict[_Layout, tuple[int, ...]]:
    (n, count, width), (height, across) = tokens.patches.shape, tokens.grid
    shapes: dict[_Layout, tuple[int, ...]] = {"tokens": (n, tokens.prefix.shape[1] + count, width)}
    if not tokens.prefix.shape[1]:
        shapes |= {"map": (n, width, height, across), "channels_last": (n, height, across, width)}
    return shapes


def _final_tokens(features: Tensor, tokens: BlockTokens, layout: _Layout) -> BlockTokens:
    """``features`` as tokens of the same grid and as many prefix tokens as ``tokens``."""
    if layout == "tokens":
        p = tokens.prefix.shape[1]
        return replace(tokens, prefix=features[:, :p], patches=features[:, p:])
    return replace(map_tokens(features if layout == "map" else features.permute(0, 3, 1, 2)), prefix=tokens.prefix)


def _prefix_names(net: Any, count: int) -> tuple[str, ...]:
    """Names of ``count`` prefix tokens: those that the network says it has, if it says so of as many; else numbers."""
    holders = (net, getattr(net, "embeds", None))

    def has(token: str) -> bool:
        return any(getattr(holder, token, None) is not None for holder in holders)

    names = [name for name, token in (("cls", "cls_token"), ("dist", "dist_token")) if has(token)]
    registers = count - len(names)
    if registers < 0 or (registers and not has("reg_token")):
        return tuple(f"token{i}" for i in range(count))
    return (*names, *(f"register{i}" for i in range(registers)))


def _patch_size(blocks: Sequence[BlockTokens], side: int) -> int | None:
    """Pixels per place where every block has the same square grid, as in plain transformers."""
    grids = {tokens.grid for tokens in blocks}
    height, width = next(iter(grids))
    return side // height if len(grids) == 1 and height == width and side % height == 0 else None


def _same(found: Any, expected: Tensor) -> bool:
    """Whether both are one; on the meta device, where there are no numbers, whether they have one shape."""
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    if expected.is_meta or not expected.numel():
        return True
    bound = _TOLERANCE * max(1.0, float(expected.detach().abs().max()))
    return float((found - expected).detach().abs().max()) <= bound
