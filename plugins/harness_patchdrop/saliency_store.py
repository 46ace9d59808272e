"""Saliency maps on disk: computed once per image, appended by any number of writers, read by memory mapping."""

from __future__ import annotations

import hashlib
import json
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from harness.errors import DataError
from harness.run_folder import writer_tag
from harness.types import JSONValue, digest

FORMAT_VERSION = 1
"""Version of the layout of a segment; part of every key."""

SEGMENT_SUFFIX = ".maps"

_ID_BYTES = 16
_MERGE_CHUNKS = 32
_IN_MEMORY_BYTES = 64 * 2**20

Maps: TypeAlias = npt.NDArray[np.int32]


class MapStore(Protocol):
    """Maps of whole numbers by image id."""

    def get(self, ids: Sequence[str]) -> tuple[Maps, npt.NDArray[np.bool_]]:
        """The maps (N, cells) int32 of ``ids``, zeros for those it has not, and which it has (N,)."""
        ...

    def put(self, ids: Sequence[str], maps: Maps) -> None:
        """Keep the maps (N, cells) of ``ids``."""
        ...


class MemoryMaps:
    """The store of a run without a cache: the maps used last, as many as fit in ``limit_bytes``."""

    def __init__(self, cells: int, *, limit_bytes: int = _IN_MEMORY_BYTES) -> None:
        self._cells = cells
        self._most = max(1, limit_bytes // (4 * cells))
        self._maps: OrderedDict[str, Maps] = OrderedDict()

    def get(self, ids: Sequence[str]) -> tuple[Maps, npt.NDArray[np.bool_]]:
        """See :meth:`MapStore.get`."""
        maps, known = _nothing(len(ids), self._cells)
        for row, name in enumerate(ids):
            if name in self._maps:
                self._maps.move_to_end(name)
                maps[row], known[row] = self._maps[name], True
        return maps, known

    def put(self, ids: Sequence[str], maps: Maps) -> None:
        """See :meth:`MapStore.put`."""
        for name, values in zip(ids, maps, strict=True):
            self._maps[name] = values.copy()
        while len(self._maps) > self._most:
            self._maps.popitem(last=False)


class DiskMaps:
    """The maps of one key: a folder of segments, each appended to by one writer and read by all.

    A row of a segment is the digest of an image id, its map, and a checksum of both. A row that was cut short or
    damaged is as good as none: its map is computed and appended again. Where two writers stored the same image, all
    rows of which are valid, the one met first counts from then on. What the memory holds is 16 bytes an image.
    """

    def __init__(self, root: Path, key: JSONValue, cells: int) -> None:
        """``root``: the folder of all keys. Nothing is written before the first :meth:`put`."""
        self._key = key
        self._folder = root / digest({"format": FORMAT_VERSION, "key": key})
        self._own = _segment_name()
        self._row = np.dtype([("id", f"V{_ID_BYTES}"), ("map", "<i4", (cells,)), ("crc", "<u4")])
        self._cells = cells
        self._segments: list[npt.NDArray[np.void]] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self._index = _Index()

    def get(self, ids: Sequence[str]) -> tuple[Maps, npt.NDArray[np.bool_]]:
        """See :meth:`MapStore.get`; what other writers have appended since is looked at where something is missing."""
        maps, known = _nothing(len(ids), self._cells)
        names = [_id_digest(name) for name in ids]
        self._fill(names, maps, known)
        if not known.all():
            self._read_new()
            self._fill(names, maps, known)
        return maps, known

    def put(self, ids: Sequence[str], maps: Maps) -> None:
        """See :meth:`MapStore.put`. Raises :class:`~harness.errors.DataError` where the folder cannot be written to."""
        rows = np.zeros(len(ids), self._row)
        rows["id"] = np.array([_id_digest(name) for name in ids], f"V{_ID_BYTES}")
        rows["map"] = maps
        rows["crc"] = _checksums(rows)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / "key.json").exists():
                (self._folder / "key.json").write_text(json.dumps(self._key, indent=1, sort_keys=True))
            # The process is asked for anew each time: one that was forked off writes a segment of its own.
            _append(self._folder / f"{writer_tag()}-{self._own}", rows.tobytes())
        except OSError as error:
            # Half a row would shift all that were appended after it. It is not cut off: others may have it mapped.
            self._own = _segment_name()
            raise DataError(
                f"cannot store saliency maps in {self._folder}: {error.strerror or error}",
                hint="free some space (harness cache clear), name another folder with --cache-dir, or use --no-cache",
            ) from error

    def _fill(self, names: Sequence[bytes], maps: Maps, known: npt.NDArray[np.bool_]) -> None:
        """Copy into ``maps`` what the index knows."""
        wanted = np.flatnonzero(~known).tolist()
        keys = np.frombuffer(b"".join(names[i][:8] for i in wanted), "<u8")
        for i, place in zip(wanted, self._index.find(keys).tolist(), strict=True):
            if place < 0:
                continue
            row = self._segments[place >> 40][place & (2**40 - 1)]
            # Of ids whose digests begin alike, which is next to impossible, only the first is ever found.
            if row["id"].tobytes() == names[i]:
                maps[i], known[i] = row["map"], True

    def _read_new(self) -> None:
        """Index the rows that were appended to any segment since the last time."""
        for path in sorted(self._folder.glob(f"*{SEGMENT_SUFFIX}")):
            if path.is_dir():
                continue  # nothing of ours
            try:
                found = path.stat()
                # A file that was cleared away and begun anew has the name of the old one, which is still mapped.
                number = self._numbers.setdefault((path.name, found.st_ino), len(self._segments))
                if number == len(self._segments):
                    self._segments.append(np.zeros(0, self._row))
                seen, there = len(self._segments[number]), found.st_size // self._row.itemsize
                if there <= seen:
                    continue
                self._segments[number] = np.memmap(path, dtype=self._row, mode="r", shape=(there,))
            except FileNotFoundError:
                continue  # somebody has just cleared the cache
            fresh = self._segments[number][seen:]
            valid = np.flatnonzero(_checksums(fresh) == fresh["crc"])
            names = np.ascontiguousarray(fresh["id"][valid]).view("<u8").reshape(-1, _ID_BYTES // 8)
            self._index.add(names[:, 0], (number << 40) + seen + valid)


@dataclass(slots=True, kw_only=True)
class _Index:
    """Places by key, in a few sorted arrays; of two places of one key the one added first counts."""

    chunks: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]] = field(default_factory=list)

    def add(self, keys: npt.NDArray[np.uint64], places: npt.NDArray[np.int64]) -> None:
        self.chunks.append(_sorted(keys, places))
        if len(self.chunks) > _MERGE_CHUNKS:
            every = [np.concatenate(parts) for parts in zip(*self.chunks, strict=True)]
            self.chunks = [_sorted(every[0], every[1])]

    def find(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The place of each key, -1 where there is none."""
        found = np.full(len(keys), -1, np.int64)
        for known, places in reversed(self.chunks):
            if len(known):
                at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
                found = np.where(known[at] == keys, places[at], found)
        return found


def _sorted(
    keys: npt.NDArray[np.uint64], places: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    order = np.argsort(keys, kind="stable")
    return keys[order], places[order]


def _append(path: Path, data: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]


def _segment_name() -> str:
    return f"{uuid.uuid4().hex[:12]}{SEGMENT_SUFFIX}"


def _checksums(rows: npt.NDArray[np.void]) -> npt.NDArray[np.uint32]:
    length = rows.dtype.itemsize - 4
    return np.array([zlib.crc32(row.tobytes()[:length]) for row in rows], np.uint32)


def _id_digest(name: str) -> bytes:
    # File names that are not valid UTF-8 reach Python as lone surrogates.
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_ID_BYTES).digest()


def _nothing(images: int, cells: int) -> tuple[Maps, npt.NDArray[np.bool_]]:
    return np.zeros((images, cells), np.int32), np.zeros(images, np.bool_)
