"""Drops along a scan line: what is lost of a cell depends on when a scan of the image reaches it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness import rng
from harness.params import checked
from harness.threads import by_image
from harness.types import ImageBatch
from harness_patchdrop.grids import cell_of_pixel, drop_count, resolve_grid
from harness_patchdrop.mask_scope import mask_groups, mask_ids
from harness_patchdrop.parameters import (
    SCAN_RATIO,
    FillName,
    Grid,
    MaskScope,
    ScanDirection,
    ScanDropParams,
    SequentialDropParams,
)
from harness_patchdrop.ranked_drop import RankedDrop
from harness_patchdrop.replacement import STREAM, PixelReplacement

Profile: TypeAlias = Literal["linear", "center_max", "center_min"]
Share: TypeAlias = tuple[int, int]
"""Of the level's ratio, as numerator and denominator."""


def scan_order(grid: tuple[int, int], direction: ScanDirection) -> npt.NDArray[np.int64]:
    """Row-major indices of the cells of ``grid`` in the order in which a scan meets them.

    >>> scan_order((2, 2), "columns").tolist(), scan_order((2, 2), "rows_reversed").tolist()
    ([0, 2, 1, 3], [3, 2, 1, 0])
    """
    cells = np.arange(grid[0] * grid[1], dtype=np.int64).reshape(grid)
    order = (cells if direction.startswith("rows") else cells.T).ravel()
    return order[::-1].copy() if direction.endswith("reversed") else order


def scan_shares(cells: int, profile: Profile) -> list[Share]:
    """What part of the ratio the i-th cell of a scan over ``cells`` cells loses, as fractions.

    ``linear`` rises to 1 at the last cell; ``center_max`` rises to 1 at the middle and falls again; ``center_min`` is
    1 minus that (the authors' code of Malik et al., arXiv 2406.09407).

    >>> scan_shares(4, "linear"), scan_shares(4, "center_max")
    ([(1, 4), (2, 4), (3, 4), (4, 4)], [(1, 2), (2, 2), (2, 2), (1, 2)])
    """
    if profile == "linear":
        return [(i + 1, cells) for i in range(cells)]
    half = max(1, cells // 2)
    # With an odd number of cells the formula passes 1 at the middle one; more than all cannot be lost.
    rise = [min(half, i + 1 if i < cells // 2 else cells - i) for i in range(cells)]
    return [(up if profile == "center_max" else half - up, half) for up in rise]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelsOfCells:
    """Draws of each pixel, grouped by cell: ``draws`` and the sorted ``rising`` are (N, cells, largest area) uint64.

    Cells with fewer pixels than the largest are filled up with the highest number, which no level reaches.
    """

    draws: npt.NDArray[np.uint64]
    rising: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int64]
    areas: npt.NDArray[np.int64]
    grid: tuple[int, int]
    device: torch.device


class ScanDrop(PixelReplacement):
    """Replace random pixels of every cell, more or fewer as a scan of the image goes on.

    The scan-line drops of Malik et al., "Towards Evaluating the Robustness of Visual State Space Models" (arXiv
    2406.09407). The level is the largest ratio that a cell may lose: the i-th cell of the scan loses
    floor(pixels * ratio * share) of its pixels, with :func:`scan_shares`, so that the realised information loss is
    about half of it. Pixels are drawn per image, for one image those of a lower ratio are among a higher's.
    """

    def __init__(self, name: str, params: ScanDropParams, profile: Profile) -> None:
        super().__init__(name, params, SCAN_RATIO, stochastic=True)
        self._params = checked(params, name)
        self._profile: Profile = profile

    def _order(self, batch: ImageBatch) -> PixelsOfCells:
        size = (batch.images.shape[2], batch.images.shape[3])
        grid = resolve_grid(self._params.grid, self.context.evaluated)
        places, areas = _pixels_by_cell(grid, size)
        keys = mask_ids(batch.ids, self._params.mask_scope, self.context)
        seed, beyond = self.context.seed, np.arange(places.shape[1]) >= areas[:, None]

        def of(key: str) -> npt.NDArray[np.uint64]:
            draws = rng.bits(seed, STREAM, [key], size[0] * size[1])[0][places]
            draws[beyond] = np.iinfo(np.uint64).max
            return np.stack([draws, np.sort(draws, axis=1)])

        both = by_image(of, keys)
        return PixelsOfCells(
            draws=both[:, 0],
            rising=both[:, 1],
            places=places,
            areas=areas,
            grid=grid,
            device=batch.images.device,
        )

    def _dropped(self, order: PixelsOfCells, level: float, size: tuple[int, int]) -> Tensor:
        counts = np.zeros(len(order.areas), np.int64)
        shares = scan_shares(len(order.areas), self._profile)
        for cell, (part, whole) in zip(scan_order(order.grid, self._params.direction), shares, strict=True):
            counts[cell] = drop_count(level * part / whole, int(order.areas[cell]))
        largest = order.draws.shape[2]
        limits = np.take_along_axis(order.rising, np.minimum(counts, largest - 1)[None, :, None], axis=2)
        chosen = (order.draws < limits) | (counts >= largest)[None, :, None]
        dropped = np.zeros((len(order.draws), size[0] * size[1]), np.bool_)
        inside = np.arange(largest) < order.areas[:, None]
        dropped[:, order.places[inside]] = chosen[:, inside]
        return torch.from_numpy(dropped.reshape(-1, *size)).to(order.device)

    def _realised(self, batch: ImageBatch, order: PixelsOfCells, level: float) -> dict[str, Tensor]:  # noqa: ARG002 - the contract of the class above
        return dict(mask_groups(batch.ids, self._params.mask_scope, self.context))


class LinearScanDrop(ScanDrop):
    """Loss that grows along the scan, up to the ratio in the last cell."""

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        direction: ScanDirection = "rows",
        mask_scope: MaskScope = "image",
    ) -> None:
        params = ScanDropParams(
            grid=grid, fill=fill, colour=colour, blur=blur, direction=direction, mask_scope=mask_scope
        )
        super().__init__("scandrop_linear", params, "linear")


class CentreMaxScanDrop(ScanDrop):
    """Loss that peaks at the middle of the scan."""

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        direction: ScanDirection = "rows",
        mask_scope: MaskScope = "image",
    ) -> None:
        params = ScanDropParams(
            grid=grid, fill=fill, colour=colour, blur=blur, direction=direction, mask_scope=mask_scope
        )
        super().__init__("scandrop_center_max", params, "center_max")


class CentreMinScanDrop(ScanDrop):
    """Loss that is lowest at the middle of the scan."""

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        direction: ScanDirection = "rows",
        mask_scope: MaskScope = "image",
    ) -> None:
        params = ScanDropParams(
            grid=grid, fill=fill, colour=colour, blur=blur, direction=direction, mask_scope=mask_scope
        )
        super().__init__("scandrop_center_min", params, "center_min")


class SequentialScanDrop(RankedDrop):
    """Replace the first floor(ratio * cells) cells of a scan, whole (arXiv 2406.09407); nothing is random."""

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        direction: ScanDirection = "rows",
    ) -> None:
        params = SequentialDropParams(grid=grid, fill=fill, colour=colour, blur=blur, direction=direction)
        super().__init__("scandrop_sequential", params)
        self._direction: ScanDirection = direction

    def _ranks(self, batch: ImageBatch, grid: tuple[int, int]) -> npt.NDArray[np.int64]:
        return np.tile(np.argsort(scan_order(grid, self._direction)), (len(batch), 1))


@lru_cache(maxsize=8)
def _pixels_by_cell(
    grid: tuple[int, int], size: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row-major places of the pixels of each cell (cells, largest area), filled up with 0, and the areas (cells,)."""
    rows, columns = cell_of_pixel(size[0], grid[0]), cell_of_pixel(size[1], grid[1])
    owner = np.add.outer(rows * grid[1], columns).ravel()
    areas = np.bincount(owner, minlength=grid[0] * grid[1])
    places = np.zeros((len(areas), int(areas.max())), np.int64)
    places[np.arange(places.shape[1]) < areas[:, None]] = np.argsort(owner, kind="stable")
    for array in (places, areas):
        array.setflags(write=False)
    return places, areas
