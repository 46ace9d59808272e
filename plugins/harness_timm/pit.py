"""Plugin ``timm_pit``: PiT (Heo et al., ICCV 2021) with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View
from harness_timm.entry import PositionedTimmParams, timm_entry

if TYPE_CHECKING:
    from harness_timm.build import Family


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``pit``."""
    yield timm_entry(
        "pit",
        "pooling-based vision transformer of timm, plain or distilled",
        view=View(resize=248, crop=224, interpolation="bicubic"),
        capabilities=Capability,
        tags=("transformer",),
        params=PositionedTimmParams,
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
