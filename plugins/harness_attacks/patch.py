"""The adversarial patch: one picture, trained on support images, that is laid over every image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness import rng
from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.params import canonical, checked
from harness.protocols import INFORMATION_LOSS, PerturbationContext, PerturbationInfo, SupportImages
from harness.types import ImageBatch
from harness_attacks.objective import Objective
from harness_attacks.parameters import PATCH_AREA, AttackPrecision, AttackTarget, Goal, Loss, PatchParams
from harness_attacks.patch_placement import Outline, Placement, lay, outline, places, under
from harness_attacks.precision import require_precision

STREAM = "attack.patch"
"""What the places of a patch are keyed by; those it is trained at have streams of their own, one for each epoch."""

_START = 0.5
_MINIBATCH = 32
"""Images behind one step. Fixed, so that the patch does not depend on the batch size of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Support:
    """The support images, on the CPU: ``images`` (N, 3, H, W), ``labels`` (N,) int64 and N ``ids``."""

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]


class AdversarialPatch:
    """One patch for all images, whose pixels may take any value, laid over each at a place of its own.

    Brown et al., "Adversarial Patch" (2017), without their rotations and scalings; untargeted unless there is a
    ``target_class``, as in Naseer et al., "Intriguing Properties of Vision Transformers" (arXiv 2105.10497). The level
    is the fraction of the image's area that is covered: the side of a square is the root of that area in whole pixels,
    at most the shorter side of the image; a disk holds the pixels whose centres lie within the radius of that area.

    The patch of a level is trained when the level is first used: from grey, ``epochs`` times over ``train_images``
    support images, by steps of ``step`` along the sign of the gradient of the mean loss of 32 images, each with the
    patch at a place drawn for seed, epoch and image id. At test the places are others. No weights are trained: only
    gradients in the pixels are asked for.

    ``realised["information_loss"]`` is the exact fraction of pixels covered. With a target class, accuracy speaks of
    all images, those of that class included.
    """

    def __init__(
        self,
        *,
        attack_target: AttackTarget = "head",
        source: str | None = None,
        goal: Goal = "untargeted",
        loss: Loss = "cross_entropy",
        precision: AttackPrecision = "fp32",
        target_class: int | None = None,
        shape: Literal["square", "disk"] = "square",
        placement: Literal["random", "centre", "corner"] = "random",
        train_images: int = 256,
        epochs: int = 8,
        step: float = 0.05,
    ) -> None:
        given = PatchParams(
            attack_target=attack_target,
            source=source,
            goal=goal,
            loss=loss,
            precision=precision,
            target_class=target_class,
            shape=shape,
            placement=placement,
            train_images=train_images,
            epochs=epochs,
            step=step,
        )
        self._params = params = checked(given, "adversarial_patch")
        if params.goal != "untargeted":
            raise ParameterError(
                f"adversarial_patch: goal={params.goal} differs by image, and the patch is one for all",
                hint="give the class that it shall be trained towards as target_class, such as target_class=3",
            )
        self._info = PerturbationInfo(
            name="adversarial_patch",
            stochastic=True,
            stream=STREAM,
            level=PATCH_AREA,
            needs_target=True,
            keyed=False,
            params=canonical(params),
        )
        self._context: PerturbationContext | None = None
        self._support: _Support | None = None
        self._trained: dict[float, Tensor] = {}
        self._at_once = _MINIBATCH

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        return self._info

    def prepare(self, context: PerturbationContext) -> None:
        """Take the target and the support images; nothing is trained yet.

        Raises :class:`~harness.errors.HarnessError` for no target, :class:`~harness.errors.CapabilityError` where there
        is no support split, and :class:`~harness.errors.ParameterError` for a class the dataset has not, and for fp16
        on a CPU.
        """
        params, classes = self._params, context.num_classes
        if context.target is None:
            raise HarnessError("adversarial_patch needs a target to attack, and was given none")
        if context.support is None:
            raise CapabilityError(
                "adversarial_patch is trained on support images, and this dataset has no support split",
                hint="take a dataset that has one; a folder may hold train/ beside val/",
            )
        if params.target_class is not None and params.target_class >= classes:
            raise ParameterError(
                f"adversarial_patch: target_class={params.target_class}, but there are {classes} classes, from 0 on"
            )
        require_precision(params.precision, context.device, "adversarial_patch")
        self._context, self._support, self._trained = context, None, {}

    def begin(self, batch: ImageBatch) -> None:  # noqa: ARG002 - places follow from ids, and sizes from levels
        """Nothing: levels share no more than the ids of the images."""
        self._prepared()

    def apply(self, batch: ImageBatch, state: None, level: float | None) -> ImageBatch:  # noqa: ARG002 - the contract's
        """The batch with the level's patch laid over every image; at level 0 as it is.

        Raises :class:`~harness.errors.ParameterError` for no level or one out of range, and
        :class:`~harness.errors.DataError` for images of another size than the support images.
        """
        if level is None:
            raise ParameterError("adversarial_patch needs an area", hint="adversarial_patch@0.05, or @all")
        size = (batch.images.shape[2], batch.images.shape[3])
        if PATCH_AREA.check(level, "adversarial_patch") == 0:
            return batch.with_images(batch.images, **_covered(batch, 0.0))
        patch = self.patch(level)
        if size != self._size:
            raise DataError(
                f"adversarial_patch was trained on images of {self._size[0]}x{self._size[1]} pixels, these have "
                f"{size[0]}x{size[1]}",
                hint="take a view that crops images to one size",
            )
        shape = self._outline(level)
        with torch.inference_mode(False), torch.no_grad():
            patched = lay(patch.to(batch.images.device), shape, batch.images, self._places(batch.ids, shape, STREAM))
        return batch.with_images(patched, **_covered(batch, shape.count / (size[0] * size[1])))

    def patch(self, level: float) -> Tensor:
        """The patch of a level above 0: (3, h, w) float32 in [0, 1] on the CPU, trained now if it was not yet.

        Of a disk, the pixels outside it stay grey and are never shown. Raises :class:`~harness.errors.DataError` for
        support images that cannot be used.
        """
        level = PATCH_AREA.check(level, "adversarial_patch")
        if level == 0:
            raise ParameterError("adversarial_patch: a patch of area 0 has no pixels")
        if level not in self._trained:
            self._trained[level] = self._train(self._outline(level))
        return self._trained[level]

    def _train(self, shape: Outline) -> Tensor:
        params, context, support = self._params, self._prepared(), self._images()
        labels = support.labels
        if params.target_class is not None:
            labels = torch.full_like(labels, params.target_class)
        objective = self._objective()
        with torch.inference_mode(False), torch.no_grad():
            patch = torch.full((3, shape.rows, shape.columns), _START, device=context.device)
            mask = shape.mask.to(context.device)
            for epoch in range(params.epochs):
                draws = rng.bits(context.seed, f"{STREAM}.order.{epoch}", support.ids, 1)[:, 0]
                for rows in torch.split(torch.from_numpy(draws.argsort()), _MINIBATCH):
                    placement = self._places([support.ids[row] for row in rows], shape, f"{STREAM}.train.{epoch}")
                    slope = self._slope(objective, patch, shape, support.images[rows], labels[rows], placement)
                    patch.add_(slope.sign().mul_(mask), alpha=params.step).clamp_(0.0, 1.0)
        return patch.cpu()

    def _slope(
        self, objective: Objective, patch: Tensor, shape: Outline, images: Tensor, labels: Tensor, placement: Placement
    ) -> Tensor:
        """The gradient (3, h, w) of the summed loss in the patch, over as many images at once as memory allows."""
        while True:
            try:
                total = torch.zeros_like(patch)
                for part in torch.split(torch.arange(len(images)), self._at_once):
                    there = placement.take(part)
                    patched = lay(patch, shape, images[part].to(patch.device), there)
                    slope = objective.climb(patched, labels[part].to(patch.device))
                    gradient = slope.gradient()
                    objective.require_finite(slope.judgement.is_finite & gradient.isfinite().all())
                    total += under(gradient, shape, there).sum(dim=0)
            except (MemoryError, torch.OutOfMemoryError):
                if self._at_once == 1:
                    raise
                self._at_once = (self._at_once + 1) // 2
            else:
                return total

    def _objective(self) -> Objective:
        params, context = self._params, self._prepared()
        assert context.target is not None
        evaluated = "the model" if context.evaluated is None else context.evaluated.info.name
        return Objective(
            scores=context.target,
            loss=params.loss,
            targeted=params.target_class is not None,
            precision=params.precision,
            target=f"the {'head' if params.source else params.attack_target} of {params.source or evaluated}",
        )

    def _prepared(self) -> PerturbationContext:
        if self._context is None:
            raise RuntimeError("adversarial_patch: begin() was called before prepare()")
        return self._context

    def _images(self) -> _Support:
        if self._support is None:
            support = self._prepared().support
            assert support is not None
            self._support = _gathered(support, self._params.train_images)
        return self._support

    @property
    def _size(self) -> tuple[int, int]:
        images = self._images().images
        return images.shape[2], images.shape[3]

    def _outline(self, level: float) -> Outline:
        return outline(self._params.shape, level, self._size)

    def _places(self, ids: tuple[str, ...] | list[str], shape: Outline, stream: str) -> Placement:
        return places(self._params.placement, shape, self._size, seed=self._prepared().seed, stream=stream, ids=ids)


def _gathered(support: SupportImages, limit: int) -> _Support:
    batches = [batch for batch in support(limit) if len(batch)]
    sizes = {tuple(batch.images.shape[2:]) for batch in batches}
    if len(sizes) != 1:
        found = " and ".join(f"{height}x{width}" for height, width in sorted(sizes)) or "none"
        raise DataError(
            f"adversarial_patch needs support images of one size, and found {found}",
            hint="take a view that crops images to one size",
        )
    with torch.inference_mode(False):
        return _Support(
            images=torch.cat([batch.images.cpu() for batch in batches]),
            labels=torch.cat([batch.labels.cpu() for batch in batches]),
            ids=tuple(name for batch in batches for name in batch.ids),
        )


def _covered(batch: ImageBatch, fraction: float) -> dict[str, Tensor]:
    return {INFORMATION_LOSS: torch.full((len(batch),), fraction, dtype=torch.float64)}
