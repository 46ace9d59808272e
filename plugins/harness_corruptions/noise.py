"""Noise of single pixels: Gaussian, shot, impulse and speckle, each drawn once for all severities of an image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import poisson
from torch import Tensor

from harness import rng
from harness.threads import by_image
from harness_corruptions.corruption import Corruption

GAUSSIAN_SIGMA = (0.08, 0.12, 0.18, 0.26, 0.38)
SHOT_RATE = (60.0, 25.0, 12.0, 5.0, 3.0)
"""Photons that a white pixel catches in the mean."""
IMPULSE_AMOUNT = (0.03, 0.06, 0.09, 0.17, 0.27)
SPECKLE_SIGMA = (0.15, 0.2, 0.35, 0.45, 0.6)

_BUCKETS = 1024
"""Into how many a uniform number is sorted before the exact search; most hold a single value of the count."""


def gaussian_noise(images: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """``images`` (N, 3, H, W) with ``sigma`` times standard normal ``noise`` of the same shape added."""
    return torch.add(images, noise, alpha=sigma)


def speckle_noise(images: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """``images`` (N, 3, H, W) with ``sigma`` times standard normal ``noise`` times the pixel itself added."""
    return images * torch.add(torch.ones((), device=images.device), noise, alpha=sigma)


def impulse_noise(images: Tensor, flipped: Tensor, salted: Tensor) -> Tensor:
    """``images`` (N, 3, H, W) with the ``flipped`` values replaced, by 1 where ``salted`` and by 0 elsewhere; bool."""
    return torch.where(flipped, salted.to(images.dtype), images)


def photon_counts(images: Tensor, rate: float, uniforms: Tensor) -> Tensor:
    """Poisson counts (N, 3, H, W) float32 of mean ``rate`` times the pixel, from ``uniforms`` in [0, 1) of that shape.

    Pixels count as the nearest of the 256 values of an image file. The count is the least whose cumulative
    probability exceeds the uniform number, so that a higher rate never gives fewer photons. Found on the CPU, whatever
    the device of ``images``, as the numbers are drawn there.
    """
    guide, cumulative = _poisson_tables(rate)

    def of(given: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        image, uniform = given
        levels = np.rint(image * np.float32(255)).clip(0, 255).astype(np.int32)
        buckets = (uniform * np.float32(_BUCKETS)).astype(np.int32)
        buckets += levels * _BUCKETS
        levels *= cumulative.shape[1]
        place = guide.take(buckets)
        place += levels
        late = np.flatnonzero(cumulative.take(place) <= uniform)
        while late.size:
            place[late] += 1
            late = late[cumulative.take(place[late]) <= uniform[late]]
        place -= levels
        return place.astype(np.float32)

    pixels, numbers = (tensor.detach().cpu().flatten(1).numpy() for tensor in (images, uniforms))
    counts = by_image(of, zip(pixels, numbers, strict=True))
    return torch.from_numpy(counts).view(images.shape).to(images.device)


@lru_cache(maxsize=16)
def _poisson_tables(rate: float) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """For each of the 256 values: the count at the start of every bucket, and the cumulative probabilities."""
    means = np.arange(256)[:, None] / 255 * rate
    most = int(poisson.isf(2.0**-40, rate)) + 2
    cumulative = poisson.cdf(np.arange(most), means)
    cumulative[:, -1] = np.inf
    starts = np.arange(_BUCKETS) / _BUCKETS
    guide = np.stack([np.searchsorted(row, starts, side="right") for row in cumulative])
    return guide.astype(np.int32), cumulative.astype(np.float32)


class _Noise(Corruption):
    """One draw for every value of every image; nothing scales with the size of the image."""

    stochastic = True
    is_normal = True

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> Tensor:
        """(N, 3, rows, columns) float32: standard normal numbers, or uniform ones in [0, 1)."""
        make = rng.normals if self.is_normal else rng.dense_uniforms
        return torch.from_numpy(by_image(lambda name: make(seed, self.stream, [name], (3, *size))[0], ids))


class GaussianNoise(_Noise):
    """Normal noise of standard deviation .08 to .38 of the range; severities share the draws, scaled."""

    name = "gaussian_noise"

    def corrupt(self, images: Tensor, severity: int, draws: Tensor) -> Tensor:
        """See :func:`gaussian_noise`."""
        return gaussian_noise(images, GAUSSIAN_SIGMA[severity - 1], draws.to(images.device))


class SpeckleNoise(_Noise):
    """Normal noise of standard deviation .15 to .6 of each value; severities share the draws, scaled."""

    name = "speckle_noise"

    def corrupt(self, images: Tensor, severity: int, draws: Tensor) -> Tensor:
        """See :func:`speckle_noise`."""
        return speckle_noise(images, SPECKLE_SIGMA[severity - 1], draws.to(images.device))


class ShotNoise(_Noise):
    """Each value as a count of photons, 60 down to 3 for a white one, over that number. No gradient leads through it.

    Severities share the uniform numbers that counts are found from, see :func:`photon_counts`.
    """

    name = "shot_noise"
    is_normal = False

    def corrupt(self, images: Tensor, severity: int, draws: Tensor) -> Tensor:
        """Photon counts over the rate."""
        rate = SHOT_RATE[severity - 1]
        return photon_counts(images, rate, draws) / rate


class ImpulseNoise(_Noise):
    """3 to 27 % of all values replaced, half of them by white and half by black.

    A uniform number below the amount replaces, and its last bit says by what, so that what a lower severity replaces a
    higher one replaces by the same.
    """

    name = "impulse_noise"
    is_normal = False

    def corrupt(self, images: Tensor, severity: int, draws: Tensor) -> Tensor:
        """See :func:`impulse_noise`."""
        amount, uniforms = IMPULSE_AMOUNT[severity - 1], draws.to(images.device)
        salted = uniforms.mul(2.0**24).to(torch.int32).bitwise_and_(1).bool()
        return impulse_noise(images, uniforms < amount, salted)
