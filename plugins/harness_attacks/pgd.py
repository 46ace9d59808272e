"""Projected gradient descent, with random starts, restarts and early stopping."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.errors import ParameterError
from harness.params import checked
from harness_attacks.climb import Schedule, laid_out
from harness_attacks.gradient_attack import Attacked, Begun, GradientAttack
from harness_attacks.losses import has_succeeded
from harness_attacks.objective import Objective
from harness_attacks.parameters import AttackPrecision, AttackTarget, Goal, Loss, Norm, PGDParams, Select
from harness_attacks.projections import ball_around, random_points
from harness_attacks.restarts import best_of_climbs

STREAM = "attack.pgd"
"""What the random starts are keyed by, with the number of the restart behind it."""


def pgd(
    scores: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: Tensor | None = None,
    norm: Norm = "linf",
    loss: Loss = "cross_entropy",
    targeted: bool = False,
    select: Select = "last",
    early_stop: bool = False,
    precision: AttackPrecision = "fp32",
) -> Attacked:
    """Projected gradient descent on ``images`` (N, C, H, W) in [0, 1], from ``start`` or else from the images.

    ``scores``: differentiable, (N, C) for images. ``labels``: (N,) int64, the true classes, or those to be reached if
    ``targeted``. ``eps`` and ``step`` are in units of the range [0, 1]; ``start`` is a point of the ball.
    ``select`` and ``early_stop``: as of :class:`PGD`; with ``select="any"`` and a start, the images themselves are
    judged as well.

    Raises :class:`~harness.errors.HarnessError` for scores or gradients that are not finite,
    :class:`~harness.errors.CapabilityError` where no gradient reaches the images, and
    :class:`~harness.errors.ParameterError` for ``early_stop`` without ``select="any"``.
    """
    _require_select(select, early_stop)
    objective = Objective(scores=scores, loss=loss, targeted=targeted, precision=precision)
    schedule = Schedule(size=step, steps=steps, watches=select == "any", stops=early_stop, judges=select == "any")
    with torch.inference_mode(False), torch.no_grad():
        clean, classes = laid_out(images), labels.clone()
        missed = None
        if select == "any" and start is not None:
            missed = has_succeeded(objective.ask(clean), classes, targeted)
        ball = ball_around(clean, eps, norm)
        first = clean if start is None else start
        return best_of_climbs(objective, clean, classes, ball, [lambda: first], schedule, missed=missed)


class PGD(GradientAttack):
    """Steps along the sign of the gradient, or for l2 along the gradient itself, each projected back into the ball.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (2018), section 2.1. Starts are
    uniform in the ball and keyed by seed, restart and image id; the step is eps / 2 unless given.

    ``select="last"``: an image keeps the last point of its climb; of several restarts, that of one that the target
    misses, and among equals the one of highest loss. ``select="any"``: the first point of all that the target misses,
    in the order of the image itself, the start and each step, restart by restart; where there is none, the last point
    of the restart of highest loss. With a goal, a point counts once it is given the goal's class. ``early_stop`` takes
    an image out of the batch from there on, which changes nothing about its result but the rounding of sums in batches
    of another size.

    A restart costs ``steps`` forward and backward passes; the passes that climb also judge, so that ``select="any"``
    and restarts cost one forward pass more for the last point of each, and ``select="any"`` with random starts one of
    the unperturbed images for all levels together.
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
        steps: int = 5,
        step_255: float | None = None,
        random_start: bool = True,
        restarts: int = 1,
        select: Select = "last",
        early_stop: bool = False,
    ) -> None:
        given = PGDParams(
            attack_target=attack_target,
            source=source,
            goal=goal,
            loss=loss,
            precision=precision,
            norm=norm,
            quantise=quantise,
            steps=steps,
            step_255=step_255,
            random_start=random_start,
            restarts=restarts,
            select=select,
            early_stop=early_stop,
        )
        self._params = params = checked(given, "pgd")
        super().__init__("pgd", params, stream=STREAM)

    def _attack(self, state: Begun, eps: float) -> Attacked:
        params = self._params
        schedule = Schedule(
            size=eps / 2 if params.step_255 is None else params.step_255 / 255,
            steps=params.steps,
            watches=params.select == "any",
            stops=params.early_stop,
            judges=self._judges,
        )
        return best_of_climbs(
            state.objective,
            state.images,
            state.labels,
            ball_around(state.images, eps, params.norm),
            [self._start(state, eps, number) for number in range(params.restarts)],
            schedule,
            missed=state.missed if params.select == "any" and params.random_start else None,
        )

    @property
    def _judges(self) -> bool:
        return self._params.select == "any" or self._params.restarts > 1

    @property
    def _restarts(self) -> int:
        return self._params.restarts

    def _start(self, state: Begun, eps: float, restart: int) -> Callable[[], Tensor]:
        if not self._params.random_start:
            return lambda: state.images
        return lambda: random_points(
            state.images, eps, self._params.norm, seed=self.seed, stream=f"{STREAM}.{restart}", ids=state.ids
        )


def _require_select(select: Select, early_stop: bool) -> None:
    if early_stop and select != "any":
        raise ParameterError(
            f"pgd: early_stop=true needs select=any, not select={select}",
            hint="stopping where the target is first wrong is no way to the last iterate",
        )
