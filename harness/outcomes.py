"""Per-image outcomes of a probe: compact, mergeable and serialisable; every number is reduced from them at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import DataError, HarnessError, ParameterError
from harness.protocols import Outcomes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from harness.types import JSONScalar

_POSITION = np.dtype(np.int32)
_LARGEST_BLOCK = 8192
_SHOWN = 5


class OutcomeLog:
    """What a probe found for each image, kept in the fewest bytes: what stands in the columns.

    Nothing for the position of an image that follows the one logged before it (4 bytes otherwise), and nothing for
    columns that hold the same value for thousands of images.

    ``variants``: one dims mapping per row of the columns (``{"shots": 5, "seed": 0}``; ``{}`` for a probe with one
    answer per image). ``columns``: dtype by column name; ``prediction`` int32 and ``correct`` bool wherever the probe
    classifies. Every column is one (V, N) array. Rows may be logged in any order and any batching; :meth:`table`
    sorts them by position, so equal contents give equal tables.

    Raises :class:`~harness.errors.ParameterError` for no variants, equal variants, no columns, or dtypes that are
    neither bool, integer nor floating point.

    >>> log = OutcomeLog(variants=({},), columns={"correct": np.dtype(bool)})
    >>> log.update(np.array([7, 3]), {"correct": np.array([[True, False]])})
    >>> log.table().positions.tolist(), log.table().columns["correct"].tolist()
    ([3, 7], [[False, True]])
    """

    def __init__(self, *, variants: Sequence[Mapping[str, JSONScalar]], columns: Mapping[str, npt.DTypeLike]) -> None:
        self._variants = tuple(dict(variant) for variant in variants)
        self._dtypes = {name: np.dtype(dtype) for name, dtype in columns.items()}
        if not self._variants or any(v in self._variants[:i] for i, v in enumerate(self._variants)):
            raise ParameterError(f"outcomes need variants that all differ, not {list(self._variants)}")
        if not self._dtypes or any(dtype.kind not in "biuf" for dtype in self._dtypes.values()):
            raise ParameterError(f"outcomes need columns of bool, integer or floating point, not {self._dtypes}")
        self._clear()

    def _clear(self) -> None:
        self._blocks: list[_Block] = []
        self._size = 0
        self._rising = True
        self._lowest, self._highest = 2**31, -1

    def __len__(self) -> int:
        return self._size

    @property
    def variants(self) -> tuple[Mapping[str, JSONScalar], ...]:
        """The dims of each row of the columns."""
        return self._variants

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._dtypes)

    def update(self, positions: npt.NDArray[np.signedinteger[Any]], values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Log N images: their ``positions`` (N,) in the split's index, and for every column its (V, N) ``values``.

        The arrays are copied. Raises :class:`~harness.errors.ParameterError` for columns, shapes or types that differ
        from those declared, and for positions outside [0, 2**31). A position logged twice is found by :meth:`table`.
        """
        positions = np.asarray(positions)
        if positions.ndim != 1 or positions.dtype.kind not in "iu":
            raise ParameterError(f"positions must be (N,) integers, not {positions.shape} {positions.dtype}")
        if len(positions) and not 0 <= positions.min() <= positions.max() < 2**31:
            raise ParameterError(f"positions must lie in [0, 2**31), not in [{positions.min()}, {positions.max()}]")
        self._check_names(values, "values")
        shape = (len(self._variants), len(positions))
        for name, dtype in self._dtypes.items():
            found = np.asarray(values[name])
            if found.shape != shape or not np.can_cast(found.dtype, dtype, "same_kind"):
                raise ParameterError(f"column {name!r} takes {shape} {dtype}, not {found.shape} {found.dtype}")
        self._append(positions, {name: np.asarray(column) for name, column in values.items()})

    def merge(self, other: OutcomeLog) -> None:
        """Add what ``other``, of the same variants and columns, has logged of other images.

        Raises :class:`~harness.errors.ParameterError` for another layout and :class:`~harness.errors.DataError` for
        positions that both hold.
        """
        if self._variants != other._variants or self._dtypes != other._dtypes:
            raise ParameterError(
                f"cannot merge outcomes of {list(other._variants)} x {other._dtypes} "
                f"into {list(self._variants)} x {self._dtypes}"
            )
        if other._lowest <= self._highest and self._lowest <= other._highest:
            both = np.intersect1d(self._positions(_POSITION), other._positions(_POSITION))
            if len(both):
                raise DataError(
                    f"both sides of a merge hold {_some('position', both)}",
                    hint="shards must not share images; merge each shard once",
                )
        for block in list(other._blocks):
            self._append(block.filled_positions(), block.filled_columns())

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """``positions`` (N,) int32 and ``column.<name>`` (V, N), as logged; copies that safetensors can hold."""
        state: dict[str, npt.NDArray[Any]] = {"positions": self._positions(_POSITION)}
        return state | {f"column.{name}": self._column(name) for name in self._dtypes}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Replace the contents by those of :meth:`state_dict` of a log of the same layout.

        Raises :class:`~harness.errors.HarnessError` for missing or unknown keys, other shapes or other types.
        """
        expected = {"positions", *(f"column.{name}" for name in self._dtypes)}
        if set(state) != expected:
            raise HarnessError(
                f"a state of outcomes holds {', '.join(sorted(expected))}, not {', '.join(sorted(state)) or 'nothing'}",
                hint="the checkpoint belongs to another probe or version; delete it to start this cell again",
            )
        positions = state["positions"]
        wanted: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {"positions": ((len(positions),), _POSITION)}
        wanted |= {f"column.{n}": ((len(self._variants), len(positions)), dtype) for n, dtype in self._dtypes.items()}
        for name, (shape, dtype) in wanted.items():
            if state[name].shape != shape or state[name].dtype != dtype:
                raise HarnessError(
                    f"a state of outcomes needs {name} as {shape} {dtype}, not {state[name].shape} {state[name].dtype}",
                    hint="the checkpoint belongs to another probe or version; delete it to start this cell again",
                )
        self._clear()
        self._append(positions, {name: state[f"column.{name}"] for name in self._dtypes})

    def table(self) -> Outcomes:
        """Everything logged, sorted by position. Raises :class:`~harness.errors.DataError` for one logged twice."""
        positions = self._positions(np.dtype(np.int64))
        columns = {name: self._column(name) for name in self._dtypes}
        if self._rising:
            return Outcomes(positions=positions, variants=self._variants, columns=columns)
        order = np.argsort(positions)
        positions = positions[order]
        twice = np.unique(positions[1:][positions[1:] == positions[:-1]])
        if len(twice):
            raise DataError(
                f"{_some('position', twice)} logged more than once",
                hint="every image of a split is seen once; delete the checkpoint if this run was resumed from one",
            )
        return Outcomes(
            positions=positions,
            variants=self._variants,
            columns={name: column[:, order] for name, column in columns.items()},
        )

    def _append(self, positions: npt.NDArray[np.signedinteger[Any]], values: Mapping[str, npt.NDArray[Any]]) -> None:
        if not len(positions):
            return
        low, high = int(positions.min()), int(positions.max())
        self._rising &= low > self._highest and bool((positions[1:] > positions[:-1]).all())
        self._lowest, self._highest = min(self._lowest, low), max(self._highest, high)
        start = 0
        while start < len(positions):
            if not self._blocks or not self._blocks[-1].room:
                # What is logged never moves: no copies while the log grows, and no holes left behind by them.
                capacity = max(len(positions) - start, min(self._size, _LARGEST_BLOCK))
                self._blocks.append(_Block(capacity, len(self._variants), self._dtypes))
            stop = start + min(self._blocks[-1].room, len(positions) - start)
            self._blocks[-1].append(
                positions[start:stop], {name: column[:, start:stop] for name, column in values.items()}
            )
            self._size += stop - start
            start = stop

    def _positions(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        parts = [block.filled_positions() for block in self._blocks]
        return np.concatenate(parts, dtype=dtype) if parts else np.empty(0, dtype)

    def _column(self, name: str) -> npt.NDArray[Any]:
        parts = [block.filled_columns()[name] for block in self._blocks]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(self._variants), 0), self._dtypes[name])

    def _check_names(self, given: Mapping[str, object], what: str) -> None:
        if set(given) != set(self._dtypes):
            raise ParameterError(
                f"{what} must hold the columns {', '.join(self._dtypes)}, not {', '.join(given) or 'none'}"
            )


class _Block:
    """Room for the outcomes of ``capacity`` images, filled from the left.

    Positions take no memory for as long as they count up from the first, and a column takes none for as long as each
    of its rows holds one value (what a perturbation does alike to every image).
    """

    __slots__ = ("_columns", "_first", "_positions", "_rows", "_size", "capacity")

    def __init__(self, capacity: int, num_variants: int, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        self.capacity = capacity
        self._size = 0
        self._first = 0
        self._positions: npt.NDArray[np.int32] | None = None
        self._rows = {name: np.zeros((num_variants, 1), dtype) for name, dtype in dtypes.items()}
        self._columns: dict[str, npt.NDArray[Any]] = {}

    @property
    def room(self) -> int:
        return self.capacity - self._size

    @property
    def nbytes(self) -> int:
        """What its arrays take, room that is not yet filled included."""
        held = [*self._rows.values(), *self._columns.values()]
        return sum(array.nbytes for array in held) + (0 if self._positions is None else self._positions.nbytes)

    def append(self, positions: npt.NDArray[np.signedinteger[Any]], values: Mapping[str, npt.NDArray[Any]]) -> None:
        start, stop = self._size, self._size + len(positions)
        if not start:
            self._first = int(positions[0])
        if self._positions is None and not np.array_equal(
            positions, np.arange(self._first + start, self._first + stop)
        ):
            filled = self.filled_positions()
            self._positions = np.empty(self.capacity, _POSITION)
            self._positions[:start] = filled
        if self._positions is not None:
            self._positions[start:stop] = positions
        for name, row in self._rows.items():
            if not start:
                row[:] = values[name][:, :1]
            if name not in self._columns and not (values[name] == row).all():
                column = np.empty((len(row), self.capacity), row.dtype)
                column[:, :start] = row
                self._columns[name] = column
            if name in self._columns:
                self._columns[name][:, start:stop] = values[name]
        self._size = stop

    def filled_positions(self) -> npt.NDArray[np.int32]:
        if self._positions is None:
            return np.arange(self._first, self._first + self._size, dtype=_POSITION)
        return self._positions[: self._size]

    def filled_columns(self) -> dict[str, npt.NDArray[Any]]:
        return {
            name: self._columns[name][:, : self._size]
            if name in self._columns
            else np.broadcast_to(row, (len(row), self._size))
            for name, row in self._rows.items()
        }


def _some(noun: str, values: npt.NDArray[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:_SHOWN])
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return f"{noun}{'s' if len(values) > 1 else ''} {shown}{more}"
