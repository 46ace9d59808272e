"""What an attack climbs: a loss of the target's scores, with its gradient in the pixels and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import CapabilityError, HarnessError
from harness_attacks.losses import attack_loss, has_succeeded
from harness_attacks.parameters import AttackPrecision, Loss
from harness_attacks.precision import autocast, differentiating, loss_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the target makes of N images: whether the attack has ``succeeded`` (N,) bool on them, and its ``loss`` (N,).

    ``is_finite``: bool scalar on the images' device, False where any score is NaN or infinite.
    """

    succeeded: Tensor
    loss: Tensor
    is_finite: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss of ``scores(images) -> (N, C)``; the sum over images is climbed, so that none depends on the others.

    ``targeted``: labels are classes to be reached. ``target`` names what is scored, in errors.
    """

    scores: Callable[[Tensor], Tensor]
    loss: Loss = "cross_entropy"
    targeted: bool = False
    precision: AttackPrecision = "fp32"
    target: str = "the target"

    def ask(self, images: Tensor) -> Tensor:
        """Scores (N, C) without a gradient."""
        with differentiating(self.precision, images.device), torch.no_grad():
            return self._ask(images)

    def judge(self, images: Tensor, labels: Tensor) -> Judgement:
        """What the target makes of ``images``, without a gradient."""
        return self._judgement(scores := self.ask(images), labels, self._loss(scores, labels))

    def climb(self, images: Tensor, labels: Tensor) -> Slope:
        """One forward pass that can be differentiated; ``images`` must not change until it has been, or is dropped."""
        with differentiating(self.precision, images.device):
            leaf = images.detach().requires_grad_()
            scores = self._ask(leaf)
            if not scores.requires_grad:
                raise self._no_gradient()
            loss = self._loss(scores, labels)
        return Slope(objective=self, leaf=leaf, loss=loss, judgement=self._judgement(scores, labels, loss))

    def differentiate(self, loss: Tensor, leaf: Tensor) -> Tensor:
        """The gradient of ``loss`` (N,) in ``leaf``, whose graph is gone then; for fp16 multiplied by its scale."""
        with differentiating(self.precision, leaf.device):
            (gradient,) = torch.autograd.grad(loss.sum() * loss_scale(self.precision), leaf, allow_unused=True)
        if gradient is None:
            raise self._no_gradient()
        return gradient

    def require_finite(self, is_finite: Tensor) -> None:
        """Raise :class:`~harness.errors.HarnessError` unless a bool scalar is True."""
        if not bool(is_finite):
            raise HarnessError(
                f"scores or gradients of {self.target} are NaN or infinite at precision={self.precision}",
                hint="the weights or the images are at fault"
                if self.precision == "fp32"
                else "use precision=fp32 for the attack",
            )

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return attack_loss(scores, labels, self.loss, self.targeted)

    def _judgement(self, scores: Tensor, labels: Tensor, loss: Tensor) -> Judgement:
        given = scores.detach()
        return Judgement(
            succeeded=has_succeeded(given, labels, self.targeted),
            loss=loss.detach(),
            is_finite=given.isfinite().all(),
        )

    def _ask(self, images: Tensor) -> Tensor:
        with autocast(self.precision, images.device):
            try:
                return self.scores(images)
            except RuntimeError:
                # A target that views the pixels' memory cannot have them in another order than rows of channels.
                if images.is_contiguous():
                    raise
                return self.scores(images.contiguous())

    def _no_gradient(self) -> CapabilityError:
        return CapabilityError(
            f"no gradient leads from the scores of {self.target} to the images", hint="aim at the model's head instead"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """A forward pass that waits to be differentiated: its ``judgement``, and the ``loss`` (N,) with its graph."""

    objective: Objective
    leaf: Tensor
    loss: Tensor
    judgement: Judgement

    def gradient(self) -> Tensor:
        """(N, C, H, W), once."""
        return self.objective.differentiate(self.loss, self.leaf)
