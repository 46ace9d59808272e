"""Plugin ``timm_deit``: DeiT, plain and distilled (Touvron et al., ICML 2021), and DeiT III with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability, View


@dataclass(frozen=True, slots=True, kw_only=True)
class DeiTParams:
    """Parameters of ``deit``."""

    arch: str = param(help="timm's full name, architecture.tag; *_distilled_* has the heads average, cls and dist")


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``deit``."""
    yield ModelEntry(
        name="deit",
        target="harness_timm.build:build_deit",
        summary="data-efficient image transformer of timm, plain or distilled, by architecture.tag",
        tags=("timm", "transformer"),
        params=DeiTParams,
        tag_param="arch",
        timm_weights=True,
        view=View(resize=248, crop=224, interpolation="bicubic"),
        label_space="imagenet1k",
        capabilities=frozenset(Capability),
    )
