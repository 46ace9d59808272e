"""Passes to records: resume, walk, checkpoint, write. Whatever is finished is on disk before the next thing starts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from harness import checkpoints
from harness.array_files import write_arrays
from harness.checkpoints import Checkpoint
from harness.environment import environment_block
from harness.errors import CapabilityError, DataError, WeightsError
from harness.feature_cache import FeatureCache
from harness.forward import Forward, choose_device
from harness.loader import BatchSize
from harness.options import Counters, RunOptions
from harness.outcome_files import write_outcomes
from harness.planning import describe_ref
from harness.progress import NoProgress, Progress
from harness.protocols import HasArrays
from harness.support import Preparation
from harness.types import Cell, Measurement, ModelInfo, ResultRecord, digest
from harness.walk import Failure, Walk, failure_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.cell_run import CellRun
    from harness.components import ModelComponent
    from harness.planning import Pass, PlannedCell, RunPlan
    from harness.protocols import Model
    from harness.records import RecordStore

AUTO_BATCH_SIZE = {"cuda": 256, "mps": 64, "cpu": 32}
"""Where ``--batch-size auto`` starts; out of memory halves it."""

CHECKPOINT_SHARE = 0.02
"""Share of the time that checkpoints may take where their interval is chosen automatically."""


@dataclass(slots=True, kw_only=True)
class Execution:
    """What came of a plan: failures by cell, and what was really done."""

    failures: list[Failure] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)


def execute(
    plan: RunPlan,
    store: RecordStore,
    options: RunOptions,
    *,
    progress: Progress | None = None,
    written: Callable[[ResultRecord], object] = lambda _: None,
    redo: frozenset[str] = frozenset(),
) -> Execution:
    """Answer every cell of ``plan`` that ``store`` has no record of. Only what is missing is decoded or forwarded.

    ``redo`` names records whose outcomes are lost: they are made anew, the records stand. ``written`` is called with
    each record once it is on disk. A cell that fails is listed and leaves the others
    alone. Raises :class:`WeightsError` at once where a model's weights are not to be had.
    """
    execution = Execution()
    progress = progress or NoProgress()
    todo = plan.without(store.keys() - redo)
    for cell in todo.not_applicable:
        _record_refusal(cell, cell.not_applicable, store, written)
    for damaged in checkpoints.prune(store.folder, store.keys() - redo).damaged:
        progress.note(f"{damaged.path} cannot be used, what it held starts anew: {damaged.reason}")
    if not todo.passes:
        return execution
    device = choose_device(options.device)
    # Without a cache what perturbations keep of an image still serves all their variants, seeds and models of one run.
    with tempfile.TemporaryDirectory(prefix="harness-maps-") as scratch:
        runner = _Runner(
            store=store,
            options=options,
            device=device,
            progress=progress,
            written=written,
            execution=execution,
            maps_dir=options.cache_dir or Path(scratch),
        )
        for walk in todo.passes:
            runner.run_pass(walk)
            if options.fail_fast and execution.failures:
                break
    return execution


def _record_refusal(
    cell: Cell, reason: str | None, store: RecordStore, written: Callable[[ResultRecord], object]
) -> None:
    record = ResultRecord(key=cell.key, cell=cell.as_dict(), not_applicable=reason)
    if store.append(record):
        written(record)


@dataclass(slots=True, kw_only=True)
class _Runner:
    store: RecordStore
    options: RunOptions
    device: torch.device
    progress: Progress
    written: Callable[[ResultRecord], object]
    execution: Execution
    maps_dir: Path
    _resident: tuple[str, Model] | None = None
    """The one model that is in memory, by what identifies it: passes over several datasets follow each other."""

    def run_pass(self, walk: Pass) -> None:
        """Build the model, then walk once per group of cells that start at the same image."""
        forward = Forward(device=self.device, precision=walk.precision, counters=self.execution.counters)
        try:
            model = self._model(walk.model)
        except WeightsError:
            raise
        except Exception as error:  # noqa: BLE001 - one broken model must not take the other models with it
            self.execution.failures += [failure_of(item, error) for item in walk.cells]
            return
        for group in self._groups(walk):
            try:
                self._run_group(walk.restrict(item.key for item in group.cells), model, forward, group)
            except WeightsError:
                raise
            except _StoppedEarly:
                return
            except Exception as error:  # noqa: BLE001 - the records of other passes are worth having
                done = self.store.keys() | {failure.key for failure in self.execution.failures}
                self.execution.failures += [failure_of(item, error) for item in group.cells if item.key not in done]

    def _model(self, component: ModelComponent) -> Model:
        """The model of a pass, built unless the pass before had the same."""
        identity = digest([component.ref.key, component.weights.identity])
        if self._resident is None or self._resident[0] != identity:
            self._resident = None
            weights = f"{component.weights.origin} weights" if component.learned else "no weights"
            self.progress.note(f"{describe_ref(component.ref)}: loading ({weights})")
            model = component.build().to(self.device)
            _check_facts(component, model.info)
            if initial := model.info.weights.initial:
                shown = ", ".join(initial[:8]) + (f" and {len(initial) - 8} more" if len(initial) > 8 else "")
                self.progress.note(
                    f"warning: {describe_ref(component.ref)}: not in its weights, so at initial values: {shown}"
                )
            self._resident = identity, model
        return self._resident[1]

    def _groups(self, walk: Pass) -> list[_Group]:
        """The cells of a pass by the checkpoint they go on from; those without one start at the first image.

        A run that was killed between saving a checkpoint and removing the one before leaves both: the later one counts.
        """
        here = _walk_here(walk, self.device)
        saved = [found for found in checkpoints.load_all(self.store.folder).checkpoints if found.walk == here]
        latest: dict[str, Checkpoint] = {}
        for found in sorted(saved, key=lambda found: found.offset):
            latest |= dict.fromkeys(found.states, found)
        groups = []
        for found in saved:
            if mine := [item for item in walk.cells if latest.get(item.key) is found]:
                keys = {item.key for item in mine}
                holders = [other.pass_id for other in saved if not keys.isdisjoint(other.states)]
                groups.append(_Group(cells=mine, checkpoint=found, superseded=holders))
        fresh = [item for item in walk.cells if item.key not in latest]
        return groups + ([_Group(cells=fresh)] if fresh else [])

    def _run_group(self, walk: Pass, model: Model, forward: Forward, group: _Group) -> None:
        found = group.checkpoint
        size = self.options.batch_size
        start_size = AUTO_BATCH_SIZE.get(self.device.type, 32) if size == "auto" else size
        batch_size = BatchSize(found.batch_size if found is not None else start_size)
        offset = 0 if found is None else found.offset
        started = time.perf_counter()
        with _threads(None if found is None else found.threads):
            preparation = Preparation(
                walk=walk,
                model=model,
                forward=forward,
                batch_size=batch_size,
                workers=self.options.workers,
                cache=None if self.options.cache_dir is None else FeatureCache(self.options.cache_dir / "features"),
                cache_dir=self.maps_dir,
                progress=self.progress,
            )
            loop = Walk(preparation=preparation, forward=forward, batch_size=batch_size, progress=self.progress)
            loop.prepare(group.cells, {} if found is None else found.states)
            positions = walk.positions()
            total = len(positions)
            saver = _Saver(
                folder=self.store.folder,
                walk_id=_walk_here(walk, self.device),
                pass_id=digest([walk.walk_id, sorted(item.key for item in group.cells)])[:16],
                every=self.options.checkpoint_every,
                batch_size=batch_size,
                superseded=group.superseded,
            )
            try:
                self.progress.begin(_title(walk), (total - offset) * walk.forwards_per_image)
                self._stop_if_failed(loop)

                def after_batch(consumed: int) -> None:
                    self._stop_if_failed(loop)
                    done = offset + consumed
                    saver.after_batch(done, loop.runs, last=done == total)

                loop.run(positions[offset:], workers=self.options.workers, after_batch=after_batch)
            finally:
                self.progress.end()
                self.execution.failures += loop.failures.values()
            del positions
            for item in walk.cells:
                if item.key in loop.refused:
                    _record_refusal(item.cell, loop.refused[item.key], self.store, self.written)
            self._write(walk, loop, total, started=started, batch_size=batch_size.value)
        saver.remove([item.key for item in group.cells])

    def _stop_if_failed(self, loop: Walk) -> None:
        if self.options.fail_fast and loop.failures:
            raise _StoppedEarly

    def _write(self, walk: Pass, loop: Walk, total: int, *, started: float, batch_size: int) -> None:
        """One record per cell that came through, its outcomes first, in the order of the plan.

        A run is let go once its record is written.
        """
        index = walk.dataset.dataset.index(walk.split)
        environment = environment_block(
            device=self.device,
            batch_size=batch_size,
            threads=torch.get_num_threads(),
            workers=self.options.workers,
            seconds=time.perf_counter() - started,
            weights_sha256=loop.preparation.model.info.weights.sha256,
            initial_weights=loop.preparation.model.info.weights.initial,
        )
        for item in walk.cells:
            run = loop.runs.pop(item.key, None)
            if run is None:
                continue
            try:
                arrays = run.probe.arrays() if isinstance(run.probe, HasArrays) else {}
                block = {**environment, **({"arrays": sorted(arrays)} if arrays else {})}
                record = self._finish(item, run, total, block)
                if arrays:
                    write_arrays(self.store.folder, item.key, arrays, cell=_said(item.cell))
                write_outcomes(
                    self.store.folder,
                    item.key,
                    run.probe.outcomes(),
                    ids=index.ids,
                    labels=index.labels,
                    realised=run.realised(),
                )
            except Exception as error:  # noqa: BLE001 - the other cells' records are worth having
                self.execution.failures.append(failure_of(item, error))
                continue
            if self.store.append(record):
                self.written(record)

    @staticmethod
    def _finish(item: PlannedCell, run: CellRun, wanted: int, environment: Mapping[str, Any]) -> ResultRecord:
        seen = len(run.probe.outcomes().positions)
        if seen == 0 and not item.probe.of_model:
            raise DataError("not one image could be read")
        rows = run.result()
        if seen < wanted:
            rows.append(
                Measurement(
                    metric="skipped_images", value=wanted - seen, n=wanted, unit="images", higher_is_better=None
                )
            )
        return ResultRecord(
            key=item.key, cell=item.cell.as_dict(), measurements=tuple(rows), environment=dict(environment)
        )


def _said(cell: Cell) -> dict[str, str | float | None]:
    """A cell in the few words that tell a person whose a file of arrays is."""
    return {
        "model": describe_ref(cell.model),
        "dataset": describe_ref(cell.dataset.ref),
        "perturbation": describe_ref(cell.perturbation),
        "level": cell.level,
        "seed": cell.seeds.perturb,
        "probe": describe_ref(cell.probe),
    }


def _walk_here(walk: Pass, device: torch.device) -> str:
    """The walk on this kind of device under these libraries: a record is never half of one and half of another."""
    versions = {name: metadata.version(name) for name in ("vit-harness", "torch", "timm")}
    return digest({"walk": walk.walk_id, "device": device.type, "versions": versions})


def _check_facts(planned: ModelComponent, built: ModelInfo) -> None:
    """The plan was made from what entry and preset say of a model; numbers of another view would be wrong ones.

    Raises :class:`CapabilityError` where the model that was built says otherwise.
    """
    for fact, said, found in (
        ("view", planned.view.text, built.view.text),
        ("label space", planned.label_space, built.label_space),
    ):
        if said != found:
            raise CapabilityError(
                f"model {planned.ref.name}: its entry or preset says {fact} {said}, the model itself says {found}",
                hint=f"give it a preset that says so, in a file for --registry (view: {built.view.text})",
            )


class _StoppedEarly(Exception):  # noqa: N818 - a signal, no error: the failure that caused it is listed already
    """A cell has failed and the run was asked to stop there; its other cells have neither record nor failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Cells of one pass that go on from the same image; ``superseded`` names all checkpoints that hold any of them."""

    cells: list[PlannedCell]
    checkpoint: Checkpoint | None = None
    superseded: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class _Saver:
    """Saves the runs every so many batches, atomically; the last batch of a walk is followed by records instead."""

    folder: Path
    walk_id: str
    pass_id: str
    every: int | Literal["auto"]
    batch_size: BatchSize
    superseded: Sequence[str] = ()
    _batches: int = 0
    _earliest: float = 0.0

    def after_batch(self, offset: int, runs: Mapping[str, CellRun], *, last: bool) -> None:
        """Save if it is time."""
        self._batches += 1
        due = time.perf_counter() >= self._earliest if self.every == "auto" else self._batches % self.every == 0
        if not due or last or not runs:
            return
        started = time.perf_counter()
        checkpoints.save(
            self.folder,
            Checkpoint(
                pass_id=self.pass_id,
                walk=self.walk_id,
                offset=offset,
                batch_size=self.batch_size.value,
                threads=torch.get_num_threads(),
                states=_LiveStates(runs),
            ),
        )
        self._drop_superseded(runs)
        now = time.perf_counter()
        self._earliest = now + (now - started) / CHECKPOINT_SHARE

    def remove(self, keys: Collection[str]) -> None:
        """The records of the cells ``keys`` are written: their states have no more use."""
        checkpoints.remove(self.folder, self.pass_id)
        self._drop_superseded(keys)

    def _drop_superseded(self, keys: Collection[str]) -> None:
        """Take ``keys`` out of earlier checkpoints; the states of other cells stay, they may be asked for again."""
        for pass_id in self.superseded:
            if pass_id != self.pass_id:
                checkpoints.drop(self.folder, pass_id, keys)
        self.superseded = ()


class _LiveStates(Mapping[str, "Mapping[str, npt.NDArray[Any]]"]):
    """The states of runs, made when they are asked for: to write a checkpoint takes the memory of one cell more."""

    def __init__(self, runs: Mapping[str, CellRun]) -> None:
        self._runs = runs

    def __getitem__(self, key: str) -> Mapping[str, npt.NDArray[Any]]:
        return self._runs[key].state_dict()

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def _title(walk: Pass) -> str:
    cells = f"{len(walk.cells)} cell{'s' if len(walk.cells) > 1 else ''}"
    return f"{describe_ref(walk.model.ref)} on {walk.dataset.ref.name} ({cells})"


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """A resumed walk runs on as many threads as it began with: their number can change the last bit."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
