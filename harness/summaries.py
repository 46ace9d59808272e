"""Numbers over several cells: records grouped by what a summary does not consume, and the file of what came out."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, PluginError, RecordsError
from harness.params import coerce
from harness.protocols import Summary, SummaryInput
from harness.records import json_line
from harness.run_folder import SUMMARIES, reported, write_text
from harness.targets import load_target
from harness.types import Measurement, SummaryRecord, canonical_json, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from harness.entries import SummaryEntry
    from harness.protocols import Outcomes
    from harness.types import JSONValue, ResultRecord

# Retention stands here too: the target of the core's own entry names this module.
_CLEAN = "none"
_SWEPT = ("level", "perturbation", "seed")
_OF_DATASET = ("dataset", "split", "fingerprint", "limit", "view", "label_space", "num_classes")
"""What goes with a dataset: a summary over datasets gets whatever a model was asked of any."""


def summarise(
    records: Iterable[ResultRecord],
    load: Callable[[ResultRecord], Outcomes | None],
    entries: Iterable[SummaryEntry],
    build: Callable[[SummaryEntry], Summary] | None = None,
    baselines: Mapping[str, Mapping[str, str]] | None = None,
) -> list[SummaryRecord]:
    """Every summary of ``entries`` over every group of ``records`` it applies to, in an order of its own.

    Records of one group agree in all but the axes that the entry consumes: ``level``, ``seed`` (that of the
    perturbation), ``perturbation``, ``dataset``. A group is passed over that holds fewer than ``min_cells`` points
    (levels; perturbations and levels; datasets), or whose clean record is missing where the entry requires it, or of
    which the summary has nothing to say. ``load`` gives a record's outcomes with what was realised among the columns,
    such as ``read_outcomes(folder, record.key).with_realised``, or None where it has none; one group is held at a time.
    Cells that are negative controls of others are passed over. ``build`` makes a summary from its entry, by default
    its target with default parameters. ``baselines``: keys of the records of baseline models by the key of the record
    that is read against them, and their name. Equal records give equal summaries, in any order they come.

    Raises :class:`PluginError` for a summary that cannot be made or that fails, naming the group, and what ``load``
    raises.
    """
    usable = {r.key: r for r in records if r.not_applicable is None and r.cell.get("control") is None}
    ordered = [usable[key] for key in sorted(usable)]
    clean = {_group_digest(record, _SWEPT): record for record in ordered if _is_clean(record)}
    results: list[SummaryRecord] = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        summary = (build or _build)(entry)
        for members in _groups(ordered, entry.consumes):
            base = clean.get(_group_digest(members[0], _SWEPT))
            if len({_point(member) for member in members}) < entry.min_cells or (base is None and entry.requires_clean):
                continue
            named = (baselines or {}) if entry.baselined else {}
            inputs = [_input(member, named, usable, load) for member in members]
            clean_input = None if base is None else _input(base, named, usable, load)
            read = [*([clean_input] if clean_input else []), *inputs]
            beside = [other for given in read for other in given.baselines.values()]
            measurements = _compute(entry, summary, inputs, clean_input)
            if measurements:
                results.append(
                    SummaryRecord(
                        summary=entry.name,
                        version=entry.version,
                        group=_group(members[0], entry.consumes),
                        records=tuple(dict.fromkeys(given.record.key for given in (*beside, *read))),
                        measurements=tuple(measurements),
                    )
                )
    return sorted(results, key=lambda result: (result.summary, canonical_json(result.group)))


def _input(
    record: ResultRecord,
    baselines: Mapping[str, Mapping[str, str]],
    usable: Mapping[str, ResultRecord],
    load: Callable[[ResultRecord], Outcomes | None],
) -> SummaryInput:
    """``record`` with its outcomes, and with what baseline models answered as far as that is there."""
    found = {name: usable[key] for name, key in sorted(baselines.get(record.key, {}).items()) if key in usable}
    beside = {name: SummaryInput(record=other, outcomes=load(other)) for name, other in found.items()}
    return SummaryInput(record=record, outcomes=load(record), baselines=beside)


def write_summaries(path: Path, summaries: Iterable[SummaryRecord]) -> None:
    """Replace the file ``path``, or ``summaries.jsonl`` of the folder ``path``, by ``summaries`` in one step.

    Raises :class:`RecordsError` where it cannot be written, and for numbers that are not finite.
    """
    lines = [json_line(summary.as_dict(), f"summary {summary.summary}") for summary in summaries]
    write_text(path / SUMMARIES if path.is_dir() else path, "".join(lines))


def load_summaries(path: Path) -> list[SummaryRecord]:
    """The summaries of an output folder or file; none where the folder has none yet.

    Raises :class:`RecordsError` naming file and line for what is no summary, or one of another schema.
    """
    file = path / SUMMARIES if path.is_dir() else path
    if path.is_dir() and not file.exists():
        return []
    with reported("cannot read", file):
        lines = file.read_bytes().splitlines()
    return [_parse(line, f"{file}:{number}") for number, line in enumerate(lines, start=1)]


def _parse(line: bytes, where: str) -> SummaryRecord:
    hint = "summaries can be derived again from the records; remove the file"
    try:
        return SummaryRecord.from_dict(json.loads(line))
    except HarnessError as error:
        raise RecordsError(f"{where}: {error.message}", hint=hint) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordsError(f"{where} is not a summary: {error!r}", hint=hint) from error


def _is_clean(record: ResultRecord) -> bool:
    return bool(record.cell["components"]["perturbation"]["use"] == _CLEAN)


def _point(record: ResultRecord) -> str:
    """The place of a record within its group, whatever its seed."""
    return canonical_json([record.cell["fingerprint"], _component(record, "perturbation"), record.cell["level"]])


def _groups(records: Sequence[ResultRecord], consumes: Sequence[str]) -> Iterator[list[ResultRecord]]:
    groups: dict[str, list[ResultRecord]] = {}
    for record in records:
        if not _is_clean(record) or "dataset" in consumes:
            groups.setdefault(_group_digest(record, consumes), []).append(record)
    for members in groups.values():
        yield sorted(members, key=_place)


def _place(record: ResultRecord) -> tuple[str, float, int, str]:
    level, seed = record.cell["level"], record.cell["seeds"]["perturb"]
    return (
        _component(record, "perturbation"),
        float("-inf") if level is None else float(level),
        -1 if seed is None else int(seed),
        record.key,
    )


def _component(record: ResultRecord, role: str) -> str:
    """What identifies a component whatever the name it was asked for by."""
    component = record.cell["components"][role]
    return str(component["fingerprint"])


def _group(record: ResultRecord, consumes: Sequence[str]) -> dict[str, JSONValue]:
    """The axes of a record that are not consumed: for people by name, for telling groups apart by component."""
    cell = record.cell
    left_out = {"seeds", "components", *(name for name in consumes if name in _SWEPT)}
    if "dataset" in consumes:
        left_out.update(_OF_DATASET)
    group: dict[str, JSONValue] = {name: value for name, value in cell.items() if name not in left_out}
    group["seeds"] = {
        purpose: seed for purpose, seed in cell["seeds"].items() if not (purpose == "perturb" and "seed" in consumes)
    }
    group["components"] = {
        role: _component(record, role) for role in sorted(cell["components"]) if role not in consumes
    }
    return group


def _group_digest(record: ResultRecord, consumes: Sequence[str]) -> str:
    group = _group(record, consumes)
    # One component may have been asked for by two names; its records belong together all the same.
    for role in ("model", "dataset", "perturbation", "probe"):
        group.pop(role, None)
    if isinstance(support := group["support"], dict):
        group["support"] = {name: value for name, value in support.items() if name != "perturbation"}
    return digest(group)


def _build(entry: SummaryEntry) -> Summary:
    params: Any = coerce(entry.params, {}, f"summary {entry.name}")
    arguments = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    summary = load_target(entry)(**arguments)
    if not isinstance(summary, Summary):
        raise PluginError(f"summary {entry.name}: {entry.target} made a {type(summary).__name__} without compute()")
    return summary


def _compute(
    entry: SummaryEntry, summary: Summary, inputs: Sequence[SummaryInput], clean: SummaryInput | None
) -> list[Measurement]:
    try:
        return summary.compute(inputs, clean)
    except HarnessError:
        raise
    except Exception as error:
        group = canonical_json(_group(inputs[0].record, entry.consumes))
        raise PluginError(f"summary {entry.name} failed on {group}: {error!r}") from error
