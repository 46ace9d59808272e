"""Plugin ``timm_dino``: Vision Transformers trained by self-distillation, DINO (Caron et al., 2021) and DINOv2."""

from __future__ import annotations

from collections.abc import Iterable

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View
from harness_timm.entry import PositionedTimmParams, timm_entry


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``dino``."""
    yield timm_entry(
        "dino",
        "self-supervised Vision Transformer of timm without a head (DINO, DINOv2)",
        view=View(resize=248, crop=224, interpolation="bicubic"),
        capabilities=frozenset(Capability) - {Capability.LOGITS},
        tags=("transformer", "self-supervised"),
        params=PositionedTimmParams,
    )
