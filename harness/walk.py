"""The only evaluation loop: each batch is decoded once, forwarded once per pixels, and counted by every probe."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.adapters import check_want
from harness.cell_run import CellRun
from harness.errors import CapabilityError, HarnessError, WeightsError
from harness.forward import Forward, as_memory_allows, is_out_of_memory
from harness.loader import BatchSize, load_batches
from harness.planning import PlannedCell, describe_ref, union
from harness.protocols import ModelPerturbation
from harness.support import Preparation, forward_perturbed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.components import AnyPerturbation
    from harness.progress import Progress
    from harness.protocols import FittedProbe
    from harness.types import ImageBatch, ModelOutputs, OutputSpec, ResolvedRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a cell has no record. ``trace`` is a programming error's traceback, None for a person's mistake."""

    key: str
    cell: str
    message: str
    exit_code: int
    trace: str | None = None


def failure_of(item: PlannedCell, error: Exception) -> Failure:
    """``error`` as the reason why ``item`` has no record."""
    parts = item.cell
    names = [describe_ref(parts.model), f"{parts.dataset.ref.name}/{parts.dataset.split}"]
    names += [_at(parts.perturbation, parts.level), describe_ref(parts.probe)]
    if parts.support is not None and item.support is not None and not item.support.is_clean:
        names.append(f"support {_at(parts.support, parts.support_level)}")
    known = isinstance(error, HarnessError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    if is_out_of_memory(error):
        known, message = True, f"out of memory, with one image at a time too: {str(error).partition(chr(10))[0]}"
    return Failure(
        key=item.key,
        cell=" / ".join(names),
        message=message,
        exit_code=error.exit_code if isinstance(error, HarnessError) else 1,
        trace=None if known else "".join(traceback.format_exception(error)),
    )


def _at(ref: ResolvedRef, level: float | None) -> str:
    return describe_ref(ref) + ("" if level is None else f"@{level:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCell:
    """A cell with all it takes to count a batch; ``key`` and ``unit`` are kept, as each is a digest."""

    key: str
    unit: str
    item: PlannedCell
    fitted: FittedProbe
    want: OutputSpec
    perturbation: AnyPerturbation


@dataclass(slots=True, kw_only=True)
class Walk:
    """One walk over the images of a pass for those of its cells that start at the same image.

    ``runs`` holds what was counted; ``failures`` the cells that fell out, each with its reason; ``refused`` the reasons
    of those of a tolerant pass that turned out to make no sense once model and perturbation were there.
    """

    preparation: Preparation
    forward: Forward
    batch_size: BatchSize
    progress: Progress
    live: dict[str, LiveCell] = field(default_factory=dict)
    runs: dict[str, CellRun] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def prepare(self, cells: list[PlannedCell], states: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> None:
        """Fit and prepare every cell, and go on from ``states`` where there are any.

        A cell that cannot be prepared becomes a failure; the others go on. Raises :class:`WeightsError` where the
        weights of a model that a perturbation needs are not to be had.
        """
        broken = self._prepare_early(cells)
        broken |= self.preparation.extract_all([item for item in cells if item.unit not in broken])
        for item in cells:
            key, unit, fit_key = item.key, item.unit, item.fit_key
            known = broken.get(fit_key) or broken.get(unit)
            if known is not None:
                self._fell_out(item, known)
                continue
            # What cells share is tried once: a fit, then a perturbation with its seed and target.
            trying = fit_key
            try:
                want = self.preparation.probe(item).wants(self.preparation.model.info)
                check_want(self.preparation.model.info, want)
                fitted = self.preparation.fitted(item)
                trying = unit
                perturbation = self.preparation.perturbation(item)
                trying = key
                run = CellRun(fitted)
                if key in states:
                    run.load_state_dict(states[key])
            except WeightsError:
                raise
            except Exception as error:  # noqa: BLE001 - one broken component must not take the other cells with it
                broken[trying] = error
                self._fell_out(item, error)
                continue
            self.runs[key] = run
            self.live[key] = LiveCell(
                key=key, unit=unit, item=item, fitted=fitted, want=want, perturbation=perturbation
            )

    def _prepare_early(self, cells: list[PlannedCell]) -> dict[str, Exception]:
        """Prepare what aims at nothing that must be fitted first: what cannot be is known before images are decoded.

        Returns what went wrong, by unit.
        """
        broken: dict[str, Exception] = {}
        for unit, item in {item.unit: item for item in cells if item.perturbation.target is None}.items():
            try:
                self.preparation.perturbation(item)
            except WeightsError:
                raise
            except Exception as error:  # noqa: BLE001 - one broken component must not take the other cells with it
                broken[unit] = error
        return broken

    def run(
        self, positions: npt.NDArray[np.int64], *, workers: int, after_batch: Callable[[int], None] | None = None
    ) -> None:
        """Walk the images at ``positions``, in that order.

        ``after_batch`` is called with how many positions have been consumed after each whole batch.
        """
        if not self.live:
            return
        walk = self.preparation.walk
        consumed = 0
        for taken, batch in load_batches(
            walk.dataset.dataset, walk.split, positions, walk.view, batch_size=self.batch_size, workers=workers
        ):
            self.forward.counters.decoded_images += len(batch)
            self.forward.counters.skipped_images += taken - len(batch)
            if len(batch):
                self._count_whole(batch)
            consumed += taken
            if after_batch is not None:
                after_batch(consumed)
            if not self.live:
                return

    def _count_whole(self, loaded: ImageBatch) -> None:
        """Count a batch, in halves if the memory asks for it; what is half counted never reaches the runs."""
        parts = as_memory_allows(
            loaded, self.batch_size, self._count, device=self.forward.device, progress=self.progress
        )
        for partial in parts:
            for key, run in partial.items():
                with self._guarding(self.live[key], images=1):
                    self.runs[key].merge(run)

    def _count(self, batch: ImageBatch) -> dict[str, CellRun]:
        """Fresh runs that have seen ``batch``."""
        partial = {key: CellRun(cell.fitted) for key, cell in self.live.items()}
        clean = self._clean_outputs(batch)
        units: dict[str, list[LiveCell]] = {}
        for cell in self.live.values():
            units.setdefault(cell.unit, []).append(cell)
        for cells in units.values():
            with self._guarding(*cells, images=len(batch)):
                self._count_unit(batch, clean, cells, partial)
        return {key: run for key, run in partial.items() if key in self.live}

    def _clean_outputs(self, batch: ImageBatch) -> ModelOutputs | None:
        wants = [cell.want for cell in self.live.values() if cell.item.is_identity or cell.item.probe.compares]
        if not wants:
            return None
        outputs = self.forward(self.preparation.model, batch.images, union(wants))
        self.progress.advance(len(batch))
        return outputs

    def _count_unit(
        self, batch: ImageBatch, clean: ModelOutputs | None, cells: list[LiveCell], partial: Mapping[str, CellRun]
    ) -> None:
        """Every level of one perturbation: its state once, then one forward per level for all probes."""
        state = cells[0].perturbation.begin(batch)
        levels: dict[float | None, list[LiveCell]] = {}
        for cell in cells:
            levels.setdefault(cell.item.cell.level, []).append(cell)
        for level, members in levels.items():
            with self._guarding(*members, images=len(batch)):
                if members[0].item.is_identity and clean is not None:
                    seen, outputs = self._untouched(members[0], batch, state, level), clean
                else:
                    want = union(cell.want for cell in members)
                    seen, outputs = forward_perturbed(
                        self.forward, self.preparation.model, members[0].perturbation, batch, state, level, want
                    )
                    self.progress.advance(len(batch))
                for cell in members:
                    with self._guarding(cell, images=len(batch)):
                        partial[cell.key].update(seen, outputs, clean if cell.item.probe.compares else None)

    def _untouched(self, cell: LiveCell, batch: ImageBatch, state: Any, level: float | None) -> ImageBatch:
        """The batch at the level that changes nothing, with what the perturbation says it realised there."""
        perturbation = cell.perturbation
        part = cell.item.perturbation
        if part.target is not None or part.source is not None or part.is_clean:
            return batch
        if isinstance(perturbation, ModelPerturbation):
            with perturbation.around(self.preparation.model, batch, state, level) as (_, seen):
                return seen
        return perturbation.apply(batch, state, level)

    @contextmanager
    def _guarding(self, *cells: LiveCell, images: int) -> Iterator[None]:
        """If the block fails, ``cells`` become failures and the others go on.

        Out of memory is raised while there are fewer ``images`` to try it with.
        """
        try:
            yield
        except Exception as error:  # one broken component must not take the other cells with it
            if is_out_of_memory(error):
                if images > 1:
                    raise
                self.batch_size.restore()
            for cell in cells:
                self._fell_out(cell.item, error)
                self.live.pop(cell.key, None)
                self.runs.pop(cell.key, None)

    def _fell_out(self, item: PlannedCell, error: Exception) -> None:
        """``item`` gets no number: it failed, or it was one of many combinations, or a control, and makes no sense."""
        if (self.preparation.walk.tolerant or item.is_control) and isinstance(error, CapabilityError):
            self.refused[item.key] = error.message
        else:
            self.failures[item.key] = failure_of(item, error)
