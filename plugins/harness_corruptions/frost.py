"""Frost: a random crop of a texture of frost laid over the image."""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from harness import rng
from harness.errors import MissingDependencyError
from harness_corruptions.corruption import Corruption
from harness_corruptions.frost_textures import generated
from harness_corruptions.parameters import FrostParams, Implementation, Lengths, Textures, Variant

FROST = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
"""Weights of image and frost, by severity."""

PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The photographs that the package draws from; it ships a sixth that it never takes."""

_ENLARGED = 1.1
"""By how much the references enlarge every texture, which leaves crops some room."""


def frost(images: Tensor, layer: Tensor, weights: tuple[float, float]) -> Tensor:
    """``weights[0]`` times the (N, 3, H, W) pixels plus ``weights[1]`` times ``layer`` (N, 3, H, W), all in [0, 1]."""
    return (images * weights[0]).add_(layer * weights[1])


def photographs() -> tuple[npt.NDArray[np.uint8], ...]:
    """The package's photographs of frost, each (rows, columns, 3) uint8.

    Raises :class:`~harness.errors.MissingDependencyError` where the package imagecorruptions is not installed.
    """
    return tuple(np.asarray(Image.open(file).convert("RGB")) for file in _photograph_files())


def _photograph_files() -> list[Path]:
    spec = importlib.util.find_spec("imagecorruptions")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [Path(folder) / "frost" / name for folder in folders[:1] for name in PHOTOGRAPHS]
    if not files or not all(file.is_file() for file in files):
        raise MissingDependencyError(
            "frost: textures=package needs the photographs of the package imagecorruptions, which are not installed",
            extra="corruptions",
        )
    return files


def enlarged(texture: npt.NDArray[np.uint8], size: tuple[int, int], scale: float) -> Tensor:
    """``texture`` (rows, columns, 3) made a tenth larger than it is, and than ``size``: (3, rows, columns) uint8.

    It is taken to be ``scale`` times as large first. Cubic interpolation as in OpenCV's ``INTER_CUBIC`` (a = -0.75), of
    which fewer than 1 in 1,000 values differ, by one level; where the texture is reduced, it is smoothed as well.
    """
    rows, columns = texture.shape[:2]
    factor = scale * max(1.0, size[0] / (rows * scale), size[1] / (columns * scale)) * _ENLARGED
    pixels = torch.from_numpy(texture.copy()).permute(2, 0, 1)[None].float()
    wanted = (math.ceil(rows * factor), math.ceil(columns * factor))
    resized = functional.interpolate(pixels, size=wanted, mode="bicubic", antialias=factor < 1)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=2)
def _textures(source: Textures, size: tuple[int, int], scale: float) -> tuple[Tensor, ...]:
    textures = generated() if source == "generated" else photographs()
    return tuple(enlarged(texture, size, scale) for texture in textures)


class Frost(Corruption):
    """A random crop of one of five textures laid over the darkened image.

    ``textures="generated"``: textures of our own (:mod:`harness_corruptions.frost_textures`), made to resemble
    photographs of frost; ``"package"``: the photographs that the package imagecorruptions ships. Numbers under the one
    are not comparable with those under the other. A texture's scale is published for 224 pixels and grows with the
    shorter side unless ``lengths="fixed"``; one that is still too small for the image is enlarged until it fits.

    All severities of an image share texture and crop. Given both, with ``textures="package"``, no pixel differs from
    that of the package imagecorruptions by more than one of 256 values.
    """

    name: ClassVar[str] = "frost"
    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        *,
        variant: Variant = "imagecorruptions",
        implementation: Implementation = "native",
        lengths: Lengths = "scaled",
        quantise: bool = True,
        textures: Textures = "generated",
    ) -> None:
        self._take(
            FrostParams(
                variant=variant, implementation=implementation, lengths=lengths, quantise=quantise, textures=textures
            )
        )
        assert isinstance(self.params, FrostParams)
        self._source = self.params.textures
        if self._source == "package":
            _photograph_files()

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> Tensor:
        """The crop of frost for each image: (N, 3, rows, columns) uint8."""
        textures = _textures(self._source, size, self.scale(size))
        which = rng.integers(seed, self.stream, ids, 1, 0, len(textures))[:, 0]
        where = rng.uniforms(seed, f"{self.stream}.crop", ids, 2)
        return torch.stack([crop(textures[i], tuple(share), size) for i, share in zip(which, where, strict=True)])

    def corrupt(self, images: Tensor, severity: int, draws: Tensor) -> Tensor:
        """:func:`frost` at a severity."""
        return frost(images, draws.to(images.device).float().div_(255), FROST[severity - 1])


def crop(texture: Tensor, share: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """``size`` (rows, columns) of ``texture`` (3, rows, columns), ``share`` in [0, 1) of the way down and across."""
    top = int(share[0] * (texture.shape[1] - size[0]))
    left = int(share[1] * (texture.shape[2] - size[1]))
    return texture[:, top : top + size[0], left : left + size[1]]
