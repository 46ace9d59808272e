"""Records as tables a person reads: strength down, models and probe settings across, intervals beside each number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.labels import (
    KEY_DIGITS,
    Labels,
    counted_text,
    data_name,
    params_text,
    particulars,
    support_name,
)
from harness.run_folder import SUMMARIES
from harness.types import JSONScalar, Measurement, ResultRecord, SummaryRecord

MAX_COLUMNS = 5
"""Models stand side by side where each has one column and they are no more than this; else each has its table."""

MAX_METRICS = 3
"""Numbers of a summary side by side: their names are long, and more would be broken over two lines."""


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
    labels = Labels(records)
    groups: dict[tuple[str, ...], list[ResultRecord]] = {}
    for record in records:
        if record.not_applicable is None:
            groups.setdefault(_group_key(record.cell, labels), []).append(record)
    precision = len({record.cell["precision"] for record in records}) > 1
    tables: list[Table] = []
    for members in groups.values():
        title = f"{labels.component(members[0].cell, 'probe')} on {data_name(members[0].cell, labels)}"
        title += f", {members[0].cell['precision']}" if precision else ""
        tables += _tables_of_group(members, title, headlines, labels)
    return tables


def _group_key(cell: Mapping[str, Any], labels: Labels) -> tuple[str, ...]:
    return (
        data_name(cell, labels),
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
    records: Sequence[ResultRecord], title: str, headlines: Mapping[str, str], labels: Labels
) -> list[Table]:
    metric = headline_metric(records, headlines)
    if metric is None:
        return []
    names = _model_names(records, labels)
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
    labels: Labels,
    *,
    single: bool,
) -> Table:
    models = {model for model, _ in columns}
    mine = [record for record in records if names[record.key] in models]
    rows: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    with_loss = any(m.metric == "information_loss" for record in mine for m in record.measurements)
    for record in mine:
        label = [labels.perturbation(record.cell)]
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
    percent = " (%)" if unit == "fraction" else ""
    title = f"{named}{metric}{percent} of {title}"
    if cell["support"] is not None and cell["support"]["perturbation"] != "none":
        title += f", support under {labels.support(cell)}"
    header = ("perturbation", *(("loss %",) if with_loss else ()))
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


def _model_names(records: Iterable[ResultRecord], labels: Labels) -> dict[str, str]:
    """The model of every record, by key, with what else tells records apart that would share a place of a table."""
    by_model: dict[tuple[str, ...], dict[str, ResultRecord]] = {}
    for record in records:
        by_model.setdefault((*_group_key(record.cell, labels), labels.model(record)), {})[record.key] = record
    names: dict[str, str] = {}
    for (*_, model), members in by_model.items():
        own = {key: particulars(record.cell) for key, record in members.items()}
        differing = [place for place, found in enumerate(zip(*own.values(), strict=True)) if len(set(found)) > 1]
        rivals: dict[tuple[str, str], list[str]] = {}
        for key, record in members.items():
            name = " ".join([model, *(own[key][place] for place in differing)])
            rivals.setdefault((name, labels.perturbation(record.cell)), []).append(key)
        for (name, _), keys in rivals.items():
            names.update({key: name if len(keys) == 1 else f"{name} cell {key[:KEY_DIGITS]}" for key in keys})
    return names


def summary_tables(summaries: Sequence[SummaryRecord], records: Sequence[ResultRecord] = ()) -> list[Table]:
    """Every summary as tables per dataset, its numbers across; rows per level or class are left to the file.

    ``records`` that the summaries were derived from say how rows of one name differ, and in what order they come.
    """
    places = {record.key: place for place, record in enumerate(records)}
    summaries = sorted(summaries, key=lambda summary: places.get(summary.records[-1], len(places)))
    labels = Labels(records)
    by_key = {record.key: record for record in records}
    names = _model_names(records, labels)
    groups: dict[tuple[str, str], list[SummaryRecord]] = {}
    for summary in summaries:
        record, group = by_key.get(summary.records[-1]), summary.group
        place = f"{group['dataset']}/{group['split']}" if record is None else data_name(record.cell, labels)
        groups.setdefault((summary.summary, place), []).append(summary)
    several = len({place for _, place in groups}) > 1
    tables = []
    for (name, place), members in groups.items():
        rows: dict[tuple[str, str, str], dict[str, Measurement]] = {}
        metrics: dict[str, None] = {}
        classes: dict[str, set[JSONScalar]] = {}
        owners: dict[tuple[str, str, str], object] = {}
        for summary in members:
            for row in summary.measurements:
                if "class" in row.dims:
                    classes.setdefault(row.metric, set()).add(row.dims["class"])
                elif "level" not in row.dims:
                    label = _free_label(summary, row, by_key, labels, names, owners)
                    rows.setdefault(label, {})[row.metric] = row
                    metrics[row.metric] = None
        notes = [f"{metric} of {len(found)} classes, level by level: {SUMMARIES}" for metric, found in classes.items()]
        tables += _parts(f"{name} on {place}" if several else name, rows, list(metrics), notes)
    return tables


def _parts(
    title: str,
    rows: Mapping[tuple[str, str, str], Mapping[str, Measurement]],
    metrics: Sequence[str],
    notes: Sequence[str],
) -> list[Table]:
    """Tables with at most :data:`MAX_METRICS` numbers in each row; ``notes`` stand below the last."""
    tables = []
    for start in range(0, len(metrics), MAX_METRICS):
        shown = metrics[start : start + MAX_METRICS]
        cells = {label: [given.get(metric) for metric in shown] for label, given in rows.items()}
        found = [row for given in cells.values() for row in given]
        said = ["blank: the curve has no such number"] if None in found else []
        if any(row is not None and row.unit == "fraction" and row.interval is None for row in found):
            said.append("no [low, high]: resamples of these images give none")
        tables.append(
            Table(
                title=f"{title}, continued" if start else title,
                header=("model", "perturbation", "probe", *shown),
                rows=tuple((*label, *map(_summary_number, given)) for label, given in cells.items()),
                labels=3,
                notes=(*said, *(notes if start + MAX_METRICS >= len(metrics) else ())),
            )
        )
    return tables


def _summary_number(row: Measurement | None) -> str:
    """A number with its unit where that is no percentage: rows of one column may differ in it."""
    if row is None:
        return ""
    return number_text(row) if row.unit in ("fraction", "") else f"{number_text(row)} ({row.unit})"


def _free_label(
    summary: SummaryRecord,
    row: Measurement,
    by_key: Mapping[str, ResultRecord],
    labels: Labels,
    names: Mapping[str, str],
    owners: dict[tuple[str, str, str], object],
) -> tuple[str, str, str]:
    """The row that ``row`` belongs into: the shortest label that ``owners`` holds for nothing else."""
    model, perturbation, probe = _summary_label(summary, by_key, labels, names)
    axisless = {key: value for key, value in row.dims.items() if key != "axis"}
    unique = f"{model} cell {summary.records[-1][:KEY_DIGITS]}"
    owner = (summary.records, dims_text(row.dims))
    for named, dims in ((model, axisless), (model, row.dims), (unique, row.dims)):
        label = (named, perturbation, " ".join(filter(None, (probe, dims_text(dims)))))
        if owners.setdefault(label, owner) == owner:
            return label
    raise AssertionError(f"two rows of summary {summary.summary} are both named {label}")


def _summary_label(
    summary: SummaryRecord, by_key: Mapping[str, ResultRecord], labels: Labels, names: Mapping[str, str]
) -> tuple[str, str, str]:
    """Model, perturbation (empty where it was consumed) and probe, with the support where that was perturbed."""
    group = summary.group
    perturbation, probe = str(group.get("perturbation", "")), str(group["probe"])
    record = by_key.get(summary.records[-1])
    if record is None:
        return str(group["model"]), perturbation, probe
    cell = record.cell
    probe = labels.component(cell, "probe")
    if cell["support"] is not None and cell["support"]["perturbation"] != "none":
        probe += f", support under {labels.support(cell)}"
    if "perturbation" in group:
        perturbation = labels.component(cell, "perturbation")
    return names[record.key], perturbation, probe


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


def dims_text(dims: Mapping[str, JSONScalar]) -> str:
    """The dims of a row as ``shots=5 seed=0``."""
    return " ".join(f"{key}={value}" for key, value in dims.items())


def number_text(row: Measurement) -> str:
    """A number with its interval; fractions in percent."""
    if row.unit != "fraction":
        return f"{row.value:.4g}"
    text = f"{100 * row.value:.1f}"
    return text if row.low is None or row.high is None else f"{text} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
