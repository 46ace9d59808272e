"""Feature tables on disk: keyed by everything upstream of the feature, written whole or not at all, memory-mapped."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from harness.errors import DataError
from harness.run_folder import is_writer_gone, writer_tag
from harness.types import JSONValue, digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FORMAT_VERSION = 1
_X, _POSITIONS, _META = "x.float32", "positions.int64", "table.json"
_WRITING = ".writing."


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFeatures:
    """A finished table: ``x`` (N, D) float32, memory-mapped where it lies on disk, and ``positions`` (N,) int64."""

    x: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]


class TableWriter(Protocol):
    """Takes a table batch by batch."""

    def append(self, x: npt.NDArray[np.float32], positions: npt.NDArray[np.int64]) -> None:
        """Rows (n, D) and their positions (n,)."""
        ...

    def finish(self) -> StoredFeatures:
        """The whole table."""
        ...

    def discard(self) -> None:
        """Forget what was written."""
        ...


class FeatureCache:
    """A folder of feature tables, one folder per key.

    Tables appear by renaming a finished folder, so a killed run leaves no half table and two runs that store the
    same one do no harm; what it had begun is removed by the next run on its host that stores a table. Rows are
    appended to a file as they come, so a table may be larger than the memory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: JSONValue) -> StoredFeatures | None:
        """The table of ``key``, or None. Raises :class:`DataError` for a table that is there but damaged."""
        folder = self._folder(key)
        return _open(folder) if folder.is_dir() else None

    def writer(self, key: JSONValue) -> TableWriter:
        """A writer whose :meth:`~TableWriter.finish` puts the table in place."""
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(f"{_WRITING}*"):
            if is_writer_gone(leftover.name.rpartition("-")[0]):
                shutil.rmtree(leftover, ignore_errors=True)
        return _DiskWriter(self._folder(key), key)

    def _folder(self, key: JSONValue) -> Path:
        return self.root / digest({"format": FORMAT_VERSION, "key": key})

    def statistics(self) -> tuple[int, int]:
        """How many tables there are, and their bytes."""
        tables = [folder for folder in self.root.glob("*") if folder.is_dir()] if self.root.is_dir() else []
        return len(tables), sum(file.stat().st_size for table in tables for file in table.iterdir())

    def clear(self) -> int:
        """Remove every table; returns how many there were."""
        count, _ = self.statistics()
        if self.root.is_dir():
            shutil.rmtree(self.root)
        return count


def _open(folder: Path) -> StoredFeatures:
    import numpy as np

    try:
        meta = json.loads((folder / _META).read_text())
        rows, width = int(meta["rows"]), int(meta["width"])
        x: npt.NDArray[np.float32] = np.zeros((0, width), np.float32)
        if rows:
            x = np.memmap(folder / _X, dtype=np.float32, mode="r", shape=(rows, width))
        positions = np.fromfile(folder / _POSITIONS, dtype=np.int64)
        if len(positions) != rows or (folder / _X).stat().st_size != rows * width * 4:
            raise ValueError(f"{rows} rows of {width} were promised")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cached features in {folder} are damaged: {error}", hint="remove that folder, or run with --no-cache"
        ) from error
    return StoredFeatures(x=x, positions=positions)


class _DiskWriter:
    def __init__(self, folder: Path, key: JSONValue) -> None:
        self._final = folder
        self._key = key
        self._work = Path(tempfile.mkdtemp(prefix=f"{_WRITING}{writer_tag()}-", dir=folder.parent))
        self._x: BinaryIO = (self._work / _X).open("wb")
        self._positions: BinaryIO = (self._work / _POSITIONS).open("wb")
        self._rows = self._width = 0

    def append(self, x: npt.NDArray[np.float32], positions: npt.NDArray[np.int64]) -> None:
        import numpy as np

        self._x.write(np.ascontiguousarray(x, np.float32).tobytes())
        self._positions.write(positions.astype(np.int64).tobytes())
        self._rows, self._width = self._rows + len(x), x.shape[1]

    def finish(self) -> StoredFeatures:
        for file in (self._x, self._positions):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        meta = {"rows": self._rows, "width": self._width, "key": self._key}
        (self._work / _META).write_text(json.dumps(meta, indent=1, sort_keys=True))
        try:
            self._work.replace(self._final)
        except OSError:
            self.discard()
            # Another run that finished the same table first is as good as ours.
            if not self._final.is_dir():
                raise
        return _open(self._final)

    def discard(self) -> None:
        self._x.close()
        self._positions.close()
        shutil.rmtree(self._work, ignore_errors=True)


class MemoryWriter:
    """The writer of a run without a cache: the table stays in memory."""

    def __init__(self) -> None:
        self._x: list[npt.NDArray[np.float32]] = []
        self._positions: list[npt.NDArray[np.int64]] = []

    def append(self, x: npt.NDArray[np.float32], positions: npt.NDArray[np.int64]) -> None:
        """Rows (n, D) and their positions (n,)."""
        self._x.append(x)
        self._positions.append(positions)

    def finish(self) -> StoredFeatures:
        """The whole table."""
        import numpy as np

        return StoredFeatures(x=np.concatenate(self._x), positions=np.concatenate(self._positions))

    def discard(self) -> None:
        """Forget what was written."""
        self._x, self._positions = [], []
