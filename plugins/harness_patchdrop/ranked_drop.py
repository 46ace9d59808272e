"""Drops of whole cells in an order that owes nothing to chance: the first floor(ratio * cells) of it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.params import checked
from harness.types import ImageBatch
from harness_patchdrop.grids import drop_count, resolve_grid, to_pixels
from harness_patchdrop.parameters import RATIO, CellParams
from harness_patchdrop.replacement import PixelReplacement


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRanks:
    """The order in which images lose their cells: ``ranks`` (N, rows * columns) int64 of ``grid``, rank 0 first."""

    ranks: Tensor
    grid: tuple[int, int]


class RankedDrop(PixelReplacement):
    """Replace the cells of the lowest ranks; subclasses rank them."""

    def __init__(self, name: str, params: CellParams) -> None:
        super().__init__(name, params, RATIO, stochastic=False)
        self._asked_grid = checked(params, name).grid

    @abstractmethod
    def _ranks(self, batch: ImageBatch, grid: tuple[int, int]) -> npt.NDArray[np.int64]:
        """The rank of every cell, (N, rows * columns), each rank once a row."""

    def _order(self, batch: ImageBatch) -> CellRanks:
        grid = resolve_grid(self._asked_grid, self.context.evaluated)
        return CellRanks(ranks=torch.from_numpy(self._ranks(batch, grid)).to(batch.images.device), grid=grid)

    def _dropped(self, order: CellRanks, level: float, size: tuple[int, int]) -> Tensor:
        return to_pixels(order.ranks < drop_count(level, order.ranks.shape[1]), order.grid, size)
