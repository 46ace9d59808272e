"""Several climbs, and which of their points each image keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness_attacks.climb import Climbed, Schedule, climb
from harness_attacks.gradient_attack import Attacked
from harness_attacks.objective import Objective
from harness_attacks.projections import Ball


def best_of_climbs(
    objective: Objective,
    images: Tensor,
    labels: Tensor,
    ball: Ball,
    starts: Sequence[Callable[[], Tensor]],
    schedule: Schedule,
    *,
    missed: Tensor | None = None,
) -> Attacked:
    """The best point of each of ``images`` (N, C, H, W) over a climb from each of ``starts``, points of ``ball``.

    Where the schedule watches, that is the first point that succeeded, over the climbs in their order, and before them
    the image itself where ``missed`` (N,) bool says that it does; otherwise the last point of a climb, of those that
    succeeded if any did. Among equals it is that of the highest loss, which several climbs need a schedule for that
    judges.
    """
    kept = _Kept(images, missed)
    first_succeeded = kept.succeeded
    for number, start in enumerate(starts):
        rows = torch.nonzero(~kept.succeeded)[:, 0] if schedule.stops else torch.arange(len(labels)).to(labels.device)
        if len(rows):
            found = climb(objective, ball.take(rows), start()[rows], labels[rows], schedule)
            kept.weigh(rows, found, in_order=schedule.watches)
        if number == 0:
            first_succeeded = kept.succeeded.clone()
    return Attacked(
        images=kept.images,
        gradient_steps=kept.gradient_steps,
        zero_gradient=kept.zero_gradient,
        succeeded=kept.succeeded if schedule.judges else None,
        first_succeeded=first_succeeded if schedule.judges else None,
    )


class _Kept:
    """What each image keeps so far: the image itself before the first climb, worse than any point."""

    def __init__(self, images: Tensor, missed: Tensor | None) -> None:
        n, device = len(images), images.device
        self.images = images.clone()
        self.succeeded = torch.zeros(n, dtype=torch.bool, device=device) if missed is None else missed.clone()
        self.gradient_steps = torch.zeros(n, dtype=torch.int64, device=device)
        self.zero_gradient = torch.zeros(n, device=device)
        self._loss = torch.full((n,), -torch.inf, device=device)

    def weigh(self, rows: Tensor, found: Climbed, *, in_order: bool) -> None:
        """Take from a climb of the images at ``rows`` what is better than what they have."""
        unmoved = self.gradient_steps[rows] == 0
        self.zero_gradient[rows] = torch.where(unmoved, found.zero_gradient, self.zero_gradient[rows])
        self.gradient_steps[rows] += found.gradient_steps
        if found.succeeded is None or found.loss is None:
            self.images[rows] = found.images
            return
        held, hit = self.succeeded[rows], found.succeeded
        rival = ~held if in_order else hit == held
        better = (hit & ~held) | (rival & (found.loss > self._loss[rows]))
        taken = rows[better]
        self.images[taken], self._loss[taken] = found.images[better], found.loss[better]
        self.succeeded[taken] = hit[better]
