"""Grids of cells over an image: which pixel belongs to which cell, how many cells a ratio drops, cells to pixels."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.errors import CapabilityError, ParameterError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from harness.protocols import Model
    from harness_patchdrop.parameters import Grid

_OF_TOKENS = {"tokens": (1, 1), "tokensx2": (2, 1), "tokensx4": (4, 1), "tokens/2": (1, 2), "tokens/4": (1, 4)}


def resolve_grid(grid: Grid, model: Model | None) -> tuple[int, int]:
    """``grid`` as rows and columns; ``tokens`` and its multiples and parts are those of ``model``'s patch tokens.

    Raises :class:`~harness.errors.CapabilityError` where that model has no patches of a fixed size (or there is none),
    and :class:`~harness.errors.ParameterError` for a part that is no whole number of cells.
    """
    if not isinstance(grid, str):
        return grid
    if model is None or model.info.patch_size is None:
        who = "there is no model here" if model is None else f"model {model.info.name} has no patches of a fixed size"
        raise CapabilityError(f"grid={grid}: {who}", hint="give the grid as ROWSxCOLUMNS, such as grid=14x14")
    if model.info.input_size % model.info.patch_size:
        raise CapabilityError(
            f"grid={grid}: patches of {model.info.patch_size} px do not fill the {model.info.input_size} px of model "
            f"{model.info.name}",
            hint="give the grid as ROWSxCOLUMNS, such as grid=14x14",
        )
    times, parts = _OF_TOKENS[grid]
    side = model.info.input_size // model.info.patch_size * times
    if side % parts:
        raise ParameterError(
            f"grid={grid}: {side} tokens a side of model {model.info.name} do not divide by {parts}",
            hint="give the grid as ROWSxCOLUMNS, such as grid=7x7",
        )
    return (side // parts, side // parts)


def drop_count(ratio: float, cells: int) -> int:
    """How many of ``cells`` a ``ratio`` in [0, 1] drops: the floor of their product.

    For ratios k/10 these are the counts floor(k * cells / 10) of the paper's code. A product that is whole but for
    the rounding of binary fractions (0.29 * 100 = 28.999...) counts as whole.

    >>> [drop_count(k / 10, 196) for k in range(10)]
    [0, 19, 39, 58, 78, 98, 117, 137, 156, 176]
    """
    return math.floor(round(ratio * cells, 9))


def cell_of_pixel(length: int, cells: int) -> npt.NDArray[np.int64]:
    """The cell of each pixel along one side: (length,) int64, pixel p in cell ``p * cells // length``.

    Cell i thus holds the pixels from ceil(i * length / cells) up to ceil((i + 1) * length / cells), that one
    excluded: nearest-neighbour magnification. Where ``cells`` divides ``length`` all cells are equal, else their
    lengths differ by at most one pixel. Raises :class:`~harness.errors.ParameterError` for more cells than pixels.

    >>> cell_of_pixel(5, 2).tolist()
    [0, 0, 0, 1, 1]
    """
    if not 1 <= cells <= length:
        raise ParameterError(
            f"a grid of {cells} cells does not fit on a side of {length} pixels",
            hint=f"use a grid of 1 to {length} cells a side",
        )
    return np.arange(length, dtype=np.int64) * cells // length


@lru_cache(maxsize=32)
def cell_areas(grid: tuple[int, int], size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Pixels of each cell of ``grid`` (rows, columns), row-major, on an image of ``size`` (H, W): int64."""
    rows = np.bincount(cell_of_pixel(size[0], grid[0]), minlength=grid[0])
    columns = np.bincount(cell_of_pixel(size[1], grid[1]), minlength=grid[1])
    areas = np.multiply.outer(rows, columns).ravel()
    areas.setflags(write=False)
    return areas


def to_pixels(cells: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Values per cell (N, rows * columns) spread over their pixels: (N, H, W), same dtype and device."""
    rows = torch.from_numpy(cell_of_pixel(size[0], grid[0])).to(cells.device)
    columns = torch.from_numpy(cell_of_pixel(size[1], grid[1])).to(cells.device)
    return cells.view(-1, *grid).index_select(1, rows).index_select(2, columns)
