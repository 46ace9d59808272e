"""Drops of random cells, drawn for each image by its id: PatchDrop, its offset variant, and PixelDrop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness import rng
from harness.params import checked
from harness.threads import by_image
from harness.types import ImageBatch
from harness_patchdrop.grids import drop_count, resolve_grid, to_pixels
from harness_patchdrop.mask_scope import mask_groups, mask_ids
from harness_patchdrop.parameters import (
    RATIO,
    FillName,
    Grid,
    MaskScope,
    OffsetDropParams,
    PixelDropParams,
    RandomDropParams,
)
from harness_patchdrop.replacement import STREAM, PixelReplacement

_MANY_CELLS = 4096
"""From so many on, drawing and sorting take longer than handing them to threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomOrder:
    """The order in which images lose their cells: that of rising ``draws`` (N, cells) uint64; ``rising`` is sorted.

    Cells of one image never tie (:func:`harness.rng.bits`), so the first k cells are those below the draw of rank k.
    """

    draws: npt.NDArray[np.uint64]
    rising: npt.NDArray[np.uint64]
    grid: tuple[int, int]
    device: torch.device

    def first(self, count: int) -> Tensor:
        """The first ``count`` cells of each image: (N, cells) bool on the images' device."""
        if count >= self.draws.shape[1]:
            return torch.ones(self.draws.shape, dtype=torch.bool, device=self.device)
        return torch.from_numpy(self.draws < self.rising[:, count : count + 1]).to(self.device)

    def first_of_each(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """The first ``counts[i]`` cells of image i: (N, cells) bool."""
        last = self.draws.shape[1] - 1
        limits = np.take_along_axis(self.rising, np.minimum(counts, last)[:, None], axis=1)
        chosen: npt.NDArray[np.bool_] = (self.draws < limits) | (counts > last)[:, None]
        return chosen


class RandomDrop(PixelReplacement):
    """A random set of floor(ratio * cells) cells of each image; for one image a lower ratio's are among a higher's."""

    def __init__(self, name: str, params: RandomDropParams | PixelDropParams) -> None:
        super().__init__(name, params, RATIO, stochastic=True)
        self._mask_scope = params.mask_scope

    @abstractmethod
    def _grid(self, batch: ImageBatch) -> tuple[int, int]:
        """Rows and columns of cells."""

    def _order(self, batch: ImageBatch) -> RandomOrder:
        grid = self._grid(batch)
        keys = mask_ids(batch.ids, self._mask_scope, self.context)
        seed, cells = self.context.seed, grid[0] * grid[1]

        def of(key: str) -> npt.NDArray[np.uint64]:
            draws = rng.bits(seed, STREAM, [key], cells)
            return np.concatenate([draws, np.sort(draws, axis=1)])

        if cells < _MANY_CELLS:
            draws = rng.bits(seed, STREAM, keys, cells)
            rising = np.sort(draws, axis=1)
        else:
            both = by_image(of, keys)
            draws, rising = both[:, 0], both[:, 1]
        return RandomOrder(draws=draws, rising=rising, grid=grid, device=batch.images.device)

    def _dropped(self, order: RandomOrder, level: float, size: tuple[int, int]) -> Tensor:
        return to_pixels(order.first(drop_count(level, order.draws.shape[1])), order.grid, size)

    def _realised(self, batch: ImageBatch, order: RandomOrder, level: float) -> Mapping[str, Tensor]:  # noqa: ARG002 - the contract of the class above
        return mask_groups(batch.ids, self._mask_scope, self.context)


class RandomPatchDrop(RandomDrop):
    """Replace floor(ratio * cells) random cells of each image, by black unless told otherwise.

    Random PatchDrop of Naseer et al., "Intriguing Properties of Vision Transformers" (arXiv 2105.10497), section 3.1
    and appendix A, with one difference: their code draws one mask per batch, here each image has its own, keyed by
    seed and image id, unless ``mask_scope`` is ``batch``. For one image the cells of a lower ratio are among those of
    every higher one.

    ``grid``: rows and columns of cells; see :func:`harness_patchdrop.grids.cell_of_pixel` for sides it does not
    divide. ``realised["information_loss"]`` is the exact fraction of pixels dropped.
    """

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        mask_scope: MaskScope = "image",
    ) -> None:
        given = RandomDropParams(grid=grid, fill=fill, colour=colour, blur=blur, mask_scope=mask_scope)
        params = checked(given, "patchdrop_random")
        super().__init__("patchdrop_random", params)
        self._asked_grid = params.grid

    def _grid(self, batch: ImageBatch) -> tuple[int, int]:  # noqa: ARG002 - the same for every batch
        return resolve_grid(self._asked_grid, self.context.evaluated)


class OffsetPatchDrop(RandomDrop):
    """Random PatchDrop with every cell shifted right and down by half a cell (arXiv 2105.10497, appendix A.1).

    The shift is floor(height / (2 * rows)) and floor(width / (2 * columns)) pixels: 8 at 224 pixels and 14x14. What it
    pushes out at the right and the bottom comes in again at the left and the top (``border="wrapped"``), so that
    nothing of the mask is lost; with ``border="visible"``, as in the authors' code, that strip is never dropped and
    the loss of pixels falls short of the ratio, by the factor (216 / 224) ** 2 in expectation at their sizes. Cells,
    seeds and masks are those of ``patchdrop_random``.
    """

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        mask_scope: MaskScope = "image",
        border: Literal["wrapped", "visible"] = "wrapped",
    ) -> None:
        given = OffsetDropParams(grid=grid, fill=fill, colour=colour, blur=blur, mask_scope=mask_scope, border=border)
        params = checked(given, "patchdrop_offset")
        super().__init__("patchdrop_offset", params)
        self._asked_grid = params.grid
        self._border = params.border

    def _grid(self, batch: ImageBatch) -> tuple[int, int]:  # noqa: ARG002 - the same for every batch
        return resolve_grid(self._asked_grid, self.context.evaluated)

    def _dropped(self, order: RandomOrder, level: float, size: tuple[int, int]) -> Tensor:
        down, right = size[0] // (2 * order.grid[0]), size[1] // (2 * order.grid[1])
        shifted = super()._dropped(order, level, size).roll((down, right), dims=(1, 2))
        if self._border == "visible":
            shifted[:, :down] = False
            shifted[:, :, :right] = False
        return shifted


class PixelDrop(RandomDrop):
    """Random PatchDrop whose cells are single pixels, all channels together (arXiv 2105.10497, appendix B)."""

    def __init__(
        self,
        *,
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        mask_scope: MaskScope = "image",
    ) -> None:
        super().__init__("pixeldrop", PixelDropParams(fill=fill, colour=colour, blur=blur, mask_scope=mask_scope))

    def _grid(self, batch: ImageBatch) -> tuple[int, int]:
        return (batch.images.shape[2], batch.images.shape[3])
