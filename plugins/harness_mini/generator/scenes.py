"""Scenes: everything that is drawn for an image, as integers that are the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from harness import rng
from harness_mini.generator.textures import DEFAULT_SIDE, IRREGULAR_PERIOD_PX, REGULAR_PERIOD_PX

Ints: TypeAlias = npt.NDArray[np.int64]

SIDE_UNITS = 65536
"""Lengths and places are in 1/SIDE_UNITS of the image's side."""
TURN_UNITS = 4096
"""Angles are in 1/TURN_UNITS of a turn."""
CLUTTER = 6
"""Pieces of clutter behind the object."""

_STREAM = "mini.scene"
_DRAWS = 35 + 10 * CLUTTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where something lies: centre ``x``, ``y`` and ``size`` in 1/SIDE_UNITS, ``angle`` in 1/TURN_UNITS.

    ``size`` is the distance of an outline's farthest point from the centre, or the period of a tile. All are (N,) or
    (N, K).
    """

    x: Ints
    y: Ints
    size: Ints
    angle: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """N scenes. Colours are grey levels, (N, 3) or (N, K, 3), and may leave 0 to 255, where they are cut off.

    ``figure`` places the outline, ``tile`` its texture, whose two colours are ``figure_colours`` (N, 2, 3).
    ``ground`` places the smooth noise between ``ground_colours`` (N, 2, 3). ``clutter`` (N, K) places pieces of
    ``clutter_outline`` with ``clutter_colour`` (N, K, 3) and opacity ``clutter_opacity`` of 256. Light falls along
    ``light_angle`` and changes brightness by ``light_strength`` of 256 at the middle of either side. ``grain_x``,
    ``grain_y`` place the sensor noise, of ``grain_strength`` grey levels. ``style`` (N,) picks a style texture.
    """

    figure: Placement
    tile: Placement
    figure_colours: Ints
    ground: Placement
    ground_colours: Ints
    clutter: Placement
    clutter_outline: Ints
    clutter_colour: Ints
    clutter_opacity: Ints
    light_angle: Ints
    light_strength: Ints
    grain_x: Ints
    grain_y: Ints
    grain_strength: Ints
    style: Ints

    def __len__(self) -> int:
        return len(self.style)

    def arrays(self) -> Mapping[str, Ints]:
        """Every drawn number by name, for digests."""
        found: dict[str, Ints] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            parts = {name: value} if isinstance(value, np.ndarray) else {
                f"{name}.{part}": getattr(value, part) for part in value.__slots__
            }  # fmt: skip
            found |= parts
        return found


class _Words:
    """The random words of each image, handed out one column after the other."""

    def __init__(self, seed: int, ids: Sequence[str]) -> None:
        self._words = rng.bits(seed, _STREAM, ids, _DRAWS) >> np.uint64(32)
        self._used = 0

    def integers(self, low: int, high: int) -> Ints:
        """(N,) integers in [low, high], uniform to within 2**-32 a value."""
        word = self._words[:, self._used]
        self._used += 1
        return low + ((word * np.uint64(high - low + 1)) >> np.uint64(32)).astype(np.int64)

    def colours(self, spread: int) -> Ints:
        """(N, 3) differences from a grey of the same mean: each channel up to about ``spread`` off it."""
        channels = np.stack([self.integers(-spread, spread) for _ in range(3)], axis=1)
        return np.asarray(channels - channels.sum(axis=1, keepdims=True) // 3)


def draw(
    seed: int,
    ids: Sequence[str],
    *,
    styles: int,
    clutter_outlines: int,
    irregular: bool,
    texture_contrast: float = 1.0,
) -> Scenes:
    """The scenes of images by id: pure functions of ``seed`` and id.

    ``styles`` and ``clutter_outlines`` are how many there are to choose from. ``irregular`` gives the texture the
    period of irregular tiles. ``texture_contrast`` scales the difference between a texture's two colours.
    """
    words = _Words(seed, ids)
    px = SIDE_UNITS // DEFAULT_SIDE
    radius = words.integers(18 * px, 26 * px)
    # The object may leave the frame by a sixth of its radius.
    margin = np.minimum(radius - radius // 6, SIDE_UNITS // 2)
    x, y = (_between(words, margin, SIDE_UNITS - margin) for _ in range(2))
    figure = Placement(x=x, y=y, size=radius, angle=_tilt(words, TURN_UNITS // 8))
    period = IRREGULAR_PERIOD_PX if irregular else REGULAR_PERIOD_PX
    tile = Placement(
        x=words.integers(0, SIDE_UNITS - 1),
        y=words.integers(0, SIDE_UNITS - 1),
        size=words.integers(period * px * 5 // 6, period * px * 7 // 6),
        angle=_tilt(words, TURN_UNITS // 8),
    )
    brighter = 2 * words.integers(0, 1) - 1
    contrast = words.integers(22, 64)
    middle = words.integers(105, 150)
    figure_level, ground_level = middle + brighter * contrast, middle - brighter * contrast
    figure_colours = _pair(words, figure_level, spread=40, low=28, high=58, contrast=texture_contrast)
    ground_colours = _pair(words, ground_level, spread=30, low=5, high=30)
    ground = Placement(
        x=words.integers(0, SIDE_UNITS - 1),
        y=words.integers(0, SIDE_UNITS - 1),
        size=words.integers(SIDE_UNITS, 2 * SIDE_UNITS),
        angle=words.integers(0, TURN_UNITS - 1),
    )
    light_angle, light_strength = words.integers(0, TURN_UNITS - 1), words.integers(0, 70)
    grain_x, grain_y = words.integers(0, 255), words.integers(0, 255)
    grain_strength = words.integers(0, 7)
    style = words.integers(0, styles - 1)
    pieces = [
        (
            words.integers(0, SIDE_UNITS - 1),
            words.integers(0, SIDE_UNITS - 1),
            words.integers(4 * px, 15 * px),
            words.integers(0, TURN_UNITS - 1),
            words.integers(0, clutter_outlines - 1),
            (ground_level + words.integers(-55, 55))[:, None] + words.colours(35),
            words.integers(120, 256),
        )
        for _ in range(CLUTTER)
    ]
    cx, cy, size, angle, outline, colour, opacity = (np.stack(column, axis=1) for column in zip(*pieces, strict=True))
    return Scenes(
        figure=figure,
        tile=tile,
        figure_colours=figure_colours,
        ground=ground,
        ground_colours=ground_colours,
        clutter=Placement(x=cx, y=cy, size=size, angle=angle),
        clutter_outline=outline,
        clutter_colour=colour,
        clutter_opacity=opacity,
        light_angle=light_angle,
        light_strength=light_strength,
        grain_x=grain_x,
        grain_y=grain_y,
        grain_strength=grain_strength,
        style=style,
    )


def _tilt(words: _Words, most: int) -> Ints:
    """Angles up to ``most`` to either side of upright."""
    return words.integers(-most, most) % TURN_UNITS


def _between(words: _Words, low: Ints, high: Ints) -> Ints:
    """Places between bounds that differ by image."""
    return np.asarray(low + words.integers(0, SIDE_UNITS - 1) * (high - low) // SIDE_UNITS)


def _pair(words: _Words, level: Ints, *, spread: int, low: int, high: int, contrast: float = 1.0) -> Ints:
    """Two colours about ``level``, ``low`` to ``high`` grey levels on either side of their mean: (N, 2, 3)."""
    mean = level[:, None] + words.colours(spread)
    difference = words.integers(low, high)[:, None] + words.colours(spread // 2)
    difference = difference * round(256 * contrast) // 256
    return np.stack([mean - difference, mean + difference], axis=1)
