"""A perturbation prepared on generated images, with the small transformer that it aims at or surrounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from harness.entries import PerturbationEntry
from harness.errors import CapabilityError
from harness.protocols import Model, PerturbationContext, PerturbationInfo
from harness.testing.kit import NotApplicableError, Subject
from harness.testing.sample import TinyModel, sample_batch, tiny_model
from harness.types import ImageBatch, OutputSpec, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbed:
    """A perturbed batch, and the numbers (N, ...) in which a perturbation shows: pixels, or features of a model."""

    batch: ImageBatch
    values: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A perturbation that has been prepared, with the model that it surrounds if it acts on one."""

    perturbation: Any
    backbone: TinyModel
    levels: tuple[float | None, ...]

    @property
    def info(self) -> PerturbationInfo:
        """The perturbation's card."""
        return cast(PerturbationInfo, self.perturbation.info)

    @property
    def acts_on_images(self) -> bool:
        """Whether it changes pixels, and not what a model makes of them."""
        return self.info.stage == "image"

    def run(self, batch: ImageBatch, level: float | None) -> Perturbed:
        """Begin and apply at one level."""
        return self.apply(batch, self.perturbation.begin(batch), level)

    def apply(self, batch: ImageBatch, state: Any, level: float | None) -> Perturbed:
        """Apply at one level from a state that was begun."""
        if self.acts_on_images:
            changed = self.perturbation.apply(batch, state, level)
            return Perturbed(batch=changed, values=changed.images.detach())
        try:
            with self.perturbation.around(self.backbone, batch, state, level) as (model, changed):
                pooled = model.outputs(changed.images, OutputSpec(pooled=True)).pooled
        except CapabilityError as error:
            raise NotApplicableError(f"cannot act on the kit's small transformer: {error.message}") from error
        return Perturbed(batch=changed, values=pooled.detach())

    def around(self, batch: ImageBatch, level: float | None) -> Any:
        """The context of a feature or model perturbation."""
        return self.perturbation.around(self.backbone, batch, self.perturbation.begin(batch), level)

    def at(self, level: float | None) -> str:
        """A level in words."""
        return "applied" if self.info.level is None else f"at {self.info.level.name} {level:g}"


def prepared(subject: Subject, *, seed: int = 0, all_levels: bool = False) -> tuple[Trial, ImageBatch]:
    """A fresh perturbation prepared with ``seed``, and a batch to try it on.

    Attacks aim at the head of a tiny transformer; models that parameters name are tiny transformers too. At most
    three levels of the sweep (lowest, middle, highest) unless ``all_levels``.
    """
    entry, sample = subject.entry, subject.sample
    assert isinstance(entry, PerturbationEntry)
    patch_px = 16 if sample.side_px % 16 == 0 and sample.side_px >= 112 else sample.side_px // 4

    def tiny() -> TinyModel:
        return tiny_model(
            classes=sample.classes, side_px=sample.side_px, patch_px=patch_px, label_space=sample.label_space
        )

    perturbation = subject.make()
    info: PerturbationInfo = perturbation.info
    victim = tiny() if info.needs_target else None
    models: dict[str, Model] = {
        name: tiny() for name in entry.model_params if subject.params.get(name) not in (None, *entry.model_words)
    }
    backbone = tiny()
    try:
        perturbation.prepare(
            PerturbationContext(
                seed=seed,
                view=View(resize=sample.side_px, crop=sample.side_px),
                device=torch.device("cpu"),
                dataset_fingerprint="sample",
                num_classes=sample.classes,
                models=models,
                evaluated=backbone,
                num_images=sample.images,
                target=None if victim is None else lambda images: _head_scores(victim, images),
                support=lambda limit=None: _support(subject, limit),
            )
        )
    except CapabilityError as error:
        raise NotApplicableError(f"cannot act on the kit's small transformer: {error.message}") from error
    levels = (None,) if info.level is None else info.level.values if all_levels else _ends(info.level.values)
    batch = sample_batch([i % sample.classes for i in range(sample.images)], side_px=sample.side_px)
    return Trial(perturbation=perturbation, backbone=backbone, levels=levels), batch


def _ends(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(dict.fromkeys((values[0], values[len(values) // 2], values[-1])))


def _head_scores(model: TinyModel, images: Tensor) -> Tensor:
    return model.outputs(images, OutputSpec(logits=True)).logits["head"]


def _support(subject: Subject, limit: int | None) -> Iterator[ImageBatch]:
    sample = subject.sample
    there = 2 * sample.images
    wanted = there if limit is None else min(limit, there)
    for start in range(1000, 1000 + wanted, sample.images):
        labels = [(start + i) % sample.classes for i in range(min(sample.images, 1000 + wanted - start))]
        yield sample_batch(labels, side_px=sample.side_px, start=start)
