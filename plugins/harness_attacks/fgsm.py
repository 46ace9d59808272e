"""The fast gradient sign method: one step of the whole budget."""

from __future__ import annotations

import torch

from harness_attacks.climb import zero_fraction
from harness_attacks.gradient_attack import Attacked, Begun, GradientAttack
from harness_attacks.parameters import AttackPrecision, AttackTarget, Goal, GradientParams, Loss, Norm
from harness_attacks.projections import ball_around


class FGSM(GradientAttack):
    """One step of eps along the sign of the gradient, or for l2 along the gradient itself, then clipped to [0, 1].

    Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples" (2015), section 4. All levels of a
    sweep share one gradient.
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
    ) -> None:
        given = GradientParams(
            attack_target=attack_target,
            source=source,
            goal=goal,
            loss=loss,
            precision=precision,
            norm=norm,
            quantise=quantise,
        )
        super().__init__("fgsm", given)

    def _attack(self, state: Begun, eps: float) -> Attacked:
        ball = ball_around(state.images, eps, self._aim.norm)
        point = state.images.clone()
        ball.step(point, state.gradient, eps)
        ball.project(point)
        return Attacked(
            images=point,
            gradient_steps=torch.ones(len(state.ids)),
            zero_gradient=zero_fraction(state.gradient),
        )
