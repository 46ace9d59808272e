"""Plugin ``timm_vit``: plain Vision Transformers (Dosovitskiy et al., ICLR 2021) with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTParams:
    """Parameters of ``vit``."""

    arch: str = param(help="timm's full name, architecture.tag: it fixes the weights, their view and normalisation")


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``vit``."""
    yield ModelEntry(
        name="vit",
        target="harness_timm.build:build_vit",
        summary="Vision Transformer of timm, by architecture.tag",
        tags=("timm", "transformer"),
        params=ViTParams,
        tag_param="arch",
        timm_weights=True,
        view=View(resize=248, crop=224, interpolation="bicubic"),
        label_space="imagenet1k",
        capabilities=frozenset(Capability),
    )
