"""The k-NN probe on real digits: against scikit-learn and a slow vote, its surrogate scores, indices and refusals."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.params import canonical, coerce
from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeRun
from harness.types import FeatureSpec, FeatureTable, ModelOutputs, OutputSpec
from harness_probes import neighbours
from harness_probes.knn import KnnParams, harness_register_probes
from harness_probes.knn_probe import KnnProbe, vote, vote_weights

POOLED = FeatureSpec(pooled=True)
KS = (1, 5, 10, 20, 100, 200)
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


def predictions(fitted, batch, x, y):
    return ask(fitted, batch, x, y).outcomes().columns["prediction"]


def outputs(x) -> ModelOutputs:
    return ModelOutputs(pooled=torch.from_numpy(x))


def test_it_keeps_the_contracts(card, digits):
    probe = KnnProbe()
    fitted = probe.fit(table(*digits[:2]), context(card()))
    assert isinstance(probe, Probe)
    assert isinstance(fitted, FittedProbe)
    assert isinstance(fitted.start(), ProbeRun)
    assert (probe.features(card()), probe.wants(card())) == (POOLED, OutputSpec(pooled=True))
    assert fitted.variants == tuple({"k": k} for k in KS)


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    params = coerce(entry.params, {"k": "1+5", "weights": "uniform", "features": "cls/last4"}, "knn")
    probe = KnnProbe(k=params.k, weights=params.weights, features=params.features)
    assert probe.info.params == canonical(params)
    assert canonical(params)["features"] == "ensemble4"
    assert (probe.info.name, probe.info.version, probe.info.learns) == (entry.name, entry.version, entry.learns)
    assert (entry.stochastic, entry.headline, entry.features_param) == (False, "accuracy", "features")
    assert KnnProbe().info.params == canonical(KnnParams())
    assert KnnParams().k == KS


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_predictions_equal_scikit_learn_with_the_published_weights(card, batch, digits, backend):
    x, y, queries, truth = digits
    found = predictions(KnnProbe(backend=backend).fit(table(x, y), context(card())), batch, queries, truth)
    for row, k in enumerate(KS):
        model = KNeighborsClassifier(
            n_neighbors=k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        )
        np.testing.assert_array_equal(found[row], model.fit(x, y).predict(queries))


def test_faiss_searches_where_it_is_asked_to(card, batch, digits, monkeypatch):
    asked = []
    real = faiss.knn
    monkeypatch.setattr(faiss, "knn", lambda *given, **named: (asked.append(given), real(*given, **named))[1])
    x, y, queries, truth = digits
    for backend, times in (("auto", 0), ("torch", 0), ("faiss", 1)):
        asked.clear()
        predictions(KnnProbe(backend=backend).fit(table(x, y), context(card())), batch, queries[:9], truth[:9])
        assert len(asked) == times


def test_predictions_equal_a_vote_by_hand(card, batch, digits):
    x, y, queries, truth = (part[:150] for part in digits)
    # Support images come twice, once under another label: which of them is nearer is a matter of the rule for ties.
    x, y = np.concatenate([x, x[:50]]), np.concatenate([y, (y[:50] + 3) % 10])
    found = predictions(
        KnnProbe(k=(1, 2, 7, 60), temperature=0.2).fit(table(x, y), context(card())), batch, queries, truth
    )
    for image, query in enumerate(queries.astype(float)):
        cosines = [float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in x.astype(float)]
        order = sorted(range(len(x)), key=lambda i: (-round(cosines[i], 9), i))
        for row, k in enumerate((1, 2, 7, 60)):
            votes = [sum(np.exp(round(cosines[i], 9) / 0.2) for i in order[:k] if y[i] == c) for c in range(10)]
            assert found[row, image] == int(np.argmax(np.round(votes, 6)))


def test_accuracies_count_predictions_with_wilson_intervals(card, batch, digits):
    x, y, queries, truth = digits
    run = ask(KnnProbe().fit(table(x, y), context(card())), batch, queries, truth)
    found, rows = run.outcomes().columns["prediction"], run.result()
    assert [(row.metric, dict(row.dims)) for row in rows] == [("accuracy", {"k": k}) for k in KS]
    for row, predicted in zip(rows, found, strict=True):
        assert row.value == (predicted == truth).mean()
        assert (row.interval, row.n) == ("wilson95", len(truth))
    assert rows[0].value > 0.97
    assert rows[0].value > rows[-1].value


def test_one_neighbour_ignores_the_temperature_and_its_weight(card, batch, digits):
    x, y, queries, truth = digits
    found = [
        predictions(KnnProbe(k=(1, 200), **given).fit(table(x, y), context(card())), batch, queries, truth)
        for given in ({}, {"temperature": 0.001}, {"temperature": 50.0}, {"weights": "uniform"})
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(other[0], found[0][0])
        assert (other[1] != found[0][1]).any()
    # So cold that only the nearest counts.
    assert (found[1][1] == found[0][0]).mean() > 0.99


def test_a_larger_k_does_not_depend_on_the_smaller_ones_of_the_list(card, batch, digits):
    x, y, queries, truth = digits
    every = predictions(KnnProbe().fit(table(x, y), context(card())), batch, queries, truth)
    for row, k in enumerate(KS):
        alone = predictions(KnnProbe(k=(k,)).fit(table(x, y), context(card())), batch, queries, truth)
        np.testing.assert_array_equal(alone[0], every[row])


def test_the_length_of_a_feature_vector_does_not_matter(card, batch, digits):
    x, y, queries, truth = digits
    plain = predictions(KnnProbe().fit(table(x, y), context(card())), batch, queries, truth)
    stretch = 2.0 ** np.random.default_rng(0).integers(-12, 12, (SUPPORT, 1)).astype(np.float32)
    stretched = predictions(KnnProbe().fit(table(x * stretch, y), context(card())), batch, 512 * queries, truth)
    np.testing.assert_array_equal(stretched, plain)


def test_batching_order_merging_and_resuming_change_nothing(card, batch, digits):
    x, y, queries, truth = digits
    queries, truth = queries[:120], truth[:120]
    fitted = KnnProbe(k=(1, 20)).fit(table(x, y), context(card()))
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


def test_renaming_the_classes_renames_the_predictions(card, batch, digits):
    x, y, queries, truth = digits
    names = np.random.default_rng(3).permutation(10)
    plain = predictions(KnnProbe().fit(table(x, y), context(card())), batch, queries, truth)
    renamed = predictions(KnnProbe().fit(table(x, names[y]), context(card())), batch, queries, names[truth])
    np.testing.assert_array_equal(renamed, names[plain])


def test_shuffled_labels_stay_at_chance(card, batch, digits):
    x, y, queries, truth = digits
    values = []
    for seed in range(20):
        shuffled = np.random.default_rng(seed).permutation(y)
        rows = ask(KnnProbe(k=(20,)).fit(table(x, shuffled), context(card())), batch, queries, truth).result()
        values.append(rows[0].value)
    assert abs(np.mean(values) - 0.1) < 0.02


# --- the vote


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 10**6))
def test_votes_equal_counting_them_one_by_one(n, most, seed):
    rng = np.random.default_rng(seed)
    ks = tuple(sorted({int(k) for k in rng.integers(1, most + 1, 3)}))
    # Of quarters, so that sums are exact and classes often tie.
    classes, weights = rng.integers(0, 4, (n, most)), rng.integers(0, 5, (n, most)) / 4
    found = vote(classes, weights, ks, num_classes=4)
    for row, k in enumerate(ks):
        for image in range(n):
            votes = [0.0] * 4
            for neighbour in range(k):
                votes[classes[image, neighbour]] += weights[image, neighbour]
            assert found[row, image] == votes.index(max(votes))


def test_votes_that_differ_by_rounding_alone_go_to_the_smaller_class():
    weights = np.array([[0.1, 0.2, 0.3, 0.6]])
    assert 0.1 + 0.2 + 0.3 > 0.6
    assert vote(np.array([[1, 1, 1, 0]]), weights, (4,), num_classes=2)[0, 0] == 0


def test_weights_are_relative_to_the_nearest_and_zero_for_none():
    found = vote_weights(np.array([[0.9, 0.83, -np.inf], [-np.inf] * 3]), temperature=0.07)
    np.testing.assert_allclose(found, [[1, np.exp(-1), 0], [0, 0, 0]], rtol=1e-12)
    assert vote_weights(np.array([[0.9, 0.83, -np.inf]]), temperature=None).tolist() == [[1, 1, 0]]
    # exp(0.9 / 0.001) alone would be infinite.
    assert np.isfinite(vote_weights(np.array([[0.9, 0.899]]), temperature=0.001)).all()


# --- scores


def soft_votes(x, y, queries: torch.Tensor, temperature: float) -> torch.Tensor:
    keys = torch.nn.functional.normalize(torch.from_numpy(x).double(), dim=1)
    logits = torch.nn.functional.normalize(queries.double(), dim=1) @ keys.T / temperature
    return torch.stack([torch.logsumexp(logits[:, torch.from_numpy(y == c)], dim=1) for c in range(10)], dim=1)


@pytest.mark.parametrize("temperature", [0.07, 0.001, 2.0])
def test_scores_and_their_gradient_are_those_of_a_soft_vote_of_all(card, digits, monkeypatch, temperature):
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 4 * 64 * 90)
    x, y, queries, _ = digits
    order = np.argsort(y, kind="stable")
    # Whole blocks without some of the classes.
    x, y = x[order], y[order]
    fitted = KnnProbe(temperature=temperature).fit(table(x, y), context(card()))
    one, other = (torch.from_numpy(queries[:40]).requires_grad_() for _ in range(2))
    scores, wanted = fitted.scores(ModelOutputs(pooled=one)), soft_votes(x, y, other, temperature)
    assert (scores.shape, scores.dtype) == ((40, 10), torch.float32)
    torch.testing.assert_close(scores.double(), wanted, rtol=2e-6, atol=2e-6 / temperature)
    towards = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    (scores * towards).sum().backward()
    (wanted * towards).sum().backward()
    assert one.grad.abs().max() > 0
    scale = other.grad.abs().max().item()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=(1e-5 + 1e-6 / temperature) * scale)


def test_scores_serve_gradients_after_measuring_in_inference_mode(card, digits):
    x, y, queries, _ = digits
    fitted = KnnProbe().fit(table(x, y), context(card()))
    with torch.inference_mode():
        plain = fitted.scores(outputs(queries[:3]))
    pooled = torch.from_numpy(queries[:3]).requires_grad_()
    scores = fitted.scores(ModelOutputs(pooled=pooled))
    scores[:, 0].sum().backward()
    assert torch.equal(plain, scores.detach())
    assert torch.isfinite(pooled.grad).all()


def test_scores_are_made_where_the_outputs_are(card, digits):
    x, y, _, _ = digits
    pooled = torch.zeros(2, 64, device="meta", requires_grad=True)
    scores = KnnProbe().fit(table(x, y), context(card())).scores(ModelOutputs(pooled=pooled))
    assert (scores.device.type, scores.shape) == ("meta", (2, 10))
    scores.sum().backward()
    assert pooled.grad is not None


def test_climbing_the_scores_changes_the_predictions(card, batch, digits):
    x, y, queries, truth = digits
    fitted = KnnProbe(k=(20,)).fit(table(x, y), context(card()))
    labels = torch.from_numpy(truth)
    moved = torch.from_numpy(queries)
    for _ in range(10):
        pooled = moved.clone().requires_grad_()
        torch.nn.functional.cross_entropy(fitted.scores(ModelOutputs(pooled=pooled)), labels).backward()
        moved = moved + 0.05 * pooled.grad.sign()
    before = ask(fitted, batch, queries, truth).result()[0].value
    after = ask(fitted, batch, moved.numpy(), truth).result()[0].value
    assert after < 0.3 < before


def test_classes_without_support_score_far_below_and_are_never_predicted(card, batch, digits):
    x, y, queries, truth = digits
    odd, even = y % 2 == 1, truth % 2 == 0
    fitted = KnnProbe().fit(table(x[odd], y[odd]), context(card()))
    assert set(np.unique(predictions(fitted, batch, queries[~even], truth[~even]))) == {1, 3, 5, 7, 9}
    scores = fitted.scores(outputs(queries[:4]))
    assert scores[:, ::2].max() < scores[:, 1::2].min() - 1000
    with pytest.raises(DataError, match=r"is of class digit \d .*no support images"):
        ask(fitted, batch, queries[even], truth[even])


# --- choosing support, indices


def test_all_support_images_are_taken_by_default():
    labels = np.arange(300) % 3
    selected = KnnProbe().select_support(labels, 5)
    assert selected.dtype == np.int64
    assert selected.tolist() == list(range(300))


def test_per_class_spreads_over_the_split_and_takes_what_there_is():
    labels = np.array([0] * 10 + [7] * 3 + [2] * 5)
    selected = KnnProbe(k=(1,), per_class=4).select_support(labels, 0)
    assert selected.tolist() == [0, 2, 5, 7, 10, 11, 12, 13, 14, 15, 16]
    assert KnnProbe(k=(1,), per_class=1).select_support(labels, 3).tolist() == [0, 10, 13]


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_an_approximate_index_tells_its_recall_beside_nearly_the_same_accuracies(card, batch, digits, index):
    x, y, queries, truth = digits
    exact = ask(KnnProbe().fit(table(x, y), context(card())), batch, queries, truth).result()
    fitted = KnnProbe(index=index).fit(table(x, y), context(card()))
    rows = ask(fitted, batch, queries, truth).result()
    recall = [row for row in rows if row.metric == "index_recall"]
    assert [dict(row.dims) for row in recall] == [{"k": k} for k in KS]
    for row in recall:
        assert 0.9 < row.value <= 1
        assert row.low <= row.value <= row.high
        assert (row.n, row.interval) == (256, "bootstrap95")
    for row, wanted in zip(rows, exact, strict=False):
        assert (row.metric, dict(row.dims)) == (wanted.metric, dict(wanted.dims))
        assert row.value == pytest.approx(wanted.value, abs=0.02)
    again = KnnProbe(index=index).fit(table(x, y), context(card()))
    assert ask(again, batch, queries, truth, size=31).result() == rows


def test_a_poor_index_has_a_poor_recall_and_still_answers(card, batch, digits):
    x, y, queries, truth = digits
    fitted = KnnProbe(index="ivf", nlist=100, nprobe=1).fit(table(x, y), context(card()))
    rows = ask(fitted, batch, queries, truth).result()
    recall = {row.dims["k"]: row.value for row in rows if row.metric == "index_recall"}
    assert recall[200] < 0.2 < recall[1]
    assert rows[-7].metric == "accuracy"
    assert rows[-7].value > 0.5


def test_the_same_parameters_without_faiss(card, batch, digits, monkeypatch):
    monkeypatch.setattr(neighbours, "has_faiss", lambda: False)
    x, y, queries, truth = digits
    assert ask(KnnProbe().fit(table(x, y), context(card())), batch, queries, truth).result()[0].value > 0.97
    for choice in ({"index": "ivf"}, {"index": "hnsw"}, {"backend": "faiss"}):
        with pytest.raises(CapabilityError, match="needs faiss, which is not installed"):
            KnnProbe(**choice)


# --- refusals


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"k": ()}, "rise"),
        ({"k": (5, 1)}, "rise"),
        ({"k": (1, 1)}, "rise"),
        ({"k": (0, 1)}, "k must lie in"),
        ({"temperature": 0.0}, "temperature must lie in"),
        ({"per_class": 0}, "per_class must lie in"),
        ({"nlist": 4}, "nlist means nothing to index=flat"),
        ({"nprobe": 4, "index": "hnsw"}, "nprobe means nothing to index=hnsw"),
        ({"hnsw_m": 4, "index": "ivf"}, "hnsw_m means nothing to index=ivf"),
        ({"ef_search": 4}, "ef_search means nothing to index=flat"),
        ({"index": "ivf", "backend": "torch"}, "searched by faiss"),
        ({"index": "tree"}, "index cannot be 'tree'"),
        ({"weights": "rank"}, "weights cannot be 'rank'"),
        ({"features": "nope"}, "'nope' cannot be read"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(given, match):
    with pytest.raises(ParameterError, match=match):
        KnnProbe(**given)


def test_more_neighbours_than_support_images_are_refused_with_a_list_that_works(card, digits):
    x, y, _, _ = digits
    with pytest.raises(DataError, match="200 neighbours were asked for, but there are 150") as caught:
        KnnProbe().select_support(y[:150], 0)
    assert caught.value.hint == "take k=1+5+10+20+100"
    KnnProbe(k=(1, 5, 10, 20, 100)).select_support(y[:150], 0)
    with pytest.raises(DataError) as caught:
        KnnProbe().select_support(y[:100], 0)
    assert caught.value.hint == "take k=1+5+10+20+100"
    assert len(KnnProbe(k=(1, 100)).select_support(y[:100], 0)) == 100
    with pytest.raises(DataError, match="but there are 40") as caught:
        KnnProbe(k=(50,), per_class=4).select_support(y, 0)
    assert "up to 40" in caught.value.hint
    with pytest.raises(DataError, match="but there are 0"):
        KnnProbe(per_class=4).select_support(y[:0], 0)
    with pytest.raises(DataError, match="200 neighbours were asked for"):
        KnnProbe().fit(table(x[:150], y[:150]), context(card()))


def test_features_that_are_not_finite_are_refused(card, batch, digits):
    x, y, queries, truth = digits
    spoilt, asked = x.copy(), queries.copy()
    spoilt[3, 5] = np.inf
    asked[2, 0] = np.nan
    with pytest.raises(DataError, match="1 of 1000 support images, such as train-3"):
        KnnProbe().fit(table(spoilt, y), context(card()))
    with pytest.raises(DataError, match="image-2"):
        ask(KnnProbe().fit(table(x, y), context(card())), batch, asked, truth)


def test_other_tables_labels_and_models_are_refused(card, digits):
    x, y, _, _ = digits
    with pytest.raises(HarnessError, match="its own spec"):
        KnnProbe().fit(None, context(card()))
    with pytest.raises(DataError, match="reach from 0 to 9, the dataset has 9"):
        KnnProbe().fit(table(x, y), context(card(), classes=9))
    with pytest.raises(CapabilityError, match="no pooled"):
        KnnProbe().wants(card(pooled=False))
