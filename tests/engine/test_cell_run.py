"""A cell's counters: merged in any order and serialised, they say the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from engine_doubles.data import CountingDataset
from engine_doubles.models import VIEW
from engine_doubles.probes import Fitted, HeadRun, PixelRun
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cell_run import CellRun
from harness.errors import DataError
from harness.types import ModelOutputs

WHOLE = CountingDataset().load("query", list(range(33)), VIEW)
LOGITS = torch.from_numpy(np.random.default_rng(3).normal(size=(33, 3)))


def part(rows, *, realised=True):
    batch = CountingDataset().load("query", list(rows), VIEW)
    loss = {"information_loss": torch.tensor([float(row) / 7 for row in rows], dtype=torch.float64)} if realised else {}
    return batch.with_images(batch.images, **loss), ModelOutputs(logits={"head": LOGITS[list(rows)]})


def counted(fitted, *batches, **given):
    run = CellRun(fitted)
    for rows in batches:
        run.update(*part(rows, **given), None)
    return run


def facts(run):
    return (
        [row.as_dict() for row in run.result()],
        {name: values.tolist() for name, values in run.realised().items()},
        run.probe.outcomes().positions.tolist(),
    )


REFERENCE = facts(counted(Fitted(HeadRun), range(33)))


def test_the_mean_of_what_was_realised_stands_beside_the_probes_numbers():
    rows, realised, _ = REFERENCE
    assert [row["metric"] for row in rows] == ["accuracy", "information_loss"]
    assert rows[1]["value"] == pytest.approx(16 / 7)
    assert rows[1]["n"] == 33
    assert rows[1]["higher_is_better"] is None
    assert realised["information_loss"] == [row / 7 for row in range(33)]


def test_what_names_a_group_is_kept_but_is_no_measurement():
    run = CellRun(Fitted(HeadRun))
    batch = WHOLE.with_images(WHOLE.images, mask_group=torch.arange(33) // 8, information_loss=torch.full((33,), 0.5))
    run.update(batch, ModelOutputs(logits={"head": LOGITS}), None)
    rows = run.result()
    assert [row.metric for row in rows] == ["accuracy", "information_loss"]
    # Images of a group share a mask: an interval that takes them for independent would be too narrow.
    assert (rows[0].low, rows[0].high, rows[0].interval) == (None, None, None)
    assert run.realised()["mask_group"].tolist() == [row // 8 for row in range(33)]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(33)), st.lists(st.integers(1, 32), max_size=6, unique=True), st.booleans())
def test_order_batches_and_shards_do_not_matter(order, cuts, serialised):
    fitted = Fitted(HeadRun)
    edges = [0, *sorted(cuts), 33]
    total = CellRun(fitted)
    for start, stop in itertools.pairwise(edges):
        shard = counted(fitted, *(order[row : min(row + 5, stop)] for row in range(start, stop, 5)))
        if serialised:
            again = CellRun(fitted)
            again.load_state_dict({name: np.array(array) for name, array in shard.state_dict().items()})
            shard = again
        total.merge(shard)
    assert facts(total) == REFERENCE


def test_many_merges_keep_every_value():
    fitted = Fitted(HeadRun)
    total = CellRun(fitted)
    for row in range(33):
        total.merge(counted(fitted, [row]))
        total.merge(CellRun(fitted))
        total.merge(CellRun(fitted))
    assert facts(total) == REFERENCE


def test_a_state_holds_arrays_alone_and_goes_on():
    run = counted(Fitted(HeadRun), range(20))
    state = run.state_dict()
    assert all(isinstance(array, np.ndarray) for array in state.values())
    again = CellRun(Fitted(HeadRun))
    again.load_state_dict(state)
    again.update(*part(range(20, 33)), None)
    assert facts(again) == REFERENCE
    assert len(run.probe.outcomes().positions) == 20


def test_nothing_realised_is_nothing_shown():
    run = counted(Fitted(HeadRun), range(33), realised=False)
    assert run.realised() == {}
    assert [row.metric for row in run.result()] == ["accuracy"]
    again = CellRun(Fitted(HeadRun))
    again.load_state_dict(run.state_dict())
    assert again.realised() == {}


def test_an_image_counted_twice_is_found():
    run = counted(Fitted(HeadRun), range(5))
    with pytest.raises(DataError, match="position"):
        run.merge(counted(Fitted(HeadRun), range(4, 9)))


def test_the_digest_of_pixels_sees_one_changed_bit():
    batch, outputs = part(range(4))
    changed = batch.images.clone()
    changed[2, 0, 3, 3] = (changed[2, 0, 3, 3] + 1 / 255).clamp(max=1)
    digests = []
    for images in (batch.images, changed):
        run = CellRun(Fitted(PixelRun))
        run.update(batch.with_images(images), outputs, None)
        digests.append(run.probe.outcomes().columns["digest"][0])
    assert (digests[0] != digests[1]).tolist() == [False, False, True, False]
