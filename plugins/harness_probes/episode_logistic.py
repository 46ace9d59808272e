"""Multinomial logistic regression on many small support sets at once, solved in the span of each set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.errors import HarnessError

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-8
"""Norm of the gradient at which a solution is accepted: no further than that are the weights from the optimum."""
_NEWTON_STEPS = 100
_CG_STEPS = 500
_HALVINGS = 40
_SUFFICIENT = 1e-4
_FORCING = 0.1
_IMPOSSIBLE = -1e30


def solve_logistic(gram: Tensor, targets: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The duals ``A`` (G, n, W) and intercepts (G, W) of G problems, float64: their weights are ``A^T X``.

    Minimises ``sum_i cross_entropy(softmax(W x_i + b), y_i) + |W|^2 / 2`` over the weights W and the intercepts b,
    which have no penalty: scikit-learn's ``LogisticRegression(C=1)`` with three classes or more. (With two it fits one
    weight vector instead of two, which halves the penalty; here two classes are nothing special.) The optimum lies in
    the span of the images x_i, so only their inner products ``gram`` (G, n, n) matter. ``targets`` (G, n, W) one-hot,
    zero in rows that only fill up; ``classes`` (G, W) bool, False for classes that only fill up.

    Newton's method with conjugate gradients and backtracking, in the geometry of the weights. The objective is
    strongly convex in W with modulus 1, so the norm of the gradient bounds the distance to the optimum; see
    :data:`TOLERANCE`. Raises :class:`~harness.errors.HarnessError` if it is not reached.
    """
    rows = targets.sum(dim=2, keepdim=True)
    impossible = torch.where(classes, 0.0, _IMPOSSIBLE).to(gram)[:, None]
    dual, bias = torch.zeros_like(targets), targets.new_zeros(targets.shape[0], targets.shape[2])
    scores = torch.zeros_like(targets)  # gram @ dual

    def objective(dual: Tensor, bias: Tensor, scores: Tensor) -> Tensor:
        logits = scores + bias[:, None] + impossible
        loss = (rows[..., 0] * torch.logsumexp(logits, dim=2)).sum(dim=1) - (targets * logits).sum(dim=(1, 2))
        return loss + (dual * scores).sum(dim=(1, 2)) / 2

    for _ in range(_NEWTON_STEPS):
        probability = torch.softmax(scores + bias[:, None] + impossible, dim=2) * rows
        residual = probability - targets
        gradient, bias_gradient = dual + residual, residual.sum(dim=1)
        image = gram @ gradient
        squared = ((gradient * image).sum(dim=(1, 2)) + bias_gradient.square().sum(dim=1)).clamp_min(0)
        todo = squared > TOLERANCE**2
        if not todo.any():
            return dual, bias
        step, bias_step, step_image = _newton_direction(
            gram, probability, gradient, bias_gradient, image, squared, todo
        )
        slope = (step * image).sum(dim=(1, 2)) + (bias_step * bias_gradient).sum(dim=1)
        before = objective(dual, bias, scores)
        length = torch.ones_like(before)
        for _ in range(_HALVINGS):
            t = length[:, None, None]
            after = objective(dual + t * step, bias + t[..., 0] * bias_step, scores + t * step_image)
            # The slack: near the optimum a decrease drowns in rounding.
            poor = after > before + _SUFFICIENT * length * slope + 1e-12 * before.abs()
            if not poor.any():
                break
            length = torch.where(poor, length / 2, length)
        t = length[:, None, None]
        dual, bias, scores = dual + t * step, bias + t[..., 0] * bias_step, scores + t * step_image
    worst = float(squared.max().sqrt())
    raise HarnessError(
        f"episodes: logistic regression stopped at a gradient of {worst:.2g}, above {TOLERANCE:g}",
        hint="take head=ridge or head=centroid for these features",
    )


def _newton_direction(
    gram: Tensor,
    probability: Tensor,
    gradient: Tensor,
    bias_gradient: Tensor,
    image: Tensor,
    squared: Tensor,
    todo: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """``-H^-1 g`` by conjugate gradients, in duals, intercepts and ``gram @ duals``; zero where nothing is ``todo``.

    Inner products of two sets of weights are those of their duals under ``gram``. The accuracy rises with that of the
    outer iteration, which makes it converge quadratically (Nocedal and Wright, "Numerical Optimization", section 7.1).
    """
    # Not below what is asked for in the end: there rounding would keep it from ever stopping.
    enough = (squared * squared.clamp_max(_FORCING**2)).clamp_min((_FORCING * TOLERANCE) ** 2)
    step, bias_step, step_image = torch.zeros_like(gradient), torch.zeros_like(bias_gradient), torch.zeros_like(image)
    r, r_bias, r_image = -gradient, -bias_gradient, -image
    p, p_bias, p_image = r, r_bias, r_image
    rho = squared
    for _ in range(_CG_STEPS):
        active = todo & (rho > enough)
        if not active.any():
            break
        change = p_image + p_bias[:, None]
        curved = probability * (change - (probability * change).sum(dim=2, keepdim=True))
        h, h_bias, h_image = p + curved, curved.sum(dim=1), p_image + gram @ curved
        curvature = (p * h_image).sum(dim=(1, 2)) + (p_bias * h_bias).sum(dim=1)
        alpha = torch.where(active & (curvature > 0), rho / curvature, 0.0)
        a = alpha[:, None, None]
        step, bias_step, step_image = step + a * p, bias_step + a[..., 0] * p_bias, step_image + a * p_image
        r, r_bias, r_image = r - a * h, r_bias - a[..., 0] * h_bias, r_image - a * h_image
        updated = ((r * r_image).sum(dim=(1, 2)) + r_bias.square().sum(dim=1)).clamp_min(0)
        b = torch.where(active, updated / rho, 0.0)[:, None, None]
        p, p_bias, p_image = r + b * p, r_bias + b[..., 0] * p_bias, r_image + b * p_image
        rho = torch.where(active, updated, rho)
    return step, bias_step, step_image
