"""Retention: what a sweep over the levels of a perturbation leaves of the clean accuracy, in all and by class."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from harness.protocols import INFORMATION_LOSS
from harness.retention_curve import curves
from harness.stats import area_under_curve, chance_corrected, first_fall
from harness.types import Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from harness.protocols import SummaryInput
    from harness.retention_curve import Curve
    from harness.types import JSONScalar


class Retention:
    """How much of the clean accuracy is left along the levels of a perturbation, and what sums that curve up.

    Per row of the probe (each head; each number of shots, its seeds averaged), with a the accuracy, a0 the clean one
    and c = 1 / classes of the dataset, since no classifier falls below chance for long:

    * ``accuracy`` per ``level``: a; ``retention``: a / a0; ``retention_chance_corrected``: (a - c) / (a0 - c);
    * ``information_loss`` per ``level``: the mean over images of what was really taken away, where that is recorded;
    * ``accuracy_area``, ``retention_area``, ``retention_area_chance_corrected``: area under the curve of accuracy and
      of the two retentions, trapezoids over the realised information loss, divided by the range covered; the clean
      point at loss 0 belongs to the curve;
    * ``half_accuracy_loss``: the information loss at which half of the clean accuracy is left, where the line through
      the points first falls to a0 / 2; ``half_accuracy_loss_chance_corrected``: to half-way between a0 and c;
    * ``class_retention`` per ``level`` and ``class`` (its index in the dataset): a / a0 of the images of that class.

    The dimension ``axis`` of areas and half losses says what the curve runs over: ``information_loss``, or ``level``
    where the perturbation records no loss. Over levels the clean point is left out, since nothing says at which level
    it lies.

    All numbers speak of the images that every cell has answered; ``n`` is their number. Seeds of the perturbation are
    averaged within each image, then images are resampled (``bootstrap95``), those of a class for numbers of the class;
    losses are taken as given. Where groups of images share masks (the realised ``mask_group``) they are no independent
    units, and groups are resampled as :func:`~harness.stats.resampled_cluster_means` does; a number that only one
    group has answered has no interval then, and one from few groups too narrow a one. Points of equal loss are
    averaged.

    Nothing is extrapolated or filled in. A ratio whose denominator vanishes (clean accuracy zero, or not above chance)
    is left out, and so is a half loss where the curve stays above the half, or lies below it from its first point on.
    A resample whose curve stays above the half counts as one beyond the last point, so that an interval has both ends
    while few of them do; where an end is among those, or a ratio of a resample has no denominator, there is none.
    """

    def compute(self, group: Sequence[SummaryInput], clean: SummaryInput | None) -> list[Measurement]:
        """The measurements above; none without a clean record or where the probe does not classify."""
        if clean is None:
            return []
        measurements: list[Measurement] = []
        for curve in curves(clean, group):
            measurements += _measure(curve, 1 / int(clean.record.cell["num_classes"]))
            measurements += _measure_classes(curve)
        return measurements


def _measure(curve: Curve, chance: float) -> list[Measurement]:
    """The numbers of one curve, each with an interval over the same resampled images."""
    accuracy = curve.correct.mean(axis=1)
    clean = float(accuracy[0])
    resampled = curve.resampled()
    n = curve.correct.shape[1]
    measurements = []

    def add(
        metric: str,
        dims: Mapping[str, JSONScalar],
        value: float,
        draws: npt.NDArray[np.float64],
        unit: str = "fraction",
    ) -> None:
        ((low, high),) = _percentile_intervals(draws[:, None])
        interval = None if low is None else "bootstrap95"
        measurements.append(
            Measurement(
                metric=metric, value=value, n=n, dims={**curve.dims, **dims}, low=low, high=high, interval=interval,
                unit=unit,
            )
        )  # fmt: skip

    for row, level in enumerate(curve.levels, start=1):
        if curve.losses is not None:
            measurements.append(
                Measurement(
                    metric=INFORMATION_LOSS,
                    value=curve.losses[row - 1],
                    n=n,
                    dims={**curve.dims, "level": level},
                    higher_is_better=None,
                )
            )
        value, draws = float(accuracy[row]), resampled[:, row]
        add("accuracy", {"level": level}, value, draws)
        if clean > 0:
            add("retention", {"level": level}, value / clean, _ratio(draws, resampled[:, 0]))
        if clean > chance:
            corrected = _ratio(draws - chance, resampled[:, 0] - chance)
            add("retention_chance_corrected", {"level": level}, chance_corrected(value, clean, chance), corrected)
    places, rows = curve.points()
    if len(places) < 2:
        return measurements
    axis = {"axis": curve.axis}
    heights = _at(rows, accuracy[None])
    drawn = _at(rows, resampled)
    area, areas = area_under_curve(places, heights[0].tolist()), _areas(places, drawn)
    add("accuracy_area", axis, area, areas)
    if clean > 0:
        add("retention_area", axis, area / clean, _ratio(areas, resampled[:, 0]))
    if clean > chance:
        # The area is linear in the accuracies, so correcting it is correcting each point.
        add(
            "retention_area_chance_corrected",
            axis,
            chance_corrected(area, clean, chance),
            _ratio(areas - chance, resampled[:, 0] - chance),
        )
    unit = "fraction" if curve.losses is not None else "level"
    for metric, floor in (("half_accuracy_loss", 0.0), ("half_accuracy_loss_chance_corrected", chance)):
        (value,) = first_fall(places, heights, _half_way(accuracy[:1], floor)).tolist()
        if math.isfinite(value):
            add(metric, axis, value, first_fall(places, drawn, _half_way(resampled[:, 0], floor)), unit)
    return measurements


def _measure_classes(curve: Curve) -> list[Measurement]:
    """Retention within each class, over resamples of its own images."""
    measurements = []
    for label, own in curve.classes():
        accuracy = own.correct.mean(axis=1).tolist()
        if accuracy[0] == 0:
            continue
        resampled = own.resampled()
        intervals = _percentile_intervals(_ratio(resampled[:, 1:], resampled[:, :1]))
        measurements += [
            Measurement(
                metric="class_retention",
                value=value / accuracy[0],
                n=own.correct.shape[1],
                dims={**own.dims, "level": level, "class": label},
                low=low,
                high=high,
                interval=None if low is None else "bootstrap95",
            )
            for level, value, (low, high) in zip(own.levels, accuracy[1:], intervals, strict=True)
        ]
    return measurements


def _percentile_intervals(draws: npt.NDArray[np.float64]) -> list[tuple[float, float] | tuple[None, None]]:
    """Of each column of ``draws`` (R, K); without ends where a draw is NaN, or an end infinite."""
    import numpy as np

    ends = np.full((draws.shape[1], 2), np.nan)
    whole = np.isfinite(draws).all(axis=0)
    # Columns as rows of their own: each is sorted where it lies.
    ends[whole] = np.quantile(np.ascontiguousarray(draws[:, whole].T), [0.025, 0.975], axis=1).T
    for column in np.flatnonzero(~whole & ~np.isnan(draws).any(axis=0)):
        # Draws themselves: nothing can be interpolated towards one that lies at infinity.
        found = np.quantile(draws[:, column], [0.025, 0.975], method="inverted_cdf")
        if np.isfinite(found).all():
            ends[column] = found
    return [(None, None) if math.isnan(low) else (low, high) for low, high in ends.tolist()]


def _ratio(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Element by element; NaN where the denominator is not positive."""
    import numpy as np

    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _at(rows: Sequence[Sequence[int]], accuracies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Heights (R, K) of the curve at its K places from accuracies (R, 1 + L): the means of the rows at each."""
    import numpy as np

    return np.stack([accuracies[:, at].mean(axis=1) for at in rows], axis=1)


def _half_way(clean: npt.NDArray[np.float64], floor: float) -> npt.NDArray[np.float64]:
    """Half-way from ``clean`` (R,) down to ``floor``; NaN where it does not lie above that."""
    import numpy as np

    return np.where(clean > floor, (clean + floor) / 2, np.nan)


def _areas(places: Sequence[float], heights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """:func:`~harness.stats.area_under_curve` for every resample: heights (R, K) at the K places."""
    import numpy as np

    total = np.zeros(len(heights))
    for place, (left, right) in enumerate(pairwise(places)):
        total += (right - left) / 2 * (heights[:, place] + heights[:, place + 1])
    areas: npt.NDArray[np.float64] = total / (places[-1] - places[0])
    return areas
