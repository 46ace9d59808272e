"""Comparisons as tables: contenders of each question, best first, with letters; pairs, and images they would need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.report.tables import Table

if TYPE_CHECKING:
    from harness.comparison import Comparison, Contender, Pair, Question

_TESTS = {
    "mcnemar": "McNemar's exact test",
    "permutation": "paired permutation test",
    "paired_t": "paired t test over episodes",
}
_SOME_P = 0.001


def comparison_tables(comparison: Comparison, *, pairs: bool = False) -> list[Table]:
    """Per dataset, probe and row of the probe: contenders of every perturbation, then the pairs that share a letter.

    The second says how many images would be needed to separate a pair; with ``pairs`` it holds all of them. Notes
    below say what was tested, over which family p-values are adjusted, and what was allowed to differ.
    """
    groups: dict[tuple[str, ...], list[Question]] = {}
    for question in comparison.questions:
        groups.setdefault(_group(question, comparison.allowed), []).append(question)
    told = _telling(list(groups))
    tables = []
    for key, questions in groups.items():
        title = _title(questions, told[key])
        tables.append(_contenders(questions, title, comparison))
        if (table := _pairs(questions, title, comparison, every=pairs)) is not None:
            tables.append(table)
    return tables


def _group(question: Question, allowed: Sequence[str]) -> tuple[str, ...]:
    """What a table holds constant; the last ones are told in titles only where tables differ in them."""
    return (
        f"{question.dataset}/{question.split}",
        " ".join([question.probe, *(f"{name}={value}" for name, value in question.dims.items())]),
        question.support,
        "" if question.limit is None else f"limit {question.limit}",
        "" if "view" in allowed else question.view,
        "" if "precision" in allowed else question.precision,
        "" if "seeds" in allowed else _own_seeds(question),
    )


def _telling(keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], list[str]]:
    """The parts of each key that tell it from another of the same dataset, probe and support."""
    told = {}
    for key in keys:
        alike = [other for other in keys if other[:3] == key[:3]]
        told[key] = [
            part or "whole split"
            for place, part in enumerate(key)
            if place > 2 and len({other[place] for other in alike}) > 1
        ]
    return told


def _own_seeds(question: Question) -> str:
    """Seeds of probe and support; those of the perturbation differ between rows of one table."""
    return "; ".join(part for part in question.seeds.split("; ") if part.startswith(("probe", "support")))


def _title(questions: Sequence[Question], told: Sequence[str]) -> str:
    first = questions[0]
    probe = " ".join([first.probe, *(f"{name}={value}" for name, value in first.dims.items())])
    title = f"{first.metric}{' (%)' if first.unit == 'fraction' else ''} of {probe} on {first.dataset}/{first.split}"
    if first.support and first.support != "none":
        title += f", support under {first.support}"
    if len(questions) == 1 and first.perturbation != "none":
        title += f", under {_condition(first, questions)}"
    return ", ".join([title, *told])


def _condition(question: Question, beside: Sequence[Question]) -> str:
    text = question.perturbation + ("" if question.level is None else f"@{question.level:g}")
    twins = [other for other in beside if (other.perturbation, other.level) == (question.perturbation, question.level)]
    return text if len(twins) == 1 else f"{text} seeds: {question.seeds}"


# --- contenders ------------------------------------------------------------------------------------------------


def _contenders(questions: Sequence[Question], title: str, comparison: Comparison) -> Table:
    """Blocks of rows, one per perturbation and level; a block's first row names it where there are several."""
    several = len(questions) > 1
    rows: list[tuple[str, ...]] = []
    for question in questions:
        if several:
            rows.append((_condition(question, questions), "", "", "", ""))
        rows += [_contender_row(question, contender, indent=several) for contender in question.contenders]
    return Table(
        title=title,
        header=("model", "", _value_head(questions[0]), "from the best", "p"),
        rows=tuple(rows),
        labels=2,
        notes=_notes(questions, comparison),
    )


def _value_head(question: Question) -> str:
    return "%" if question.unit == "fraction" else question.metric


def _contender_row(question: Question, contender: Contender, *, indent: bool) -> tuple[str, ...]:
    best = question.contenders[0]
    name = ("  " if indent else "") + contender.name
    value = _ends(contender.value, contender.low, contender.high, question)
    if contender is best:
        return (name, contender.letters, value, "", "")
    pair = question.pair(best.name, contender.name)
    return (name, contender.letters, value, _behind(pair, question), _p(pair.p_adjusted))


def _behind(pair: Pair, question: Question) -> str:
    """How far the second of a pair is from the first, so below zero where more is better."""
    low, high = (None, None) if pair.low is None or pair.high is None else (-pair.high, -pair.low)
    return _ends(-pair.difference, low, high, question)


def _ends(value: float, low: float | None, high: float | None, question: Question) -> str:
    text = _number(value, question)
    return text if low is None or high is None else f"{text} [{_number(low, question)}, {_number(high, question)}]"


def _number(value: float, question: Question) -> str:
    text = f"{100 * value:.1f}" if question.unit == "fraction" else f"{value:.4g}"
    return "0.0" if text == "-0.0" else "0" if text == "-0" else text


def _p(p: float) -> str:
    return f"<{_SOME_P:g}" if p < _SOME_P else "1" if p >= 0.9995 else f"{p:.3f}"


# --- pairs -----------------------------------------------------------------------------------------------------


def _pairs(questions: Sequence[Question], title: str, comparison: Comparison, *, every: bool) -> Table | None:
    several = len(questions) > 1
    rows: list[tuple[str, ...]] = []
    for question in questions:
        found = [pair for pair in question.pairs if every or not pair.separable]
        if found and several:
            rows.append((_condition(question, questions), *("",) * (5 if every else 3)))
        for pair in found:
            names = f"{'  ' if several else ''}{pair.first} - {pair.second}"
            difference = _ends(pair.difference, pair.low, pair.high, question)
            told = (_p(pair.p), _p(pair.p_adjusted)) if every else ()
            rows.append((names, difference, *told, _number(pair.discordance, question), _needed(pair, question)))
    if not rows:
        return None
    unit = "images" if questions[0].units == "groups" else questions[0].units
    spread = "discordance" + (" %" if questions[0].unit == "fraction" else "")
    return Table(
        title=f"{'pairs' if every else 'not separable'}: {title}",
        header=("pair", "difference", *(("p", "adjusted p") if every else ()), spread, f"{unit} needed"),
        rows=tuple(rows),
        notes=_needed_notes(questions, comparison),
    )


def _units(question: Question) -> str:
    return "episodes" if question.units == "episodes" else "images"


def _needed(pair: Pair, question: Question) -> str:
    if pair.needed is not None:
        return f"{pair.needed:,}"
    return "no difference" if question.units != "groups" else ""


def _needed_notes(questions: Sequence[Question], comparison: Comparison) -> tuple[str, ...]:
    sizes = sorted({_family_size(question, comparison) for question in questions})
    divided = "" if sizes == [1] else f" / {' or '.join(map(str, sizes))} pairs"
    units = _units(questions[0])
    at = f"{comparison.power:.0%} power at this difference and discordance, at alpha {comparison.alpha:g}{divided}"
    notes = [f"{units} needed: to separate the pair with {at}"]
    if any(question.test != "mcnemar" for question in questions):
        notes.append(f"discordance: mean squared difference over {units}")
    else:
        notes.append("discordance: images that only one of the two has right")
    if any(question.units == "groups" for question in questions):
        notes.append("blank: where images share masks, more images under the same masks need not separate a pair")
    return tuple(notes)


def _family_size(question: Question, comparison: Comparison) -> int:
    if comparison.family == "all":
        return sum(len(other.pairs) for other in comparison.questions)
    return len(question.pairs)


# --- notes -----------------------------------------------------------------------------------------------------


def _notes(questions: Sequence[Question], comparison: Comparison) -> tuple[str, ...]:
    lines = [_asked(questions), _tested(questions, comparison)]
    lines.append(f"models that share a letter are not separable: p above {comparison.alpha:g}; {_intervals(questions)}")
    lines += dict.fromkeys(note for question in questions for note in question.notes)
    if groups := sorted({question.groups for question in questions if question.groups is not None}):
        counted = "-".join(map(str, dict.fromkeys([groups[0], groups[-1]])))
        lines.append(
            f"images share masks in {counted} group{'' if groups == [1] else 's'}, resampled and swapped as one"
        )
        if groups[0] == 1:
            lines.append("one group says nothing of how other masks would have come out: no interval, p is 1")
    dropped = sorted({question.dropped for question in questions if question.dropped})
    if dropped:
        lines.append(
            f"on what all models have answered: {' or '.join(map(str, dropped))} images that not all have are left out"
        )
    for axis in comparison.allowed:
        found = _merged(question.differing.get(axis, {}) for question in questions)
        told = "; ".join(f"{text}: {', '.join(names)}" for text, names in found.items())
        if found and all(text in name for text, names in found.items() for name in names):
            told = "as the names say"
        lines.append(f"allowed to differ: {axis} ({told or 'the same for all here'})")
    return tuple(lines)


def _merged(found: Iterable[Mapping[str, str]]) -> dict[str, dict[str, None]]:
    """Contenders by what they have."""
    merged: dict[str, dict[str, None]] = {}
    for values in found:
        for name, text in values.items():
            merged.setdefault(text, {})[name] = None
    return merged


def _asked(questions: Sequence[Question]) -> str:
    first = questions[0]
    counts = sorted({question.n for question in questions})
    text = f"{'-'.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} {_units(first)}"
    if first.limit is not None:
        text += f" (limit {first.limit} of the split)"
    told = [f"view {first.view}"] if "view" not in first.differing else []
    told += [first.precision] if first.precision != "fp32" and "precision" not in first.differing else []
    seeds = [part for question in questions for part in question.seeds.split("; ") if "seeds" not in question.differing]
    if named := [part for part in dict.fromkeys(seeds) if part != "none"]:
        told.append(f"seeds: {', '.join(sorted(named, key=_purpose))}")
    return "; ".join([text, *told])


def _purpose(seeds: str) -> int:
    return ("perturbation", "support", "probe").index(seeds.split(" ", maxsplit=1)[0])


def _tested(questions: Sequence[Question], comparison: Comparison) -> str:
    tests = dict.fromkeys(question.test for question in questions)
    named = [_TESTS[test] for test in tests]
    if len(tests) > 1 and "permutation" in tests and "mcnemar" in tests:
        named = [_TESTS["mcnemar"], f"{_TESTS['permutation']} where seeds are averaged within each image"]
    if comparison.family == "all":
        count = sum(len(question.pairs) for question in comparison.questions)
        family = f"all {count} pairs of all tables"
    else:
        sizes = sorted({len(question.pairs) for question in questions})
        each = " of each perturbation" if len(questions) > 1 else ""
        family = f"the {'-'.join(map(str, dict.fromkeys([sizes[0], sizes[-1]])))} pairs{each}"
        if sizes == [1]:
            return f"p: {', '.join(named)}; one pair{each}, so that there is nothing to adjust"
    return f"p: {', '.join(named)}; adjusted by Holm over {family}"


def _intervals(questions: Sequence[Question]) -> str:
    named = {found.interval for question in questions for found in question.contenders}
    named |= {pair.interval for question in questions for pair in question.pairs}
    return f"[low, high]: {', '.join(sorted(name for name in named if name is not None)) or 'none'}"
