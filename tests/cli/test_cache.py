"""``harness cache``: counts, clearing, and asking first."""

from __future__ import annotations

import numpy as np
import pytest

from harness.feature_cache import FeatureCache
from harness.weights import file_digest


@pytest.fixture
def filled(tmp_path):
    """Two feature tables, a set of saliency maps, a digest and a contact sheet; and a file that is none of its."""
    import os

    folder = tmp_path / "cache"
    for key in ("a", "b"):
        writer = FeatureCache(folder / "features").writer(key)
        writer.append(np.zeros((3, 5), np.float32), np.arange(3))
        writer.finish()
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"x")
    os.utime(weights, (1, 1))
    file_digest(weights)
    maps = folder / "saliency" / "0123"
    maps.mkdir(parents=True)
    for name in ("host.1-a.maps", "host.2-b.maps", "key.json"):
        (maps / name).write_bytes(b"rows")
    (folder / "sheets").mkdir()
    (folder / "sheets" / "digits.png").write_bytes(b"png")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_empty_cache(harness, tmp_path):
    found = harness("cache", "--json").json
    assert found == {
        "folder": str(tmp_path / "cache"),
        "feature_tables": 0,
        "feature_bytes": 0,
        "saliency_sets": 0,
        "saliency_bytes": 0,
        "digests": 0,
        "digest_bytes": 0,
        "sheets": 0,
        "sheet_bytes": 0,
    }
    assert not (tmp_path / "cache").exists()


def test_counts_and_bytes(harness, filled):
    found = harness("cache", "show", "--json").json
    on_disk = sum(file.stat().st_size for file in (filled / "features").rglob("*") if file.is_file())
    assert (found["feature_tables"], found["feature_bytes"], found["digests"]) == (2, on_disk, 1)
    assert (found["saliency_sets"], found["saliency_bytes"]) == (1, 8)
    assert (found["sheets"], found["sheet_bytes"]) == (1, 3)
    out = harness("cache").out
    assert str(filled) in out
    assert any(line.split()[:3] == ["feature", "tables", "2"] for line in out.splitlines())


def test_clear_removes_what_runs_keep_and_nothing_else(harness, filled):
    answer = harness("cache", "clear", "--yes", "--json")
    assert answer.code == 0
    assert (answer.json["feature_tables"], answer.json["cleared"]) == (2, True)
    found = harness("cache", "--json").json
    assert (found["feature_tables"], found["saliency_sets"], found["digests"], found["sheets"]) == (0, 0, 0, 0)
    assert not (filled / "saliency").exists()
    assert (filled / "notes.txt").read_text() == "mine"
    assert harness("cache", "clear", "--yes").code == 0


def test_without_a_terminal_it_needs_yes(harness, filled, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    answer = harness("cache", "clear")
    assert answer.code == 2
    assert "--yes" in answer.err
    assert harness("cache", "--json").json["feature_tables"] == 2


@pytest.mark.parametrize(("reply", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 2)])
def test_on_a_terminal_it_asks(harness, filled, monkeypatch, reply, code, left):
    import io

    stdin = io.StringIO(reply)
    stdin.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", stdin)
    answer = harness("cache", "clear")
    assert answer.code == code
    assert "Remove 2 feature tables, 1 sets of saliency maps, 1 digests and 1 contact sheets" in answer.err
    assert ("nothing was removed" in answer.err) == (code == 1)
    assert harness("cache", "--json").json["feature_tables"] == left


def test_another_folder(harness, filled, tmp_path):
    assert harness("cache", "--cache-dir", str(filled), "--json").json["feature_tables"] == 2
    assert harness("cache", "--cache-dir", str(tmp_path / "other"), "--json").json["feature_tables"] == 0


def test_unknown_action(harness):
    assert harness("cache", "clean").code == 2
