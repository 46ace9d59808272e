"""Descriptor of the inspection of position embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import ProbeEntry
from harness.hookspecs import hookimpl
from harness.types import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``position_similarity``."""
    yield ProbeEntry(
        name="position_similarity",
        target="harness_inspect.position_similarity_probe:PositionSimilarityProbe",
        summary="cosine similarity of the position embeddings, and how closely it follows the distance of patches",
        needs=frozenset({Capability.INTERVENTION}),
        of_model=True,
        headline="position_locality",
        exhibit="harness_inspect.position_similarity_exhibit:exhibit",
    )
