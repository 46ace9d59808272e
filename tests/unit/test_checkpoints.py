"""Checkpoints: exact round trips, damaged files, and what a record makes superfluous."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness import checkpoints
from harness.checkpoints import Checkpoint, checkpoint_path, drop, load_all, prune, remove, save
from harness.errors import ParameterError, PluginError, RecordsError

DTYPES = ["bool", "uint8", "int32", "int64", "float32", "float64", "int8", "uint64", "float16"]


def make_checkpoint(pass_id: str = "pass-1", **changes: Any) -> Checkpoint:
    checkpoint = Checkpoint(
        pass_id=pass_id,
        walk="w" * 64,
        offset=640,
        batch_size=32,
        threads=2,
        states={
            "a" * 64: {"positions": np.arange(5, dtype=np.int32), "column.correct": np.zeros((2, 5), bool)},
            "b" * 64: {"sum": np.array(0.1)},
        },
    )
    return dataclasses.replace(checkpoint, **changes)


def assert_equal(one: Checkpoint, two: Checkpoint) -> None:
    for name in ("pass_id", "walk", "offset", "batch_size", "threads"):
        assert getattr(one, name) == getattr(two, name)
    assert list(one.states) == list(two.states)
    for key, state in one.states.items():
        assert set(state) == set(two.states[key])
        for name, array in state.items():
            found = two.states[key][name]
            assert found.dtype == array.dtype
            assert found.shape == array.shape
            assert found.tobytes() == array.tobytes()


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    assert save(tmp_path, checkpoint) == tmp_path / "checkpoints" / "pass-1.safetensors"
    loaded = load_all(tmp_path)
    assert loaded.damaged == ()
    assert_equal(loaded.checkpoints[0], checkpoint)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["pass-1.safetensors"]


@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    name=st.text(min_size=1, max_size=20),
)
def test_every_array_round_trips_exactly(tmp_path_factory: Any, array: Any, name: str) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint = make_checkpoint(states={"k": {name: array, f"{name}:T": array.T}})
    save(folder, checkpoint)
    found = load_all(folder).checkpoints[0].states["k"]
    for given_name, given_array in checkpoint.states["k"].items():
        assert found[given_name].dtype == given_array.dtype
        assert found[given_name].shape == given_array.shape
        np.testing.assert_array_equal(found[given_name], given_array)


def test_special_arrays_round_trip(tmp_path: Path) -> None:
    special = {
        "scalar": np.float64(0.1),
        "bits": np.array([np.nan, -0.0, np.inf, 5e-324]),
        "strided": np.arange(12, dtype=np.int32)[::-3],
        "foreign order": np.arange(3, dtype=">i8"),
    }
    save(tmp_path, make_checkpoint(states={"k": special, "empty": {}}))
    (loaded,) = load_all(tmp_path).checkpoints
    assert list(loaded.states) == ["k", "empty"]
    assert loaded.states["empty"] == {}
    found = loaded.states["k"]
    assert found["scalar"].shape == ()
    assert found["bits"].tobytes() == np.array(special["bits"]).tobytes()
    assert found["strided"].tolist() == [11, 8, 5, 2]
    assert found["foreign order"].tolist() == [0, 1, 2]
    found["bits"][0] = 1  # a run goes on counting in them


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([1j]), np.array([object()]), [1, 2], 3])
def test_states_that_are_no_plain_arrays_are_the_fault_of_the_plugin(tmp_path: Path, array: Any) -> None:
    with pytest.raises(PluginError, match="'odd'"):
        save(tmp_path, make_checkpoint(states={"k": {"odd": array}}))
    assert load_all(tmp_path).checkpoints == ()


@pytest.mark.parametrize("pass_id", ["", "../up", "a/b", ".hidden", "x" * 101])
def test_a_pass_id_that_is_no_file_name_is_refused(pass_id: str) -> None:
    with pytest.raises(ParameterError, match="pass_id"):
        make_checkpoint(pass_id)


def test_a_negative_offset_is_refused() -> None:
    with pytest.raises(ParameterError, match="offset"):
        make_checkpoint(offset=-1)


def test_saving_again_replaces(tmp_path: Path) -> None:
    save(tmp_path, make_checkpoint(offset=1))
    save(tmp_path, make_checkpoint(offset=2))
    save(tmp_path, make_checkpoint("other", offset=3))
    assert [(c.pass_id, c.offset) for c in load_all(tmp_path).checkpoints] == [("other", 3), ("pass-1", 2)]
    remove(tmp_path, "other")
    remove(tmp_path, "other")
    assert [c.pass_id for c in load_all(tmp_path).checkpoints] == ["pass-1"]


def test_a_file_cut_at_any_byte_is_named_and_not_used(tmp_path: Path) -> None:
    path = save(tmp_path, make_checkpoint())
    whole = path.read_bytes()
    save(tmp_path, make_checkpoint("sound"))
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        loaded = load_all(tmp_path)
        assert [c.pass_id for c in loaded.checkpoints] == ["sound"]
        assert [d.path for d in loaded.damaged] == [path]
        assert loaded.damaged[0].reason
    assert path.exists()
    save(tmp_path, make_checkpoint())
    assert load_all(tmp_path).damaged == ()


def test_foreign_renamed_and_newer_files_are_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    place = tmp_path / "checkpoints"
    place.mkdir()
    save_file({"x": np.zeros(2)}, place / "foreign.safetensors")
    (place / "junk.safetensors").write_text("not a tensor in sight")
    (place / ".pass.safetensors.host.1.tmp").write_text("")
    (place / "notes.txt").write_text("")
    save(tmp_path, make_checkpoint("one")).rename(place / "two.safetensors")
    monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 2)
    save(tmp_path, make_checkpoint("newer"))
    monkeypatch.undo()
    loaded = load_all(tmp_path)
    assert loaded.checkpoints == ()
    reasons = {damaged.path.name: damaged.reason for damaged in loaded.damaged}
    assert set(reasons) == {"foreign.safetensors", "junk.safetensors", "newer.safetensors", "two.safetensors"}
    assert "not a checkpoint" in reasons["foreign.safetensors"]
    assert "format 2" in reasons["newer.safetensors"]
    assert "pass one" in reasons["two.safetensors"]


def test_pruning_drops_what_has_a_record(tmp_path: Path) -> None:
    save(tmp_path, make_checkpoint("all-done"))
    save(tmp_path, make_checkpoint("half", states={"a" * 64: {"x": np.ones(2)}, "c" * 64: {"x": np.zeros(1)}}))
    save(tmp_path, make_checkpoint("none", states={"d" * 64: {}}))
    left = prune(tmp_path, {"a" * 64, "b" * 64})
    assert [(c.pass_id, list(c.states)) for c in left.checkpoints] == [("half", ["c" * 64]), ("none", ["d" * 64])]
    again = load_all(tmp_path)
    assert [list(c.states) for c in again.checkpoints] == [["c" * 64], ["d" * 64]]
    assert again.checkpoints[0].offset == 640
    assert not checkpoint_path(tmp_path, "all-done").exists()


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert load_all(tmp_path).checkpoints == ()
    assert prune(tmp_path / "missing", set()).checkpoints == ()
    remove(tmp_path, "missing")


def test_an_output_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RecordsError, match="cannot write"):
        save(tmp_path / "out", make_checkpoint())


def test_drop_takes_states_out_of_one_checkpoint_and_leaves_the_others(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(tmp_path, make_checkpoint(name))
    drop(tmp_path, "one", {"a" * 64, "c" * 64})
    one, two = load_all(tmp_path).checkpoints
    assert list(one.states) == ["b" * 64]
    assert list(two.states) == ["a" * 64, "b" * 64]
    drop(tmp_path, "one", {"b" * 64})
    drop(tmp_path, "one", {"b" * 64})
    assert [found.pass_id for found in load_all(tmp_path).checkpoints] == ["two"]


def test_states_that_are_made_when_asked_for_are_held_one_at_a_time(tmp_path: Path) -> None:
    """The file is that of a plain mapping; nothing keeps a state that has been written."""
    held: list[weakref.ref[Any]] = []

    class Made(Mapping[str, Mapping[str, Any]]):
        def __getitem__(self, key: str) -> Mapping[str, Any]:
            gc.collect()
            assert sum(state() is not None for state in held) <= 1
            values = np.full(1000, ord(key[0]), np.int32)
            held.append(weakref.ref(values))
            return {"values": values}

        def __iter__(self) -> Iterator[str]:
            return iter(("a" * 64, "b" * 64, "c" * 64, "d" * 64))

        def __len__(self) -> int:
            return 4

    made = Made()
    save(tmp_path, make_checkpoint("made", states=made))
    assert len(held) == 8
    plain = make_checkpoint("made", states={key: {"values": np.full(1000, ord(key[0]), np.int32)} for key in made})
    assert_equal(load_all(tmp_path).checkpoints[0], plain)
