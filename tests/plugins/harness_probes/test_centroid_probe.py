"""The nearest-centroid probe on real digits: against scikit-learn, with centring, scores, ties and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.params import canonical, coerce
from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeRun
from harness.types import FeatureSpec, FeatureTable, ModelOutputs, OutputSpec
from harness_probes import centroid_probe
from harness_probes.centroid import CentroidParams, harness_register_probes
from harness_probes.centroid_probe import CentroidProbe

POOLED = FeatureSpec(pooled=True)
SUPPORT = 1000
VARIANTS = [{}, {"metric": "euclidean"}, {"centre": True}]


@pytest.fixture(scope="module")
def digits():
    """Pixels of 1000 support and 797 query digits, as if they were pooled features of a model."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int64)
    return x[:SUPPORT], y[:SUPPORT], x[SUPPORT:], y[SUPPORT:]


def table(x, y) -> FeatureTable:
    return FeatureTable(x=x, y=y, ids=[f"train-{i}" for i in range(len(y))], spec=POOLED)


def context(model, *, classes: int = 10) -> ProbeContext:
    return ProbeContext(model=model, classes=[f"digit {c}" for c in range(classes)], label_space="digits", seed=0)


def ask(fitted, batch, x, y, *, size: int = 100, rows=None, run=None):
    run = run or fitted.start()
    rows = np.arange(len(y)) if rows is None else np.asarray(rows)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        run.update(batch(y[part].tolist(), part), ModelOutputs(pooled=torch.from_numpy(x[part])), None)
    return run


def predictions(fitted, batch, x, y):
    return ask(fitted, batch, x, y).outcomes().columns["prediction"][0]


def by_hand(x, y, queries, *, metric="cosine", centre=False):
    """Scores (N, 10) in double precision, class by class."""
    x, queries = x.astype(float), queries.astype(float)
    if metric == "euclidean":
        return np.stack([-((queries - x[y == c].mean(axis=0)) ** 2).sum(axis=1) for c in range(10)], axis=1)
    shift = x.mean(axis=0) if centre else 0.0
    means = np.stack([normalize(x - shift)[y == c].mean(axis=0) for c in range(10)])
    return normalize(queries - shift) @ normalize(means).T


def test_it_keeps_the_contracts(card, digits):
    probe = CentroidProbe()
    fitted = probe.fit(table(*digits[:2]), context(card()))
    assert isinstance(probe, Probe)
    assert isinstance(fitted, FittedProbe)
    assert isinstance(fitted.start(), ProbeRun)
    assert (probe.features(card()), probe.wants(card())) == (POOLED, OutputSpec(pooled=True))
    assert probe.select_support(digits[1], 3).tolist() == list(range(SUPPORT))


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    params = coerce(entry.params, {"centre": "true", "features": "cls/last4"}, "centroid")
    probe = CentroidProbe(features=params.features, centre=params.centre)
    assert probe.info.params == canonical(params)
    assert canonical(params) == {"features": "ensemble4", "metric": "cosine", "centre": True, "per_class": None}
    assert (probe.info.name, probe.info.version, probe.info.learns) == (entry.name, entry.version, entry.learns)
    assert (entry.stochastic, entry.headline, entry.features_param) == (False, "accuracy", "features")
    assert CentroidProbe().info.params == canonical(CentroidParams())


def test_euclidean_predictions_equal_scikit_learn(card, batch, digits):
    x, y, queries, truth = digits
    # scikit-learn warns of pixels that are always dark.
    lit = x.std(axis=0) > 0
    x, queries = x[:, lit], queries[:, lit]
    found = predictions(CentroidProbe(metric="euclidean").fit(table(x, y), context(card())), batch, queries, truth)
    np.testing.assert_array_equal(found, NearestCentroid().fit(x.astype(float), y).predict(queries.astype(float)))


@pytest.mark.parametrize("given", VARIANTS)
@pytest.mark.parametrize("rows_at_once", [8192, 17])
def test_predictions_and_scores_equal_those_by_hand(card, batch, digits, monkeypatch, given, rows_at_once):
    monkeypatch.setattr(centroid_probe, "_ROWS_AT_ONCE", rows_at_once)
    x, y, queries, truth = digits
    fitted = CentroidProbe(**given).fit(table(x, y), context(card()))
    wanted = by_hand(x, y, queries, **given)
    run = ask(fitted, batch, queries, truth)
    np.testing.assert_array_equal(run.outcomes().columns["prediction"][0], wanted.argmax(axis=1))
    (row,) = run.result()
    assert (row.metric, dict(row.dims), row.interval) == ("accuracy", {}, "wilson95")
    assert row.value == (wanted.argmax(axis=1) == truth).mean() > 0.85
    scores = fitted.scores(ModelOutputs(pooled=torch.from_numpy(queries)))
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_copies_on_a_device_made_while_measuring_still_serve_gradients(card, digits):
    fitted = CentroidProbe().fit(table(*digits[:2]), context(card()))
    with torch.inference_mode():
        fitted.scores(ModelOutputs(pooled=torch.zeros(2, 64, device="meta")))
    pooled = torch.zeros(2, 64, device="meta", requires_grad=True)
    fitted.scores(ModelOutputs(pooled=pooled)).sum().backward()
    assert pooled.grad is not None


def test_the_three_variants_differ(card, batch, digits):
    x, y, queries, truth = digits
    found = [
        predictions(CentroidProbe(**given).fit(table(x, y), context(card())), batch, queries, truth)
        for given in VARIANTS
    ]
    assert len({row.tobytes() for row in found}) == 3


@pytest.mark.parametrize("given", VARIANTS)
def test_gradients_are_those_of_the_scores(card, digits, given):
    x, y, queries, _ = digits
    fitted = CentroidProbe(**given).fit(table(x, y), context(card()))
    with torch.inference_mode():
        fitted.scores(ModelOutputs(pooled=torch.from_numpy(queries[:3])))
    pooled = torch.from_numpy(queries[:5]).requires_grad_()
    fitted.scores(ModelOutputs(pooled=pooled))[:, 4].sum().backward()
    for place in (20, 35):
        step = np.zeros(64)
        step[place] = 1e-4
        up, down = (by_hand(x, y, queries[:5].astype(float) + sign * step, **given)[:, 4] for sign in (1, -1))
        np.testing.assert_allclose(pooled.grad[:, place].numpy(), (up - down) / 2e-4, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("given", VARIANTS)
@pytest.mark.parametrize("factor", [1e-7, 1e7])
def test_the_unit_of_the_features_does_not_matter(card, batch, digits, given, factor):
    x, y, queries, truth = digits
    plain = predictions(CentroidProbe(**given).fit(table(x, y), context(card())), batch, queries, truth)
    factor = np.float32(factor)
    scaled = CentroidProbe(**given).fit(table(x * factor, y), context(card()))
    np.testing.assert_array_equal(predictions(scaled, batch, queries * factor, truth), plain)


@pytest.mark.parametrize("given", VARIANTS[1:])
def test_small_differences_between_large_features_count(card, batch, digits, given):
    x, y, queries, truth = (part + np.float32(10_000) if part.dtype == np.float32 else part for part in digits)
    found = predictions(CentroidProbe(**given).fit(table(x, y), context(card())), batch, queries, truth)
    np.testing.assert_array_equal(found, by_hand(x, y, queries, **given).argmax(axis=1))
    assert (found == truth).mean() > 0.85


@pytest.mark.parametrize("given", VARIANTS)
def test_classes_that_differ_by_rounding_alone_are_tied(card, batch, given):
    x = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
    # The same images in another order: their sums differ in the last bits.
    both, y = np.concatenate([x, x[::-1] * np.float32(1)]), np.repeat([7, 2], 400)
    fitted = CentroidProbe(**given).fit(table(both, y), context(card()))
    assert (predictions(fitted, batch, x, y[:400]) == 2).all()


@pytest.mark.parametrize("given", VARIANTS)
def test_features_that_say_nothing_give_the_first_class(card, batch, given):
    x = np.tile(np.random.default_rng(0).normal(size=64).astype(np.float32), (100, 1))
    y = np.arange(100) % 10
    fitted = CentroidProbe(**given).fit(table(x, y), context(card()))
    assert (predictions(fitted, batch, x, y) == 0).all()
    zeros = CentroidProbe(**given).fit(table(0 * x, y), context(card()))
    assert (predictions(zeros, batch, 0 * x, y) == 0).all()


@pytest.mark.parametrize("given", VARIANTS)
def test_batching_order_merging_and_resuming_change_nothing(card, batch, digits, given):
    x, y, queries, truth = digits
    queries, truth = queries[:120], truth[:120]
    fitted = CentroidProbe(**given).fit(table(x, y), context(card()))
    whole = ask(fitted, batch, queries, truth, size=120)
    order = np.random.default_rng(1).permutation(120)
    left = ask(fitted, batch, queries, truth, size=7, rows=order[:60])
    right = ask(fitted, batch, queries, truth, size=1, rows=order[90:])
    resumed = fitted.start()
    resumed.load_state_dict(load(save(left.state_dict())))
    ask(fitted, batch, queries, truth, size=13, rows=order[60:90], run=resumed)
    resumed.merge(right)
    assert resumed.result() == whole.result()
    for name, column in whole.outcomes().columns.items():
        np.testing.assert_array_equal(resumed.outcomes().columns[name], column)


@pytest.mark.parametrize("given", VARIANTS)
def test_renaming_the_classes_renames_the_predictions(card, batch, digits, given):
    x, y, queries, truth = digits
    names = np.random.default_rng(3).permutation(10)
    plain = predictions(CentroidProbe(**given).fit(table(x, y), context(card())), batch, queries, truth)
    renamed = CentroidProbe(**given).fit(table(x, names[y]), context(card()))
    np.testing.assert_array_equal(predictions(renamed, batch, queries, names[truth]), names[plain])


@pytest.mark.parametrize("given", VARIANTS)
def test_classes_without_support_score_far_below_and_are_never_predicted(card, batch, digits, given):
    x, y, queries, truth = digits
    odd, even = y % 2 == 1, truth % 2 == 0
    fitted = CentroidProbe(**given).fit(table(x[odd], y[odd]), context(card()))
    assert set(np.unique(predictions(fitted, batch, queries[~even], truth[~even]))) == {1, 3, 5, 7, 9}
    scores = fitted.scores(ModelOutputs(pooled=torch.from_numpy(1000 * queries[:4])))
    assert (scores[:, ::2].amax(dim=1) < scores[:, 1::2].amin(dim=1) - 1000).all()
    with pytest.raises(DataError, match=r"is of class digit \d .*no support images"):
        ask(fitted, batch, queries[even], truth[even])


def test_a_fitted_probe_does_not_change_with_its_support(card, batch, digits):
    x, y, queries, truth = digits
    support = table(x.copy(), y.copy())
    fitted = CentroidProbe().fit(support, context(card()))
    before = predictions(fitted, batch, queries, truth)
    support.x[...] = 0
    support.y[...] = 0
    np.testing.assert_array_equal(predictions(fitted, batch, queries, truth), before)


def test_refusals(card, batch, digits):
    x, y, queries, truth = digits
    with pytest.raises(ParameterError, match="centring changes no Euclidean distance"):
        CentroidProbe(metric="euclidean", centre=True)
    with pytest.raises(ParameterError, match="metric cannot be 'l1'"):
        CentroidProbe(metric="l1")
    with pytest.raises(CapabilityError, match="no pooled"):
        CentroidProbe().wants(card(pooled=False))
    with pytest.raises(HarnessError, match="its own spec"):
        CentroidProbe().fit(None, context(card()))
    with pytest.raises(DataError, match="support split is empty"):
        CentroidProbe().fit(table(x[:0], y[:0]), context(card()))
    with pytest.raises(DataError, match="reach from 0 to 9, the dataset has 9"):
        CentroidProbe().fit(table(x, y), context(card(), classes=9))
    spoilt, asked = x.copy(), queries.copy()
    spoilt[3, 5] = np.inf
    asked[2, 0] = np.nan
    with pytest.raises(DataError, match="1 of 1000 support images, such as train-3"):
        CentroidProbe().fit(table(spoilt, y), context(card()))
    with pytest.raises(DataError, match="image-2"):
        ask(CentroidProbe().fit(table(x, y), context(card())), batch, asked, truth)
