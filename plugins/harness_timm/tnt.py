"""Plugin ``timm_tnt``: Transformer in Transformer (Han et al., NeurIPS 2021) with timm's weights."""

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
    """Offer ``tnt``."""
    yield timm_entry(
        "tnt",
        "Transformer in Transformer of timm",
        view=View(resize=248, crop=224, interpolation="bicubic"),
        capabilities=Capability,
        tags=("transformer",),
        params=PositionedTimmParams,
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.tnt import TNT, checkpoint_filter_fn

    from harness.backbones.tnt import TNTModel
    from harness_timm.build import Family, PositionEmbedding

    return Family(
        name="tnt",
        classes=(TNT,),
        wrap=TNTModel,
        sized=True,
        rename=checkpoint_filter_fn,
        unused=("outer_tokens",),
        positions=PositionEmbedding(parameter="patch_pos", patches="pixel_embed"),
    )
