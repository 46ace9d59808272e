"""Saliency maps in whole numbers, and the sets of cells that hold a given share of them, so that nothing is rounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness import rng
from harness.errors import DataError

UNITS = 2**24
"""The whole that a map of attention or of gradients is divided into."""

_TIES = "patchdrop.ties"
_BILLION = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsByMass:
    """The cells of each image from the least to the most salient: all that the sets of every level follow from.

    ``mass`` (N, cells) int64: the map. ``ranks`` (N, cells): the place of each cell, 0 for the least. ``rising``
    (N, cells): mass of the cells up to each place, that one included; its last column is the whole.
    """

    mass: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int64]
    rising: npt.NDArray[np.int64]

    @property
    def cells(self) -> int:
        """How many cells an image has."""
        return int(self.mass.shape[1])

    def salient(self, share: float) -> npt.NDArray[np.bool_]:
        """The smallest set of cells that holds at least ``share`` of the mass: (N, cells) bool.

        A cell is in iff the mass of all cells up to it, least first, is above (1 - share) of the whole: the set of the
        authors' code (Naseer et al., arXiv 2105.10497), the crossing cell included. 0 is the empty set and 1 all
        cells, those without mass as well. Shares count to nine decimals, so that 1 - 0.9 is 0.1. The set of a larger
        share holds that of a smaller one.
        """
        return self._last(self._counts(_billionths(share)))

    def nonsalient(self, share: float) -> npt.NDArray[np.bool_]:
        """The complement of ``salient(1 - share)``, exactly: at most ``share`` of the mass. (N, cells) bool."""
        return ~self._last(self._counts(_BILLION - _billionths(share)))

    def share_of(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """The share of the mass that lies in the cells ``chosen`` (N, cells): (N,) float64."""
        held: npt.NDArray[np.float64] = np.where(chosen, self.mass, 0).sum(axis=1) / self.rising[:, -1]
        return held

    def _counts(self, billionths: int) -> npt.NDArray[np.int64]:
        if billionths == _BILLION:
            return np.full(len(self.mass), self.cells, np.int64)
        # Python's integers do not overflow; a whole number is above a fraction iff it is above its floor.
        outside = [int(whole) * (_BILLION - billionths) // _BILLION for whole in self.rising[:, -1]]
        inside: npt.NDArray[np.int64] = (self.rising > np.array(outside, np.int64)[:, None]).sum(axis=1)
        return inside

    def _last(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return self.ranks >= self.cells - counts[:, None]


def whole_numbers(values: npt.NDArray[np.float64], image_id: str) -> npt.NDArray[np.int32]:
    """A map (cells,) in parts of :data:`UNITS` of its sum, rounded: int32.

    A map of zeros says that no cell is more salient than another, and comes out even (a model whose prediction is
    certain has no gradient). Raises :class:`~harness.errors.DataError` for values that are not finite.
    """
    whole = float(values.sum())
    if not np.isfinite(whole):
        raise DataError(
            f"image {image_id}: its saliency is not finite",
            hint="the model overflows on this image or its weights are broken; name another saliency",
        )
    if whole == 0:
        return np.ones(values.shape, np.int32)
    return np.rint(values / whole * UNITS).astype(np.int32)


def cells_by_mass(mass: npt.NDArray[np.int64], ids: Sequence[str]) -> CellsByMass:
    """Order the cells of maps ``mass`` (N, cells) of whole numbers from 0 up, whose sums are above 0.

    Cells of equal mass come in a random order that is fixed for an image, whatever the seed, and never that of rows.
    """
    ties = rng.bits(0, _TIES, ids, mass.shape[1])
    order = np.lexsort((ties, mass), axis=1)
    rising = np.cumsum(np.take_along_axis(mass, order, axis=1), axis=1)
    return CellsByMass(mass=mass, ranks=np.argsort(order, axis=1), rising=rising)


def resampled(mass: npt.NDArray[np.int64], source: tuple[int, int], target: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Maps (N, cells of ``source``) spread over the grid ``target`` by area: (N, cells of ``target``) int64.

    What a cell holds goes to the cells it overlaps in proportion to the overlap. The whole numbers are those of a
    finer unit: sums grow by ``lcm(rows, target rows) / rows`` times the same of the columns, equally for all cells.

    >>> resampled(np.array([[6, 0]]), (1, 2), (1, 3)).tolist()
    [[12, 6, 0]]
    """
    if source == target:
        return mass
    maps = mass.reshape(-1, *source)
    down, across = _overlaps(source[0], target[0]), _overlaps(source[1], target[1])
    spread: npt.NDArray[np.int64] = down.T @ maps @ across
    return np.ascontiguousarray(spread.reshape(len(maps), -1))


def _overlaps(source: int, target: int) -> npt.NDArray[np.int64]:
    """Lengths that cells of two divisions of one side share, (source, target), in units of both."""
    side = math.lcm(source, target)
    edges = np.arange(source + 1) * (side // source), np.arange(target + 1) * (side // target)
    start = np.maximum.outer(edges[0][:-1], edges[1][:-1])
    stop = np.minimum.outer(edges[0][1:], edges[1][1:])
    lengths: npt.NDArray[np.int64] = np.maximum(stop - start, 0).astype(np.int64)
    return lengths


def _billionths(share: float) -> int:
    return round(share * _BILLION)
