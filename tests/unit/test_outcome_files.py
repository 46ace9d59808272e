"""Outcome files: what pandas sees, exact round trips, bounded memory, damaged and foreign files."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import outcome_files
from harness.errors import ParameterError, PluginError, RecordsError
from harness.outcome_files import open_outcomes, outcome_path, read_outcomes, write_outcomes
from harness.protocols import Outcomes
from harness.types import Ids, JSONScalar

KEY = "0123456789abcdef" * 4
IDS = [f"class_{i % 3}/{i:04d}.png" for i in range(10)]
LABELS = np.arange(10, dtype=np.int64) % 3


def make_outcomes(
    variants: tuple[dict[str, JSONScalar], ...] = ({},), positions: Sequence[int] = (1, 4, 7)
) -> Outcomes:
    shape = (len(variants), len(positions))
    count = shape[0] * shape[1]
    return Outcomes(
        positions=np.array(positions, dtype=np.int64),
        variants=variants,
        columns={
            "prediction": np.arange(count, dtype=np.int32).reshape(shape),
            "correct": (np.arange(count) % 3 == 0).reshape(shape),
            "margin": np.linspace(-1, 1, count, dtype=np.float32).reshape(shape),
        },
    )


def assert_same(found: Outcomes, expected: Outcomes) -> None:
    np.testing.assert_array_equal(found.positions, expected.positions)
    assert found.positions.dtype == np.int64
    assert found.variants == expected.variants
    assert list(found.columns) == list(expected.columns)
    for name, values in expected.columns.items():
        assert found.columns[name].dtype == values.dtype
        np.testing.assert_array_equal(found.columns[name], values)


# --- for people ------------------------------------------------------------------------------------------------


def test_a_pandas_user_finds_a_row_per_variant_and_image(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    variants: tuple[dict[str, JSONScalar], ...] = ({"shots": 1, "head": "cls"}, {"shots": 5, "head": "dist"})
    outcomes = make_outcomes(variants)
    path = write_outcomes(
        tmp_path, KEY, outcomes, IDS, labels=LABELS, realised={"information_loss": np.array([0.5, 0.25, 0.125])}
    )
    assert path == tmp_path / "outcomes" / "0123456789abcdef.parquet"
    table = pandas.read_parquet(path)
    assert list(table.columns) == [
        "id",
        "position",
        "label",
        "shots",
        "head",
        "prediction",
        "correct",
        "margin",
        "information_loss",
    ]
    assert table["id"].tolist() == [IDS[1], IDS[4], IDS[7]] * 2
    assert table["label"].tolist() == [1, 1, 1] * 2
    assert table["shots"].tolist() == [1, 1, 1, 5, 5, 5]
    assert table["head"].tolist() == ["cls"] * 3 + ["dist"] * 3
    assert table["information_loss"].tolist() == [0.5, 0.25, 0.125] * 2
    assert str(table["prediction"].dtype) == "int32"
    assert str(table["label"].dtype) == "int32"
    assert str(table["information_loss"].dtype) == "float32"
    assert table.groupby("shots")["correct"].mean().tolist() == outcomes.columns["correct"].mean(axis=1).tolist()


def test_dims_that_not_every_variant_has_are_empty_there(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    variants: tuple[dict[str, JSONScalar], ...] = ({"k": 1}, {"k": 0.5, "flag": True}, {"flag": None})
    write_outcomes(tmp_path, KEY, make_outcomes(variants), IDS)
    table = pandas.read_parquet(outcome_path(tmp_path, KEY))
    assert table["k"].tolist()[:6] == [1.0] * 3 + [0.5] * 3
    assert table["k"].isna().tolist() == [False] * 6 + [True] * 3
    assert read_outcomes(tmp_path, KEY).outcomes.variants == variants


# --- back again ------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_outcomes_come_back_as_they_were(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("outcomes")
    kind = data.draw(st.sampled_from([st.integers(-5, 5), st.text(max_size=3), st.booleans(), st.floats(0, 1)]))
    given_dims = data.draw(st.lists(kind, min_size=1, max_size=4, unique_by=repr))
    variants: tuple[dict[str, JSONScalar], ...] = tuple({"dim": value} for value in given_dims)
    positions = sorted(data.draw(st.sets(st.integers(0, 20), max_size=8)))
    ids = data.draw(st.lists(st.text(max_size=5), min_size=21, max_size=21))
    outcomes = make_outcomes(variants, positions)
    realised = {"information_loss": np.linspace(0, 1, len(positions))}
    rows_at_once = data.draw(st.sampled_from([1, 2, 3, 65536]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome_files, "_ROWS_AT_ONCE", rows_at_once)
        write_outcomes(folder, KEY, outcomes, ids, labels=range(21), realised=realised)
        stored = read_outcomes(folder, KEY)
    assert_same(stored.outcomes, outcomes)
    assert list(stored.ids) == [ids[p] for p in positions]
    assert stored.labels is not None
    assert stored.labels.tolist() == positions
    np.testing.assert_array_equal(stored.realised["information_loss"], realised["information_loss"].astype(np.float32))


def test_logits_come_back_by_variant(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    outcomes = make_outcomes(({"head": "cls"}, {"head": "dist"}))
    write_outcomes(tmp_path, KEY, outcomes, IDS, logits=logits)
    stored = read_outcomes(tmp_path, KEY)
    assert stored.logits is not None
    np.testing.assert_array_equal(stored.logits, logits)
    assert stored.labels is None
    assert_same(stored.outcomes, outcomes)


def test_the_view_of_a_summary_holds_what_was_realised_for_every_variant(tmp_path: Path) -> None:
    outcomes = make_outcomes(({"shots": 1}, {"shots": 5}))
    write_outcomes(tmp_path, KEY, outcomes, IDS, realised={"information_loss": np.array([0.5, 0.25, 0.125])})
    seen = read_outcomes(tmp_path, KEY).with_realised
    assert seen.columns["information_loss"].tolist() == [[0.5, 0.25, 0.125]] * 2
    np.testing.assert_array_equal(seen.columns["correct"], outcomes.columns["correct"])


def test_the_view_of_a_summary_holds_the_classes_of_the_images(tmp_path: Path) -> None:
    outcomes = make_outcomes(({"shots": 1}, {"shots": 5}))
    labels = np.random.default_rng(0).integers(0, 1000, len(IDS))
    write_outcomes(tmp_path, KEY, outcomes, IDS, labels=labels)
    expected = [labels[outcomes.positions].tolist()] * 2
    for seen in (read_outcomes(tmp_path, KEY).with_realised, open_outcomes(tmp_path, KEY)):
        assert seen.columns["label"].tolist() == expected
        assert set(seen.columns) == {*outcomes.columns, "label"}
    assert "label" not in read_outcomes(tmp_path, KEY).outcomes.columns


def test_columns_read_when_asked_for_are_those_read_at_once(tmp_path: Path) -> None:
    outcomes = make_outcomes(({"shots": 1}, {"shots": 5}))
    write_outcomes(tmp_path, KEY, outcomes, IDS, realised={"information_loss": np.array([0.5, 0.25, 0.125])})
    found = open_outcomes(tmp_path, KEY)
    assert_same(found, read_outcomes(tmp_path, KEY).with_realised)
    assert "information_loss" in found.columns
    assert "margin" in found.columns
    assert found.columns.get("id") is None
    assert len(found.columns) == 4
    # A probe's column that is worked on row by row is read once.
    assert found.columns["correct"] is found.columns["correct"]
    outcome_path(tmp_path, KEY).unlink()
    np.testing.assert_array_equal(found.columns["correct"], outcomes.columns["correct"])
    with pytest.raises(RecordsError, match="missing"):
        found.columns["margin"]


def test_not_a_number_stays_what_it_is(tmp_path: Path) -> None:
    outcomes = make_outcomes()
    outcomes.columns["margin"][0, 1] = np.nan
    write_outcomes(tmp_path, KEY, outcomes, IDS)
    assert np.isnan(read_outcomes(tmp_path, KEY).outcomes.columns["margin"]).tolist() == [[False, True, False]]


class Counted(Sequence[str]):
    """A million ids that are made when asked for."""

    def __len__(self) -> int:
        return 10**6

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        assert isinstance(index, int)
        return f"val/ILSVRC2012_val_{index:08d}.JPEG"


def test_memory_does_not_hold_every_id(tmp_path: Path) -> None:
    count = 300_000
    outcomes = Outcomes(
        positions=np.arange(count, dtype=np.int64),
        variants=({},),
        columns={"correct": np.zeros((1, count), bool)},
    )
    write_outcomes(tmp_path, KEY, make_outcomes(), IDS)  # pyarrow is loaded
    tracemalloc.start()
    try:
        write_outcomes(tmp_path, KEY, outcomes, Counted())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        stored = read_outcomes(tmp_path, KEY)
        read_peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    as_objects = count * (33 + 49 + 8)
    assert peak < as_objects / 2
    assert read_peak < as_objects * 1.5  # what it returns is a third of that
    assert stored.ids[count - 1] == Counted()[count - 1]
    assert isinstance(stored.ids, Ids)
    assert outcome_path(tmp_path, KEY).stat().st_size < 6 * count


# --- what cannot be --------------------------------------------------------------------------------------------


def test_ids_of_another_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="position 7 of a split with 3 ids"):
        write_outcomes(tmp_path, KEY, make_outcomes(), IDS[:3])
    with pytest.raises(ParameterError, match="5 labels"):
        write_outcomes(tmp_path, KEY, make_outcomes(), IDS, labels=LABELS[:5])


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ((), "without variants"),
        (({"id": 1},), "named id twice"),
        (({"correct": 1},), "named correct twice"),
        (({"k": 1}, {"k": "one"}), "mixes types: int, str"),
        (({"k": (1, 2)},), "mixes types: tuple"),
    ],
)
def test_variants_that_make_no_columns_are_the_fault_of_the_plugin(
    tmp_path: Path, variants: tuple[dict[str, Any], ...], message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        write_outcomes(tmp_path, KEY, make_outcomes(variants), IDS)
    assert not (tmp_path / "outcomes").exists()


def test_shapes_that_disagree_are_the_fault_of_the_plugin(tmp_path: Path) -> None:
    good = make_outcomes()
    bad = Outcomes(positions=good.positions, variants=good.variants, columns={"correct": np.zeros((3, 1), bool)})
    with pytest.raises(PluginError, match=r"correct \(3, 1\)"):
        write_outcomes(tmp_path, KEY, bad, IDS)
    with pytest.raises(PluginError, match=r"loss \(2,\)"):
        write_outcomes(tmp_path, KEY, good, IDS, realised={"loss": np.zeros(2)})
    with pytest.raises(PluginError, match="logits"):
        write_outcomes(tmp_path, KEY, good, IDS, logits=np.zeros((3, 5), np.float32))
    with pytest.raises(PluginError, match="correct twice"):
        write_outcomes(tmp_path, KEY, good, IDS, realised={"correct": np.zeros(3)})


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="missing") as caught:
        read_outcomes(tmp_path, KEY)
    assert caught.value.hint


def test_a_file_cut_anywhere_is_reported(tmp_path: Path) -> None:
    path = write_outcomes(tmp_path, KEY, make_outcomes(), IDS, labels=LABELS)
    whole = path.read_bytes()
    for cut in (0, 3, 4, 100, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(RecordsError, match="cannot be read"):
            read_outcomes(tmp_path, KEY)
    path.write_bytes(whole[:50] + b"\0" * 60 + whole[110:])
    with pytest.raises(RecordsError):
        read_outcomes(tmp_path, KEY)


def test_files_of_others_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write_outcomes(tmp_path, KEY, make_outcomes(), IDS)
    other = KEY[:16] + "f" * 48
    with pytest.raises(RecordsError, match="another record"):
        read_outcomes(tmp_path, other)
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(RecordsError, match="not an outcome file"):
        read_outcomes(tmp_path, KEY)
    monkeypatch.setattr(outcome_files, "FORMAT_VERSION", 2)
    write_outcomes(tmp_path, KEY, make_outcomes(), IDS)
    monkeypatch.undo()
    with pytest.raises(RecordsError, match="format 2"):
        read_outcomes(tmp_path, KEY)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(list[str]):
        def __getitem__(self, index: Any) -> Any:
            raise OSError(28, "No space left on device")

    with pytest.raises(RecordsError, match="No space left"):
        write_outcomes(tmp_path, KEY, make_outcomes(), Broken(IDS))
    assert list((tmp_path / "outcomes").iterdir()) == []


def test_accuracies_of_episodes_come_back_exactly_and_unasked_ones_stay_not_a_number(tmp_path: Path) -> None:
    episodes = np.array([[0.2, 1 / 3, np.nan], [1.0, 0.0, 0.1]])
    outcomes = Outcomes(
        positions=np.array([0, 1]),
        variants=({"head": "a"}, {"head": "b"}),
        columns={"asked": np.array([[1, 2], [1, 0]], np.int32)},
        episodes=episodes,
    )
    write_outcomes(tmp_path, KEY, outcomes, ["x", "y"])
    for found in (
        read_outcomes(tmp_path, KEY).outcomes,
        read_outcomes(tmp_path, KEY).with_realised,
        open_outcomes(tmp_path, KEY),
    ):
        assert found.episodes is not None
        np.testing.assert_array_equal(found.episodes, episodes)


def test_episodes_of_another_number_of_variants_are_the_fault_of_the_plugin(tmp_path: Path) -> None:
    outcomes = Outcomes(
        positions=np.array([0]), variants=({},), columns={"asked": np.ones((1, 1), np.int32)}, episodes=np.ones((2, 3))
    )
    with pytest.raises(PluginError, match="episodes"):
        write_outcomes(tmp_path, KEY, outcomes, ["x"])
