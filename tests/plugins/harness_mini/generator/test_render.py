"""The integer renderer against a slow one in floating point that follows the definitions."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest

from harness_mini.generator.outlines import (
    CLASS_OUTLINES,
    NEUTRAL_OUTLINES,
    NOVEL_OUTLINES,
    OUTLINES,
    TABLE_REACH,
    TABLE_SIDE,
    tables,
)
from harness_mini.generator.render import render
from harness_mini.generator.scenes import CLUTTER, SIDE_UNITS, TURN_UNITS, Placement, Scenes, draw
from harness_mini.generator.textures import CLASS_TEXTURES, ground_tile, tiles

NAMES = (*CLASS_OUTLINES, *NOVEL_OUTLINES, *NEUTRAL_OUTLINES)
SUBPIXELS = 8


# --- the slow renderer ---------------------------------------------------------------------------------------------


def places(side_px: int, parts: int = 1):
    """x and y in pixels of the centres of pixels, or of ``parts`` x ``parts`` in each."""
    along = (np.arange(side_px * parts) + 0.5) / parts
    y, x = np.meshgrid(along, along, indexing="ij")
    return x, y


def seen_from(place: Placement, i: int, x, y, side_px: int):
    """Points in pixels as scene ``i``'s object sees them: from its centre, along its axes, in its size."""
    centre_x, centre_y, size = (int(part[i]) / SIDE_UNITS * side_px for part in (place.x, place.y, place.size))
    turn = 2 * math.pi * int(place.angle[i]) / TURN_UNITS
    dx, dy = (x - centre_x) / size, (y - centre_y) / size
    return math.cos(turn) * dx + math.sin(turn) * dy, math.cos(turn) * dy - math.sin(turn) * dx, size


def distance_px(name: str, place: Placement, i: int, side_px: int, parts: int = 1):
    u, v, size = seen_from(place, i, *places(side_px, parts), side_px)
    return OUTLINES[name](u, v) * size


def coverage(name: str, place: Placement, i: int, side_px: int):
    """Share of each pixel's sub-pixels that lie inside."""
    within = distance_px(name, place, i, side_px, SUBPIXELS) < 0
    return within.reshape(side_px, SUBPIXELS, side_px, SUBPIXELS).mean(axis=(1, 3))


def texture(tile, place: Placement, i: int, side_px: int):
    u, v, _ = seen_from(place, i, *places(side_px), side_px)
    rows, columns = ((np.floor(part * len(tile)) % len(tile)).astype(int) for part in (v, u))
    return tile[rows, columns] / 255


def mixed(colours, share):
    first, last = colours[:, :, None, None]
    return first * (1 - share) + last * share


def clutter_piece(scenes: Scenes, piece: int) -> Placement:
    return Placement(**{name: getattr(scenes.clutter, name)[:, piece] for name in ("x", "y", "size", "angle")})


def slow_render(scenes: Scenes, i: int, outline: str, tile, side_px: int):
    """Scene ``i`` without grain, (3, S, S), and distances in pixels to the edges of the object and of the clutter."""
    image = mixed(scenes.ground_colours[i], texture(ground_tile(), scenes.ground, i, side_px))
    clutter_edge = np.full((side_px, side_px), np.inf)
    for piece in range(CLUTTER):
        place, name = clutter_piece(scenes, piece), NEUTRAL_OUTLINES[scenes.clutter_outline[i, piece]]
        cover = coverage(name, place, i, side_px) * scenes.clutter_opacity[i, piece] / 256
        image = image * (1 - cover) + scenes.clutter_colour[i, piece][:, None, None] * cover
        clutter_edge = np.minimum(clutter_edge, np.abs(distance_px(name, place, i, side_px)))
    cover = coverage(outline, scenes.figure, i, side_px)
    image = image * (1 - cover) + mixed(scenes.figure_colours[i], texture(tile, scenes.tile, i, side_px)) * cover
    turn = 2 * math.pi * int(scenes.light_angle[i]) / TURN_UNITS
    x, y = (2 * part / side_px - 1 for part in places(side_px))
    image = image * (1 + scenes.light_strength[i] / 256 * (math.cos(turn) * x + math.sin(turn) * y))
    return image.clip(0, 255), distance_px(outline, scenes.figure, i, side_px), clutter_edge


# --- scenes --------------------------------------------------------------------------------------------------------


def drawn(count: int, *, split: str = "train") -> Scenes:
    ids = [f"{split}/{position:06d}" for position in range(count)]
    return draw(0, ids, styles=10, clutter_outlines=len(NEUTRAL_OUTLINES), irregular=False)


def without_grain(scenes: Scenes) -> Scenes:
    return dataclasses.replace(scenes, grain_strength=np.zeros_like(scenes.grain_strength))


def without_texture(scenes: Scenes) -> Scenes:
    """The first colour everywhere, of the object and of its ground."""
    return dataclasses.replace(
        scenes,
        figure_colours=scenes.figure_colours[:, :1].repeat(2, axis=1),
        ground_colours=scenes.ground_colours[:, :1].repeat(2, axis=1),
    )


def taken(scenes: Scenes, rows) -> Scenes:
    def of(value):
        if isinstance(value, Placement):
            return Placement(**{name: getattr(value, name)[rows] for name in ("x", "y", "size", "angle")})
        return value[rows]

    return Scenes(**{field.name: of(getattr(scenes, field.name)) for field in dataclasses.fields(Scenes)})


def fast_render(scenes: Scenes, side_px: int, *, names=CLASS_OUTLINES, first: int = 0):
    """Outlines and class textures in turn."""
    which = first + np.arange(len(scenes))
    return render(
        scenes,
        outlines=tables(names),
        outline=which % len(names),
        tiles=tiles(CLASS_TEXTURES, side_px),
        tile=which % len(CLASS_TEXTURES),
        side_px=side_px,
    )


@cache
def both(side_px: int, count: int, textured: bool):
    """What the two renderers make of ``count`` scenes: images, masks, slow images, and the two distances."""
    scenes = without_grain(drawn(count))
    scenes = scenes if textured else without_texture(scenes)
    images, masks = fast_render(scenes, side_px)
    tile = tiles(CLASS_TEXTURES, side_px)
    slow = [slow_render(scenes, i, CLASS_OUTLINES[i], tile[i], side_px) for i in range(count)]
    return images.astype(float), masks, *(np.stack(part) for part in zip(*slow, strict=True))


# --- the two against each other ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side_px", [24, 56, 57, 224])
def test_the_mask_is_the_inside_of_the_outline(side_px):
    scenes = drawn(len(NAMES), split="val")
    _, masks = fast_render(scenes, side_px, names=NAMES)
    for i, name in enumerate(NAMES):
        distance = distance_px(name, scenes.figure, i, side_px)
        wrong = masks[i] != (distance < 0)
        # Between the cells of its table a corner is rounded off: half a cell, where cells are larger than that.
        cell_px = 2 * TABLE_REACH / TABLE_SIDE * scenes.figure.size[i] / SIDE_UNITS * side_px
        assert np.abs(distance[wrong]).max(initial=0) < max(0.15, cell_px / 2), name
        assert wrong.sum() <= side_px // 10
        assert masks[i].any()


@pytest.mark.parametrize(("side_px", "count"), [(56, 12), (57, 3), (112, 3)])
def test_plain_colours_away_from_edges(side_px, count):
    fast, _, slow, edge, clutter_edge = both(side_px, count, False)
    clear = (np.abs(edge) > 1.5) & ((clutter_edge > 1.5) | (edge < 0))
    assert clear.mean() > 0.5
    difference = np.abs(fast - slow).max(axis=1)
    assert difference[clear].max() < 3


@pytest.mark.parametrize(("side_px", "count"), [(56, 12), (112, 3)])
def test_textured_colours_away_from_edges(side_px, count):
    """But for the few pixels that lie between two texels, to the last binary digit of their places."""
    fast, _, slow, edge, clutter_edge = both(side_px, count, True)
    clear = (np.abs(edge) > 1.5) & ((clutter_edge > 1.5) | (edge < 0))
    difference = np.abs(fast - slow).max(axis=1)
    assert (difference[clear] > 3).mean() < 0.003
    # It is the texture that agrees: the next class's has other values.
    assert np.abs(fast - np.roll(slow, 1, axis=0)).max(axis=1)[clear].mean() > 20


def test_edges_are_mixed_by_coverage():
    """A straight edge stands for the outline within a pixel, so corners are a little off."""
    fast, _, slow, edge, clutter_edge = both(56, 12, False)
    near = (np.abs(edge) < 1) & (clutter_edge > 1.5)
    difference = np.abs(fast - slow).max(axis=1)
    assert difference[near].mean() < 4
    assert np.quantile(difference[near], 0.95) < 12
    step = np.abs(slow - np.where(edge[:, None] < 0, 255, 0)).max(axis=1)
    assert step[near].mean() > 60  # the edge is no flat place


def test_light_brightens_one_end():
    scenes = without_texture(without_grain(drawn(1)))
    grey = np.full((1, 2, 3), 128)
    scenes = dataclasses.replace(
        scenes,
        figure_colours=grey,
        ground_colours=grey,
        clutter_opacity=np.zeros((1, CLUTTER), np.int64),
        light_angle=np.array([0]),
        light_strength=np.array([64]),
    )
    (image,), _ = fast_render(scenes, 56)
    assert (image == image[0, 0]).all()  # the same in every row and channel
    np.testing.assert_allclose(image[0, 0], 128 + 32 * (2 * np.arange(56) + 1 - 56) / 56, atol=1.01)
    (turned,), _ = fast_render(dataclasses.replace(scenes, light_angle=np.array([TURN_UNITS // 4])), 56)
    assert np.array_equal(turned, image.transpose(0, 2, 1))


@pytest.mark.parametrize("strength", [1, 3, 7])
def test_grain_is_grey_noise_of_its_strength(strength):
    scenes = without_grain(drawn(20))
    clean, _ = fast_render(scenes, 56)
    noisy, _ = fast_render(dataclasses.replace(scenes, grain_strength=np.full(20, strength)), 56)
    noise = noisy.astype(int) - clean
    free = ((clean > 40) & (clean < 215)).all(axis=1)
    assert (noise[:, 0][free] == noise[:, 1][free]).all()
    values = noise[:, 0][free]
    assert values.std() == pytest.approx(math.hypot(strength, 0.3), rel=0.03)
    assert abs(values.mean() + 0.5) < 0.1  # rounded down
    pair = free[:, :, 1:] & free[:, :, :-1]
    assert abs(np.corrcoef(noise[:, 0, :, 1:][pair], noise[:, 0, :, :-1][pair])[0, 1]) < 0.02


def test_grain_lies_where_it_is_placed():
    scenes = dataclasses.replace(drawn(3), grain_strength=np.full(3, 7))
    moved = dataclasses.replace(scenes, grain_x=scenes.grain_x + 5, grain_y=scenes.grain_y + 254)
    clean, _ = fast_render(without_grain(scenes), 56)
    first, second = (fast_render(s, 56)[0].astype(int) - clean for s in (scenes, moved))
    free = ((clean > 40) & (clean < 215)).all(axis=1)
    shared = free[:, 2:, :-5] & free[:, :-2, 5:]
    assert np.array_equal(first[:, 0, :-2, 5:][shared], second[:, 0, 2:, :-5][shared])
    assert not np.array_equal(first, second)


def test_colours_beyond_the_range_are_cut_off():
    scenes = without_grain(drawn(2))
    bright, dark = np.full((2, 2, 3), 400), np.full((2, 2, 3), -120)
    for colours, expected in ((bright, 255), (dark, 0)):
        images, masks = fast_render(dataclasses.replace(scenes, figure_colours=colours), 56)
        deep = masks & np.stack([distance_px(CLASS_OUTLINES[i], scenes.figure, i, 56) < -1 for i in range(2)])
        assert (images.transpose(0, 2, 3, 1)[deep] == expected).all()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 17])
def test_a_scene_is_drawn_alike_in_every_company(count):
    scenes = drawn(20)
    images, masks = fast_render(scenes, 40)
    for first in (0, 3):
        part, part_masks = fast_render(taken(scenes, slice(first, first + count)), 40, first=first)
        assert np.array_equal(part, images[first : first + count])
        assert np.array_equal(part_masks, masks[first : first + count])


def test_no_scenes_no_images():
    images, masks = fast_render(drawn(0), 40)
    assert (images.shape, masks.shape) == ((0, 3, 40, 40), (0, 40, 40))
    assert (images.dtype, masks.dtype) == (np.uint8, np.bool_)


@pytest.mark.parametrize("times", [2, 3, 4])
def test_larger_images_are_the_same_scene(times):
    """Averaged down, a larger image is the smaller one but for what lies between two pixels."""
    scenes = without_grain(drawn(24))
    small, small_masks = fast_render(scenes, 56)
    large, large_masks = fast_render(scenes, 56 * times)
    averaged = large.reshape(24, 3, 56, times, 56, times).mean(axis=(3, 5))
    difference = np.abs(averaged - small).mean(axis=(1, 2, 3))
    assert difference.max() < 3
    assert difference.mean() < 1.5
    share = large_masks.reshape(24, 56, times, 56, times).mean(axis=(2, 4))
    # A pixel whose centre lies in the object is at least a fifth covered; at tips it may be less.
    assert ((share > 0.8) <= small_masks).mean() > 0.999
    assert ((share < 0.2) <= ~small_masks).mean() > 0.999
    others = np.abs(np.roll(averaged, 1, axis=0) - small).mean(axis=(1, 2, 3))
    assert others.min() > 15
