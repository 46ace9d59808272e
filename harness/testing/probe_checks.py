"""Checks of probes: what they need, which support images they choose, and what fitting may depend on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.entries import ProbeEntry
from harness.errors import CapabilityError
from harness.label_maps import IMAGENET, find_label_map, mapped_from
from harness.params import coerce
from harness.protocols import ProbeContext, ProbeRun
from harness.targets import load_target
from harness.testing.kit import CheckFunction, ContractViolation, NotApplicableError, Subject, expect
from harness.testing.observe import global_randomness_untouched, largest, measurements_differ
from harness.testing.probe_trial import expect_equal_outcomes, probe_trial, run_over, split
from harness.testing.sample import without
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability, Measurement, ModelOutputs, OutputSpec

RELABELLING_TOLERANCE = 0.1
"""How far a fraction may move when classes are renamed: supports may be drawn by class, solvers may stop early."""


def check_needs_refused(subject: Subject) -> None:
    """A model that lacks something the entry says the probe needs raises CapabilityError, before any forward pass."""
    trial = probe_trial(subject)
    needs = _needs(subject)
    if not needs:
        raise NotApplicableError("needs nothing of a model")
    for capability in sorted(needs):
        card = without(trial.model.info, frozenset({capability}))
        try:
            trial.probe.wants(card)
            trial.probe.features(card)
        except CapabilityError:
            continue
        raise ContractViolation(f"expected CapabilityError for a model without {capability}, but nothing was raised")


def check_needs_complete(subject: Subject) -> None:
    """The probe asks nothing of a model beyond what the entry says it needs."""
    trial = probe_trial(subject)
    needs = _needs(subject)
    card = without(trial.model.info, frozenset(Capability) - needs)
    try:
        want = trial.probe.wants(card)
        spec = trial.probe.features(card)
    except CapabilityError as error:
        raise ContractViolation(f"a model with {_words(needs)} alone was refused: {error.message}") from error
    if spec is not None:
        want |= spec.outputs(card.num_blocks)
    asked = {
        Capability.LOGITS: want.logits,
        Capability.POOLED: want.pooled,
        Capability.TOKENS: bool(want.tokens or want.normed_tokens),
        Capability.ATTENTION: bool(want.attention),
    }
    beyond = {capability for capability, there in asked.items() if there} - needs
    expect(not beyond, f"expected to be asked for {_words(needs)} alone, found {_words(beyond)} asked for too")
    asks = want != OutputSpec() or trial.probe.info.of_model
    expect(asks, "expected the probe to ask something of the model, found that it asks nothing")


def check_support_selection(subject: Subject) -> None:
    """Support positions lie in the split, are unique, and follow from labels and seed alone."""
    trial = probe_trial(subject)
    if not trial.takes_features:
        raise NotApplicableError("is fitted on no images")
    labels = trial.query_batch().labels.numpy() if trial.probe.info.reference else trial.support_labels()
    given = labels.copy()
    selected = trial.probe.select_support(labels, 0)
    expect(np.array_equal(labels, given), "expected the labels left alone, found them changed in place")
    found = f"{selected.shape} {selected.dtype}"
    expect(selected.ndim == 1 and selected.dtype == np.int64, f"expected (K,) int64 positions, found {found}")
    expect(len(selected) > 0, "expected support positions, found none")
    low, high = int(selected.min()), int(selected.max())
    expect(low >= 0 and high < len(labels), f"expected positions in [0, {len(labels)}), found {low} to {high}")
    double = len(selected) - len(np.unique(selected))
    expect(double == 0, f"expected every position once, found {double} repeated")
    again = probe_trial(subject).select()
    expect(np.array_equal(selected, again), "expected the same positions for the same labels and seed, found others")


def check_token_ensembles_read(subject: Subject) -> None:
    """A probe with a parameter for token ensembles reads the vector of the ensemble it is given, and works with it."""
    entry = _entry(subject)
    if entry.features_param is None:
        raise NotApplicableError("its entry names no parameter for token ensembles")
    for text in _ENSEMBLES:
        arguments: Any = coerce(entry.params, {**subject.params, entry.features_param: text}, entry.name)
        given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(arguments)}
        trial = probe_trial(dataclasses.replace(subject, make=functools.partial(load_target(entry), **given)))
        expected = TokenEnsemble.parse(text).spec(trial.model.info)
        found = trial.probe.features(trial.model.info)
        if trial.takes_features:
            expect(
                found == expected, f"{entry.features_param}={text}: expected to be fitted on {expected}, found {found}"
            )
        want = trial.probe.wants(trial.model.info)
        needed = expected.outputs(trial.model.info.num_blocks)
        expect(want | needed == want, f"{entry.features_param}={text}: expected to be asked for {needed}, found {want}")
        measurements = run_over(trial.fit(), [trial.query()]).result()
        expect(bool(measurements), f"{entry.features_param}={text}: expected numbers, found none")


_ENSEMBLES = ("last", "patches/all")


def check_label_map_applied(subject: Subject) -> None:
    """A probe that says it maps labels scores ImageNet logits as the named map into another label space does."""
    entry = _entry(subject)
    if not entry.maps_labels:
        raise NotApplicableError("does not say that it maps labels")
    for target in mapped_from(IMAGENET):
        label_map = find_label_map(IMAGENET, target)
        assert label_map is not None
        trial = probe_trial(subject)
        model = dataclasses.replace(trial.model.info, label_space=IMAGENET, num_classes=label_map.source_classes)
        classes = tuple(f"class {c}" for c in range(label_map.num_classes(model.num_classes) or 0))
        context = ProbeContext(model=model, classes=classes, label_space=target, seed=0)
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(4, label_map.source_classes or 0, generator=generator)
        scores = trial.probe.fit(None, context).scores(ModelOutputs(logits=dict.fromkeys(model.heads, logits)))
        if scores is None:
            raise NotApplicableError("gives no scores")
        shape = (len(logits), len(classes))
        expect(tuple(scores.shape) == shape, f"{target}: expected scores of shape {shape}, found {tuple(scores.shape)}")
        distance = largest((scores - label_map.apply(logits)).abs())
        expect(distance < _MAPPED, f"{target}: expected the scores of its map, found some off by {distance:.3g}")


_MAPPED = 1e-4


def check_fit_repeatable(subject: Subject) -> None:
    """Fitting a fresh probe again on the same support gives the same numbers."""
    trial = probe_trial(subject)
    query = [trial.query()]
    _expect_same_run(run_over(trial.fit(), query), run_over(probe_trial(subject).fit(), query), "fitted a second time")


def check_support_untouched(subject: Subject) -> None:
    """Fitting does not change the support features, which other probes share."""
    trial = probe_trial(subject)
    if not trial.takes_features:
        raise NotApplicableError("is fitted on no images")
    table = trial.table(trial.select())
    assert table is not None
    x, y = table.x.copy(), table.y.copy()
    trial.probe.fit(table, trial.context())
    distance = float(np.abs(table.x - x).max())
    expect(distance == 0, f"expected the support features left alone, found them changed by up to {distance:.3g}")
    expect(np.array_equal(table.y, y), "expected the support labels left alone, found them changed")


def check_seed_matters_as_declared(subject: Subject) -> None:
    """A probe whose entry does not call it stochastic gives the same numbers for every seed."""
    if _entry(subject).stochastic:
        raise NotApplicableError("declared stochastic")
    trial = probe_trial(subject)
    query = [trial.query()]
    other = run_over(probe_trial(subject).fit(1), query)
    _expect_same_run(run_over(trial.fit(0), query), other, "not declared stochastic; with seed 1 instead of 0")


def check_classes_interchangeable(subject: Subject) -> None:
    """Renaming the classes, for support and query alike, changes nothing in what a learning probe finds."""
    trial = probe_trial(subject)
    if not trial.probe.info.learns:
        raise NotApplicableError("learns nothing")
    relabel = np.random.default_rng(7).permutation(subject.sample.classes)
    plain_run = run_over(trial.fit(), [trial.query()])
    other = probe_trial(subject, relabel=relabel)
    renamed_run = run_over(other.fit(), [other.query()])
    plain, renamed = _fractions(plain_run.result()), _fractions(renamed_run.result())
    for key, value in plain.items():
        found = renamed.get(key, float("nan"))
        # Written so that NaN does not pass.
        expect(
            abs(found - value) <= RELABELLING_TOLERANCE,
            f"{key}: expected about {value:.3f} whatever the classes are called, found {found:.3f}",
        )
    columns, other_columns = plain_run.outcomes().columns, renamed_run.outcomes().columns
    if "prediction" in columns:
        moved = float((relabel[columns["prediction"]] != other_columns["prediction"]).mean())
        expect(
            moved <= RELABELLING_TOLERANCE,
            f"expected the same predictions under their new names, found {moved:.0%} of them to be of another class",
        )


def check_reference_without_labels(subject: Subject) -> None:
    """A probe that takes a reference chooses it without regard to labels, and finds the same whatever they are."""
    trial = probe_trial(subject)
    if not trial.probe.info.reference:
        raise NotApplicableError("takes no reference")
    labels = trial.query_batch().labels.numpy()
    chosen = trial.probe.select_support(labels, 0)
    other = trial.probe.select_support(labels[::-1].copy(), 0)
    expect(np.array_equal(chosen, other), "expected the same images as reference for other labels, found others")
    query, table = [trial.query()], trial.table(chosen)
    assert table is not None
    expected = run_over(trial.probe.fit(table, trial.context()), query)
    shifted = dataclasses.replace(table, y=(table.y + 1) % subject.sample.classes)
    found = run_over(trial.probe.fit(shifted, trial.context()), query)
    _expect_same_run(expected, found, "with other labels in the reference")


def check_scores_differentiable(subject: Subject) -> None:
    """Scores, where a fitted probe gives them, are (N, C) and differentiable in the images."""
    trial = probe_trial(subject)
    fitted, batch = trial.fit(), split(trial.query(), 3)[0].batch
    want = trial.probe.wants(trial.model.info)
    spec = trial.probe.features(trial.model.info)
    if spec is not None:
        want |= spec.outputs(trial.model.info.num_blocks)
    images = batch.images.clone().requires_grad_()
    with torch.enable_grad():
        scores = fitted.scores(trial.model.outputs(images, want))
    if scores is None:
        raise NotApplicableError("gives no scores")
    shape = (len(batch), subject.sample.classes)
    expect(tuple(scores.shape) == shape, f"expected scores of shape {shape}, found {tuple(scores.shape)}")
    expect(scores.requires_grad, "expected scores that carry a graph back to the images, found none")
    # Scores may sum to a constant over the classes, hence one class alone.
    (gradient,) = torch.autograd.grad(scores[:, 0].sum(), images)
    size = largest(gradient)
    expect(0 < size < float("inf"), f"expected a finite gradient of the scores in the images, found {size:.3g}")


def check_global_randomness_untouched(subject: Subject) -> None:
    """Building, fitting and running leave the global random state alone."""
    steps: dict[str, Callable[[], object]] = {
        "building": subject.make,
        "select_support": lambda: probe_trial(subject).select(),
        "fit": lambda: probe_trial(subject).fit(),
        "running": lambda: run_over(probe_trial(subject).fit(), [probe_trial(subject).query()]).result(),
    }
    for name, step in steps.items():
        with global_randomness_untouched(name):
            step()


CHECKS: tuple[CheckFunction, ...] = (
    check_needs_refused,
    check_needs_complete,
    check_support_selection,
    check_token_ensembles_read,
    check_label_map_applied,
    check_fit_repeatable,
    check_support_untouched,
    check_seed_matters_as_declared,
    check_classes_interchangeable,
    check_reference_without_labels,
    check_scores_differentiable,
    check_global_randomness_untouched,
)


def _entry(subject: Subject) -> ProbeEntry:
    assert isinstance(subject.entry, ProbeEntry)
    return subject.entry


def _needs(subject: Subject) -> frozenset[Capability]:
    """What the entry says, or the token ensemble that the subject was given."""
    entry = _entry(subject)
    given = subject.params.get(entry.features_param or "")
    return entry.needs if given is None else TokenEnsemble.parse(str(given)).needs


def _expect_same_run(expected: ProbeRun, found: ProbeRun, what: str) -> None:
    difference = measurements_differ(_repeatable(expected), _repeatable(found), tolerance=0.0)
    expect(difference is None, f"{what}: {difference}")
    expect_equal_outcomes(expected.outcomes(), found.outcomes(), tolerance=0.0, what=what)


def _repeatable(run: ProbeRun) -> list[Measurement]:
    """The measurements that are not timed: what a clock says is never the same twice."""
    return [row for row in run.result() if row.counted != "repetitions"]


def _fractions(measurements: list[Measurement]) -> dict[str, float]:
    """Values of fractions that do not belong to one class, by a readable name."""
    return {
        f"{m.metric}{dict(m.dims) or ''}": m.value
        for m in measurements
        if m.unit == "fraction" and "class" not in m.dims
    }


def _words(capabilities: frozenset[Capability] | set[Capability]) -> str:
    return ", ".join(sorted(capabilities)) or "nothing"
