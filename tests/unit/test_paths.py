"""The cache folder follows the environment, and says so when it cannot be written to."""

import os
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.paths import cache_dir, ensure_cache_dir


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("HARNESS_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_own_variable_goes_before_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "harness"
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"


def test_home_is_the_last_resort_and_is_expanded(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "home" / ".cache" / "harness"
    monkeypatch.setenv("HARNESS_CACHE_DIR", "~/scratch")
    assert cache_dir() == tmp_path / "home" / "scratch"


def test_a_relative_xdg_cache_home_does_not_count(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / "home" / ".cache" / "harness"


def test_ensure_makes_the_folder_and_only_ensure_does(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "a" / "b"))
    cache_dir()
    assert not (tmp_path / "a").exists()
    assert ensure_cache_dir("digests") == tmp_path / "a" / "b" / "digests"
    assert (tmp_path / "a" / "b" / "digests").is_dir()


def test_a_file_in_the_way_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="file") as caught:
        ensure_cache_dir("digests")
    assert "HARNESS_CACHE_DIR" in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_without_permission_is_named(monkeypatch, tmp_path: Path):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path))
    with pytest.raises(UsageError, match="cannot be written to"):
        ensure_cache_dir("")
