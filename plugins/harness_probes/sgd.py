"""Linear heads trained on mini-batches of a feature table that may lie on disk, many learning rates at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from harness import rng
from harness.errors import DataError
from harness_probes.recipes import RATE_BATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from torch import Tensor

    from harness_probes.held_out import LinearProblem
    from harness_probes.recipes import Recipe

_SCORES_AT_ONCE = 2**22
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_MOMENTUM = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """H linear classifiers: ``weight`` (H, D, C) and ``bias`` (H, C), float32."""

    weight: Tensor
    bias: Tensor

    def scores(self, x: Tensor) -> Tensor:
        """(H, B, C) scores of ``x`` (B, D)."""
        return torch.matmul(x, self.weight) + self.bias[:, None]

    def to(self, device: torch.device | str) -> Heads:
        """The same heads on ``device``, where they are trained."""
        return Heads(weight=self.weight.to(device), bias=self.bias.to(device))

    def copy(self) -> Heads:
        """The heads as they are now; training goes on in place."""
        return Heads(weight=self.weight.clone(), bias=self.bias.clone())


def initial_heads(recipe: Recipe, *, width: int, order: npt.NDArray[np.int64], xavier: bool, seed: int) -> Heads:
    """One head of the recipe's initial weights per learning rate, all the same: their rates alone tell them apart.

    Normal weights with the recipe's standard deviation (timm cuts them off at +-2, a hundred standard deviations), or
    Xavier's uniform ones (Glorot and Bengio, AISTATS 2010); zero biases. ``order`` (C,) numbers the classes by
    something other than their names, so that a class gets the same weights whatever it is called.
    """
    shape = (width, len(order))
    if xavier:
        bound = math.sqrt(6 / (width + len(order)))
        drawn = (2 * rng.dense_uniforms(seed, "linear.initial", ["head"], shape)[0] - 1) * bound
    else:
        drawn = rng.normals(seed, "linear.initial", ["head"], shape)[0] * recipe.initial_std
    count = len(recipe.learning_rates)
    weight = torch.from_numpy(drawn[:, order].astype(np.float32)).expand(count, *shape).clone()
    return Heads(weight=weight, bias=torch.zeros(count, len(order)))


def train(problem: LinearProblem, rows: npt.NDArray[np.int64], recipe: Recipe, heads: Heads) -> Iterator[Heads]:
    """Train ``heads``, one per learning rate, in place on the cross entropy of ``rows``; yield them after every epoch.

    Work is done where the heads are.
    All heads see the same batches, in an order drawn anew for each epoch from seed and epoch alone. No more than a
    batch of the table is in memory at once. Raises :class:`~harness.errors.DataError` for fewer rows than a batch
    where the recipe leaves out incomplete ones.
    """
    size = min(recipe.batch_size, len(rows)) if not recipe.drop_last else recipe.batch_size
    if size > len(rows):
        raise DataError(
            f"linear: {len(rows)} support images do not fill one batch of {size}, and the recipe leaves out "
            "incomplete batches",
            hint=f"give batch_size={len(rows)} or less, or another recipe",
        )
    steps = len(rows) // size if recipe.drop_last else math.ceil(len(rows) / size)
    rates = torch.tensor(recipe.learning_rates, dtype=torch.float64) * (size / RATE_BATCH if recipe.scaled else 1.0)
    step = _MomentumStep(heads) if recipe.optimiser == "sgd" else _AdamWStep(heads, recipe.weight_decay)
    for epoch in range(recipe.epochs):
        order = rng.permutations(problem.seed, "linear.order", [f"epoch {epoch}"], len(rows))[0]
        for i in range(steps):
            # A batch is a set: rising rows are read faster from a disk.
            batch = rows[np.sort(order[i * size : (i + 1) * size])]
            done = {"epoch": epoch / recipe.epochs, "step": (epoch + i / steps) / recipe.epochs, "none": 0.0}
            decayed = rates * ((1 + math.cos(math.pi * done[recipe.decay])) / 2)
            step(*_gradients(heads, *_read(problem, batch, heads)), decayed.float().to(heads.weight.device))
        yield heads


def evaluate(
    heads: Heads, problem: LinearProblem, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How many of ``rows`` every head classifies rightly, (H,) int64, and its mean cross entropy on them, (H,)."""
    count, _, classes = heads.weight.shape
    block = max(1, _SCORES_AT_ONCE // (count * classes))
    hits, losses = np.zeros(count, np.int64), np.zeros(count)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        x, y = _read(problem, part, heads)
        scores = heads.scores(x)
        hits += (scores.argmax(dim=2) == y).sum(dim=1).cpu().numpy()
        # Not in float64: Metal has none.
        own = scores.log_softmax(dim=2)[:, torch.arange(len(part)), y]
        losses -= own.cpu().double().sum(dim=1).numpy()
    return hits, losses / len(rows)


def _read(problem: LinearProblem, rows: npt.NDArray[np.int64], heads: Heads) -> tuple[Tensor, Tensor]:
    """Features (B, D) and labels (B,) of ``rows``, beside the heads."""
    x = torch.from_numpy(np.ascontiguousarray(problem.features[rows], dtype=np.float32))
    device = heads.weight.device
    return x.to(device), torch.from_numpy(problem.labels[rows]).to(device)


def _gradients(heads: Heads, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of every head's mean cross entropy on a batch: (H, D, C) and (H, C)."""
    errors = heads.scores(x).softmax(dim=2)
    errors[:, torch.arange(len(y)), y] -= 1
    errors /= len(y)
    return torch.matmul(x.T, errors), errors.sum(dim=1)


class _Step(Protocol):
    def __call__(self, weight: Tensor, bias: Tensor, rates: Tensor) -> None:
        """Change heads by the gradients of their weight and bias, with ``rates`` (H,)."""
        ...


class _MomentumStep:
    """Stochastic gradient descent with momentum 0.9."""

    def __init__(self, heads: Heads) -> None:
        self._parts = [(part, torch.zeros_like(part)) for part in (heads.weight, heads.bias)]

    def __call__(self, weight: Tensor, bias: Tensor, rates: Tensor) -> None:
        for (part, velocity), gradient in zip(self._parts, (weight, bias), strict=True):
            velocity.mul_(_MOMENTUM).add_(gradient)
            part.sub_(_like(rates, part) * velocity)


class _AdamWStep:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) with decay on weights and biases alike, as PyTorch's default."""

    def __init__(self, heads: Heads, weight_decay: float) -> None:
        self._parts = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in (heads.weight, heads.bias)]
        self._weight_decay = weight_decay
        self._steps = 0

    def __call__(self, weight: Tensor, bias: Tensor, rates: Tensor) -> None:
        self._steps += 1
        first_correction, second_correction = 1 - _BETA1**self._steps, 1 - _BETA2**self._steps
        for (part, first, second), gradient in zip(self._parts, (weight, bias), strict=True):
            rate = _like(rates, part)
            part.mul_(1 - rate * self._weight_decay)
            first.mul_(_BETA1).add_(gradient, alpha=1 - _BETA1)
            second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
            scale = (second / second_correction).sqrt_().add_(_EPSILON)
            part.sub_(rate / first_correction * first / scale)


def _like(rates: Tensor, part: Tensor) -> Tensor:
    return rates.view(-1, *[1] * (part.ndim - 1))
