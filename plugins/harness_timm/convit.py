"""Plugin ``timm_convit``: ConViT (d'Ascoli et al., ICML 2021) with timm's weights."""

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
    """Offer ``convit``."""
    yield timm_entry(
        "convit",
        "ConViT of timm, with gated positional self-attention",
        view=View(resize=256, crop=224, interpolation="bicubic"),
        capabilities=frozenset(Capability) - {Capability.CLASS_TOKEN},
        tags=("transformer",),
        params=PositionedTimmParams,
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.convit import ConVit

    from harness.backbones.convit import ConViTModel
    from harness_timm.build import Family, PositionEmbedding

    return Family(
        name="convit",
        classes=(ConVit,),
        wrap=ConViTModel,
        sized=True,
        # The gated blocks know where patches lie relative to each other.
        positions=PositionEmbedding(alone=False),
    )
