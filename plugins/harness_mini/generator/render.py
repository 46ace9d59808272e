"""Scenes into pixels, in integer arithmetic: the same grey levels wherever the tables are."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from harness import rng
from harness_mini.generator.outlines import NEUTRAL_OUTLINES, TABLE_REACH, TABLE_SIDE, UNITS, tables
from harness_mini.generator.scenes import CLUTTER, SIDE_UNITS, TURN_UNITS, Placement, Scenes
from harness_mini.generator.textures import TILE_SIDE, ground_tile

Plane: TypeAlias = npt.NDArray[np.int32]

_FRACTION = 16
"""Binary digits after the point of table coordinates."""
_SINE_BITS = 14
_CHUNK = 8
"""Scenes drawn at once: their planes then stay in a processor's cache."""


def render(
    scenes: Scenes,
    *,
    outlines: npt.NDArray[np.int16],
    outline: npt.NDArray[np.int64],
    tiles: npt.NDArray[np.uint8],
    tile: npt.NDArray[np.int64],
    side_px: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Pixels (N, 3, side_px, side_px) uint8, and which of them belong to the object, (N, side_px, side_px) bool.

    ``outlines`` and ``tiles`` are tables from :mod:`harness_mini.generator.outlines` and
    :mod:`harness_mini.generator.textures`, ``outline`` and ``tile`` (N,) say which of them each scene shows. A pixel
    belongs to the object where its centre does; its colour is mixed by how much of it the object covers.
    """
    n = len(scenes)
    pixels = np.empty((n, 3, side_px, side_px), dtype=np.uint8)
    masks = np.empty((n, side_px, side_px), dtype=np.bool_)
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        image = _background(scenes, rows, side_px)
        distance = _distance(_placed(scenes.figure, rows), outlines, outline[rows], side_px)
        masks[rows] = distance < 0
        texture = _tiled(_placed(scenes.tile, rows), tiles, tile[rows], side_px)
        first, last = scenes.figure_colours[rows, 0], scenes.figure_colours[rows, 1]
        _blend(image, _mixed(first, last, texture), _coverage(distance))
        _light(image, scenes, rows)
        np.clip(image, 0, 255, out=image)
        pixels[rows] = image
    return pixels, masks


def _background(scenes: Scenes, rows: slice, side_px: int) -> Plane:
    noise = _tiled(_placed(scenes.ground, rows), ground_tile()[None], np.zeros(len(scenes), np.int64)[rows], side_px)
    image = _mixed(scenes.ground_colours[rows, 0], scenes.ground_colours[rows, 1], noise)
    pieces = tables(NEUTRAL_OUTLINES)
    for piece in range(CLUTTER):
        place = _placed(scenes.clutter, rows, piece)
        distance = _distance(place, pieces, scenes.clutter_outline[rows, piece], side_px, smooth=False)
        cover = _coverage(distance) * scenes.clutter_opacity[rows, piece].astype(np.int32)[:, None, None] >> 8
        _blend(image, scenes.clutter_colour[rows, piece].astype(np.int32)[:, :, None, None], cover)
    return image


def _light(image: Plane, scenes: Scenes, rows: slice) -> None:
    side = image.shape[-1]
    cosine, sine = _rotation(scenes.light_angle[rows])
    strength = scenes.light_strength[rows]
    across = 2 * np.arange(side) + 1 - side  # in half pixels from the middle
    slope_x, slope_y = (part * strength for part in (cosine, sine))
    bright = slope_x[:, None, None] * across + slope_y[:, None, None] * across[:, None]
    gain = (256 + (bright // (side << _SINE_BITS))).astype(np.int32)
    image *= gain[:, None]
    image >>= 8
    grain = _grain()
    down = (scenes.grain_y[rows, None] + np.arange(side)) & 255
    right = (scenes.grain_x[rows, None] + np.arange(side)) & 255
    noise = grain[down[:, :, None], right[:, None, :]] * scenes.grain_strength[rows].astype(np.int32)[:, None, None]
    image += (noise >> 6)[:, None]


# --- colours -------------------------------------------------------------------------------------------------------


def _mixed(first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], share: Plane) -> Plane:
    """Colours (n, 3) to (n, 3) by ``share`` (n, S, S) of 255: (n, 3, S, S)."""
    start, step = (colour.astype(np.int32)[:, :, None, None] for colour in (first, last - first))
    image = share[:, None] * step
    image >>= 8
    image += start
    return image


def _blend(image: Plane, over: Plane, cover: Plane) -> None:
    """Lay ``over`` on ``image``, in place, where ``cover`` (n, S, S) of 256 says."""
    difference = over - image
    difference *= cover[:, None]
    difference >>= 8
    image += difference


# --- tables under a rotation ---------------------------------------------------------------------------------------


def _placed(place: Placement, rows: slice, piece: int | None = None) -> Placement:
    parts = {name: getattr(place, name)[rows] for name in ("x", "y", "size", "angle")}
    return Placement(**(parts if piece is None else {name: part[:, piece] for name, part in parts.items()}))


def _coordinates(
    place: Placement, cells: int, origin: int, side: int, *, widths: tuple[int, int]
) -> tuple[Plane, Plane]:
    """Table coordinates of every pixel's centre, (n, S, S) with _FRACTION binary digits after the point.

    ``cells`` of the table span ``widths[0] / widths[1]`` sizes of the placement, whose centre lies at ``origin``.
    """
    cosine, sine = _rotation(place.angle)
    span = place.size * side * widths[0] << _SINE_BITS
    scale = cells * widths[1] << _FRACTION + 16
    right, down = (part * scale // span for part in (cosine, sine))
    dx, dy = (SIDE_UNITS // 2 - centre * side for centre in (place.x, place.y))
    middle = origin << _FRACTION
    start_u = middle + (dx * right + dy * down >> 16)
    start_v = middle + (dy * right - dx * down >> 16)
    steps = np.arange(side, dtype=np.int32)
    right32, down32 = (part.astype(np.int32)[:, None, None] for part in (right, down))
    along, across = steps[None, None, :], steps[None, :, None]
    u = (start_u.astype(np.int32)[:, None, None] + down32 * across) + right32 * along
    v = (start_v.astype(np.int32)[:, None, None] + right32 * across) - down32 * along
    return u, v


def _distance(
    place: Placement, table: npt.NDArray[np.int16], which: npt.NDArray[np.int64], side: int, *, smooth: bool = True
) -> Plane:
    """Signed distance to an outline in 1/256 pixel, (n, S, S): interpolated between table cells, or the nearest."""
    u, v = _coordinates(place, TABLE_SIDE, TABLE_SIDE // 2, side, widths=(round(4 * TABLE_REACH), 2))
    flat = table.reshape(-1)
    base = (which * TABLE_SIDE * TABLE_SIDE).astype(np.int32)[:, None, None]
    limit = (TABLE_SIDE << _FRACTION) - 1
    if smooth:
        half = 1 << _FRACTION - 1
        limit = (TABLE_SIDE - 1 << _FRACTION) - 1
        u -= half
        v -= half
    np.clip(u, 0, limit, out=u)
    np.clip(v, 0, limit, out=v)
    cell = base + (v >> _FRACTION) * TABLE_SIDE + (u >> _FRACTION)
    values = flat.take(cell).astype(np.int32)
    if smooth:
        fu, fv = (u >> _FRACTION - 8) & 255, (v >> _FRACTION - 8) & 255
        right, below = flat.take(cell + 1).astype(np.int32), flat.take(cell + TABLE_SIDE).astype(np.int32)
        diagonal = flat.take(cell + TABLE_SIDE + 1).astype(np.int32)
        upper = (values << 8) + (right - values) * fu
        lower = (below << 8) + (diagonal - below) * fu
        values = upper + ((lower - upper >> 8) * fv)
        values >>= 8
    # A length of one radius is UNITS in the table and size * side / SIDE_UNITS pixels in the image.
    radius = (place.size * side >> 8).astype(np.int32)[:, None, None]
    return np.asarray((values.astype(np.int64) * radius // UNITS).astype(np.int32))


def _coverage(distance: Plane) -> Plane:
    """How much of each pixel lies inside, of 256: a straight edge at that distance."""
    return np.asarray(np.clip(128 - distance, 0, 256))


def _tiled(place: Placement, tiles: npt.NDArray[np.uint8], which: npt.NDArray[np.int64], side: int) -> Plane:
    """Texture values 0 to 255, (n, S, S), of tiles whose corner lies at the placement."""
    u, v = _coordinates(place, TILE_SIDE, 0, side, widths=(1, 1))
    base = (which * TILE_SIDE * TILE_SIDE).astype(np.int32)[:, None, None]
    wrap = TILE_SIDE - 1
    cell = base + ((v >> _FRACTION) & wrap) * TILE_SIDE + ((u >> _FRACTION) & wrap)
    return np.asarray(tiles.reshape(-1).take(cell).astype(np.int32))


def _rotation(angle: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    sines = _sines()
    return sines[(angle + TURN_UNITS // 4) % TURN_UNITS], sines[angle]


@lru_cache(maxsize=1)
def _sines() -> npt.NDArray[np.int64]:
    return np.array([round(math.sin(2 * math.pi * i / TURN_UNITS) * 2**_SINE_BITS) for i in range(TURN_UNITS)])


@lru_cache(maxsize=1)
def _grain() -> npt.NDArray[np.int32]:
    """Sensor noise in 1/64 of its strength: the sum of three bytes, about normal with a deviation of 64."""
    words = rng.bits(0, "mini.grain", [str(row) for row in range(256)], 256)
    parts = [(words >> np.uint64(8 * i)) & np.uint64(255) for i in range(3)]
    total: npt.NDArray[np.uint64] = parts[0] + parts[1] + parts[2]
    return (total.astype(np.int32) - 382) // 2
