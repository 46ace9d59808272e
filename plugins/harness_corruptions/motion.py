"""Blur along a line: the mean of an image moved step by step, weighted by half a Gaussian."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from harness import rng
from harness_corruptions.corruption import Corruption
from harness_corruptions.quantise import nearest_eight_bit

MOTION = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))
"""Radius and sigma in pixels."""
MOST_DEGREES = 45.0


def motion_taps(radius: int, sigma: float) -> npt.NDArray[np.float64]:
    """Weights (2 radius + 1,) of the steps of a motion, from none on: half a Gaussian, of sum 1."""
    taps = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights: npt.NDArray[np.float64] = taps / taps.sum()
    return weights


def motion_offsets(count: int, degrees: float) -> npt.NDArray[np.int64]:
    """How far down and right the pixel lies that step 0 to ``count - 1`` takes, in whole pixels: (count, 2) int64."""
    direction = np.array([np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))])
    # Products as small as the sine of 180 degrees are no reason for a step.
    steps = np.round(np.arange(count)[:, None] * direction, 9)
    offsets: npt.NDArray[np.int64] = np.ceil(steps - 0.5).astype(np.int64)
    return offsets


def blur_along(images: Tensor, *, radius: int, sigma: float, degrees: Sequence[float]) -> Tensor:
    """``images`` (N, C, H, W), each blurred along a line at its own angle of ``degrees`` (N) from the rows.

    A pixel becomes the weighted mean of the pixels that lie 0, 1, ... ``2 radius`` steps onwards along the line,
    rounded to whole pixels; beyond the edge lies the edge's own. The motion ends where a step is as long as a side, as
    the package imagecorruptions has it, and what is left of the weights is black.
    """
    taps = motion_taps(radius, sigma)
    height, width = images.shape[-2:]
    blurred = torch.zeros_like(images)
    for row, (image, angle) in enumerate(zip(images, degrees, strict=True)):
        offsets = motion_offsets(len(taps), angle)
        inside = (np.abs(offsets[:, 0]) < height) & (np.abs(offsets[:, 1]) < width)
        count = len(taps) if inside.all() else int(np.argmin(inside))
        up, left = (max(0, -int(least)) for least in offsets[:count].min(axis=0))
        down, right = (max(0, int(most)) for most in offsets[:count].max(axis=0))
        wide = functional.pad(image[None], (left, right, up, down), mode="replicate")[0]
        for (dy, dx), weight in zip(offsets[:count].tolist(), taps.tolist(), strict=False):
            moved = wide[:, up + dy : up + dy + height, left + dx : left + dx + width]
            blurred[row].add_(moved, alpha=weight)
    return blurred


class MotionBlur(Corruption):
    """Blur along a line at a random angle of up to 45 degrees, of radius 10 to 20 pixels at 224.

    Radius and sigma scale with the image; severities share the angle. The variants compute the same mean; ImageMagick,
    which made ImageNet-C, rounds it to the nearest of 256 values where the package cuts it down.
    """

    name = "motion_blur"
    stochastic = True

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> npt.NDArray[np.float64]:  # noqa: ARG002 - the angle does not depend on the size
        """An angle in degrees for each image: (N,) float64."""
        uniform: npt.NDArray[np.float64] = rng.uniforms(seed, self.stream, ids, 1)[:, 0]
        return (2 * uniform - 1) * MOST_DEGREES

    def corrupt(self, images: Tensor, severity: int, draws: npt.NDArray[np.float64]) -> Tensor:
        """See :func:`blur_along`."""
        radius, sigma = MOTION[severity - 1]
        scale = self.scale((images.shape[2], images.shape[3]))
        blurred = blur_along(images, radius=max(1, round(radius * scale)), sigma=sigma * scale, degrees=draws.tolist())
        if self.params.variant == "imagenet_c" and self.params.quantise:
            return nearest_eight_bit(blurred)
        return blurred
