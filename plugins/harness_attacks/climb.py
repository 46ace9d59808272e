"""One climb: projected gradient steps from one start, watched for success where the caller asks for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness_attacks.objective import Objective
from harness_attacks.projections import Ball


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How a climb goes: ``steps`` of ``size``, in units of the range [0, 1].

    ``watches``: the first point that succeeds counts, not the last. ``stops``: an image is left alone from there on.
    ``judges``: the target is asked about the last point as well, in one more forward pass.
    """

    size: float
    steps: int
    watches: bool = False
    stops: bool = False
    judges: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Climbed:
    """Where a climb led N images: their ``images``, the first that succeeded if it was watched, else the last.

    ``succeeded`` (N,) bool and the ``loss`` (N,) of the last point, None where the schedule does not judge; the loss of
    an image that was left early is 0. ``gradient_steps`` (N,) int64: along how many gradients each was moved.
    ``zero_gradient`` (N,) float32: the fraction of its first gradient that is exactly zero, 0 where it was not moved.
    """

    images: Tensor
    succeeded: Tensor | None
    loss: Tensor | None
    gradient_steps: Tensor
    zero_gradient: Tensor


def laid_out(images: Tensor) -> Tensor:
    """A copy of ``images`` (N, C, H, W) as convolutions are quickest with them: on the CPU with the channels last.

    Elementwise arithmetic takes either order, and gradients come in that of the images. The copy is an ordinary tensor
    even of one that was made in inference mode, which autograd would refuse.
    """
    order = torch.channels_last if images.device.type == "cpu" else torch.contiguous_format
    with torch.inference_mode(False):
        return images.clone(memory_format=order)


def zero_fraction(gradient: Tensor) -> Tensor:
    """The fraction of each image's entries that are exactly zero: (N,) float32 for (N, C, H, W)."""
    return (gradient == 0).sum(dim=(1, 2, 3)).float() / gradient[0].numel()


def climb(objective: Objective, ball: Ball, start: Tensor, labels: Tensor, schedule: Schedule) -> Climbed:
    """Climb from ``start`` (N, C, H, W), which lies in ``ball`` and stays as it is, at least one step.

    Raises :class:`~harness.errors.HarnessError` for scores or gradients that are not finite.
    """
    going = _Going(laid_out(start), labels, ball)
    watch = _Watch(going.point) if schedule.watches else None
    steps, zero = torch.zeros_like(labels), torch.zeros(len(labels), device=start.device)
    is_finite = torch.ones((), dtype=torch.bool, device=start.device)
    for number in range(schedule.steps):
        slope = objective.climb(going.point, going.labels)
        is_finite &= slope.judgement.is_finite
        if watch is not None:
            watch.note(going, slope.judgement.succeeded)
        leaving = slope.judgement.succeeded if schedule.stops else None
        if leaving is not None and bool(leaving.all()):
            going.leave(leaving)
            break
        gradient = slope.gradient()
        is_finite &= gradient.isfinite().all()
        if leaving is not None and bool(leaving.any()):
            going.leave(leaving)
            gradient = gradient[~leaving]
        if number == 0:
            zero[going.rows] = zero_fraction(gradient)
        steps[going.rows] += 1
        going.ball.step(going.point, gradient, schedule.size)
        going.ball.project(going.point)
    succeeded = loss = None
    if schedule.judges:
        loss, succeeded = torch.zeros(len(labels), device=start.device), torch.zeros_like(labels, dtype=torch.bool)
        if len(going.rows):
            last = objective.judge(going.point, going.labels)
            is_finite &= last.is_finite
            loss[going.rows] = last.loss.float()
            succeeded[going.rows] = last.succeeded
            if watch is not None:
                watch.note(going, last.succeeded)
    objective.require_finite(is_finite)
    if watch is not None:
        succeeded = watch.succeeded
    return Climbed(
        images=going.point if watch is None else watch.images(going),
        succeeded=succeeded,
        loss=loss,
        gradient_steps=steps,
        zero_gradient=zero,
    )


class _Going:
    """The images that are still climbing: their ``rows`` in the batch, and what belongs to them."""

    def __init__(self, point: Tensor, labels: Tensor, ball: Ball) -> None:
        self.point, self.labels, self.ball = point, labels, ball
        self.rows = torch.arange(len(labels), device=labels.device)

    def leave(self, leaving: Tensor) -> None:
        """Go on without those of ``leaving`` (bool)."""
        left = ~leaving
        self.rows, self.point, self.labels = self.rows[left], self.point[left], self.labels[left]
        self.ball = self.ball.take(left)


class _Watch:
    """The first point of each image that succeeded."""

    def __init__(self, start: Tensor) -> None:
        self._first = torch.empty_like(start)
        self.succeeded = torch.zeros(len(start), dtype=torch.bool, device=start.device)

    def note(self, going: _Going, succeeded: Tensor) -> None:
        """Keep the points of those that succeed for the first time."""
        new = succeeded & ~self.succeeded[going.rows]
        rows = going.rows[new]
        self._first[rows] = going.point[new]
        self.succeeded[rows] = True

    def images(self, going: _Going) -> Tensor:
        """The first point that succeeded, or else the last."""
        missing = ~self.succeeded[going.rows]
        self._first[going.rows[missing]] = going.point[missing]
        return self._first
