"""Retention: what a sweep over the levels of a perturbation leaves of the clean accuracy, and the areas under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from harness.stats import area_under_curve, chance_corrected, resampled_means
from harness.types import Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from harness.protocols import Outcomes, SummaryInput
    from harness.types import JSONScalar

INFORMATION_LOSS = "information_loss"
"""The realised quantity of an image that curves are drawn over: the share of it that was taken away."""


class Retention:
    """How much of the clean accuracy is left along the levels of a perturbation, and the areas under that curve.

    Per row of the probe (each head; each number of shots, its seeds averaged):

    * ``retention`` per ``level``: accuracy over clean accuracy;
    * ``information_loss`` per ``level``: the mean over images of what was really taken away, where that is recorded;
    * ``accuracy_area``, ``retention_area``: area under the curve of accuracy and of retention, trapezoids over the
      realised information loss, divided by the range covered; the clean point at loss 0 belongs to the curve;
    * ``retention_area_chance_corrected``: the same of (a - c) / (a0 - c) with c = 1 / classes of the dataset, since no
      classifier falls below chance for long.

    The dimension ``axis`` of the areas says what the curve runs over: ``information_loss``, or ``level`` where the
    perturbation records no loss. Over levels the clean point is left out, since nothing says at which level it lies.

    All numbers speak of the images that every cell has answered; ``n`` is their number. Seeds of the perturbation are
    averaged within each image, then images are resampled (``bootstrap95``); losses are taken as given. A ratio whose
    denominator vanishes (clean accuracy zero, or not above chance) is left out, and its interval is where that
    happens among the resamples. Points of equal loss are averaged.
    """

    def compute(self, group: Sequence[SummaryInput], clean: SummaryInput | None) -> list[Measurement]:
        """The measurements above; none without a clean record or where the probe does not classify."""
        if clean is None or not _classifies(clean):
            return []
        cells = [item for item in group if _classifies(item) and item.record.cell["level"] is not None]
        images = _common_images([clean, *cells])
        if not cells or not len(images):
            return []
        num_classes = int(clean.record.cell["num_classes"])
        measurements: list[Measurement] = []
        for dims in _rows(clean):
            curve = _curve(dims, clean, cells, images)
            if curve is not None:
                measurements += _measure(curve, num_classes)
        return measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """One row of a probe along the levels: accuracy per image (1 + L, N), the clean one first, and losses (L,)."""

    dims: Mapping[str, JSONScalar]
    levels: tuple[float, ...]
    correct: npt.NDArray[np.float64]
    losses: tuple[float, ...] | None

    @property
    def axis(self) -> str:
        return "level" if self.losses is None else INFORMATION_LOSS

    def points(self) -> tuple[list[float], list[list[int]]]:
        """The curve's places on its axis, strictly rising, and the rows of ``correct`` to average at each."""
        rows_at: dict[float, list[int]] = {}
        for row, place in enumerate(self.levels if self.losses is None else self.losses, start=1):
            rows_at.setdefault(place, []).append(row)
        if self.losses is not None and min(rows_at) > 0:
            rows_at[0.0] = [0]
        places = sorted(rows_at)
        return places, [rows_at[place] for place in places]


def _classifies(item: SummaryInput) -> bool:
    return item.outcomes is not None and "correct" in item.outcomes.columns


def _outcomes(item: SummaryInput) -> Outcomes:
    return cast("Outcomes", item.outcomes)


def _common_images(cells: Sequence[SummaryInput]) -> npt.NDArray[np.int64]:
    """Positions of the images that every cell holds, rising."""
    import numpy as np

    common = _outcomes(cells[0]).positions
    for cell in cells[1:]:
        positions = _outcomes(cell).positions
        if not np.array_equal(common, positions):
            common = np.intersect1d(common, positions, assume_unique=True)
    return common


def _row_dims(variant: Mapping[str, JSONScalar]) -> dict[str, JSONScalar]:
    return {name: value for name, value in variant.items() if name != "seed"}


def _rows(clean: SummaryInput) -> list[dict[str, JSONScalar]]:
    rows: list[dict[str, JSONScalar]] = []
    for variant in _outcomes(clean).variants:
        if (dims := _row_dims(variant)) not in rows:
            rows.append(dims)
    return rows


def _correct(
    item: SummaryInput, dims: Mapping[str, JSONScalar], images: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64] | None:
    """Share of the row's variants that are right, per image (N,); None if the cell lacks the row."""
    import numpy as np

    outcomes = _outcomes(item)
    variants = [place for place, variant in enumerate(outcomes.variants) if _row_dims(variant) == dims]
    if not variants:
        return None
    correct, places = outcomes.columns["correct"], _places(outcomes, images)
    # Counts are whole numbers: their mean does not depend on the order of summation.
    hits = np.zeros(len(images), np.float64)
    for variant in variants:
        hits += correct[variant][places]
    return hits / len(variants)


def _places(outcomes: Outcomes, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | slice:
    """Where ``images`` stand among the positions of ``outcomes``; most often they are all of them."""
    import numpy as np

    if len(images) == len(outcomes.positions):
        return slice(None)
    return np.searchsorted(outcomes.positions, images)


def _loss(item: SummaryInput, images: npt.NDArray[np.int64]) -> float | None:
    import numpy as np

    outcomes = _outcomes(item)
    if INFORMATION_LOSS not in outcomes.columns:
        return None
    places = _places(outcomes, images)
    return float(outcomes.columns[INFORMATION_LOSS][0][places].mean(dtype=np.float64))


def _curve(
    dims: Mapping[str, JSONScalar],
    clean: SummaryInput,
    cells: Sequence[SummaryInput],
    images: npt.NDArray[np.int64],
) -> _Curve | None:
    import numpy as np

    totals: dict[float, npt.NDArray[np.float64]] = {}
    losses: dict[float, list[float | None]] = {}
    for item in cells:
        if (shares := _correct(item, dims, images)) is not None:
            level = float(item.record.cell["level"])
            totals[level] = shares if level not in totals else totals[level] + shares
            losses.setdefault(level, []).append(_loss(item, images))
    base = _correct(clean, dims, images)
    if not totals or base is None:
        return None
    levels = tuple(sorted(totals))
    known = [[loss for loss in losses[level] if loss is not None] for level in levels]
    complete = all(len(found) == len(losses[level]) for found, level in zip(known, levels, strict=True))
    correct = np.empty((1 + len(levels), len(images)))
    correct[0] = base
    for row, level in zip(correct[1:], levels, strict=True):
        # Taken out one by one: a sweep is in memory once, not twice.
        np.divide(totals.pop(level), len(losses[level]), out=row)
    return _Curve(
        dims=dims,
        levels=levels,
        correct=correct,
        losses=tuple(sum(found) / len(found) for found in known) if complete else None,
    )


def _measure(curve: _Curve, num_classes: int) -> list[Measurement]:
    """The numbers of one curve, each with an interval over the same resampled images."""
    accuracy = curve.correct.mean(axis=1)
    clean = float(accuracy[0])
    chance = 1 / num_classes
    resampled = resampled_means(curve.correct)
    n = curve.correct.shape[1]
    measurements = []

    def add(metric: str, dims: Mapping[str, JSONScalar], value: float, draws: npt.NDArray[np.float64]) -> None:
        low, high = _percentile_interval(draws)
        measurements.append(
            Measurement(
                metric=metric,
                value=value,
                n=n,
                dims={**curve.dims, **dims},
                low=low,
                high=high,
                interval=None if low is None else "bootstrap95",
            )
        )

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
        if clean > 0:
            add("retention", {"level": level}, float(accuracy[row]) / clean, _ratio(resampled[:, row], resampled[:, 0]))
    places, rows = curve.points()
    if len(places) < 2:
        return measurements
    axis = {"axis": curve.axis}
    area = area_under_curve(places, [float(accuracy[at].mean()) for at in rows])
    areas = _areas(places, [resampled[:, at].mean(axis=1) for at in rows])
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
    return measurements


def _percentile_interval(draws: npt.NDArray[np.float64]) -> tuple[float, float] | tuple[None, None]:
    import numpy as np

    if not np.isfinite(draws).all():
        return None, None
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _ratio(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Element by element; NaN where the denominator is not positive."""
    import numpy as np

    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _areas(places: Sequence[float], heights: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """:func:`~harness.stats.area_under_curve` for every resample: heights (R,) at each of the places."""
    import numpy as np

    total = np.zeros_like(heights[0])
    steps = zip(places, places[1:], heights, heights[1:], strict=False)
    for left, right, first, last in steps:
        total += (right - left) / 2 * (first + last)
    areas: npt.NDArray[np.float64] = total / (places[-1] - places[0])
    return areas
