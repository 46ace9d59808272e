"""Plugin ``zoo_t2t``: T2T-ViT (Yuan et al., ICCV 2021), able to load the authors' checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.model_params import PositionedParams
from harness.params import param
from harness.types import Capability, View
from harness_zoo.entry import zoo_entry

if TYPE_CHECKING:
    from harness.backbones.positions import Ablation, Interpolation
    from harness.backbones.t2t import T2TModel, T2TViT
    from harness.backbones.t2t_tokens import TokenLayer
    from harness.weights import WeightsChoice
    from harness_zoo.build import Checkpoint

Arch: TypeAlias = Literal["t2t_7", "t2t_14", "t2t_19", "t2t_24"]

_SIDE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Width, blocks, heads and hidden width of the blocks' MLPs, as a multiple of the width."""

    width: int
    depth: int
    heads: int
    mlp_ratio: int


SIZES: dict[Arch, Sizes] = {
    "t2t_7": Sizes(width=256, depth=7, heads=4, mlp_ratio=2),
    "t2t_14": Sizes(width=384, depth=14, heads=6, mlp_ratio=3),
    "t2t_19": Sizes(width=448, depth=19, heads=7, mlp_ratio=3),
    "t2t_24": Sizes(width=512, depth=24, heads=8, mlp_ratio=3),
}
"""The paper's, Tables 1 and 2; the number is that of the blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class T2TParams(PositionedParams):
    """Parameters of ``t2t``."""

    arch: Arch = param("t2t_14", help="size, by the number of transformer blocks")
    tokens: Literal["performer", "transformer"] = param(
        "performer", help="attention of the tokens-to-token module; the authors call models with transformer T2T-ViT_t"
    )


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``t2t``."""
    yield zoo_entry(
        "t2t",
        "harness_zoo.t2t:build",
        "T2T-ViT 7 to 24: tokens by soft splits and attention, then a transformer",
        view=_view(_SIDE),
        capabilities=Capability,
        tags=("transformer",),
        params=T2TParams,
    )


def build(
    *,
    weights: WeightsChoice,
    arch: Arch = "t2t_14",
    tokens: TokenLayer = "performer",
    input: int = 0,
    url: str | None = None,
    sha256: str | None = None,
    posemb_interp: Interpolation = "bicubic",
    positions: Ablation = "none",
    positions_seed: int = 0,
) -> T2TModel:
    """A T2T-ViT; parameters as of ``T2TParams``.

    Raises :class:`~harness.errors.ParameterError` for an input that is no multiple of 16 px, and ``WeightsError`` for
    weights that cannot be had or do not fit.
    """
    import torch

    from harness.backbones.positions import ablate_positions
    from harness.backbones.t2t import T2TModel, T2TViT
    from harness_zoo.build import CLASSES, Source, card, checkpoint, load

    source = Source(entry="t2t", weights=weights, input=input, url=url, sha256=sha256)
    given, sizes, side = checkpoint(source), SIZES[arch], input or _SIDE
    net = T2TViT(
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        mlp_ratio=sizes.mlp_ratio,
        num_classes=CLASSES,
        tokens=tokens,
        side=side,
        seed=weights.seed,
    )
    if input:
        given = _resampled(given, net, posemb_interp)
    initial = load(net, given, source)
    with torch.no_grad():
        net.pos_embed.copy_(ablate_positions(net.pos_embed.detach(), 1, positions, seed=positions_seed))
    name = arch if tokens == "performer" else f"{arch}_{tokens}"
    return T2TModel(net, card(name, source, given, _view(side), initial=initial))


def _resampled(given: Checkpoint | None, net: T2TViT, how: Interpolation) -> Checkpoint | None:
    """The weights with position embeddings for the grid of ``net``, where they are for another."""
    from harness.backbones.positions import resample_positions

    if given is None or "pos_embed" not in given.state or given.state["pos_embed"].shape == net.pos_embed.shape:
        return given
    resampled = resample_positions(given.state["pos_embed"], 1, net.grid, how)
    return replace(given, state={**given.state, "pos_embed": resampled})


def _view(side: int) -> View:
    """The authors' evaluation: bicubic, the crop nine tenths of the shorter side."""
    return View(resize=math.floor(side / 0.9), crop=side, interpolation="bicubic")
