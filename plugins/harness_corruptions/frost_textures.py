"""Five textures of frost of our own: haze, creases and feathers of crystals, lit from the upper left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from harness import rng
from harness.threads import by_image

SIZE = (480, 720)
"""Rows and columns of every texture; photographs of frost that are used for this corruption lie around it."""

_SEED = 0
_STREAM = "frost_textures"
_FINER = 2
"""Crystals are drawn so many times finer than they end up, which takes the steps out of their edges."""

_FAN_RADIANS = 2.2
"""The angle within which the stems of a fan lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a texture is made of.

    ``mean`` (red, green, blue) and ``spread``, the standard deviation of its grey values, out of 255. ``haze``,
    ``creases``, ``crystals`` and ``relief`` are the weights of its layers. Crystals grow from ``nuclei`` points as fans
    of ``fan`` stems of up to ``length_px``, whose ``branches`` leave to both sides at ``branch_degrees`` and reach
    ``branch_share`` of the stem's length. ``tint``: by how much shades are bluer than highlights, out of 255.
    """

    name: str
    mean: tuple[float, float, float]
    spread: float
    haze: float
    creases: float
    crystals: float
    relief: float
    nuclei: int
    fan: int
    length_px: float
    branches: int
    branch_degrees: float
    branch_share: float
    tint: float = 12.0


RECIPES = (
    Recipe(
        name="crumpled",
        mean=(96, 150, 172),
        spread=20,
        haze=0.9,
        creases=0.7,
        crystals=0.3,
        relief=0.9,
        nuclei=300,
        fan=3,
        length_px=60,
        branches=16,
        branch_degrees=25,
        branch_share=0.35,
        tint=20,
    ),
    Recipe(
        name="needles",
        mean=(196, 203, 213),
        spread=24,
        haze=0.6,
        creases=0.3,
        crystals=0.7,
        relief=0.9,
        nuclei=600,
        fan=4,
        length_px=90,
        branches=16,
        branch_degrees=14,
        branch_share=0.3,
    ),
    Recipe(
        name="ferns",
        mean=(112, 124, 137),
        spread=42,
        haze=0.9,
        creases=0.0,
        crystals=1.1,
        relief=0.6,
        nuclei=380,
        fan=5,
        length_px=75,
        branches=44,
        branch_degrees=48,
        branch_share=0.38,
    ),
    Recipe(
        name="leaves",
        mean=(138, 153, 166),
        spread=30,
        haze=0.6,
        creases=0.25,
        crystals=0.8,
        relief=0.9,
        nuclei=1500,
        fan=4,
        length_px=32,
        branches=16,
        branch_degrees=38,
        branch_share=0.5,
    ),
    Recipe(
        name="rime",
        mean=(172, 184, 198),
        spread=33,
        haze=0.8,
        creases=0.45,
        crystals=0.9,
        relief=0.7,
        nuclei=420,
        fan=6,
        length_px=55,
        branches=30,
        branch_degrees=60,
        branch_share=0.42,
    ),
)


@lru_cache(maxsize=1)
def generated() -> tuple[npt.NDArray[np.uint8], ...]:
    """The textures, each (rows, columns, 3) uint8 of :data:`SIZE`; the same in every process, made once in each."""
    return tuple(by_image(texture, RECIPES))


def texture(recipe: Recipe) -> npt.NDArray[np.uint8]:
    """The texture of a recipe: (rows, columns, 3) uint8 of :data:`SIZE`."""
    crystals = _feathers(recipe)
    creases = _creases(recipe.name)
    relief = ndimage.gaussian_filter(crystals + recipe.creases * creases, 0.6)
    lit = relief - np.roll(relief, (-2, -2), axis=(0, 1))
    layers = (
        (recipe.haze, _cloud(f"{recipe.name}.haze", slope=1.6)),
        (recipe.creases, creases),
        (recipe.crystals, crystals),
        (recipe.relief, lit),
    )
    grey = _standard(np.sum([weight * _standard(layer) for weight, layer in layers], axis=0))
    # The blue of shades is what water in front of them leaves of the light; highlights are white.
    blue = np.multiply.outer(np.clip(-grey, -2, 2), np.array([-0.5, 0.0, 0.5])) * recipe.tint
    levels = np.array(recipe.mean) + recipe.spread * grey[..., None] + blue
    shown: npt.NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return shown


def _standard(layer: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centred = layer - layer.mean()
    standard: npt.NDArray[np.float64] = centred / centred.std()
    return standard


def _cloud(name: str, *, slope: float) -> npt.NDArray[np.float64]:
    """Noise whose amplitude falls with frequency to the power of ``slope``."""
    white = rng.normals(_SEED, _STREAM, [name], SIZE)[0].astype(np.float64)
    frequency = np.hypot(np.fft.fftfreq(SIZE[0])[:, None], np.fft.rfftfreq(SIZE[1]))
    frequency[0, 0] = np.inf
    # Flat below a third of the height, lest a texture be one slope from dark to bright.
    share = np.maximum(frequency, 3 / SIZE[0]) ** -slope
    cloud: npt.NDArray[np.float64] = np.fft.irfft2(np.fft.rfft2(white) * share, s=SIZE)
    return cloud


def _creases(name: str) -> npt.NDArray[np.float64]:
    """Sharp bright lines: where noise passes through zero, at two scales."""
    wide, fine = (_standard(_cloud(f"{name}.creases{i}", slope=slope)) for i, slope in enumerate((1.7, 1.3)))
    ridges = np.exp(-np.abs(wide) * 8) + 0.7 * np.exp(-np.abs(fine) * 5)
    return np.asarray(ridges)


def _feathers(recipe: Recipe) -> npt.NDArray[np.float64]:
    """Fans of crystals whose branches shorten towards the tip: brightness from 0 to 1."""
    stems = recipe.nuclei * recipe.fan
    nuclei = rng.uniforms(_SEED, _STREAM, [f"{recipe.name}.nuclei"], recipe.nuclei * 3)[0].reshape(3, -1)
    column, row, towards = np.repeat(nuclei, recipe.fan, axis=1)
    spread, reached, lit = rng.uniforms(_SEED, _STREAM, [f"{recipe.name}.stems"], stems * 3)[0].reshape(3, stems)
    root = np.stack([column * SIZE[1], row * SIZE[0]]) * _FINER
    angle = 2 * np.pi * towards + (spread - 0.5) * _FAN_RADIANS
    length = recipe.length_px * _FINER * (0.25 + 0.75 * reached**2)
    stem = length * np.stack([np.cos(angle), np.sin(angle)])
    bright = 0.1 + 0.9 * lit

    place = np.arange(recipe.branches)
    along = (place + 1) / (recipe.branches + 1)
    jitter = rng.dense_uniforms(_SEED, _STREAM, [f"{recipe.name}.branches"], (2, stems, recipe.branches))[0]
    turn = np.where(place % 2, 1, -1) * np.deg2rad(recipe.branch_degrees) * (0.85 + 0.3 * jitter[0])
    reach = length[:, None] * recipe.branch_share * (1 - along) ** 0.8 * (0.45 + 0.55 * jitter[1])
    foot = root[:, :, None] + stem[:, :, None] * along
    tip = foot + reach * np.stack([np.cos(angle[:, None] + turn), np.sin(angle[:, None] + turn)])

    canvas = Image.new("L", (SIZE[1] * _FINER, SIZE[0] * _FINER))
    pen = ImageDraw.Draw(canvas)
    # Crystals that grew over others are the brighter ones.
    for one in np.argsort(bright):
        level = int(200 * bright[one])
        for branch in np.concatenate([foot[:, one], tip[:, one]]).T.tolist():
            pen.line(branch, fill=level)
        pen.line([*root[:, one], *(root + stem)[:, one]], fill=min(level + 55, 255), width=_FINER)
    return np.asarray(canvas.reduce(_FINER), dtype=np.float64) / 255
