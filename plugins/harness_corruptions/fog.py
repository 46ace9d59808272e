"""Fog: a plasma fractal of bright haze, made by the diamond-square algorithm."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from harness import rng
from harness.threads import by_image
from harness_corruptions.corruption import Corruption

FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
"""Amplitude of the haze, and by what its roughness falls from one step to the next finer, by severity."""

_ROUGHNESS = 100.0
"""Half the width of the coarsest step's noise; as the noise is also multiplied by it, what counts is its square."""


def map_side(size: tuple[int, int]) -> int:
    """Side of the plasma for images of ``size`` (rows, columns): the next power of two of the longer side."""
    return 1 << (max(size) - 1).bit_length()


def plasma(uniforms: Tensor, side: int, decay: float) -> Tensor:
    """Plasma fractals from 0 to 1: (N, side, side), from ``uniforms`` (N, side**2 - 1) in [0, 1).

    The diamond-square algorithm on a torus (Fournier, Fussell and Carpenter, "Computer rendering of stochastic models",
    1982): every step halves the grid, new points being the mean of their four neighbours plus noise of width
    +-(100 / decay**step)**2. Uniforms are used up step by step: for a grid of k x k points first the k * k centres of
    squares, then the k * k points to the right of each old one, then the k * k below. ``side`` is a power of two.
    """
    heights = uniforms.new_zeros((len(uniforms), 1, 1))
    roughness, used = _ROUGHNESS, 0
    while (k := heights.shape[1]) < side:
        noise = uniforms[:, used : used + 3 * k * k].mul(2).sub_(1).mul_(roughness**2).reshape(-1, 3, k, k)
        heights = _refined(heights, noise)
        used += 3 * k * k
        roughness /= decay
    heights -= heights.amin(dim=(1, 2), keepdim=True)
    return heights.div_(heights.amax(dim=(1, 2), keepdim=True))


def _refined(heights: Tensor, noise: Tensor) -> Tensor:
    """(N, k, k) ``heights`` on a grid twice as fine, ``noise`` (N, 3, k, k) being that of centres, right and below."""
    n, k, _ = heights.shape
    around = functional.pad(heights[:, None], (0, 1, 0, 1), mode="circular")[:, 0]
    pairs = around[:, :, :-1] + around[:, :, 1:]
    centres = torch.add(noise[:, 0], pairs[:, :-1] + pairs[:, 1:], alpha=0.25)
    before = functional.pad(centres[:, None], (1, 0, 1, 0), mode="circular")[:, 0]
    finer = heights.new_empty((n, k, 2, k, 2))
    finer[:, :, 0, :, 0] = heights
    finer[:, :, 1, :, 1] = centres
    # A quarter is a power of two: whether the product is rounded before it is added makes no difference.
    right = (before[:, :-1, 1:] + centres).add_(pairs[:, :-1])
    torch.add(noise[:, 1], right, alpha=0.25, out=finer[:, :, 0, :, 1])
    below = (before[:, 1:, :-1] + centres).add_(around[:, :-1, :-1]).add_(around[:, 1:, :-1])
    torch.add(noise[:, 2], below, alpha=0.25, out=finer[:, :, 1, :, 0])
    return finer.reshape(n, 2 * k, 2 * k)


def fog(images: Tensor, amplitude: float, haze: Tensor) -> Tensor:
    """(N, 3, H, W) pixels plus ``amplitude`` times ``haze`` (N, rows, columns), scaled back to each image's maximum.

    Of a ``haze`` that is larger than the images its upper left corner counts.
    """
    rows, columns = images.shape[2:]
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    gain = brightest / (brightest + amplitude)
    return (images * gain).add_(haze[:, None, :rows, :columns] * (gain * amplitude))


class Fog(Corruption):
    """A plasma fractal laid over the image, denser and rougher with severity.

    The plasma grows with the image by definition (:func:`map_side`), so ``lengths`` makes no difference. All severities
    of an image share their uniforms. Given the same uniforms, no pixel differs from that of the package
    imagecorruptions by more than one of 256 values.
    """

    name: ClassVar[str] = "fog"
    stochastic: ClassVar[bool] = True

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> Tensor:
        """(N, side**2 - 1) float32 uniforms in [0, 1) for :func:`plasma`."""
        count = map_side(size) ** 2 - 1
        return torch.from_numpy(by_image(lambda name: rng.dense_uniforms(seed, self.stream, [name], [count])[0], ids))

    def corrupt(self, images: Tensor, severity: int, draws: Tensor) -> Tensor:
        """:func:`fog` at a severity."""
        amplitude, decay = FOG[severity - 1]
        size = (images.shape[2], images.shape[3])
        return fog(images, amplitude, plasma(draws.to(images.device), map_side(size), decay))
