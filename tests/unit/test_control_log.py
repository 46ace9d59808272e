"""Which records are there as controls only, whatever command came last."""

from __future__ import annotations

import pytest

from harness.control_log import control_only, note_controls
from harness.errors import RecordsError


def test_controls_of_every_command_are_remembered(tmp_path):
    assert control_only(tmp_path) == frozenset()
    note_controls(tmp_path, asked=["a"], controls=["twin", "pixels"])
    note_controls(tmp_path, asked=["b"], controls=["other"])
    note_controls(tmp_path, asked=["a"], controls=[])
    assert control_only(tmp_path) == {"twin", "pixels", "other"}


def test_a_control_that_is_asked_for_later_is_one_no_more(tmp_path):
    note_controls(tmp_path, asked=["a"], controls=["pixels"])
    note_controls(tmp_path, asked=["pixels"], controls=[])
    note_controls(tmp_path, asked=["a"], controls=["pixels"])
    assert control_only(tmp_path) == frozenset()


def test_a_command_without_controls_writes_nothing(tmp_path):
    note_controls(tmp_path, asked=["a", "b"], controls=[])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_line_is_named(tmp_path):
    note_controls(tmp_path, asked=[], controls=["x"])
    with (tmp_path / "controls.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(RecordsError, match=r"controls.jsonl:2"):
        control_only(tmp_path)
