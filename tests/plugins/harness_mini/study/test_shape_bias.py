"""Shape bias of decisions made by hand, and of deciders that know one cue alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.errors import ParameterError
from harness.stats import wilson
from harness_mini.shapes_dataset import Shapes
from harness_mini.study.measures import Images, labels
from harness_mini.study.shape_bias import ShapeBias, conflict_images, shape_bias

CLASSES = 12


@pytest.fixture(scope="module")
def images():
    return Images(dataset=Shapes(), split="cue_conflict", count=144)


@pytest.fixture(scope="module")
def cues(images):
    """Shape, texture and whether they conflict, of every image."""
    return tuple(labels(images, column) for column in ("shape", "texture", "conflict"))


def of_counts(by_shape, by_texture, neither):
    first = np.repeat([1.0, 0.0, 0.0], [by_shape, by_texture, neither])
    second = np.repeat([0.0, 1.0, 0.0], [by_shape, by_texture, neither])
    return ShapeBias(by_shape=first, by_texture=second)


# --- the formula -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by_shape", "by_texture", "neither"), [(3, 1, 0), (162, 572, 466), (0, 5, 5), (5, 0, 5)])
def test_shape_bias_is_shape_decisions_among_those_for_either_cue(by_shape, by_texture, neither):
    bias = of_counts(by_shape, by_texture, neither)
    decided = by_shape + by_texture
    assert bias.value == by_shape / decided
    assert bias.coverage == pytest.approx(decided / (decided + neither))
    assert bias.interval == wilson(by_shape, decided)


def test_published_decisions_give_the_published_biases():
    """Counts of 1200 decisions in rgeirhos/texture-vs-shape: ResNet-50, one taught stylized images, AlexNet."""
    for by_shape, by_texture, bias in ((162, 572, 0.2207), (586, 141, 0.8061), (182, 537, 0.2531)):
        assert of_counts(by_shape, by_texture, 1200 - by_shape - by_texture).value == pytest.approx(bias, abs=5e-5)


def test_no_decision_for_either_cue_is_no_number():
    bias = of_counts(0, 0, 9)
    assert math.isnan(bias.value)
    assert bias.coverage == 0
    with pytest.raises(ParameterError, match="at least one image"):
        _ = bias.interval


# --- decisions on images -----------------------------------------------------------------------------------------


def test_deciders_by_one_cue_have_a_bias_of_one_and_of_none(images, cues):
    shape, texture, conflict = cues
    for decided, value in ((shape, 1), (texture, 0)):
        bias = shape_bias(decided, images)
        assert (bias.value, bias.coverage) == (value, 1)
        assert len(bias.by_shape) == conflict.sum() == 132


def test_images_whose_cues_agree_are_left_out(images, cues):
    shape, texture, conflict = cues
    decided = np.where(conflict == 1, texture, shape)
    assert shape_bias(decided, images).value == 0
    spoilt = np.where(conflict == 1, texture, (shape + 1) % CLASSES)
    np.testing.assert_array_equal(shape_bias(spoilt, images).by_texture, shape_bias(decided, images).by_texture)


def test_decisions_by_hand_are_counted_image_by_image(images, cues):
    shape, texture, conflict = cues
    random = np.random.default_rng(0)
    how = random.integers(0, 3, len(shape))
    # A third class is neither's: one of the first three is always free.
    other = np.array([min({0.0, 1.0, 2.0} - {s, t}) for s, t in zip(shape, texture, strict=True)])
    bias = shape_bias(np.choose(how, [shape, texture, other]), images)
    counted = [list(how[conflict == 1]).count(kind) for kind in (0, 1)]
    assert [bias.by_shape.sum(), bias.by_texture.sum()] == counted
    assert bias.value == counted[0] / sum(counted)
    assert bias.coverage == pytest.approx(sum(counted) / 132)
    np.testing.assert_array_equal(bias.by_shape, how[conflict == 1] == 0)


def test_a_decider_that_guesses_has_no_bias_either_way():
    images = Images(dataset=Shapes(), split="cue_conflict", count=576)
    decided = np.random.default_rng(0).integers(0, CLASSES, 576).astype(np.float64)
    bias = shape_bias(decided, images)
    assert bias.interval.low < 0.5 < bias.interval.high
    assert bias.coverage == pytest.approx(2 / CLASSES, abs=0.05)


def test_conflicting_images_show_every_pair_of_cues_equally_often():
    columns = [batch.columns for batch in conflict_images().batches()]
    shape, texture, conflict = (
        np.concatenate([batch[name].numpy() for batch in columns]) for name in ("shape", "texture", "conflict")
    )
    pairs = np.stack([shape, texture], axis=1)
    values, counts = np.unique(pairs, axis=0, return_counts=True)
    assert len(values) == CLASSES * CLASSES
    assert set(counts) == {14}
    np.testing.assert_array_equal(conflict == 1, shape != texture)


def test_weaker_textures_are_the_same_scenes_and_labels():
    full, weak = conflict_images(), conflict_images(0.25)
    (a, b) = (next(iter(images.batches())) for images in (full, weak))
    assert a.ids == b.ids
    assert (a.masks == b.masks).all()
    assert (a.columns["texture"] == b.columns["texture"]).all()
    inside = a.masks[:, None].expand(-1, 3, -1, -1)
    assert b.images[inside].std() < a.images[inside].std()
    assert not (a.images == b.images).all()
