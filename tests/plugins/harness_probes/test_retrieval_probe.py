"""The retrieval probe: against scikit-learn and a slow ranking, ties, merging, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.params import canonical, coerce
from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeRun
from harness.types import FeatureSpec, FeatureTable, ModelOutputs, OutputSpec
from harness_probes import neighbours, retrieval_probe
from harness_probes.retrieval import RetrievalParams, harness_register_probes
from harness_probes.retrieval_probe import RetrievalProbe

POOLED = FeatureSpec(pooled=True)
SUPPORT = 1000


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


def columns(run):
    return {name: column[0] for name, column in run.outcomes().columns.items()}


def find(rows, metric, **dims):
    (row,) = [row for row in rows if row.metric == metric and dict(row.dims) == dims]
    return row


def test_it_keeps_the_contracts(card, digits):
    probe = RetrievalProbe()
    fitted = probe.fit(table(*digits[:2]), context(card()))
    assert isinstance(probe, Probe)
    assert isinstance(fitted, FittedProbe)
    assert isinstance(fitted.start(), ProbeRun)
    assert (probe.features(card()), probe.wants(card())) == (POOLED, OutputSpec(pooled=True))
    assert probe.select_support(digits[1], 3).tolist() == list(range(SUPPORT))
    assert fitted.scores(ModelOutputs(pooled=torch.zeros(2, 64))) is None


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    params = coerce(entry.params, {"k": "1+3", "features": "cls/last4"}, "retrieval")
    probe = RetrievalProbe(k=params.k, features=params.features)
    assert probe.info.params == canonical(params) == {"features": "ensemble4", "k": [1, 3], "per_class": None}
    assert (probe.info.name, probe.info.version, probe.info.learns) == (entry.name, entry.version, entry.learns)
    assert (probe.info.headline, entry.headline, entry.stochastic) == ("map", "map", False)
    assert RetrievalProbe().info.params == canonical(RetrievalParams())


def test_average_precision_equals_scikit_learn(card, batch, digits):
    x, y, queries, truth = digits
    # scikit-learn takes equal similarities as one step; with a little noise there are none.
    noise = np.random.default_rng(0).normal(size=(1100, 64)).astype(np.float32) / 100
    x, queries, truth = x + noise[:SUPPORT], queries[:100] + noise[SUPPORT:], truth[:100]
    run = ask(RetrievalProbe().fit(table(x, y), context(card())), batch, queries, truth)
    similarities = cosine_similarity(queries.astype(float), x.astype(float))
    assert all(len(np.unique(row.round(9))) == SUPPORT for row in similarities)
    wanted = [average_precision_score(y == label, row) for row, label in zip(similarities, truth, strict=True)]
    np.testing.assert_allclose(columns(run)["average_precision"], wanted, rtol=1e-12)
    row = find(run.result(), "map")
    assert row.value == pytest.approx(np.mean(wanted), rel=1e-12)
    assert (row.interval, row.n) == ("bootstrap95", len(truth))
    assert row.low < row.value < row.high
    assert row.high - row.low == pytest.approx(4 * np.std(wanted) / np.sqrt(len(wanted)), rel=0.15)


def test_recall_and_r_precision_equal_a_slow_ranking(card, batch, digits):
    x, y, queries, truth = digits
    run = ask(RetrievalProbe(k=(1, 3, 40)).fit(table(x, y), context(card())), batch, queries, truth)
    found, rows = columns(run), run.result()
    order = (-cosine_similarity(queries.astype(float), x.astype(float)).round(9)).argsort(axis=1, kind="stable")
    relevant = y[order] == truth[:, None]
    for k in (1, 3, 40):
        hits = relevant[:, :k].any(axis=1)
        np.testing.assert_array_equal(found[f"hit_{k}"], hits)
        row = find(rows, "recall", k=k)
        assert (row.value, row.interval, row.n) == (hits.mean(), "wilson95", len(truth))
    assert find(rows, "recall", k=1).value < find(rows, "recall", k=3).value
    counts = np.bincount(y)
    wanted = [row[: counts[label]].mean() for row, label in zip(relevant, truth, strict=True)]
    np.testing.assert_allclose(found["r_precision"], wanted, rtol=1e-12)
    assert find(rows, "r_precision").value == pytest.approx(np.mean(wanted), rel=1e-12)


def test_a_ranking_small_enough_to_do_on_paper(card, batch):
    # By similarity to the first axis the labels stand in the order 1 0 0 1 0.
    angles = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    x = np.zeros((5, 64), np.float32)
    x[:, 0], x[:, 1] = np.cos(angles), np.sin(angles)
    y = np.array([1, 0, 0, 1, 0])
    shuffle = [3, 0, 4, 2, 1]
    fitted = RetrievalProbe(k=(1, 2)).fit(table(x[shuffle], y[shuffle]), context(card()))
    query = np.zeros((2, 64), np.float32)
    query[:, 0] = 7
    found = columns(ask(fitted, batch, query, np.array([0, 1])))
    np.testing.assert_allclose(found["average_precision"], [(1 / 2 + 2 / 3 + 3 / 5) / 3, (1 + 2 / 4) / 2], rtol=1e-15)
    np.testing.assert_allclose(found["r_precision"], [2 / 3, 1 / 2], rtol=1e-15)
    assert (found["hit_1"].tolist(), found["hit_2"].tolist()) == ([False, True], [True, True])


def test_equally_similar_images_stand_in_the_order_of_the_support(card, batch):
    x = np.tile(np.random.default_rng(0).normal(size=64).astype(np.float32), (6, 1))
    x *= np.array([[1], [3], [0.1], [7], [1], [2]], np.float32)
    y = np.array([0, 1, 1, 0, 1, 2])
    fitted = RetrievalProbe(k=(1, 5)).fit(table(x, y), context(card()))
    found = columns(ask(fitted, batch, x[:3], np.array([0, 1, 2])))
    np.testing.assert_allclose(
        found["average_precision"], [(1 + 2 / 4) / 2, (1 / 2 + 2 / 3 + 3 / 5) / 3, 1 / 6], rtol=1e-15
    )
    assert found["hit_5"].tolist() == [True, True, False]


def test_galleries_that_do_not_fit_are_ranked_in_parts(card, batch, digits, monkeypatch):
    x, y, queries, truth = digits
    whole = columns(ask(RetrievalProbe().fit(table(x, y), context(card())), batch, queries, truth))
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 4 * 64 * 77)
    monkeypatch.setattr(retrieval_probe, "_RANKED_BYTES", 8 * 3 * SUPPORT)
    parts = columns(ask(RetrievalProbe().fit(table(x, y), context(card())), batch, queries, truth))
    for name, column in whole.items():
        np.testing.assert_array_equal(parts[name], column)


def test_batching_order_merging_and_resuming_change_nothing(card, batch, digits):
    x, y, queries, truth = digits
    queries, truth = queries[:120], truth[:120]
    fitted = RetrievalProbe().fit(table(x, y), context(card()))
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
        assert column.shape == (1, 120)
        np.testing.assert_array_equal(resumed.outcomes().columns[name], column)
    with pytest.raises(TypeError, match="cannot merge"):
        resumed.merge(object())


def test_renaming_the_classes_changes_nothing(card, batch, digits):
    x, y, queries, truth = digits
    names = np.random.default_rng(3).permutation(10)
    plain = ask(RetrievalProbe().fit(table(x, y), context(card())), batch, queries, truth)
    renamed = ask(RetrievalProbe().fit(table(x, names[y]), context(card())), batch, queries, names[truth])
    assert renamed.result() == plain.result()


def test_features_that_say_nothing_rank_at_chance(card, batch):
    rng = np.random.default_rng(0)
    x, queries = (rng.normal(size=(n, 64)).astype(np.float32) for n in (1000, 300))
    y, truth = rng.integers(0, 10, 1000), rng.integers(0, 10, 300)
    rows = ask(RetrievalProbe().fit(table(x, y), context(card())), batch, queries, truth).result()
    assert find(rows, "map").value == pytest.approx(0.1, abs=0.02)
    assert find(rows, "r_precision").value == pytest.approx(0.1, abs=0.02)
    assert find(rows, "recall", k=5).value == pytest.approx(1 - 0.9**5, abs=0.08)


def test_a_class_without_gallery_images_is_refused(card, batch, digits):
    x, y, queries, truth = digits
    odd = y % 2 == 1
    fitted = RetrievalProbe().fit(table(x[odd], y[odd]), context(card()))
    assert len(columns(ask(fitted, batch, queries[truth % 2 == 1], truth[truth % 2 == 1]))["hit_1"])
    with pytest.raises(DataError, match=r"is of class digit \d .*no support images"):
        ask(fitted, batch, queries, truth)


@pytest.mark.parametrize("k", [(), (5, 1), (1, 1)])
def test_k_must_rise(k):
    with pytest.raises(ParameterError, match="rise"):
        RetrievalProbe(k=k)


def test_refusals(card, batch, digits):
    x, y, queries, truth = digits
    with pytest.raises(CapabilityError, match="no pooled"):
        RetrievalProbe().wants(card(pooled=False))
    with pytest.raises(HarnessError, match="its own spec"):
        RetrievalProbe().fit(None, context(card()))
    with pytest.raises(DataError, match="reach from 0 to 9, the dataset has 9"):
        RetrievalProbe().fit(table(x, y), context(card(), classes=9))
    for refuse in (
        lambda: RetrievalProbe().select_support(y[:99], 0),
        lambda: RetrievalProbe().fit(table(x[:99], y[:99]), context(card())),
    ):
        with pytest.raises(DataError, match="retrieval: 100 neighbours were asked for, but there are 99") as caught:
            refuse()
        assert caught.value.hint == "take k=1+5+10+20"
    spoilt, asked = x.copy(), queries.copy()
    spoilt[3, 5] = np.inf
    asked[2, 0] = np.nan
    with pytest.raises(DataError, match="1 of 1000 support images, such as train-3"):
        RetrievalProbe().fit(table(spoilt, y), context(card()))
    with pytest.raises(DataError, match="image-2"):
        ask(RetrievalProbe().fit(table(x, y), context(card())), batch, asked, truth)
    with pytest.raises(DataError, match="no images to measure"):
        RetrievalProbe().fit(table(x, y), context(card())).start().result()
