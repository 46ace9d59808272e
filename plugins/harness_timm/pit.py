"""Plugin ``timm_pit``: PiT (Heo et al., ICCV 2021) with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View
from harness_timm.entry import PositionedTimmParams, timm_entry

if TYPE_CHECKING:
    from harness.backbones.network import NetworkModel
    from harness.backbones.positions import Ablation, Interpolation
    from harness.weights import WeightsChoice
    from harness_timm.build import Family


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``pit``."""
    yield timm_entry(
        "pit",
        "harness_timm.pit:build",
        "pooling-based vision transformer of timm, plain or distilled",
        view=View(resize=248, crop=224, interpolation="bicubic"),
        capabilities=Capability,
        tags=("transformer",),
        params=PositionedTimmParams,
    )


def build(
    *,
    arch: str,
    weights: WeightsChoice,
    input: int = 0,
    url: str | None = None,
    sha256: str | None = None,
    posemb_interp: Interpolation = "bicubic",
    positions: Ablation = "none",
    positions_seed: int = 0,
) -> NetworkModel:
    """A PiT, plain or distilled; parameters as of ``PositionedTimmParams``, errors as of ``build_network``."""
    from harness_timm.build import Positions, Source, build_network

    source = Source(arch=arch, weights=weights, input=input, url=url, sha256=sha256)
    return build_network(
        source, family, positions=Positions(interpolation=posemb_interp, ablation=positions, seed=positions_seed)
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.pit import PoolingVisionTransformer, checkpoint_filter_fn

    from harness.backbones.pit import PiTModel
    from harness_timm.build import Family, PositionEmbedding

    return Family(
        name="pit",
        classes=(PoolingVisionTransformer,),
        wrap=PiTModel,
        sized=True,
        rename=checkpoint_filter_fn,
        positions=PositionEmbedding(),
    )
