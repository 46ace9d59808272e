"""What the features of one block are read with: a few-shot classifier, and what correlations are held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import Ridge

from harness_inspect.pearson import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    Vectors = npt.NDArray[np.float64]

STD_FLOOR = 1e-5
"""What is added to every standard deviation, so that a feature that never varies can be divided by it."""
_DECIMALS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBlock:
    """What the D features of a block, which lie at ``part`` of the whole vector, are read with.

    The classifier is ``(x - mean) @ weight + bias``, with ``mean`` (D,) that of the support images, ``weight`` (D, L)
    and ``bias`` (L,), all float64. ``reference``: the support images, which correlations with others are with.
    """

    part: slice
    mean: Tensor
    weight: Tensor
    bias: Tensor
    reference: Reference

    def to(self, device: torch.device) -> FittedBlock:
        """The same with its tensors on ``device``."""
        moved = {name: getattr(self, name).to(device) for name in ("mean", "weight", "bias")}
        return replace(self, **moved)

    def predict(self, x: Tensor) -> npt.NDArray[np.int64]:
        """Places (N,) among the classes learned, for features (N, D)."""
        scores = (x - self.mean) @ self.weight + self.bias
        # Classes whose scores differ by rounding alone are tied; the first of them wins, whatever the batch size.
        return np.asarray(scores.round(decimals=_DECIMALS).argmax(dim=1).cpu().numpy(), dtype=np.int64)


def fit_block(
    x: Vectors, targets: Vectors, ids: Sequence[str], *, part: slice, ridge_per_dimension: float
) -> FittedBlock:
    """For support features (n, D) of the images ``ids`` and targets (n, L), +1 for an image's class, -1 for others."""
    mean, std = x.mean(axis=0), x.std(axis=0) + STD_FLOOR
    # Solved in the smaller of n and D dimensions; the intercept is not penalised.
    ridge = Ridge(alpha=ridge_per_dimension * x.shape[1], solver="cholesky").fit((x - mean) / std, targets)
    coefficients = np.asarray(ridge.coef_, dtype=np.float64).reshape(targets.shape[1], -1)
    return FittedBlock(
        part=part,
        mean=torch.from_numpy(mean),
        weight=torch.from_numpy(np.ascontiguousarray(coefficients.T / std[:, None])),
        bias=torch.from_numpy(np.asarray(ridge.intercept_, dtype=np.float64).reshape(-1)),
        reference=Reference.of(x, ids),
    )
