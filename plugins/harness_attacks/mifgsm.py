"""The iterative fast gradient sign method with momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.params import checked
from harness_attacks.climb import zero_fraction
from harness_attacks.gradient_attack import Attacked, Begun, GradientAttack
from harness_attacks.parameters import AttackPrecision, AttackTarget, Goal, Loss, MIFGSMParams, Norm
from harness_attacks.projections import ball_around, mean_normalised


class MIFGSM(GradientAttack):
    """Steps along the sign of a momentum of gradients, or for l2 along the momentum itself, from the image on.

    Dong et al., "Boosting Adversarial Attacks with Momentum" (2018), algorithm 1: the momentum is ``decay`` times what
    it was, plus the gradient over its l1 norm, here its mean absolute entry, which gives the same signs and
    directions. The step is eps / ``steps`` unless given; points are projected into the ball and clipped to [0, 1]. The
    levels of a sweep share their first gradient.
    """

    def __init__(
        self,
        *,
        attack_target: AttackTarget = "head",
        source: str | None = None,
        goal: Goal = "untargeted",
        loss: Loss = "cross_entropy",
        precision: AttackPrecision = "fp32",
        norm: Norm = "linf",
        quantise: bool = False,
        steps: int = 10,
        step_255: float | None = None,
        decay: float = 1.0,
    ) -> None:
        given = MIFGSMParams(
            attack_target=attack_target,
            source=source,
            goal=goal,
            loss=loss,
            precision=precision,
            norm=norm,
            quantise=quantise,
            steps=steps,
            step_255=step_255,
            decay=decay,
        )
        self._params = checked(given, "mifgsm")
        super().__init__("mifgsm", self._params)

    def _attack(self, state: Begun, eps: float) -> Attacked:
        params = self._params
        size = eps / params.steps if params.step_255 is None else params.step_255 / 255
        ball = ball_around(state.images, eps, params.norm)
        point = state.images.clone()
        gradient, momentum = state.gradient, torch.zeros_like(point)
        is_finite = torch.ones((), dtype=torch.bool, device=point.device)
        for number in range(params.steps):
            if number:
                gradient, sound = _gradient(state, point)
                is_finite &= sound
            momentum.mul_(params.decay).add_(mean_normalised(gradient))
            ball.step(point, momentum, size)
            ball.project(point)
        state.objective.require_finite(is_finite)
        return Attacked(
            images=point,
            gradient_steps=torch.full((len(state.ids),), params.steps),
            zero_gradient=zero_fraction(state.gradient),
        )


def _gradient(state: Begun, point: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient at ``point``, and whether it and the scores are finite (bool scalar)."""
    slope = state.objective.climb(point, state.labels)
    gradient = slope.gradient()
    return gradient, slope.judgement.is_finite & gradient.isfinite().all()
