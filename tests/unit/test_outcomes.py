"""The log of per-image outcomes against a dictionary, in any batching, order, sharding and after any resume."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from harness.errors import DataError, HarnessError, ParameterError
from harness.outcomes import OutcomeLog
from harness.protocols import Outcomes

VARIANTS = ({"shots": 1}, {"shots": 5})
COLUMNS = {"prediction": np.int32, "correct": np.bool_}


def make() -> OutcomeLog:
    return OutcomeLog(variants=VARIANTS, columns=COLUMNS)


def rows(positions) -> dict[str, np.ndarray]:
    """Outcomes that are a function of the position, so that any mix-up shows."""
    positions = np.asarray(positions, np.int64)
    prediction = np.stack([positions * 7 % 1000, positions * 11 % 1000])
    return {"prediction": prediction, "correct": prediction % 3 == 0}


def log_of(*batches) -> OutcomeLog:
    log = make()
    for batch in batches:
        log.update(np.asarray(batch, np.int64), rows(batch))
    return log


def assert_holds(table: Outcomes, positions) -> None:
    wanted = np.sort(np.asarray(positions, np.int64))
    assert table.positions.dtype == np.int64
    np.testing.assert_array_equal(table.positions, wanted)
    for name, column in rows(wanted).items():
        np.testing.assert_array_equal(table.columns[name], column)
        assert table.columns[name].dtype == COLUMNS[name]
    assert table.variants == VARIANTS


positions_in_any_order = st.lists(st.integers(0, 2**31 - 1), unique=True, max_size=60)


@given(positions_in_any_order, st.lists(st.integers(0, 60), max_size=5))
def test_any_batching_and_order_gives_the_same_table(positions, cuts):
    edges = [0, *sorted(min(cut, len(positions)) for cut in cuts), len(positions)]
    batches = [positions[a:b] for a, b in pairwise(edges)]
    assert_holds(log_of(*batches).table(), positions)


@given(positions_in_any_order, st.integers(0, 60))
def test_merged_shards_equal_one_stream(positions, cut):
    left, right = log_of(positions[:cut]), log_of(positions[cut:])
    left.merge(right)
    assert len(left) == len(positions)
    assert_holds(left.table(), positions)
    assert_holds(right.table(), positions[cut:])


@given(positions_in_any_order, st.integers(0, 60))
def test_a_resumed_log_goes_on_where_it_stopped(positions, cut):
    resumed = make()
    resumed.load_state_dict(load(save(log_of(positions[:cut]).state_dict())))
    resumed.update(np.asarray(positions[cut:], np.int64), rows(positions[cut:]))
    assert_holds(resumed.table(), positions)


def test_a_log_never_aliases_what_it_was_given_or_gave():
    positions, values = np.arange(4), rows(np.arange(4))
    log = make()
    log.update(positions, values)
    state = log.state_dict()
    other = make()
    other.load_state_dict(state)
    for array in (positions, *values.values(), *state.values()):
        array[...] = 0
    for array in log.table().columns.values():
        array[...] = 0
    assert_holds(log.table(), np.arange(4))
    assert_holds(other.table(), np.arange(4))


def held_bytes(log: OutcomeLog) -> int:
    """What the arrays of a log take, room that is not yet filled included."""
    return sum(block.nbytes for block in log._blocks)


@pytest.mark.parametrize("batch", [1, 7, 32, 5000, 100_000])
@pytest.mark.parametrize(("step", "position_bytes"), [(1, 0), (3, 4)])
def test_a_log_takes_its_columns_and_positions_only_where_they_have_gaps(batch, step, position_bytes):
    n = 30_000
    log = OutcomeLog(variants=({},), columns={**COLUMNS, "correct_top5": np.bool_})
    buffers = {}
    for start in range(0, n, batch):
        positions = np.arange(start, min(start + batch, n)) * step
        prediction = positions[None] * 7 % 10
        values = {"prediction": prediction, "correct": prediction == 3, "correct_top5": prediction < 5}
        log.update(positions, values)
        for place, block in enumerate(log._blocks):
            address = block.filled_columns()["prediction"].ctypes.data
            if block.capacity > batch > 1:
                assert buffers.setdefault(place, address) == address
    assert held_bytes(log) <= (6 + position_bytes) * (n + 8192)
    assert len(log._blocks) <= 20
    assert sum(array.nbytes for array in log.state_dict().values()) == 10 * n


@given(st.lists(st.sampled_from([0.25, 0.5, np.nan]), max_size=40), st.integers(1, 9))
def test_columns_of_few_values_come_back(values, batch):
    column = np.array([values, [0.75] * len(values)])
    log = OutcomeLog(variants=VARIANTS, columns={"loss": np.float64})
    for start in range(0, len(values), batch):
        part = column[:, start : start + batch]
        log.update(np.arange(start, start + part.shape[1]), {"loss": part})
    np.testing.assert_array_equal(log.table().columns["loss"], column)
    again = OutcomeLog(variants=VARIANTS, columns={"loss": np.float64})
    again.load_state_dict(log.state_dict())
    np.testing.assert_array_equal(again.table().columns["loss"], column)


def test_a_column_of_one_value_takes_no_memory():
    log = OutcomeLog(variants=({},), columns={"information_loss": np.float64})
    for start in range(0, 20_000, 250):
        log.update(np.arange(start, start + 250), {"information_loss": np.full((1, 250), 0.5)})
    assert held_bytes(log) < 1000
    log.update(np.array([20_000]), {"information_loss": np.array([[0.25]])})
    assert log.table().columns["information_loss"].sum() == 10_000.25


def test_a_gap_in_a_block_is_kept():
    log = log_of([5], [6], [7], [9, 10], [3])
    assert_holds(log.table(), [5, 6, 7, 9, 10, 3])
    assert log.state_dict()["positions"].tolist() == [5, 6, 7, 9, 10, 3]


@pytest.mark.parametrize("batches", [([3, 1, 3],), ([1, 2], [9, 2])])
def test_a_position_logged_twice_is_an_error(batches):
    with pytest.raises(DataError, match=r"position [23] logged more than once"):
        log_of(*batches).table()


def test_merging_what_overlaps_is_an_error_and_changes_nothing():
    left = log_of([1, 2, 3])
    with pytest.raises(DataError, match="positions 2, 3"):
        left.merge(log_of([2, 3, 4]))
    assert_holds(left.table(), [1, 2, 3])


@pytest.mark.parametrize(
    "other",
    [
        OutcomeLog(variants=({"shots": 1}, {"shots": 10}), columns=COLUMNS),
        OutcomeLog(variants=VARIANTS, columns={"prediction": np.int32}),
        OutcomeLog(variants=VARIANTS, columns={**COLUMNS, "prediction": np.int64}),
    ],
)
def test_merging_another_layout_is_an_error(other):
    with pytest.raises(ParameterError, match="cannot merge"):
        make().merge(other)


@pytest.mark.parametrize(
    ("positions", "values"),
    [
        (np.arange(2), {"prediction": np.zeros((2, 2), int)}),
        (np.arange(2), {"prediction": np.zeros((2, 3), int), "correct": np.zeros((2, 2), bool)}),
        (np.arange(2), {"prediction": np.zeros(2, int), "correct": np.zeros((2, 2), bool)}),
        (np.arange(2), {"prediction": np.zeros((2, 2)), "correct": np.zeros((2, 2), bool)}),
        (np.arange(2), {"prediction": np.zeros((2, 2), int), "correct": np.zeros((2, 2))}),
        (np.array([0, -1]), {"prediction": np.zeros((2, 2), int), "correct": np.zeros((2, 2), bool)}),
        (np.array([0, 2**31]), {"prediction": np.zeros((2, 2), int), "correct": np.zeros((2, 2), bool)}),
        (np.array([0.0, 1.0]), {"prediction": np.zeros((2, 2), int), "correct": np.zeros((2, 2), bool)}),
    ],
)
def test_wrong_columns_shapes_types_and_positions_are_refused(positions, values):
    log = make()
    with pytest.raises(ParameterError):
        log.update(positions, values)
    assert len(log) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("column.correct"),
        lambda state: state.update(extra=np.zeros(3)),
        lambda state: state.update({"column.correct": state["column.correct"][:1]}),
        lambda state: state.update(positions=state["positions"].astype(np.int64)),
        lambda state: state.update({"column.prediction": state["column.prediction"].astype(np.int64)}),
    ],
)
def test_a_state_of_another_layout_is_refused_whole(spoil):
    state = log_of([5, 6]).state_dict()
    spoil(state)
    log = log_of([1])
    with pytest.raises(HarnessError, match="checkpoint"):
        log.load_state_dict(state)
    assert_holds(log.table(), [1])


@pytest.mark.parametrize(
    ("variants", "columns"),
    [((), COLUMNS), (({}, {}), COLUMNS), (VARIANTS, {}), (VARIANTS, {"name": np.dtype("U3")})],
)
def test_layouts_that_make_no_sense_are_refused(variants, columns):
    with pytest.raises(ParameterError):
        OutcomeLog(variants=variants, columns=columns)


def test_an_empty_log_has_an_empty_table():
    assert_holds(make().table(), [])
