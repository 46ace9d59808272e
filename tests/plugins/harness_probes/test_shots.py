"""The draw of shots: exact, balanced, nested, and that of big_vision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError
from harness_probes.shots import draw_shots, grouping

class_counts = st.lists(st.integers(5, 12), min_size=1, max_size=6)


def shuffled_labels(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@settings(deadline=None)
@given(class_counts, st.integers(0, 1000))
def test_every_seed_and_number_of_shots_has_exactly_k_of_each_class(counts, seed):
    labels = shuffled_labels(counts)
    drawn = draw_shots(labels, shots=(1, 2, 5), seeds=range(seed, seed + 3))
    assert drawn.rows.shape == (3, len(counts), 5)
    for s in range(3):
        for k in (1, 2, 5):
            positions = drawn.positions[drawn.rows[s, :, :k]]
            assert len(np.unique(positions)) == k * len(counts)
            np.testing.assert_array_equal(labels[positions], np.repeat(np.arange(len(counts)), k).reshape(-1, k))


@settings(deadline=None)
@given(class_counts, st.integers(0, 1000))
def test_positions_are_the_rising_union_and_nothing_else(counts, seed):
    drawn = draw_shots(shuffled_labels(counts), shots=(3, 5), seeds=(seed, seed + 1))
    assert (np.diff(drawn.positions) > 0).all()
    np.testing.assert_array_equal(np.unique(drawn.rows), np.arange(len(drawn.positions)))


def test_fewer_shots_are_the_first_of_more():
    labels = shuffled_labels([30, 40, 50])
    many, few = (draw_shots(labels, shots=shots, seeds=(4,)) for shots in ((1, 5, 25), (1, 5)))
    np.testing.assert_array_equal(many.positions[many.rows[0, :, :5]], few.positions[few.rows[0]])


def test_the_draw_is_that_of_big_vision():
    labels = shuffled_labels([30, 26, 41, 33], seed=7)
    drawn = draw_shots(labels, shots=(25,), seeds=(0, 1, 2))
    for s in range(3):
        generator = np.random.default_rng(s)
        for c in range(4):
            expected = generator.permutation([i for i, label in enumerate(labels) if label == c])[:25]
            np.testing.assert_array_equal(drawn.positions[drawn.rows[s, c]], expected)


def test_every_image_of_a_class_is_drawn_equally_often():
    labels = np.repeat([0, 1], 8)
    drawn = draw_shots(labels, shots=(2,), seeds=range(2000))
    times = np.bincount(drawn.positions[drawn.rows].ravel(), minlength=16)
    # 2000 draws of 2 out of 8: mean 500, standard deviation sqrt(2000 * 1/4 * 3/4) = 19.4.
    assert abs(times - 500).max() < 5 * 19.4


def test_a_class_with_too_few_images_is_named_with_what_would_work():
    labels = shuffled_labels([30, 7, 30])
    with pytest.raises(DataError, match=r"fewshot: shots=25 needs .* images of every class; class 1 has 7") as caught:
        draw_shots(labels, shots=(1, 5, 10, 25), seeds=(0,))
    assert caught.value.hint == "fewshot:shots=1+5"
    draw_shots(labels, shots=(1, 5), seeds=(0,))


def test_errors_speak_in_the_name_of_the_probe():
    with pytest.raises(DataError, match=r"linear: per_class=25 needs .* class 1 has 7") as caught:
        draw_shots(shuffled_labels([30, 7]), shots=(25,), seeds=(0,), probe="linear", parameter="per_class")
    assert caught.value.hint == "linear:per_class=7"
    with pytest.raises(DataError, match="linear: the support split is empty"):
        draw_shots(np.empty(0, np.int64), shots=(1,), seeds=(0,), probe="linear")


@settings(deadline=None)
@given(class_counts, st.integers(0, 1000), st.integers(1, 6))
def test_validation_images_are_shots_of_no_seed_and_as_many_as_there_are(counts, seed, wanted):
    counts = [count + 6 for count in counts]
    labels = shuffled_labels(counts)
    drawn = draw_shots(labels, shots=(1, 3), seeds=(seed, seed + 1), validation=wanted)
    shots, validation = np.unique(drawn.rows), drawn.validation
    assert not np.isin(validation, shots).any()
    np.testing.assert_array_equal(np.union1d(shots, validation), np.arange(len(drawn.positions)))
    assert (np.diff(drawn.positions) > 0).all()
    for c, count in enumerate(counts):
        left = count - (labels[drawn.positions[shots]] == c).sum()
        assert (labels[drawn.positions[validation]] == c).sum() == min(wanted, left)


def test_the_shots_do_not_depend_on_the_validation_images():
    labels = shuffled_labels([20, 25])
    plain, more = (draw_shots(labels, shots=(4,), seeds=(0, 1), validation=v) for v in (0, 5))
    np.testing.assert_array_equal(plain.positions[plain.rows], more.positions[more.rows])
    assert not len(plain.validation)
    other = draw_shots(labels, shots=(4,), seeds=(2, 3), validation=5)
    assert set(more.positions[more.validation]) != set(other.positions[other.validation])


def test_no_image_left_to_choose_on_is_an_error_that_says_what_to_do():
    labels = shuffled_labels([30, 5])
    with pytest.raises(DataError, match="the 5 of class 1 are all shots") as caught:
        draw_shots(labels, shots=(1, 5), seeds=(0,), validation=10)
    assert "ridge_lambda=1024" in caught.value.hint
    draw_shots(labels, shots=(1, 4), seeds=(0,), validation=10)


def test_a_class_without_any_image_is_passed_over():
    drawn = draw_shots(np.array([0, 0, 2, 2]), shots=(1,), seeds=(0,))
    assert drawn.rows.shape == (1, 2, 1)
    assert (np.array([0, 0, 2, 2])[drawn.positions[drawn.rows[0, :, 0]]] == [0, 2]).all()


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="empty"):
        draw_shots(np.empty(0, np.int64), shots=(1,), seeds=(0,))


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.permutations(range(5)))
def test_grouping_ignores_names_only(labels, names):
    labels, names = np.array(labels), np.array(names)
    assert grouping(labels) == grouping(names[labels])
    if len(set(labels.tolist())) > 1:
        merged = np.where(labels == labels[0], next(label for label in labels if label != labels[0]), labels)
        assert grouping(labels) != grouping(merged)
