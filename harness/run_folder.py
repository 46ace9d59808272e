"""An output folder opened for writing: one writer at a time, and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness.errors import RecordsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARTIFACTS = "artifacts"
OUTCOMES = "outcomes"
CHECKPOINTS = "checkpoints"
PLAN = "plan.json"
CONTROLS = "controls.jsonl"
BASELINES = "baselines.jsonl"
SUMMARIES = "summaries.jsonl"

_TEMPORARY = ".tmp"
_ABANDONED_SECONDS = 3600.0
_OWNER_READ_SECONDS = 0.5
# Windows locks are mandatory for the bytes they cover: one far beyond the text leaves the owner's name readable.
_LOCKED_BYTE = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class LockOwner:
    """Who writes into a folder: process id, host, and when it began (ISO 8601, UTC)."""

    pid: int
    host: str
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


@contextlib.contextmanager
def reported(doing: str, path: Path) -> Iterator[None]:
    """Turn an :class:`OSError` inside into a :class:`RecordsError` that says what was being done to which file."""
    try:
        yield
    except OSError as error:
        raise RecordsError(
            f"{doing} {path}: {error.strerror or error}",
            hint="check that the folder exists, may be written to and has space left; what is recorded so far is kept",
        ) from error


def create_folder(folder: Path) -> None:
    """Make the output folder with its parents. Raises :class:`RecordsError` where that cannot be."""
    if folder.exists() and not folder.is_dir():
        raise RecordsError(f"the output folder {folder} is a file", hint="name another folder with --out")
    with reported("cannot make the output folder", folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; afterwards it is synced and takes ``path``'s place in one step.

    A reader sees the old file or the whole new one, also after a power cut. If the body raises, ``path`` stays as it
    was. Folders above are made. Raises :class:`RecordsError` for what the file system refuses.
    """
    with reported("cannot write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{writer_tag()}{_TEMPORARY}")
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8, lines as given) in one step; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable (a no-op on Windows, which cannot open folders)."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def writer_tag() -> str:
    """Whose a temporary file is: host and process id, for its name; :func:`is_writer_gone` reads it."""
    return f"{_host()}.{os.getpid()}"


def is_writer_gone(tag: str) -> bool:
    """Whether ``tag``, or a name that ends with it, is that of a process of this host that is no more.

    False where that cannot be told: for another host, for a name without a tag, and on Windows.
    """
    name, _, pid = tag.rpartition(".")
    if sys.platform == "win32" or name.rpartition(".")[2] != _host() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _host() -> str:
    return socket.gethostname().replace(".", "_")


def discard_abandoned(folder: Path) -> None:
    """Remove temporary files in ``folder`` that killed writers left.

    Those of a process of this host that is no more go at once, others after an hour: none is written for so long.
    Ages are taken against a file made now, so that the clock of a file server does not matter.
    """
    with reported("cannot tidy up", folder):
        probe = folder / f".age.{writer_tag()}{_TEMPORARY}"
        probe.touch()
        try:
            now = probe.stat().st_mtime
            for place in (folder, folder / OUTCOMES, folder / CHECKPOINTS, folder / ARTIFACTS):
                for leftover in place.glob(f".*{_TEMPORARY}"):
                    with contextlib.suppress(FileNotFoundError):
                        old = now - leftover.stat().st_mtime > _ABANDONED_SECONDS
                        if old or is_writer_gone(leftover.name.removesuffix(_TEMPORARY)):
                            leftover.unlink()
        finally:
            probe.unlink(missing_ok=True)


class FolderLock:
    """An exclusive lock on a file, held until :meth:`release` or the end of the process, however it ends.

    The kernel frees it (``flock``; ``msvcrt.locking`` on Windows), so no lock outlives its owner; the file itself
    stays and names the last owner. A process forked from the owner does not hold it.
    Raises :class:`RecordsError` naming the owner if another holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        with reported("cannot lock", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with reported("cannot lock", path):
                taken = _try_lock(descriptor)
            if not taken:
                raise _locked(path)
            owner = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            with reported("cannot lock", path):
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, (json.dumps(owner) + "\n").encode())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Give the lock back; again and again does no harm."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self)


def _locked(path: Path) -> RecordsError:
    owner = lock_owner(path)
    return RecordsError(
        f"{path.parent} is being written by {owner or 'another process, which has not said which'}",
        hint="wait for it to end, stop it, or write into another folder",
    )


def lock_owner(path: Path) -> LockOwner | None:
    """Who holds, or last held, the lock file ``path``; None if it does not say."""
    deadline = time.monotonic() + _OWNER_READ_SECONDS
    while True:
        try:
            raw = json.loads(path.read_bytes())
            return LockOwner(pid=int(raw["pid"]), host=str(raw["host"]), started=str(raw["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            # An owner that has only just taken the lock writes its name a moment later.
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)


if sys.platform == "win32":

    def _try_lock(descriptor: int) -> bool:
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:

    def _try_lock(descriptor: int) -> bool:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget_locks_after_fork() -> None:
    # A forked worker shares the lock with its parent; left open there, it would outlive a parent that was killed.
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks_after_fork)
