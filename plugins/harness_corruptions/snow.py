"""Snow: bright flakes that fall at a random angle over a whitened image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from harness import rng
from harness.threads import by_image
from harness_corruptions.corruption import Corruption
from harness_corruptions.motion import blur_along
from harness_corruptions.zoom import clipped_zoom


@dataclass(frozen=True, slots=True, kw_only=True)
class Snowfall:
    """How snow falls: normal noise of ``mean`` and ``spread``, enlarged by ``zoom``, 0 below ``threshold``, blurred.

    ``radius_px`` and ``sigma_px`` are those of the motion; ``clear`` is the share of the image that is not whitened.
    """

    mean: float
    spread: float
    zoom: float
    threshold: float
    radius_px: int
    sigma_px: float
    clear: float


SNOW = (
    Snowfall(mean=0.1, spread=0.3, zoom=3, threshold=0.5, radius_px=10, sigma_px=4, clear=0.8),
    Snowfall(mean=0.2, spread=0.3, zoom=2, threshold=0.5, radius_px=12, sigma_px=4, clear=0.7),
    Snowfall(mean=0.55, spread=0.3, zoom=4, threshold=0.9, radius_px=12, sigma_px=8, clear=0.7),
    Snowfall(mean=0.55, spread=0.3, zoom=4.5, threshold=0.85, radius_px=12, sigma_px=8, clear=0.65),
    Snowfall(mean=0.55, spread=0.3, zoom=2.5, threshold=0.85, radius_px=12, sigma_px=12, clear=0.55),
)
"""The snowfall by severity."""

_LEAST_ZOOM = min(fall.zoom for fall in SNOW)
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114


@dataclass(frozen=True, slots=True, kw_only=True)
class SnowDraws:
    """``noise``: (N, rows, columns) standard normal float32, of the part of the image that is enlarged.

    ``degrees``: (N,) from -135 to -45, the direction of the fall.
    """

    noise: Tensor
    degrees: npt.NDArray[np.float64]


def flakes(noise: Tensor, degrees: npt.NDArray[np.float64], fall: Snowfall, *, scale: float, script: bool) -> Tensor:
    """Falling flakes: (N, 1, H, W) float32 multiples of 1/255, of (N, H, W) standard normal ``noise``.

    The motion's radius and sigma are multiplied by ``scale``. The flakes are a little larger than the image where the
    zoom does not divide it: the package blurs all of them and keeps the upper left, the script that made ImageNet-C
    keeps the middle, cuts it down to 8 bit, and blurs that.
    """
    rows, columns = noise.shape[1:]
    # In double precision, as a value on the wrong side of the threshold is a whole flake.
    layer = clipped_zoom(noise[:, None].double().mul(fall.spread).add_(fall.mean), fall.zoom)
    layer = layer.masked_fill_(layer < fall.threshold, 0).clamp_(0, 1)
    if script:
        top, left = (layer.shape[2] - rows) // 2, (layer.shape[3] - columns) // 2
        layer = layer[:, :, top : top + rows, left : left + columns].mul(255).floor_().div_(255)
    blurred = blur_along(
        layer.float(),
        radius=max(1, round(fall.radius_px * scale)),
        sigma=fall.sigma_px * scale,
        degrees=degrees.tolist(),
    )
    return blurred[:, :, :rows, :columns].mul(255).round_().div_(255)


def snow(images: Tensor, layer: Tensor, clear: float) -> Tensor:
    """(N, 3, H, W) pixels whitened but for a share ``clear``, with ``layer`` (N, 1, H, W) and itself upside down added.

    What is whitened is at least half white: the larger of each channel and 1.5 times the grey value plus 0.5.
    """
    grey = (images[:, :1] * _RED).add_(images[:, 1:2] * _GREEN).add_(images[:, 2:] * _BLUE)
    white = torch.maximum(images, grey.mul_(1.5).add_(0.5)).mul_(1 - clear)
    return white.add_(images * clear).add_(layer + layer.flip(2, 3))


class Snow(Corruption):
    """Bright flakes at a random angle of -135 to -45 degrees over a whitened image, and the same flakes upside down.

    Radius and sigma of the motion scale with the image; flakes are as many pixels at any size, for they are enlarged
    pixels of noise. All severities of an image share noise and angle. ``variant="imagenet_c"``, the script that made
    ImageNet-C, differs in which part of the flakes is kept and where they are rounded (:func:`flakes`).

    Given the same noise and angle, 99.9 % of pixels are within one of 256 values of those of the package
    imagecorruptions.
    """

    name: ClassVar[str] = "snow"
    stochastic: ClassVar[bool] = True

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> SnowDraws:
        """Noise for the middle of the image, which is all that the least zoom takes, and an angle."""
        shape = [math.ceil(side / _LEAST_ZOOM) for side in size]
        noise = by_image(lambda name: rng.normals(seed, self.stream, [name], shape)[0], ids)
        degrees = rng.uniforms(seed, f"{self.stream}.angle", ids, 1)[:, 0] * 90 - 135
        return SnowDraws(noise=torch.from_numpy(noise), degrees=degrees)

    def corrupt(self, images: Tensor, severity: int, draws: Any) -> Tensor:
        """:func:`snow` at a severity."""
        fall = SNOW[severity - 1]
        size = (images.shape[2], images.shape[3])
        noise = _in_the_middle(draws.noise.to(images.device), size)
        script = self.params.variant == "imagenet_c"
        return snow(images, flakes(noise, draws.degrees, fall, scale=self.scale(size), script=script), fall.clear)


def _in_the_middle(noise: Tensor, size: tuple[int, int]) -> Tensor:
    down, across = size[0] - noise.shape[1], size[1] - noise.shape[2]
    return functional.pad(noise, (across // 2, across - across // 2, down // 2, down - down // 2))
