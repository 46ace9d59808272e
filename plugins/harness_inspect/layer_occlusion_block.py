"""What the features of one block are read with: a few-shot classifier, and what correlations are held against."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import Ridge

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

CORRELATIONS = {
    "correlation": "correlation",
    "correlation_centred": "correlation_centred",
    "floor": "correlation_floor",
    "floor_centred": "correlation_centred_floor",
}
"""Columns of the outcomes, and the metric that is the mean of each over images."""

STD_FLOOR = 1e-5
"""What is added to every standard deviation, so that a feature that never varies can be divided by it."""
_ROUNDING = 1e-6
"""Of a vector's largest value: what varies by less over its dimensions is the rounding of float32."""
_DECIMALS = 9
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBlock:
    """What the D features of a block, which lie at ``part`` of the whole vector, are read with; all float64.

    Of the support images: ``mean`` (D,), and the means over images of their features, standardised over dimensions, as
    they are (``typical``, (D,)) and less the mean (``typical_centred``); NaN where not one of them varies. The
    classifier is ``(x - mean) @ weight + bias`` with ``weight`` (D, L) and ``bias`` (L,).
    """

    part: slice
    mean: Tensor
    weight: Tensor
    bias: Tensor
    typical: Tensor
    typical_centred: Tensor

    def to(self, device: torch.device) -> FittedBlock:
        """The same on ``device``."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "part"]
        return FittedBlock(part=self.part, **{name: getattr(self, name).to(device) for name in names})

    def predict(self, x: Tensor) -> Tensor:
        """Places (N,) among the classes learned, for features (N, D)."""
        scores = (x - self.mean) @ self.weight + self.bias
        # Classes whose scores differ by rounding alone are tied; the first of them wins, whatever the batch size.
        return scores.round(decimals=_DECIMALS).argmax(dim=1)

    def correlations(self, x: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Columns (N,) of :data:`CORRELATIONS` for features (N, D) of the perturbed images and of the clean ones."""
        perturbed, unperturbed = standardised(x), standardised(clean)
        centred, unperturbed_centred = standardised(x, less=self.mean), standardised(clean, less=self.mean)
        products = {
            "correlation": perturbed * unperturbed,
            "correlation_centred": centred * unperturbed_centred,
            # A correlation is linear in either standardised vector, so a mean over support images is one product.
            "floor": perturbed * self.typical,
            "floor_centred": centred * self.typical_centred,
        }
        return {name: of.mean(dim=1).clamp(-1, 1) for name, of in products.items()}


def fit_block(
    x: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], part: slice, ridge_per_dimension: float
) -> FittedBlock:
    """For support features (n, D) and targets (n, L) of +1 for an image's class and -1 for the others."""
    mean, std = x.mean(axis=0), x.std(axis=0) + STD_FLOOR
    # Solved in the smaller of n and D dimensions; the intercept is not penalised.
    ridge = Ridge(alpha=ridge_per_dimension * x.shape[1], solver="cholesky").fit((x - mean) / std, targets)
    coefficients = np.asarray(ridge.coef_, dtype=np.float64).reshape(targets.shape[1], -1)
    return FittedBlock(
        part=part,
        mean=torch.from_numpy(mean),
        weight=torch.from_numpy(np.ascontiguousarray(coefficients.T / std[:, None])),
        bias=torch.from_numpy(np.asarray(ridge.intercept_, dtype=np.float64).reshape(-1)),
        typical=_mean_standardised(x, None),
        typical_centred=_mean_standardised(x, torch.from_numpy(mean)),
    )


def standardised(x: Tensor, *, less: Tensor | None = None) -> Tensor:
    """Vectors (N, D) minus ``less`` (D,), then less their mean over the dimensions, over their standard deviation.

    That of the population. NaN for a vector that varies by no more than the rounding of its largest number.
    """
    vectors = x if less is None else x - less
    away = vectors - vectors.mean(dim=1, keepdim=True)
    std = away.square().mean(dim=1, keepdim=True).sqrt()
    return away / torch.where(std > _ROUNDING * x.abs().amax(dim=1, keepdim=True), std, torch.nan)


def _mean_standardised(x: npt.NDArray[np.float64], less: Tensor | None) -> Tensor:
    """Mean (D,) over those of the vectors (n, D) that vary."""
    total, count = torch.zeros(x.shape[1], dtype=torch.float64), 0
    for start in range(0, len(x), _ROWS_AT_ONCE):
        found = standardised(torch.from_numpy(x[start : start + _ROWS_AT_ONCE]), less=less)
        varying = found[~found[:, 0].isnan()]
        total += varying.sum(dim=0)
        count += len(varying)
    return total / count if count else torch.full_like(total, torch.nan)
