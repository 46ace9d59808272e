"""A limit: how many images it means, and which."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.protocols import SplitIndex
from harness.sampling import limit_count, stratified


def index_of(labels) -> SplitIndex:
    return SplitIndex(ids=[f"image-{i:04d}" for i in range(len(labels))], labels=np.array(labels, dtype=np.int64))


@pytest.mark.parametrize(
    ("limit", "total", "count"),
    [
        (None, 100, None),
        (10, 100, 10),
        ("10", 100, 10),
        (10.0, 100, 10),
        (0.1, 100, 10),
        ("0.25", 10, 2),
        (1e-9, 10, 1),
        (0.999, 10, None),
        (100, 100, None),
        (101, 100, None),
        (1, 100, 1),
    ],
)
def test_a_limit_is_a_count_or_a_share(limit, total, count):
    assert limit_count(limit, total) == count


@pytest.mark.parametrize("limit", [0, -1, -0.5, 1.5, "", " ", "ten", "10%", "nan", "inf", float("inf"), float("nan")])
def test_a_limit_that_means_nothing_is_refused(limit):
    with pytest.raises(UsageError, match="limit must be a number of images or a fraction below 1"):
        limit_count(limit, 100)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60))
def test_classes_differ_by_one_image_where_they_have_enough(labels, limit):
    chosen = stratified(index_of(labels), limit)
    assert len(chosen) == min(limit, len(labels))
    assert np.all(np.diff(chosen) > 0)
    have, got = Counter(labels), Counter(np.array(labels)[chosen].tolist())
    most = max(got.values())
    assert all(got[c] == have[c] or got[c] >= most - 1 for c in have)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60), st.integers(1, 60))
def test_a_larger_limit_holds_a_smaller_one(labels, one, other):
    small, large = (set(stratified(index_of(labels), n).tolist()) for n in sorted((one, other)))
    assert small <= large


def test_a_sorted_folder_is_not_read_as_a_prefix():
    chosen = stratified(index_of([0] * 50 + [1] * 50), 10)
    assert not set(chosen.tolist()) <= set(range(10)) | set(range(50, 60))


def test_the_first_classes_have_no_advantage_where_not_all_get_one():
    labels = np.repeat(np.arange(10), 5)
    assert set(labels[stratified(index_of(labels), 5)].tolist()) != set(range(5))


def test_who_is_chosen_follows_the_id_and_not_the_place():
    index = index_of([0] * 30 + [1] * 30)
    turned = SplitIndex(ids=list(index.ids)[::-1], labels=index.labels[::-1])
    ids = {index.ids[i] for i in stratified(index, 12)}
    assert {turned.ids[i] for i in stratified(turned, 12)} == ids


def test_no_limit_is_every_image_in_order():
    assert stratified(index_of([1, 0, 1]), None).tolist() == [0, 1, 2]
