"""Ridge regression to one-hot targets, as big_vision's few-shot evaluator defines it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
    import numpy.typing as npt

BIAS = 100.0
"""The constant feature: so large that its weight, the bias, is nearly unregularised."""
STD_FLOOR = 1e-5
"""What is added to every standard deviation, so that a feature that never varies can be divided by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScores:
    """``features @ weight + bias``: ``weight`` (D, C) and ``bias`` (C,), float64, for features as they come."""

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]


def fit_ridge(
    features: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], *, num_classes: int, ridge_lambda: float
) -> LinearScores:
    """The linear classifier of ``features`` (n, D) and ``labels`` (n,) in [0, num_classes), computed in float64.

    Standardise each dimension by the mean and the population standard deviation (plus 1e-5) of these features; append
    the constant 100; regress targets of +1 for the class and -1 for the others with penalty ``ridge_lambda`` on every
    weight (google-research/big_vision, ``evaluators/fewshot_lsr.py``). The standardisation is then folded into the
    result.
    """
    x = features.astype(np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0) + STD_FLOOR
    x -= mean
    x /= std
    x = np.column_stack([x, np.full(len(x), BIAS)])
    targets = np.full((len(x), num_classes), -1.0)
    targets[np.arange(len(x)), labels] = 1.0
    solve = solve_primal if x.shape[0] >= x.shape[1] else solve_dual
    solution = solve(x, targets, ridge_lambda)
    weight = solution[:-1] / std[:, None]
    return LinearScores(weight=weight, bias=BIAS * solution[-1] - mean @ weight)


def solve_primal(
    x: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], ridge_lambda: float
) -> npt.NDArray[np.float64]:
    """``(X'X + lambda I)^-1 X'Y`` for X (n, D), Y (n, C): (D, C). The cheaper form where n >= D."""
    gram = x.T @ x
    gram.flat[:: len(gram) + 1] += ridge_lambda
    return np.asarray(cho_solve(cho_factor(gram, lower=True), x.T @ targets))


def solve_dual(
    x: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], ridge_lambda: float
) -> npt.NDArray[np.float64]:
    """``X' (XX' + lambda I)^-1 Y``: the same (D, C) as :func:`solve_primal`, the cheaper form where n < D."""
    gram = x @ x.T
    gram.flat[:: len(gram) + 1] += ridge_lambda
    return np.asarray(x.T @ cho_solve(cho_factor(gram, lower=True), targets))
