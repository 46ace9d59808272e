"""Spatter: drops of water or mud that hit the lens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from harness import rng
from harness.threads import by_image
from harness_corruptions.contours import box_sum, distances, edges, equalised, relief
from harness_corruptions.corruption import Corruption

WATER = (175 / 255, 238 / 255, 238 / 255)
"""Pale turquoise (red, green, blue)."""

MUD = (63 / 255, 42 / 255, 20 / 255)
"""Brown (red, green, blue)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Liquid:
    """How drops are made: normal noise of ``mean`` and ``spread``, blurred by ``sigma_px`` and cut at ``threshold``.

    ``strength``: how strongly water shines; of mud the standard deviation in pixels by which its rim is blurred.
    """

    mean: float
    spread: float
    sigma_px: float
    threshold: float
    strength: float
    mud: bool


SPATTER = (
    Liquid(mean=0.65, spread=0.3, sigma_px=4, threshold=0.69, strength=0.6, mud=False),
    Liquid(mean=0.65, spread=0.3, sigma_px=3, threshold=0.68, strength=0.6, mud=False),
    Liquid(mean=0.65, spread=0.3, sigma_px=2, threshold=0.68, strength=0.5, mud=False),
    Liquid(mean=0.65, spread=0.3, sigma_px=1, threshold=0.65, strength=1.5, mud=True),
    Liquid(mean=0.67, spread=0.4, sigma_px=1, threshold=0.65, strength=1.5, mud=True),
)
"""The liquid by severity."""

SMALLEST_SCALE = 96 / 224
"""Below it a blur leaves single pixels as they are: mud would cover half of the image and not an eighth."""

_THINNEST_MUD = 0.8
_DEEPEST_PX = 20
_CANNY = (50, 150)


def drops(noise: npt.NDArray[np.floating], liquid: Liquid, scale: float = 1.0) -> npt.NDArray[np.float64]:
    """(rows, columns) standard normal ``noise`` as drops: blurred, and 0 outside of them.

    Lengths are multiplied by ``scale``. Less blur would leave more noise and so larger drops for their distance: the
    noise's spread gives way by as much.
    """
    sigma_px = liquid.sigma_px * scale
    spread = liquid.spread * _noise_left(liquid.sigma_px) / _noise_left(sigma_px)
    blurred = ndimage.gaussian_filter(liquid.mean + spread * noise.astype(np.float64), sigma_px, mode="nearest")
    blurred[blurred < liquid.threshold] = 0
    return np.asarray(blurred)


def _noise_left(sigma_px: float) -> float:
    """Standard deviation of what a Gaussian blur leaves of white noise of standard deviation 1."""
    offsets = np.arange(-int(4 * sigma_px + 0.5), int(4 * sigma_px + 0.5) + 1)
    weights = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    return float(np.sum((weights / weights.sum()) ** 2))


def water(noise: npt.NDArray[np.floating], liquid: Liquid, scale: float = 1.0) -> npt.NDArray[np.float32]:
    """How strongly water shines: (N, rows, columns) from 0 to ``liquid.strength``, of (N, rows, columns) ``noise``.

    Drops are lit by their depth, the distance from their edges up to 20 pixels times ``scale``.
    """
    levels = by_image(lambda layer: (drops(layer, liquid, scale) * 255).clip(0, 255).astype(np.uint8), noise)
    deep = distances(by_image(lambda layer: edges(layer, *_CANNY), levels))
    np.minimum(deep, np.float32(_DEEPEST_PX * scale), out=deep)
    return by_image(lambda pair: _lit(*pair) * np.float32(liquid.strength), zip(levels, deep, strict=True))


def _lit(levels: npt.NDArray[np.uint8], deep: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    depth = (box_sum(deep.astype(np.float64)) / 9).astype(np.float32).astype(np.uint8)
    light = (box_sum(relief(equalised(depth)).astype(np.int32)) + 4) // 9
    shine = levels.astype(np.float32) * light.astype(np.float32)
    brightest = shine.max()
    # Small images may be spared every drop.
    return shine / brightest if brightest > 0 else shine


def mud(noise: npt.NDArray[np.floating], liquid: Liquid, scale: float = 1.0) -> npt.NDArray[np.float32]:
    """How much mud covers: (N, rows, columns) from 0 to 1, of (N, rows, columns) ``noise``."""

    def cover(layer: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        there = (drops(layer, liquid, scale) > liquid.threshold).astype(np.float32)
        thick = ndimage.gaussian_filter(there, liquid.strength * scale, mode="nearest")
        thick[thick < _THINNEST_MUD] = 0
        return np.asarray(thick)

    return by_image(cover, noise)


def spatter(images: Tensor, layer: Tensor, *, muddy: bool) -> Tensor:
    """(N, 3, H, W) pixels under ``layer`` (N, H, W): water shines in addition, mud covers."""
    colour = images.new_tensor(MUD if muddy else WATER)[:, None, None]
    cover = layer[:, None]
    return (images * (1 - cover) if muddy else images) + cover * colour


class Spatter(Corruption):
    """Drops of water, or of mud from severity 4 on.

    Blurs and the depth of water scale with the image down to what suits 96 pixels, and the spread of the noise gives
    way to them (:func:`drops`), so that at any size about as much is covered. Filters of 3 x 3 pixels stay.

    All severities of an image share their normal noise. Given the same noise, 99.9 % of pixels are within one of 256
    values of those of the package imagecorruptions.
    """

    name: ClassVar[str] = "spatter"
    stochastic: ClassVar[bool] = True

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """(N, rows, columns) standard normal noise."""
        return by_image(lambda name: rng.normals(seed, self.stream, [name], size)[0], ids)

    def corrupt(self, images: Tensor, severity: int, draws: npt.NDArray[np.float32]) -> Tensor:
        """:func:`spatter` at a severity."""
        liquid = SPATTER[severity - 1]
        scale = max(self.scale((images.shape[2], images.shape[3])), SMALLEST_SCALE)
        layer = (mud if liquid.mud else water)(draws, liquid, scale)
        return spatter(images, torch.from_numpy(layer).to(images.device), muddy=liquid.mud)
