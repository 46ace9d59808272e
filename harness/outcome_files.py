"""Per-image outcomes on disk: one immutable Parquet file per cell, a column per thing known of an image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import ParameterError, PluginError, RecordsError
from harness.protocols import LABEL, Outcomes
from harness.run_folder import OUTCOMES, replacing
from harness.types import Ids

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from harness.types import JSONScalar

FORMAT_VERSION = 1
"""Version of the layout of an outcome file; part of its metadata."""

_METADATA = b"vit_harness"
_ROWS_AT_ONCE = 4096
_FIXED = ("id", "position", LABEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutcomes:
    """What an outcome file holds, over N images in order of position.

    ``ids``: N strings. ``labels``: (N,) int32, None where none were written. ``realised``: (N,) float32 by name, what
    the perturbation really did. ``logits``: (V, N, C) float32, where they were asked for.
    """

    outcomes: Outcomes
    ids: Ids
    labels: npt.NDArray[np.int32] | None = None
    realised: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    logits: npt.NDArray[np.float32] | None = None

    @property
    def with_realised(self) -> Outcomes:
        """The outcomes with the realised quantities, and ``label`` where labels were written, among their columns.

        Each is (V, N), the same for every variant. Views, not copies: the way a summary sees a cell.
        """
        import numpy as np

        shape = (len(self.outcomes.variants), len(self.outcomes.positions))
        extra = {name: np.broadcast_to(values, shape) for name, values in self.realised.items()}
        if self.labels is not None:
            extra[LABEL] = np.broadcast_to(self.labels, shape)
        return Outcomes(
            positions=self.outcomes.positions,
            variants=self.outcomes.variants,
            columns={**self.outcomes.columns, **extra},
            episodes=self.outcomes.episodes,
        )


def outcome_path(folder: Path, key: str) -> Path:
    """Where the outcomes of the cell ``key`` lie in the output folder ``folder``."""
    return folder / OUTCOMES / f"{key[:16]}.parquet"


def write_outcomes(
    folder: Path,
    key: str,
    outcomes: Outcomes,
    ids: Sequence[str],
    *,
    labels: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
    realised: Mapping[str, npt.NDArray[Any]] | None = None,
    logits: npt.NDArray[np.float32] | None = None,
) -> Path:
    """Write the outcomes of one cell in one step, *before* its record, so that a record always has its outcomes.

    ``ids`` and ``labels`` are those of the whole split, looked up by ``outcomes.positions``; ``realised`` holds (N,)
    arrays in the order of the positions and ``logits`` is (V, N, C). The table has a row per variant and image:
    ``id``, ``position``, ``label``, a column per dimension of the variants (``shots``, ``seed``, ``head``), the
    outcome columns, the realised quantities, and ``logits`` as a list; accuracies of episodes stand in its metadata.
    At most 4096 rows are held as Python objects.

    Raises :class:`PluginError` for outcomes whose names clash or whose shapes disagree, and :class:`RecordsError`
    where the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    num_images = len(outcomes.positions)
    num_labels = len(ids) if labels is None else len(labels)
    if num_images and int(outcomes.positions.max()) >= min(len(ids), num_labels):
        reach = int(outcomes.positions.max())
        raise ParameterError(
            f"outcomes reach position {reach} of a split with {len(ids)} ids and {num_labels} labels",
            hint="give the ids and labels of the whole split; outcomes hold positions in it",
        )
    columns = _columns(outcomes, labels, realised or {}, logits)
    schema = pa.schema(
        [("id", pa.string()), *((name, kind) for name, kind, _ in columns)],
        metadata={
            _METADATA: json.dumps(
                {
                    "format": FORMAT_VERSION,
                    "key": key,
                    "images": num_images,
                    "variants": [dict(variant) for variant in outcomes.variants],
                    "columns": list(outcomes.columns),
                    "realised": list(realised or {}),
                    **({} if outcomes.episodes is None else {"episodes": _as_lists(outcomes.episodes)}),
                }
            )
        },
    )
    path = outcome_path(folder, key)
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            use_dictionary=sorted({name for variant in outcomes.variants for name in variant}),
            # File names share long prefixes with their neighbours: a tenth of the plain size.
            column_encoding={"id": "DELTA_BYTE_ARRAY"},
        ) as writer,
    ):
        for start, stop in _row_ranges(len(outcomes.variants) * num_images):
            places = _image_places(outcomes, start, stop)
            arrays = [pa.array([ids[position] for position in places.tolist()], pa.string())]
            arrays += [values(start, stop) for _, _, values in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=_ROWS_AT_ONCE)
    return path


def read_outcomes(folder: Path, key: str) -> StoredOutcomes:
    """The outcomes of the cell ``key``, as :func:`write_outcomes` was given them.

    Raises :class:`RecordsError` for a file that is missing, damaged, of another cell or of a newer format.
    """
    with _opened(folder, key) as (file, raw):
        variants, num_images = raw["variants"], raw["images"]
        labels = _read_column(file, LABEL, num_images) if LABEL in file.schema_arrow.names else None
        return StoredOutcomes(
            outcomes=Outcomes(
                positions=_read_positions(file, raw),
                variants=tuple(variants),
                columns={name: _read_per_variant(file, raw, name) for name in raw["columns"]},
                episodes=_read_episodes(raw),
            ),
            ids=Ids(_first_ids(file, num_images)),
            labels=labels,
            realised={name: _read_column(file, name, num_images) for name in raw["realised"]},
            logits=_read_logits(file, len(variants), num_images),
        )


def read_ids(folder: Path, key: str) -> Ids:
    """The ids of the images of the cell ``key``, in order of position. Raises as :func:`read_outcomes` does."""
    with _opened(folder, key) as (file, raw):
        return Ids(_first_ids(file, raw["images"]))


def open_outcomes(folder: Path, key: str) -> Outcomes:
    """The outcomes of the cell ``key`` as :attr:`StoredOutcomes.with_realised` gives them, for many cells at a time.

    A column is read whenever it is asked for and only the probe's last one is kept, so that a summary over a sweep
    holds what it works on. Everything is read once here: raises as :func:`read_outcomes` does.
    """
    with _opened(folder, key) as (file, raw):
        labels = [LABEL] if LABEL in file.schema_arrow.names else []
        columns = _StoredColumns(folder, key, (*raw["columns"], *raw["realised"], *labels))
        for name in columns:
            _read_per_variant(file, raw, name)
        return Outcomes(
            positions=_read_positions(file, raw),
            variants=tuple(raw["variants"]),
            columns=columns,
            episodes=_read_episodes(raw),
        )


class _StoredColumns(Mapping[str, "npt.NDArray[Any]"]):
    """Columns (V, N) of an outcome file, by name."""

    def __init__(self, folder: Path, key: str, names: Sequence[str]) -> None:
        self._folder = folder
        self._key = key
        self._names = names
        self._last: tuple[str, npt.NDArray[Any]] | None = None

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if self._last is not None and self._last[0] == name:
            return self._last[1]
        with _opened(self._folder, self._key) as (file, raw):
            values = _read_per_variant(file, raw, name)
            if name in raw["columns"]:
                self._last = (name, values)
        return values

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def _opened(folder: Path, key: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open Parquet file of a cell and its own metadata; whatever cannot be read is a :class:`RecordsError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = outcome_path(folder, key)
    if not path.is_file():
        raise RecordsError(f"the outcomes of record {key[:16]} are missing: no {path}", hint=_AGAIN)
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            raw = _metadata(file.schema_arrow.metadata, path, key)
            variants, num_images = raw["variants"], raw["images"]
            if file.metadata.num_rows != len(variants) * num_images:
                raise RecordsError(f"{path} holds {file.metadata.num_rows} rows, not {len(variants)} x {num_images}")
            yield file, raw
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise RecordsError(f"{path} cannot be read: {error}", hint=_AGAIN) from error


_AGAIN = "remove the record's line from records.jsonl and run the same command again"


def _metadata(metadata: Mapping[bytes, bytes] | None, path: Path, key: str) -> dict[str, Any]:
    if metadata is None or _METADATA not in metadata:
        raise RecordsError(f"{path} is not an outcome file of vit-harness", hint=_AGAIN)
    raw: dict[str, Any] = json.loads(metadata[_METADATA])
    if raw["format"] != FORMAT_VERSION:
        raise RecordsError(
            f"{path} has format {raw['format']}; this version reads format {FORMAT_VERSION}",
            hint="read it with the version of vit-harness that wrote it",
        )
    if raw["key"] != key:
        raise RecordsError(f"{path} holds the outcomes of another record, {raw['key'][:32]}", hint=_AGAIN)
    return raw


# --- columns ---------------------------------------------------------------------------------------------------


def _columns(
    outcomes: Outcomes,
    labels: Sequence[int] | npt.NDArray[np.integer[Any]] | None,
    realised: Mapping[str, npt.NDArray[Any]],
    logits: npt.NDArray[np.float32] | None,
) -> list[tuple[str, Any, Any]]:
    """Name, Arrow type, and a function that gives the rows [start, stop), for every column but ``id``."""
    import numpy as np
    import pyarrow as pa

    num_variants, num_images = len(outcomes.variants), len(outcomes.positions)
    _check(outcomes, realised, logits)
    rows: list[tuple[str, Any, Any]] = []

    def per_image(name: str, values: npt.NDArray[Any], dtype: npt.DTypeLike) -> None:
        kind = pa.from_numpy_dtype(dtype)
        rows.append((name, kind, lambda a, b: pa.array(values[np.arange(a, b) % num_images].astype(dtype), kind)))

    per_image("position", outcomes.positions, np.int64)
    if labels is not None:
        of_split = np.asarray(labels)
        rows.append(
            (
                LABEL,
                pa.int32(),
                lambda a, b: pa.array(of_split[_image_places(outcomes, a, b)].astype(np.int32), pa.int32()),
            )
        )
    for name in dict.fromkeys(name for variant in outcomes.variants for name in variant):
        given = [variant.get(name) for variant in outcomes.variants]
        kind = _dim_type(name, given)
        dictionary = pa.array(given, kind)
        rows.append((name, kind, lambda a, b, values=dictionary: values.take(pa.array(np.arange(a, b) // num_images))))
    for name, values in outcomes.columns.items():
        flat, kind = values.reshape(-1), pa.from_numpy_dtype(values.dtype)
        rows.append((name, kind, lambda a, b, flat=flat, kind=kind: pa.array(flat[a:b], kind)))
    for name, values in realised.items():
        per_image(name, values, np.float32)
    if logits is not None:
        classes = logits.shape[2]
        table = logits.reshape(num_variants * num_images, classes)
        kind = pa.list_(pa.float32(), classes)
        rows.append(
            (
                "logits",
                kind,
                lambda a, b: pa.FixedSizeListArray.from_arrays(
                    pa.array(table[a:b].reshape(-1).astype(np.float32, copy=False)), classes
                ),
            )
        )
    return rows


def _check(
    outcomes: Outcomes, realised: Mapping[str, npt.NDArray[Any]], logits: npt.NDArray[np.float32] | None
) -> None:
    num_images = len(outcomes.positions)
    shape = (len(outcomes.variants), num_images)
    if not outcomes.variants:
        raise PluginError("outcomes without variants", hint="a probe with one answer per image has the one variant {}")
    wrong = [f"{name} {values.shape}" for name, values in outcomes.columns.items() if values.shape != shape]
    wrong += [f"{name} {values.shape}" for name, values in realised.items() if values.shape != (num_images,)]
    if outcomes.episodes is not None and (outcomes.episodes.ndim != 2 or len(outcomes.episodes) != shape[0]):
        wrong.append(f"episodes {outcomes.episodes.shape}")
    if logits is not None and (logits.ndim != 3 or logits.shape[:2] != shape):
        wrong.append(f"logits {logits.shape}")
    if wrong:
        raise PluginError(f"outcomes of {shape[0]} variants over {shape[1]} images hold {', '.join(wrong)}")
    names = [*_FIXED, "logits", *outcomes.columns, *realised]
    names += dict.fromkeys(name for variant in outcomes.variants for name in variant)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PluginError(
            f"outcome columns named {', '.join(twice)} twice",
            hint="id, position, label and logits are taken; dims, columns and realised quantities need other names",
        )


def _dim_type(name: str, values: Sequence[JSONScalar]) -> Any:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        kinds = {float}
    types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    if len(kinds) > 1 or not kinds <= set(types):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise PluginError(f"the dimension {name} of the outcomes mixes types: {found}")
    return types[kinds.pop()] if kinds else pa.null()


def _row_ranges(rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, _ROWS_AT_ONCE):
        yield start, min(start + _ROWS_AT_ONCE, rows)


def _image_places(outcomes: Outcomes, start: int, stop: int) -> npt.NDArray[np.int64]:
    import numpy as np

    places: npt.NDArray[np.int64] = outcomes.positions[np.arange(start, stop) % len(outcomes.positions)]
    return places


def _as_lists(episodes: npt.NDArray[np.float64]) -> list[list[float | None]]:
    """As JSON holds them: exactly, and None for an episode that was asked nothing."""
    return [[None if value != value else value for value in row] for row in episodes.tolist()]


# --- reading ---------------------------------------------------------------------------------------------------


def _read_episodes(raw: Mapping[str, Any]) -> npt.NDArray[np.float64] | None:
    import numpy as np

    if "episodes" not in raw:
        return None
    return np.array([[np.nan if v is None else v for v in row] for row in raw["episodes"]], np.float64).reshape(
        len(raw["variants"]), -1
    )


def _read_positions(file: Any, raw: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    import numpy as np

    return _read_column(file, "position", raw["images"]).astype(np.int64, copy=False)


def _read_per_variant(file: Any, raw: Mapping[str, Any], name: str) -> npt.NDArray[Any]:
    """A column (V, N): read as it is, or, for what is known of the image alone, the same for every variant."""
    import numpy as np

    shape = (len(raw["variants"]), raw["images"])
    if name in (*raw["realised"], LABEL):
        return np.broadcast_to(_read_column(file, name, shape[1]), shape)
    return _read_column(file, name, shape[0] * shape[1]).reshape(shape)


def _read_column(file: Any, name: str, count: int) -> npt.NDArray[Any]:
    """The first ``count`` rows of a column, filled into one array batch by batch."""
    import numpy as np

    values = np.empty(count, file.schema_arrow.field(name).type.to_pandas_dtype())
    for start, column in _batches(file, name, count):
        values[start : start + len(column)] = column.to_numpy(zero_copy_only=False)
    return values


def _read_logits(file: Any, num_variants: int, num_images: int) -> npt.NDArray[np.float32] | None:
    import numpy as np

    if "logits" not in file.schema_arrow.names:
        return None
    classes = file.schema_arrow.field("logits").type.list_size
    values = np.empty((num_variants * num_images, classes), np.float32)
    for start, column in _batches(file, "logits", len(values)):
        values[start : start + len(column)] = column.flatten().to_numpy().reshape(-1, classes)
    return values.reshape(num_variants, num_images, classes)


def _first_ids(file: Any, count: int) -> Iterator[str]:
    for _, column in _batches(file, "id", count):
        yield from column.to_pylist()


def _batches(file: Any, name: str, count: int) -> Iterator[tuple[int, Any]]:
    start = 0
    if count == 0:
        return
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[name], use_threads=False):
        column = batch.column(0).slice(0, count - start)
        yield start, column
        start += len(column)
        if start == count:
            return
