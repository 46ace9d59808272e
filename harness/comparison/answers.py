"""The records of one or several runs that can be compared, each with the folder that its outcomes lie in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.control_log import control_only
from harness.errors import UsageError
from harness.records import load_records

if TYPE_CHECKING:
    from harness.api import RunResult
    from harness.types import ResultRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A record, the folder that its outcomes lie in, and what that run is called."""

    record: ResultRecord
    folder: Path
    run: str


def answers_of(runs: Sequence[str | os.PathLike[str] | RunResult]) -> list[Answer]:
    """The records of some runs that can be compared: with numbers, and no controls of others.

    One record that several runs hold alike counts once. Raises :class:`UsageError` for no runs and for runs without
    records, and :class:`RecordsError` for a path that holds none or cannot be read.
    """
    if not runs:
        raise UsageError("nothing to compare", hint="name one or more output folders of harness run")
    names = _run_names(runs)
    found: dict[str, list[Answer]] = {}
    for name, run in zip(names, runs, strict=True):
        folder, records = _records(run)
        for record in records:
            alike = found.setdefault(record.key, [])
            if all(other.folder != folder and other.record.measurements != record.measurements for other in alike):
                alike.append(Answer(record=record, folder=folder, run=name))
    answers = [answer for alike in found.values() for answer in alike]
    if not answers:
        raise UsageError(
            f"nothing to compare: {', '.join(names)} {'holds' if len(names) == 1 else 'hold'} no numbers",
            hint="name output folders of harness run that have answered cells",
        )
    return answers


def _records(run: str | os.PathLike[str] | RunResult) -> tuple[Path, list[ResultRecord]]:
    if isinstance(run, str | os.PathLike):
        place = Path(run)
        folder = (place if place.is_dir() else place.parent).resolve()
        records, controls = load_records(place), control_only(folder)
    else:
        folder, records, controls = run.path.resolve(), list(run.records), run.control_keys
    usable = (record for record in records if record.not_applicable is None and record.key not in controls)
    return folder, [record for record in usable if record.cell.get("control") is None]


def _run_names(runs: Sequence[str | os.PathLike[str] | RunResult]) -> list[str]:
    """The last part of each path, and as many more as tell runs apart."""
    paths = []
    for run in runs:
        place = Path(run) if isinstance(run, str | os.PathLike) else run.path
        paths.append((place.parent if place.is_file() else place).resolve())
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]
