"""Summaries as tables a person reads: a row per model, perturbation and probe; one number by corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.report.labels import KEY_DIGITS, Labels, data_name
from harness.report.tables import MAX_COLUMNS, PER_CENT, RowLabels, Table, dims_text, model_names, number_text
from harness.run_folder import SUMMARIES
from harness.types import JSONScalar, Measurement, ResultRecord, SummaryRecord

MAX_METRICS = 3
"""Numbers of a summary side by side: their names are long, and more would be broken over two lines."""

_LISTED = "corruption"
"""The dimension of a summary whose values are listed in a table of their own."""


def summary_tables(summaries: Sequence[SummaryRecord], records: Sequence[ResultRecord] = ()) -> list[Table]:
    """Every summary as tables per dataset, its numbers across; rows per level or class are left to the file.

    Rows per corruption are tables of their own, models across.
    ``records`` that the summaries were derived from say how rows of one name differ, and in what order they come.
    """
    places = {record.key: place for place, record in enumerate(records)}
    summaries = sorted(summaries, key=lambda summary: places.get(summary.records[-1], len(places)))
    labels = RowLabels(records)
    by_key = {record.key: record for record in records}
    names = model_names(records, labels)
    groups: dict[tuple[str, str], list[SummaryRecord]] = {}
    for summary in summaries:
        groups.setdefault((summary.summary, _place_of(summary, by_key, labels)), []).append(summary)
    several = len({place for _, place in groups if place}) > 1
    tables = []
    for (name, place), members in groups.items():
        rows: dict[tuple[str, str, str], dict[str, Measurement]] = {}
        metrics: dict[str, None] = {}
        classes: dict[str, set[JSONScalar]] = {}
        listed: dict[str, dict[tuple[str, str, str], dict[str, Measurement]]] = {}
        owners: dict[tuple[str, str, str], object] = {}
        for summary in members:
            for row in summary.measurements:
                if "class" in row.dims:
                    classes.setdefault(row.metric, set()).add(row.dims["class"])
                elif _LISTED in row.dims:
                    corruption = str(row.dims[_LISTED])
                    rest = {key: value for key, value in row.dims.items() if key != _LISTED}
                    label = _free_label(summary, rest, by_key, labels, names, owners)
                    listed.setdefault(row.metric, {}).setdefault(label, {})[corruption] = row
                elif "level" not in row.dims:
                    label = _free_label(summary, row.dims, by_key, labels, names, owners)
                    rows.setdefault(label, {})[row.metric] = row
                    metrics[row.metric] = None
        notes = [f"{metric} of {len(found)} classes, level by level: {SUMMARIES}" for metric, found in classes.items()]
        where = f" on {place}" if several and place else ""
        tables += _parts(name + where, rows, list(metrics), notes)
        for metric, found in listed.items():
            percent = any(row.unit in PER_CENT for given in found.values() for row in given.values())
            tables += _lists(f"{metric}{' (%)' if percent else ''}", where, found)
    return tables


def _place_of(summary: SummaryRecord, by_key: Mapping[str, ResultRecord], labels: Labels) -> str:
    """The dataset of a summary, empty for one over datasets."""
    group, record = summary.group, by_key.get(summary.records[-1])
    if "dataset" not in group:
        return ""
    return f"{group['dataset']}/{group['split']}" if record is None else data_name(record.cell, labels)


def _lists(title: str, where: str, columns: Mapping[tuple[str, str, str], Mapping[str, Measurement]]) -> list[Table]:
    """One number of each corruption, models across; what all its rows have in common stands in the title."""
    found = {
        (model, " ".join(part for part in rest if part not in ("", "none"))): given
        for (model, *rest), given in columns.items()
    }
    models, settings = (list(dict.fromkeys(place)) for place in zip(*found, strict=True))
    apart = len(settings) > 1
    title += where if apart else f" of {settings[0]}{where}"
    tables = []
    for start in range(0, len(models), MAX_COLUMNS):
        shown = models[start : start + MAX_COLUMNS]
        rows = {
            (name, setting): [found.get((model, setting), {}).get(name) for model in shown]
            for setting in settings
            for name in dict.fromkeys(n for place, given in found.items() if place[1] == setting for n in given)
        }
        tables.append(
            Table(
                title=f"{title}, continued" if start else title,
                header=(_LISTED, *(["probe"] if apart else []), *shown),
                rows=tuple(
                    (*(label if apart else label[:1]), *map(_summary_number, given))
                    for label, given in rows.items()
                    if any(given)
                ),
                labels=2 if apart else 1,
            )
        )
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
        said = ["blank: there is no such number"] if None in found else []
        if any(row is not None and row.unit in PER_CENT and row.interval is None for row in found):
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
    if row.unit == "flags":
        return f"{number_text(row)} of {row.n} {row.counted}"
    return number_text(row) if row.unit in (*PER_CENT, "") else f"{number_text(row)} ({row.unit})"


def _free_label(
    summary: SummaryRecord,
    given: Mapping[str, JSONScalar],
    by_key: Mapping[str, ResultRecord],
    labels: Labels,
    names: Mapping[str, str],
    owners: dict[tuple[str, str, str], object],
) -> tuple[str, str, str]:
    """The row of a number with the dims ``given``: the shortest label that ``owners`` holds for nothing else."""
    model, perturbation, probe = _summary_label(summary, by_key, labels, names)
    axisless = {key: value for key, value in given.items() if key != "axis"}
    unique = f"{model} cell {summary.records[-1][:KEY_DIGITS]}"
    owner = (summary.records, dims_text(given))
    for named, dims in ((model, axisless), (model, given), (unique, given)):
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
        untrained = " (untrained)" if str(group.get("weights", "")).startswith("random") else ""
        return f"{group['model']}{untrained}", perturbation, probe
    cell = record.cell
    probe = labels.component(cell, "probe")
    if cell["support"] is not None and cell["support"]["perturbation"] != "none":
        probe += f", support under {labels.support(cell)}"
    if "perturbation" in group:
        perturbation = labels.component(cell, "perturbation")
    return names[record.key], perturbation, probe
