"""Batches in order, from any number of threads, of the size in force."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from engine_doubles.data import CountingDataset
from engine_doubles.models import VIEW
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DataError
from harness.loader import BatchSize, load_batches, split_batch, take


def loaded(dataset, positions, *, size=4, workers=0):
    positions = np.array(positions, dtype=np.int64)
    return list(load_batches(dataset, "query", positions, VIEW, batch_size=BatchSize(size), workers=workers))


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 33, 100])
def test_pixels_and_order_do_not_depend_on_workers_and_batch_size(dataset, workers, size):
    positions = np.random.default_rng(0).permutation(33)
    batches = loaded(dataset, positions, size=size, workers=workers)
    assert [taken for taken, _ in batches] == [min(size, 33 - start) for start in range(0, 33, size)]
    assert np.concatenate([batch.positions for _, batch in batches]).tolist() == positions.tolist()
    reference = CountingDataset().load("query", positions.tolist(), VIEW)
    assert torch.equal(torch.cat([batch.images for _, batch in batches]), reference.images)
    assert sum((batch.ids for _, batch in batches), ()) == reference.ids
    assert sorted(p for _, p in dataset.loaded) == list(range(33))


def test_no_workers_decode_in_the_calling_thread_and_others_ahead_of_it(dataset):
    loaded(dataset, range(8))
    assert dataset.threads == {threading.current_thread().name}
    dataset.threads.clear()
    loaded(dataset, range(8), workers=2)
    assert dataset.threads
    assert all(name.startswith("harness-decode") for name in dataset.threads)


def test_decoding_stays_at_most_one_batch_a_worker_ahead(dataset):
    batches = load_batches(dataset, "query", np.arange(33), VIEW, batch_size=BatchSize(2), workers=2)
    next(batches)
    batches.close()
    assert len(dataset.loaded) <= 2 * (2 + 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_smaller_batch_size_holds_for_what_is_loaded_from_then_on(dataset, workers):
    size = BatchSize(8)
    lengths = []
    for taken, _ in load_batches(dataset, "query", np.arange(33), VIEW, batch_size=size, workers=workers):
        lengths.append(taken)
        size.value = 3
    assert sum(lengths) == 33
    assert lengths[0] == 8
    assert set(lengths[1 + workers : -1]) == {3}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_raised_by_name_in_its_turn(workers):
    dataset = CountingDataset(unreadable=[("query", 9)])
    batches = load_batches(dataset, "query", np.arange(33), VIEW, batch_size=BatchSize(4), workers=workers)
    assert [next(batches)[0], next(batches)[0]] == [4, 4]
    with pytest.raises(DataError, match="query-000009"):
        next(batches)


def test_a_skipped_image_is_consumed_all_the_same():
    dataset = CountingDataset(unreadable=[("query", 5)], skip=True)
    batches = loaded(dataset, range(8))
    assert [(taken, len(batch)) for taken, batch in batches] == [(4, 4), (4, 3)]


@given(st.integers(1, 20), st.integers(1, 25))
def test_a_split_batch_is_the_same_batch_in_parts(images, size):
    batch = CountingDataset().load("query", list(range(images)), VIEW)
    batch = batch.with_images(batch.images, loss=torch.arange(images).double())
    parts = split_batch(batch, size)
    assert all(0 < len(part) <= size for part in parts)
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert torch.cat([part.realised["loss"] for part in parts]).tolist() == list(range(images))
    assert sum((part.ids for part in parts), ()) == batch.ids
    assert np.concatenate([part.positions for part in parts]).tolist() == list(range(images))


def test_a_part_keeps_masks_and_columns(dataset):
    from dataclasses import replace

    batch = dataset.load("query", [3, 4, 5], VIEW)
    batch = replace(
        batch, masks=torch.eye(3, dtype=torch.bool)[:, None, :], columns={"texture": torch.tensor([7, 8, 9])}
    )
    part = take(batch, slice(1, 3))
    assert part.masks.tolist() == batch.masks[1:].tolist()
    assert part.columns["texture"].tolist() == [8, 9]
    assert part.labels.tolist() == batch.labels[1:].tolist()


def test_halving_ends_at_one_image():
    size = BatchSize(7)
    assert [(size.halve(size.value), size.value) for _ in range(4)] == [(True, 4), (True, 2), (True, 1), (False, 1)]
    size.restore()
    assert size.value == 7


def test_halving_goes_by_the_batch_that_was_too_large():
    size = BatchSize(32)
    assert size.halve(3)
    assert size.value == 2
