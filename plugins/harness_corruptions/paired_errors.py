"""Errors of a model and of baseline models on the same corrupted images: per image, then as means with resamples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from harness.stats import resampled_means
from harness_corruptions.parameters import SEVERITY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from harness.protocols import Outcomes, SummaryInput
    from harness.types import JSONScalar

    Series: TypeAlias = npt.NDArray[np.float64]
    """(1 + R,): a number, then the same number on each of R resamples of the images."""

CLEAN = "none"
"""Stands among the corruptions for the images without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptedCell:
    """One cell of a sweep, by what was done to its images."""

    corruption: str
    severity: int
    given: SummaryInput


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedErrors:
    """Errors of one row of a probe (``dims``), all of them on the same ``images`` images.

    ``own``: mean error over the five severities, by corruption, for those of which all five are there; under
    :data:`CLEAN` that on clean images, if known. ``beside``: by the name of a baseline model, the model's own errors
    over the cells that the baseline has answered too, and the baseline's.
    """

    dims: Mapping[str, JSONScalar]
    images: int
    own: Mapping[str, Series]
    beside: Mapping[str, tuple[Mapping[str, Series], Mapping[str, Series]]] = field(default_factory=dict)


def classifies(item: SummaryInput) -> bool:
    """Whether it is known of each image if it was classified right."""
    return item.outcomes is not None and "correct" in item.outcomes.columns


def paired_errors(cells: Sequence[CorruptedCell], clean: SummaryInput | None) -> Iterator[PairedErrors]:
    """One for every row of the probe, over the images that all cells, those of baselines included, have answered.

    Seeds of the perturbation, and those of the probe, are averaged within each image. Resamples draw images once for
    all corruptions and models, so that what they share cancels in ratios.
    """
    cells = [cell for cell in cells if classifies(cell.given)]
    clean = clean if clean is not None and classifies(clean) else None
    if not cells:
        return
    images = _common_images([*(cell.given for cell in cells), *([clean] if clean else [])])
    if len(images):
        for dims in _rows(cells[0].given):
            yield _errors_of_row(cells, clean, dims, images)


def _errors_of_row(
    cells: Sequence[CorruptedCell],
    clean: SummaryInput | None,
    dims: Mapping[str, JSONScalar],
    images: npt.NDArray[np.int64],
) -> PairedErrors:
    sums: list[dict[str, npt.NDArray[np.float64]]] = [_per_image(cells, clean, dims, images)]
    places: dict[str, tuple[int, int]] = {}
    for name in sorted({name for cell in cells for name in _baselines(cell.given)}):
        both = [cell for cell in cells if name in _baselines(cell.given)]
        clean_too = clean if clean is not None and name in _baselines(clean) else None
        mine = 0
        if len(both) < len(cells):
            sums.append(_per_image(both, clean_too, dims, images))
            mine = len(sums) - 1
        theirs = [
            CorruptedCell(corruption=cell.corruption, severity=cell.severity, given=cell.given.baselines[name])
            for cell in both
        ]
        sums.append(_per_image(theirs, clean_too.baselines[name] if clean_too else None, dims, images))
        places[name] = (mine, len(sums) - 1)
    series = _resampled(sums)
    return PairedErrors(
        dims=dims,
        images=len(images),
        own=series[0],
        beside={name: (series[mine], series[theirs]) for name, (mine, theirs) in places.items()},
    )


def _baselines(item: SummaryInput) -> Mapping[str, SummaryInput]:
    return {name: other for name, other in item.baselines.items() if classifies(other)}


def _outcomes(item: SummaryInput) -> Outcomes:
    return cast("Outcomes", item.outcomes)


def _common_images(items: Sequence[SummaryInput]) -> npt.NDArray[np.int64]:
    """Positions of the images that every one of ``items`` and its baselines has answered, rising."""
    every = [other for item in items for other in (item, *_baselines(item).values())]
    common = _outcomes(every[0]).positions
    for item in every[1:]:
        positions = _outcomes(item).positions
        if not np.array_equal(common, positions):
            common = np.intersect1d(common, positions, assume_unique=True)
    return common


def _row_of(variant: Mapping[str, JSONScalar]) -> dict[str, JSONScalar]:
    return {name: value for name, value in variant.items() if name != "seed"}


def _rows(item: SummaryInput) -> list[dict[str, JSONScalar]]:
    rows: list[dict[str, JSONScalar]] = []
    for variant in _outcomes(item).variants:
        if (dims := _row_of(variant)) not in rows:
            rows.append(dims)
    return rows


def _wrong(
    item: SummaryInput, dims: Mapping[str, JSONScalar], images: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64] | None:
    """Share (N,) of the row's variants that are wrong about each image; None where the cell lacks the row."""
    outcomes = _outcomes(item)
    variants = [place for place, variant in enumerate(outcomes.variants) if _row_of(variant) == dims]
    if not variants:
        return None
    whole = len(images) == len(outcomes.positions)
    places = slice(None) if whole else np.searchsorted(outcomes.positions, images)
    correct = outcomes.columns["correct"]
    errors = np.zeros(len(images), np.float64)
    for variant in variants:
        errors += ~correct[variant][places].astype(bool)
    return errors / len(variants)


def _per_image(
    cells: Sequence[CorruptedCell],
    clean: SummaryInput | None,
    dims: Mapping[str, JSONScalar],
    images: npt.NDArray[np.int64],
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean error (N,) of each image over the severities, by corruption; cells are read one by one and not kept."""
    of_corruption: dict[str, dict[int, list[SummaryInput]]] = {}
    for cell in cells:
        of_corruption.setdefault(cell.corruption, {}).setdefault(cell.severity, []).append(cell.given)
    found: dict[str, npt.NDArray[np.float64]] = {}
    for corruption, by_severity in of_corruption.items():
        if set(by_severity) != {int(value) for value in SEVERITY.values}:
            continue
        total: npt.NDArray[np.float64] | None = np.zeros(len(images), np.float64)
        for _, seeds in sorted(by_severity.items()):
            for item in seeds:
                wrong = _wrong(item, dims, images)
                total = None if total is None or wrong is None else total + wrong / len(seeds)
        if total is not None:
            found[corruption] = total / len(by_severity)
    if clean is not None and (wrong := _wrong(clean, dims, images)) is not None:
        found[CLEAN] = wrong
    return found


def _resampled(sums: Sequence[Mapping[str, npt.NDArray[np.float64]]]) -> list[dict[str, Series]]:
    """Means of all rows of all mappings, from one set of resamples."""
    keys = [(place, name) for place, rows in enumerate(sums) for name in rows]
    series: list[dict[str, Series]] = [{} for _ in sums]
    if keys:
        matrix = np.stack([sums[place][name] for place, name in keys])
        means = np.concatenate([matrix.mean(axis=1)[np.newaxis], resampled_means(matrix)])
        for column, (place, name) in enumerate(keys):
            series[place][name] = means[:, column]
    return series
