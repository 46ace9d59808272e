"""The small stand-ins that checks need: generated images of known classes, and a tiny vision transformer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.adapters import check_want, model_input
from harness.errors import CapabilityError
from harness.protocols import SiteTokens
from harness.types import (
    BlockAttention,
    BlockTokens,
    Capability,
    ImageBatch,
    ModelInfo,
    ModelOutputs,
    OutputSpec,
    View,
    WeightsInfo,
)


def sample_batch(labels: Sequence[int], *, side_px: int, start: int = 0) -> ImageBatch:
    """Generated images in [0.05, 0.95]: a smooth colour pattern per class, and texture that differs by image.

    Images are numbered from ``start``; the number gives position, id and texture, so that a number always means the
    same picture of its class. Positions, ids, labels and masks (the left half) are filled in, and as columns the
    class as ``shape`` and the class before it as ``texture``.
    """
    pictures = np.stack([_picture(label, start + i, side_px) for i, label in enumerate(labels)])
    masks = torch.zeros(len(labels), side_px, side_px, dtype=torch.bool)
    masks[:, :, : side_px // 2] = True
    return ImageBatch(
        images=torch.from_numpy(pictures),
        labels=torch.tensor(labels, dtype=torch.int64),
        ids=tuple(f"sample/{start + i:04d}.png" for i in range(len(labels))),
        positions=np.arange(start, start + len(labels), dtype=np.int64),
        masks=masks,
        columns={
            "shape": torch.tensor(labels, dtype=torch.int64),
            "texture": torch.tensor([max(label - 1, 0) for label in labels], dtype=torch.int64),
        },
    )


def _picture(label: int, number: int, side_px: int) -> npt.NDArray[np.float32]:
    pattern = np.random.default_rng([1, label]).uniform(0.15, 0.85, (3, 4, 4))
    texture = np.random.default_rng([2, number]).uniform(-0.1, 0.1, (3, side_px, side_px))
    coarse = torch.from_numpy(pattern)[None]
    smooth = functional.interpolate(coarse, size=(side_px, side_px), mode="bilinear", align_corners=False)[0].numpy()
    return np.asarray((smooth + texture).clip(0.05, 0.95), dtype=np.float32)


def take_images(batch: ImageBatch, rows: Sequence[int]) -> ImageBatch:
    """The images at ``rows`` of a batch, in that order."""
    index = torch.tensor(rows, dtype=torch.int64)
    return ImageBatch(
        images=batch.images[index],
        labels=batch.labels[index],
        ids=tuple(batch.ids[row] for row in rows),
        positions=batch.positions[list(rows)],
        masks=None if batch.masks is None else batch.masks[index],
        regions=None if batch.regions is None else batch.regions[index],
        taken=None if batch.taken is None else batch.taken[index],
        columns={name: column[index] for name, column in batch.columns.items()},
        realised={name: column[index] for name, column in batch.realised.items()},
    )


def take_outputs(outputs: ModelOutputs, rows: Sequence[int]) -> ModelOutputs:
    """The outputs for the images at ``rows``, in that order."""
    index = torch.tensor(rows, dtype=torch.int64)

    def tokens(given: BlockTokens) -> BlockTokens:
        return BlockTokens(prefix=given.prefix[index], patches=given.patches[index], grid=given.grid)

    return ModelOutputs(
        logits={name: logits[index] for name, logits in outputs.logits.items()},
        pooled=None if outputs.pooled is None else outputs.pooled[index],
        tokens={block: tokens(given) for block, given in outputs.tokens.items()},
        normed_tokens={block: tokens(given) for block, given in outputs.normed_tokens.items()},
        attention={b: replace(given, weights=given.weights[index]) for b, given in outputs.attention.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyShape:
    """Sizes of :class:`TinyTransformer`; ``side_px`` must be a multiple of ``patch_px``, ``width`` of ``heads``."""

    side_px: int = 32
    patch_px: int = 8
    width: int = 48
    heads: int = 2
    blocks: int = 2
    classes: int = 10


def tiny_model(*, classes: int = 10, side_px: int = 32, patch_px: int = 8, label_space: str = "sample") -> TinyModel:
    """A tiny vision transformer of fixed random weights that claims every capability, and keeps its claims."""
    shape = TinyShape(side_px=side_px, patch_px=patch_px, classes=classes)
    return TinyModel(shape=shape, label_space=label_space, seed=0)


class TinyTransformer(nn.Module):
    """A pre-norm vision transformer with a class token (Dosovitskiy et al., arXiv 2010.11929, section 3.1)."""

    def __init__(self, shape: TinyShape, *, seed: int) -> None:
        super().__init__()
        cells = (shape.side_px // shape.patch_px) ** 2
        # On the meta device the layers' own initialisers draw nothing from the global generator.
        with torch.device("meta"):
            self.patch_embed = nn.Conv2d(3, shape.width, shape.patch_px, shape.patch_px)
            self.cls = nn.Parameter(torch.empty(1, 1, shape.width))
            self.pos = nn.Parameter(torch.empty(1, cells + 1, shape.width))
            self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.blocks))
            self.norm = nn.LayerNorm(shape.width)
            self.head = nn.Linear(shape.width, shape.classes)
        self.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in self.named_parameters():
                if "norm" in name:
                    value.fill_(1.0 if name.endswith("weight") else 0.0)
                else:
                    fan_in = value[0].numel() if value.ndim > 1 and name.endswith("weight") else value.shape[-1]
                    value.copy_(torch.randn(value.shape, generator=generator) / math.sqrt(fan_in))


class _Block(nn.Module):
    def __init__(self, shape: TinyShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.qkv, self.proj = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)
        self.mlp = nn.Sequential(
            nn.Linear(shape.width, 2 * shape.width), nn.GELU(), nn.Linear(2 * shape.width, shape.width)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(n, length, width))
        return x + self.mlp(self.norm2(x)), attention


class TinyModel:
    """:class:`TinyTransformer` as a :class:`~harness.protocols.Model` with every capability.

    Intervention sites: ``pos_embed``, ``block:i`` and ``pool``. Keeps all its promises, so that what goes wrong in a
    check is the fault of the component checked.
    """

    def __init__(self, *, shape: TinyShape, label_space: str, seed: int) -> None:
        self.net = TinyTransformer(shape, seed=seed).eval().requires_grad_(False)
        self.grid = (shape.side_px // shape.patch_px, shape.side_px // shape.patch_px)
        self._interventions: dict[str, tuple[Callable[[SiteTokens], SiteTokens], tuple[str, ...]]] = {}
        self._info = ModelInfo(
            name="tiny",
            family="tiny",
            weights=WeightsInfo(origin="random", identity=f"random:tiny:{seed}"),
            view=View(resize=shape.side_px, crop=shape.side_px),
            mean=(0.5, 0.45, 0.4),
            std=(0.25, 0.2, 0.3),
            label_space=label_space,
            num_classes=shape.classes,
            num_blocks=shape.blocks,
            embed_dim=shape.width,
            pooled_dim=shape.width,
            patch_size=shape.patch_px,
            prefix=("cls",),
            heads=("head",),
            capabilities=frozenset(Capability),
        )

    @property
    def info(self) -> ModelInfo:
        """The model's card."""
        return self._info

    def outputs(self, images: Tensor, want: OutputSpec) -> ModelOutputs:
        """See :meth:`harness.protocols.Model.outputs`."""
        check_want(self.info, want)
        net = self.net
        x = net.patch_embed(model_input(images, self.info)).flatten(2).transpose(1, 2)
        positions, kept = self._at("pos_embed", (net.pos.expand(len(x), -1, -1), None))
        if kept is not None:
            x = x.take_along_dim(kept[:, :, None], dim=1)
        x = torch.cat([net.cls.expand(len(x), -1, -1), x], dim=1) + positions
        tokens, normed, attention = {}, {}, {}
        for i, block in enumerate(net.blocks):
            x, kept = self._at(f"block:{i}", (x, kept))
            x, weights = block(x)
            if i in want.tokens:
                tokens[i] = self._split(x)
            if i in want.normed_tokens:
                normed[i] = self._split(net.norm(x))
            if i in want.attention:
                attention[i] = BlockAttention(weights=weights, kind="global")
        x, _ = self._at("pool", (x, kept))
        pooled = net.norm(x)[:, 0]
        return ModelOutputs(
            logits={"head": net.head(pooled)} if want.logits else {},
            pooled=pooled if want.pooled else None,
            tokens=tokens,
            normed_tokens=normed,
            attention=attention,
        )

    def to(self, device: torch.device | str) -> TinyModel:
        """Moves in place."""
        self.net.to(device)
        return self

    def patch_filters(self) -> Tensor:
        """See :meth:`harness.protocols.HasPatchFilters.patch_filters`."""
        return self.net.patch_embed.weight.detach().clone()

    @contextmanager
    def intervene(self, site: str, fn: Callable[[SiteTokens], SiteTokens], *, ids: tuple[str, ...]) -> Iterator[None]:
        """See :meth:`harness.protocols.SupportsIntervention.intervene`."""
        sites = ("pos_embed", *(f"block:{i}" for i in range(len(self.net.blocks))), "pool")
        if site not in sites:
            raise CapabilityError(f"model tiny has no site {site!r}", hint=f"its sites are {', '.join(sites)}")
        before = dict(self._interventions)
        self._interventions[site] = (fn, ids)
        try:
            yield
        finally:
            self._interventions = before

    def _at(self, site: str, given: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """Tokens and kept indices as they leave the intervention at ``site``, if there is one."""
        if site not in self._interventions:
            return given
        x, kept = given
        fn, ids = self._interventions[site]
        grid = self.grid if kept is None else (1, x.shape[1] - 1)
        changed = fn(SiteTokens(prefix=x[:, :1], patches=x[:, 1:], grid=grid, ids=ids, kept=kept))
        return torch.cat([changed.prefix, changed.patches], dim=1), changed.kept

    def _split(self, x: Tensor) -> BlockTokens:
        left = x.shape[1] - 1
        whole = left == self.grid[0] * self.grid[1]
        return BlockTokens(prefix=x[:, :1], patches=x[:, 1:], grid=self.grid if whole else (1, left))


def without(info: ModelInfo, missing: frozenset[Capability]) -> ModelInfo:
    """The card of a model that lacks ``missing``, and is otherwise the same."""
    capabilities = info.capabilities - missing
    changes: Mapping[str, object] = {}
    if Capability.LOGITS not in capabilities:
        changes = {"heads": (), "num_classes": None, "label_space": None}
    if Capability.CLASS_TOKEN not in capabilities:
        changes = {**changes, "prefix": tuple(name for name in info.prefix if name != "cls")}
    if Capability.POOLED not in capabilities:
        changes = {**changes, "pooled_dim": None}
    return replace(info, capabilities=capabilities, **changes)  # type: ignore[arg-type]  # names of its own fields
