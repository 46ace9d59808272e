"""Edges of drops, distances to them, and what lights them, as OpenCV finds them, in NumPy."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_Number = TypeVar("_Number", np.int32, np.float64)

_UNITS = 10_000
_STRAIGHT, _DIAGONAL, _KNIGHT = 10_000, 14_000, 21_969
"""Lengths of the three steps of the 5 x 5 chamfer distance, in 1/10000 pixel."""

_FAR = 1 << 29

_TAN_22_5 = int(np.tan(np.pi / 8) * (1 << 15) + 0.5)
"""In 1/32768, the precision in which directions of gradients are told apart."""

_RELIEF = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
"""Lights a drop from the lower right."""


def edges(grey: npt.NDArray[np.uint8], low: int, high: int) -> npt.NDArray[np.bool_]:
    """Edges of a (H, W) image by Canny's method, with 3 x 3 Sobel gradients and thresholds of |gx| + |gy|.

    John Canny, "A computational approach to edge detection" (IEEE PAMI 1986), in the integers of OpenCV's ``Canny``.
    """
    wide = np.pad(grey.astype(np.int32), 1, mode="edge")
    down = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    across = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    gx, gy = down[:, 2:] - down[:, :-2], across[2:] - across[:-2]
    strength = np.abs(gx) + np.abs(gy)

    around = np.pad(strength, 1)
    middle = slice(1, -1)
    shift = {-1: slice(None, -2), 0: middle, 1: slice(2, None)}

    def at(dy: int, dx: int) -> npt.NDArray[np.int32]:
        return around[shift[dy], shift[dx]]

    steep = np.abs(gx).astype(np.int64)
    rise, flat = np.abs(gy).astype(np.int64) << 15, steep * _TAN_22_5
    horizontal, vertical = rise < flat, rise > flat + (steep << 16)
    falling = (gx ^ gy) < 0
    # Of equal neighbours along an axis the first is the edge; along a diagonal neither is.
    thin = np.select(
        [horizontal, vertical, falling],
        [
            (strength > at(0, -1)) & (strength >= at(0, 1)),
            (strength > at(-1, 0)) & (strength >= at(1, 0)),
            (strength > at(-1, 1)) & (strength > at(1, -1)),
        ],
        (strength > at(-1, -1)) & (strength > at(1, 1)),
    )
    candidates = thin & (strength > low)
    groups, count = ndimage.label(candidates, structure=np.ones((3, 3)))
    strong = np.zeros(count + 1, dtype=bool)
    strong[groups[candidates & (strength > high)]] = True
    kept: npt.NDArray[np.bool_] = strong[groups]
    return kept


def distances(zeros: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """5 x 5 chamfer distance in pixels from every pixel of (N, H, W) images to the next one that is set in ``zeros``.

    Gunilla Borgefors, "Distance transformations in digital images" (CVGIP 1986), with steps of 1, 1.4 and 2.1969,
    as ``distanceTransform`` of OpenCV has them. Huge where nothing is set.
    """
    n, rows, columns = zeros.shape
    found = np.full((n, rows + 4, columns + 4), _FAR, dtype=np.int32)
    inner = found[:, 2:-2, 2:-2]
    inner[zeros] = 0
    turned = inner[:, ::-1, ::-1]
    _sweep(found, inner)
    _sweep(found[:, ::-1, ::-1], turned)
    return (inner / _UNITS).astype(np.float32)


def _sweep(found: npt.NDArray[np.int32], inner: npt.NDArray[np.int32]) -> None:
    """Bring distances down through the image and from left to right, row by row, in place."""
    columns = inner.shape[2]
    steps = np.arange(columns, dtype=np.int32) * _STRAIGHT
    for y in range(inner.shape[1]):
        one, two, row = found[:, y + 1], found[:, y], inner[:, y]
        for line, start, length in (
            (two, 1, _KNIGHT),
            (two, 3, _KNIGHT),
            (one, 0, _KNIGHT),
            (one, 1, _DIAGONAL),
            (one, 2, _STRAIGHT),
            (one, 3, _DIAGONAL),
            (one, 4, _KNIGHT),
        ):
            np.minimum(row, line[:, start : start + columns] + length, out=row)
        # What comes from the left costs as much as the columns between, so their number is taken off and put back on.
        row[...] = np.minimum.accumulate(row - steps, axis=1) + steps


def box_sum(pixels: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Sums over 3 x 3 pixels of a (H, W) image, which goes on as its mirror image about the border pixels."""
    wide = np.pad(pixels, 1, mode="reflect")
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    sums: npt.NDArray[_Number] = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return sums


def equalised(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A (H, W) image whose levels are spread so that all are equally frequent, the lowest going to 0."""
    counts = np.bincount(grey.ravel(), minlength=256)
    lowest = int(np.flatnonzero(counts)[0])
    if counts[lowest] == grey.size:
        return grey
    above = np.cumsum(counts) - counts[lowest]
    table = np.rint(above.astype(np.float32) * np.float32(255.0 / (grey.size - counts[lowest])))
    spread: npt.NDArray[np.uint8] = table.clip(0, 255).astype(np.uint8)[grey]
    return spread


def relief(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A (H, W) image lit from the side, out of 255; it goes on as its mirror image about the border pixels."""
    lit = ndimage.correlate(grey.astype(np.int32), np.array(_RELIEF), mode="mirror")
    levels: npt.NDArray[np.uint8] = lit.clip(0, 255).astype(np.uint8)
    return levels
