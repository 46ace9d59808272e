"""Which records answer the same question, so that their models can be compared, and why others do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.naming import did_you_mean, parameter_text
from harness.report.labels import KEY_DIGITS, Labels
from harness.types import canonical_json

if TYPE_CHECKING:
    from harness.comparison.answers import Answer
    from harness.types import ResultRecord

ALLOWABLE = ("view", "precision", "seeds", "features")
"""Axes that may differ between contenders where a person says so."""

_COMPONENTS = ("dataset", "perturbation", "support", "probe")
_ADVICE = {
    "dataset": "run all models on the same dataset with the same parameters",
    "images": "run all models on the same images: the content of the dataset has changed between the runs",
    "split": "run all models with the same --split",
    "limit": "run all models with the same --limit",
    "view": "run all models with one --view (such as --view ipvit), or compare all the same with --allow view",
    "precision": "run all models with the same --precision, or compare all the same with --allow precision",
    "perturbation": "run all models with one version and the same parameters of the perturbation",
    "support": "run all models with one version and the same parameters of the support perturbation",
    "support split": "run all models with the same support images",
    "probe": "run all models with one version and the same parameters of the probe",
    "features": "run all models with the same features, or compare all the same with --allow features",
    "seeds": "run all models with the same seeds (the same command into the same folder fills gaps), or compare all "
    "the same with --allow seeds",
}
_SHOWN_CONDITIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one contender has answered to one question: a record per seed of the perturbation.

    ``label`` names the model, with what else tells it from other contenders of the question; ``who`` with its run and
    every axis that was allowed to differ. ``axes`` is the question exactly, by axis, as ``texts`` writes it for people.
    """

    label: str
    who: str
    answers: tuple[Answer, ...]
    axes: Mapping[str, str]
    texts: Mapping[str, str]

    @property
    def record(self) -> ResultRecord:
        """One of the records; all of them agree in all but the seed of the perturbation."""
        return self.answers[0].record


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question with the contenders that have answered exactly it (at least two), in the order of their records."""

    sides: tuple[Side, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """All questions of some runs; ``notes`` say what was left out and what was not compared with each other."""

    questions: tuple[Asked, ...]
    notes: tuple[str, ...]
    labels: Labels


# --- matching --------------------------------------------------------------------------------------------------


def allowed_axes(allow: Iterable[str]) -> frozenset[str]:
    """Names of axes, each perhaps a comma list. Raises :class:`UsageError` for what may never differ or is no axis."""
    names = [part.strip() for text in ([allow] if isinstance(allow, str) else allow) for part in text.split(",")]
    for name in names:
        if name in _ADVICE and name not in ALLOWABLE:
            raise UsageError(
                f"{name} may not differ: numbers over another {name} answer another question", hint=_ADVICE[name]
            )
        if name not in ALLOWABLE:
            hint = did_you_mean(name, ALLOWABLE) or f"axes that may differ are {', '.join(ALLOWABLE)}"
            raise UsageError(f"there is no axis {name!r} to allow", hint=hint)
    return frozenset(names)


def match(answers: Sequence[Answer], allowed: frozenset[str]) -> Matched:
    """The questions that at least two contenders have answered.

    Records mean the same question where their dataset, perturbation with its level, probe and support have the same
    names; they answer the same question where all else agrees, too, except the axes ``allowed``. A contender is a
    model with its weights; where such records of one model come from several runs, or in several ways that are
    allowed, each is one.

    Raises :class:`UsageError` where a contender has answered what others have only by name, saying in what they differ,
    and where there is nothing to compare.
    """
    labels = Labels(answer.record for answer in answers)
    questions: list[Asked] = []
    lonely: dict[str, list[str]] = {}
    apart: dict[str, list[str]] = {}
    refused = _Refusals()
    for members in _named_alike(answers):
        sides = _sides(members, allowed, labels)
        classes: dict[str, list[Side]] = {}
        for side in sides:
            compared = {axis: value for axis, value in side.axes.items() if axis not in allowed}
            classes.setdefault(canonical_json(compared), []).append(side)
        matched = [found for found in classes.values() if len(found) > 1]
        partnered = {side.who for found in matched for side in found}
        for (side,) in (found for found in classes.values() if len(found) == 1):
            others = [other for other in sides if other.who != side.who]
            if others and side.who not in partnered:
                refused.add(side, others, allowed)
            else:
                lonely.setdefault(side.label, []).append(_question_text(side, labels))
        questions += [Asked(sides=_told_apart(found, allowed)) for found in matched]
        for one, other in combinations(matched, 2):
            if not {side.answers[0].run for side in one} & {side.answers[0].run for side in other}:
                apart.setdefault(_difference_text(one[0], other[0], allowed), []).append(_name_text(one[0]))
    refused.raise_if_any()
    if not questions:
        raise _nothing(answers, labels)
    return Matched(
        questions=tuple(questions),
        notes=(
            *(f"left out: only {label} answered {_some(texts)}" for label, texts in lonely.items()),
            *(f"not compared across runs, {_some(texts)}: {told}" for told, texts in apart.items()),
        ),
        labels=labels,
    )


def _told_apart(sides: Sequence[Side], allowed: frozenset[str]) -> tuple[Side, ...]:
    """The contenders of one question with labels of their own: by what was allowed to differ, then by run."""
    named = list(sides)
    for how in (_ways_text, lambda side, _: f"({side.answers[0].run})"):
        counts = Counter(side.label for side in named)
        named = [
            replace(side, label=f"{side.label} {how(side, allowed)}".rstrip()) if counts[side.label] > 1 else side
            for side in named
        ]
    return tuple(named)


def _ways_text(side: Side, allowed: frozenset[str]) -> str:
    told = [axis for axis in ALLOWABLE if axis in allowed]
    return " ".join(side.texts[axis] if axis == "features" else f"{axis}={side.texts[axis]}" for axis in told)


def _nothing(answers: Sequence[Answer], labels: Labels) -> UsageError:
    models = list(dict.fromkeys(labels.model(answer.record) for answer in answers))
    runs = ", ".join(dict.fromkeys(answer.run for answer in answers))
    if len(models) == 1:
        return UsageError(
            f"nothing to compare: all records in {runs} are of one model, {models[0]}",
            hint="add a model to the run (harness run -m A,B), or name another run that has one",
        )
    return UsageError(
        f"nothing to compare: no two of {', '.join(models)} in {runs} were asked the same question",
        hint="ask both models with the same dataset, perturbation, level and probe",
    )


def _named_alike(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Answers by the names of what was asked; names that stand for one component are one name."""
    same = _Aliases()
    for answer in answers:
        for role, name in _names(answer.record.cell).items():
            same.join((role, name), (role, answer.record.cell["components"][role]["fingerprint"], ""))
    groups: dict[tuple[object, ...], list[Answer]] = {}
    for answer in answers:
        cell = answer.record.cell
        named = tuple(same.find((role, name)) for role, name in _names(cell).items())
        support_level = None if cell["support"] is None else cell["support"]["level"]
        groups.setdefault((named, cell["level"], support_level), []).append(answer)
    return list(groups.values())


class _Aliases:
    """Names that are known to mean the same thing, as disjoint sets."""

    def __init__(self) -> None:
        self._parents: dict[tuple[str, ...], tuple[str, ...]] = {}

    def find(self, item: tuple[str, ...]) -> tuple[str, ...]:
        while (parent := self._parents.get(item, item)) != item:
            item = parent
        return item

    def join(self, one: tuple[str, ...], other: tuple[str, ...]) -> None:
        self._parents[self.find(other)] = self.find(one)


def _names(cell: Mapping[str, Any]) -> dict[str, str]:
    names = {role: str(cell[role]) for role in ("dataset", "perturbation", "probe")}
    return names if cell["support"] is None else {**names, "support": str(cell["support"]["perturbation"])}


def _sides(members: Sequence[Answer], allowed: frozenset[str], labels: Labels) -> list[Side]:
    """Contenders of one question by name, one for each exact question that they have answered."""
    exact: dict[tuple[str, ...], list[Answer]] = {}
    for answer in members:
        exact.setdefault((_model(answer), answer.run, canonical_json(_axes(answer.record.cell))), []).append(answer)
    return [_side(found, allowed, labels) for found in exact.values()]


def _side(found: Sequence[Answer], allowed: frozenset[str], labels: Labels) -> Side:
    cell = found[0].record.cell
    drawn = sorted({seed for answer in found if (seed := answer.record.cell["seeds"]["perturb"]) is not None})
    axes, texts = _axes(cell), _texts(cell, drawn, labels)
    ways = [f"{axis} {axes[axis]}" for axis in ALLOWABLE if axis in allowed]
    axes["seeds"] = canonical_json([axes["seeds"], drawn])
    label = labels.model(found[0].record)
    ordered = sorted(found, key=lambda answer: answer.record.cell["seeds"]["perturb"] or 0)
    return Side(
        label=label,
        who=" ".join([f"{label} in {found[0].run}", *ways]),
        answers=tuple(ordered),
        axes=axes,
        texts=texts,
    )


def _model(answer: Answer) -> str:
    cell = answer.record.cell
    return f"{cell['components']['model']['fingerprint']} {cell['weights']}"


# --- what may differ -------------------------------------------------------------------------------------------


def _axes(cell: Mapping[str, Any]) -> dict[str, str]:
    """Everything but model and seed of the perturbation that can change a number, by axis."""
    components, seeds, support = cell["components"], cell["seeds"], cell["support"] or {}
    axes = {role: str(components[role]["fingerprint"]) if role in components else "" for role in _COMPONENTS}
    features = components["probe"]["params"].get("features")
    if features is not None:
        # The probe but for its features, so that these can be told from the rest of it.
        others = {name: value for name, value in components["probe"]["params"].items() if name != "features"}
        axes["probe"] = canonical_json([components["probe"]["use"], components["probe"]["version"], others])
    return {
        **axes,
        "features": canonical_json(features),
        "images": str(cell["fingerprint"]),
        "split": str(cell["split"]),
        "limit": str(cell["limit"]),
        "view": str(cell["view"]),
        "precision": str(cell["precision"]),
        "support split": str(support.get("split")),
        "seeds": canonical_json([seeds["support_perturb"], seeds["probe"]]),
    }


def _texts(cell: Mapping[str, Any], drawn: Sequence[int], labels: Labels) -> dict[str, str]:
    """The axes for people; ``drawn`` are the seeds of the perturbation."""
    texts = {}
    for role in _COMPONENTS:
        if role in cell["components"]:
            component = cell["components"][role]
            told = labels.component(cell, role)
            texts[role] = f"{told} (entry {component['use']}, version {component['version']})"
        else:
            texts[role] = "none"
    features = cell["components"]["probe"]["params"].get("features")
    seeds = {"perturbation": ", ".join(map(str, drawn)) or None}
    seeds |= {"support": cell["seeds"]["support_perturb"], "probe": cell["seeds"]["probe"]}
    return {
        **texts,
        "features": "none" if features is None else parameter_text("features", features),
        "images": f"fingerprint {str(cell['fingerprint'])[:KEY_DIGITS]}",
        "split": str(cell["split"]),
        "limit": "all images" if cell["limit"] is None else f"{cell['limit']} images",
        "view": str(cell["view"]),
        "precision": str(cell["precision"]),
        "support split": str((cell["support"] or {}).get("split")),
        "seeds": "; ".join(f"{purpose} {seed}" for purpose, seed in seeds.items() if seed is not None) or "none",
    }


def _differing(one: Side, other: Side, allowed: frozenset[str]) -> list[str]:
    return [axis for axis, value in one.axes.items() if axis not in allowed and value != other.axes[axis]]


class _Refusals:
    """Contenders that have answered what others have only by name, gathered over all questions."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, dict[str, None]]] = {}
        self._questions: dict[str, None] = {}

    def add(self, side: Side, others: Sequence[Side], allowed: frozenset[str]) -> None:
        """``side`` has no exact partner among ``others``; what it differs in from the nearest of them counts."""
        nearest = min(others, key=lambda other: len(_differing(side, other, allowed)))
        for axis in _differing(side, nearest, allowed):
            for one in (side, *others):
                who = f"{one.label} in {one.answers[0].run}"
                self._values.setdefault(axis, {}).setdefault(one.texts[axis], {})[who] = None
        self._questions[_name_text(side)] = None

    def raise_if_any(self) -> None:
        """Raise :class:`UsageError` with who has what, axis by axis."""
        if not self._questions:
            return
        lines = [f"not comparable: these models were asked {_some(list(self._questions))} in different ways"]
        for axis, values in self._values.items():
            told = [f"{text} for {', '.join(who)}" for text, who in values.items()]
            lines.append(f"  {axis}: " + f"\n{'':{len(axis) + 4}}".join(told))
        advice = [_ADVICE[axis] for axis in self._values]
        raise UsageError("\n".join(lines), hint="\n        ".join(advice))


def _difference_text(one: Side, other: Side, allowed: frozenset[str]) -> str:
    """In what two contenders differ, axis by axis, by run."""
    return ", ".join(
        f"{axis} {one.texts[axis]} in {one.answers[0].run} and {other.texts[axis]} in {other.answers[0].run}"
        for axis in _differing(one, other, allowed)
    )


def _question_text(side: Side, labels: Labels) -> str:
    """The question exactly, as far as names and parameters tell it."""
    cell = side.record.cell
    probe, dataset = labels.component(cell, "probe"), labels.component(cell, "dataset")
    return f"{probe} on {dataset} under {labels.condition(cell)}"


def _name_text(side: Side) -> str:
    """The question by its names."""
    cell = side.record.cell
    level = "" if cell["level"] is None else f"@{cell['level']:g}"
    return f"{cell['probe']} on {cell['dataset']} under {cell['perturbation']}{level}"


def _some(texts: Sequence[str]) -> str:
    shown = list(dict.fromkeys(texts))
    more = f" and {len(shown) - _SHOWN_CONDITIONS} more" if len(shown) > _SHOWN_CONDITIONS else ""
    return ", ".join(shown[:_SHOWN_CONDITIONS]) + more
