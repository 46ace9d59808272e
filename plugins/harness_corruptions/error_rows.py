"""Measurements of errors under corruptions: un-normalised, and in proportion to those of baseline models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.types import Measurement
from harness_corruptions.mce import benchmark_mean, excess, normalised
from harness_corruptions.paired_errors import CLEAN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.types import JSONScalar
    from harness_corruptions.paired_errors import PairedErrors, Series


def measured(
    metric: str, series: Series | None, errors: PairedErrors, dims: Mapping[str, JSONScalar], *, unit: str = "percent"
) -> list[Measurement]:
    """The number of ``series`` with a percentile interval over its resamples.

    None where the number is not known, and no interval where that of some resample is not.
    """
    if series is None or not np.isfinite(series[0]):
        return []
    low = high = None
    if np.isfinite(series[1:]).all():
        low, high = np.quantile(series[1:], [0.025, 0.975]).tolist()
    return [
        Measurement(
            metric=metric,
            value=float(series[0]),
            n=errors.images,
            dims={**errors.dims, **dims},
            low=low,
            high=high,
            interval=None if low is None else "bootstrap95",
            unit=unit,
            higher_is_better=False,
        )
    ]


def rows_of_means(errors: PairedErrors, dims: Mapping[str, JSONScalar]) -> list[Measurement]:
    """Means over the 15: ``mce_vs_NAME`` and ``relative_mce_vs_NAME``, then ``mean_corruption_error``."""
    rows: list[Measurement] = []
    for name, (mine, theirs) in errors.beside.items():
        rows += measured(f"mce_vs_{name}", benchmark_mean(normalised(mine, theirs)), errors, dims)
        if CLEAN in mine and CLEAN in theirs:
            ratios = normalised(excess(mine, mine[CLEAN]), excess(theirs, theirs[CLEAN]))
            rows += measured(f"relative_mce_vs_{name}", benchmark_mean(ratios), errors, dims)
    return rows + measured("mean_corruption_error", benchmark_mean(errors.own), errors, dims, unit="fraction")


def rows_of_corruption(errors: PairedErrors, corruption: str, dims: Mapping[str, JSONScalar]) -> list[Measurement]:
    """``corruption_error`` and ``corruption_error_vs_NAME`` of one corruption."""
    dims = {"corruption": corruption, **dims}
    rows = measured("corruption_error", errors.own.get(corruption), errors, dims, unit="fraction")
    for name, (mine, theirs) in errors.beside.items():
        ratio = normalised(mine, theirs).get(corruption)
        rows += measured(f"corruption_error_vs_{name}", ratio, errors, dims)
    return rows
