"""The keyed division into support and query, and the roles of named splits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_datasets.splits import QUERIES, roles, support_rows


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5), percent=st.integers(0, 100))
def test_each_class_gives_its_share_rounded_up_but_never_all(sizes, percent):
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)
    ids = [f"{label}/{i}" for i, label in enumerate(labels)]
    support = support_rows(ids, labels, percent / 100, stream="t")
    for label, size in zip(np.arange(len(sizes)) * 3, sizes, strict=True):
        assert support[labels == label].sum() == min(-(-percent * size // 100), size - 1)


@given(order=st.permutations(range(12)))
def test_the_order_of_the_images_does_not_matter(order):
    ids = [f"image {i}" for i in range(12)]
    labels = np.arange(12) % 2
    chosen = {ids[i] for i in np.flatnonzero(support_rows(ids, labels, 0.5, stream="t"))}
    again = support_rows([ids[i] for i in order], labels[list(order)], 0.5, stream="t")
    assert {ids[order[i]] for i in np.flatnonzero(again)} == chosen


@given(n=st.integers(1, 30), added=st.text(min_size=1, max_size=5))
def test_an_added_image_moves_at_most_one_other(n, added):
    ids = [f"image {i}" for i in range(n)]
    labels = np.zeros(n, dtype=np.int64)
    before = set(np.flatnonzero(support_rows(ids, labels, 0.5, stream="t")).tolist())
    grown = support_rows([*ids, added], np.zeros(n + 1, dtype=np.int64), 0.5, stream="t")
    after = set(np.flatnonzero(grown[:n]).tolist())
    assert len(before ^ after) <= 1


def test_other_classes_are_not_touched():
    ids = [f"image {i}" for i in range(20)]
    labels = np.repeat([0, 1], 10)
    before = support_rows(ids, labels, 0.5, stream="t")
    after = support_rows([*ids, "more"], np.append(labels, 1), 0.5, stream="t")
    np.testing.assert_array_equal(before[:10], after[:10])


def test_the_division_looks_random_and_depends_on_the_stream():
    ids = [f"image {i}" for i in range(2000)]
    labels = np.zeros(2000, dtype=np.int64)
    one, other = (support_rows(ids, labels, 0.5, stream=stream) for stream in ("a", "b"))
    assert abs((one == other).mean() - 0.5) < 5 * math.sqrt(0.25 / 2000)
    assert abs(one[:1000].mean() - 0.5) < 5 * math.sqrt(0.25 / 1000)


@pytest.mark.parametrize(
    ("names", "support", "query"),
    [
        (("train", "val"), "train", "val"),
        (("train", "test"), "train", "test"),
        (("train", "val", "test"), "train", "val"),
        (("train", "valid"), "train", "valid"),
        (("validation", "test", "train"), "train", "validation"),
        (("val", "test"), None, "val"),
    ],
)
def test_roles(names, support, query):
    found = roles(names)
    assert (found.support, found.query) == (support, query)
    assert query in QUERIES
