"""What masks of attention score by chance: the same sets of cells moved at random, scattered, or drawn to the centre.

A baseline changes where cells lie and nothing else: every set keeps its number of cells, and all sets of an image are
moved together, so that heads that look at the same places, or share the image among them, still do. Whatever rule then
picks among the heads picks among these as it did among the real ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness import rng

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from harness_inspect.object_regions import ObjectRegions

    Rules = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    """From Jaccard indices (..., sets, R) with the regions of an image to values (..., V) of rules."""

DRAWS = 16
"""Random arrangements of the cells, over which an image's baseline is averaged."""

_SCATTERED = "segmentation.scattered"
_TIES = "segmentation.ties"


def tie_breaks(ids: Sequence[str], cells: int) -> npt.NDArray[np.uint64]:
    """Numbers (N, cells) that put equal cells in an order: that of a hash of the image's id, never that of rows."""
    return rng.bits(0, _TIES, ids, cells)


def moved(
    sets: npt.NDArray[np.bool_], regions: ObjectRegions, grid: tuple[int, int], rules: Rules
) -> npt.NDArray[np.float64]:
    """Mean of ``rules`` (V,) over *all* places of an image's sets (K, cells): every shift around the edges of the grid.

    What goes out on one side comes in on the other, so that each mask keeps its area, its shape and its smoothness
    exactly, and only knows no longer where the object is. No draws are needed: the mean over the rows * columns shifts
    (the real place among them) is the expectation.
    """
    overlaps = shifted_sums(sets, regions.objects, grid)
    covered = shifted_sums(sets, regions.counted[None], grid)[..., 0]
    mean: npt.NDArray[np.float64] = rules(regions.jaccard_of(overlaps, covered)).mean(axis=0)
    return mean


def shifted_sums(
    sets: npt.NDArray[np.bool_], counts: npt.NDArray[np.float64], grid: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Sums of whole numbers ``counts`` (R, cells) over sets (K, cells) shifted by every (down, across): exact.

    (rows * columns, K, R), the shifts in row-major order; shifts go around the edges, as those of ``numpy.roll``.
    """
    k, r = len(sets), len(counts)
    of_sets = np.fft.rfft2(sets.reshape(k, 1, *grid).astype(np.float64))
    of_counts = np.fft.rfft2(counts.reshape(1, r, *grid))
    sums = np.fft.irfft2(of_sets.conj() * of_counts, s=grid)
    return np.rint(sums).reshape(k, r, -1).transpose(2, 0, 1)


def scattered(
    sets: npt.NDArray[np.bool_], regions: ObjectRegions, orders: npt.NDArray[np.int64], rules: Rules
) -> npt.NDArray[np.float64]:
    """Mean of ``rules`` (V,) over an image's sets (K, cells) with their cells in each of ``orders`` (D, cells).

    As many cells, in places that have nothing to do with each other: what area alone scores.
    """
    mean: npt.NDArray[np.float64] = rules(regions.jaccard(sets[:, orders].swapaxes(0, 1))).mean(axis=0)
    return mean


def random_orders(ids: Sequence[str], cells: int) -> npt.NDArray[np.int64]:
    """Orders of the cells (N, :data:`DRAWS`, cells), keyed by the images' ids and nothing else."""
    return np.stack([rng.permutations(draw, _SCATTERED, ids, cells) for draw in range(DRAWS)], axis=1)


def central(
    sets: npt.NDArray[np.bool_],
    regions: ObjectRegions,
    grid: tuple[int, int],
    ties: npt.NDArray[np.uint64],
    rules: Rules,
) -> npt.NDArray[np.float64]:
    """``rules`` (V,) of sets of as many cells as each of ``sets`` (K, cells) has, those nearest the image's centre.

    That is a Gaussian around the centre, cut off where it leaves that area: what a photographer's habit alone scores.
    Cells that are equally far come in the order of ``ties`` (cells,).
    """
    return rules(regions.jaccard(central_sets(sets.sum(axis=-1), grid, ties)))


def central_sets(
    sizes: npt.NDArray[np.int64], grid: tuple[int, int], ties: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """The ``sizes`` (K,) cells nearest the centre of ``grid``: (K, cells) bool, nested. Distances are of the image."""
    rows, columns = grid
    # Odd whole numbers in units of half a cell, each side multiplied by the other's cells: equal distances are equal.
    down = (2 * np.arange(rows) - rows + 1) * columns
    across = (2 * np.arange(columns) - columns + 1) * rows
    distances = (down[:, None] ** 2 + across**2).ravel()
    places = np.argsort(np.lexsort((ties, distances)))
    return np.asarray(places < sizes[:, None])
