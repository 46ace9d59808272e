"""Plugin ``timm_vit``: plain Vision Transformers (Dosovitskiy et al., ICLR 2021) with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View
from harness_timm.entry import PositionedTimmParams, timm_entry


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``vit``."""
    yield timm_entry(
        "vit",
        "Vision Transformer of timm, hybrids with a ResNet stem among them",
        view=View(resize=248, crop=224, interpolation="bicubic"),
        capabilities=Capability,
        tags=("transformer",),
        params=PositionedTimmParams,
    )
