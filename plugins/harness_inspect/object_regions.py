"""The objects of an image as counts of pixels in the cells of a grid, from which overlaps with cells are exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.types import ImageBatch

VoidRule: TypeAlias = Literal["ignore", "background"]

BACKGROUND, VOID = 0, 255
"""Numbers in :attr:`~harness.types.ImageBatch.regions` that are no class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRegions:
    """One image: ``classes`` (R,) that are there, ``objects`` (R, cells) pixels of each in every cell.

    ``counted`` (cells,): the pixels that count, without those of void where these are ignored. ``pixels`` (cells,):
    all of them. Whole numbers, as float64. A pixel belongs to the cell that its upper left corner lies in, as under
    nearest-neighbour enlargement of the cells.
    """

    classes: npt.NDArray[np.int64]
    objects: npt.NDArray[np.float64]
    counted: npt.NDArray[np.float64]
    pixels: npt.NDArray[np.float64]

    def jaccard(self, sets: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Intersection over union of sets of cells (..., cells) with the region of each class: (..., R)."""
        chosen = sets.astype(np.float64)
        return self.jaccard_of(chosen @ self.objects.T, chosen @ self.counted)

    def jaccard_of(
        self, overlaps: npt.NDArray[np.float64], covered: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """The same from pixels (..., R) that sets share with each region, and pixels (...) of theirs that count."""
        return np.asarray(overlaps / (covered[..., None] + self.objects.sum(axis=1) - overlaps))

    def area(self, sets: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Share of the image's pixels that sets of cells (..., cells) cover: (...)."""
        return np.asarray(sets @ self.pixels / self.pixels.sum())

    @property
    def object_area(self) -> float:
        """Share of the pixels that count which any object has."""
        return float(self.objects.sum() / self.counted.sum())

    def mass_on_object(self, maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Share of maps (..., cells) from 0 up that lies on any object, each cell's spread evenly over its pixels.

        (...), of what lies on pixels that count; 0 where nothing does.
        """
        density = np.divide(maps, self.pixels, out=np.zeros_like(maps), where=self.pixels > 0)
        whole = density @ self.counted
        inside = density @ self.objects.sum(axis=0)
        return np.asarray(np.divide(inside, whole, out=np.zeros_like(whole), where=whole > 0))


def batch_regions(batch: ImageBatch) -> npt.NDArray[np.uint8] | None:
    """Regions (N, H, W) of a batch: its own, else its masks as regions of one class; None for a batch without."""
    if batch.regions is not None:
        return np.asarray(batch.regions.cpu().numpy(), dtype=np.uint8)
    return None if batch.masks is None else np.asarray(batch.masks.cpu().numpy() != 0, dtype=np.uint8)


def count_regions(regions: npt.NDArray[np.uint8], grid: tuple[int, int], void: VoidRule) -> ObjectRegions | None:
    """The regions (H, W) of one image in the cells of ``grid``; None for an image without an object.

    Pixel (y, x) lies in the cell of row floor(y * rows / H) and column floor(x * columns / W). ``void``: whether
    pixels of void are left out of every count or are background.
    """
    (rows, columns), (height, width) = grid, regions.shape
    row_of, column_of = np.arange(height) * rows // height, np.arange(width) * columns // width
    cells = row_of[:, None] * columns + column_of
    present = np.flatnonzero(np.bincount(regions.ravel(), minlength=256))
    classes = present[(present != BACKGROUND) & (present != VOID)]
    if not len(classes):
        return None
    first_cells = np.zeros(256, dtype=np.int64)
    first_cells[present] = np.arange(len(present)) * (rows * columns)
    places = first_cells[regions] + cells
    of_regions = np.bincount(places.ravel(), minlength=len(present) * rows * columns).astype(np.float64)
    counts = of_regions.reshape(len(present), -1)
    pixels = counts.sum(axis=0)
    return ObjectRegions(
        classes=classes,
        objects=counts[np.isin(present, classes)],
        counted=pixels - counts[present == VOID].sum(axis=0) if void == "ignore" else pixels,
        pixels=pixels,
    )
