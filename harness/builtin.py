"""Descriptor of the core's own plugin: the clean pass, what a sweep retains of it, and the baseline of bare pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import ModelEntry, PerturbationEntry, SummaryEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``pixel_statistics``."""
    yield ModelEntry(
        name="pixel_statistics",
        target="harness.pixel_statistics:PixelStatistics",
        summary="colours and contrasts of the pixels as features, no network: what any backbone must beat",
        view=View(resize=256, crop=224),
        capabilities=frozenset({Capability.POOLED, Capability.GRADIENTS}),
        learned=False,
        tags=("baseline",),
    )


@hookimpl
def harness_register_perturbations() -> Iterable[PerturbationEntry]:
    """Offer ``none``."""
    yield PerturbationEntry(
        name="none",
        target="harness.clean:Clean",
        summary="the images as they are: the clean pass",
        aliases=("clean",),
    )


@hookimpl
def harness_register_summaries() -> Iterable[SummaryEntry]:
    """Offer ``retention``."""
    yield SummaryEntry(
        name="retention",
        target="harness.retention:Retention",
        summary="share of the clean accuracy that is retained at each level, the area under it, and where half is lost",
        consumes=("level", "seed"),
        version=2,
    )
