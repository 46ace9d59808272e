"""Records on disk: one immutable line of JSON per cell, appended durably and read back whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, RecordsError
from harness.run_folder import (
    PLAN,
    FolderLock,
    create_folder,
    discard_abandoned,
    replacing,
    reported,
    sync_folder,
)
from harness.types import JSONValue, ResultRecord

if TYPE_CHECKING:
    from types import TracebackType

RECORDS = "records.jsonl"

_SHARD_NAME = re.compile(r"records-(\d+)of(\d+)\.jsonl\Z")
_LINE_START = b'{"schema":'
_RESTORE = "restore the file, or remove this line to run its cell again"

_NAME = "name the output folder of a run (--out), or a records file"


@dataclass(frozen=True, slots=True, kw_only=True)
class TornLine:
    """The end of a file that a killed writer left unfinished: where it begins, and its bytes."""

    path: Path
    line: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsScan:
    """What reading found: the records, first of each key, in file order; and what was passed over."""

    records: tuple[ResultRecord, ...]
    torn: tuple[TornLine, ...]
    duplicates: int


def load_records(path: str | os.PathLike[str]) -> list[ResultRecord]:
    """The records of an output folder (all shards) or of one file, without duplicates of a key and torn last lines.

    Raises :class:`RecordsError` naming file and line for anything else that is not a record; see :func:`scan_records`.
    """
    return list(scan_records(path).records)


def scan_records(path: str | os.PathLike[str]) -> RecordsScan:
    """Read as :func:`load_records` does, and say what was passed over.

    A last line that lacks its newline or is cut short is *torn*: its writer was killed, its cell has no record. Of two
    lines with one key the first counts. Raises :class:`RecordsError` for a path that is not there, a folder that is no
    output folder, a line that is no record, and a schema that this version does not read.
    """
    place = Path(path)
    if place.is_dir():
        files = record_files(place)
        if not files and not (place / PLAN).is_file():
            raise RecordsError(f"{place} holds no records", hint=_NAME)
    elif place.exists():
        files = [place]
    else:
        raise RecordsError(f"there is no {place}", hint=_NAME)
    first: dict[str, ResultRecord] = {}
    torn: list[TornLine] = []
    duplicates = 0
    for file in files:
        for found in _read_lines(file):
            if isinstance(found, TornLine):
                torn.append(found)
            elif found.key in first:
                duplicates += 1
            else:
                first[found.key] = found
    return RecordsScan(records=tuple(first.values()), torn=tuple(torn), duplicates=duplicates)


def record_files(folder: Path) -> list[Path]:
    """The record files of an output folder: ``records.jsonl``, then the shards by number."""
    with reported("cannot read", folder):
        shards = [(match, path) for path in folder.iterdir() if (match := _SHARD_NAME.match(path.name))]
    shards.sort(key=lambda item: (int(item[0][2]), int(item[0][1])))
    whole = folder / RECORDS
    return [*([whole] if whole.is_file() else []), *(path for _, path in shards)]


class RecordStore:
    """The records of an output folder, opened for writing; a context manager.

    Opening makes the folder, locks it against a second writer and cuts a torn last line off the file written to
    (``repaired`` says what was cut, None if nothing). ``shard`` (i, n), counted from 1, writes
    ``records-<i>of<n>.jsonl`` under a lock of its own, so that the shards of one run may write side by side.

    Raises :class:`RecordsError`: the folder is locked (naming the owner), cannot be written to, or holds records that
    cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str], *, shard: tuple[int, int] | None = None) -> None:
        self.folder = Path(folder)
        if shard is not None and not 1 <= shard[0] <= shard[1]:
            raise RecordsError(f"shard {shard[0]}/{shard[1]} does not exist", hint="shards count from 1/N to N/N")
        suffix = "" if shard is None else f"-{shard[0]}of{shard[1]}"
        self.path = self.folder / f"records{suffix}.jsonl"
        self.repaired: TornLine | None = None
        self._descriptor: int | None = None
        create_folder(self.folder)
        self._lock = FolderLock(self.folder / f".lock{suffix}")
        try:
            discard_abandoned(self.folder)
            with reported("cannot write", self.path):
                self._descriptor = os.open(
                    self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666
                )
                sync_folder(self.folder)
            self._repair(self._descriptor)
            self._keys = {record.key for record in self.records()}
        except BaseException:
            self.close()
            raise

    def _repair(self, descriptor: int) -> None:
        torn = [found for found in _read_lines(self.path) if isinstance(found, TornLine)]
        if torn:
            with reported("cannot repair", self.path):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(torn[0].content))
                os.fsync(descriptor)
            self.repaired = torn[0]

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def keys(self) -> frozenset[str]:
        """Keys that have a record: in any file of the folder when it was opened, or appended since."""
        return frozenset(self._keys)

    def records(self) -> list[ResultRecord]:
        """All records of the folder as they are on disk now, shards included."""
        return load_records(self.folder) if record_files(self.folder) else []

    def append(self, record: ResultRecord) -> bool:
        """Write ``record`` as one line and sync it; False, and nothing written, if its key already has a record.

        After a failed write (a full disk) the file is cut back to the last whole line. Raises :class:`RecordsError`
        then, for a closed store, and for a record that JSON cannot hold (NaN, infinity, foreign types).
        """
        if self._descriptor is None:
            raise RecordsError(f"{self.path} is closed", hint="append records inside the `with RecordStore(...)` block")
        if record.key in self._keys:
            return False
        line = record_line(record).encode("ascii")
        with reported("cannot append to", self.path):
            size = os.fstat(self._descriptor).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._descriptor, line[written:])
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, size)
                raise
        self._keys.add(record.key)
        return True

    def write_plan(self, plan: Mapping[str, JSONValue]) -> None:
        """Put the resolved configuration into ``plan.json``, replacing one of an earlier command into this folder."""
        with replacing(self.folder / PLAN) as temporary:
            text = json.dumps(_plain(plan), indent=2, allow_nan=False)
            temporary.write_bytes(text.encode("ascii") + b"\n")

    def close(self) -> None:
        """Close the file and give the lock back; again and again does no harm."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._lock.release()

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def record_line(record: ResultRecord) -> str:
    """The one line of ``records.jsonl`` that ``record`` is, newline included; ASCII only.

    Raises :class:`RecordsError` naming the metric that is NaN or infinite, or what JSON cannot hold.
    """
    return json_line(record.as_dict(), f"record {record.key[:16]}")


def json_line(raw: Mapping[str, JSONValue], what: str) -> str:
    """``raw`` as one line of compact JSON with its keys in the order given; errors as :func:`record_line` has them."""
    try:
        return json.dumps(_plain(raw), separators=(",", ":"), allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise RecordsError(
            f"{what} cannot be written as JSON: {_culprit(raw) or error}",
            hint="numbers must be finite; a quantity that is undefined is left out",
        ) from error


def _plain(value: Any) -> Any:
    """Mappings as dicts and sequences as lists, which are all that :mod:`json` knows."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _culprit(raw: Mapping[str, Any]) -> str | None:
    for measurement in raw.get("measurements", ()):
        try:
            json.dumps(_plain(measurement), allow_nan=False)
        except (TypeError, ValueError) as error:
            return f"metric {measurement['metric']} {measurement['dims']} is {measurement['value']!r} ({error})"
    return None


def _read_lines(path: Path) -> Iterator[ResultRecord | TornLine]:
    """The records of one file; a torn last line comes last, as what it is."""
    with reported("cannot read", path), path.open("rb") as file:
        pending: tuple[int, bytes] | None = None
        for number, line in enumerate(file, start=1):
            if pending is not None:
                yield _parse(path, *pending)
            pending = (number, line)
        if pending is not None:
            number, line = pending
            yield TornLine(path=path, line=number, content=line) if _is_torn(line) else _parse(path, number, line)


def _is_torn(line: bytes) -> bool:
    """Whether a last line is what a killed writer leaves; any other garbage is not ours to cut."""
    ours = line[: len(_LINE_START)] == _LINE_START[: len(line)] or line.startswith(b"\0")
    if not ours:
        return False
    if not line.endswith(b"\n"):
        return True
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _parse(path: Path, number: int, line: bytes) -> ResultRecord:
    where = f"{path}:{number}"
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise RecordsError(
            f"{where} is not a record: {error}",
            hint=f"a crash cuts short only a last line; {_RESTORE}",
        ) from error
    if not isinstance(raw, dict) or "schema" not in raw:
        raise RecordsError(f"{where} is not a record of vit-harness", hint="name the output folder of a run (--out)")
    try:
        record = ResultRecord.from_dict(raw)
    except HarnessError as error:
        raise RecordsError(f"{where}: {error.message}", hint=error.hint) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordsError(
            f"{where} is not a whole record: {error!r}",
            hint="restore the file, or remove this line to run its cell again",
        ) from error
    if not isinstance(record.key, str) or not isinstance(record.cell, dict):
        raise RecordsError(f"{where} is not a whole record: its key must be text and its cell a mapping", hint=_RESTORE)
    return record
