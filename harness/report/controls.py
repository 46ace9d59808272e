"""Negative controls beside the numbers they are controls of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.control_cells import CONTROLS, COPIES
from harness.report.labels import Labels, chance_of, data_name
from harness.report.tables import Table, dims_text, headline_metric, number_text
from harness.types import Measurement, ResultRecord

_NOTES = {
    "random_weights": "random weights: the same network, untrained",
    "shuffled_labels": "shuffled labels: support labels permuted {n} times, mean [2.5 %, 97.5 %] of them",
    "duplicated_features": "duplicated features: every number {copies} times over, no new information",
    "pixel_statistics": "pixel statistics: the probe on colours and contrasts of the pixels",
}


def control_tables(
    records: Sequence[ResultRecord], controls: Mapping[str, Mapping[str, str]], headlines: Mapping[str, str]
) -> list[Table]:
    """One table per dataset and probe: each number of its headline metric, and the same number of every control.

    ``controls``: keys of control records by the key of the record they belong to, and their name. A control that does
    not apply, or has no record, is a dash.
    """
    by_key = {record.key: record for record in records}
    labels = Labels(record for record in records if record.key in controls)
    groups: dict[tuple[str, str], list[ResultRecord]] = {}
    for record in records:
        if record.not_applicable is None and record.key in controls:
            place = data_name(record.cell, labels), labels.component(record.cell, "probe")
            groups.setdefault(place, []).append(record)
    return [_table(members, by_key, controls, headlines, place, labels) for place, members in groups.items()]


def _table(
    members: Sequence[ResultRecord],
    by_key: Mapping[str, ResultRecord],
    controls: Mapping[str, Mapping[str, str]],
    headlines: Mapping[str, str],
    place: tuple[str, str],
    labels: Labels,
) -> Table:
    metric = headline_metric(members, headlines) or ""
    names = [name for name in CONTROLS if any(name in controls[record.key] for record in members)]
    rows = []
    unit, shuffles = "fraction", 0
    for record in members:
        given = {name: by_key.get(key) for name, key in controls[record.key].items()}
        for row in record.measurements:
            if row.metric != metric:
                continue
            beside = {name: _same_row(given.get(name), row) for name in names}
            if (found := beside.get("shuffled_labels")) is not None:
                shuffles = found.n
            unit = row.unit
            rows.append(
                (
                    labels.model(record),
                    labels.condition(record.cell),
                    dims_text(row.dims),
                    number_text(row),
                    *("-" if found is None else number_text(found) for found in beside.values()),
                )
            )
    guessed = {chance_of(record, row) for record in members for row in record.measurements if row.metric == metric}
    chance = [f"chance: {float(100 * found):.1f} %" for found in sorted(filter(None, guessed))]
    notes = [_NOTES[name].format(n=shuffles or "several", copies=COPIES) for name in names]
    return Table(
        title=f"controls: {metric}{' (%)' if unit == 'fraction' else ''} of {place[1]} on {place[0]}",
        header=("model", "perturbation", "row", metric, *(name.replace("_", " ") for name in names)),
        rows=tuple(rows),
        labels=3,
        notes=(*notes, *chance),
    )


def _same_row(record: ResultRecord | None, row: Measurement) -> Measurement | None:
    if record is None:
        return None
    return next((m for m in record.measurements if m.metric == row.metric and dict(m.dims) == dict(row.dims)), None)
