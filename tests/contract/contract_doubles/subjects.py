"""Subjects made of reference entries and of their doubles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.entries import Entry, ModelEntry
from harness.params import canonical
from harness.targets import load_target
from harness.testing import SampleOptions, Subject
from harness.weights import WeightsChoice

SAMPLE = SampleOptions(side_px=32, classes=6, support_per_class=4)
LIGHT = "contract_doubles.light_plugin"


def subject(entry: Entry, *, plugin: str | None = LIGHT) -> Subject:
    """A component of ``entry`` with its default parameters, on images of 32 pixels."""
    params = canonical(entry.params())
    weights: dict[str, Any] = {"weights": WeightsChoice(origin="random")} if isinstance(entry, ModelEntry) else {}
    return Subject(
        entry=entry,
        make=lambda: load_target(entry)(**params, **weights),
        params=params,
        plugin=plugin,
        sample=SAMPLE,
    )


def doubles_of(entry: Entry, *classes: type) -> dict[str, Subject]:
    """For each class the subject whose entry is ``entry`` in all but the target."""
    return {cls.__name__: subject(replace(entry, target=f"{cls.__module__}:{cls.__name__}")) for cls in classes}
