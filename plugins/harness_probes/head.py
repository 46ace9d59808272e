"""Descriptor of the probe that reads the model's own classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import ProbeEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadParams:
    """Parameters of ``head``."""

    head: str | None = param(
        None, help="which head of a model that has several (distilled: average, cls, dist); none reports each"
    )
    bins: int = param(15, help="bins of the calibration errors, over the confidence", unit="bins", low=1, high=1000)


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``head``."""
    yield ProbeEntry(
        name="head",
        aliases=("top1",),
        target="harness_probes.head_probe:HeadProbe",
        summary="accuracy, likelihood and calibration of the model's own classifier",
        version=2,
        params=HeadParams,
        needs=frozenset({Capability.LOGITS}),
        needs_label_space=True,
        maps_labels=True,
        headline="top1",
    )
