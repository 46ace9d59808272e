"""Models compared on the same images or episodes: differences, tests, letters, and how many images would be needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from harness.comparison.answers import answers_of
from harness.comparison.comparability import allowed_axes, match
from harness.comparison.pairing import Paired, Uncomparable, paired_rows
from harness.errors import UsageError
from harness.letters import letters
from harness.paired import holm, images_needed

if TYPE_CHECKING:
    from harness.api import RunResult
    from harness.comparison.comparability import Asked, Side
    from harness.report.labels import Labels
    from harness.types import JSONScalar, JSONValue

Family = Literal["question", "all"]
FAMILIES: tuple[Family, ...] = ("question", "all")
"""Over which pairs p-values are adjusted: those of one question, or those of everything compared."""

POWER = 0.8
"""Probability with which :attr:`Pair.needed` images would separate a pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One model's answer to a question: its mean with the 95 % interval that ``interval`` names, and its letters.

    ``name`` is unique within the question: the model, and what else tells it from others (run, head, view).
    ``low`` and ``high`` are None where nothing says how far it may vary. ``keys`` are those of its records.
    """

    name: str
    model: str
    weights: str
    untrained: bool
    run: str
    keys: tuple[str, ...]
    value: float
    low: float | None
    high: float | None
    interval: str | None
    letters: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two contenders of a question, the better first: ``difference`` is ``first`` minus ``second``.

    ``p`` as the question's test gives it, ``p_adjusted`` by Holm over the family, ``separable`` where that is at most
    alpha. ``discordance`` is the mean squared difference of an image: the share that only one has right, where answers
    are right or wrong. ``needed`` images (or episodes) would separate the two with a probability of :data:`POWER` at
    this difference, this discordance and the strictest alpha of the family, alpha / pairs; None for no difference,
    and where images share masks.
    """

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    interval: str | None
    p: float
    p_adjusted: float
    separable: bool
    discordance: float
    needed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything that the contenders were asked alike, and how they compare, the best first.

    ``test`` is ``mcnemar``, ``permutation`` or ``paired_t``; ``units`` what it takes for independent: ``images``,
    ``groups`` (of images that share masks) or ``episodes``. ``n`` images or episodes are compared, which all have;
    ``dropped`` more are not in all. ``groups``: how many groups of images share no mask, None where each image has its
    own. ``differing`` gives, by axis that was allowed to, what each contender has.
    """

    dataset: str
    split: str
    limit: int | None
    view: str
    precision: str
    perturbation: str
    level: float | None
    support: str
    probe: str
    dims: Mapping[str, JSONScalar]
    seeds: str
    metric: str
    unit: str
    higher_is_better: bool
    test: str
    units: str
    n: int
    dropped: int
    groups: int | None
    contenders: tuple[Contender, ...]
    pairs: tuple[Pair, ...]
    differing: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, JSONValue]:
        """The question without its answers."""
        names = (
            "dataset", "split", "limit", "view", "precision", "perturbation", "level", "support", "probe", "seeds",
            "metric", "unit", "higher_is_better", "test", "units", "n", "dropped", "groups",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "dims": dict(self.dims)}

    def pair(self, one: str, other: str) -> Pair:
        """The pair of two contenders by name, in either order; KeyError otherwise."""
        for pair in self.pairs:
            if {pair.first, pair.second} == {one, other}:
                return pair
        raise KeyError(f"{one}, {other}: contenders are {', '.join(found.name for found in self.contenders)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What :func:`compare` found: a :class:`Question` for everything that at least two contenders were asked alike.

    ``family`` says over which pairs p-values are adjusted, ``allowed`` which axes were allowed to differ, ``notes``
    what was left out.
    """

    questions: tuple[Question, ...]
    alpha: float
    family: Family
    allowed: tuple[str, ...]
    notes: tuple[str, ...]
    power: float = POWER

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat mapping per pair: the question's facts and dims, then the pair."""
        rows = []
        for question in self.questions:
            facts: dict[str, Any] = question.facts
            dims = facts.pop("dims")
            rows += [{**facts, **dims, **_fields(pair)} for pair in question.pairs]
        return rows

    def as_dict(self) -> dict[str, JSONValue]:
        """Everything, as plain JSON values."""
        return {
            "alpha": self.alpha,
            "family": self.family,
            "power": self.power,
            "allowed": list(self.allowed),
            "notes": list(self.notes),
            "questions": [
                {
                    **question.facts,
                    "differing": {axis: dict(found) for axis, found in question.differing.items()},
                    "notes": list(question.notes),
                    "contenders": [_fields(contender) for contender in question.contenders],
                    "pairs": [_fields(pair) for pair in question.pairs],
                }
                for question in self.questions
            ],
        }

    def __repr__(self) -> str:
        from harness.report.comparisons import comparison_tables
        from harness.report.terminal import plain

        count = len(self.questions)
        head = f"Comparison: {count} question{'' if count == 1 else 's'}"
        return "\n\n".join([head, *map(plain, comparison_tables(self)), *self.notes])


def compare(
    *runs: str | os.PathLike[str] | RunResult,
    metric: str | None = None,
    alpha: float = 0.05,
    family: Family = "question",
    allow: Iterable[str] = (),
    all_heads: bool = False,
) -> Comparison:
    """Compare models on the same images or episodes, question by question; imports no torch.

    ``runs`` are output folders, record files, or results of :func:`harness.run`. A question is everything but the model
    and the seed of the perturbation, over which answers are averaged within each image. ``metric`` is a column of the
    outcomes (``correct_top5``, ``average_precision``); by default it is whether answers are right, or the accuracy of
    each episode where a probe has episodes. Single right or wrong answers are tested by McNemar's exact test,
    fractions by permutation, episodes by a paired t test (:mod:`harness.paired`); p-values are adjusted by Holm's
    method over all pairs of a ``family``. Two contenders share a letter where the adjusted p-value exceeds ``alpha``.
    ``allow`` names axes that may differ between contenders (``view``, ``precision``, ``seeds``, ``features``);
    ``all_heads`` makes each head of a distilled model a contender, not only its default.

    Raises :class:`UsageError` where models were asked the same by name in different ways, saying which; where there is
    nothing to compare; for a metric that no outcomes hold; and for other arguments that make no sense. Raises
    :class:`RecordsError` for runs and outcomes that are missing or cannot be read.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha must lie between 0 and 1, not {alpha}", hint="0.05 is the default")
    if family not in FAMILIES:
        raise UsageError(f"there is no family {family!r}", hint=f"families are {' and '.join(FAMILIES)}")
    allowed = allowed_axes(allow)
    matched = match(answers_of(runs), allowed)
    found: list[tuple[Asked, Paired]] = []
    without: dict[str, set[str]] = {}
    for asked in matched.questions:
        try:
            found += [(asked, row) for row in paired_rows(asked, metric, all_heads=all_heads)]
        except Uncomparable as error:
            without.setdefault(error.reason, set()).add(str(asked.sides[0].record.cell["probe"]))
    notes = [f"left out: {reason} (probe {', '.join(sorted(probes))})" for reason, probes in without.items()]
    if not found:
        raise UsageError(f"nothing to compare; {'; '.join(notes)}", hint="--metric names a column of the outcomes")
    return Comparison(
        questions=tuple(_judged(found, alpha, family, allowed, matched.labels)),
        alpha=alpha,
        family=family,
        allowed=tuple(sorted(allowed)),
        notes=(*notes, *matched.notes),
    )


def _judged(
    found: Sequence[tuple[Asked, Paired]], alpha: float, family: Family, allowed: frozenset[str], labels: Labels
) -> list[Question]:
    """Test every pair, adjust over the families, and give letters."""
    tested = [[row.test(i, j) for i, j in combinations(range(len(row.names)), 2)] for _, row in found]
    if family == "all":
        flat = holm([p for ps in tested for p in ps])
        sizes = [len(flat)] * len(tested)
        places = iter(flat)
        adjusted = [[next(places) for _ in ps] for ps in tested]
    else:
        sizes = [len(ps) for ps in tested]
        adjusted = [holm(ps) for ps in tested]
    return [
        _question(asked, row, ps, corrected, alpha, size, allowed, labels)
        for (asked, row), ps, corrected, size in zip(found, tested, adjusted, sizes, strict=True)
    ]


def _question(
    asked: Asked,
    row: Paired,
    ps: Sequence[float],
    adjusted: Sequence[float],
    alpha: float,
    family_size: int,
    allowed: frozenset[str],
    labels: Labels,
) -> Question:
    count = len(row.names)
    separable = [[False] * count for _ in range(count)]
    pairs = []
    for (i, j), p, corrected in zip(combinations(range(count), 2), ps, adjusted, strict=True):
        separable[i][j] = separable[j][i] = corrected <= alpha
        interval, discordance = row.difference_interval(i, j), row.discordance(i, j)
        difference = row.difference(i, j)
        pairs.append(
            Pair(
                first=row.names[i],
                second=row.names[j],
                difference=difference,
                low=None if interval is None else interval.low,
                high=None if interval is None else interval.high,
                interval=None if interval is None else interval.method,
                p=p,
                p_adjusted=corrected,
                separable=corrected <= alpha,
                discordance=discordance,
                needed=None
                if row.groups is not None
                else images_needed(abs(difference), discordance, power=POWER, alpha=alpha / family_size),
            )
        )
    given = letters(separable)
    probe = labels.component(asked.sides[0].record.cell, "probe")
    cell = asked.sides[0].record.cell
    return Question(
        dataset=labels.component(cell, "dataset"),
        split=cell["split"],
        limit=cell["limit"],
        view=_shared(asked.sides, "view"),
        precision=_shared(asked.sides, "precision"),
        perturbation=labels.component(cell, "perturbation"),
        level=cell["level"],
        support=labels.support(cell),
        probe=_without_features(probe) if "features" in allowed else probe,
        dims=row.dims,
        seeds=_shared(asked.sides, "seeds"),
        metric=row.metric,
        unit=row.unit,
        higher_is_better=row.higher_is_better,
        test=row.test_name,
        units=row.units,
        n=row.n,
        dropped=row.dropped,
        groups=row.num_groups,
        contenders=tuple(_contender(row.sides[place], row, place, mark, labels) for place, mark in enumerate(given)),
        pairs=tuple(pairs),
        differing={
            axis: {side.label: side.texts[axis] for side in asked.sides}
            for axis in sorted(allowed)
            if len({side.axes[axis] for side in asked.sides}) > 1
        },
        notes=row.notes,
    )


def _contender(side: Side, row: Paired, place: int, mark: str, labels: Labels) -> Contender:
    interval = row.interval(place)
    return Contender(
        name=row.names[place],
        model=labels.component(side.record.cell, "model"),
        weights=str(side.record.cell["weights"]),
        untrained=side.record.untrained,
        run=side.answers[0].run,
        keys=tuple(answer.record.key for answer in side.answers),
        value=row.means[place],
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        interval=None if interval is None else interval.method,
        letters=mark,
    )


def _without_features(probe: str) -> str:
    """The label of a probe without the parameter that its contenders may differ in."""
    return ":".join(part for part in probe.split(":") if not part.startswith("features="))


def _shared(sides: Sequence[Side], axis: str) -> str:
    """What all contenders have; both where they were allowed to differ."""
    return " or ".join(dict.fromkeys(side.texts[axis] for side in sides))


def _fields(value: Contender | Pair) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(value)
