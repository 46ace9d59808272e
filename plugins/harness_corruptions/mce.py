"""Mean corruption error and relative mean corruption error: pure functions of error rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import ParameterError
from harness_corruptions.alexnet import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS
from harness_corruptions.parameters import SEVERITY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

BENCHMARK_CORRUPTIONS = tuple(ALEXNET_ERRORS)
"""The 15 corruptions that mCE is the mean over."""


def mce(errors: Mapping[str, Sequence[float]], baseline: Mapping[str, Sequence[float]] = ALEXNET_ERRORS) -> float:
    """Mean corruption error in percent: the mean over the 15 corruptions of sum(errors) / sum(errors of the baseline).

    ``errors`` and ``baseline``: top-1 error in [0, 1] at severities 1 to 5, by corruption; further corruptions are no
    part of it. Hendrycks and Dietterich (arXiv 1903.12261), section 4.1. With AlexNet as the baseline the errors must
    be those on the published files of ImageNet-C. Raises :class:`~harness.errors.ParameterError` for a corruption or
    severity that is missing and for a baseline without errors.

    >>> mce(ALEXNET_ERRORS)
    100.0
    """
    return _defined("mCE", benchmark_mean(normalised(means(errors), means(baseline))))


def relative_mce(
    errors: Mapping[str, Sequence[float]],
    clean_error: float,
    baseline: Mapping[str, Sequence[float]] = ALEXNET_ERRORS,
    baseline_clean_error: float = ALEXNET_CLEAN_ERROR,
) -> float:
    """Relative mCE in percent: as :func:`mce` of what each error exceeds the clean error by, in model and baseline.

    The same paper and section. Raises as :func:`mce` does, and for a baseline that a corruption costs nothing.

    >>> relative_mce(ALEXNET_ERRORS, ALEXNET_CLEAN_ERROR)
    100.0
    """
    own, other = means(errors), means(baseline)
    return _defined(
        "relative mCE", benchmark_mean(normalised(excess(own, clean_error), excess(other, baseline_clean_error)))
    )


def means(errors: Mapping[str, Sequence[float]]) -> dict[str, npt.NDArray[np.float64]]:
    """Mean error (1,) over the severities of each corruption. Raises :class:`ParameterError` unless there are five."""
    for corruption, row in errors.items():
        if len(row) != len(SEVERITY.values):
            raise ParameterError(f"{corruption}: {len(row)} errors, not one for each of 5 severities")
    return {corruption: np.array([sum(row) / len(row)], np.float64) for corruption, row in errors.items()}


def excess(errors: Mapping[str, npt.NDArray[np.float64]], clean: Any) -> dict[str, npt.NDArray[np.float64]]:
    """By how much each mean error (R,) exceeds the ``clean`` one, a number or (R,)."""
    return {corruption: error - clean for corruption, error in errors.items()}


def normalised(
    errors: Mapping[str, npt.NDArray[np.float64]], baseline: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, npt.NDArray[np.float64]]:
    """100 errors / baseline of the corruptions that both have, (R,) or what broadcasts to it.

    NaN where the baseline is not positive: nothing can be divided by no errors.
    """
    found = {}
    for corruption in (name for name in errors if name in baseline):
        own, other = np.broadcast_arrays(errors[corruption], baseline[corruption])
        ratio = np.full(own.shape, np.nan)
        np.divide(own, other, out=ratio, where=other > 0)
        found[corruption] = 100 * ratio
    return found


def benchmark_mean(values: Mapping[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64] | None:
    """Mean (R,) over the 15 corruptions and no other, all of one shape (R,); None unless all of them are there."""
    if not values.keys() >= set(BENCHMARK_CORRUPTIONS):
        return None
    mean: npt.NDArray[np.float64] = np.stack([values[name] for name in BENCHMARK_CORRUPTIONS]).mean(axis=0)
    return mean


def _defined(name: str, value: npt.NDArray[np.float64] | None) -> float:
    if value is None:
        raise ParameterError(
            f"{name} is a mean over 15 corruptions, and not all are there", hint=f"{BENCHMARK_CORRUPTIONS}"
        )
    if not np.isfinite(value).all():
        raise ParameterError(f"{name}: a baseline that loses nothing to a corruption cannot be divided by")
    return float(value[0])
