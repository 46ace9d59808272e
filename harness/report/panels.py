"""Records as the panels of a picture: which numbers stand on which line, over what, and what a reader must be told."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UsageError
from harness.report.labels import Labels, chance_of, counted_text, particulars
from harness.report.tables import headline_metric
from harness.types import JSONScalar, LevelSpec, Measurement, ResultRecord, canonical_json

MAX_PANELS = 12
"""More do not fit on a page that a person can read."""

_MOST_BANDS = 4
"""With more lines on a panel their bands would mix to grey: intervals become thin bars then."""

_CLEAN = "none"
_LOSS = "information_loss"
_NARROW = (
    "name fewer perturbations, datasets or probes, or fewer settings of one, such as --probe fewshot:shots=5; "
    "cells that have a record are not run again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A number with its interval (None without one), at ``x``; fractions are in percent. A mean over ``seeds``."""

    x: float
    y: float
    low: float | None
    high: float | None
    seeds: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one model gives: points that rise along the axis.

    ``support`` names the perturbation of the support images, empty for clean ones. ``clean`` is the clean point where
    the axis has no place for it. On a panel without axis there is one point, and ``condition`` says of what.
    """

    model: str
    support: str
    points: tuple[Point, ...]
    clean: Point | None = None
    condition: str = ""

    @property
    def label(self) -> str:
        """Model and support, as the legend names the line."""
        return f"{self.model}, support under {self.support}" if self.support else self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes: a row of a probe under one perturbation.

    ``x_label`` is empty where nothing has a strength: then each line is a row with one point. ``is_fraction``: y is in
    percent. ``chance``: what guessing gives, on the y axis.
    """

    title: tuple[str, str]
    x_label: str
    y_label: str
    is_fraction: bool
    over_loss: bool
    chance: float | None
    lines: tuple[Line, ...]

    @property
    def banded(self) -> bool:
        """Whether intervals are drawn as bands along the lines, not as bars at the points."""
        return (
            bool(self.x_label) and len(self.lines) <= _MOST_BANDS and all(len(line.points) > 1 for line in self.lines)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Panels in reading order, and the notes beneath them."""

    panels: tuple[Panel, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One number of one record, and whose it is: of which line of the picture."""

    record: ResultRecord
    row: Measurement
    line: str

    @property
    def level(self) -> float:
        return float(self.record.cell["level"])

    @property
    def loss(self) -> float | None:
        return next((m.value for m in self.record.measurements if m.metric == _LOSS), None)


def picture_of(
    records: Sequence[ResultRecord],
    headlines: Mapping[str, str],
    levels: Mapping[str, LevelSpec] | None = None,
    *,
    among: Sequence[ResultRecord] = (),
) -> Picture:
    """One panel per dataset, probe, row of its headline metric and perturbation; a line per model and support.

    ``headlines`` gives the metric by probe name as for tables. ``levels`` gives the strength axis by perturbation name:
    it names the axis where not every record has its realised information loss. Numbers that differ in nothing but the
    seed of the perturbation are averaged, and so are the ends of their intervals, which rather overstates than
    understates how uncertain the mean is. A clean point stands at loss 0, or at the level that changes nothing; clean
    numbers without a sweep and perturbations without levels share a panel without axis. Names say what tells components
    of ``records`` apart from each other and from those of ``among``, which are not drawn.

    Raises :class:`~harness.errors.UsageError` if there is nothing to draw, or more than :data:`MAX_PANELS` panels.
    """
    labels = Labels([*records, *among])
    groups: dict[tuple[str, ...], list[ResultRecord]] = {}
    for record in records:
        if record.not_applicable is None:
            groups.setdefault(group_key(record, labels), []).append(record)
    panels: list[Panel] = []
    drawn: list[_Entry] = []
    for members in groups.values():
        entries = _entries(members, headlines)
        names = _line_names(entries, labels)
        for row in dict.fromkeys(row_text(entry.row.dims) for entry in entries):
            mine = [entry for entry in entries if row_text(entry.row.dims) == row]
            panels += _panels_of_row(mine, _titled(members[0], row, records, labels), names, labels, levels or {})
        drawn += entries
    if not panels:
        raise UsageError(
            "there is nothing to draw: no record has a number",
            hint="tables say why cells do not apply; the same command runs failed cells again",
        )
    require_few(len(panels))
    return Picture(panels=tuple(panels), notes=_notes(panels, drawn))


def require_few(num_panels: int) -> None:
    """Raise :class:`~harness.errors.UsageError` if a picture of so many panels would be illegible."""
    if num_panels > MAX_PANELS:
        raise UsageError(f"a picture holds at most {MAX_PANELS} panels, this one would need {num_panels}", hint=_NARROW)


def least_panels(cells: Iterable[Mapping[str, Any]]) -> int:
    """How many panels the records of ``cells`` (blocks of planned or recorded cells) need at least.

    A lower bound: how many rows a probe gives is known only afterwards.
    """
    found: dict[str, set[str]] = {}
    for cell in cells:
        parts = cell["components"]
        place = [parts["dataset"]["fingerprint"], parts["probe"]["fingerprint"]]
        swept = found.setdefault(canonical_json([*place, cell["split"], cell["limit"], cell["precision"]]), set())
        if parts["perturbation"]["use"] != _CLEAN:
            swept.add("" if cell["level"] is None else parts["perturbation"]["fingerprint"])
    return sum(max(1, len(swept)) for swept in found.values())


# --- whose number it is ------------------------------------------------------------------------------------------


def group_key(record: ResultRecord, labels: Labels) -> tuple[str, ...]:
    """What the panels of a dataset and probe have in common: names, split, limit and precision."""
    cell = record.cell
    named = (labels.component(cell, role) for role in ("dataset", "probe"))
    return (*named, cell["split"], str(cell["limit"]), cell["precision"])


def _entries(records: Sequence[ResultRecord], headlines: Mapping[str, str]) -> list[_Entry]:
    metric = headline_metric(records, headlines)
    return [
        _Entry(record, row, canonical_json([line_facts(record.cell), row.dims.get("head")]))
        for record in records
        for row in record.measurements
        if row.metric == metric
    ]


def line_facts(cell: Mapping[str, Any]) -> dict[str, Any]:
    """All of a cell but the perturbation, its level and its seed: what the points of one line have in common."""
    rest = {name: value for name, value in cell.items() if name not in ("perturbation", "level")}
    rest["seeds"] = {purpose: seed for purpose, seed in cell["seeds"].items() if purpose != "perturb"}
    rest["components"] = {role: part for role, part in cell["components"].items() if role != "perturbation"}
    return rest


def _line_names(entries: Sequence[_Entry], labels: Labels) -> dict[str, tuple[str, str]]:
    """Model and support of every line, with what else tells two lines apart where those do not."""
    first: dict[str, _Entry] = {}
    for entry in entries:
        first.setdefault(entry.line, entry)
    plain = {line: _plain_name(entry, labels) for line, entry in first.items()}
    names = {}
    for line, (model, support) in plain.items():
        rivals = [particulars(first[other].record.cell) for other, name in plain.items() if name == plain[line]]
        own = particulars(first[line].record.cell)
        extra = [text for place, text in enumerate(own) if len({rival[place] for rival in rivals}) > 1]
        names[line] = (" ".join([model, *extra]), support)
    return names


def _plain_name(entry: _Entry, labels: Labels) -> tuple[str, str]:
    head = entry.row.dims.get("head")  # belongs to the model: others have no such row to compare with
    model = labels.model(entry.record) + (f" head={head}" if head is not None else "")
    cell = entry.record.cell
    perturbed = cell["support"] is not None and cell["support"]["perturbation"] != _CLEAN
    return model, labels.support(cell) if perturbed else ""


# --- panels ------------------------------------------------------------------------------------------------------


def _panels_of_row(
    entries: Sequence[_Entry],
    title: str,
    names: Mapping[str, tuple[str, str]],
    labels: Labels,
    levels: Mapping[str, LevelSpec],
) -> list[Panel]:
    sweeps: dict[str, list[_Entry]] = {}
    clean: dict[str, _Entry] = {}
    others: list[_Entry] = []
    for entry in entries:
        cell = entry.record.cell
        if cell["components"]["perturbation"]["use"] == _CLEAN:
            clean[entry.line] = entry
        elif cell["level"] is None:
            others.append(entry)
        else:
            sweeps.setdefault(labels.component(cell, "perturbation"), []).append(entry)
    panels = [_curve_panel(members, clean, (title, f"under {name}"), names, levels) for name, members in sweeps.items()]
    swept = {entry.line for members in sweeps.values() for entry in members}
    beside = {entry.line for entry in others}
    alone = [entry for line, entry in clean.items() if line in beside or line not in swept]
    return [*panels, _dot_panel([*alone, *others], title, names, labels)] if alone or others else panels


def _curve_panel(
    entries: Sequence[_Entry],
    clean: Mapping[str, _Entry],
    title: tuple[str, str],
    names: Mapping[str, tuple[str, str]],
    levels: Mapping[str, LevelSpec],
) -> Panel:
    over_loss = all(entry.loss is not None for entry in entries)
    spec = levels.get(str(entries[0].record.cell["perturbation"]))
    origin = 0.0 if over_loss else None if spec is None else spec.identity
    lines = []
    for line, (model, support) in names.items():
        by_level: dict[float, list[_Entry]] = {}
        for entry in entries:
            if entry.line == line:
                by_level.setdefault(entry.level, []).append(entry)
        if not by_level:
            continue
        points = [_point(by_level[level], over_loss=over_loss) for level in sorted(by_level)]
        base = None if line not in clean else _point([clean[line]], x=origin or 0.0)
        if base is not None and origin is not None and all(point.x != origin for point in points):
            points.append(base)
        lines.append(
            Line(
                model=model,
                support=support,
                points=tuple(sorted(points, key=lambda point: point.x)),
                clean=base if origin is None else None,
            )
        )
    x_label = "realised information loss (%)" if over_loss else "level" if spec is None else _axis_name(spec)
    return _panel(entries, title, lines, x_label=x_label, over_loss=over_loss)


def _dot_panel(entries: Sequence[_Entry], title: str, names: Mapping[str, tuple[str, str]], labels: Labels) -> Panel:
    rows: dict[tuple[str, str], list[_Entry]] = {}
    for entry in entries:
        cell = entry.record.cell
        plain = cell["components"]["perturbation"]["use"] == _CLEAN
        rows.setdefault(("clean" if plain else labels.component(cell, "perturbation"), entry.line), []).append(entry)
    conditions = list(dict.fromkeys(condition for condition, _ in rows))
    lines = [
        Line(
            model=names[line][0],
            support=names[line][1],
            points=(_point(members, x=0.0),),
            condition=condition,
        )
        for (condition, line), members in rows.items()
    ]
    lines.sort(key=lambda line: conditions.index(line.condition))
    under = "on clean images" if conditions == ["clean"] else "under perturbations without levels"
    return _panel(entries, (title, under), lines, x_label="", over_loss=False)


def _panel(
    entries: Sequence[_Entry], title: tuple[str, str], lines: Sequence[Line], *, x_label: str, over_loss: bool
) -> Panel:
    row = entries[0].row
    fraction = row.unit == "fraction"
    unit = " (%)" if fraction else f" ({row.unit})" if row.unit else ""
    chances = {_chance(entry) for entry in entries} if fraction else set()
    return Panel(
        title=title,
        x_label=x_label,
        y_label=f"{row.metric}{unit}{', lower is better' if row.higher_is_better is False else ''}",
        is_fraction=fraction,
        over_loss=over_loss,
        chance=chances.pop() if len(chances) == 1 else None,
        lines=tuple(lines),
    )


def _point(entries: Sequence[_Entry], *, over_loss: bool = False, x: float | None = None) -> Point:
    """The entries, which differ in the seed of the perturbation alone, averaged."""
    factor = 100.0 if entries[0].row.unit == "fraction" else 1.0
    if x is None:
        x = 100 * _mean([entry.loss or 0.0 for entry in entries]) if over_loss else entries[0].level
    lows = [entry.row.low for entry in entries if entry.row.low is not None]
    highs = [entry.row.high for entry in entries if entry.row.high is not None]
    bounded = len(lows) == len(highs) == len(entries)
    return Point(
        x=x,
        y=factor * _mean([entry.row.value for entry in entries]),
        low=factor * _mean(lows) if bounded else None,
        high=factor * _mean(highs) if bounded else None,
        seeds=len(entries),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _chance(entry: _Entry) -> float | None:
    """What guessing gives, in percent."""
    found = chance_of(entry.record, entry.row)
    return None if found is None else float(100 * found)


# --- words -------------------------------------------------------------------------------------------------------


def _titled(record: ResultRecord, row: str, records: Sequence[ResultRecord], labels: Labels) -> str:
    """Probe, row and dataset; limit and precision where the records of the picture differ in them."""
    cell = record.cell
    text = f"{labels.component(cell, 'probe')}{f' ({row})' if row else ''} on {_data_name(cell, labels)}"
    if len({str(other.cell["limit"]) for other in records}) > 1:
        text += ", all images" if cell["limit"] is None else f", limit {cell['limit']}"
    if len({other.cell["precision"] for other in records}) > 1:
        text += f", {cell['precision']}"
    return text


def _data_name(cell: Mapping[str, Any], labels: Labels) -> str:
    return f"{labels.component(cell, 'dataset')}/{cell['split']}"


def row_text(dims: Mapping[str, JSONScalar]) -> str:
    """The dims that panels are told apart by; a head belongs to a line."""
    return ", ".join(f"{name} = {value}" for name, value in dims.items() if name != "head")


def _axis_name(spec: LevelSpec) -> str:
    return f"{spec.name} ({spec.unit})" if spec.unit else spec.name


def _notes(panels: Sequence[Panel], entries: Sequence[_Entry]) -> tuple[str, ...]:
    notes = []
    methods = sorted({entry.row.interval for entry in entries if entry.row.interval})
    if methods:
        percents = {match[0] if (match := re.search(r"\d+(\.\d+)?$", method)) else "" for method in methods}
        share = f"{percents.pop()} % " if len(percents) == 1 and "" not in percents else ""
        bars = any(not panel.banded or any(line.clean for line in panel.lines) for panel in panels)
        shapes = ["bands"] * any(panel.banded for panel in panels) + ["bars"] * bars
        notes.append(f"{' and '.join(shapes)}: {share}intervals ({', '.join(methods)})")
    rows: dict[str, list[Measurement]] = {}
    limits: dict[str, set[int | None]] = {}
    for entry in entries:
        place = f"{entry.record.cell['dataset']}/{entry.record.cell['split']}"
        rows.setdefault(place, []).append(entry.row)
        limits.setdefault(place, set()).add(entry.record.cell["limit"])
    for place, found in rows.items():
        named = f" of {place}" if len(rows) > 1 else ""
        given = [limit for limit in limits[place] if limit is not None]
        limit = f" (limit {given[0]} of the split)" if len(limits[place]) == len(given) == 1 else ""
        notes.append(f"{counted_text(found)}{named}{limit}")
    seeds = max(point.seeds for panel in panels for line in panel.lines for point in line.points)
    if seeds > 1:
        notes.append(f"numbers and ends of intervals averaged over up to {seeds} seeds of the perturbation")
    return tuple(notes)
