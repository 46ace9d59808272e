"""Drops by position alone: the cells of the centre first, or those of the border first."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from harness import rng
from harness.types import ImageBatch
from harness_patchdrop.parameters import CellParams, FillName, Grid
from harness_patchdrop.ranked_drop import RankedDrop

_TIES = "patchdrop.position_ties"


class PositionDrop(RankedDrop):
    """Replace floor(ratio * cells) cells by their distance from the centre of the image.

    Position controls for drops by saliency: photographs have their object in the middle, so that a drop of salient
    cells is in part a drop of central ones. The distance is that of the cells' centres, in units of the image's sides.
    Cells at equal distance come in a random order that is fixed for an image, whatever the seed.
    """

    def __init__(self, name: str, params: CellParams, first: Literal["centre", "border"]) -> None:
        super().__init__(name, params)
        self._first = first

    def _ranks(self, batch: ImageBatch, grid: tuple[int, int]) -> npt.NDArray[np.int64]:
        distances = centre_distances(grid)
        if self._first == "border":
            distances = distances.max() - distances
        ties = rng.bits(0, _TIES, batch.ids, len(distances))
        order = np.lexsort((ties, np.broadcast_to(distances, ties.shape)), axis=1)
        return np.argsort(order, axis=1)


class CentrePatchDrop(PositionDrop):
    """Replace the cells nearest to the centre first."""

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
    ) -> None:
        super().__init__("patchdrop_center", CellParams(grid=grid, fill=fill, colour=colour, blur=blur), first="centre")


class BorderPatchDrop(PositionDrop):
    """Replace the cells farthest from the centre first."""

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
    ) -> None:
        super().__init__("patchdrop_border", CellParams(grid=grid, fill=fill, colour=colour, blur=blur), first="border")


def centre_distances(grid: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Squared distance of each cell's centre from the image's, (rows * columns,) int64 in a unit that only orders.

    Whole numbers, so that equal distances are equal.

    >>> centre_distances((2, 3)).tolist()
    [25, 9, 25, 25, 9, 25]
    """
    rows, columns = grid
    # A centre lies at (2i + 1) / (2 rows) of the side, its distance from the middle is (2i + 1 - rows) / (2 rows).
    down = (2 * np.arange(rows, dtype=np.int64) + 1 - rows) * columns
    across = (2 * np.arange(columns, dtype=np.int64) + 1 - columns) * rows
    squared: npt.NDArray[np.int64] = np.add.outer(down**2, across**2).ravel()
    return squared
