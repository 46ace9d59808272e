"""The output folder: its lock across processes and crashes, and files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import RecordsError
from harness.run_folder import (
    FolderLock,
    create_folder,
    discard_abandoned,
    lock_owner,
    replacing,
    reported,
    write_text,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks of POSIX")

HOLD = """
import sys, time
from pathlib import Path
from harness.run_folder import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""

FORK_AND_HOLD = """
import os, sys, time
from pathlib import Path
from harness.run_folder import FolderLock
lock = FolderLock(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    print("forked", os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


def start(script: str, path: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    process, said = start(HOLD, tmp_path / ".lock")
    try:
        assert said.strip() == "held"
        with pytest.raises(RecordsError) as caught:
            FolderLock(tmp_path / ".lock")
        assert str(process.pid) in caught.value.message
        assert socket.gethostname() in caught.value.message
        assert str(tmp_path) in caught.value.message
        assert caught.value.exit_code == 2
        owner = lock_owner(tmp_path / ".lock")
        assert owner is not None
        assert owner.pid == process.pid
    finally:
        end(process)


@posix
def test_lock_of_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    process, _ = start(HOLD, tmp_path / ".lock")
    os.kill(process.pid, signal.SIGKILL)
    end(process)
    lock = FolderLock(tmp_path / ".lock")
    owner = lock_owner(tmp_path / ".lock")
    assert owner is not None
    assert owner.pid == os.getpid()
    lock.release()


@posix
def test_a_forked_worker_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    process, said = start(FORK_AND_HOLD, tmp_path / ".lock")
    child = int(said.split()[1])
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)  # the worker lives on
        FolderLock(tmp_path / ".lock").release()
    finally:
        os.kill(child, signal.SIGKILL)
        end(process)


def test_one_process_cannot_take_the_lock_twice_but_can_again(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / ".lock")
    with pytest.raises(RecordsError, match=str(os.getpid())):
        FolderLock(tmp_path / ".lock")
    lock.release()
    lock.release()
    FolderLock(tmp_path / ".lock").release()


def test_an_owner_with_an_unreadable_name_is_still_an_owner(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / ".lock")
    (tmp_path / ".lock").write_text("{")
    with pytest.raises(RecordsError, match="another process"):
        FolderLock(tmp_path / ".lock")
    lock.release()


def test_the_lock_file_is_json_with_pid_host_and_start(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("the owner before had much more to say of itself" * 9)
    lock = FolderLock(tmp_path / ".lock")
    raw = json.loads((tmp_path / ".lock").read_text())
    assert raw["pid"] == os.getpid()
    assert raw["host"] == socket.gethostname()
    assert raw["started"].endswith("+00:00")
    lock.release()


def test_a_lock_in_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="cannot lock"):
        FolderLock(tmp_path / "missing" / ".lock")


def test_folder_is_made_with_its_parents_and_refused_where_a_file_lies(tmp_path: Path) -> None:
    create_folder(tmp_path / "a" / "b")
    create_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match="is a file"):
        create_folder(tmp_path / "file")
    with pytest.raises(RecordsError, match="cannot make"):
        create_folder(tmp_path / "file" / "below")


def test_replacing_shows_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
    assert path.read_text() == "half"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_replacing_leaves_the_old_file_if_the_body_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012 - it is the body that fails
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_replacing_turns_what_the_file_system_refuses_into_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=r"file: No space left") as caught, replacing(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert caught.value.hint is not None
    (tmp_path / "taken").mkdir()
    with pytest.raises(RecordsError), replacing(tmp_path / "taken") as temporary:
        temporary.write_text("")


def test_reported_lets_other_errors_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), reported("cannot read", tmp_path):
        raise KeyError


@pytest.mark.parametrize("place", ["artifacts", "checkpoints", "outcomes"])
def test_only_old_temporary_files_are_discarded(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir()
    old, new = tmp_path / place / ".x.parquet.host.1.tmp", tmp_path / ".plan.json.host.2.tmp"
    kept = tmp_path / place / "notes.tmp"
    for path in (old, new, kept):
        path.write_text("")
    for path in (old, kept):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    discard_abandoned(tmp_path)
    assert not old.exists()
    assert new.exists()
    assert kept.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".plan.json.host.2.tmp", place]
