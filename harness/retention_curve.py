"""Accuracy per image along the levels of a perturbation, gathered from the outcomes of a sweep, and its resamples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from harness.protocols import INFORMATION_LOSS, LABEL, MASK_GROUP
from harness.stats import Clustering, resampled_cluster_means, resampled_means

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from harness.protocols import Outcomes, SummaryInput
    from harness.types import JSONScalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One row of a probe along the levels: accuracy per image (1 + L, N), the clean one first, and losses (L,).

    ``labels``: (N,) classes of the images, None where they are not known. ``shared``: the same accuracies apart for
    every way in which groups of images share masks; empty where each image has its own.
    """

    dims: Mapping[str, JSONScalar]
    levels: tuple[float, ...]
    correct: npt.NDArray[np.float64]
    losses: tuple[float, ...] | None
    labels: npt.NDArray[np.int64] | None = None
    shared: tuple[Clustering, ...] = ()

    @property
    def axis(self) -> str:
        """What the curve runs over: ``information_loss``, or ``level`` where no loss is recorded."""
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

    def resampled(self) -> npt.NDArray[np.float64]:
        """Accuracies (R, 1 + L) over R resamples of the images, or of the groups that share masks.

        All NaN where there is only one group: nothing says how another one would have come out.
        """
        import numpy as np

        if not self.shared:
            return resampled_means(self.correct)
        if any((clustering.groups == clustering.groups[0]).all() for clustering in self.shared):
            return np.full((2, len(self.correct)), np.nan)
        return resampled_cluster_means(self.shared)

    def classes(self) -> Iterator[tuple[int, Curve]]:
        """The curve of the images of each class, by rising label; none where labels are not known."""
        import numpy as np

        if self.labels is None:
            return
        order = np.argsort(self.labels, kind="stable")
        labels, starts = np.unique(self.labels[order], return_index=True)
        for label, members in zip(labels.tolist(), np.split(order, starts[1:]), strict=True):
            shared = tuple(
                dataclasses.replace(clustering, groups=clustering.groups[members], values=clustering.values[:, members])
                for clustering in self.shared
            )
            yield label, dataclasses.replace(self, correct=self.correct[:, members], labels=None, shared=shared)


def curves(clean: SummaryInput, cells: Sequence[SummaryInput]) -> list[Curve]:
    """A curve per row of the probe over the images that every cell has answered.

    Cells that do not classify or have no level are left out. Seeds of the perturbation are averaged within each image.
    """
    cells = [item for item in cells if _classifies(item) and item.record.cell["level"] is not None]
    if not cells or not _classifies(clean):
        return []
    images = _common_images([clean, *cells])
    if not len(images):
        return []
    found = (_curve(dims, clean, cells, images) for dims in _rows(clean))
    return [curve for curve in found if curve is not None]


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


def _per_image(item: SummaryInput, name: str, images: npt.NDArray[np.int64]) -> npt.NDArray[np.generic] | None:
    """A column (N,) that is the same for every variant; None where the outcomes do not hold it."""
    outcomes = _outcomes(item)
    if name not in outcomes.columns:
        return None
    values: npt.NDArray[np.generic] = outcomes.columns[name][0][_places(outcomes, images)]
    return values


def _loss(item: SummaryInput, images: npt.NDArray[np.int64]) -> float | None:
    import numpy as np

    values = _per_image(item, INFORMATION_LOSS, images)
    return None if values is None else float(values.mean(dtype=np.float64))


def _curve(
    dims: Mapping[str, JSONScalar],
    clean: SummaryInput,
    cells: Sequence[SummaryInput],
    images: npt.NDArray[np.int64],
) -> Curve | None:
    import numpy as np

    base = _correct(clean, dims, images)
    totals: dict[float, npt.NDArray[np.float64]] = {}
    losses: dict[float, list[float | None]] = {}
    shared = _SharedMasks()
    for item in cells:
        if (shares := _correct(item, dims, images)) is not None:
            level = float(item.record.cell["level"])
            shared.add(level, shares, _per_image(item, MASK_GROUP, images))
            totals[level] = shares if level not in totals else totals[level] + shares
            losses.setdefault(level, []).append(_loss(item, images))
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
    labels = _per_image(clean, LABEL, images)
    return Curve(
        dims=dims,
        levels=levels,
        correct=correct,
        losses=tuple(sum(found) / len(found) for found in known) if complete else None,
        labels=None if labels is None else labels.astype(np.int64),
        shared=shared.clusterings(levels, base),
    )


class _SharedMasks:
    """The cells of a sweep by who shares masks with whom; keeps nothing while each image has its own."""

    def __init__(self) -> None:
        self._groups: dict[bytes, npt.NDArray[np.generic]] = {}
        self._totals: dict[bytes, dict[float, tuple[npt.NDArray[np.float64], int]]] = {}

    def add(self, level: float, shares: npt.NDArray[np.float64], groups: npt.NDArray[np.generic] | None) -> None:
        """Count the accuracy per image (N,) of one cell, whose images are in ``groups`` (N,)."""
        if groups is None:
            return
        key = groups.tobytes()
        self._groups.setdefault(key, groups)
        mine = self._totals.setdefault(key, {})
        total, times = mine.get(level, (0.0, 0))
        mine[level] = (total + shares, times + 1)

    def clusterings(self, levels: Sequence[float], base: npt.NDArray[np.float64]) -> tuple[Clustering, ...]:
        """One for each way of sharing, the clean accuracy ``base`` (N,) as the first row of each."""
        import numpy as np

        return tuple(
            Clustering(
                groups=self._groups[key],
                rows=(0, *(1 + levels.index(level) for level in sorted(mine))),
                values=np.stack([base, *(mine[level][0] / mine[level][1] for level in sorted(mine))]),
                weights=(max(times for _, times in mine.values()), *(mine[level][1] for level in sorted(mine))),
            )
            for key, mine in self._totals.items()
        )
