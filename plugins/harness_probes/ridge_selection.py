"""The linear probe's closed form: ridge regression with a penalty that is given, or chosen on held-out images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.types import Measurement
from harness_probes.gram import Moments, blocks
from harness_probes.held_out import LinearSolution
from harness_probes.ridge import LinearScores, fit_ridge
from harness_probes.ridge_path import PENALTIES, RidgePath, best_penalty, ridge_path

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness_probes.held_out import LinearProblem
    from harness_probes.linear import LinearParams


def solve_ridge(problem: LinearProblem, params: LinearParams) -> LinearSolution:
    """The classifier of all rows (:func:`harness_probes.ridge.fit_ridge`), with the penalty given or the best.

    The best has the highest accuracy on the held-out rows when fitted on the others; of equals the largest. Raises
    :class:`~harness.errors.DataError` where none can be held out to choose on.
    """
    dims = {"seed": problem.seed}
    if params.ridge_lambda != "auto":
        return LinearSolution(classifiers=((dims, _fit(problem, params.ridge_lambda)),))
    training, held_out = problem.split(params.validation, otherwise="give a penalty such as ridge_lambda=1024")
    path = _path(problem, training)
    hits = np.zeros(len(PENALTIES), np.int64)
    for part in blocks(held_out, problem.features.shape[1]):
        hits += path.hits(problem.features[part], problem.labels[part], PENALTIES)
    chosen = best_penalty(hits, PENALTIES)
    said = Measurement(metric="ridge_lambda", dims=dims, value=chosen, n=len(held_out), unit="", higher_is_better=None)
    return LinearSolution(classifiers=((dims, _fit(problem, chosen)),), extra=(said,))


def _fit(problem: LinearProblem, ridge_lambda: float) -> LinearScores:
    x, y, rows = problem.features, problem.labels, problem.rows
    if _is_wide(problem, rows):
        return fit_ridge(x[rows], y[rows], num_classes=problem.num_classes, ridge_lambda=ridge_lambda)
    return Moments.of(x, y, rows, num_classes=problem.num_classes).fit(ridge_lambda)


def _path(problem: LinearProblem, rows: npt.NDArray[np.int64]) -> RidgePath:
    x, y = problem.features, problem.labels
    if _is_wide(problem, rows):
        return ridge_path(x[rows], y[rows], num_classes=problem.num_classes)
    return Moments.of(x, y, rows, num_classes=problem.num_classes).path()


def _is_wide(problem: LinearProblem, rows: npt.NDArray[np.int64]) -> bool:
    """Whether there are fewer images than features: then they take less memory than a Gram matrix of the features."""
    return len(rows) < int(problem.features.shape[1])
