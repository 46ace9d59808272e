"""Shape bias: counts against a slow loop, intervals against closed forms, and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import stats
from harness.errors import DataError, ParameterError
from harness.shape_bias import (
    NONE,
    CueCounts,
    CueDecisions,
    mean_over_observers,
    pooled,
    shape_bias_measurements,
)

CLASSES = ("cat", "dog", "elephant")


def decisions(trials, *, classes=CLASSES, images=None):
    """From (shape, texture, named) by name; None for none."""
    columns = [
        np.array([NONE if name is None else classes.index(name) for name in column], dtype=np.int64)
        for column in zip(*trials, strict=True)
    ]
    return CueDecisions(
        classes=classes,
        shape=columns[0],
        texture=columns[1],
        named=columns[2],
        images=None if images is None else np.array(images),
    )


def measured(found, **dims):
    """Values by metric, and by class."""
    return {(row.metric, row.dims.get("class")): row for row in shape_bias_measurements(found, dims=dims)}


TRIALS = [
    ("cat", "dog", "cat"),
    ("cat", "dog", "dog"),
    ("cat", "elephant", "cat"),
    ("cat", "elephant", "dog"),
    ("dog", "cat", "cat"),
    ("dog", "elephant", None),
    ("elephant", "cat", "dog"),
    ("elephant", "elephant", "elephant"),
    ("cat", "cat", "dog"),
    ("dog", None, "dog"),
]


def test_every_number_by_hand():
    found = measured(decisions(TRIALS))
    # Seven are in conflict: two named by shape, two by texture; cats 2 of 3, dogs 0 of 1, elephants none.
    expected = {
        "shape_bias": (2 / 4, 4),
        "shape_bias_class_mean": ((2 / 3 + 0) / 2, 4),
        "coverage": (4 / 7, 7),
        "shape_accuracy": (2 / 7, 7),
        "accuracy": (3 / 9, 9),  # two in conflict and one of two agreeing; the dog without a texture does not count
        "shape_decisions": (2, 7),
        "texture_decisions": (2, 7),
        "agreeing_images": (2, 10),
    }
    whole = {metric: (row.value, row.n) for (metric, name), row in found.items() if name is None}
    assert set(whole) == set(expected)
    for metric, (value, n) in expected.items():
        assert whole[metric] == (pytest.approx(value), n)
    of_class = {name: (row.value, row.n) for (_, name), row in found.items() if name is not None}
    assert of_class == {"cat": (2 / 3, 3), "dog": (0.0, 1)}
    counts = decisions(TRIALS).counts()
    assert counts.accuracy == pytest.approx(3 / 9)
    assert (counts.lacking, counts.agreeing, counts.agreeing_right) == (("elephant",), 2, 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.sampled_from([*CLASSES, None])] * 3), min_size=1, max_size=60))
def test_counts_are_those_of_a_slow_loop(trials):
    by_class = {name: [0, 0, 0] for name in CLASSES}
    agreeing = 0
    for shape, texture, named in trials:
        if shape is None or texture is None:
            continue
        if shape == texture:
            agreeing += 1
            continue
        by_class[shape][2] += 1
        by_class[shape][0] += named == shape
        by_class[shape][1] += named == texture
    counts = decisions(trials).counts()
    assert list(zip(counts.shape, counts.texture, counts.conflict, strict=True)) == [
        tuple(by_class[name]) for name in CLASSES
    ]
    assert counts.agreeing == agreeing
    ratios = [shape / (shape + texture) for shape, texture, _ in by_class.values() if shape + texture]
    if not ratios:
        assert counts.bias is counts.class_mean is None
    else:
        shape, texture = (sum(row[i] for row in by_class.values()) for i in (0, 1))
        assert counts.bias == pytest.approx(shape / (shape + texture))
        assert counts.class_mean == pytest.approx(sum(ratios) / len(ratios))
    if counts.coverage is not None and counts.bias is not None:
        assert counts.shape_accuracy == pytest.approx(counts.bias * counts.coverage)


def test_intervals_over_images_of_one_decision_each():
    found = measured(decisions(TRIALS * 8))
    bias = found["shape_bias", None]
    assert (bias.low, bias.high, bias.interval) == (
        (wilson := stats.wilson(16, 32)).low,
        wilson.high,
        "wilson95",
    )
    mean = found["shape_bias_class_mean", None]
    expected = stats.bootstrap_class_mean([16, 0], [24, 8])
    assert (mean.low, mean.high, mean.interval) == (expected.low, expected.high, "bootstrap95")
    assert found["coverage", None].low == stats.wilson(32, 56).low
    assert bias.higher_is_better is None
    assert found["shape_accuracy", None].higher_is_better is True


def test_dims_stand_in_every_row_and_none_comes_twice():
    rows = shape_bias_measurements(decisions(TRIALS), dims={"head": "cls"})
    assert all(row.dims["head"] == "cls" for row in rows)
    keys = [(row.metric, tuple(row.dims.items())) for row in rows]
    assert len(set(keys)) == len(keys)
    assert rows[0].metric == "shape_bias"


def test_nothing_decided_is_a_finding_without_a_ratio():
    found = measured(decisions([("cat", "dog", "elephant"), ("dog", "cat", None)] * 3))
    assert not any(metric.startswith("shape_bias") for metric, _ in found)
    assert found["coverage", None].value == 0
    assert all(math.isfinite(row.value) for row in found.values())
    # The first is what tables show where the headline is missing.
    assert next(iter(found)) == ("coverage", None)


@pytest.mark.parametrize("trials", [[("cat", "cat", "cat")], [("cat", None, "cat")], [(None, "dog", "dog")]])
def test_no_image_in_conflict(trials):
    with pytest.raises(DataError, match="not one of 4 images has a shape and a texture of different classes"):
        shape_bias_measurements(decisions(trials * 4))


def test_a_single_decided_image_has_no_bootstrap():
    found = measured(decisions([("cat", "dog", "cat"), ("dog", "cat", "elephant")]))
    assert found["shape_bias_class_mean", None].low is None
    assert found["shape_bias", None].low is not None


# --- several observers -----------------------------------------------------------------------------------------


def observer(seed, *, n=240, p=0.6, images=True):
    """About images of three classes in turn; one in five decisions follows neither cue."""
    drawn = np.random.default_rng(seed)
    shape = np.arange(n) % 3
    texture = (shape + 1 + np.arange(n) // 3 % 2) % 3
    named = np.where(drawn.random(n) < p, shape, texture)
    named[drawn.random(n) < 0.2] = NONE
    return CueDecisions(
        classes=CLASSES, shape=shape, texture=texture, named=named, images=np.arange(n) if images else None
    )


def test_equal_observers_know_no_more_than_one_of_them():
    one = observer(0)
    many = measured(pooled([one] * 10))
    alone = measured(one)
    for metric in ("shape_bias", "shape_bias_class_mean", "coverage", "shape_accuracy"):
        first, ten = alone[metric, None], many[metric, None]
        assert ten.value == pytest.approx(first.value)
        assert ten.n == first.n
        # The same images ten times over: a bootstrap of images, about as wide as one observer's interval.
        assert (ten.high - ten.low) / (first.high - first.low) == pytest.approx(1, abs=0.12)
        assert ten.interval == "bootstrap95"


def test_observers_that_differ_tell_more_together():
    alone, ten = measured(observer(0)), measured(pooled([observer(seed) for seed in range(10)]))
    width = {name: found["shape_bias", None].high - found["shape_bias", None].low for name, found in
             (("alone", alone), ("ten", ten))}  # fmt: skip
    assert 0.2 < width["ten"] / width["alone"] < 0.45  # 1 / sqrt(10) where observers are independent
    assert ten["shape_bias", None].n == 240


def test_pooled_counts_add_up():
    parts = [observer(seed) for seed in range(4)]
    counts, whole = [part.counts() for part in parts], pooled(parts).counts()
    assert whole.shape == tuple(map(sum, zip(*(found.shape for found in counts), strict=True)))
    assert whole.conflict == tuple(map(sum, zip(*(found.conflict for found in counts), strict=True)))


def test_a_session_repeated_is_no_new_image():
    one = observer(3)
    twice = pooled([one, one])
    assert twice.repeated
    assert not one.repeated
    assert measured(twice)["shape_bias", None].interval == "bootstrap95"


def test_images_that_are_each_of_their_own_are_not_repeated():
    assert not observer(0, images=False).repeated


def test_the_mean_counts_every_observer_alike():
    parts = [observer(0, n=60, p=0.9), observer(1, n=600, p=0.1), observer(2, n=240)]
    biases = [part.counts().bias for part in parts]
    rows = {row.metric: row for row in mean_over_observers(parts)}
    row = rows["shape_bias"]
    assert row.value == pytest.approx(np.mean(biases))
    low, high = scipy.stats.t.interval(0.95, 2, loc=np.mean(biases), scale=scipy.stats.sem(biases))
    assert (row.low, row.high) == pytest.approx((low, high))
    assert (row.n, row.counted, row.interval) == (3, "observers", "t95")
    assert set(rows) == {"shape_bias", "shape_bias_class_mean", "coverage", "shape_accuracy", "accuracy"}


def test_the_mean_passes_over_an_observer_without_a_ratio():
    blank = decisions([("cat", "dog", None)])
    rows = {row.metric: row for row in mean_over_observers([observer(0), blank])}
    assert (rows["shape_bias"].n, rows["shape_bias"].low) == (1, None)
    assert rows["coverage"].n == 2


def test_what_cannot_be_pooled():
    other = decisions([("cat", "dog", "cat")], classes=("cat", "dog"), images=[0])
    for parts in ([observer(0), other], [observer(0), observer(1, images=False)]):
        with pytest.raises(ParameterError, match="can be pooled"):
            pooled(parts)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": np.array([3])}, "shape must be -1 or one of the 3 classes"),
        ({"named": np.array([-2])}, "named must be -1 or one of the 3 classes"),
        ({"texture": np.array([0, 1])}, "texture must be"),
        ({"texture": np.array([0.5])}, "whole numbers"),
        ({"images": np.array([0, 1])}, "1 shapes, but 2 images"),
    ],
)
def test_decisions_are_checked(change, said):
    given = {name: np.array([0]) for name in ("shape", "texture", "named")} | change
    with pytest.raises(ParameterError, match=said):
        CueDecisions(classes=CLASSES, **given)


def test_counts_of_no_images_have_no_ratios():
    counts = CueCounts(classes=("a", "b"), shape=(0, 0), texture=(0, 0), conflict=(0, 0))
    assert counts.bias is counts.class_mean is counts.coverage is counts.shape_accuracy is counts.accuracy is None
    assert counts.lacking == ("a", "b")
