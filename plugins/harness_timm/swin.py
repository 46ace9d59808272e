"""Plugin ``timm_swin``: Swin transformers (Liu et al., ICCV 2021) with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View
from harness_timm.entry import timm_entry

if TYPE_CHECKING:
    from harness_timm.build import Family


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``swin``."""
    yield timm_entry(
        "swin",
        "Swin transformer of timm, with attention in windows",
        view=View(resize=248, crop=224, interpolation="bicubic"),
        capabilities=frozenset(Capability) - {Capability.CLASS_TOKEN},
        tags=("transformer",),
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn

    from harness.backbones.swin import SwinModel
    from harness_timm.build import Family

    return Family(
        name="swin",
        classes=(SwinTransformer,),
        wrap=SwinModel,
        sized=True,
        rename=checkpoint_filter_fn,
        unused=("*relative_position_index", "*attn_mask"),
    )
