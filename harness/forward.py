"""The metric forward: one call of the model, counted, under the precision of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from harness.errors import CapabilityError, UsageError
from harness.label_maps import find_label_map
from harness.loader import BatchSize, split_batch
from harness.options import Counters
from harness.protocols import FittedProbe, Model, Probe
from harness.types import ImageBatch, ModelOutputs, OutputSpec

if TYPE_CHECKING:
    from torch import Tensor

    from harness.planning import Precision
    from harness.progress import Progress

T = TypeVar("T")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Runs models for their metrics: in inference mode, under autocast where the precision asks for it."""

    device: torch.device
    precision: Precision
    counters: Counters

    def __call__(self, model: Model, images: Tensor, want: OutputSpec) -> ModelOutputs:
        """``model.outputs(images, want)`` on (N, 3, H, W) pixels in [0, 1]."""
        with torch.inference_mode(), self.autocast():
            outputs = model.outputs(images, want)
        self.counters.forward_passes += 1
        self.counters.forward_images += len(images)
        return outputs

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast context of the precision; for fp32 one that keeps a GPU from rounding to TF32."""
        if self.precision == "fp32":
            return _full_fp32() if self.device.type == "cuda" else nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])


@contextmanager
def _full_fp32() -> Iterator[None]:
    """Convolutions and products in all of fp32's 24 bits, which CUDA would cut to TF32's 11; afterwards as before."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def head_scores(model: Model, label_space: str | None = None) -> Callable[[Tensor], Tensor]:
    """Differentiable scores (N, C) of the model's default head, as an attack's target.

    They are those of the classes of ``label_space``, the images' own, as the probe ``head`` reads them; None: of the
    classes that the head was trained on. Raises :class:`~harness.errors.CapabilityError` where no map leads from these
    to those.
    """
    head, own = model.info.heads[0], model.info.label_space
    if label_space is None:
        return lambda images: model.outputs(images, OutputSpec(logits=True)).logits[head]
    label_map = find_label_map(own, label_space)
    if label_map is None:
        raise CapabilityError(
            f"the head of {model.info.name} scores the classes of {own or 'no named label space'}, not those of "
            f"{label_space}",
            hint="aim at a probe that learns the images' classes instead",
        )
    return lambda images: label_map.apply(model.outputs(images, OutputSpec(logits=True)).logits[head])


def probe_scores(model: Model, probe: Probe, fitted: FittedProbe) -> Callable[[Tensor], Tensor]:
    """Differentiable scores (N, C) of a fitted probe on top of the model, as an attack's target."""
    want = probe.wants(model.info)

    def scores(images: Tensor) -> Tensor:
        found = fitted.scores(model.outputs(images, want))
        if found is None:
            raise CapabilityError(
                f"probe {probe.info.name} has no differentiable scores to attack", hint="aim at the head instead"
            )
        return found

    return scores


def choose_device(asked: str) -> torch.device:
    """``auto`` (CUDA, then Apple's GPU, then the CPU), or a device by name. Raises :class:`UsageError` if not there."""
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device {asked!r} cannot be used: {reason}", hint="use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that the batch was too large for the memory, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def as_memory_allows(
    loaded: ImageBatch,
    batch_size: BatchSize,
    work: Callable[[ImageBatch], T],
    *,
    device: torch.device,
    progress: Progress,
) -> Iterator[T]:
    """``work`` on ``loaded``, moved to ``device`` in parts of at most ``batch_size``, halved where memory runs out.

    ``work`` is called anew on each half, so it must leave nothing behind when it fails. Out of memory on a single
    image is raised, and so is every other error.
    """
    pending = [loaded]
    while pending:
        batch = pending.pop(0)
        if len(batch) > batch_size.value:
            pending[:0] = split_batch(batch, batch_size.value)
            continue
        try:
            done = work(batch.to(device))
        except Exception as error:  # only out of memory is handled: a smaller batch may pass
            if not is_out_of_memory(error) or not batch_size.halve(len(batch)):
                raise
            pending.insert(0, batch)
            release_memory(device)
            progress.note(f"out of memory: going on with batches of {batch_size.value}")
            continue
        yield done


def release_memory(device: torch.device) -> None:
    """Give cached device memory back before a smaller batch is tried."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
