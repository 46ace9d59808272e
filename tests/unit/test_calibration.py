"""Likelihood, Brier score and calibration errors against scikit-learn, slow loops over bins, and closed forms."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference
from sklearn.metrics import log_loss

from harness.calibration import (
    adaptive_calibration_error,
    calibration_measurements,
    expected_calibration_error,
    image_scores,
)
from harness.errors import DataError, ParameterError

CLASSES = 7


def problem(seed: int, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, CLASSES, generator=generator), torch.randint(CLASSES, (n,), generator=generator)


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / sum(weights) for weight in weights]


def sample(seed: int, n: int, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, of few values where ``levels`` is given, and outcomes."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(n) if not levels else rng.integers(0, levels + 1, n) / levels
    return confidence.astype(np.float32), rng.random(n) < confidence


# --- per image -------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**20))
def test_scores_of_images_equal_a_slow_loop(seed):
    scores, labels = problem(seed)
    found = image_scores(scores, labels)
    for place, (row, label) in enumerate(zip(scores.double().tolist(), labels.tolist(), strict=True)):
        probabilities = softmax(row)
        assert found.confidence[place].item() == pytest.approx(max(probabilities), rel=1e-6)
        assert found.nll[place].item() == pytest.approx(-math.log(probabilities[label]), rel=1e-6)
        squares = sum((p - (c == label)) ** 2 for c, p in enumerate(probabilities))
        assert found.brier[place].item() == pytest.approx(squares, rel=1e-6)


def test_the_mean_likelihood_is_scikit_learns():
    scores, labels = problem(0)
    expected = log_loss(labels.numpy(), scores.double().softmax(dim=1).numpy(), labels=range(CLASSES))
    assert image_scores(scores, labels).nll.double().mean().item() == pytest.approx(expected, rel=1e-6)


def test_closed_forms():
    uniform = image_scores(torch.zeros(1, 4), torch.tensor([2]))
    assert (uniform.confidence.item(), uniform.brier.item()) == pytest.approx((0.25, 0.75))
    assert uniform.nll.item() == pytest.approx(math.log(4))
    certain = image_scores(torch.tensor([[1000.0, 0.0], [1000.0, 0.0]]), torch.tensor([0, 1]))
    assert certain.confidence.tolist() == [1, 1]
    assert certain.nll.tolist() == [0, 1000]
    assert certain.brier.tolist() == [0, 2]


def test_likelihoods_near_one_do_not_round_to_nothing():
    """In float32 the softmax of a label 20 nats ahead is 1, and its likelihood 0."""
    found = image_scores(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
    assert found.nll.item() == pytest.approx(math.log1p(math.exp(-20)), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), size=st.integers(1, 40), half=st.booleans())
def test_every_image_has_the_same_bits_whatever_the_batch(seed, size, half):
    scores, labels = problem(seed)
    scores = scores.to(torch.bfloat16) if half else scores
    whole = image_scores(scores, labels)
    parts = [image_scores(*part) for part in zip(scores.split(size), labels.split(size), strict=True)]
    for name in ("confidence", "nll", "brier"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert joined.dtype == torch.float32
        assert torch.equal(joined, getattr(whole, name))


def test_scores_and_labels_are_left_alone():
    scores, labels = problem(1)
    before = scores.clone(), labels.clone()
    image_scores(scores, labels)
    assert torch.equal(scores, before[0])
    assert torch.equal(labels, before[1])


# --- calibration errors ----------------------------------------------------------------------------------------


def slow_ece(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Guo et al., equation 3, in exact arithmetic."""
    total = Fraction(0)
    for m in range(1, bins + 1):
        low, high = Fraction(m - 1, bins), Fraction(m, bins)
        inside = [
            (Fraction(float(c)), bool(right))
            for c, right in zip(confidence, correct, strict=True)
            if low < Fraction(float(c)) <= high or (m == 1 and c == 0)
        ]
        if inside:
            accuracy = Fraction(sum(right for _, right in inside), len(inside))
            mean = sum((c for c, _ in inside), Fraction(0)) / len(inside)
            total += Fraction(len(inside), len(confidence)) * abs(accuracy - mean)
    return float(total)


def slow_adaptive(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Images sorted, and dealt into bins that start at the floors of n * m / bins."""
    ranked = sorted(zip(confidence.tolist(), correct.tolist(), strict=True))
    n, total = len(ranked), 0.0
    for m in range(bins):
        inside = ranked[n * m // bins : n * (m + 1) // bins]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / n * abs(accuracy - sum(c for c, _ in inside) / len(inside))
    return total


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(1, 60), bins=st.integers(1, 20), levels=st.sampled_from([0, 15, 20]))
def test_ece_equals_its_definition_also_on_the_edges(seed, n, bins, levels):
    confidence, correct = sample(seed, n, levels)
    found = expected_calibration_error(confidence, correct, bins=bins)
    assert found == pytest.approx(slow_ece(confidence, correct, bins), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(1, 60), bins=st.integers(1, 20))
def test_adaptive_ece_equals_its_definition(seed, n, bins):
    confidence, correct = sample(seed, n)
    filled = min(n, bins)
    found = adaptive_calibration_error(confidence, correct, bins=bins)
    assert found == pytest.approx(slow_adaptive(confidence, correct, filled), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(1, 60), levels=st.integers(1, 4))
def test_the_order_of_the_images_does_not_matter(seed, n, levels):
    confidence, correct = sample(seed, n, levels)
    order = np.random.default_rng(seed).permutation(n)
    for error in (expected_calibration_error, adaptive_calibration_error):
        assert error(confidence[order], correct[order]) == pytest.approx(error(confidence, correct), abs=1e-12)
    # Equal confidences are sorted together, so here not even the last bit may differ.
    assert adaptive_calibration_error(confidence[order], correct[order]) == adaptive_calibration_error(
        confidence, correct
    )


def test_one_confidence_for_all_images_is_one_bin_however_many_there_are():
    """Sorted as they come, the wrong ones first, equal confidences would make bins that are all wrong or all right."""
    confidence, correct = np.full(30, 0.5, np.float32), np.arange(30) >= 15
    assert adaptive_calibration_error(confidence, correct) == 0
    assert expected_calibration_error(confidence, correct) == 0


@pytest.mark.parametrize("error", [expected_calibration_error, adaptive_calibration_error])
def test_known_values(error):
    sure = np.ones(8, np.float32)
    assert error(sure, np.ones(8, bool)) == 0
    assert error(sure, np.zeros(8, bool)) == 1
    assert error(np.zeros(8, np.float32), np.ones(8, bool)) == 1
    # Half of the images 0.9 sure and always right, half 0.6 sure and never.
    confidence = np.repeat(np.float32([0.9, 0.6]), 4)
    assert error(confidence, np.repeat([True, False], 4), bins=2 if error is adaptive_calibration_error else 15) == (
        pytest.approx((0.1 + 0.6) / 2, abs=1e-6)
    )
    # One bin compares the two means.
    assert error(confidence, np.repeat([True, False], 4), bins=1) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("error", [expected_calibration_error, adaptive_calibration_error])
def test_a_calibrated_classifier_has_a_small_error(error):
    confidence, correct = sample(3, 100_000)
    assert error(confidence, correct) < 0.01
    assert error(confidence, ~correct) > 0.3


@pytest.mark.parametrize("error", [expected_calibration_error, adaptive_calibration_error])
def test_mistakes_are_told(error):
    confidence, correct = sample(0, 4)
    with pytest.raises(DataError, match="no images"):
        error(confidence[:0], correct[:0])
    with pytest.raises(ParameterError, match="at least one bin, not 0"):
        error(confidence, correct, bins=0)
    with pytest.raises(ParameterError, match="bool"):
        error(confidence, correct[:3])
    with pytest.raises(ParameterError, match="bool"):
        error(confidence, correct.astype(int))
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ParameterError, match=r"not in \[0, 1\]"):
            error(np.float32([0.5, 0.5, 0.5, bad]), correct)


# --- measurements ----------------------------------------------------------------------------------------------


def measured(n: int, **options):
    scores, labels = problem(5, n)
    of_images = image_scores(scores, labels)
    return calibration_measurements(
        confidence=of_images.confidence.numpy(),
        correct=(scores.argmax(dim=1) == labels).numpy(),
        nll=of_images.nll.numpy(),
        brier=of_images.brier.numpy(),
        **options,
    )


def test_measurements_have_units_directions_and_dims():
    rows = measured(40, dims={"head": "cls"})
    assert [(row.metric, row.unit) for row in rows] == [
        ("nll", "nats"),
        ("ece", "fraction"),
        ("adaptive_ece", "fraction"),
        ("brier", "squared error"),
    ]
    assert all(row.higher_is_better is False and row.dims == {"head": "cls"} and row.n == 40 for row in rows)


def test_means_have_students_interval_and_errors_have_none():
    scores, labels = problem(5, 40)
    values = image_scores(scores, labels).nll.double().numpy()
    nll, ece, adaptive, brier = measured(40)
    low, high = reference.t.interval(0.95, 39, loc=values.mean(), scale=reference.sem(values))
    assert (nll.low, nll.value, nll.high) == pytest.approx((low, values.mean(), high), rel=1e-9)
    assert (nll.interval, brier.interval) == ("t95", "t95")
    assert ece.low is ece.high is ece.interval is adaptive.low is adaptive.interval is None


def test_one_image_has_no_interval():
    nll, _, _, brier = measured(1)
    assert nll.low is nll.high is nll.interval is brier.low is None
    assert nll.n == 1


def test_bins_are_those_asked_for():
    confidence, correct = sample(6, 40)

    def errors(**options):
        rows = calibration_measurements(
            confidence=confidence, correct=correct, nll=confidence, brier=confidence, **options
        )
        return [row.value for row in rows if row.unit == "fraction"]

    assert errors(bins=3) == [
        expected_calibration_error(confidence, correct, bins=3),
        adaptive_calibration_error(confidence, correct, bins=3),
    ]
    assert errors() == errors(bins=15) != errors(bins=3)
