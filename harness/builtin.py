"""Descriptor of the core's own plugin: the clean pass, and what a sweep over levels retains of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import PerturbationEntry, SummaryEntry
from harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable


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
