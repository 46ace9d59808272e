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
_FIRST_CAPACITY = 256
_SHOWN = 5


class OutcomeLog:
    """What a probe found for each image, kept in the fewest bytes: 4 for the position plus the columns.

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
        self._size = 0
        self._positions = np.empty(0, _POSITION)
        self._columns = {name: np.empty((len(self._variants), 0), dtype) for name, dtype in self._dtypes.items()}

    def __len__(self) -> int:
        return self._size

    @property
    def variants(self) -> tuple[Mapping[str, JSONScalar], ...]:
        """The dims of each row of the columns."""
        return self._variants

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
        start, stop = self._size, self._size + len(positions)
        self._reserve(stop)
        self._positions[start:stop] = positions
        for name, column in self._columns.items():
            column[:, start:stop] = values[name]
        self._size = stop

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
        theirs = other._positions[: other._size]
        both = np.intersect1d(self._positions[: self._size], theirs)
        if len(both):
            raise DataError(
                f"both sides of a merge hold {_some('position', both)}",
                hint="shards must not share images; merge each shard once",
            )
        self.update(theirs, {name: column[:, : other._size] for name, column in other._columns.items()})

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """``positions`` (N,) int32 and ``column.<name>`` (V, N), as logged; copies that safetensors can hold."""
        state: dict[str, npt.NDArray[Any]] = {"positions": self._positions[: self._size].copy()}
        for name, column in self._columns.items():
            state[f"column.{name}"] = column[:, : self._size].copy()
        return state

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
        self._positions = np.array(positions)
        self._columns = {name: np.array(state[f"column.{name}"]) for name in self._dtypes}
        self._size = len(positions)

    def table(self) -> Outcomes:
        """Everything logged, sorted by position. Raises :class:`~harness.errors.DataError` for one logged twice."""
        positions = self._positions[: self._size].astype(np.int64)
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
            columns={name: column[:, order] for name, column in self._columns.items()},
        )

    def _reserve(self, size: int) -> None:
        capacity = len(self._positions)
        if size <= capacity:
            return
        # Doubling keeps appending linear in the number of images, whatever the batch size.
        capacity = max(size, 2 * capacity, _FIRST_CAPACITY)
        positions = np.empty(capacity, _POSITION)
        positions[: self._size] = self._positions[: self._size]
        self._positions = positions
        for name, old in self._columns.items():
            column = np.empty((len(self._variants), capacity), old.dtype)
            column[:, : self._size] = old[:, : self._size]
            self._columns[name] = column

    def _check_names(self, given: Mapping[str, object], what: str) -> None:
        if set(given) != set(self._dtypes):
            raise ParameterError(
                f"{what} must hold the columns {', '.join(self._dtypes)}, not {', '.join(given) or 'none'}"
            )


def _some(noun: str, values: npt.NDArray[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:_SHOWN])
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return f"{noun}{'s' if len(values) > 1 else ''} {shown}{more}"
