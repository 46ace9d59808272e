"""Descriptor of the inspection of the cue that a classifier goes by: shape or texture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable

Aggregate = Literal["mean", "sum", "max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeBiasParams:
    """Parameters of ``shape_bias``."""

    head: str | None = param(
        None, help="which head of a model that has several (distilled: average, cls, dist); none reports each"
    )
    aggregate: Aggregate = param(
        "mean",
        help="what a category's probability is of those of its members, where the dataset's classes are groups of the "
        "head's; sum and max favour categories with many members",
    )


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``shape_bias``."""
    yield ProbeEntry(
        name="shape_bias",
        target="harness_inspect.shape_bias_probe:ShapeBiasProbe",
        summary="on images with the shape of one class and the texture of another, how often the shape is named",
        params=ShapeBiasParams,
        needs=frozenset({Capability.LOGITS}),
        needs_label_space=True,
        maps_labels=True,
        headline="shape_bias",
        exhibit="harness_inspect.shape_bias_exhibit:exhibit",
    )
