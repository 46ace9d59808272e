"""Outlines against closed forms, and against what their own inside says of the distance to its edge."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from scipy import ndimage

from harness_mini.generator.outlines import (
    CLASS_OUTLINES,
    NEUTRAL_OUTLINES,
    NOVEL_OUTLINES,
    OUTLINES,
    TABLE_REACH,
    TABLE_SIDE,
    UNITS,
    tables,
)

NAMES = (*CLASS_OUTLINES, *NOVEL_OUTLINES, *NEUTRAL_OUTLINES)
POLYGONS = (
    "triangle", "square", "star", "cross", "arrow", "ell", "hourglass", "tee", "zed", "chevron", "stairs", "kite",
    "house", "spool", "bar", "shard",
)  # fmt: skip
HOLES = {"ring": 1, "gear": 1}
CELL = 2 * TABLE_REACH / TABLE_SIDE


def square_grid(points: int, reach: float = TABLE_REACH):
    """x and y of a square of points, and their distance from each other."""
    along = np.linspace(-reach, reach, points)
    y, x = np.meshgrid(along, along, indexing="ij")
    return x, y, along[1] - along[0]


@cache
def inside(name):
    x, y, _ = square_grid(1001)
    return OUTLINES[name](x, y) < 0


def box(x, y, width, height):
    """Signed distance to an upright rectangle about the origin, by its half sides."""
    dx, dy = np.abs(x) - width, np.abs(y) - height
    return np.hypot(dx.clip(0), dy.clip(0)) + np.minimum(np.maximum(dx, dy), 0)


def diamond(x, y):
    return box((x + y) / math.sqrt(2), (x - y) / math.sqrt(2), math.sqrt(0.5), math.sqrt(0.5))


def bar(x, y):
    unit = math.hypot(0.97, 0.2)
    return box(x, y, 0.97 / unit, 0.2 / unit)


CLOSED_FORMS = {
    "disc": lambda x, y: np.hypot(x, y) - 1,
    "ring": lambda x, y: np.maximum(np.hypot(x, y) - 1, 0.52 - np.hypot(x, y)),
    "square": diamond,
    "bar": bar,
}


def test_every_outline_stands_in_one_list():
    assert len(set(NAMES)) == len(NAMES) == len(OUTLINES)
    assert set(NAMES) == set(OUTLINES)
    assert (len(CLASS_OUTLINES), len(NOVEL_OUTLINES)) == (12, 10)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_tables_hold_the_closed_form(name):
    x, y, _ = square_grid(TABLE_SIDE, TABLE_REACH - CELL / 2)
    (table,) = tables([name])
    assert (table.dtype, table.shape) == (np.int16, (TABLE_SIDE, TABLE_SIDE))
    np.testing.assert_allclose(table / UNITS, CLOSED_FORMS[name](x, y), rtol=0, atol=0.51 / UNITS)


def test_tables_come_in_the_order_of_their_names():
    pair, (heart,), (arrow,) = tables(["heart", "arrow"]), tables(["heart"]), tables(["arrow"])
    assert np.array_equal(pair, [heart, arrow])
    assert not np.array_equal(heart, arrow)


def lens(first: float, second: float, apart: float) -> float:
    """Area that two discs share."""
    a = (apart**2 + first**2 - second**2) / (2 * apart * first)
    b = (apart**2 + second**2 - first**2) / (2 * apart * second)
    kite = (first + second - apart) * (apart + first - second) * (apart - first + second) * (apart + first + second)
    return first**2 * math.acos(a) + second**2 * math.acos(b) - 0.5 * math.sqrt(kite)


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("triangle", 3 * math.sqrt(3) / 4),
        ("square", 2),
        ("star", 5 * 0.42 * math.sin(math.pi / 5)),
        ("cross", 2.04 / 1.09),
        ("arrow", (2 * 0.3 * 1.2 + 0.75 * 0.8) / 1.09),
        ("hourglass", (1.4 + 0.28) * 0.9 / 1.3),
        ("ell", (0.6 * 1.8 + 0.9 * 0.6) / (0.8**2 + 0.9**2)),
        ("crescent", math.pi - lens(1, 0.8, 0.42)),
        ("ring", math.pi * (1 - 0.52**2)),
        ("pacman", math.pi - 0.6),
        ("pebble", math.pi * 0.68),
        ("bean", math.pi * (0.55**2 + 0.56**2) - lens(0.55, 0.56, math.hypot(0.85, 0.18))),
        ("kite", (1.2 * 1.75 / 2) / 1),
        ("bar", (1.94 * 0.4) / (0.97**2 + 0.2**2)),
        ("disc", math.pi),
    ],
)
def test_areas(name, area):
    _, _, step = square_grid(1001)
    assert inside(name).sum() * step**2 == pytest.approx(area, rel=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_the_farthest_point_lies_at_1(name):
    angles = np.arange(0, 2 * math.pi, math.radians(0.1))

    def met(radius):
        return (OUTLINES[name](radius * np.cos(angles), radius * np.sin(angles)) < 0).any()

    assert met(0.985)
    assert not met(1.0001)


@pytest.mark.parametrize("name", NAMES)
def test_distances_are_those_to_the_edge_of_the_inside(name):
    """The sign tells the inside; SciPy measures how far the other side is, to within the step of the grid."""
    x, y, step = square_grid(1001)
    distance, within = OUTLINES[name](x, y), inside(name)
    measured = step * (
        ndimage.distance_transform_edt(~within, sampling=1.0) - ndimage.distance_transform_edt(within, sampling=1.0)
    )
    assert (np.sign(distance[np.abs(measured) > 2 * step]) == np.sign(measured[np.abs(measured) > 2 * step])).all()
    # Where outlines are joined the formula is a bound: never more than the distance.
    assert (np.abs(distance) <= np.abs(measured) + step).all()
    if name in (*POLYGONS, "disc", "ring"):
        np.testing.assert_allclose(distance, measured, rtol=0, atol=2.5 * step)


@pytest.mark.parametrize("name", NAMES)
def test_no_table_reaches_its_frame(name):
    """Coordinates beyond the table are cut to its frame, which must lie outside the outline, and int16 must do."""
    (table,) = tables([name])
    frame = np.concatenate([table[0], table[-1], table[:, 0], table[:, -1]])
    assert frame.min() > 0.16 * UNITS
    assert table.max() < 32767


@pytest.mark.parametrize("name", NAMES)
def test_outlines_are_of_one_piece(name):
    """One component, and a hole where the shape has one; specks of the grid at thin tips do not count."""

    def pieces(region):
        labels, _ = ndimage.label(region)
        return int((np.bincount(labels.flatten())[1:] > 20).sum())

    assert pieces(inside(name)) == 1
    assert pieces(~inside(name)) == 1 + HOLES.get(name, 0)


def test_no_two_outlines_are_alike():
    """Objects are tilted by up to 45 degrees each, so two of them by up to 90 degrees against each other."""
    x, y, _ = square_grid(101, 1.02)

    def turned(name, degrees):
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return OUTLINES[name](cosine * x + sine * y, cosine * y - sine * x) < 0

    views = {name: np.stack([turned(name, degrees) for degrees in range(-90, 91, 5)]) for name in NAMES}
    for first, second in combinations(NAMES, 2):
        still = turned(first, 0)
        both, either = (views[second] & still).sum(axis=(1, 2)), (views[second] | still).sum(axis=(1, 2))
        assert (both / either).max() < 0.9, (first, second)
    # The measure finds a shape in a turned copy of itself.
    again = turned("heart", 30)
    assert max((view & again).sum() / (view | again).sum() for view in views["heart"]) > 0.98
