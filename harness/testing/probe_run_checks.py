"""Checks of a probe's runs: counters that batch, merge and resume without a trace, and honest numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch

from harness.entries import ProbeEntry
from harness.protocols import Outcomes
from harness.testing.kit import CheckFunction, NotApplicableError, Subject, expect
from harness.testing.observe import copy_of, differing_fields, measurements_differ, tensors_of
from harness.testing.probe_trial import expect_equal_outcomes, probe_trial, rows_of, run_over, split

BATCH = 16
TOLERANCE = 1e-6
"""Between batchings: a matrix product over other rows may round its last bits otherwise."""


def check_starts_independent(subject: Subject) -> None:
    """Every start gives fresh counters, whatever other runs of the same fitted probe have seen."""
    trial = probe_trial(subject)
    fitted, query = trial.fit(), trial.query()
    early, used = fitted.start(), fitted.start()
    used.update(query.batch, query.outputs, query.clean)
    expected = used.result()
    for name, run in (("started before another run was used", early), ("started after it", fitted.start())):
        run.update(query.batch, query.outputs, query.clean)
        difference = measurements_differ(expected, run.result(), tolerance=0.0)
        expect(difference is None, f"a run {name}: {difference}")
        expect_equal_outcomes(used.outcomes(), run.outcomes(), tolerance=0.0, what=f"a run {name}")


def check_merge_equals_one_stream(subject: Subject) -> None:
    """Two runs merged, in either direction, equal one run that saw everything."""
    trial = probe_trial(subject)
    fitted, parts = trial.fit(), split(trial.query(), BATCH)
    whole = run_over(fitted, parts)
    for name, first, second in (
        ("first into second", parts[1:], parts[:1]),
        ("second into first", parts[:1], parts[1:]),
    ):
        merged = run_over(fitted, first)
        merged.merge(run_over(fitted, second))
        difference = measurements_differ(whole.result(), merged.result(), tolerance=0.0)
        expect(difference is None, f"{name}: {difference}")
        expect_equal_outcomes(whole.outcomes(), merged.outcomes(), tolerance=0.0, what=name)


def check_batching_irrelevant(subject: Subject) -> None:
    """Batch size and order of the images do not matter to the result."""
    trial = probe_trial(subject)
    fitted, query = trial.fit(), trial.query()
    whole = run_over(fitted, [query])
    backwards = rows_of(query, range(len(query.batch))[::-1])
    for name, parts in (
        (f"batches of {BATCH}", split(query, BATCH)),
        ("batches of 1", split(query, 1)),
        ("the order reversed", split(backwards, BATCH)),
    ):
        run = run_over(fitted, parts)
        difference = measurements_differ(whole.result(), run.result(), tolerance=TOLERANCE)
        expect(difference is None, f"{name}: {difference}")
        expect_equal_outcomes(whole.outcomes(), run.outcomes(), tolerance=TOLERANCE, what=name)


def check_state_round_trip(subject: Subject) -> None:
    """A run saved half-way as safetensors, and loaded into a fresh one, goes on to the same end."""
    trial = probe_trial(subject)
    fitted, parts = trial.fit(), split(trial.query(), BATCH)
    whole = run_over(fitted, parts)
    half = run_over(fitted, parts[:1])
    state = half.state_dict()
    read = safetensors.numpy.load(safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in state.items()}))
    for name, array in state.items():
        found = f"{read[name].shape} {read[name].dtype}"
        expect(
            read[name].dtype == array.dtype and read[name].shape == array.shape,
            f"state {name}: expected {array.shape} {array.dtype} from the file, found {found}",
        )
    resumed = fitted.start()
    resumed.load_state_dict(read)
    half.update(parts[1].batch, parts[1].outputs, parts[1].clean)
    for part in parts[1:]:
        resumed.update(part.batch, part.outputs, part.clean)
    difference = measurements_differ(whole.result(), resumed.result(), tolerance=0.0)
    expect(difference is None, f"resumed: {difference}")
    expect_equal_outcomes(whole.outcomes(), resumed.outcomes(), tolerance=0.0, what="resumed")
    kept = {name: np.array_equal(array, read[name], equal_nan=array.dtype.kind == "f") for name, array in state.items()}
    changed = [name for name, same in kept.items() if not same]
    expect(not changed, f"expected a saved state that later batches leave alone, found {', '.join(changed)} changed")


def check_empty_state_loads(subject: Subject) -> None:
    """The state of a run that has seen nothing can be saved and loaded."""
    trial = probe_trial(subject)
    fitted, query = trial.fit(), trial.query()
    state = fitted.start().state_dict()
    run = fitted.start()
    run.load_state_dict(safetensors.numpy.load(safetensors.numpy.save(state)))
    run.update(query.batch, query.outputs, query.clean)
    difference = measurements_differ(run_over(fitted, [query]).result(), run.result(), tolerance=0.0)
    expect(difference is None, f"after loading an empty state: {difference}")


def check_inputs_untouched(subject: Subject) -> None:
    """Updating changes neither the batch nor the outputs, which other probes share."""
    trial = probe_trial(subject)
    fitted, query = trial.fit(), trial.query()
    batch = copy_of(query.batch)
    given = {"outputs": query.outputs, **({} if query.clean is None else {"clean outputs": query.clean})}
    before = {name: {k: v.clone() for k, v in tensors_of(outputs).items()} for name, outputs in given.items()}
    run_over(fitted, [query]).result()
    wrong = differing_fields(batch, query.batch)
    expect(not wrong, f"expected the batch left alone, found its {', '.join(wrong)} changed")
    for name, outputs in given.items():
        for part, tensor in tensors_of(outputs).items():
            expect(torch.equal(tensor, before[name][part]), f"expected the {name} left alone, found {part} changed")


def check_labels_do_not_leak(subject: Subject) -> None:
    """Predictions do not depend on the labels of the images asked about, in a batch or told to ``fit``."""
    trial = probe_trial(subject)
    fitted, query = trial.fit(), trial.query()
    outcomes = run_over(fitted, [query]).outcomes()
    if "prediction" not in outcomes.columns:
        raise NotApplicableError("predicts no classes")
    shifted = (query.batch.labels + 1) % subject.sample.classes
    other = run_over(fitted, [replace(query, batch=replace(query.batch, labels=shifted))]).outcomes()
    changed = int((outcomes.columns["prediction"] != other.columns["prediction"]).sum())
    expect(changed == 0, f"expected the same predictions with other query labels, found {changed} changed")
    told = probe_trial(subject)
    table = told.table(told.select()) if told.takes_features else None
    other = run_over(told.probe.fit(table, replace(told.context(), query_labels=shifted.numpy())), [query]).outcomes()
    changed = int((outcomes.columns["prediction"] != other.columns["prediction"]).sum())
    expect(
        changed == 0, f"fitted while told other query labels: expected the same predictions, found {changed} changed"
    )


def check_measurements_honest(subject: Subject) -> None:
    """Values are finite and inside their intervals, fractions lie in [0, 1], n counts something, no row comes twice."""
    trial = probe_trial(subject)
    measurements = run_over(trial.fit(), [trial.query()]).result()
    entry = subject.entry
    assert isinstance(entry, ProbeEntry)
    metrics = [m.metric for m in measurements]
    expect(entry.headline in metrics, f"expected the headline metric {entry.headline!r}, found {_words(metrics)}")
    rows: set[tuple[str, tuple[tuple[str, Any], ...]]] = set()
    for m in measurements:
        label = f"{m.metric}{dict(m.dims) or ''}"
        row = (m.metric, tuple(sorted(m.dims.items())))
        expect(row not in rows, f"{label}: expected metric and dims to be unique, found them twice")
        rows.add(row)
        expect(math.isfinite(m.value), f"{label}: expected a finite value, found {m.value}")
        expect(m.n > 0, f"{label}: expected n > 0, found {m.n}")
        if m.unit == "fraction" and m.higher_is_better is not None:
            expect(0 <= m.value <= 1, f"{label}: expected a fraction in [0, 1], found {m.value:.6g}")
        expect((m.low is None) == (m.high is None), f"{label}: expected both ends of an interval or none, found one")
        if m.low is not None and m.high is not None:
            slack = 1e-12
            held = m.low - slack <= m.value <= m.high + slack
            expect(held, f"{label}: expected low <= value <= high, found {m.low:.6g}, {m.value:.6g}, {m.high:.6g}")
            expect(bool(m.interval), f"{label}: expected the interval to be named, found {m.interval!r}")


def check_outcomes_well_formed(subject: Subject) -> None:
    """Outcomes hold one row per image, sorted by position, in arrays (V, N) of the promised types."""
    trial = probe_trial(subject)
    if trial.probe.info.of_model:
        raise NotApplicableError("measures the model itself")
    query = trial.query()
    outcomes = run_over(trial.fit(), [rows_of(query, range(len(query.batch))[::-1])]).outcomes()
    positions = outcomes.positions
    expect(positions.dtype == np.int64, f"expected int64 positions, found {positions.dtype}")
    expect(
        np.array_equal(positions, np.sort(query.batch.positions)),
        f"expected the {len(query.batch)} positions seen, each once and rising, found {_listed(positions)}",
    )
    variants = outcomes.variants
    distinct = all(variant not in variants[:i] for i, variant in enumerate(variants))
    expect(bool(variants) and distinct, f"expected variants that differ, found {variants}")
    shape = (len(variants), len(positions))
    expect(bool(outcomes.columns), "expected outcomes of every image, found no columns")
    for name, column in outcomes.columns.items():
        expect(column.shape == shape, f"{name}: expected shape {shape}, found {column.shape}")
        expect(
            name not in _PROMISED or column.dtype == _PROMISED[name],
            f"{name}: expected {_PROMISED.get(name)}, found {column.dtype}",
        )

    if outcomes.episodes is not None:
        found = f"{outcomes.episodes.shape} {outcomes.episodes.dtype}"
        held = outcomes.episodes.ndim == 2 and len(outcomes.episodes) == len(variants)
        expect(held and outcomes.episodes.dtype == np.float64, f"episodes: expected (V, E) float64, found {found}")
        asked = outcomes.episodes[~np.isnan(outcomes.episodes)]
        expect(bool(((asked >= 0) & (asked <= 1)).all()), "episodes: expected accuracies in [0, 1], found others")


_PROMISED: Mapping[str, npt.DTypeLike] = {"prediction": np.int32, "correct": np.bool_}


def check_correct_means_correct(subject: Subject) -> None:
    """Where a probe predicts classes, an image counts as correct exactly if its prediction is its label."""
    trial = probe_trial(subject)
    query = trial.query()
    outcomes: Outcomes = run_over(trial.fit(), [query]).outcomes()
    if not {"prediction", "correct"} <= set(outcomes.columns):
        raise NotApplicableError("predicts no classes")
    labels = dict(zip(query.batch.positions.tolist(), query.batch.labels.tolist(), strict=True))
    truth = np.array([labels[position] for position in outcomes.positions.tolist()])
    wrong = int(((outcomes.columns["prediction"] == truth) != outcomes.columns["correct"]).sum())
    expect(wrong == 0, f"expected correct to be prediction == label, found {wrong} entries where it is not")


CHECKS: tuple[CheckFunction, ...] = (
    check_starts_independent,
    check_merge_equals_one_stream,
    check_batching_irrelevant,
    check_state_round_trip,
    check_empty_state_loads,
    check_inputs_untouched,
    check_labels_do_not_leak,
    check_measurements_honest,
    check_outcomes_well_formed,
    check_correct_means_correct,
)


def _words(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "nothing"


def _listed(positions: npt.NDArray[np.int64]) -> str:
    shown = ", ".join(map(str, positions[:6].tolist()))
    return f"{len(positions)}: {shown}{', ...' if len(positions) > 6 else ''}"
