"""Heads of episodes against one episode at a time: scikit-learn, a direct solve, and distances by brute force."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from harness.errors import HarnessError
from harness_probes import episode_heads, episode_logistic
from harness_probes.episode_compositions import FixedSampler, MetaDatasetSampler
from harness_probes.episode_heads import fit_all, make_head
from harness_probes.episode_sampling import ask, draw_supports

DIMENSION = 12


def split_of(sizes, seed, dimension=DIMENSION):
    """Features with an offset, structured by class, and labels."""
    generator = np.random.default_rng(seed)
    y = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    means = np.random.default_rng(99).normal(size=(len(sizes), dimension))
    return (2 + means[y] + generator.normal(size=(len(y), dimension))).astype(np.float32), y


def solved(name, sampler, *, metric="euclidean", ridge_lambda=1.0, sizes=(9,) * 8, episodes=12, dimension=DIMENSION):
    """Per episode: support features and labels, and the weights and intercepts found, in order of its classes."""
    x, y = split_of(sizes, 0, dimension)
    _, query = split_of([20] * len(sizes), 1)
    drawn = draw_supports(y, sampler, episodes=episodes, seed=0)
    found = ask(drawn, y[drawn.positions], query, sampler, seed=0)
    head, unit = make_head(name, metric=metric, ridge_lambda=ridge_lambda)
    weights = fit_all(x[drawn.positions], found, head, unit=unit)
    assert weights.unit == unit
    listed = []
    for e in range(len(found)):
        mine = slice(found.first[e], found.first[e + 1])
        places = drawn.positions[found.rows[found.offsets[mine.start] : found.offsets[mine.stop]]]
        assert set(y[places]) == set(found.labels[mine])
        listed.append(
            (x[places].astype(float), y[places], found.labels[mine], weights.weight[mine], weights.bias[mine])
        )
    return listed


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


FIXED = [FixedSampler(ways=5, shots=1, asked=3), FixedSampler(ways=3, shots=5, asked=3)]
META = {"sizes": (9, 3, 12, 30, 7, 1, 22, 15), "episodes": 25}
SAMPLERS = pytest.mark.parametrize(
    ("sampler", "options"), [(FIXED[0], {}), (FIXED[1], {}), (MetaDatasetSampler(), META)], ids=["5x1", "3x5", "meta"]
)


@SAMPLERS
@pytest.mark.parametrize("ridge_lambda", [1.0, 0.01])
def test_ridge_equals_a_direct_solve_of_the_normal_equations(sampler, options, ridge_lambda):
    for x, y, labels, weight, bias in solved("ridge", sampler, ridge_lambda=ridge_lambda, **options):
        design = np.column_stack([unit(x), np.ones(len(x))])
        penalty = ridge_lambda * np.diag([1.0] * DIMENSION + [0.0])
        targets = np.where(y[:, None] == labels, 1.0, -1.0)
        expected = np.linalg.solve(design.T @ design + penalty, design.T @ targets)
        np.testing.assert_allclose(weight, expected[:-1].T, atol=1e-9)
        np.testing.assert_allclose(bias, expected[-1], atol=1e-9)


@SAMPLERS
def test_logistic_equals_scikit_learn_on_every_episode(sampler, options):
    probes = unit(np.random.default_rng(5).normal(size=(50, DIMENSION)))
    for x, y, labels, weight, bias in solved("logistic", sampler, **options):
        # A scaled tolerance: scikit-learn's is that of the largest entry of the gradient over n.
        model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(unit(x), y)
        order = np.searchsorted(model.classes_, labels)
        np.testing.assert_allclose(weight, model.coef_[order], atol=1e-5)
        np.testing.assert_allclose(bias - bias.mean(), (model.intercept_ - model.intercept_.mean())[order], atol=1e-5)
        found = labels[(probes @ weight.T + bias).argmax(axis=1)]
        np.testing.assert_array_equal(found, model.predict(probes))


def test_logistic_has_a_vanishing_gradient():
    for x, y, labels, weight, bias in solved("logistic", MetaDatasetSampler(), **META):
        logits = unit(x) @ weight.T + bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        residual = p / p.sum(axis=1, keepdims=True) - (y[:, None] == labels)
        gradient = np.column_stack([weight + residual.T @ unit(x), residual.sum(axis=0)])
        assert np.linalg.norm(gradient) < 2 * episode_logistic.TOLERANCE


def cross_entropy_with_penalty(flat, *, x, one_hot):
    """Of two classes: their weights and then their intercepts."""
    weight, bias = flat[:-2].reshape(2, -1), flat[-2:]
    logits = x @ weight.T + bias
    return np.logaddexp(*logits.T).sum() - (one_hot * logits).sum() + (weight**2).sum() / 2


def test_two_ways_of_the_logistic_head_are_multinomial_too():
    for x, y, labels, weight, bias in solved("logistic", FixedSampler(ways=2, shots=4, asked=3), episodes=3):
        one_hot = (y[:, None] == labels).astype(float)
        loss = partial(cross_entropy_with_penalty, x=unit(x), one_hot=one_hot)
        found = minimize(loss, np.zeros(2 * DIMENSION + 2), method="BFGS", options={"gtol": 1e-7})
        np.testing.assert_allclose(weight, found.x[:-2].reshape(2, -1), atol=1e-4)
        np.testing.assert_allclose(bias - bias.mean(), found.x[-2:] - found.x[-2:].mean(), atol=1e-4)


@SAMPLERS
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_centroids_decide_as_distances_to_class_means_do(sampler, options, metric):
    queries = 2 + 2 * np.random.default_rng(5).normal(size=(200, DIMENSION))
    for x, y, labels, weight, bias in solved("centroid", sampler, metric=metric, **options):
        if metric == "euclidean":
            means = np.stack([x[y == label].mean(axis=0) for label in labels])
            nearest = ((queries[:, None] - means) ** 2).sum(axis=2)
            scores = queries @ weight.T + bias
            spread = ((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()
            # Score differences are differences of squared distances, in units of the spread.
            np.testing.assert_allclose(
                scores - scores[:, :1], (nearest[:, :1] - nearest) / spread, rtol=1e-7, atol=1e-7
            )
        else:
            means = np.stack([unit(x)[y == label].mean(axis=0) for label in labels])
            scores = unit(queries) @ weight.T + bias
            np.testing.assert_allclose(scores, unit(queries) @ unit(means).T, atol=1e-9)


@pytest.mark.parametrize("name", ["ridge", "logistic", "centroid"])
def test_chunks_do_not_matter(name, monkeypatch):
    whole = solved(name, MetaDatasetSampler(), **META)
    monkeypatch.setattr(episode_heads, "_ELEMENTS", 1)
    for one, other in zip(whole, solved(name, MetaDatasetSampler(), **META), strict=True):
        np.testing.assert_allclose(one[3], other[3], atol=1e-7)
        np.testing.assert_allclose(one[4], other[4], atol=1e-7)


def test_distances_do_not_drown_in_a_long_offset():
    x, y = split_of([9] * 8, 0)
    drawn = draw_supports(y, FIXED[1], episodes=5, seed=0)
    found = ask(drawn, y[drawn.positions], y, FIXED[1], seed=0)
    head, is_unit = make_head("centroid", metric="euclidean", ridge_lambda=1.0)
    exact = np.round(1e4 + x.astype(float) * 64) / 64  # exact in float32, so that both see the same features
    for shift in (0.0, 4096.0):
        weights = fit_all((exact + shift)[drawn.positions].astype(np.float32), found, head, unit=is_unit)
        scores = (exact + shift) @ weights.weight[:3].T + weights.bias[:3]
        if not shift:
            expected = scores - scores[:, :1]
    np.testing.assert_allclose(scores - scores[:, :1], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "metric"),
    [("ridge", "euclidean"), ("logistic", "euclidean"), ("centroid", "euclidean"), ("centroid", "cosine")],
)
def test_features_of_zeros_and_equal_features_give_finite_weights(name, metric):
    _, y = split_of([9] * 8, 0)
    drawn = draw_supports(y, FIXED[1], episodes=5, seed=0)
    found = ask(drawn, y[drawn.positions], y, FIXED[1], seed=0)
    head, is_unit = make_head(name, metric=metric, ridge_lambda=1.0)
    for x in (np.zeros((len(y), 4), np.float32), np.ones((len(y), 4), np.float32)):
        weights = fit_all(x[drawn.positions], found, head, unit=is_unit)
        assert np.isfinite(weights.weight).all()
        assert np.isfinite(weights.bias).all()


def test_a_solution_that_is_not_reached_is_an_error(monkeypatch):
    monkeypatch.setattr(episode_logistic, "_NEWTON_STEPS", 2)
    gram = 10 * torch.eye(4, dtype=torch.float64)[None]
    targets = torch.eye(2, dtype=torch.float64).repeat(2, 1)[None]
    with pytest.raises(HarnessError, match="stopped at a gradient of"):
        episode_logistic.solve_logistic(gram, targets, torch.ones(1, 2, dtype=torch.bool))
