"""What a run will cost: a few batches of every pass, timed on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from harness.engine import AUTO_BATCH_SIZE
from harness.feature_cache import FeatureCache
from harness.forward import Forward, as_memory_allows, choose_device
from harness.loader import BatchSize, load_batches
from harness.options import Counters, RunOptions
from harness.planning import union
from harness.progress import NoProgress, Progress
from harness.support import Preparation, forward_perturbed
from harness.types import ImageBatch, JSONValue, OutputSpec

if TYPE_CHECKING:
    from harness.planning import Pass, PlannedCell, RunPlan

TIMED_BATCHES = 2
"""Batches timed per pass, after one that warms up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassEstimate:
    """Seconds that one pass would take, before the walk (0 where all support features are cached) and in it."""

    model: str
    dataset: str
    images: int
    forwards_per_image: int
    support_images: int
    seconds_per_image: float
    support_seconds: float
    walk_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a plan would cost on this machine."""

    passes: tuple[PassEstimate, ...]
    device: str

    @property
    def seconds(self) -> float:
        """All passes together, models loaded and decoding included."""
        return sum(one.support_seconds + one.walk_seconds for one in self.passes)

    def as_dict(self) -> dict[str, JSONValue]:
        """For ``--json``."""
        return {
            "device": self.device,
            "seconds": self.seconds,
            "passes": [{name: getattr(one, name) for name in PassEstimate.__slots__} for one in self.passes],
        }

    @property
    def text(self) -> str:
        """A line per pass and the sum."""
        lines = [
            f"{one.model} on {one.dataset}: {one.images} images x {one.forwards_per_image} forwards at "
            f"{1000 * one.seconds_per_image:.1f} ms an image = {_duration(one.walk_seconds)}, "
            f"support {one.support_images} images = {_duration(one.support_seconds)}"
            for one in self.passes
        ]
        return "\n".join([*lines, f"about {_duration(self.seconds)} in all on {self.device}"])


def estimate(plan: RunPlan, options: RunOptions, progress: Progress | None = None) -> Estimate:
    """Time a few batches of each pass of ``plan`` and scale them up. Nothing is recorded.

    A pass is timed with what it would do to each batch: decode, perturb at every level, forward. Support images that
    the cache lacks are counted at the price of one clean forward each. What a perturbation must prepare first (a
    patch, the probe that an attack aims at) is prepared, but its time is not counted.
    """
    device = choose_device(options.device)
    progress = progress or NoProgress()
    passes = tuple(_time_pass(walk, options, device, progress) for walk in plan.passes)
    return Estimate(passes=passes, device=str(device))


def _time_pass(walk: Pass, options: RunOptions, device: torch.device, progress: Progress) -> PassEstimate:
    started = time.perf_counter()
    model = walk.model.build().to(device)
    size = options.batch_size
    batch_size = BatchSize(AUTO_BATCH_SIZE.get(device.type, 32) if size == "auto" else size)
    forward = Forward(device=device, precision=walk.precision, counters=Counters())
    preparation = Preparation(
        walk=walk,
        model=model,
        forward=forward,
        batch_size=batch_size,
        workers=options.workers,
        cache=None if options.cache_dir is None else FeatureCache(options.cache_dir / "features"),
        cache_dir=options.cache_dir,
        progress=progress,
    )
    loading = time.perf_counter() - started
    support_images = preparation.missing_support_images(list(walk.cells))
    for cell in walk.cells:
        preparation.perturbation(cell)
    timed = _Timed(preparation=preparation, forward=forward)
    positions = walk.positions()[: batch_size.value * (1 + TIMED_BATCHES)]
    for _, batch in load_batches(
        walk.dataset.dataset, walk.split, positions, walk.view, batch_size=batch_size, workers=options.workers
    ):
        if len(batch):
            list(as_memory_allows(batch, batch_size, timed.batch, device=device, progress=progress))
    images = walk.num_images
    return PassEstimate(
        model=walk.model.ref.name,
        dataset=f"{walk.dataset.ref.name}/{walk.split}",
        images=images,
        forwards_per_image=walk.forwards_per_image,
        support_images=support_images,
        seconds_per_image=timed.seconds_per_image,
        support_seconds=support_images * timed.seconds_per_image / max(1, walk.forwards_per_image),
        walk_seconds=loading + images * timed.seconds_per_image,
    )


@dataclass(slots=True, kw_only=True)
class _Timed:
    """Runs batches as a walk would and remembers how long they took, the first apart: it warms up."""

    preparation: Preparation
    forward: Forward
    _batches: list[tuple[int, float]] = field(default_factory=list)
    _last: float = field(default_factory=time.perf_counter)

    def batch(self, batch: ImageBatch) -> None:
        """Everything a walk does to ``batch`` but counting."""
        cells = self.preparation.walk.cells
        model = self.preparation.model
        clean = [cell for cell in cells if cell.is_identity or cell.probe.compares]
        if clean:
            self.forward(model, batch.images, self._want(clean))
        units: dict[str, dict[float | None, list[PlannedCell]]] = {}
        for cell in cells:
            if not cell.is_identity:
                units.setdefault(cell.unit, {}).setdefault(cell.cell.level, []).append(cell)
        for levels in units.values():
            perturbation = self.preparation.perturbation(next(iter(levels.values()))[0])
            state = perturbation.begin(batch)
            for level, members in levels.items():
                forward_perturbed(self.forward, model, perturbation, batch, state, level, self._want(members))
        if self.forward.device.type == "cuda":
            torch.cuda.synchronize(self.forward.device)
        now = time.perf_counter()
        self._batches.append((len(batch), now - self._last))
        self._last = now

    def _want(self, cells: list[PlannedCell]) -> OutputSpec:
        return union(self.preparation.probe(cell).wants(self.preparation.model.info) for cell in cells)

    @property
    def seconds_per_image(self) -> float:
        """Decoding included; of the batches after the first, or of the first if there is no other."""
        counted = self._batches[1:] or self._batches
        images = sum(size for size, _ in counted)
        return sum(seconds for _, seconds in counted) / images if images else 0.0


def _duration(seconds: float) -> str:
    """A length of time as people say it.

    >>> _duration(3.21), _duration(75), _duration(7300)
    ('3.2 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
