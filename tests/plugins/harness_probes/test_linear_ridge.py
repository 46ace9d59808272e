"""Ridge regression of the linear probe: block by block, for every penalty at once, and its choice."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from harness_probes import gram
from harness_probes.gram import Moments, blocks
from harness_probes.held_out import LinearProblem, is_held_out
from harness_probes.linear import LinearParams
from harness_probes.ridge import fit_ridge
from harness_probes.ridge_path import PENALTIES
from harness_probes.ridge_selection import solve_ridge


def problem(*, every: int = 1, width: int = 64) -> LinearProblem:
    """Digits and, beyond 64 features, products of their pixels."""
    x, y = load_digits(return_X_y=True)
    x, y = x[:600].astype(np.float32), y[:600].astype(np.int64)
    more = x[:, :40] * x[:, 20:60]
    x = np.hstack([x, more, more**2])[:, :width]
    return LinearProblem(features=x, labels=y, rows=np.arange(0, 600, every), num_classes=10, seed=1)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, the last one incomplete."""
    monkeypatch.setattr(gram, "_NUMBERS_AT_ONCE", 64 * 7)


@pytest.mark.parametrize("ridge_lambda", [2.0**-10, 1.0, 1024.0, 2.0**20])
def test_moments_over_blocks_give_the_ridge_of_the_whole(small_blocks, ridge_lambda):
    p = problem(every=3)
    moments = Moments.of(p.features, p.labels, p.rows, num_classes=10)
    wanted = fit_ridge(p.features[p.rows], p.labels[p.rows], num_classes=10, ridge_lambda=ridge_lambda)
    q = p.features[1::3]
    for linear in (moments.fit(ridge_lambda), moments.path().at(ridge_lambda)):
        np.testing.assert_allclose(q @ linear.weight + linear.bias, q @ wanted.weight + wanted.bias, atol=1e-8)


def test_blocks_hold_every_row_once_and_no_more_than_allowed():
    rows = np.arange(5, 10**6)
    parts = list(blocks(rows, 100))
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    assert max(len(part) for part in parts) * 100 * 8 <= 2**25


@pytest.mark.parametrize(("every", "width"), [(2, 64), (8, 140)])
def test_the_penalty_is_the_best_on_the_held_out_part_and_then_refitted_on_all(every, width):
    p = problem(every=every, width=width)
    solution = solve_ridge(p, LinearParams(solver="ridge", validation=0.4))
    out = is_held_out(p.labels[p.rows], 0.4, p.seed)
    hits = {}
    for ridge_lambda in PENALTIES:
        training, held_out = p.rows[~out], p.rows[out]
        linear = fit_ridge(p.features[training], p.labels[training], num_classes=10, ridge_lambda=ridge_lambda)
        scores = p.features[held_out].astype(np.float64) @ linear.weight + linear.bias
        hits[ridge_lambda] = int((scores.argmax(1) == p.labels[held_out]).sum())
    assert len(set(hits.values())) > 3
    chosen = max(penalty for penalty, found in hits.items() if found == max(hits.values()))
    (row,) = solution.extra
    assert (row.metric, row.value, dict(row.dims), row.n) == ("ridge_lambda", chosen, {"seed": 1}, int(out.sum()))
    assert (row.unit, row.higher_is_better) == ("", None)
    ((_, linear),) = solution.classifiers
    wanted = fit_ridge(p.features[p.rows], p.labels[p.rows], num_classes=10, ridge_lambda=chosen)
    q = p.features[:50].astype(np.float64)
    np.testing.assert_allclose(q @ linear.weight + linear.bias, q @ wanted.weight + wanted.bias, rtol=0, atol=1e-8)


def test_a_given_penalty_is_used_as_it_is():
    p = problem(every=4)
    solution = solve_ridge(p, LinearParams(solver="ridge", ridge_lambda=8.0))
    assert solution.extra == ()
    ((dims, linear),) = solution.classifiers
    wanted = fit_ridge(p.features[p.rows], p.labels[p.rows], num_classes=10, ridge_lambda=8.0)
    np.testing.assert_allclose(linear.weight, wanted.weight, rtol=0, atol=1e-9)
    assert dims == {"seed": 1}
