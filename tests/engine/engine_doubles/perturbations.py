"""Toy perturbations of every kind that the engine tells apart."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from harness import rng
from harness.params import param
from harness.protocols import PerturbationInfo
from harness.types import LevelSpec, OutputSpec

SHARE = LevelSpec(name="share", values=(0.0, 0.25, 0.5), low=0, high=1, identity=0.0, nested=True)
SIGMA = LevelSpec(name="sigma", values=(0.1, 0.3), low=0, high=1)
EPS = LevelSpec(name="eps_255", values=(0.0, 16.0), low=0, high=255, unit="1/255", identity=0.0)


class _Plain:
    """Counts how often it is prepared, begun and applied."""

    def __init__(self):
        self.contexts = []
        self.begun = []
        self.applied = []

    def prepare(self, context):
        self.context = context
        self.contexts.append(context)

    def begin(self, batch):
        self.begun.append(len(batch))


class Dimmed(_Plain):
    """Dims all pixels by a share."""

    info = PerturbationInfo(name="dimmed", level=SHARE)

    def apply(self, batch, state, level):
        self.applied.append((len(batch), level))
        loss = torch.full((len(batch),), level, dtype=torch.float64, device=batch.images.device)
        return batch.with_images(batch.images * (1 - level), information_loss=loss)


class Speckled(_Plain):
    """Dense noise: its draws must not depend on the batch."""

    info = PerturbationInfo(name="speckled", level=SIGMA, stochastic=True, stream="speckled")

    def begin(self, batch):
        super().begin(batch)
        return torch.from_numpy(rng.normals(self.context.seed, "speckled", batch.ids, tuple(batch.images.shape[1:])))

    def apply(self, batch, state, level):
        return batch.with_images((batch.images + level * state).clamp(0, 1))


class Holed(_Plain):
    """Blackens whole cells of 4 pixels, the same number in every image."""

    info = PerturbationInfo(name="holed", level=SHARE, stochastic=True, stream="holed")

    def apply(self, batch, state, level):
        side = batch.images.shape[-1] // 4
        gone = torch.from_numpy(
            rng.subsets(self.context.seed, "holed", batch.ids, side * side, round(level * side * side))
        )
        mask = gone.view(-1, 1, side, side).repeat_interleave(4, 2).repeat_interleave(4, 3)
        loss = gone.double().mean(dim=1)
        return batch.with_images(batch.images.masked_fill(mask, 0.0), information_loss=loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignStepParams:
    aim: str = param("head", help="head or probe")
    source: str | None = param(None, help="the model whose head it is crafted on")


class SignStep(_Plain):
    """One step along the sign of the gradient (Goodfellow et al. 2015), of the head or of a fitted probe."""

    prepared: ClassVar[list[SignStep]] = []

    def __init__(self, *, aim="head", source=None):
        super().__init__()
        self.info = PerturbationInfo(name="signstep", level=EPS, needs_target=True, keyed=False)
        self.aim = aim

    def prepare(self, context):
        super().prepare(context)
        self.prepared.append(self)

    def begin(self, batch):
        super().begin(batch)
        with torch.enable_grad():
            images = batch.images.clone().requires_grad_()
            loss = functional.cross_entropy(self.context.target(images), batch.labels, reduction="sum")
            return torch.autograd.grad(loss, images)[0].sign()

    def apply(self, batch, state, level):
        return batch.with_images((batch.images + level / 255 * state).clamp(0, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedParams:
    guide: str = param("tiny", help="the model whose gradient says which pixels matter")


class Guided(_Plain):
    """Blackens the share of pixels that another, injected model's features depend on most."""

    def __init__(self, *, guide="tiny"):
        super().__init__()
        self.info = PerturbationInfo(name="guided", level=SHARE)

    def begin(self, batch):
        super().begin(batch)
        with torch.enable_grad():
            images = batch.images.clone().requires_grad_()
            features = self.context.models["guide"].outputs(images, OutputSpec(pooled=True)).pooled
            saliency = torch.autograd.grad(features.sum(), images)[0].abs().sum(dim=1)
        return saliency.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)

    def apply(self, batch, state, level):
        height, width = batch.images.shape[-2:]
        gone = (state < level * height * width).view(-1, 1, height, width)
        return batch.with_images(batch.images.masked_fill(gone, 0.0), information_loss=gone.flatten(1).double().mean(1))


class Muffled(_Plain):
    """Stage ``model``: the network gets a part of the signal, the pixels stay."""

    info = PerturbationInfo(name="muffled", stage="model", level=SHARE)

    @contextmanager
    def around(self, model, batch, state, level):
        yield _Muffled(model, level), batch.with_images(batch.images, muffled=torch.full((len(batch),), level).double())


class _Muffled:
    def __init__(self, model, level):
        self._model = model
        self._level = level
        self.info = model.info

    def outputs(self, images, want):
        return self._model.outputs(images * (1 - self._level), want)

    def to(self, device):
        return self


class Unprepared(Dimmed):
    """Cannot be prepared."""

    info = PerturbationInfo(name="unprepared", level=SHARE)
    tried = 0

    def prepare(self, context):
        type(self).tried += 1
        raise LookupError("no patch was ever trained")


class BreaksAt(Dimmed):
    """Raises from a level on."""

    def __init__(self, level, error=None, name="breaks_at"):
        super().__init__()
        self.info = PerturbationInfo(name=name, level=SHARE)
        self._level = level
        self._error = error or ZeroDivisionError("nothing left to divide by")

    def apply(self, batch, state, level):
        if level >= self._level:
            raise self._error
        return super().apply(batch, state, level)


class Greedy(Dimmed):
    """Needs more memory than there is for more than ``images`` images."""

    def __init__(self, images=0, name="greedy"):
        super().__init__()
        self.info = PerturbationInfo(name=name, level=SHARE)
        self._images = images

    def apply(self, batch, state, level):
        if len(batch) > self._images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\n(a long tale follows)")
        return super().apply(batch, state, level)
