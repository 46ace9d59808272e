"""The held-out part of the support images: stratified, keyed by the seed, and blind to names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError
from harness_probes.held_out import LinearProblem, is_held_out

counts_of_classes = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def labels_of(counts) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@settings(max_examples=40, deadline=None)
@given(counts_of_classes, st.sampled_from([0.01, 0.2, 0.5, 0.9]), st.integers(0, 99))
def test_every_class_gives_its_share_but_keeps_an_image(counts, share, seed):
    labels = labels_of(counts)
    out = is_held_out(labels, share, seed)
    for label, m in enumerate(counts):
        found = int(out[labels == label].sum())
        assert found <= m - 1
        if m > 1:
            assert found >= 1
        if 1 <= share * m <= m - 1:
            assert abs(found - share * m) <= 0.5


@settings(max_examples=30, deadline=None)
@given(counts_of_classes, st.permutations(range(6)), st.integers(0, 99))
def test_names_of_classes_do_not_matter(counts, names, seed):
    labels = labels_of(counts)
    np.testing.assert_array_equal(is_held_out(labels, 0.3, seed), is_held_out(np.array(names)[labels], 0.3, seed))


def test_seeds_hold_out_other_images_and_all_of_them_equally_often():
    labels = np.repeat([0, 1], 10)
    times = np.sum([is_held_out(labels, 0.3, seed) for seed in range(1000)], axis=0)
    # 1000 draws of 3 out of 10: mean 300, standard deviation sqrt(1000 * 0.3 * 0.7) = 14.5.
    assert abs(times - 300).max() < 5 * 14.5


def test_split_gives_rows_of_the_table_or_says_how_to_do_without():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 1])
    rows = np.array([1, 2, 3, 5, 6, 9])
    problem = LinearProblem(features=np.zeros((10, 2), np.float32), labels=labels, rows=rows, num_classes=2, seed=0)
    training, held_out = problem.split(0.34, otherwise="give c=1")
    np.testing.assert_array_equal(np.sort(np.concatenate([training, held_out])), rows)
    np.testing.assert_array_equal(np.bincount(labels[held_out]), [1, 1])
    single = LinearProblem(
        features=np.zeros((10, 2), np.float32), labels=labels, rows=np.array([0, 5]), num_classes=2, seed=0
    )
    with pytest.raises(DataError, match="no support image can be held out") as caught:
        single.split(0.5, otherwise="give c=1")
    assert caught.value.hint.startswith("give c=1")
