"""PatchConvNet: a convolutional trunk at one resolution, whose map a class token gathers by attention."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from harness.backbones.initial_values import draw, truncated_normal, uniform
from harness.backbones.network import NetworkModel, map_tokens
from harness.errors import ParameterError
from harness.types import BlockAttention, BlockTokens, Capability, ModelInfo, ModelOutputs, OutputSpec

_EPSILON = 1e-6
"""Of every layer norm."""


class PatchConvNet(nn.Module):
    """Normalised pixels (N, 3, H, W) of any size to logits (N, ``num_classes``), float32.

    Touvron et al., "Augmenting Convolutional Networks with Attention-based Aggregation" (arXiv 2112.13692): a stem of
    stride-2 convolutions, ``depth`` residual blocks on its map of ``width`` channels, and one attention block, the
    aggregation, in which a class token gathers the map. Its models are S60 (384 wide, 60 deep), S120, B60 (768 wide),
    B120, L60 (1024 wide) and L120. The parameters' names are those of the authors' checkpoints.

    ``layer_scale``: what the branches are multiplied by at the start, per channel; 1e-4 in S60, 1e-6 in the others.
    ``per_class``: a class token for each class, which looks at the patches only, and whose logit it gives (S60_multi).
    ``drop_path``: how often a trunk block is left out for an image while training, drawn as ``nn.Dropout`` draws.
    ``stem_widths``: channels of the stem's convolutions, each of which halves the side; the last are ``width``. None
    stands for the paper's four: an eighth, a quarter and a half of ``width``, and ``width``.
    ``seed``: of the initial parameters, for which the global random state is neither read nor changed.

    Raises :class:`~harness.errors.ParameterError` for sizes that make no network.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_classes: int,
        layer_scale: float,
        per_class: bool = False,
        drop_path: float = 0.0,
        stem_widths: tuple[int, ...] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(width, depth, num_classes) < 1:
            raise ParameterError(
                f"PatchConvNet: width, depth and num_classes must be positive, not {width}, {depth} and {num_classes}"
            )
        stem = _paper_stem(width) if stem_widths is None else stem_widths
        if not stem or stem[-1] != width:
            raise ParameterError(f"PatchConvNet: stem_widths must end with the width {width}, but they are {stem}")
        self.num_classes = num_classes
        self.per_class = per_class
        self.patch_size = 2 ** len(stem)
        device = torch.get_default_device()
        # On the meta device the layers' own initialisers draw nothing from the global generator.
        with torch.device("meta"):
            self.patch_embed = nn.Sequential(OrderedDict(proj=_stem((3, *stem))))
            self.blocks = nn.ModuleList(_TrunkBlock(width, drop_path) for _ in range(depth))
            self.cls_token = nn.Parameter(torch.empty(1, num_classes if per_class else 1, width))
            self.blocks_token_only = nn.ModuleList([Aggregation(width, per_class=per_class)])
            self.norm = nn.LayerNorm(width, eps=_EPSILON)
            self.head = _LogitPerToken(width, num_classes) if per_class else nn.Linear(width, num_classes)
        self.to_empty(device=device)
        if device.type != "meta":
            self._initialise(layer_scale, torch.Generator().manual_seed(seed))

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits; see the class."""
        x = self.patch_embed(pixels)
        for block in self.blocks:
            x = block(x)
        tokens, _ = self.aggregate(self.class_tokens(len(x)), x.flatten(2).transpose(1, 2))
        return self.classify(self.norm(tokens))

    def class_tokens(self, n: int) -> Tensor:
        """The class tokens (N, T, D) that enter the aggregation: T is 1, or the number of classes."""
        return self.cls_token.expand(n, -1, -1)

    def aggregate(self, class_tokens: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """What leaves the aggregation for class tokens (N, T, D) and patches (N, K, D), before the final norm.

        Returns class tokens (N, T, D) and attention weights (N, 1, T, keys) over the class token and the patches, or,
        with a class token for each class, over the patches.
        """
        return cast("tuple[Tensor, Tensor]", self.blocks_token_only[0](class_tokens, patches))

    def classify(self, class_tokens: Tensor) -> Tensor:
        """Logits (N, C) of class tokens (N, T, D) after the final norm."""
        logits: Tensor = self.head(class_tokens if self.per_class else class_tokens[:, 0])
        return logits.float()

    @torch.no_grad()
    def _initialise(self, layer_scale: float, generator: torch.Generator) -> None:
        """Class tokens and linear layers as in transformers, convolutions as torch does it, branches nearly shut."""
        draw(self.cls_token, truncated_normal(generator))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                bound = part.weight[0].numel() ** -0.5
                draw(part.weight, uniform(generator, bound))
                if part.bias is not None:
                    draw(part.bias, uniform(generator, bound))
            elif isinstance(part, _TrunkBlock):
                part.gamma_1.fill_(layer_scale)
            else:
                initialise_layer(part, layer_scale, generator)


class PatchConvNetModel(NetworkModel):
    """A :class:`PatchConvNet` as a Model: its blocks are those of the trunk, and, as the last, the aggregation.

    Tokens of a trunk block are the map that leaves it, a token a place in row-major order, without prefix. Those of
    the aggregation are its class token, as prefix, and the patches that entered it, which it does not change: a class
    token is there in the last block only, so ``CLASS_TOKEN`` is not claimed. ``normed_tokens`` went through the final
    norm, ``pooled`` is the class token after it. Attention is that of the aggregation, kind ``class``: (N, 1, 1, 1 +
    patches), its first key the class token.

    A network with a class token for each class has none of the whole image: it names no prefix token and gives no
    ``pooled``; its attention is (N, 1, classes, patches), the map of one class a row.

    Sites: ``block:i`` sees the tokens that enter block i; ``pool`` sees the map that leaves the trunk, ahead of the
    aggregation's own site and without the class token. None of them can drop patches.
    """

    def __init__(self, net: PatchConvNet, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        self._depth = len(net.blocks)
        capabilities = frozenset(Capability) - {Capability.CLASS_TOKEN}
        info = replace(
            card,
            num_classes=net.num_classes,
            num_blocks=self._depth + 1,
            embed_dim=net.cls_token.shape[2],
            pooled_dim=None if net.per_class else net.cls_token.shape[2],
            patch_size=net.patch_size,
            prefix=() if net.per_class else ("cls",),
            heads=("head",),
            attention_blocks=(self._depth,),
            capabilities=capabilities - {Capability.POOLED} if net.per_class else capabilities,
        )
        sites = [*(f"block:{i}" for i in range(self._depth + 1)), "pool"]
        super().__init__(net, info, sites=sites, droppable=False)

    def _forward(self, pixels: Tensor, want: OutputSpec) -> ModelOutputs:
        net, depth = self.net, self._depth
        asked = want.tokens | want.normed_tokens
        tokens: dict[int, BlockTokens] = {}
        last = depth if want.logits or want.pooled else max(asked | want.attention, default=-1)
        x = net.patch_embed(pixels)
        for i, block in enumerate(net.blocks[: last + 1]):
            x = block(self._enter_map(f"block:{i}", x))
            if i in asked:
                tokens[i] = map_tokens(x)
        logits, pooled, attention = {}, None, {}
        if last == depth:
            tokens[depth], class_tokens, weights = self._aggregate(self._enter_map("pool", x))
            normed = net.norm(class_tokens)
            logits = {"head": net.classify(normed)} if want.logits else {}
            pooled = normed[:, 0] if want.pooled else None
            attention = {i: BlockAttention(weights=weights, kind="class") for i in want.attention}
        return ModelOutputs(
            logits=logits,
            pooled=pooled,
            tokens={i: tokens[i] for i in want.tokens},
            normed_tokens={i: self._normed(tokens[i]) for i in want.normed_tokens},
            attention=attention,
        )

    def _aggregate(self, x: Tensor) -> tuple[BlockTokens, Tensor, Tensor]:
        """The last block's tokens, all its class tokens (N, T, D), and its attention weights."""
        site = f"block:{self._depth}"
        entering, class_tokens = map_tokens(x), self.net.class_tokens(len(x))
        named = class_tokens[:, : len(self.info.prefix)]
        prefix, patches, _ = self._interventions.apply(site, named, entering.patches, entering.grid, None)
        class_tokens, weights = self.net.aggregate(class_tokens if self.net.per_class else prefix, patches)
        named = class_tokens[:, : len(self.info.prefix)]
        return BlockTokens(prefix=named, patches=patches, grid=entering.grid), class_tokens, weights

    def _normed(self, tokens: BlockTokens) -> BlockTokens:
        return replace(tokens, prefix=self.net.norm(tokens.prefix), patches=self.net.norm(tokens.patches))


class _TrunkBlock(nn.Module):
    """x + gamma f(LN(x)) on maps (N, D, H, W): f mixes channels, then places, then weighs and mixes channels again."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = _ChannelNorm(width, eps=_EPSILON)
        mixing = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.GELU(),
            _SqueezeExcitation(width),
            nn.Conv2d(width, width, 1),
        )
        # Nothing attends here; the name is that of the authors' checkpoints.
        self.attn = nn.Sequential(OrderedDict(qkv_pos=mixing))
        self.gamma_1 = nn.Parameter(torch.empty(width))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.drop_path(self.gamma_1.view(-1, 1, 1) * self.attn(self.norm1(x)))
        return x + branch


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each place of a map (N, D, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        normed = super().forward(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class _SqueezeExcitation(nn.Module):
    """Hu et al. (CVPR 2018), with a quarter of the channels in the middle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(width, round(width / 4), 1)
        self.conv_expand = nn.Conv2d(round(width / 4), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.conv_reduce(x.mean(dim=(2, 3), keepdim=True)).relu()
        gate: Tensor = self.conv_expand(squeezed).sigmoid()
        return x * gate


class Aggregation(nn.Module):
    """A transformer block of one head in which class tokens (N, T, ``width``) alone ask, and alone change.

    Returned are these, and attention weights (N, 1, T, keys) over the class token and the patches; with a class token
    for each class (``per_class``) over the patches (N, K, ``width``) alone.
    """

    def __init__(self, width: int, *, per_class: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.attn = _ClassAttention(width, per_class)
        self.gamma_1 = nn.Parameter(torch.empty(width))
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(width, 3 * width), act=nn.GELU(), fc2=nn.Linear(3 * width, width))
        )
        self.gamma_2 = nn.Parameter(torch.empty(width))

    def forward(self, class_tokens: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        gathered, weights = self.attn(self.norm1(class_tokens), self.norm1(patches))
        class_tokens = class_tokens + self.gamma_1 * gathered
        return class_tokens + self.gamma_2 * self.mlp(self.norm2(class_tokens)), weights


class _ClassAttention(nn.Module):
    """Attention of one head from class tokens (N, T, D) to themselves and the patches, or to the patches alone."""

    def __init__(self, width: int, patches_alone: bool) -> None:
        super().__init__()
        self.patches_alone = patches_alone
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, class_tokens: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """The gathered (N, T, D) and the weights (N, 1, T, keys)."""
        seen = patches if self.patches_alone else torch.cat([class_tokens, patches], dim=1)
        scores = self.q(class_tokens) * seen.shape[2] ** -0.5 @ self.k(seen).transpose(1, 2)
        weights = scores.softmax(dim=-1)
        return self.proj(weights @ self.v(seen)), weights.unsqueeze(1)


class _LogitPerToken(nn.ModuleList):
    """A linear layer to one logit for each of the class tokens (N, C, D)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.Linear(width, 1) for _ in range(classes))

    def forward(self, class_tokens: Tensor) -> Tensor:
        layers = [cast("nn.Linear", layer) for layer in self]
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        # One product for all of them: a thousand small layers one after the other take far longer.
        return (class_tokens * weight).sum(dim=2) + bias


def _paper_stem(width: int) -> tuple[int, ...]:
    if width % 8:
        raise ParameterError(
            f"PatchConvNet: a width of {width} has no eighth", hint="choose a multiple of 8, or give stem_widths"
        )
    return (width // 8, width // 4, width // 2, width)


def _stem(widths: Sequence[int]) -> nn.Sequential:
    """3 x 3 convolutions that halve the side, from each of ``widths`` to the next, with GELU between them."""
    layers: list[nn.Module] = []
    for entering, leaving in pairwise(widths):
        # The authors' checkpoints have each convolution in a container of its own.
        layers += [nn.Sequential(nn.Conv2d(entering, leaving, 3, stride=2, padding=1, bias=False)), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def initialise_layer(part: nn.Module, layer_scale: float, generator: torch.Generator) -> None:
    """Initial values of a layer of an aggregation, or behind it: as in transformers, branches times ``layer_scale``."""
    if isinstance(part, nn.Linear):
        draw(part.weight, truncated_normal(generator))
        nn.init.zeros_(part.bias)
    elif isinstance(part, nn.LayerNorm):
        part.reset_parameters()
    elif isinstance(part, Aggregation):
        nn.init.constant_(part.gamma_1, layer_scale)
        nn.init.constant_(part.gamma_2, layer_scale)
