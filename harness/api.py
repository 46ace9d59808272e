"""The Python interface: run a grid, plan it, list what there is, read records back."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.baseline_log import note_baselines, read_baselines
from harness.control_log import note_controls
from harness.errors import PluginError, RecordsError, UsageError
from harness.grid import build_plan
from harness.options import Counters, RunOptions
from harness.planning import Precision, RunPlan
from harness.progress import NoProgress, Progress
from harness.published_accuracy import accuracy_warnings
from harness.records import RecordStore, load_records
from harness.request import Asked
from harness.run_folder import ARTIFACTS
from harness.types import JSONValue, Kind, LevelSpec, ResultRecord, SummaryRecord, View
from harness.weights import WeightsChoice, allowing, parse_weights

if TYPE_CHECKING:
    import pandas as pd

    from harness.catalog import Catalog, CatalogRow
    from harness.components import AttackTarget
    from harness.entries import SummaryEntry
    from harness.manager import HarnessManager, PluginFailure
    from harness.protocols import Outcomes
    from harness.report.artifacts import Artifacts
    from harness.report.exhibits import WrittenExhibit
    from harness.report.tables import Table
    from harness.walk import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Where names come from: plugins and registry files.

    ``registry_files`` are read after the packaged one; ``block`` names plugins to leave out; ``plugins`` are further
    (name, module or object) pairs; ``strict`` makes the first broken plugin an error.
    """

    registry_files: Sequence[Path | str] = ()
    block: Sequence[str] = ()
    plugins: Sequence[tuple[str, object]] = ()
    strict: bool = False

    def open(self) -> Workbench:
        """Load plugins and registry files. Raises :class:`PluginError` for a broken one of ``plugins``."""
        from harness.catalog import build_catalog
        from harness.manager import build_manager

        manager = build_manager(extra=tuple(self.plugins), block=tuple(self.block), strict=self.strict)
        given = {name for name, _ in self.plugins}
        for failure in manager.failures:
            # An installed plugin that is broken may be none of the caller's business; one handed over is.
            if failure.plugin in given:
                raise PluginError(failure.describe()) from failure.cause
        catalog = build_catalog(manager, registry_files=tuple(Path(file) for file in self.registry_files))
        return Workbench(manager=manager, catalog=catalog)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """Loaded plugins and registry, ready to plan and run."""

    manager: HarnessManager
    catalog: Catalog


class _OwnFolder:
    """A temporary folder that goes with its last reference, without the warning of :class:`TemporaryDirectory`."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="harness-run-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run gave, in the order of the plan.

    ``records`` hold every cell that has a number or a reason why it has none, ``reused`` of them from before.
    ``failures`` are cells without a record. ``path`` is the output folder, with outcomes per image. ``headlines`` gives
    the metric that stands for a probe, ``levels`` the strength axis of a perturbation, each by name. ``artifacts`` are
    the curves written into an ``out`` that was named, None without a sweep, and ``exhibits`` what probes show beside
    their numbers, there too. ``controls`` gives the keys of a record's
    negative controls by its key and their name; ``control_keys`` those of records that are there as controls only.
    ``warnings``: clean accuracies that cannot be the published ones of those weights, in words.
    """

    records: tuple[ResultRecord, ...]
    summaries: tuple[SummaryRecord, ...]
    failures: tuple[Failure, ...]
    counters: Counters
    path: Path
    reused: int
    headlines: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, LevelSpec] = field(default_factory=dict)
    artifacts: Artifacts | None = None
    exhibits: tuple[WrittenExhibit, ...] = ()
    controls: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    control_keys: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    # Keeps the folder of a run without ``out`` alive as long as its result.
    _folder: _OwnFolder | None = field(default=None, repr=False)

    @property
    def exit_code(self) -> int:
        """0 if every cell has its record, 1 if some failed."""
        return 1 if self.failures else 0

    def get(self, **cell: JSONValue) -> ResultRecord:
        """The one record whose cell has these values (``model="vit_b16", level=0.5``); KeyError otherwise."""
        found = [r for r in self.records if all(r.cell.get(name) == value for name, value in cell.items())]
        if len(found) != 1:
            raise KeyError(f"{len(found)} of {len(self.records)} records match {cell}")
        return found[0]

    @property
    def asked(self) -> tuple[ResultRecord, ...]:
        """The records without those that are there as controls of others only."""
        return tuple(record for record in self.records if record.key not in self.control_keys)

    def tables(self) -> list[Table]:
        """What a person reads: headline numbers, the negative controls beside each of them if asked for, summaries."""
        from harness.report.controls import control_tables
        from harness.report.summary_tables import summary_tables
        from harness.report.tables import record_tables

        return [
            *record_tables(self.asked, self.headlines),
            *control_tables(self.records, self.controls, self.headlines),
            *summary_tables(self.summaries, self.asked),
        ]

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat mapping per measurement."""
        from harness.report.tables import measurement_rows

        return measurement_rows(self.records)

    def to_pandas(self) -> pd.DataFrame:
        """One row per measurement. Raises :class:`UsageError` where pandas is not installed."""
        try:
            import pandas as pd
        except ImportError as error:
            raise UsageError("to_pandas() needs pandas", hint="pip install pandas, or use to_rows()") from error
        return pd.DataFrame(self.to_rows())

    def plot(self, path: str | Path) -> None:
        """Draw the result into ``path``, a PNG, SVG or PDF by its ending, replacing what is there.

        A panel per dataset, probe, row of its headline metric and perturbation: accuracy in percent over the realised
        information loss in percent (over the level where none is recorded), a line per model, 95 % intervals, chance
        level; without levels a row of dots and bars per model. For the figure itself, or for records of several runs,
        call :func:`harness.report.curves.draw_curves`.

        Raises :class:`UsageError` for another ending or a folder that cannot be written to, where there is nothing to
        draw, and for more panels than fit on a page.
        """
        from harness.report.curves import save_curves

        save_curves(self.asked, self.headlines, path, self.levels)

    def __repr__(self) -> str:
        from harness.report.terminal import plain

        tables = self.tables()
        head = f"RunResult: {len(self.records)} records, {len(self.failures)} failed, in {self.path}"
        return "\n\n".join([head, *(plain(table) for table in tables)])


def run(
    *,
    model: object = None,
    perturb: object = None,
    probe: object = None,
    dataset: object = None,
    support_perturb: object = None,
    suite: str | None = None,
    weights: str | WeightsChoice = "pretrained",
    allow_missing: Sequence[str] = (),
    data: str | Path | None = None,
    split: str | None = None,
    view: str | View | None = None,
    seeds: Sequence[int] | None = None,
    limit: int | float | str | None = None,
    precision: Precision | None = None,
    controls: bool = False,
    baseline: object = None,
    attack_target: AttackTarget | None = None,
    out: str | Path | None = None,
    options: RunOptions | None = None,
    setup: Setup | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run every combination of models, perturbations and probes, and return typed results.

    ``model``, ``perturb``, ``probe`` and ``dataset`` each take a name in the command line's grammar
    (``"patchdrop_random@0.5"``), an instance, or a list of such; a perturbation with its levels may be given as
    ``(instance, [0.25, 0.5])``. What is not given comes from ``suite``, then from the registry's defaults.
    ``controls`` adds negative controls to every cell (:mod:`harness.control_cells`); :attr:`RunResult.controls` says
    whose they are. ``allow_missing``: patterns (``["head.*"]``) of names that a file of weights and the model need not
    have in common; what the file lacks keeps its initial values. ``baseline`` is the model, by name or an instance,
    that numbers under corruptions are read against (``mce_vs_NAME``). ``attack_target`` is what attacks aim at that do
    not say so themselves: the model's ``head``, or the ``probe`` that is then asked.

    ``out`` is a folder whose records are kept and reused; without one the result lives as long as the
    object. A sweep over levels leaves its curves there, as a table and as pictures.
    No global state is changed and nothing exits.

    Raises the subclasses of :class:`~harness.errors.HarnessError`; a cell that fails while others go on is listed in
    ``failures`` instead.

    >>> import harness
    >>> result = harness.run(
    ...     model="resnet18", weights="random", dataset="digits", probe="fewshot:shots=5", limit=20,
    ...     view="resize=32,crop=32", options=harness.RunOptions(cache_dir=None),
    ... )
    >>> result.records[0].get("accuracy", shots=5).n
    20
    """
    asked = _asked(
        model, perturb, probe, dataset, support_perturb, suite, weights, allow_missing, data, split, view, seeds, limit,
        precision, controls, baseline, attack_target,
    )  # fmt: skip
    return run_asked((setup or Setup()).open(), asked, out=out, options=options, progress=progress)


def plan(
    *,
    model: object = None,
    perturb: object = None,
    probe: object = None,
    dataset: object = None,
    support_perturb: object = None,
    suite: str | None = None,
    weights: str | WeightsChoice = "pretrained",
    allow_missing: Sequence[str] = (),
    data: str | Path | None = None,
    split: str | None = None,
    view: str | View | None = None,
    seeds: Sequence[int] | None = None,
    limit: int | float | str | None = None,
    precision: Precision | None = None,
    controls: bool = False,
    baseline: object = None,
    attack_target: AttackTarget | None = None,
    setup: Setup | None = None,
) -> RunPlan:
    """The cells and passes that :func:`run` with the same arguments would answer. Imports no torch.

    >>> import harness
    >>> plan = harness.plan(model="resnet18", weights="random", dataset="digits", probe="fewshot",
    ...                     perturb="patchdrop_random@all")
    >>> len(plan.cells), plan.passes[0].forwards_per_image
    (11, 10)
    """
    asked = _asked(
        model, perturb, probe, dataset, support_perturb, suite, weights, allow_missing, data, split, view, seeds, limit,
        precision, controls, baseline, attack_target,
    )  # fmt: skip
    return plan_asked((setup or Setup()).open(), asked)


def list_entries(kind: Kind, *, setup: Setup | None = None) -> list[CatalogRow]:
    """Everything of one kind that can be named: entries of plugins and presets of registry files."""
    return (setup or Setup()).open().catalog.rows(kind)


def plan_asked(bench: Workbench, asked: Asked) -> RunPlan:
    """:func:`plan` for arguments that are already gathered."""
    return build_plan(bench.catalog, asked.resolve(bench.catalog), summaries=_summary_entries(bench))


def run_asked(
    bench: Workbench,
    asked: Asked,
    *,
    out: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    options: RunOptions | None = None,
    progress: Progress | None = None,
    planned: Callable[[RunPlan], None] | None = None,
) -> RunResult:
    """:func:`run` for arguments that are already gathered. ``shard`` (i, n) counts from 1.

    ``planned`` is called with the plan before anything is loaded or written; what it raises ends the run.
    """
    whole = plan_asked(bench, asked)
    part = whole if shard is None else whole.shard(shard[0] - 1, shard[1])
    if planned is not None:
        planned(part)
    folder = None
    if out is None:
        folder = _OwnFolder()
        out = folder.path
    observers = bench.manager
    progress = progress or NoProgress()
    failures: Sequence[Failure] = ()
    counters = Counters()
    with RecordStore(out, shard=shard) as store:
        before = store.keys()
        lost = _without_outcomes(store)
        if lost:
            progress.note(f"the outcomes of {len(lost)} records are gone; those of this plan are made anew")
        todo = part.without(before - lost)
        for model in todo.models:
            model.require_weights()
        store.write_plan(part.as_dict())
        note_controls(store.folder, asked=[cell.key for cell in part.asked], controls=part.control_keys)
        note_baselines(store.folder, part.baselines)
        _report(observers.notify_run_started(part), progress)
        if todo.cells:
            from harness.engine import execute

            execution = execute(
                todo,
                store,
                options or RunOptions(),
                progress=progress,
                written=lambda record: _report(observers.notify_record_written(record), progress),
                redo=lost,
            )
            failures, counters = execution.failures, execution.counters
        by_key = {record.key: record for record in store.records()}
        summaries = derive_summaries(
            bench, store.folder, [by_key[c.key] for c in part.asked if c.key in by_key], progress
        )
        artifacts = None if folder is not None else _write_artifacts(store.folder, whole, by_key.values(), progress)
        exhibits = () if folder is not None else _write_exhibits(store.folder, whole, by_key.values(), progress)
    result = RunResult(
        records=tuple(by_key[cell.key] for cell in part.cells if cell.key in by_key),
        summaries=tuple(summaries),
        failures=tuple(failures),
        counters=counters,
        path=Path(out),
        reused=sum(cell.key in before for cell in part.cells),
        headlines=part.headlines,
        levels=part.levels,
        artifacts=artifacts,
        exhibits=exhibits,
        controls=part.controls,
        control_keys=part.control_keys,
        warnings=tuple(accuracy_warnings(part.passes, by_key)),
        _folder=folder,
    )
    _report(observers.notify_run_finished(result), progress)
    return result


def _write_artifacts(
    folder: Path, plan: RunPlan, records: Iterable[ResultRecord], progress: Progress
) -> Artifacts | None:
    """The curves of the whole plan, as far as any shard has answered it; what goes wrong costs nobody the records."""
    from harness.report.artifacts import write_artifacts

    try:
        return write_artifacts(folder, plan.asked, tuple(records), plan.headlines, plan.levels)
    except Exception as error:  # noqa: BLE001 - the records are written, and worth more than pictures of them
        progress.note(f"warning: the curves in {folder / ARTIFACTS} could not be written: {error}")
        return None


def _write_exhibits(
    folder: Path, plan: RunPlan, records: Iterable[ResultRecord], progress: Progress
) -> tuple[WrittenExhibit, ...]:
    """What the probes of the whole plan show; what goes wrong costs nobody the records."""
    if not plan.exhibits:
        return ()
    from harness.report.exhibits import write_exhibits

    made = tuple(write_exhibits(folder, plan.asked, tuple(records), plan.exhibits))
    for exhibit in made:
        if exhibit.problem is not None:
            progress.note(f"warning: what {exhibit.probe} shows could not be drawn: {exhibit.problem}")
    return made


def _report(failures: Sequence[PluginFailure], progress: Progress) -> None:
    for failure in failures:
        progress.note(f"warning: {failure.describe()}")


def derive_summaries(
    bench: Workbench, folder: Path, shown: Sequence[ResultRecord], progress: Progress
) -> list[SummaryRecord]:
    """Derive every summary of all records in ``folder`` anew, write them, and return those about ``shown``.

    A record whose outcomes are missing or damaged is left out with a note.
    """
    import numpy as np

    from harness.outcome_files import open_outcomes
    from harness.summaries import summarise, write_summaries

    last: Outcomes | None = None

    def load(record: ResultRecord) -> Outcomes | None:
        nonlocal last
        try:
            found = open_outcomes(folder, record.key)
            if last is not None and np.array_equal(last.positions, found.positions):
                # The cells of a sweep have seen the same images: one copy of their positions will do.
                found = dataclasses.replace(found, positions=last.positions)
            last = found
            return found
        except RecordsError as error:
            progress.note(f"left out of the summaries: {error.message}")
            return None

    baselines = read_baselines(folder)
    summaries = summarise(load_records(folder), load=load, entries=_summary_entries(bench), baselines=baselines)
    write_summaries(folder / "summaries.jsonl", summaries)
    keys = {record.key for record in shown}
    beside = {key for named in baselines.values() for key in named.values()}
    perturbed = {record.key for record in shown if record.cell["perturbation"] != "none"}
    return [summary for summary in summaries if _is_about(summary, keys, perturbed, beside)]


def _is_about(summary: SummaryRecord, keys: set[str], perturbed: set[str], beside: set[str]) -> bool:
    """Whether a summary speaks of records asked for; ``beside`` are those of baselines, which it may rest on as well.

    One over perturbations or datasets takes in whatever the folder holds, also of earlier commands.
    """
    if "dataset" not in summary.group:
        return not keys.isdisjoint(summary.records)
    if "perturbation" not in summary.group:
        return not perturbed.isdisjoint(summary.records)
    return (keys | beside).issuperset(summary.records) and summary.records[-1] in keys


def _without_outcomes(store: RecordStore) -> frozenset[str]:
    """Records whose outcomes or arrays somebody removed: nothing could be summarised, compared or drawn from them."""
    from harness.array_files import array_path
    from harness.outcome_files import outcome_path

    lost = set()
    for record in store.records():
        needed = [] if record.not_applicable is not None else [outcome_path(store.folder, record.key)]
        needed += [array_path(store.folder, record.key)] if "arrays" in record.environment else []
        if not all(path.is_file() for path in needed):
            lost.add(record.key)
    return frozenset(lost)


def _summary_entries(bench: Workbench) -> list[SummaryEntry]:
    from harness.entries import SummaryEntry

    offered = [offer.entry for offer in bench.manager.entries("summary")]
    return [entry for entry in offered if isinstance(entry, SummaryEntry)]


def _asked(
    model: object,
    perturb: object,
    probe: object,
    dataset: object,
    support_perturb: object,
    suite: str | None,
    weights: str | WeightsChoice,
    allow_missing: Sequence[str],
    data: str | Path | None,
    split: str | None,
    view: str | View | None,
    seeds: Sequence[int] | None,
    limit: int | float | str | None,
    precision: Precision | None,
    controls: bool,
    baseline: object,
    attack_target: AttackTarget | None,
) -> Asked:
    return Asked(
        models=_items(model),
        perturbations=_items(perturb),
        probes=_items(probe),
        datasets=_items(dataset),
        support_perturbations=_items(support_perturb),
        suite=suite,
        weights=allowing(parse_weights(weights) if isinstance(weights, str) else weights, allow_missing),
        data=data,
        split=split,
        view=view,
        seeds=seeds,
        limit=limit,
        precision=precision,
        controls=controls,
        baseline=baseline,
        attack_target=attack_target,
    )


def _items(given: object) -> tuple[object, ...]:
    """One item or a list of items; a tuple is one item, a perturbation with its levels."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, list) else (given,)
