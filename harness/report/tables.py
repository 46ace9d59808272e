"""Records as tables a person reads: strength down, models and probe settings across, intervals beside each number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.no_images import NAME as NO_IMAGES
from harness.report.labels import (
    KEY_DIGITS,
    Labels,
    counted_text,
    data_name,
    params_text,
    particulars,
    support_name,
)
from harness.types import JSONScalar, Measurement, ResultRecord

LISTED_FROM = 3
"""From so many kinds of one dataset on, they are rows of a table instead of tables."""

MAX_COLUMNS = 5
"""Models stand side by side where each has one column and they are no more than this; else each has its table."""

PER_CENT = {"fraction": 100, "percent": 1}
"""Units that are shown in percent, and by what their values are multiplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A titled grid of text; the first ``labels`` columns name the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    notes: tuple[str, ...] = ()


def record_tables(records: Sequence[ResultRecord], headlines: Mapping[str, str]) -> list[Table]:
    """One table per dataset, probe and support, showing the probe's headline metric.

    ``headlines`` gives it by probe name; for an unknown probe, or one that did not give it, its first metric is taken.
    No two records share a place of a table: datasets of one name are tables of their own, named by the parameters they
    differ in, and records of one model that differ in anything else, such as the view, are columns that say so.
    """
    labels = RowLabels(records)
    groups: dict[tuple[str, ...], list[ResultRecord]] = {}
    for record in records:
        if record.not_applicable is None:
            groups.setdefault(_group_key(record.cell, labels), []).append(record)
    precision = len({record.cell["precision"] for record in records}) > 1
    tables: list[Table] = []
    for members in groups.values():
        title = labels.component(members[0].cell, "probe")
        if members[0].cell["dataset"] != NO_IMAGES:
            title += f" on {labels.place(members[0].cell)}"
        title += f", {members[0].cell['precision']}" if precision else ""
        tables += _tables_of_group(members, title, headlines, labels)
    return tables


class RowLabels(Labels):
    """Labels of rows: the perturbation, or the dataset where one comes in many kinds and nothing was perturbed.

    Those kinds, such as the corruptions and severities of stored files, then share a table.
    """

    def __init__(self, records: Iterable[ResultRecord]) -> None:
        records = tuple(records)
        super().__init__(records)
        kinds: dict[str, set[str]] = {}
        perturbed = set()
        for record in records:
            name = record.cell["dataset"]
            kinds.setdefault(name, set()).add(self.component(record.cell, "dataset"))
            if record.cell["perturbation"] != "none":
                perturbed.add(name)
        self._listed = {name for name, found in kinds.items() if len(found) >= LISTED_FROM} - perturbed

    def place(self, cell: Mapping[str, Any]) -> str:
        """What a table is about: dataset and split."""
        return f"{cell['dataset']}/{cell['split']}" if self.is_listed(cell) else data_name(cell, self)

    def row(self, cell: Mapping[str, Any]) -> str:
        """What a row is about."""
        return self.component(cell, "dataset") if self.is_listed(cell) else self.perturbation(cell)

    def is_listed(self, cell: Mapping[str, Any]) -> bool:
        """Whether the kinds of the cell's dataset are rows."""
        return cell["dataset"] in self._listed


def _group_key(cell: Mapping[str, Any], labels: RowLabels) -> tuple[str, ...]:
    return (
        labels.place(cell),
        str(cell["limit"]),
        labels.component(cell, "probe"),
        labels.support(cell),
        cell["precision"],
    )


def headline_metric(records: Sequence[ResultRecord], headlines: Mapping[str, str]) -> str | None:
    """The metric to show of ``records`` of one probe: its headline, else the first that they give; None without any."""
    given = list(dict.fromkeys(row.metric for record in records for row in record.measurements))
    if not given:
        return None
    headline = headlines.get(records[0].cell["probe"])
    return headline if headline in given else given[0]


def _tables_of_group(
    records: Sequence[ResultRecord], title: str, headlines: Mapping[str, str], labels: RowLabels
) -> list[Table]:
    metric = headline_metric(records, headlines)
    if metric is None:
        return []
    names = model_names(records, labels)
    columns: dict[tuple[str, str], None] = {}
    for record in records:
        for row in record.measurements:
            if row.metric == metric:
                columns[names[record.key], dims_text(row.dims)] = None
    models = list(dict.fromkeys(model for model, _ in columns))
    if len(models) == len(columns) <= MAX_COLUMNS:
        parts = [list(columns)]
    else:
        parts = [[column for column in columns if column[0] == model] for model in models]
    single = len(parts) > 1 or len(models) == 1
    return [_table(records, names, metric, part, title, labels, single=single) for part in parts]


def _table(
    records: Sequence[ResultRecord],
    names: Mapping[str, str],
    metric: str,
    columns: Sequence[tuple[str, str]],
    title: str,
    labels: RowLabels,
    *,
    single: bool,
) -> Table:
    models = {model for model, _ in columns}
    mine = [record for record in records if names[record.key] in models]
    rows: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    with_loss = any(m.metric == "information_loss" for record in mine for m in record.measurements)
    for record in mine:
        label = [labels.row(record.cell)]
        if with_loss:
            loss = [m.value for m in record.measurements if m.metric == "information_loss"]
            label.append(f"{100 * loss[0]:.1f}" if loss else "0.0" if record.cell["perturbation"] == "none" else "")
        cells = rows.setdefault(tuple(label), {})
        for row in record.measurements:
            if row.metric == metric:
                place = names[record.key], dims_text(row.dims)
                if cells.setdefault(place, number_text(row)) != number_text(row):
                    raise AssertionError(
                        f"record {record.key}: a second {metric} for row {' '.join(label)}, column {' '.join(place)}"
                    )
    cell = mine[0].cell
    shown = [m for record in mine for m in record.measurements if m.metric == metric]
    unit = next(m.unit for record in mine for m in record.measurements if m.metric == metric)
    named = f"{next(iter(models))}: " if single else ""
    of = (
        ""
        if title == metric or title.startswith((f"{metric} ", f"{metric}:"))
        else f"{metric}{_unit_text(unit, metric)} of "
    )
    title = f"{named}{of}{title}" if of else f"{named}{title}{_unit_text(unit, metric)}"
    if cell["support"] is not None and cell["support"]["perturbation"] != "none":
        title += f", support under {labels.support(cell)}"
    header = ("dataset" if labels.is_listed(cell) else "perturbation", *(("loss %",) if with_loss else ()))
    heads = tuple((dims or metric) if single else " ".join(filter(None, (model, dims))) for model, dims in columns)
    notes = [counted_text(shown) + (f" (limit {cell['limit']} of the split)" if cell["limit"] else "")]
    intervals = sorted(
        {m.interval for record in mine for m in record.measurements if m.metric == metric and m.interval}
    )
    notes += [f"[low, high]: {', '.join(intervals)}"] if intervals else []
    return Table(
        title=title,
        header=header + heads,
        rows=tuple((*label, *(cells.get(column, "") for column in columns)) for label, cells in rows.items()),
        labels=len(header),
        notes=("; ".join(notes),),
    )


def model_names(records: Iterable[ResultRecord], labels: RowLabels) -> dict[str, str]:
    """The model of every record, by key, with what else tells records apart that would share a place of a table."""
    by_model: dict[tuple[str, ...], dict[str, ResultRecord]] = {}
    for record in records:
        # Rows of other datasets differ in their data as a matter of course.
        row = labels.row(record.cell) if labels.is_listed(record.cell) else ""
        place = (*_group_key(record.cell, labels), row, labels.model(record))
        by_model.setdefault(place, {})[record.key] = record
    names: dict[str, str] = {}
    for (*_, model), members in by_model.items():
        own = {key: particulars(record.cell) for key, record in members.items()}
        differing = [place for place, found in enumerate(zip(*own.values(), strict=True)) if len(set(found)) > 1]
        rivals: dict[tuple[str, str], list[str]] = {}
        for key, record in members.items():
            name = " ".join([model, *(own[key][place] for place in differing)])
            rivals.setdefault((name, labels.row(record.cell)), []).append(key)
        for (name, _), keys in rivals.items():
            names.update({key: name if len(keys) == 1 else f"{name} cell {key[:KEY_DIGITS]}" for key in keys})
    return names


def not_applicable_table(records: Sequence[ResultRecord]) -> Table | None:
    """Combinations of a glob or suite that cannot give a number: a row per dataset, probe and reason.

    The row lists the models that the reason holds for and the perturbations under which it does, or says that these are
    all that were asked of the probe on the dataset.
    """
    labels = Labels(records)
    asked: dict[tuple[str, str], set[str]] = {}
    refused: dict[tuple[str, str, str, str], list[ResultRecord]] = {}
    for record in records:
        place = data_name(record.cell, labels), labels.component(record.cell, "probe")
        asked.setdefault(place, set()).add(labels.condition(record.cell))
        if record.not_applicable is not None:
            reason = record.not_applicable.replace(f"model {record.cell['model']} ", "the model ")
            refused.setdefault((*place, reason, labels.model(record)), []).append(record)
    merged: dict[tuple[str, str, str, str], dict[str, int]] = {}
    for (data, probe, reason, model), members in refused.items():
        found = {labels.condition(record.cell): None for record in members}
        whole = len(found) > 1 and set(found) == asked[data, probe]
        conditions = f"all {len(found)}" if whole else ", ".join(found)
        models = merged.setdefault((data, probe, conditions, reason), {})
        models[model] = len({record.key for record in members})
    if not merged:
        return None
    return Table(
        title="not applicable",
        header=("dataset", "probe", "perturbations", "cells", "models", "reason"),
        rows=tuple(
            (data, probe, conditions, str(sum(models.values())), ", ".join(models), reason)
            for (data, probe, conditions, reason), models in merged.items()
        ),
        labels=6,
    )


def measurement_rows(records: Iterable[ResultRecord]) -> list[dict[str, Any]]:
    """One flat mapping per measurement: the cell's names and parameters, the dims, the number and its interval."""
    rows = []
    for record in records:
        cell = record.cell
        base = {
            "key": record.key,
            **{name: cell[name] for name in ("model", "weights", "dataset", "split", "limit", "view")},
            "support": support_name(cell) or None,
            **{name: cell[name] for name in ("perturbation", "level", "probe", "precision")},
            **{
                f"{role}_params": None if role not in cell["components"] else params_text(cell, role)
                for role in ("model", "dataset", "support", "perturbation", "probe")
            },
            **{f"seed_{purpose}": seed for purpose, seed in cell["seeds"].items()},
            "control": cell.get("control"),
            "untrained": record.untrained,
            "not_applicable": record.not_applicable,
        }
        for row in record.measurements:
            raw = row.as_dict()
            dims: Any = raw.pop("dims")
            rows.append({**base, **dims, **raw})
        if not record.measurements:
            rows.append(base)
    return rows


def _unit_text(unit: str, metric: str) -> str:
    """The unit behind a metric's name, where it has one that the name does not say."""
    return " (%)" if unit == "fraction" else "" if not unit or unit in metric or unit == "percent" else f" ({unit})"


def dims_text(dims: Mapping[str, JSONScalar]) -> str:
    """The dims of a row as ``shots=5 seed=0``."""
    return " ".join(f"{key}={value}" for key, value in dims.items())


def number_text(row: Measurement) -> str:
    """A number with its interval; fractions in percent, others to four digits."""
    factor, form = (PER_CENT[row.unit], ".1f") if row.unit in PER_CENT else (1, ".4g")
    text = f"{factor * row.value:{form}}"
    if row.low is None or row.high is None:
        return text
    return f"{text} [{factor * row.low:{form}}, {factor * row.high:{form}}]"
