"""Blurs by a fixed kernel: a disk as of a lens out of focus, and a Gaussian."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from harness_corruptions.corruption import Corruption

DEFOCUS = ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5))
"""Radius of the disk and sigma of the blur that smooths its edge, in pixels."""
GAUSSIAN_SIGMA = (1.0, 2.0, 3.0, 4.0, 6.0)
_TRUNCATE = 4.0
"""Where a Gaussian is cut off, in sigmas: as scipy and scikit-image do."""

Border = Literal["reflect", "replicate"]


def correlate(images: Tensor, kernel: Tensor, border: Border) -> Tensor:
    """``images`` (N, C, H, W) under a symmetric ``kernel`` (K, K) of odd side, in single precision.

    ``border``: what lies beyond the edge, the pixels mirrored without the edge itself, or the edge's own. By Fourier
    transform, image by image, so that what becomes of one does not depend on the others.
    """
    radius = kernel.shape[-1] // 2
    height, width = images.shape[-2:]
    size = [next_fast_len(side + 2 * radius, real=True) for side in (height, width)]
    response = torch.fft.rfft2(kernel.to(images.device, images.dtype), s=size)
    found = []
    for image in images:
        spectrum = torch.fft.rfft2(_padded(image, radius, border), s=size)
        whole = torch.fft.irfft2(spectrum * response, s=size)
        found.append(whole[:, 2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width])
    return torch.stack(found)


def _padded(image: Tensor, radius: int, border: Border) -> Tensor:
    """``image`` (C, H, W) with ``radius`` pixels more on every side, several times over where it is small."""
    height, width = image.shape[-2:]
    if border == "replicate" or radius < min(height, width):
        return functional.pad(image[None], (radius,) * 4, mode=border)[0]
    rows, columns = (_mirrored(side, radius, image.device) for side in (height, width))
    return image[:, rows][:, :, columns]


def _mirrored(side: int, radius: int, device: torch.device) -> Tensor:
    period = max(2 * (side - 1), 1)
    place = torch.arange(-radius, side + radius, device=device) % period
    return torch.minimum(place, period - place)


@lru_cache(maxsize=64)
def gaussian_taps(sigma: float) -> Tensor:
    """A Gaussian of ``sigma`` pixels at whole pixels up to 4 sigma, of sum 1: (2 R + 1,) float64."""
    radius = int(_TRUNCATE * sigma + 0.5)
    places = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 / (sigma * sigma) * places**2)
    return torch.from_numpy(taps / taps.sum())


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """``images`` (N, C, H, W) under a Gaussian of ``sigma`` pixels; beyond the edge lies the edge's own pixel."""
    taps = gaussian_taps(sigma)
    return correlate(images, torch.outer(taps, taps), "replicate")


@lru_cache(maxsize=64)
def disk_kernel(radius: float, alias_sigma: float, half: int, alias_half: int) -> Tensor:
    """A disk of ``radius`` pixels in a square of ``2 half + 1``, its edge smoothed: (2 half + 1,) * 2 float64.

    Every pixel whose centre lies in the disk counts alike; the sum of 1 is smoothed by a Gaussian of ``alias_sigma``
    cut off at ``alias_half``, the square mirrored beyond its edge.
    """
    places = np.arange(-half, half + 1)
    inside = (places[:, None] ** 2 + places[None, :] ** 2 <= radius**2).astype(np.float64)
    taps = np.exp(-(np.arange(-alias_half, alias_half + 1) ** 2) / (2 * alias_sigma**2))
    taps /= taps.sum()
    smooth = inside / inside.sum()
    for axis in (0, 1):
        wide = np.pad(smooth, [(alias_half, alias_half) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
        parts = [tap * wide.take(range(i, i + len(places)), axis=axis) for i, tap in enumerate(taps)]
        smooth = np.sum(parts, axis=0)
    return torch.from_numpy(smooth)


def defocus_blur(images: Tensor, radius: float, alias_sigma: float, *, scale: float = 1.0) -> Tensor:
    """``images`` (N, C, H, W) under a disk of ``scale * radius`` pixels, mirrored at the edge.

    The published disks of up to 8 pixels lie in a square of 17 and are smoothed over 3 pixels, larger ones in a square
    that just holds them and over 5.
    """
    half = math.ceil(scale * (8 if radius <= 8 else radius))
    kernel = disk_kernel(scale * radius, alias_sigma, max(half, 2), 1 if radius <= 8 else 2)
    return correlate(images, kernel, "reflect")


class DefocusBlur(Corruption):
    """Blur by a disk of radius 3 to 10 pixels at 224, its edge slightly smoothed; the radius scales with the image.

    At 224 pixels no value of 256 differs by more than one from the package's. The blur that smooths the edge does not
    scale: it is there for the pixels' own steps.
    """

    name = "defocus_blur"

    def corrupt(self, images: Tensor, severity: int, draws: None) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """See :func:`defocus_blur`."""
        radius, alias_sigma = DEFOCUS[severity - 1]
        return defocus_blur(images, radius, alias_sigma, scale=self.scale((images.shape[2], images.shape[3])))


class GaussianBlur(Corruption):
    """Blur by a Gaussian of sigma 1 to 6 pixels at 224; sigma scales with the image.

    At 224 pixels no value of 256 differs by more than one from the package's.
    """

    name = "gaussian_blur"

    def corrupt(self, images: Tensor, severity: int, draws: None) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """See :func:`gaussian_blur`."""
        return gaussian_blur(images, GAUSSIAN_SIGMA[severity - 1] * self.scale((images.shape[2], images.shape[3])))
