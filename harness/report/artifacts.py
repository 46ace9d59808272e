"""What a sweep leaves in its folder for people: its curves as one CSV file and as pictures."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.planning import describe_ref
from harness.protocols import INFORMATION_LOSS
from harness.report.curves import draw_curves
from harness.report.labels import Labels
from harness.report.panels import MAX_PANELS, group_key, line_facts, row_text
from harness.report.tables import headline_metric
from harness.run_folder import ARTIFACTS, replacing, write_text
from harness.types import canonical_json, digest

if TYPE_CHECKING:
    from pathlib import Path

    from harness.types import Cell, LevelSpec, Measurement, ResultRecord

TABLE = "curves.csv"
COLUMNS = (
    "dataset",
    "split",
    "limit",
    "model",
    "weights",
    "untrained",
    "view",
    "perturbation",
    "level",
    "level_name",
    "seed",
    "probe",
    "support",
    "precision",
    "dims",
    "metric",
    "value",
    "low",
    "high",
    "interval",
    "n",
    INFORMATION_LOSS,
)
"""Columns of the CSV file; further realised quantities follow, and the record's ``key`` comes last."""

_CLEAN = "none"
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """The files written: the CSV file, and the pictures in the order of the plan."""

    table: Path
    pictures: tuple[Path, ...]


def write_artifacts(
    folder: Path,
    cells: Sequence[Cell],
    records: Sequence[ResultRecord],
    headlines: Mapping[str, str],
    levels: Mapping[str, LevelSpec],
) -> Artifacts | None:
    """Write the curves of a plan's ``cells`` into ``folder/artifacts``, each file in one step; None without a sweep.

    ``records`` are those of the cells there are, in any order; ``headlines`` gives the metric by probe name, ``levels``
    the strength axis by perturbation name. A sweep is a perturbation at two levels or more.

    ``curves.csv``: a row per record and row of its headline metric, in the order of the cells, numbers in full, dims as
    in ``shots=5 head=cls``. ``curves-DATASET-PROBE-ROW.png``: a panel per perturbation that is swept, a line per model
    over the information loss from 0 to 100 % (:func:`~harness.report.curves.draw_curves`); more than fit on a page
    become several, numbered ``-1of2``. All of them are those of this plan: pictures of an earlier one are removed.

    Raises :class:`~harness.errors.RecordsError` where a file cannot be written.
    """
    swept = _swept(cells)
    if not swept:
        return None
    by_key = {record.key: record for record in records if record.not_applicable is None}
    pairs = [(cell, by_key[cell.key]) for cell in cells if cell.key in by_key]
    place = folder / ARTIFACTS
    write_text(place / TABLE, _table(pairs, headlines, levels))
    pictures: dict[str, Path] = {}
    for name, part in _pictures([record for _, record in pairs], headlines, swept):
        path = pictures[name] = place / f"{name}.png"
        figure = draw_curves(part, headlines, levels, among=[record for _, record in pairs], loss_end=100.0)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
    for stale in place.glob("curves-*.png"):
        if stale.stem not in pictures:
            stale.unlink(missing_ok=True)
    return Artifacts(table=place / TABLE, pictures=tuple(pictures.values()))


def _swept(cells: Sequence[Cell]) -> frozenset[str]:
    """Fingerprints, as records hold them, of the perturbations with two levels or more."""
    found: dict[str, set[float]] = {}
    for cell in cells:
        if cell.not_applicable is None and cell.level is not None:
            found.setdefault(_fingerprint(cell.as_dict()), set()).add(cell.level)
    return frozenset(fingerprint for fingerprint, levels in found.items() if len(levels) > 1)


def _fingerprint(cell: Mapping[str, object]) -> str:
    components = cell["components"]
    assert isinstance(components, Mapping)
    return str(components["perturbation"]["fingerprint"])


# --- the table ---------------------------------------------------------------------------------------------------


def _table(
    pairs: Sequence[tuple[Cell, ResultRecord]], headlines: Mapping[str, str], levels: Mapping[str, LevelSpec]
) -> str:
    labels = Labels([record for _, record in pairs])
    groups: dict[tuple[str, ...], list[ResultRecord]] = {}
    for _, record in pairs:
        groups.setdefault(group_key(record, labels), []).append(record)
    metrics = {key: headline_metric(members, headlines) for key, members in groups.items()}
    further = sorted(
        {row.metric for _, record in pairs for row in record.measurements if _is_realised(row)} - {INFORMATION_LOSS}
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *further, "key"])
    for cell, record in pairs:
        realised = {row.metric: row.value for row in record.measurements if _is_realised(row)}
        if cell.perturbation.use == _CLEAN:
            realised[INFORMATION_LOSS] = 0.0
        metric = metrics[group_key(record, labels)]
        for row in record.measurements:
            if row.metric == metric:
                facts = _facts(cell, record, row, levels) | realised | {"key": record.key}
                writer.writerow([_text(facts.get(column)) for column in (*COLUMNS, *further, "key")])
    return text.getvalue()


def _is_realised(row: Measurement) -> bool:
    """Whether a row says what was done to the images, which is neither good nor bad, rather than what came of it."""
    return row.higher_is_better is None and not row.dims


def _facts(
    cell: Cell, record: ResultRecord, row: Measurement, levels: Mapping[str, LevelSpec]
) -> dict[str, str | float | None]:
    support = None if cell.support is None else describe_ref(cell.support)
    if cell.support_level is not None:
        support = f"{support}@{cell.support_level:g}"
    spec = levels.get(cell.perturbation.name)
    return {
        "dataset": describe_ref(cell.dataset.ref),
        "split": cell.dataset.split,
        "limit": cell.dataset.limit,
        "model": describe_ref(cell.model),
        "weights": cell.weights.identity,
        "untrained": record.untrained,
        "view": cell.view.text,
        "perturbation": describe_ref(cell.perturbation),
        "level": cell.level,
        "level_name": None if spec is None or cell.level is None else spec.name,
        "seed": cell.seeds.perturb,
        "probe": describe_ref(cell.probe),
        "support": support,
        "precision": cell.precision,
        "dims": " ".join(f"{name}={value}" for name, value in row.dims.items()),
        "metric": row.metric,
        "value": row.value,
        "low": row.low,
        "high": row.high,
        "interval": row.interval,
        "n": row.n,
    }


def _text(value: str | float | None) -> str:
    """Numbers with every digit they have; nothing for None."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


# --- the pictures ------------------------------------------------------------------------------------------------


def _pictures(
    records: Sequence[ResultRecord], headlines: Mapping[str, str], swept: frozenset[str]
) -> Iterator[tuple[str, list[ResultRecord]]]:
    """The name of each picture, and its records with the one row of the headline metric that it shows."""
    labels = Labels(records)
    groups: dict[tuple[str, ...], list[ResultRecord]] = {}
    for record in records:
        groups.setdefault(group_key(record, labels), []).append(record)
    taken: set[str] = set()
    for members in groups.values():
        metric = headline_metric(members, headlines)
        rows = [row for record in members for row in record.measurements if row.metric == metric]
        for shown in dict.fromkeys(row_text(row.dims) for row in rows):
            mine = _of_row(members, metric, shown)
            parts = _parts(mine, swept, labels)
            for number, part in enumerate(parts, start=1):
                name = _name(members[0], shown, labels)
                if len(parts) > 1:
                    name += f"-{number}of{len(parts)}"
                if name.casefold() in taken:
                    name += f"-{digest([sorted(record.key for record in part), shown])[:8]}"
                taken.add(name.casefold())
                yield name, part


def _of_row(records: Sequence[ResultRecord], metric: str | None, shown: str) -> list[ResultRecord]:
    """The records that have the row, without the other rows of the metric."""
    found = []
    for record in records:
        kept = [row for row in record.measurements if row.metric != metric or row_text(row.dims) == shown]
        if any(row.metric == metric for row in kept):
            found.append(dataclasses.replace(record, measurements=tuple(kept)))
    return found


def _parts(records: Sequence[ResultRecord], swept: frozenset[str], labels: Labels) -> list[list[ResultRecord]]:
    """The swept records in as many parts of equal size as pages are needed, each with the clean records it needs."""
    sweeps: dict[str, list[ResultRecord]] = {}
    for record in records:
        if _fingerprint(record.cell) in swept:
            sweeps.setdefault(labels.component(record.cell, "perturbation"), []).append(record)
    clean = [record for record in records if record.cell["components"]["perturbation"]["use"] == _CLEAN]
    names = list(sweeps)
    at_once = math.ceil(len(names) / math.ceil(len(names) / MAX_PANELS)) if names else 1
    parts = []
    for first in range(0, len(names), at_once):
        drawn = [record for name in names[first : first + at_once] for record in sweeps[name]]
        lines = {canonical_json(line_facts(record.cell)) for record in drawn}
        parts.append([*(base for base in clean if canonical_json(line_facts(base.cell)) in lines), *drawn])
    return parts


def _name(record: ResultRecord, shown: str, labels: Labels) -> str:
    """Dataset, probe and row as a file name that is safe everywhere: letters, digits and ``.=+_-``."""
    probe = labels.component(record.cell, "probe").split(":")
    row = [part.replace(" ", "") for part in shown.split(", ") if part]
    words = dict.fromkeys([labels.component(record.cell, "dataset"), *probe, *row])
    name = re.sub(r"[^A-Za-z0-9.=+_-]+", "_", "-".join(["curves", *words]))
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}-{digest(name)[:8]}"
