"""The outcomes of several contenders side by side: the same images or episodes, a number for each, and its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import stats
from harness.errors import RecordsError
from harness.outcome_files import read_outcomes
from harness.paired import mcnemar, paired_bootstrap, paired_t, permutation_test
from harness.protocols import MASK_GROUP

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.comparison.answers import Answer
    from harness.comparison.comparability import Asked, Side
    from harness.outcome_files import StoredOutcomes
    from harness.stats import Interval
    from harness.types import JSONScalar

CORRECT = "correct"
_ROUNDING = 1e-12
_CHECKED_IDS = 1000
_ALIASES = {"accuracy": CORRECT, "top1": CORRECT, "top5": "correct_top5"}


class Uncomparable(Exception):  # noqa: N818  # a question that is left out is no error
    """A question whose outcomes lack the metric, or hold it as something that has no mean; not an error by itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Answers of K contenders to one question, the best first: ``values`` (K, n) of the same n images or episodes.

    Seeds are averaged within each image. ``binary``: each value is one answer, right or wrong. ``groups``: (n,) where
    images that share masks are no independent units. ``dropped`` images are not in all contenders' outcomes.
    """

    dims: Mapping[str, JSONScalar]
    metric: str
    unit: str
    higher_is_better: bool
    sides: tuple[Side, ...]
    names: tuple[str, ...]
    values: npt.NDArray[np.float64]
    binary: bool
    episodes: bool
    groups: npt.NDArray[np.int64] | None
    dropped: int
    notes: tuple[str, ...]

    @property
    def n(self) -> int:
        """Images or episodes that are compared."""
        return len(self.values[0])

    @property
    def means(self) -> list[float]:
        """The mean of each contender."""
        return [float(row.mean()) for row in self.values]

    def difference(self, i: int, j: int) -> float:
        """Mean of ``i`` minus mean of ``j``; exactly zero where they differ by nothing but rounding."""
        difference = float((self.values[i] - self.values[j]).mean())
        return difference if abs(difference) > _ROUNDING else 0.0

    @property
    def num_groups(self) -> int | None:
        """How many groups of images share no mask with each other; None where each image has its own."""
        import numpy as np

        return None if self.groups is None else len(np.unique(self.groups))

    @property
    def units(self) -> str:
        """What is independent of each other."""
        return "episodes" if self.episodes else "images" if self.groups is None else "groups"

    @property
    def test_name(self) -> str:
        """The test that fits: ``paired_t``, ``mcnemar`` or ``permutation``."""
        if self.episodes:
            return "paired_t"
        return "mcnemar" if self.binary and self.groups is None else "permutation"

    def test(self, i: int, j: int) -> float:
        """The p-value of contenders ``i`` and ``j``; 1 where a single unit says nothing."""
        a, b = self.values[i], self.values[j]
        if self.episodes:
            return paired_t(a, b) if self.n > 1 else 1.0
        if self.test_name == "mcnemar":
            return mcnemar(a, b)
        return permutation_test(a, b, groups=self.groups)

    def difference_interval(self, i: int, j: int) -> Interval | None:
        """95 % interval of the mean of ``i`` minus ``j``; None where a single unit says nothing."""
        if self._single_unit():
            return None
        a, b = self.values[i], self.values[j]
        return stats.t_interval(a - b) if self.episodes else paired_bootstrap(a, b, groups=self.groups)

    def interval(self, i: int) -> Interval | None:
        """95 % interval of the mean of ``i``; where one record holds all of it, the one that the record has."""
        if self._single_unit():
            return None
        values = self.values[i]
        if self.episodes:
            return stats.t_interval(values)
        if self.groups is not None or len(self.sides[i].answers) > 1:
            return paired_bootstrap(values, 0 * values, groups=self.groups)
        return stats.wilson(int(values.sum()), self.n) if self.binary else stats.bootstrap_mean(values)

    def discordance(self, i: int, j: int) -> float:
        """Mean squared difference: the share of images that only one has right, where answers are right or wrong."""
        difference = self.values[i] - self.values[j]
        return float((difference * difference).mean())

    def _single_unit(self) -> bool:
        return self.num_groups == 1 or (self.episodes and self.n < 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One contender's numbers (n,) for one row of a probe: an answer per image, or an accuracy per episode."""

    side: Side
    head: JSONScalar
    positions: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    binary: bool
    groups: tuple[npt.NDArray[np.float32], ...]
    whole: bool
    """Whether every seed has answered every image of the others."""


def paired_rows(asked: Asked, metric: str | None, *, all_heads: bool) -> list[Paired]:
    """A :class:`Paired` for every row of the probe (shots, k) that at least two contenders have.

    Of a model with several heads the default one takes part, or each of them with ``all_heads``.

    Raises :class:`Uncomparable` where the outcomes have no such metric, and :class:`RecordsError` for outcomes that
    are missing, damaged, or of other images under the same positions.
    """
    rows: dict[tuple[tuple[str, JSONScalar], ...], list[_Row]] = {}
    heads: dict[str, dict[JSONScalar, None]] = {}
    check = _SameIds()
    for side in asked.sides:
        stored = [(answer, read_outcomes(answer.folder, answer.record.key)) for answer in side.answers]
        for answer, found in stored:
            check.add(answer, found)
        column, by_episode = _column(stored[0][1], metric)
        for dims, head, variants in _variants(stored[0][1]):
            heads.setdefault(side.label, {})[head] = None
            if all_heads or head == next(iter(heads[side.label])):
                row = _row(side, head, [found for _, found in stored], column, variants, by_episode=by_episode)
                rows.setdefault(dims, []).append(row)
    metric = "accuracy" if column == CORRECT else column
    return [
        _paired(dict(dims), metric, found, heads, by_episode=by_episode, all_heads=all_heads)
        for dims, found in rows.items()
        if len(found) > 1
    ]


def _column(stored: StoredOutcomes, metric: str | None) -> tuple[str, bool]:
    """The column to compare, and whether it is that of episodes.

    Without a metric whether answers are right; where a probe gives none, the first number it has of every image, such
    as ``average_precision``.
    """
    name = _ALIASES.get(metric or CORRECT, metric or CORRECT)
    if name == CORRECT and stored.outcomes.episodes is not None:
        return name, True
    columns = stored.outcomes.columns
    usable = [name for name, values in columns.items() if values.dtype.kind in "bf"]
    if name in usable:
        return name, False
    fractional = [found for found in usable if columns[found].dtype.kind == "f"]
    if metric is None and CORRECT not in columns and fractional:
        return fractional[0], False
    there = f"there are {', '.join(usable)}" if usable else "there are none"
    if name in columns:
        raise Uncomparable(f"{name} holds whole numbers ({columns[name].dtype}), which have no mean; {there}")
    raise Uncomparable(f"outcomes have no column {name!r}; {there}")


def _variants(
    stored: StoredOutcomes,
) -> list[tuple[tuple[tuple[str, JSONScalar], ...], JSONScalar, list[int]]]:
    """Rows of the probe: dims without seed and head, the head, and the variants (one per seed)."""
    rows: dict[tuple[tuple[tuple[str, JSONScalar], ...], JSONScalar], list[int]] = {}
    for place, variant in enumerate(stored.outcomes.variants):
        dims = tuple((name, value) for name, value in variant.items() if name not in ("seed", "head"))
        rows.setdefault((dims, variant.get("head")), []).append(place)
    return [(dims, head, variants) for (dims, head), variants in rows.items()]


def _row(
    side: Side,
    head: JSONScalar,
    stored: Sequence[StoredOutcomes],
    column: str,
    variants: list[int],
    *,
    by_episode: bool,
) -> _Row:
    import numpy as np

    positions, whole = _common([found.outcomes.positions for found in stored])
    total: npt.NDArray[np.float64] | float = 0.0
    groups = []
    for found in stored:
        places = np.searchsorted(found.outcomes.positions, positions)
        source = found.outcomes.episodes if by_episode else found.outcomes.columns[column]
        if source is None:
            raise Uncomparable("some outcomes have episodes and others have none")
        values = source[list(variants)] if by_episode else source[list(variants)][:, places]
        total = total + values.mean(axis=0, dtype=np.float64)
        if MASK_GROUP in found.realised:
            groups.append(found.realised[MASK_GROUP][places])
    return _Row(
        side=side,
        head=head,
        positions=positions,
        values=np.asarray(total) / len(stored),
        binary=not by_episode and len(stored) == len(variants) == 1 and values.dtype.kind == "b",
        groups=tuple(groups),
        whole=whole,
    )


def _paired(
    dims: Mapping[str, JSONScalar],
    metric: str,
    rows: Sequence[_Row],
    heads: Mapping[str, Mapping[JSONScalar, None]],
    *,
    by_episode: bool,
    all_heads: bool,
) -> Paired:
    import numpy as np

    unit, higher = _meaning(rows, metric)
    groups = None
    if by_episode:
        if len({len(row.values) for row in rows}) > 1 or not all(
            row.whole and np.array_equal(row.positions, rows[0].positions) for row in rows
        ):
            raise Uncomparable("episodes were drawn from images that not all contenders have answered")
        values = np.stack([row.values for row in rows])
        answered = len(rows[0].values)
    else:
        images, _ = _common([row.positions for row in rows])
        places = [np.searchsorted(row.positions, images) for row in rows]
        values = np.stack([row.values[place] for row, place in zip(rows, places, strict=True)])
        answered = len(np.unique(np.concatenate([row.positions for row in rows])))
        shared = [group[place] for row, place in zip(rows, places, strict=True) for group in row.groups]
        groups = _joined(shared) if shared else None
    defined = np.isfinite(values).all(axis=0)
    values = values[:, defined]
    if not values.shape[1]:
        raise Uncomparable("contenders have answered no image in common")
    several = {label: len(found) > 1 for label, found in heads.items()}
    names = [
        f"{row.side.label} {row.head}" if all_heads and several[row.side.label] else row.side.label for row in rows
    ]
    means = values.mean(axis=1).round(12)  # equal means are equal, whatever the order of summation
    order = sorted(range(len(rows)), key=lambda place: (-means[place] if higher else means[place], place))
    said = [
        f"{row.side.label} by its default head, {row.head}, of {', '.join(map(str, heads[row.side.label]))}"
        for row in rows
        if several[row.side.label] and not all_heads
    ]
    return Paired(
        dims=dims,
        metric=metric,
        unit=unit,
        higher_is_better=higher,
        sides=tuple(rows[place].side for place in order),
        names=tuple(names[place] for place in order),
        values=values[order],
        binary=all(row.binary for row in rows),
        episodes=by_episode,
        groups=None if groups is None else groups[defined],
        dropped=answered - values.shape[1],
        notes=tuple(said),
    )


def _meaning(rows: Sequence[_Row], metric: str) -> tuple[str, bool]:
    """Unit of a metric and whether more is better, as a measurement of the records says, else as the values look."""
    for row in rows:
        for found in row.side.record.measurements:
            if found.metric in (metric, f"mean_{metric}"):
                return found.unit, found.higher_is_better is not False
    within = all(bool(((row.values >= 0) & (row.values <= 1)).all()) for row in rows)
    return ("fraction" if within else ""), True


def _common(found: Sequence[npt.NDArray[np.int64]]) -> tuple[npt.NDArray[np.int64], bool]:
    """The positions that all hold, rising, and whether all hold the same."""
    import numpy as np

    common, alike = found[0], True
    for positions in found[1:]:
        if not np.array_equal(common, positions):
            common, alike = np.intersect1d(common, positions, assume_unique=True), False
    return common, alike


def _joined(shared: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.int64]:
    """The finest groups (n,) of images such that no mask of any seed is shared between two of them."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, first = len(shared[0]), len(shared[0])
    rows, columns = [], []
    for groups in shared:
        _, codes = np.unique(groups, return_inverse=True)
        rows.append(np.arange(n))
        columns.append(first + codes)
        first += int(codes.max(initial=-1)) + 1
    edges = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(edges[0]), np.int8), edges), shape=(first, first))
    _, joined = connected_components(graph, directed=False)
    return np.asarray(joined[:n], dtype=np.int64)


class _SameIds:
    """That outcomes of a question speak of the same images: up to 1000 ids, evenly spread, under equal positions.

    Any shift of an index shows in those; that nothing else changed is what the dataset's fingerprint says.
    """

    def __init__(self) -> None:
        self._first: tuple[Answer, StoredOutcomes] | None = None

    def add(self, answer: Answer, stored: StoredOutcomes) -> None:
        """Raises :class:`RecordsError` for another id under a position that the first outcomes have, too."""
        import numpy as np

        if self._first is None:
            self._first = answer, stored
            return
        other, known = self._first
        positions = stored.outcomes.positions
        shared, here, there = np.intersect1d(
            positions, known.outcomes.positions, assume_unique=True, return_indices=True
        )
        checked = np.unique(np.linspace(0, len(shared) - 1, min(len(shared), _CHECKED_IDS)).astype(np.int64))
        for one, two in zip(here[checked].tolist(), there[checked].tolist(), strict=True):
            if stored.ids[one] != known.ids[two]:
                raise RecordsError(
                    f"position {positions[one]} is image {stored.ids[one]!r} in record {answer.record.key[:16]} of "
                    f"{answer.run} and {known.ids[two]!r} in record {other.record.key[:16]} of {other.run}",
                    hint="the index of the dataset has changed between the runs; run the older one again",
                )
