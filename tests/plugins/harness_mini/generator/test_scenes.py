"""Scenes: the same integers everywhere, within the ranges that make an object visible, whatever else is drawn."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from scipy import stats

from harness_mini.generator.scenes import CLUTTER, SIDE_UNITS, TURN_UNITS, draw

PX = SIDE_UNITS // 56
SPLITS = (
    "train", "val", "test", "cue_conflict", "stylized_train", "stylized_val", "stylized", "shape_only", "texture_only",
    "novel_both", "novel_shapes_train",
)  # fmt: skip
ALPHA = 1e-3


def ids_of(split: str, count: int) -> list[str]:
    return [f"{split}/{position:06d}" for position in range(count)]


def scenes_of(ids, seed: int = 0, **options):
    return draw(seed, ids, **{"styles": 10, "clutter_outlines": 5, "irregular": False} | options)


def digest(scenes) -> str:
    found = hashlib.sha256()
    for name, values in sorted(scenes.arrays().items()):
        found.update(name.encode() + b"\0" + np.ascontiguousarray(values, dtype="<i8").tobytes())
    return found.hexdigest()


def same(first, second) -> set[str]:
    """Names of the arrays that are equal."""
    theirs = second.arrays()
    return {name for name, values in first.arrays().items() if np.array_equal(values, theirs[name])}


@pytest.fixture(scope="module")
def many():
    return scenes_of(ids_of("train", 6000))


def test_the_drawn_parameters_are_the_same_on_every_machine():
    """A change here is another dataset: raise GENERATOR_VERSION, and train the zoo again."""
    found = {
        "regular": digest(scenes_of([name for split in SPLITS for name in ids_of(split, 40)])),
        "irregular": digest(scenes_of(ids_of("stylized", 40), irregular=True)),
        "seed 7, half the contrast": digest(scenes_of(ids_of("test", 40), seed=7, texture_contrast=0.5)),
    }
    assert found == {
        "regular": "469369e2d03de81098fa714e1f70fc92d60c5a849f50413ff1bd21293bedf8de",
        "irregular": "62e51996adde43fcf8f615575673f3c7b0e34a62d1c8ec3b90e78cfe9b7ecc1d",
        "seed 7, half the contrast": "bbe4587ecea57168e76ef9de5686ab0b2c86f62567ef60e92c83279df448e6ed",
    }


def test_the_digest_sees_every_number():
    scenes = scenes_of(ids_of("test", 3))
    numbers = 4 * 3 * 3 + 2 * 2 * 3 * 3 + 6 * 3 + 3 * CLUTTER * (4 + 1 + 3 + 1)
    assert sum(values.size for values in scenes.arrays().values()) == numbers
    assert {values.dtype for values in scenes.arrays().values()} == {np.dtype(np.int64)}
    moved = dataclasses.replace(scenes.clutter, angle=scenes.clutter.angle + 1)
    assert digest(dataclasses.replace(scenes, clutter=moved)) != digest(scenes)


def test_a_scene_depends_on_seed_and_id_alone():
    ids = ids_of("val", 20)
    whole, turned = scenes_of(ids).arrays(), scenes_of(ids[::-1]).arrays()
    for name, values in whole.items():
        assert np.array_equal(values, turned[name][::-1])
        parts = [scenes_of(part).arrays()[name] for part in (ids[:1], ids[1:8], ids[8:])]
        assert np.array_equal(values, np.concatenate(parts))


def test_no_global_generator_is_used_or_touched():
    np.random.seed(1)  # noqa: NPY002 - the one watched
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = scenes_of(ids_of("val", 5))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert digest(scenes_of(ids_of("val", 5))) == digest(first)


def test_seeds_and_splits_give_other_scenes():
    first = scenes_of(ids_of("val", 50))
    assert same(first, scenes_of(ids_of("val", 50), seed=1)) == set()
    assert same(first, scenes_of(ids_of("test", 50))) == set()
    places = np.stack([first.figure.x, first.figure.y, first.tile.x, first.ground.x])
    assert len(np.unique(places, axis=1).T) == 50


def test_no_ids_no_scenes():
    scenes = scenes_of([])
    assert len(scenes) == 0
    assert scenes.clutter_colour.shape == (0, CLUTTER, 3)


def test_the_object_is_large_upright_to_within_45_degrees_and_within_the_frame(many):
    figure = many.figure
    assert (figure.size.min(), figure.size.max()) == pytest.approx((18 * PX, 26 * PX), rel=0.01)
    # A sixth of its radius may stick out.
    reach = figure.size - figure.size // 6
    for centre in (figure.x, figure.y):
        assert (centre >= np.minimum(reach, SIDE_UNITS // 2)).all()
        assert (centre <= SIDE_UNITS - np.minimum(reach, SIDE_UNITS // 2)).all()
    for place in (figure, many.tile):
        tilt = (place.angle + TURN_UNITS // 2) % TURN_UNITS - TURN_UNITS // 2
        assert (tilt.min(), tilt.max()) == (-TURN_UNITS // 8, TURN_UNITS // 8)
        assert stats.chisquare(np.bincount((tilt + TURN_UNITS // 8) // 103, minlength=10)[:9]).pvalue > ALPHA


def test_the_object_stands_out_from_its_ground(many):
    """By 44 to 128 grey levels, either way."""
    figure, ground = (colours.mean(axis=(1, 2)) for colours in (many.figure_colours, many.ground_colours))
    step = figure - ground
    assert np.abs(step).min() > 42
    assert np.abs(step).max() < 131
    assert 0.45 < (step > 0).mean() < 0.55


def test_textures_have_contrast(many):
    first, last = many.figure_colours.mean(axis=2).T
    assert (last - first).min() > 53
    assert (last - first).max() < 119


def test_contrast_changes_nothing_but_the_colours_of_the_texture():
    ids = ids_of("test", 200)
    usual, half, none = (scenes_of(ids, texture_contrast=contrast) for contrast in (1.0, 0.5, 0.0))
    assert set(usual.arrays()) - same(usual, half) == {"figure_colours"}
    assert set(usual.arrays()) - same(usual, none) == {"figure_colours"}
    difference, smaller = (scenes.figure_colours[:, 1] - scenes.figure_colours[:, 0] for scenes in (usual, half))
    assert np.abs(smaller - difference / 2).max() <= 1
    assert np.array_equal(none.figure_colours[:, 0], none.figure_colours[:, 1])
    for scenes in (half, none):
        assert np.abs(scenes.figure_colours.sum(axis=1) - usual.figure_colours.sum(axis=1)).max() == 0


def test_irregular_tiles_are_three_times_as_long_and_all_else_stays():
    ids = ids_of("stylized", 500)
    regular, irregular = scenes_of(ids), scenes_of(ids, irregular=True)
    assert set(regular.arrays()) - same(regular, irregular) == {"tile.size"}
    for scenes, period in ((regular, 12), (irregular, 36)):
        low, high = scenes.tile.size.min() / PX, scenes.tile.size.max() / PX
        assert period * 5 / 6 - 0.01 <= low < period * 0.86
        assert period * 1.14 < high <= period * 7 / 6


def test_choices_are_uniform(many):
    assert stats.chisquare(np.bincount(many.style, minlength=10)).pvalue > ALPHA
    assert stats.chisquare(np.bincount(many.clutter_outline.flatten(), minlength=5)).pvalue > ALPHA
    for place in (many.tile, many.ground):
        assert stats.chisquare(np.bincount(place.x * 16 // SIDE_UNITS, minlength=16)).pvalue > ALPHA
        assert stats.chisquare(np.bincount(place.y * 16 // SIDE_UNITS, minlength=16)).pvalue > ALPHA
    assert scenes_of(ids_of("test", 200), styles=1).style.max() == 0


def test_nothing_drawn_tells_the_class(many):
    """Labels follow the position in a split; the draws must not."""
    label = np.arange(len(many)) % 12
    for name, values in many.arrays().items():
        for column in values.reshape(len(many), -1).T[:12]:
            groups = [column[label == k] for k in range(12)]
            assert stats.kruskal(*groups).pvalue > ALPHA / 100, name
