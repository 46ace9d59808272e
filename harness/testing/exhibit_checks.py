"""Checks of what a probe keeps to be shown, and of the pictures and tables that are made of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import safetensors.numpy

from harness.entries import ProbeEntry
from harness.exhibits import Exhibit, Finding
from harness.protocols import HasArrays, ProbeRun
from harness.targets import load_exhibit
from harness.testing.kit import CheckFunction, NotApplicableError, Subject, expect
from harness.testing.probe_run_checks import BATCH, TOLERANCE
from harness.testing.probe_trial import ProbeTrial, probe_trial, rows_of, run_over, split
from harness.types import Cell, DatasetRef, Measurement, ResolvedRef, ResultRecord, Seeds

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.exhibits import MakeExhibit


def check_arrays_mergeable(subject: Subject) -> None:
    """Arrays kept for pictures depend on no batching or order, come back from a saved state, and never grow."""
    trial = probe_trial(subject)
    fitted, query = trial.fit(), trial.query()
    whole = _arrays(run_over(fitted, [query]))
    stored = safetensors.numpy.load(safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in whole.items()}))
    _expect_equal(whole, stored, "read back from a file")
    parts = split(rows_of(query, range(len(query.batch))[::-1]), BATCH)
    merged = run_over(fitted, parts[1:])
    merged.merge(run_over(fitted, parts[:1]))
    _expect_equal(whole, _arrays(merged), "merged from batches in reverse order")
    parts = split(query, BATCH)
    half = run_over(fitted, parts[:1])
    resumed = fitted.start()
    resumed.load_state_dict(half.state_dict())
    for part in parts[1:]:
        resumed.update(part.batch, part.outputs, part.clean)
    _expect_equal(whole, _arrays(resumed), "resumed from a saved state")
    few = _arrays(run_over(fitted, [rows_of(query, range(len(query.batch) // 2))]))
    grown = [name for name, values in whole.items() if name not in few or few[name].nbytes != values.nbytes]
    expect(not grown, f"expected arrays of one size for any number of images, found {', '.join(grown)} to grow with it")


def check_exhibit_complete(subject: Subject) -> None:
    """The exhibit draws one finding or several, and its tables leave out none of their models and no value of a row."""
    entry, trial = _entry(subject), probe_trial(subject)
    make = cast("MakeExhibit", load_exhibit(entry))
    findings = _findings(trial)
    for given in (findings[:1], findings):
        made = make(given)
        expect(isinstance(made, Exhibit), f"expected an Exhibit, found {type(made).__name__}")
        expect(bool(made.pictures), f"of {len(given)} findings: expected a picture, found none")
        for name, table in made.tables.items():
            wrong = [row for row in table.rows if len(row) != len(table.header)]
            expect(not wrong, f"table {name!r}: expected {len(table.header)} values a row, found {wrong[:1]}")
        told = {str(value) for table in made.tables.values() for row in table.rows for value in row}
        lacking = sorted({finding.model for finding in given} - told)
        expect(not lacking, f"of {len(given)} findings: expected every model in a table, found no {', '.join(lacking)}")


def check_exhibit_private(subject: Subject) -> None:
    """Drawing changes neither what was found nor matplotlib's global state."""
    entry, trial = _entry(subject), probe_trial(subject)
    import matplotlib as mpl

    findings = _findings(trial)
    before = {name: values.copy() for name, values in findings[0].arrays.items()}
    settings, figures = dict(mpl.rcParams), _open_figures()
    cast("MakeExhibit", load_exhibit(entry))(findings)
    _expect_equal(before, findings[0].arrays, "after drawing")
    expect(dict(mpl.rcParams) == settings, "expected matplotlib's settings left alone, found them changed")
    expect(_open_figures() == figures, "expected figures of its own, found some left open in pyplot")


CHECKS: tuple[CheckFunction, ...] = (check_arrays_mergeable, check_exhibit_complete, check_exhibit_private)


def _entry(subject: Subject) -> ProbeEntry:
    assert isinstance(subject.entry, ProbeEntry)
    if subject.entry.exhibit is None:
        raise NotApplicableError("has no exhibit")
    return subject.entry


def _arrays(run: ProbeRun) -> Mapping[str, npt.NDArray[Any]]:
    if not isinstance(run, HasArrays):
        raise NotApplicableError("keeps no arrays")
    return run.arrays()


def _expect_equal(expected: Mapping[str, npt.NDArray[Any]], found: Mapping[str, npt.NDArray[Any]], what: str) -> None:
    expect(set(expected) == set(found), f"{what}: expected the arrays {sorted(expected)}, found {sorted(found)}")
    for name, values in expected.items():
        same = values.shape == found[name].shape and np.allclose(
            values.astype(np.float64), found[name].astype(np.float64), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
        )
        expect(same, f"{what}: expected the same values in array {name!r}, found others")


def _open_figures() -> list[int]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    return [] if pyplot is None else list(pyplot.get_fignums())


def _findings(trial: ProbeTrial) -> list[Finding]:
    """What the probe finds on the same images, as if of two models, clean and at two levels."""
    query = trial.query()
    run = run_over(trial.fit(), [query])
    outcomes, rows = run.outcomes(), tuple(run.result())
    arrays = dict(run.arrays()) if isinstance(run, HasArrays) else {}
    levels = (None,) if trial.probe.info.of_model else (None, 0.25, 0.5)
    return [
        Finding(
            record=_record(trial, model, level, rows),
            model=model,
            condition="none" if level is None else f"darken@{level:g}",
            level=level,
            arrays=arrays,
            outcomes=outcomes,
            ids=query.batch.ids[: len(outcomes.positions)],
        )
        for model in ("tiny", "tiny_other")
        for level in levels
    ]


def _record(trial: ProbeTrial, model: str, level: float | None, rows: tuple[Measurement, ...]) -> ResultRecord:
    info, probe = trial.model.info, trial.probe.info
    cell = Cell(
        model=ResolvedRef(kind="model", name=model, use=model),
        weights=info.weights,
        dataset=DatasetRef(
            ref=ResolvedRef(kind="dataset", name="sample", use="sample"),
            split="query",
            fingerprint="sample",
            label_space=trial.sample.label_space,
            num_classes=trial.sample.classes,
        ),
        view=info.view,
        perturbation=ResolvedRef(kind="perturbation", name="none" if level is None else "darken", use="darken"),
        level=level,
        probe=ResolvedRef(kind="probe", name=probe.name, use=probe.name, params=probe.params),
        seeds=Seeds(),
    )
    loss = [] if level is None else [_loss(level, len(trial.query_batch()))]
    return ResultRecord(key=cell.key, cell=cell.as_dict(), measurements=(*rows, *loss))


def _loss(level: float, images: int) -> Measurement:
    return Measurement(metric="information_loss", value=level, n=images, higher_is_better=None)
