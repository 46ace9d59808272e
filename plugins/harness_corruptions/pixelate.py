"""Pixelation: an image reduced by averaging boxes, and enlarged again by repeating pixels."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from harness_corruptions.corruption import Corruption

PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Side of the reduced image as a share of the image's, by severity."""

_HALF_UP = 0.5 + 1e-3
"""Added before cutting to a whole level: halves go up, and what float32 loses must not bring one down."""


@lru_cache(maxsize=64)
def boxes(length: int, reduced: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First pixel and number of pixels of each of ``reduced`` boxes along a side of ``length`` pixels.

    A box holds the whole pixels whose centres lie within half a step of its own. Both conditions on them are Pillow's:
    they differ only where a centre lies on the bound, and there in what double precision makes of it.
    """
    step = length / reduced
    held = []
    for box in range(reduced):
        centre = (box + 0.5) * step
        near = range(int(centre - step / 2 + 0.5), min(int(centre + step / 2 + 0.5), length))
        held.append([pixel for pixel in near if -0.5 < (pixel - centre + 0.5) * (1 / step) <= 0.5])
    return tuple(pixels[0] for pixels in held), tuple(len(pixels) for pixels in held)


@lru_cache(maxsize=64)
def nearest(length: int, reduced: int) -> tuple[int, ...]:
    """Which of ``reduced`` boxes each of ``length`` pixels repeats.

    Steps are summed up as Pillow does it, since whether a pixel in the middle between two boxes takes the one or the
    other hangs on what double precision makes of the sum.
    """
    step = reduced / length
    return tuple(min(int(place), reduced - 1) for place in accumulate([step * 0.5, *[step] * (length - 1)]))


def box_means(pixels: Tensor, reduced: int, unit: float = 1.0) -> Tensor:
    """``pixels`` (N, 3, H, W) averaged over boxes of rows, times ``unit``: (N, 3, ``reduced``, W)."""
    starts, counts = boxes(pixels.shape[2], reduced)
    first = torch.tensor(starts, device=pixels.device)
    count = torch.tensor(counts, device=pixels.device)
    total = pixels.index_select(2, first)
    for further in range(1, max(counts)):
        there = count > further
        row = pixels.index_select(2, first + there * further)
        total.add_(row if further < min(counts) else row.mul_(there[:, None]))
    return total.mul_((unit / count)[:, None])


def pixelate(images: Tensor, share: float) -> Tensor:
    """(N, 3, H, W) pixels in [0, 1] as the means of boxes, in multiples of 1/255; gradients are those of the means.

    The reduced image has floor(``share`` * side) pixels a side; as in Pillow, whose box filter the reference uses, it
    is averaged first across and then down, and rounded to 8 bit each time.
    """
    rows, columns = images.shape[2:]
    wide, high = int(columns * share), int(rows * share)
    # Rows are copied whole and so ten times as fast as columns are picked: columns become rows for their turn.
    across = _rounded(box_means(_turned(images), wide, unit=255))
    reduced = _rounded(box_means(_turned(across), high)).div_(255)
    return _repeated(reduced, (rows, columns))


def _repeated(reduced: Tensor, size: tuple[int, int]) -> Tensor:
    if all(_torch_agrees(length, boxes) for length, boxes in zip(size, reduced.shape[2:], strict=True)):
        return functional.interpolate(reduced, size=size, mode="nearest-exact")
    down, across = (
        torch.tensor(nearest(length, boxes), device=reduced.device)
        for length, boxes in zip(size, reduced.shape[2:], strict=True)
    )
    return _turned(_turned(reduced).index_select(2, across)).index_select(2, down)


@lru_cache(maxsize=64)
def _torch_agrees(length: int, reduced: int) -> bool:
    """Whether torch, which is faster, repeats the same boxes as Pillow: not where it rounds middles otherwise."""
    numbers = torch.arange(reduced, dtype=torch.float32)[None, None]
    repeated = functional.interpolate(numbers, size=length, mode="nearest-exact")[0, 0]
    return repeated.long().tolist() == list(nearest(length, reduced))


def _turned(images: Tensor) -> Tensor:
    return images.transpose(2, 3).contiguous()


def _rounded(levels: Tensor) -> Tensor:
    """``levels``, which are overwritten, to the nearest whole ones."""
    if not levels.requires_grad:
        return levels.add_(_HALF_UP).floor_()
    return levels + (levels.detach().add(_HALF_UP).floor_() - levels.detach())


class Pixelate(Corruption):
    """Reduced to 60 to 25 % of each side by averaging boxes and enlarged by repeating pixels.

    Shares of the side need no scaling, so ``lengths`` makes no difference. For images of 8 bit every pixel equals that
    of the package imagecorruptions. Gradients pass straight through the rounding.
    """

    name: ClassVar[str] = "pixelate"
    already_eight_bit: ClassVar[bool] = True

    def corrupt(self, images: Tensor, severity: int, draws: Any) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """:func:`pixelate` at a severity."""
        return pixelate(images, PIXELATE[severity - 1])
