"""The exhibits of a run: what the probes of a plan show beside their numbers, as pictures and CSV files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from harness.array_files import read_arrays
from harness.exhibits import Exhibit, Finding, Table
from harness.outcome_files import open_outcomes, read_ids
from harness.report.labels import Labels
from harness.report.tables import RowLabels, model_names
from harness.run_folder import ARTIFACTS, replacing, write_text
from harness.types import digest

if TYPE_CHECKING:
    from pathlib import Path

    from harness.exhibits import MakeExhibit
    from harness.types import Cell, ResultRecord

_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenExhibit:
    """The files of one probe on one dataset, or the reason why there are none."""

    probe: str
    pictures: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    problem: str | None = None


def write_exhibits(
    folder: Path,
    cells: Sequence[Cell],
    records: Sequence[ResultRecord],
    exhibits: Mapping[str, Callable[[], MakeExhibit]],
) -> Iterator[WrittenExhibit]:
    """Draw what the probes of a plan's ``cells`` found, into ``folder/artifacts/PROBE``, each file in one step.

    ``records`` are those of the cells there are, in any order; ``exhibits`` gives what draws, by the fingerprint of the
    probe. One exhibit shows all models, perturbations and levels of a probe on a dataset: ``DATASET.png`` and
    ``DATASET/NAME.png``, and CSV files of these names. Files of an earlier exhibit of the same probe and dataset are
    removed. An exhibit that cannot be drawn says so and leaves the others alone.
    """
    by_key = {record.key: record for record in records if record.not_applicable is None}
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.probe.fingerprint in exhibits and cell.key in by_key:
            groups.setdefault(_group(cell), []).append(cell)
    shown = [by_key[cell.key] for members in groups.values() for cell in members]
    names = model_names(shown, RowLabels(shown))
    labels = Labels(shown)
    taken: set[str] = set()
    for members in groups.values():
        found = [by_key[cell.key] for cell in members]
        probe = _safe(labels.component(found[0].cell, "probe"))
        stem = _stem(found[0], labels)
        if f"{probe}/{stem}".casefold() in taken:
            stem = f"{stem}-{_group(members[0])[:8]}"
        taken.add(f"{probe}/{stem}".casefold())
        place = folder / ARTIFACTS / probe
        try:
            make = exhibits[members[0].probe.fingerprint]()
            made = make([_finding(folder, record, names[record.key], labels) for record in found])
            yield _write(made, place, stem, probe)
        except Exception as error:  # noqa: BLE001  # records are worth more than pictures, and other exhibits as much
            yield WrittenExhibit(probe=probe, problem=f"{type(error).__name__}: {error}")


def _group(cell: Cell) -> str:
    """Findings of one exhibit are of one probe, on the same images, fitted in one way."""
    return digest(
        {
            "probe": cell.probe.key,
            "dataset": cell.dataset.key,
            "support": None if cell.support is None else [cell.support.key, cell.support_level],
            "precision": cell.precision,
        }
    )


def _finding(folder: Path, record: ResultRecord, model: str, labels: Labels) -> Finding:
    return Finding(
        record=record,
        model=model,
        condition=labels.condition(record.cell),
        level=record.cell["level"],
        arrays=read_arrays(folder, record.key) if "arrays" in record.environment else {},
        outcomes=open_outcomes(folder, record.key),
        ids=_StoredIds(folder, record.key),
    )


class _StoredIds(Sequence[str]):
    """The ids of an outcome file, read when the first is asked for."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key
        self._ids: Sequence[str] | None = None

    def _read(self) -> Sequence[str]:
        if self._ids is None:
            self._ids = read_ids(self._folder, self._key)
        return self._ids

    def __len__(self) -> int:
        return len(self._read())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._read()[index]


def _write(made: Exhibit, place: Path, stem: str, probe: str) -> WrittenExhibit:
    pictures, tables = [], []
    for name, figure in made.pictures.items():
        path = _path(place, stem, name, ".png")
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
        pictures.append(path)
    for name, table in made.tables.items():
        path = _path(place, stem, name, ".csv")
        write_text(path, _csv(table))
        tables.append(path)
    own = place / stem
    for stale in (place / f"{stem}.png", place / f"{stem}.csv", *(own.iterdir() if own.is_dir() else ())):
        if stale.suffix in (".png", ".csv") and stale not in (*pictures, *tables):
            stale.unlink(missing_ok=True)
    return WrittenExhibit(probe=probe, pictures=tuple(pictures), tables=tuple(tables))


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    for row in table.rows:
        writer.writerow(["" if value is None else repr(value) if isinstance(value, float) else value for value in row])
    return text.getvalue()


def _stem(record: ResultRecord, labels: Labels) -> str:
    """Dataset and split, and what the probe was fitted on where that was perturbed."""
    cell = record.cell
    words = [labels.component(cell, "dataset")]
    if cell["support"] is not None and cell["support"]["perturbation"] != "none":
        words.append(f"support-{labels.support(cell)}")
    return _safe("-".join(words))


def _path(place: Path, stem: str, name: str, ending: str) -> Path:
    return place / stem / f"{_safe(name)}{ending}" if name else place / f"{stem}{ending}"


def _safe(text: str) -> str:
    """``text`` as a file name that is safe everywhere: letters, digits and ``.=+_@-``."""
    name = re.sub(r"[^A-Za-z0-9.=+_@-]+", "_", text)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}-{digest(text)[:8]}"
