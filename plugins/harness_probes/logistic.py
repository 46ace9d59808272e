"""Multinomial logistic regression, with its penalty chosen on held-out images."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from harness.errors import HarnessError
from harness.types import Measurement
from harness_probes.held_out import LinearSolution
from harness_probes.ridge import LinearScores

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness_probes.held_out import LinearProblem
    from harness_probes.linear import LinearParams


def solve_logistic(problem: LinearProblem, params: LinearParams) -> LinearSolution:
    """The classifier of all rows, with the best of ``params.c``. Its features are copied into memory as float64.

    The numbers of the fit: ``c``, the one chosen; ``c_not_converged``, how many were left out of the choice since
    L-BFGS did not converge with them; and ``solver_iterations`` of the classifier that is reported.

    Raises :class:`~harness.errors.DataError` where none can be held out to choose on, and
    :class:`~harness.errors.HarnessError` where L-BFGS converges with none, or not on all rows with the one chosen.
    """
    dims = {"seed": problem.seed}
    extra = []
    c = params.c[0]
    if len(params.c) > 1:
        training, held_out = problem.split(params.validation, otherwise="give one value such as c=1")
        c, left_out = _choose(problem, training, held_out, params)
        extra += [
            Measurement(metric="c", dims=dims, value=c, n=len(held_out), unit="", higher_is_better=None),
            Measurement(
                metric="c_not_converged", dims=dims, value=left_out, n=len(params.c), unit="", higher_is_better=None
            ),
        ]
    linear, iterations = _Standardised(problem, problem.rows, params).fit(c)
    extra.append(
        Measurement(
            metric="solver_iterations", dims=dims, value=iterations, n=len(problem.rows), unit="", higher_is_better=None
        )
    )
    return LinearSolution(classifiers=((dims, linear),), extra=tuple(extra))


def _choose(
    problem: LinearProblem,
    training: npt.NDArray[np.int64],
    held_out: npt.NDArray[np.int64],
    params: LinearParams,
) -> tuple[float, int]:
    """The C with the highest accuracy on the held-out rows; of equals the lowest log loss there, then the smallest.

    Also how many were left out, since L-BFGS did not converge with them.
    """
    x, y = problem.features[held_out].astype(np.float64), problem.labels[held_out]
    fits = _Standardised(problem, training, params)
    found: list[tuple[int, float, float]] = []
    failures: list[NotConvergedError] = []
    for c in params.c:
        try:
            linear, _ = fits.fit(c)
        except NotConvergedError as failure:
            failures.append(failure)
            continue
        scores = x @ linear.weight + linear.bias
        hits = int(np.count_nonzero(scores.argmax(axis=1) == y))
        log_loss = -float(log_softmax(scores, axis=1)[np.arange(len(y)), y].mean())
        found.append((-hits, log_loss, c))
    if not found:
        raise failures[0]
    return min(found)[2], len(failures)


class NotConvergedError(HarnessError):
    """L-BFGS stopped before it was done."""


class _Standardised:
    """Images whose features are standardised once, for fits with several C."""

    def __init__(self, problem: LinearProblem, rows: npt.NDArray[np.int64], params: LinearParams) -> None:
        self._x, self._y = problem.features[rows].astype(np.float64), problem.labels[rows]
        self._params = params
        width = self._x.shape[1]
        self._mean, self._scale = np.zeros(width), np.ones(width)
        if params.standardise:
            scaler = StandardScaler(copy=False)
            self._x = scaler.fit_transform(self._x)
            self._mean, self._scale = scaler.mean_, scaler.scale_

    def fit(self, c: float) -> tuple[LinearScores, int]:
        """The classifier for features as they come, and the iterations it took."""
        model = LogisticRegression(C=c, max_iter=self._params.iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.fit(self._x, self._y)
            except ConvergenceWarning as warning:
                raise self._failure(c) from warning
        weight, bias = model.coef_.T, model.intercept_
        if weight.shape[1] == 1:
            # Of two classes scikit-learn gives the difference of their scores.
            weight, bias = np.hstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight / self._scale[:, None]
        return LinearScores(weight=weight, bias=bias - self._mean @ weight), int(model.n_iter_.max())

    def _failure(self, c: float) -> NotConvergedError:
        ways = [f"iterations={10 * self._params.iterations}", "another c"]
        ways += [] if self._params.standardise else ["standardise=true"]
        return NotConvergedError(
            f"linear: logistic regression with c={c:g} has not converged within {self._params.iterations} iterations "
            f"on {self._x.shape[0]} images with {self._x.shape[1]} features",
            hint=f"give {', or '.join(ways)}, or use solver=sgd or solver=ridge",
        )
