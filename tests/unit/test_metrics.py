"""Top-k and accuracies against slow loops, scikit-learn and hand-made numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from harness import stats
from harness.errors import DataError, ParameterError
from harness.metrics import accuracy_measurement, require_finite, seeds_measurements, topk_correct

# Few distinct values, so that ties are the rule.
tied_rows = st.integers(1, 6).flatmap(
    lambda c: st.lists(
        st.tuples(st.lists(st.integers(-2, 2), min_size=c, max_size=c), st.integers(0, c - 1)), min_size=1, max_size=8
    )
)


@given(tied_rows)
def test_topk_equals_sorting_each_row_by_score_then_index(rows):
    scores = torch.tensor([row for row, _ in rows], dtype=torch.float32)
    labels = torch.tensor([label for _, label in rows])
    ks = range(1, scores.shape[1] + 1)
    found = topk_correct(scores, labels, ks)
    for i, (row, label) in enumerate(rows):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        assert found[:, i].tolist() == [label in order[:k] for k in ks]


@given(tied_rows)
def test_top1_agrees_with_the_first_maximum(rows):
    scores = torch.tensor([row for row, _ in rows], dtype=torch.float32)
    labels = torch.tensor([label for _, label in rows])
    assert torch.equal(topk_correct(scores, labels, (1,))[0], scores.argmax(dim=1) == labels)


def test_topk_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(500, 20, generator=generator)
    labels = torch.randint(0, 20, (500,), generator=generator)
    found = topk_correct(scores, labels, (1, 5)).double().mean(dim=1)
    for k, value in zip((1, 5), found.tolist(), strict=True):
        assert value == top_k_accuracy_score(labels.numpy(), scores.numpy(), k=k, labels=range(20))


def test_equal_scores_are_worth_chance_not_certainty():
    labels = torch.arange(10)
    assert topk_correct(torch.zeros(10, 10), labels, (1, 5)).double().mean(dim=1).tolist() == [0.1, 0.5]


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_classes_is_refused(k):
    with pytest.raises(ParameterError, match=r"\[1, 3\]"):
        topk_correct(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), (k,))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes_are_refused(label):
    with pytest.raises(DataError, match=f"label {label} does not lie"):
        topk_correct(torch.zeros(2, 3), torch.tensor([0, label]), (1,))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_name_their_images(value):
    scores = torch.zeros(3, 2, 4)
    require_finite(scores, ("a", "b", "c"), source="logits of tiny")
    scores[1, 1, 2] = value
    with pytest.raises(DataError) as caught:
        require_finite(scores, ("a", "b", "c"), source="logits of tiny")
    assert caught.value.message == "logits of tiny: NaN or infinite values for 1 of 3 images of a batch: b"
    assert "--precision fp32" in caught.value.hint


def test_accuracy_is_exact_and_carries_the_wilson_interval():
    correct = np.array([True] * 9 + [False])
    row = accuracy_measurement(correct, metric="top1", dims={"head": "cls"})
    assert (row.metric, row.value, row.n, dict(row.dims)) == ("top1", 0.9, 10, {"head": "cls"})
    assert (row.low, row.high, row.interval) == (
        pytest.approx(0.5958, abs=1e-4),
        pytest.approx(0.9821, abs=1e-4),
        "wilson95",
    )
    assert (row.unit, row.higher_is_better) == ("fraction", True)


def test_no_images_is_an_error_not_a_number():
    with pytest.raises(DataError, match="no images"):
        accuracy_measurement(np.empty(0, bool), metric="top1")
    with pytest.raises(DataError, match="no images"):
        seeds_measurements(np.empty((3, 0), bool), metric="accuracy")


def test_only_booleans_count():
    with pytest.raises(ParameterError, match="bool"):
        accuracy_measurement(np.array([0, 1, 5]), metric="top1")


def test_several_seeds_give_the_mean_and_the_deviation_of_the_seeds():
    correct = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]], bool)
    mean, spread = seeds_measurements(correct, metric="accuracy", dims={"shots": 5})
    assert (mean.metric, mean.value, mean.n, dict(mean.dims)) == ("accuracy", 0.5, 4, {"shots": 5})
    interval = stats.bootstrap_mean(correct.mean(axis=0))
    assert (mean.low, mean.high, mean.interval) == (interval.low, interval.high, "bootstrap95")
    assert (spread.metric, spread.value, spread.n) == ("accuracy_seed_std", pytest.approx(0.25), 3)
    assert spread.higher_is_better is None


def test_repeating_a_seed_does_not_narrow_the_interval():
    correct = np.random.default_rng(0).random((1, 200)) < 0.6
    once = stats.bootstrap_mean(correct.astype(float))
    mean, spread = seeds_measurements(np.repeat(correct, 25, axis=0), metric="accuracy")
    assert (mean.low, mean.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert spread.value == 0.0
    assert mean.high - mean.low > 0.1


def test_one_seed_is_a_proportion():
    correct = np.array([[True, False, True, True]])
    assert seeds_measurements(correct, metric="accuracy") == (accuracy_measurement(correct[0], metric="accuracy"),)
