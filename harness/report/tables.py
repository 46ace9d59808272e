"""Records as tables a person reads: strength down, models and probe settings across, intervals beside each number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.types import JSONScalar, Measurement, ResultRecord, SummaryRecord

MAX_COLUMNS = 5
"""A table with more columns of numbers than this is split, one table a model."""


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

    ``headlines`` gives it by probe name; for an unknown probe its first metric is taken.
    """
    groups: dict[tuple[str, ...], list[ResultRecord]] = {}
    for record in records:
        if record.not_applicable is None:
            cell = record.cell
            key = (cell["dataset"], cell["split"], str(cell["limit"]), cell["probe"], _support(cell), cell["precision"])
            groups.setdefault(key, []).append(record)
    tables: list[Table] = []
    for members in groups.values():
        tables += _tables_of_group(members, headlines)
    return tables


def _tables_of_group(records: Sequence[ResultRecord], headlines: Mapping[str, str]) -> list[Table]:
    first = records[0]
    metric = headlines.get(first.cell["probe"]) or first.measurements[0].metric
    columns: dict[tuple[str, str], None] = {}
    for record in records:
        for row in record.measurements:
            if row.metric == metric:
                columns[_model(record), _dims(row.dims)] = None
    models = list(dict.fromkeys(model for model, _ in columns))
    parts = [list(columns)] if len(columns) <= MAX_COLUMNS else [[c for c in columns if c[0] == m] for m in models]
    return [_table(records, metric, part, single=len(parts) > 1 or len(models) == 1) for part in parts]


def _table(records: Sequence[ResultRecord], metric: str, columns: Sequence[tuple[str, str]], *, single: bool) -> Table:
    models = {model for model, _ in columns}
    mine = [record for record in records if _model(record) in models]
    rows: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    with_loss = any(m.metric == "information_loss" for record in mine for m in record.measurements)
    for record in mine:
        label = [_perturbation(record.cell)]
        if with_loss:
            loss = [m.value for m in record.measurements if m.metric == "information_loss"]
            label.append(f"{100 * loss[0]:.1f}" if loss else "0.0" if record.cell["perturbation"] == "none" else "")
        cells = rows.setdefault(tuple(label), {})
        for row in record.measurements:
            if row.metric == metric:
                cells[_model(record), _dims(row.dims)] = _number(row)
    cell = mine[0].cell
    images = sorted({m.n for record in mine for m in record.measurements if m.metric == metric})
    unit = next(m.unit for record in mine for m in record.measurements if m.metric == metric)
    named = f"{next(iter(models))}: " if single else ""
    title = (
        f"{named}{metric}{' (%)' if unit == 'fraction' else ''} of {cell['probe']} on {cell['dataset']}/{cell['split']}"
    )
    if cell["support"] is not None and cell["support"]["perturbation"] != "none":
        title += f", support under {_support(cell)}"
    header = ("perturbation", *(("loss %",) if with_loss else ()))
    heads = tuple((dims or metric) if single else " ".join(filter(None, (model, dims))) for model, dims in columns)
    notes = [
        f"{'-'.join(map(str, images))} images" + (f" (limit {cell['limit']} of the split)" if cell["limit"] else "")
    ]
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


def summary_tables(summaries: Sequence[SummaryRecord]) -> list[Table]:
    """Every summary as one table, its numbers across; its rows per level are left to the file."""
    tables = []
    for name in dict.fromkeys(summary.summary for summary in summaries):
        rows: dict[tuple[str, ...], dict[str, str]] = {}
        metrics: dict[str, None] = {}
        for summary in (s for s in summaries if s.summary == name):
            for row in summary.measurements:
                if "level" in row.dims:
                    continue
                dims = {key: value for key, value in row.dims.items() if key != "axis"}
                group = summary.group
                label = (
                    str(group["model"]),
                    str(group["perturbation"]),
                    " ".join(filter(None, (str(group["probe"]), _dims(dims)))),
                )
                rows.setdefault(label, {})[row.metric] = _number(row)
                metrics[row.metric] = None
        if rows:
            tables.append(
                Table(
                    title=name,
                    header=("model", "perturbation", "probe", *metrics),
                    rows=tuple(
                        (*label, *(cells.get(metric, "") for metric in metrics)) for label, cells in rows.items()
                    ),
                    labels=3,
                )
            )
    return tables


def not_applicable_table(records: Iterable[ResultRecord]) -> Table | None:
    """Combinations of a glob or suite that cannot give a number, with the reason of each."""
    rows = tuple(
        dict.fromkeys(
            (_model(r), _perturbation(r.cell), str(r.cell["probe"]), str(r.not_applicable))
            for r in records
            if r.not_applicable is not None
        )
    )
    if not rows:
        return None
    return Table(title="not applicable", header=("model", "perturbation", "probe", "reason"), rows=rows, labels=4)


def measurement_rows(records: Iterable[ResultRecord]) -> list[dict[str, Any]]:
    """One flat mapping per measurement: the cell's names, the dims, and the number with its interval."""
    rows = []
    for record in records:
        cell = record.cell
        base = {
            "key": record.key,
            **{name: cell[name] for name in ("model", "weights", "dataset", "split", "limit", "view")},
            "support": _support(cell) or None,
            **{name: cell[name] for name in ("perturbation", "level", "probe", "precision")},
            **{f"seed_{purpose}": seed for purpose, seed in cell["seeds"].items()},
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


def _model(record: ResultRecord) -> str:
    return f"{record.cell['model']} (untrained)" if record.untrained else str(record.cell["model"])


def _support(cell: Mapping[str, Any]) -> str:
    support = cell["support"]
    if support is None:
        return ""
    level = "" if support["level"] is None else f"@{support['level']:g}"
    return f"{support['perturbation']}{level}"


def _perturbation(cell: Mapping[str, Any]) -> str:
    level = "" if cell["level"] is None else f"@{cell['level']:g}"
    seed = cell["seeds"]["perturb"]
    return f"{cell['perturbation']}{level}" + (f" seed {seed}" if seed else "")


def _dims(dims: Mapping[str, JSONScalar]) -> str:
    return " ".join(f"{key}={value}" for key, value in dims.items())


def _number(row: Measurement) -> str:
    if row.unit != "fraction":
        return f"{row.value:.4g}"
    text = f"{100 * row.value:.1f}"
    return text if row.low is None or row.high is None else f"{text} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
