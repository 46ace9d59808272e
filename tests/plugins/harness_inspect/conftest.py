"""Findings of a probe on the kit's small transformer, for its pictures."""

from __future__ import annotations

import pytest

from harness.entries import ProbeEntry
from harness.exhibits import Finding
from harness.protocols import HasArrays
from harness.testing import SampleOptions, Subject
from harness.testing.probe_trial import probe_trial, run_over
from harness.types import ResultRecord

SAMPLE = SampleOptions(classes=6, support_per_class=6)


@pytest.fixture
def finding_of():
    """``finding_of(probe, model=..., condition=..., level=...)``: what the probe finds on generated images."""

    def make(probe, *, model="tiny", condition="none", level=None) -> Finding:
        entry = ProbeEntry(name=probe.info.name, target="none:none", summary="a probe")
        trial = probe_trial(Subject(entry=entry, make=lambda: probe, sample=SAMPLE))
        query = trial.query()
        run = run_over(trial.fit(), [query])
        outcomes = run.outcomes()
        cell = {"model": model, "perturbation": condition.partition("@")[0], "level": level}
        return Finding(
            record=ResultRecord(key=f"{model}{condition}", cell=cell, measurements=tuple(run.result())),
            model=model,
            condition=condition,
            level=level,
            arrays=run.arrays() if isinstance(run, HasArrays) else {},
            outcomes=outcomes,
            ids=query.batch.ids[: len(outcomes.positions)],
        )

    return make
