"""Textures, as tiles that repeat in both directions: 0 and 255 stand for the two colours of a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from harness import rng

Field: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Texture: TypeAlias = Callable[[Field, Field], Field | Mask]
"""The values 0 to 1 of a texture at x and y, which are lengths of a tile."""

TILE_SIDE = 128
"""Texels of a tile along each side."""
DEFAULT_SIDE = 56
"""Side in pixels of the images that scenes are measured in."""
REGULAR_PERIOD_PX = 12
"""Mean length of a regular tile in an image of the default side: it is smoothed over a pixel of that."""
IRREGULAR_PERIOD_PX = 36
"""The same for tiles of the irregular textures, which hold several of their elements."""

CLASS_TEXTURES = (
    "stripes", "checker", "dots", "grid", "bricks", "leaves",
    "zigzag", "bullseyes", "triangles", "honeycomb", "scales", "crosses",
)  # fmt: skip
"""Textures of the classes, in the order of their labels: texture i goes with shape i."""

STYLE_TEXTURES = (
    "clouds", "grain", "blobs", "worms", "cells", "cracks", "confetti", "splatter", "flakes", "ridges",
)  # fmt: skip
"""Textures of the stylised images: irregular where those of the classes are regular, and none of theirs."""

NOVEL_TEXTURES = (
    "plaid", "basket", "houndstooth", "pinwheels", "dashes", "astroids", "chain", "meander", "tripods", "fans",
)  # fmt: skip
"""Textures that no network of the zoo has seen."""

_FINE = 256


def tiles(names: Sequence[str], side_px: int) -> npt.NDArray[np.uint8]:
    """Tiles of textures for images of ``side_px`` pixels: (len(names), TILE_SIDE, TILE_SIDE) uint8."""
    return np.stack([_tile(name, side_px) for name in names])


def period_px(name: str) -> int:
    """Mean length of one tile in pixels of an image of the default side."""
    return IRREGULAR_PERIOD_PX if name in STYLE_TEXTURES else REGULAR_PERIOD_PX


@lru_cache(maxsize=256)
def _tile(name: str, side_px: int) -> npt.NDArray[np.uint8]:
    along = (np.arange(_FINE) + 0.5) / _FINE
    y, x = np.meshgrid(along, along, indexing="ij")
    field = np.asarray(TEXTURES[name](x, y), dtype=np.float64)
    # What a pixel covers, in texels: without this average fine detail would turn into false coarse detail.
    sigma = 0.4 * _FINE / (period_px(name) * side_px / DEFAULT_SIDE)
    smooth = _blurred(field, sigma).reshape(TILE_SIDE, 2, TILE_SIDE, 2).mean(axis=(1, 3))
    tile: npt.NDArray[np.uint8] = np.rint(255 * smooth).clip(0, 255).astype(np.uint8)
    tile.setflags(write=False)
    return tile


def _frequencies() -> tuple[Field, Field]:
    f = np.fft.fftfreq(_FINE)
    fy, fx = np.meshgrid(f, f, indexing="ij")
    return fx, fy


def _blurred(field: Field, sigma: float) -> Field:
    """Periodic Gaussian blur, ``sigma`` in texels."""
    fx, fy = _frequencies()
    return np.asarray(np.fft.ifft2(np.fft.fft2(field) * np.exp(-2 * (math.pi * sigma) ** 2 * (fx**2 + fy**2))).real)


# --- regular textures ----------------------------------------------------------------------------------------------


def _part(x: Field) -> Field:
    return x - np.floor(x)


def _centred(x: Field) -> Field:
    """Distance from the middle of the unit cell, in [-0.5, 0.5)."""
    return _part(x) - 0.5


def _stripes(x: Field, y: Field) -> Mask:  # noqa: ARG001  # every texture takes both coordinates
    return _part(2 * x) < 0.5


def _checker(x: Field, y: Field) -> Mask:
    return (_part(x) < 0.5) ^ (_part(y) < 0.5)


def _dots(x: Field, y: Field) -> Mask:
    return np.minimum(np.hypot(_centred(x), _centred(y)), np.hypot(_centred(x + 0.5), _centred(y + 0.5))) < 0.24


def _grid(x: Field, y: Field) -> Mask:
    return np.minimum(np.abs(_centred(x)), np.abs(_centred(y))) < 0.14


def _bricks(x: Field, y: Field) -> Mask:
    row = np.floor(2 * y)
    return (_part(2 * y) < 0.26) | (_part(x + 0.5 * row) < 0.13)


def _leaves(x: Field, y: Field) -> Mask:
    dx, dy = _centred(x), _centred(y)
    return np.maximum(np.hypot(dx - 0.32, dy - 0.32), np.hypot(dx + 0.32, dy + 0.32)) < 0.66


def _zigzag(x: Field, y: Field) -> Mask:
    return _part(2 * y + 2 * np.abs(_centred(x))) < 0.5


def _bullseyes(x: Field, y: Field) -> Mask:
    radius = np.hypot(_centred(x), _centred(y))
    return (radius < 0.16) | ((radius > 0.3) & (radius < 0.46))


def _triangles(x: Field, y: Field) -> Mask:
    row = np.floor(2 * y)
    return _part(2 * y) > np.abs(2 * _centred(x + 0.5 * row))


def _honeycomb(x: Field, y: Field) -> Mask:
    # Hexagons are the cells nearest to the points of a triangular lattice, here squeezed by 1.155 to close in a square.
    places = [(0.0, 0.0), (0.5, 0.0), (0.25, 0.5), (0.75, 0.5)]
    distances = [np.hypot(_centred(x - px + 0.5), 0.866 * _centred(y - py + 0.5)) for px, py in places]
    nearest = np.sort(distances, axis=0)
    return np.asarray(nearest[1] - nearest[0] < 0.1)


def _scales(x: Field, y: Field) -> Mask:
    lines = np.zeros_like(x, dtype=bool)
    for shift in (0.0, 0.5):
        dx, dy = _centred(x + shift), _part(y + shift)
        lines |= np.abs(np.hypot(dx, dy * 0.9) - 0.5) < 0.09
    return lines


def _crosses(x: Field, y: Field) -> Mask:
    dx, dy = np.abs(_centred(x)), np.abs(_centred(y))
    return (np.minimum(dx, dy) < 0.13) & (np.maximum(dx, dy) < 0.38)


def _plaid(x: Field, y: Field) -> Field:
    bands = [0.5 * (_part(a) < 0.42) + 0.25 * (np.abs(_part(a) - 0.71) < 0.07) for a in (x, y)]
    return np.asarray((bands[0] + bands[1]).clip(0, 1))


def _basket(x: Field, y: Field) -> Field:
    upright = (_part(x) < 0.5) ^ (_part(y) < 0.5)
    return np.where(upright, _part(6 * x) < 0.5, _part(6 * y) < 0.5)


def _pinwheels(x: Field, y: Field) -> Mask:
    # The first half of every quarter turn, without an arctangent, whose last bit differs between machines.
    dx, dy = _centred(x), _centred(y)
    flat, steep = np.abs(dy) < np.abs(dx), np.abs(dy) > np.abs(dx)
    return np.where(dx * dy > 0, flat, steep)


def _dashes(x: Field, y: Field) -> Mask:
    row = np.floor(3 * y)
    return (np.abs(_centred(3 * y)) < 0.22) & (_part(x + row / 3) < 0.55)


def _astroids(x: Field, y: Field) -> Mask:
    return np.sqrt(np.abs(_centred(x))) + np.sqrt(np.abs(_centred(y))) < 0.78


def _chain(x: Field, y: Field) -> Mask:
    links = np.zeros_like(x, dtype=bool)
    for shift in (0.0, 0.5):
        links |= np.abs(np.hypot(_centred(x + shift), _centred(y + shift)) - 0.33) < 0.07
    return links


def _fans(x: Field, y: Field) -> Mask:
    dx, dy = _centred(x), _part(y)
    return (np.hypot(dx, dy) < 0.5) | (np.hypot(_centred(x + 0.5), _part(y + 0.5)) < 0.5) & (dy > 0.5)


def _bitmap(*rows: str) -> Texture:
    cells = np.array([[c == "#" for c in row] for row in rows])

    def texture(x: Field, y: Field) -> Field:
        down = np.floor(_part(y) * cells.shape[0]).astype(np.int64)
        right = np.floor(_part(x) * cells.shape[1]).astype(np.int64)
        return np.asarray(cells[down, right].astype(np.float64))

    return texture


# --- irregular textures --------------------------------------------------------------------------------------------


def _noise(name: str, low: float, high: float) -> Field:
    """Periodic Gaussian noise of ``low`` to ``high`` waves a tile, with unit deviation."""
    white = rng.normals(0, "mini.texture", [name], (_FINE, _FINE))[0].astype(np.float64)
    fx, fy = _frequencies()
    waves = np.hypot(fx, fy) * _FINE
    field = np.fft.ifft2(np.fft.fft2(white) * ((waves >= low) & (waves <= high))).real
    return np.asarray((field - field.mean()) / field.std())


def _two_nearest(name: str, points: int, x: Field, y: Field) -> tuple[Field, Field, npt.NDArray[np.int64]]:
    """Distances to the nearest and second nearest of random points on the torus, and which is the nearest."""
    places = rng.uniforms(0, "mini.texture", [name], 2 * points).reshape(points, 2)
    distances = np.stack([np.hypot(_centred(x - px + 0.5), _centred(y - py + 0.5)) for px, py in places])
    order = np.sort(distances, axis=0)
    return order[0], order[1], distances.argmin(axis=0)


def _clouds(x: Field, y: Field) -> Field:  # noqa: ARG001  # as for _stripes
    return (0.5 + 0.3 * _noise("clouds", 1, 4)).clip(0, 1)


def _grain(x: Field, y: Field) -> Field:  # noqa: ARG001  # as for _stripes
    return (0.5 + 0.4 * _noise("grain", 10, 18)).clip(0, 1)


def _blobs(x: Field, y: Field) -> Mask:  # noqa: ARG001  # as for _stripes
    return _noise("blobs", 2, 5) > 0


def _worms(x: Field, y: Field) -> Mask:  # noqa: ARG001  # as for _stripes
    return np.abs(_noise("worms", 4, 6)) < 0.45


def _cells(x: Field, y: Field) -> Field:
    shades = rng.uniforms(0, "mini.texture", ["cells.shades"], 24)[0]
    return np.asarray(shades[_two_nearest("cells", 24, x, y)[2]])


def _cracks(x: Field, y: Field) -> Mask:
    first, second, _ = _two_nearest("cracks", 16, x, y)
    return second - first < 0.03


def _confetti(x: Field, y: Field) -> Mask:
    strokes = np.zeros_like(x, dtype=bool)
    for px, py, angle in rng.uniforms(0, "mini.texture", ["confetti"], 3 * 26).reshape(26, 3):
        dx, dy = _centred(x - px + 0.5), _centred(y - py + 0.5)
        cosine, sine = math.cos(math.pi * angle), math.sin(math.pi * angle)
        strokes |= (np.abs(dx * cosine + dy * sine) < 0.075) & (np.abs(dy * cosine - dx * sine) < 0.025)
    return strokes


def _splatter(x: Field, y: Field) -> Mask:
    spots = np.zeros_like(x, dtype=bool)
    for px, py, size in rng.uniforms(0, "mini.texture", ["splatter"], 3 * 22).reshape(22, 3):
        spots |= np.hypot(_centred(x - px + 0.5), _centred(y - py + 0.5)) < 0.02 + 0.08 * size * size
    return spots


def _flakes(x: Field, y: Field) -> Mask:
    first, second, nearest = _two_nearest("flakes", 30, x, y)
    return np.asarray((second - first > 0.05) & (nearest % 2 == 0))


def _ridges(x: Field, y: Field) -> Field:  # noqa: ARG001  # as for _stripes
    return (1 - np.abs(_noise("ridges", 1, 6))).clip(0, 1)


TEXTURES: dict[str, Texture] = {
    "stripes": _stripes, "checker": _checker, "dots": _dots, "grid": _grid, "bricks": _bricks, "leaves": _leaves,
    "zigzag": _zigzag, "bullseyes": _bullseyes, "triangles": _triangles, "honeycomb": _honeycomb, "scales": _scales,
    "crosses": _crosses, "clouds": _clouds, "grain": _grain, "blobs": _blobs, "worms": _worms, "cells": _cells,
    "cracks": _cracks, "confetti": _confetti, "splatter": _splatter, "flakes": _flakes, "ridges": _ridges,
    "plaid": _plaid, "basket": _basket, "pinwheels": _pinwheels, "dashes": _dashes, "astroids": _astroids,
    "chain": _chain, "fans": _fans,
    "houndstooth": _bitmap("####...#", "####..#.", "####.#..", "#####...", "#...####", ".....##.", "....##..",
                           "...#...."),
    "meander": _bitmap("#######.", "#.......", "#.#####.", "#.#...#.", "#.#.#.#.", "#.###.#.", "#.....#.", "#######."),
    "tripods": _bitmap("#..#..", ".##...", ".#....", "...#..", "#....#", "....##"),
}  # fmt: skip
"""Every texture by its name."""


@lru_cache(maxsize=1)
def ground_tile() -> npt.NDArray[np.uint8]:
    """The smooth noise behind every scene: (TILE_SIDE, TILE_SIDE) uint8."""
    field = sum((_noise(f"ground.{waves}", waves, 2 * waves) / waves for waves in (1, 2, 4)), np.zeros((_FINE, _FINE)))
    smooth = field.reshape(TILE_SIDE, 2, TILE_SIDE, 2).mean(axis=(1, 3))
    tile: npt.NDArray[np.uint8] = np.rint(127.5 + 70 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)
    tile.setflags(write=False)
    return tile
