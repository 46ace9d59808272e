"""Plugin ``timm_dino``: Vision Transformers trained by self-distillation, DINO (Caron et al., 2021) and DINOv2."""

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


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``dino``."""
    yield timm_entry(
        "dino",
        "harness_timm.dino:build",
        "self-supervised Vision Transformer of timm without a head (DINO, DINOv2)",
        view=View(resize=248, crop=224, interpolation="bicubic"),
        capabilities=frozenset(Capability) - {Capability.LOGITS},
        tags=("transformer", "self-supervised"),
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
    """A headless Vision Transformer; parameters as of ``PositionedTimmParams``, errors as of ``build_network``."""
    from harness_timm.build import Positions, Source
    from harness_timm.transformer import build_transformer

    return build_transformer(
        Source(arch=arch, weights=weights, input=input, url=url, sha256=sha256),
        Positions(interpolation=posemb_interp, ablation=positions, seed=positions_seed),
        family="dino",
    )
