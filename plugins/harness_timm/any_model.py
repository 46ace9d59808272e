"""Plugin ``timm``: any model of timm as ``timm:architecture.tag``, whether or not its family has its own entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View
from harness_timm.entry import PositionedTimmParams, timm_entry

if TYPE_CHECKING:
    from harness.backbones.network import NetworkModel
    from harness.backbones.positions import Ablation, Interpolation
    from harness.weights import WeightsChoice


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``timm:any``, which takes every other name behind ``timm:`` as its ``arch``."""
    entry = timm_entry(
        "any",
        "any model of timm: timm:ARCH.TAG",
        view=View(resize=256, crop=224, interpolation="bicubic"),
        capabilities={Capability.LOGITS, Capability.POOLED, Capability.GRADIENTS},
        tags=(),
        target="harness_timm.any_model:build",
        params=PositionedTimmParams,
    )
    yield replace(entry, qualified=True, names_tags=True)


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
    """The wrapper of its family where there is one, else what any network of timm can give.

    Parameters as of ``PositionedTimmParams``, errors as of ``build_positioned``.
    """
    from harness_timm.builders import build_positioned
    from harness_timm.families import family_of

    return build_positioned(
        lambda: family_of(arch),
        arch=arch,
        weights=weights,
        input=input,
        url=url,
        sha256=sha256,
        posemb_interp=posemb_interp,
        positions=positions,
        positions_seed=positions_seed,
    )
