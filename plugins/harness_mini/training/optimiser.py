"""The optimiser of the recipes: Muon for the matrices inside a transformer, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives every singular value towards one (Jordan et al., "Muon", 2024)."""
_ITERATIONS = 5
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made nearly orthogonal (Jordan et al., "Muon: an optimizer for hidden layers", 2024).

    The oldest torch that is supported has none, and torch's own works in bfloat16 and on one matrix at a time. This one
    works in float32 and on all matrices of a shape at once. The update is scaled by
    0.2 * sqrt(larger side), so that learning rates and weight decay of AdamW fit (Liu et al., arXiv 2502.16982, eq. 4).
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is ever given
        """One update of every matrix that has a gradient."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure")
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(tuple(matrix.shape), []).append(matrix)
            for matrices in by_shape.values():
                self._step(matrices, lr=group["lr"], weight_decay=group["weight_decay"])

    def _step(self, matrices: Sequence[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        updates = []
        for matrix in matrices:
            gradient = matrix.grad
            assert gradient is not None
            state = self.state[matrix]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(gradient)
            state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
            updates.append(gradient.lerp(state["momentum"], _MOMENTUM))
        scale = 0.2 * max(matrices[0].shape) ** 0.5
        for matrix, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
            matrix.mul_(1 - lr * weight_decay).add_(update, alpha=-lr * scale)


def orthogonal(x: Tensor) -> Tensor:
    """The nearest orthogonal matrices to (B, m, n), roughly: singular values end between 0.6 and 1.3.

    Directions are kept, but for those whose singular value is a tiny part of the matrix's norm.
    """
    a, b, c = _COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x
