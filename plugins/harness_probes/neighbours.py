"""Which rows of a table are most similar to a query, by cosine: exactly, or through an approximate index."""

from __future__ import annotations

import importlib.util
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from harness.errors import CapabilityError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

_UNIT_FLOOR = 1e-12
_STEPS = 10**9
_ROW_BITS = 32
_NO_ROW = np.iinfo(np.int64).max
_BLOCK_BYTES = 2**23
_RESCORED_BYTES = 2**23
_TOGETHER = 32
_QUERIES_AT_ONCE = 1024
_MARGIN = 32
_TRAINED_PER_LIST = 64


def unit(x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Rows (N, D) at length 1 in float64; a row of zeros stays one."""
    x = x.astype(np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _UNIT_FLOOR))


# A rank key is an int64 that sorts as neighbours do: the similarity falling, in steps of 1e-9, then the row rising.
# Keys of different rows differ, so every way of sorting them gives the same order. What differs by rounding alone is
# tied, and the order does not depend on which queries were asked together.


def rank_keys(similarities: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Keys of ``similarities`` (n, m) in [-1, 1] of ``rows``, (m,) or (n, m); a row of -1 is none and sorts last."""
    steps = np.rint(similarities * _STEPS).astype(np.int64)
    keys = ((np.clip(_STEPS - steps, 0, 2 * _STEPS)) << _ROW_BITS) | rows
    return np.asarray(np.where(rows < 0, _NO_ROW, keys))


def rows_of(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The row of each key, -1 for none."""
    return np.asarray(np.where(keys == _NO_ROW, -1, keys & (2**_ROW_BITS - 1)))


def similarities_of(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The similarity of each key in steps of 1e-9, minus infinity for none."""
    return np.asarray(np.where(keys == _NO_ROW, -np.inf, (_STEPS - (keys >> _ROW_BITS)) / _STEPS))


class Gallery:
    """The rows that queries are compared with: the table itself, which is never copied, and the length of each row.

    ``x`` (N, D) float32, finite, may be memory-mapped; nobody may write into it afterwards.
    """

    def __init__(self, x: npt.NDArray[np.float32]) -> None:
        self._x = np.asarray(x)
        self.width = self._x.shape[1]
        self.rows_per_block = min(max(_BLOCK_BYTES // (4 * self.width), 1), len(self._x))
        lengths = [np.linalg.norm(self._x[part].astype(np.float64), axis=1) for part in self._parts()]
        self._lengths = np.maximum(np.concatenate(lengths), _UNIT_FLOOR)

    def __len__(self) -> int:
        return len(self._x)

    def rows(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """A copy (n, D) of the rows at ``places``, as they came."""
        return self._x[places]

    def unit_blocks(self, dtype: npt.DTypeLike = np.float32) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Consecutive rows at length 1, a block at a time; each block is overwritten by the next."""
        inverse = (1 / self._lengths).astype(dtype)
        buffer = np.empty((self.rows_per_block, self.width), dtype)
        for part in self._parts():
            block = buffer[: part.stop - part.start]
            np.multiply(self._x[part], inverse[part, None], out=block)
            yield part, block

    def candidate_keys(
        self, queries: npt.NDArray[np.float64], candidates: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Keys (n, m), sorted, of ``candidates`` (n, m) for unit ``queries`` (n, D); -1 is no candidate.

        Each similarity is a sum of its own in float64: equal rows are equally similar.
        """
        n, m = candidates.shape
        found = np.empty((n, m), np.float64)
        together = max(_RESCORED_BYTES // (8 * max(m, 1) * self.width), 1)
        for start in range(0, n, together):
            part = slice(start, start + together)
            # np.sum adds up every row by itself; a matrix product's last bits depend on where a row stands in it.
            products = np.multiply(self._x[candidates[part]], queries[part, None], dtype=np.float64)
            found[part] = products.sum(axis=2)
        keys = rank_keys(found / self._lengths[candidates], candidates)
        keys.sort(axis=1)
        return keys

    def all_keys(self, queries: npt.NDArray[np.float64]) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
        """Rows and their keys (n, B), not sorted, for unit ``queries`` (n, D), block by block.

        Queries are multiplied in batches of one size, whatever n is: another shape may round otherwise.
        """
        n = len(queries)
        padded = np.zeros((-(-n // _TOGETHER) * _TOGETHER, self.width))
        padded[:n] = queries
        parts = [torch.from_numpy(padded[start : start + _TOGETHER]) for start in range(0, len(padded), _TOGETHER)]
        for part, block in self.unit_blocks(np.float64):
            columns = torch.from_numpy(block).T
            similarities = torch.cat([rows @ columns for rows in parts]).numpy()[:n]
            yield part, rank_keys(similarities, np.arange(part.start, part.stop))

    def _parts(self) -> Iterator[slice]:
        for start in range(0, len(self._x), self.rows_per_block):
            yield slice(start, min(start + self.rows_per_block, len(self._x)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Rows (n, m) int64 that may be the most similar, -1 for none.

    ``bound`` (n,): no other row is more similar than this; minus infinity where an index promises nothing.
    """

    rows: npt.NDArray[np.int64]
    bound: npt.NDArray[np.float64]


class Search(Protocol):
    """A way to find candidates quickly."""

    def candidates(self, queries: npt.NDArray[np.float64], count: int) -> Candidates:
        """About ``count`` candidates for every one of the unit ``queries`` (n, D)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The k most similar rows of each query: ``rows`` (n, k) int64, ``similarities`` (n, k) float64 that fall.

    Equally similar rows (to 1e-9) stand in rising order. Where an index found fewer than k, -1 and minus infinity.
    """

    rows: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float64]


def nearest(gallery: Gallery, search: Search, queries: npt.NDArray[np.floating], k: int) -> Neighbours:
    """The ``k`` most similar rows, at most len(gallery), for finite ``queries`` (n, D), in bounded memory.

    Candidates are found in single precision and compared in double; where they may not hold all of the k, every row
    of the gallery is compared in double. So what an exact search finds depends neither on the library that searches
    nor on the queries asked together.
    """
    units, keys = unit(queries), np.empty((len(queries), k), np.int64)
    for start in range(0, len(units), _QUERIES_AT_ONCE):
        part = units[start : start + _QUERIES_AT_ONCE]
        found = search.candidates(part, min(k + _MARGIN, len(gallery)))
        best = gallery.candidate_keys(part, found.rows)[:, :k]
        doubtful = np.flatnonzero(similarities_of(best[:, -1]) - 1 / _STEPS < found.bound)
        if len(doubtful):
            best[doubtful] = _best_of_all(gallery, part[doubtful], k)
        keys[start : start + len(part)] = best
    return Neighbours(rows=rows_of(keys), similarities=similarities_of(keys))


def _best_of_all(gallery: Gallery, queries: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.int64]:
    best = np.empty((len(queries), 0), np.int64)
    for _, keys in gallery.all_keys(queries):
        best = np.concatenate([best, keys], axis=1)
        if best.shape[1] > k:
            best = np.partition(best, k - 1, axis=1)[:, :k]
    best.sort(axis=1)
    return best


class ExactSearch:
    """Every row is compared, block by block, by torch or by faiss, on the CPU."""

    def __init__(self, gallery: Gallery, *, with_faiss: bool = False) -> None:
        self._gallery = gallery
        self._with_faiss = with_faiss

    def candidates(self, queries: npt.NDArray[np.float64], count: int) -> Candidates:
        """The ``count`` most similar in single precision, with the bound that its rounding leaves."""
        asked = queries.astype(np.float32)
        # The best so far, and beside them the similarities to one block. What is small is left to NumPy: every step
        # that torch shares out to threads waits for the last of them, which costs most where others use the machine.
        room = np.full((len(asked), count + self._gallery.rows_per_block), -np.inf, np.float32)
        rows = np.full((len(asked), count), -1)
        for part, block in self._gallery.unit_blocks():
            columns = self._compare(asked, block, count, room[:, count:])
            seen = torch.from_numpy(room)[:, : count + columns.shape[-1]]
            found = seen.topk(count, dim=1, sorted=False)
            places = found.indices.numpy()
            new = np.maximum(places - count, 0)
            new = part.start + (new if columns.ndim == 1 else np.take_along_axis(columns, new, axis=1))
            rows = np.where(places < count, np.take_along_axis(rows, np.minimum(places, count - 1), axis=1), new)
            room[:, :count] = found.values.numpy()
        if count == len(self._gallery):
            return Candidates(rows=rows, bound=np.full(len(asked), -np.inf))
        # Products of unit vectors with D terms are off by D + 3 roundings at most, three of which are the vectors' own.
        exact = self._with_faiss or torch.get_float32_matmul_precision() == "highest"
        error = (self._gallery.width + 3) * (2.0**-24 if exact else 2.0**-8)
        return Candidates(rows=rows, bound=room[:, :count].min(axis=1).astype(np.float64) + error)

    def _compare(
        self, asked: npt.NDArray[np.float32], block: npt.NDArray[np.float32], count: int, room: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.int64]:
        """Fill ``room`` from the left with similarities to rows of the block.

        Returns which: all (B,) of them, or (n, m), the best ``count`` of each query or all if there are not so many.
        """
        if not self._with_faiss:
            # Autocast lets products into a given place alone.
            similarities = torch.from_numpy(room)[:, : len(block)]
            torch.mm(torch.from_numpy(asked), torch.from_numpy(block).T, out=similarities)
            return np.arange(len(block))
        import faiss

        with faiss_threads(torch.get_num_threads()):
            values, columns = faiss.knn(asked, block, min(count, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        room[:, : columns.shape[1]] = values
        return np.asarray(columns)


class IndexSearch:
    """The candidates of a faiss index by inner product, which keeps a normalised copy of the gallery."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def candidates(self, queries: npt.NDArray[np.float64], count: int) -> Candidates:
        """What the index finds; it may miss any row, and find fewer than ``count``."""
        with faiss_threads(torch.get_num_threads()):
            _, rows = self._index.search(queries.astype(np.float32), count)
        return Candidates(rows=rows, bound=np.full(len(rows), -np.inf))


# Indices are built by one thread: with several, faiss links and adds up in an order that changes from run to run.


def inverted_lists(gallery: Gallery, *, nlist: int | None, nprobe: int) -> IndexSearch:
    """Rows sorted into ``nlist`` lists by spherical k-means (None: the square root of their number); the ``nprobe``
    lists nearest to a query are searched (faiss ``IndexIVFFlat``).

    The lists are found on up to 64 rows each, chosen with a fixed seed. Raises
    :class:`~harness.errors.DataError` for more lists than rows.
    """
    import faiss

    nlist = nlist or max(round(math.sqrt(len(gallery))), 1)
    if nlist > len(gallery):
        raise DataError(
            f"knn: {nlist} lists need that many support images, there are {len(gallery)}",
            hint="leave nlist out, or take index=flat",
        )
    count = min(_TRAINED_PER_LIST * nlist, len(gallery))
    sample = np.sort(np.random.default_rng(0).choice(len(gallery), count, replace=False))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(gallery.width), gallery.width, nlist, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 0
    index.cp.spherical = True
    index.cp.min_points_per_centroid = 1  # a small support is meant; faiss would warn on standard error
    index.nprobe = min(nprobe, nlist)
    with faiss_threads(1):
        index.train(unit(gallery.rows(sample)).astype(np.float32))
        for _, block in gallery.unit_blocks():
            index.add(block)
    return IndexSearch(index)


def small_world_graph(gallery: Gallery, *, links: int, ef_search: int) -> IndexSearch:
    """A hierarchical graph of ``links`` per row, walked with ``ef_search`` candidates in hand (faiss ``IndexHNSWFlat``;
    Malkov and Yashunin, 2018).
    """
    import faiss

    index = faiss.IndexHNSWFlat(gallery.width, links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = ef_search
    with faiss_threads(1):
        for _, block in gallery.unit_blocks():
            index.add(block)
    return IndexSearch(index)


def recalls(gallery: Gallery, search: Search, ks: Sequence[int], *, most: int) -> npt.NDArray[np.float64]:
    """The share (len(ks), n) of the k most similar rows that ``search`` finds, for up to ``most`` rows of the gallery.

    Each is asked against all others. A row as similar as the k-th counts as one of the k. Without two rows n is 0.
    """
    others = len(gallery) - 1
    if others < 1:
        return np.empty((len(ks), 0))
    asked = np.unique(np.linspace(0, others, min(most, others + 1)).astype(np.int64))
    k = min(max(ks), others)
    exact, found = (
        _without(nearest(gallery, way, gallery.rows(asked), k + 1), asked) for way in (ExactSearch(gallery), search)
    )
    sizes = [min(size, k) for size in ks]
    return np.stack([(found[:, :size] >= exact[:, size - 1, None]).sum(axis=1) / size for size in sizes])


def _without(neighbours: Neighbours, own: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Similarities (n, k) of the k + 1 neighbours without the row itself, or without the last where it is not there."""
    is_own = neighbours.rows == own[:, None]
    order = np.argsort(is_own, axis=1, kind="stable")
    return np.take_along_axis(neighbours.similarities, order, axis=1)[:, :-1]


def has_faiss() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def require_faiss(what: str) -> None:
    """Raise :class:`~harness.errors.CapabilityError` where ``what`` needs faiss, and it is not installed."""
    if not has_faiss():
        raise CapabilityError(
            f"{what} needs faiss, which is not installed", hint="pip install faiss-cpu, or index=flat"
        )


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """faiss with ``count`` threads, afterwards as before."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
