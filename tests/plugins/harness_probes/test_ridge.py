"""Ridge regression: both forms, many penalties, a slow re-implementation, scikit-learn, and the nearly free bias."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from harness_probes.ridge import fit_ridge, solve_dual, solve_primal
from harness_probes.ridge_path import PENALTIES, best_penalty, ridge_path

CLASSES = 4
shapes = [(12, 30), (60, 9), (31, 30), (30, 30)]


def problem(n: int, dim: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    x = generator.normal(size=(n, dim)) * generator.uniform(0.1, 9, dim) + generator.normal(size=dim) * 5
    return (x + labels[:, None] * generator.normal(size=dim)).astype(np.float32), labels


def standardised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = x.astype(np.float64)
    mean = np.array([sum(x[:, d]) / len(x) for d in range(x.shape[1])])
    std = np.array([np.sqrt(sum((x[:, d] - mean[d]) ** 2) / len(x)) for d in range(x.shape[1])]) + 1e-5
    return (x - mean) / std, mean, std


def targets_of(labels) -> np.ndarray:
    return np.array([[1.0 if c == label else -1.0 for c in range(CLASSES)] for label in labels])


def slow_scores(x, labels, queries, ridge_lambda) -> np.ndarray:
    """The definition, word for word: an augmented least-squares problem solved by QR instead of normal equations."""
    z, mean, std = standardised(x)
    z = np.hstack([z, np.full((len(z), 1), 100.0)])
    dim = z.shape[1]
    stacked = np.vstack([z, np.sqrt(ridge_lambda) * np.eye(dim)])
    right = np.vstack([targets_of(labels), np.zeros((dim, CLASSES))])
    w = np.linalg.lstsq(stacked, right, rcond=None)[0]
    return np.array([[sum((q - mean) / std * w[:-1, c]) + 100.0 * w[-1, c] for c in range(CLASSES)] for q in queries])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.floats(1e-2, 1e5), st.integers(0, 99))
def test_primal_equals_dual(n, dim, ridge_lambda, seed):
    generator = np.random.default_rng(seed)
    x, targets = generator.normal(size=(n, dim)), generator.normal(size=(n, 3))
    primal, dual = solve_primal(x, targets, ridge_lambda), solve_dual(x, targets, ridge_lambda)
    np.testing.assert_allclose(primal, dual, rtol=0, atol=1e-9)
    residual = x.T @ (x @ primal - targets) + ridge_lambda * primal
    assert np.abs(residual).max() < 1e-8 * (1 + ridge_lambda)


@pytest.mark.parametrize(("n", "dim"), shapes)
@pytest.mark.parametrize("ridge_lambda", [1.0, 1024.0])
def test_scores_equal_the_definition_solved_another_way(n, dim, ridge_lambda):
    x, labels = problem(n, dim)
    queries = problem(7, dim, seed=1)[0].astype(np.float64)
    linear = fit_ridge(x, labels, num_classes=CLASSES, ridge_lambda=ridge_lambda)
    wanted = slow_scores(x, labels, queries, ridge_lambda)
    np.testing.assert_allclose(queries @ linear.weight + linear.bias, wanted, rtol=0, atol=1e-10)
    assert linear.weight.dtype == np.float64


@pytest.mark.parametrize(("n", "dim"), shapes)
def test_scores_equal_scikit_learn_without_intercept_on_the_extended_features(n, dim):
    x, labels = problem(n, dim)
    z, mean, std = standardised(x)
    reference = Ridge(alpha=1024.0, fit_intercept=False, solver="svd")
    reference.fit(np.hstack([z, np.full((n, 1), 100.0)]), targets_of(labels))
    linear = fit_ridge(x, labels, num_classes=CLASSES, ridge_lambda=1024.0)
    np.testing.assert_allclose(linear.weight, reference.coef_[:, :-1].T / std[:, None], rtol=0, atol=1e-12)
    shifted = 100.0 * reference.coef_[:, -1] - mean @ (reference.coef_[:, :-1].T / std[:, None])
    np.testing.assert_allclose(linear.bias, shifted, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("n", "dim"), shapes)
def test_the_bias_is_nearly_unregularised(n, dim):
    x, labels = problem(n, dim)
    z, _, _ = standardised(x)
    linear = fit_ridge(x, labels, num_classes=CLASSES, ridge_lambda=1024.0)
    scores = x.astype(np.float64) @ linear.weight + linear.bias
    free = Ridge(alpha=1024.0, fit_intercept=True, solver="svd").fit(z, targets_of(labels)).predict(z)
    # The penalty shrinks the bias by n * 100^2 / (n * 100^2 + 1024), less than 1 % from twelve images on.
    np.testing.assert_allclose(scores, free, rtol=0, atol=1024 / (n * 1e4))
    assert np.abs(scores - free).max() > 0


def test_dimensions_that_never_vary_count_for_nothing():
    x, labels = problem(20, 6)
    flat = np.hstack([x, np.full((20, 3), 0.7, np.float32)])
    plain = fit_ridge(x, labels, num_classes=CLASSES, ridge_lambda=1024.0)
    linear = fit_ridge(flat, labels, num_classes=CLASSES, ridge_lambda=1024.0)
    np.testing.assert_allclose(linear.weight[:6], plain.weight, atol=1e-12)
    np.testing.assert_allclose(linear.weight[6:], 0, atol=1e-6)


def test_affine_changes_of_the_features_change_no_score():
    x, labels = problem(40, 8)
    moved = (x * 4 - 2).astype(np.float32)
    plain = fit_ridge(x, labels, num_classes=CLASSES, ridge_lambda=1024.0)
    other = fit_ridge(moved, labels, num_classes=CLASSES, ridge_lambda=1024.0)
    np.testing.assert_allclose(x @ plain.weight + plain.bias, moved @ other.weight + other.bias, atol=1e-4)


def test_the_support_is_left_as_it_was():
    x, labels = problem(12, 5)
    x = x.astype(np.float64)
    before = x.copy()
    fit_ridge(x, labels, num_classes=CLASSES, ridge_lambda=1024.0)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(("n", "dim"), shapes)
@pytest.mark.parametrize("ridge_lambda", [2.0**-10, 1.0, 1024.0, 2.0**20])
def test_one_eigendecomposition_gives_every_penalty(n, dim, ridge_lambda):
    x, labels = problem(n, dim)
    queries = problem(9, dim, seed=1)[0].astype(np.float64)
    linear = ridge_path(x, labels, num_classes=CLASSES).at(ridge_lambda)
    wanted = slow_scores(x, labels, queries, ridge_lambda)
    np.testing.assert_allclose(queries @ linear.weight + linear.bias, wanted, rtol=0, atol=1e-8)
    direct = fit_ridge(x, labels, num_classes=CLASSES, ridge_lambda=ridge_lambda)
    np.testing.assert_allclose(linear.weight, direct.weight, rtol=0, atol=1e-8)
    np.testing.assert_allclose(linear.bias, direct.bias, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("n", "dim"), shapes)
def test_hits_of_the_path_are_those_of_each_classifier(n, dim):
    x, labels = problem(n, dim)
    queries, truth = problem(200, dim, seed=0)
    queries += np.random.default_rng(5).normal(size=queries.shape).astype(np.float32) * 8
    found = ridge_path(x, labels, num_classes=CLASSES).hits(queries, truth, PENALTIES)
    for ridge_lambda, hits in zip(PENALTIES, found, strict=True):
        linear = fit_ridge(x, labels, num_classes=CLASSES, ridge_lambda=ridge_lambda)
        scores = queries.astype(np.float64) @ linear.weight + linear.bias
        assert hits == np.count_nonzero(scores.argmax(axis=1) == truth)
    assert len(set(found.tolist())) > 1


@pytest.mark.parametrize("dim", [5, 40])
def test_features_that_say_nothing_leave_the_path_with_the_bias_alone(dim):
    x, labels = np.full((20, dim), 0.7, np.float32), np.arange(20) % CLASSES
    path = ridge_path(x, labels, num_classes=CLASSES)
    # Scores of all classes are equal, hence the first class, of which every fourth image is.
    assert path.hits(x, labels, PENALTIES).tolist() == [5] * len(PENALTIES)
    np.testing.assert_allclose(x @ path.at(2.0**-10).weight + path.at(2.0**-10).bias, -0.5, atol=1e-6)


def test_values_that_no_support_image_had_are_not_magnified_by_a_small_penalty():
    x, labels = problem(60, 9)
    x[:, 4] = 0
    path = ridge_path(x, labels, num_classes=CLASSES)
    other = x[:5].copy()
    other[:, 4] = 3
    linear = path.at(2.0**-10)
    np.testing.assert_allclose(x[:5] @ linear.weight, other @ linear.weight, rtol=0, atol=1e-6)


def test_candidates_are_powers_of_two_around_the_published_one():
    assert tuple(2.0**e for e in range(-10, 21)) == PENALTIES
    assert 1024.0 in PENALTIES


def test_of_equal_penalties_the_largest_is_best():
    assert best_penalty(np.array([7, 9, 9, 9, 8]), (1.0, 2.0, 4.0, 8.0, 16.0)) == 8.0
    assert best_penalty(np.array([9, 1]), (1.0, 2.0)) == 1.0
