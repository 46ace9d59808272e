"""Verdicts: what the difference of two measurements says of a prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from harness.errors import DataError
from harness.stats import Interval, bootstrap_mean, bootstrap_statistic
from harness_mini.study.measures import Values
from harness_mini.study.predictions import Direction, Prediction
from harness_mini.study.shape_bias import ShapeBias

Sides: TypeAlias = tuple[Values, Values]
"""Values of either side for the same images, in the same order."""

Verdict = Literal["reproduced", "opposite", "undecided", "not measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one prediction: both sides' values, their difference with its interval, and the verdict."""

    name: str
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    interval: str
    n: int
    verdict: Verdict
    note: str = ""


def verdict(low: float, high: float, direction: Direction) -> Verdict:
    """``reproduced`` where the whole interval lies on the predicted side of zero, ``opposite`` on the other."""
    if low > 0:
        return "reproduced" if direction == "greater" else "opposite"
    if high < 0:
        return "reproduced" if direction == "less" else "opposite"
    return "undecided"


def welch_interval(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Welch's t interval for the difference of two means of independent runs (Welch, Biometrika 1947).

    Raises :class:`~harness.errors.DataError` for runs that do not differ at all, which tell nothing of their spread.
    """
    from scipy.special import stdtrit

    a, b = np.asarray(first), np.asarray(second)
    parts = [values.var(ddof=1) / len(values) for values in (a, b)]
    spread = math.sqrt(sum(parts))
    difference = float(a.mean() - b.mean())
    if spread == 0:
        raise DataError("runs that do not differ have no interval", hint="are they copies of one run?")
    freedom = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (a, b), strict=True))
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * spread
    return Interval(difference - half, difference + half, f"welch{100 * confidence:.0f}")


def of_architectures(prediction: Prediction, per_seed: tuple[Sequence[float], Sequence[float]]) -> Finding:
    """A finding on two architectures from one value for each training seed."""
    first, second = per_seed
    _require_numbers(prediction, first, second)
    enough = min(len(first), len(second)) >= 3
    spread = max(np.ptp(first), np.ptp(second)) > 0
    interval = welch_interval(first, second) if enough and spread else None
    note = "" if interval else "the seeds do not differ, so nothing is known of their spread"
    return Finding(
        name=prediction.name,
        first=float(np.mean(first)),
        second=float(np.mean(second)),
        difference=float(np.mean(first) - np.mean(second)),
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        interval="none" if interval is None else interval.method,
        n=min(len(first), len(second)),
        verdict=verdict(interval.low, interval.high, prediction.direction)
        if interval
        else "undecided"
        if enough
        else "not measured",
        note=note if enough else "needs three training seeds of either side: --replicas",
    )


def of_checkpoints(prediction: Prediction, sides: Sides) -> Finding:
    """A finding on two checkpoints, or two questions to one, from values of the same images."""
    first, second = sides
    interval = bootstrap_mean(first - second)
    return _checkpoint_finding(prediction, float(first.mean()), float(second.mean()), interval, len(first))


def _checkpoint_finding(prediction: Prediction, first: float, second: float, interval: Interval, n: int) -> Finding:
    return Finding(
        name=prediction.name,
        first=first,
        second=second,
        difference=first - second,
        low=interval.low,
        high=interval.high,
        interval=interval.method,
        n=n,
        verdict=verdict(interval.low, interval.high, prediction.direction),
    )


def of_biases(prediction: Prediction, first: ShapeBias, second: ShapeBias) -> Finding:
    """A finding on the shape bias of two checkpoints; images are resampled for both at once."""
    _require_numbers(prediction, [first.value], [second.value])
    rows = np.stack([first.by_shape, first.by_texture, second.by_shape, second.by_texture])

    def difference(means: Values) -> Values:
        return np.asarray(means[:, 0] / (means[:, 0] + means[:, 1]) - means[:, 2] / (means[:, 2] + means[:, 3]))

    interval = bootstrap_statistic(rows, difference)
    return _checkpoint_finding(prediction, first.value, second.value, interval, rows.shape[1])


def of_unpaired(prediction: Prediction, first: Values, second: Values) -> Finding:
    """A finding on two checkpoints from values of different images."""
    _require_numbers(prediction, first, second)
    interval = unpaired_bootstrap(first, second)
    return _checkpoint_finding(
        prediction, float(first.mean()), float(second.mean()), interval, min(len(first), len(second))
    )


def _require_numbers(prediction: Prediction, first: Sequence[float] | Values, second: Sequence[float] | Values) -> None:
    """Raise :class:`~harness.errors.DataError` for a side without a value, or with one that is not finite."""
    for name, values in ((prediction.first, first), (prediction.second, second)):
        if not len(values) or not np.isfinite(values).all():
            raise DataError(
                f"{prediction.name}: {prediction.quantity} is no number for {name}",
                hint="is it trained? A ratio needs a denominator: a decision for either cue, an image that is right",
            )


def unpaired_bootstrap(first: Values, second: Values, resamples: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap for the difference of the means of two independent sets of images."""
    random = np.random.default_rng(seed)
    means = [
        values[random.integers(0, len(values), (resamples, len(values)))].mean(axis=1) for values in (first, second)
    ]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return Interval(float(low), float(high), "bootstrap95")
