"""Blur by zoom: the mean of an image and of itself at rising magnification."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from harness_corruptions.corruption import Corruption
from harness_corruptions.parameters import Variant


def _rising(step: float, count: int) -> tuple[float, ...]:
    # As numpy.arange computes it: by multiples of the first difference, which is not quite the step. The last bit
    # decides about a whole pixel where side / factor is nearly a whole number.
    difference = (1 + step) - 1
    return tuple(1 + difference * i for i in range(count))


FACTORS: dict[Variant, tuple[tuple[float, ...], ...]] = {
    "imagecorruptions": (_rising(0.01, 12), _rising(0.01, 16), _rising(0.02, 11), _rising(0.02, 13), _rising(0.03, 11)),
    "imagenet_c": (_rising(0.01, 12), _rising(0.01, 16), _rising(0.02, 11), _rising(0.02, 13), _rising(0.03, 12)),
}
"""Magnifications by severity, as the floating-point ranges of both definitions really end."""


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """The middle of ``images`` (N, C, H, W) enlarged by ``factor``, a little larger than they were or equal.

    The cut is the smallest whole number of pixels that gives the size when enlarged; what comes out is cut to a whole
    number of pixels and may exceed the size by some. Bilinear, from corner to corner, as ``scipy.ndimage.zoom`` of
    order 1; at a few sizes (36 pixels by 1.2, none at 224) that leaves its last row and column black, because rounding
    takes them beyond the corner, and here they hold the corner's.
    """
    sides = [math.ceil(side / factor) for side in images.shape[-2:]]
    top, left = ((side - cut) // 2 for side, cut in zip(images.shape[-2:], sides, strict=True))
    middle = images[:, :, top : top + sides[0], left : left + sides[1]]
    size = [round(cut * factor) for cut in sides]
    return functional.interpolate(middle, size=size, mode="bilinear", align_corners=True)


def zoom_blur(images: Tensor, factors: Sequence[float]) -> Tensor:
    """The mean of ``images`` (N, C, H, W) and of an enlargement of them by each of ``factors``, which are below 1.5.

    An enlargement has at most one row and one column too many; they are cut off at the bottom and the right.
    """
    height, width = images.shape[-2:]
    blurred = []
    # Image by image, the sum stays in the processor's cache.
    for row in range(len(images)):
        image = images[row : row + 1]
        total = image.clone()
        for factor in factors:
            total += clipped_zoom(image, factor)[:, :, :height, :width]
        blurred.append(total / (len(factors) + 1))
    return torch.cat(blurred)


class ZoomBlur(Corruption):
    """The mean of the image and of 11 to 16 enlargements of it, up to 1.1 to 1.3 times. Nothing scales with size.

    Severity 5 of variant ``imagenet_c`` goes on to 1.33. At 224 pixels no value of 256 differs by more than one from
    the package's.
    """

    name = "zoom_blur"

    def corrupt(self, images: Tensor, severity: int, draws: None) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """See :func:`zoom_blur`."""
        return zoom_blur(images, FACTORS[self.params.variant][severity - 1])
