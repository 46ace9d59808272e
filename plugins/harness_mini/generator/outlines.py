"""Outlines of the drawn objects, as tables of the signed distance to their edge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Points: TypeAlias = npt.NDArray[np.float64]
Distance: TypeAlias = Callable[[Points, Points], Points]

TABLE_SIDE = 256
"""Cells of a table along each side."""
TABLE_REACH = 1.25
"""The table covers [-TABLE_REACH, TABLE_REACH] in both directions; the farthest point of an outline lies at 1."""
UNITS = 4096
"""Table values are distances in 1/UNITS of that radius, negative inside."""

CLASS_OUTLINES = (
    "triangle", "square", "star", "cross", "heart", "crescent",
    "ring", "arrow", "ell", "hourglass", "flower", "drop",
)  # fmt: skip
"""Shapes of the classes, in the order of their labels."""

NOVEL_OUTLINES = ("gear", "tee", "zed", "chevron", "trefoil", "pacman", "stairs", "kite", "house", "spool")
"""Shapes that no network of the zoo has seen."""

NEUTRAL_OUTLINES = ("disc", "bar", "pebble", "shard", "bean")
"""Shapes of no class: the clutter behind the objects, and the carrier of a texture that is shown without its shape."""


def tables(names: Sequence[str]) -> npt.NDArray[np.int16]:
    """Signed distances of outlines, (len(names), TABLE_SIDE, TABLE_SIDE) int16 in 1/UNITS, at the cells' centres."""
    return np.stack([_table(name) for name in names])


@lru_cache(maxsize=64)
def _table(name: str) -> npt.NDArray[np.int16]:
    x, y = _centres()
    table = np.rint(OUTLINES[name](x, y) * UNITS).clip(-32768, 32767).astype(np.int16)
    table.setflags(write=False)
    return table


def _centres() -> tuple[Points, Points]:
    along = ((np.arange(TABLE_SIDE) + 0.5) / TABLE_SIDE * 2 - 1) * TABLE_REACH
    y, x = np.meshgrid(along, along, indexing="ij")
    return x, y


# --- distances; y points down, as in images ------------------------------------------------------------------------


def _disc(x: Points, y: Points, cx: float = 0.0, cy: float = 0.0, radius: float = 1.0) -> Points:
    return np.hypot(x - cx, y - cy) - radius


def _polygon(corners: Sequence[tuple[float, float]]) -> Distance:
    """Distance to a simple polygon: to the nearest edge, with the sign of the even-odd rule."""
    vertices = np.array(corners, dtype=np.float64)
    vertices = vertices / np.hypot(*vertices.T).max()

    def distance(x: Points, y: Points) -> Points:
        nearest = np.full(x.shape, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
            ex, ey = bx - ax, by - ay
            along = ((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)
            along = along.clip(0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
            if ey != 0:
                inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) / ey * ex)
        return np.where(inside, -nearest, nearest)

    return distance


def _star(points: int, inner: float) -> Distance:
    angles = [math.pi * i / points - math.pi / 2 for i in range(2 * points)]
    return _polygon([(math.cos(a) * (inner if i % 2 else 1), math.sin(a) * (inner if i % 2 else 1))
                     for i, a in enumerate(angles)])  # fmt: skip


def _regular(corners: int) -> Distance:
    angles = [2 * math.pi * i / corners - math.pi / 2 for i in range(corners)]
    return _polygon([(math.cos(a), math.sin(a)) for a in angles])


def _ring(x: Points, y: Points) -> Points:
    return np.maximum(_disc(x, y), -_disc(x, y, radius=0.52))


def _crescent(x: Points, y: Points) -> Points:
    return np.maximum(_disc(x, y), -_disc(x, y, 0.42, 0.0, 0.8))


def _heart(x: Points, y: Points) -> Points:
    lobes = np.minimum(_disc(x, y, -0.42, -0.32, 0.46), _disc(x, y, 0.42, -0.32, 0.46))
    body = _polygon([(-0.80, -0.05), (-0.42, -0.32), (0.42, -0.32), (0.80, -0.05), (0.0, 0.98)])
    return np.minimum(lobes, body(x, y))


def _flower(x: Points, y: Points) -> Points:
    petals = _disc(x, y, radius=0.42)
    for i in range(5):
        angle = 2 * math.pi * i / 5 - math.pi / 2
        petals = np.minimum(petals, _disc(x, y, 0.64 * math.cos(angle), 0.64 * math.sin(angle), 0.36))
    return petals


def _trefoil(x: Points, y: Points) -> Points:
    lobes = [
        _disc(x, y, 0.5 * math.cos(a), 0.5 * math.sin(a), 0.5) for a in (-math.pi / 2, math.pi / 6, 5 * math.pi / 6)
    ]
    return np.minimum(np.minimum(lobes[0], lobes[1]), lobes[2])


def _drop(x: Points, y: Points) -> Points:
    # A disc and the two tangents to it from the tip.
    radius, centre = 0.56, 0.44
    reach = 1 + centre
    sine = radius / reach
    cosine = math.sqrt(1 - sine * sine)
    touch = (radius * cosine, centre - radius * sine)
    cone = _polygon([(0.0, -1.0), touch, (-touch[0], touch[1])])
    return np.minimum(_disc(x, y, 0.0, centre, radius), cone(x, y))


def _gear(x: Points, y: Points) -> Points:
    teeth = _star(8, 0.72)(x, y)
    return np.maximum(np.minimum(_disc(x, y, radius=0.76), teeth), -_disc(x, y, radius=0.3))


def _pacman(x: Points, y: Points) -> Points:
    mouth = np.maximum(-x, np.abs(y) * math.cos(0.6) - x * math.sin(0.6))
    return np.maximum(_disc(x, y), -mouth)


def _pebble(x: Points, y: Points) -> Points:
    return (np.hypot(x, y / 0.68) - 1) * 0.68


def _bean(x: Points, y: Points) -> Points:
    return np.minimum(_disc(x, y, -0.45, 0.0, 0.55), _disc(x, y, 0.4, 0.18, 0.56))


OUTLINES: dict[str, Distance] = {
    "triangle": _regular(3),
    "square": _regular(4),
    "star": _star(5, 0.42),
    "cross": _polygon([(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1),
                       (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)]),
    "heart": _heart,
    "crescent": _crescent,
    "ring": _ring,
    "arrow": _polygon([(0, -1), (0.75, -0.2), (0.3, -0.2), (0.3, 1), (-0.3, 1), (-0.3, -0.2), (-0.75, -0.2)]),
    "ell": _polygon([(-0.7, -0.9), (-0.1, -0.9), (-0.1, 0.3), (0.8, 0.3), (0.8, 0.9), (-0.7, 0.9)]),
    "hourglass": _polygon([(-0.7, -0.9), (0.7, -0.9), (0.14, 0), (0.7, 0.9), (-0.7, 0.9), (-0.14, 0)]),
    "flower": _flower,
    "drop": _drop,
    "gear": _gear,
    "tee": _polygon([(-0.85, -0.8), (0.85, -0.8), (0.85, -0.25), (0.28, -0.25), (0.28, 0.95), (-0.28, 0.95),
                     (-0.28, -0.25), (-0.85, -0.25)]),
    "zed": _polygon([(-0.9, -0.75), (0.3, -0.75), (0.3, 0.2), (0.9, 0.2), (0.9, 0.75), (-0.3, 0.75), (-0.3, -0.2),
                     (-0.9, -0.2)]),
    "chevron": _polygon([(-0.9, -0.35), (0, -0.95), (0.9, -0.35), (0.9, 0.45), (0, -0.15), (-0.9, 0.45)]),
    "trefoil": _trefoil,
    "pacman": _pacman,
    "stairs": _polygon([(-0.8, -0.8), (-0.25, -0.8), (-0.25, -0.25), (0.3, -0.25), (0.3, 0.3), (0.85, 0.3),
                        (0.85, 0.85), (-0.8, 0.85)]),
    "kite": _polygon([(0, -0.75), (0.6, -0.25), (0, 1), (-0.6, -0.25)]),
    "house": _polygon([(0, -0.95), (0.85, -0.2), (0.6, -0.2), (0.6, 0.8), (-0.6, 0.8), (-0.6, -0.2), (-0.85, -0.2)]),
    "spool": _polygon([(-0.8, -0.8), (0.8, -0.8), (0.8, -0.35), (0.3, -0.35), (0.3, 0.35), (0.8, 0.35), (0.8, 0.8),
                       (-0.8, 0.8), (-0.8, 0.35), (-0.3, 0.35), (-0.3, -0.35), (-0.8, -0.35)]),
    "disc": _disc,
    "bar": _polygon([(-0.97, -0.2), (0.97, -0.2), (0.97, 0.2), (-0.97, 0.2)]),
    "pebble": _pebble,
    "shard": _polygon([(-0.9, -0.3), (0.5, -0.8), (0.8, 0.3), (-0.2, 0.7)]),
    "bean": _bean,
}  # fmt: skip
"""Signed distances by name, exact for discs and polygons; where such are joined or cut, and for the pebble, a bound."""
