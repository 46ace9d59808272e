"""Descriptors of the native attacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import PerturbationEntry, SummaryEntry
from harness.hookspecs import hookimpl
from harness.protocols import INFORMATION_LOSS
from harness_attacks.masking_parameters import MaskingParams
from harness_attacks.parameters import (
    EPS_255,
    PATCH_AREA,
    GradientParams,
    MIFGSMParams,
    PatchParams,
    PGDParams,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.types import LevelSpec


@hookimpl
def harness_register_perturbations() -> Iterable[PerturbationEntry]:
    """Offer FGSM, PGD, MI-FGSM and the adversarial patch."""
    yield _attack(
        "fgsm", "fgsm:FGSM", GradientParams, "one step along the sign of the gradient (Goodfellow et al. 2015)"
    )
    yield _attack(
        "pgd",
        "pgd:PGD",
        PGDParams,
        "projected gradient steps within an l-inf or l2 ball (Madry et al. 2018)",
        stochastic=True,
    )
    yield _attack("mifgsm", "mifgsm:MIFGSM", MIFGSMParams, "gradient steps with momentum (Dong et al. 2018)")
    yield _attack(
        "adversarial_patch",
        "patch:AdversarialPatch",
        PatchParams,
        "one patch for all images, trained on support images (Brown et al. 2017)",
        level=PATCH_AREA,
        stochastic=True,
        loss=INFORMATION_LOSS,
    )


@hookimpl
def harness_register_summaries() -> Iterable[SummaryEntry]:
    """Offer ``gradient_masking``."""
    yield SummaryEntry(
        name="gradient_masking",
        target="harness_attacks.masking:GradientMasking",
        summary="signs that gradients misled the attacks on a model, such as PGD that is weaker than FGSM",
        params=MaskingParams,
        consumes=("perturbation", "level", "seed"),
        requires_clean=False,
        min_cells=1,
    )


def _attack(
    name: str,
    target: str,
    params: type,
    summary: str,
    *,
    level: LevelSpec = EPS_255,
    stochastic: bool = False,
    loss: str | None = None,
) -> PerturbationEntry:
    return PerturbationEntry(
        name=name,
        target=f"harness_attacks.{target}",
        summary=summary,
        params=params,
        level=level,
        stochastic=stochastic,
        needs_target=True,
        loss=loss,
        target_param="attack_target",
        source_param="source",
        model_params=("source",),
        tags=("attack",),
    )
