"""What the gradient attacks share: the target, the classes aimed at, the budget, and what is recorded of each image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from harness import rng
from harness.errors import HarnessError, ParameterError
from harness.params import canonical, checked
from harness.protocols import PerturbationContext, PerturbationInfo
from harness.types import ImageBatch
from harness_attacks.climb import laid_out
from harness_attacks.losses import goal_labels, has_succeeded
from harness_attacks.objective import Objective
from harness_attacks.parameters import EPS_255, Goal, GradientParams
from harness_attacks.precision import require_precision
from harness_attacks.projections import quantised
from harness_attacks.realised import ATTACK_SUCCESS, FIRST_RESTART_SUCCESS, GRADIENT_STEPS, ZERO_GRADIENT

GOAL_STREAM = "attack.goal"
"""What the random classes of ``goal=random`` are keyed by; attacks share it, and so aim at the same ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """What an attack made of N images.

    ``images``: (N, C, H, W). ``gradient_steps``: (N,), the number of gradients that each was moved along.
    ``zero_gradient``: (N,) float32, the fraction of its first gradient that is exactly zero, 0 where there was none.
    ``succeeded``: (N,) bool, whether the target misses the result (for a goal: gives it the goal's class), and
    ``first_succeeded``: whether it would have with the first climb alone; None where the target was not asked.
    """

    images: Tensor
    gradient_steps: Tensor
    zero_gradient: Tensor
    succeeded: Tensor | None = None
    first_succeeded: Tensor | None = None


class Begun:
    """What all levels of an attack share for one batch, each found when a level first asks for it."""

    def __init__(self, objective: Objective, batch: ImageBatch, goal: Goal, seed: int) -> None:
        self.objective = objective
        self.images = laid_out(batch.images)
        self.ids = batch.ids
        self._goal, self._seed = goal, seed
        with torch.inference_mode(False):
            self._true_labels = batch.labels.clone()

    @cached_property
    def clean_scores(self) -> Tensor:
        """The target's scores (N, C) of the unperturbed images."""
        scores = self.objective.ask(self.images)
        self.objective.require_finite(scores.isfinite().all())
        return scores

    @cached_property
    def labels(self) -> Tensor:
        """The classes (N,) to be left, or to be reached where there is a goal."""
        if self._goal == "untargeted":
            return self._true_labels
        draws = torch.from_numpy(rng.uniforms(self._seed, GOAL_STREAM, self.ids, 1)[:, 0])
        return goal_labels(self.clean_scores, self._true_labels, self._goal, draws)

    @cached_property
    def missed(self) -> Tensor:
        """(N,) bool: whether the attack has succeeded before it began."""
        return has_succeeded(self.clean_scores, self.labels, self.objective.targeted)

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient (N, C, H, W) at the unperturbed images, not to be changed in place."""
        slope = self.objective.climb(self.images, self.labels)
        gradient = slope.gradient()
        self.objective.require_finite(slope.judgement.is_finite & gradient.isfinite().all())
        return gradient


class GradientAttack(ABC):
    """An attack within a ball, by the gradient of a target's loss in the pixels; subclasses say by which steps.

    Pixels, ``eps`` and steps are in units of the range [0, 1]; what normalises the images is part of the target. The
    budget at level e is e/255, of every pixel's change (l-inf) or of the Euclidean norm of the whole image's (l2).
    ``realised`` holds the columns of :mod:`harness_attacks.realised`; whether the attack succeeded is among them only
    where that came with the gradients, and never after ``quantise``, which changes what was judged.
    """

    def __init__(self, name: str, params: GradientParams, *, stream: str | None = None) -> None:
        params = checked(params, name)
        self._info = PerturbationInfo(
            name=name,
            stochastic=stream is not None,
            stream=stream,
            level=EPS_255,
            needs_target=True,
            keyed=False,
            params=canonical(params),
        )
        self._aim = params
        self._context: PerturbationContext | None = None
        self._objective: Objective | None = None

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        return self._info

    @property
    def seed(self) -> int:
        """What its draws are keyed by; always 0 where it does not declare any, for a random goal needs no seeds."""
        assert self._context is not None
        return self._context.seed if self._info.stochastic else 0

    def prepare(self, context: PerturbationContext) -> None:
        """Take the target. Raises :class:`~harness.errors.HarnessError` for none, and for fp16 on a CPU."""
        name, aim = self._info.name, self._aim
        if context.target is None:
            raise HarnessError(f"{name} needs a target to attack, and was given none")
        require_precision(aim.precision, context.device, name)
        evaluated = None if context.evaluated is None else context.evaluated.info.name
        whose = aim.source or evaluated or "the model"
        self._context = context
        self._objective = Objective(
            scores=context.target,
            loss=aim.loss,
            targeted=aim.goal != "untargeted",
            precision=aim.precision,
            target=f"the {'head' if aim.source else aim.attack_target} of {whose}",
        )

    def begin(self, batch: ImageBatch) -> Begun:
        """What all levels share; nothing is computed yet."""
        if self._objective is None:
            raise RuntimeError(f"{self._info.name}: begin() was called before prepare()")
        return Begun(self._objective, batch, self._aim.goal, self.seed)

    def apply(self, batch: ImageBatch, state: Begun, level: float | None) -> ImageBatch:
        """The batch attacked with a budget of ``level``/255; at level 0 as it is.

        Raises :class:`~harness.errors.ParameterError` for no level or one out of range, which for l-inf ends at 255,
        and :class:`~harness.errors.HarnessError` for scores or gradients that are not finite.
        """
        name, norm = self._info.name, self._aim.norm
        if level is None:
            raise ParameterError(f"{name} needs an {EPS_255.name}", hint=f"{name}@4, or @all for the sweep")
        level = EPS_255.check(level, name)
        if norm == "linf" and level > 255:
            raise ParameterError(
                f"{name}: {EPS_255.name} must lie in [0, 255] for norm=linf, not {level:g}",
                hint="it counts 255ths of the range of a pixel; norm=l2 takes more",
            )
        with torch.inference_mode(False), torch.no_grad():
            if level == 0:
                return batch.with_images(batch.images, **self._realised(self._untouched(state)))
            attacked = self._attack(state, level / 255)
            images = attacked.images
            if self._aim.quantise:
                images = quantised(images, state.images, level / 255, norm)
            return batch.with_images(images.contiguous(), **self._realised(attacked))

    @abstractmethod
    def _attack(self, state: Begun, eps: float) -> Attacked:
        """The attack with a budget of ``eps`` above 0, in units of the range [0, 1]."""

    @property
    def _judges(self) -> bool:
        """Whether the attack comes to know if it succeeded."""
        return False

    @property
    def _restarts(self) -> int:
        return 1

    def _untouched(self, state: Begun) -> Attacked:
        missed = state.missed if self._judges else None
        none = torch.zeros(len(state.ids))
        return Attacked(
            images=state.images, gradient_steps=none, zero_gradient=none, succeeded=missed, first_succeeded=missed
        )

    def _realised(self, attacked: Attacked) -> dict[str, Tensor]:
        found = {ZERO_GRADIENT: attacked.zero_gradient, GRADIENT_STEPS: attacked.gradient_steps}
        if attacked.succeeded is not None and not self._aim.quantise:
            found[ATTACK_SUCCESS] = attacked.succeeded
            if self._restarts > 1 and attacked.first_succeeded is not None:
                found[FIRST_RESTART_SUCCESS] = attacked.first_succeeded
        # Not every device has float64.
        return {name: column.cpu().double() for name, column in found.items()}
