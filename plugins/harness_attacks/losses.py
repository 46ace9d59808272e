"""What attacks raise, the classes they aim at, and when they have succeeded."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from harness.errors import CapabilityError, HarnessError
from harness_attacks.parameters import Goal, Loss


def attack_loss(scores: Tensor, labels: Tensor, loss: Loss, targeted: bool) -> Tensor:
    """What an attack raises: (N,) for ``scores`` (N, C) and ``labels`` (N,) int64, in float32 or better.

    ``cross_entropy``: that of the label, in nats. ``margin``: by how much the best other class beats the label
    (Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017, f6 without its bound).
    ``targeted``: the labels are classes to be reached, and the sign is turned.

    Raises :class:`~harness.errors.CapabilityError` for the margin of a single class.

    >>> attack_loss(torch.tensor([[3.0, 1.0, 2.5]]), torch.tensor([0]), "margin", False)
    tensor([-0.5000])
    """
    exact = scores if scores.dtype == torch.float64 else scores.float()
    if loss == "cross_entropy":
        away = functional.cross_entropy(exact, labels, reduction="none")
    else:
        _require_classes(exact, "a margin")
        own = exact.gather(1, labels[:, None])[:, 0]
        away = exact.masked_fill(_is_label(exact, labels), -math.inf).amax(dim=1) - own
    return -away if targeted else away


def goal_labels(scores: Tensor, labels: Tensor, goal: Goal, draws: Tensor | None = None) -> Tensor:
    """The classes (N,) int64 that an attack is aimed at; the labels themselves where it is untargeted.

    ``scores``: (N, C), the target's on the unperturbed images. ``least_likely``: the class of the lowest score that is
    not the label. ``next``: the label's successor, the first after the last. ``random``: any class but the label, all
    alike, by ``draws`` (N,) uniform in [0, 1).

    Raises :class:`~harness.errors.CapabilityError` where there is no other class.

    >>> goal_labels(torch.tensor([[3.0, 1.0, 2.5]]), torch.tensor([1]), "least_likely")
    tensor([2])
    """
    if goal == "untargeted":
        return labels
    _require_classes(scores, f"goal={goal}")
    classes = scores.shape[1]
    if goal == "least_likely":
        return scores.masked_fill(_is_label(scores, labels), math.inf).argmin(dim=1)
    if goal == "next":
        return (labels + 1) % classes
    if draws is None:
        raise HarnessError("goal=random needs a draw for each image")
    # A draw just below 1 can be rounded up to it by a lower precision; the last class is then still another one.
    beyond = (draws * (classes - 1)).long().clamp(max=classes - 2).to(labels.device)
    return (labels + 1 + beyond) % classes


def has_succeeded(scores: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """(N,) bool: whether the class of the highest score is not the label; if ``targeted``, whether it is.

    Ties go to the lower class, as they do for top-1.
    """
    hit = scores.argmax(dim=1) == labels
    return hit if targeted else ~hit


def _is_label(scores: Tensor, labels: Tensor) -> Tensor:
    return torch.arange(scores.shape[1], device=scores.device) == labels[:, None]


def _require_classes(scores: Tensor, what: str) -> None:
    if scores.shape[1] < 2:
        raise CapabilityError(f"{what} needs a target of at least two classes, this one scores {scores.shape[1]}")
