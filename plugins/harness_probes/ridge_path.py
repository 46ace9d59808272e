"""Ridge regressions for many penalties from one eigendecomposition, and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from harness_probes.ridge import BIAS, STD_FLOOR, LinearScores

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

PENALTIES = tuple(2.0**exponent for exponent in range(-10, 21))
"""The candidates: powers of two from 2^-10 to 2^20, the published 2^10 among them."""
_DECIMALS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgePath:
    """The classifiers of :func:`harness_probes.ridge.fit_ridge` on one set of n images, for every penalty.

    For standardised features Z = U S V' the weights are ``basis (values + lambda)^-1 projected``: ``basis`` (D, r),
    ``values`` (r,) the squared singular values, ``projected`` (r, C). Standardised features sum to zero, so the
    constant feature is orthogonal to them, and its weight follows from ``target_sum`` (C,) and n alone.
    """

    count: int
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    basis: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    projected: npt.NDArray[np.float64]
    target_sum: npt.NDArray[np.float64]

    def at(self, ridge_lambda: float) -> LinearScores:
        """The classifier of one penalty, for features as they come."""
        weight = self.basis @ self._coordinates(ridge_lambda) / self.std[:, None]
        return LinearScores(weight=weight, bias=self._bias(ridge_lambda) - self.mean @ weight)

    def hits(
        self, features: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], penalties: Sequence[float]
    ) -> npt.NDArray[np.int64]:
        """How many of ``features`` (M, D) with ``labels`` (M,) each penalty classifies rightly: (P,)."""
        z = (features.astype(np.float64) - self.mean) / self.std @ self.basis
        found = np.empty(len(penalties), np.int64)
        for place, ridge_lambda in enumerate(penalties):
            scores = z @ self._coordinates(ridge_lambda) + self._bias(ridge_lambda)
            # Classes whose scores differ by rounding alone are tied, as for images that are asked about later.
            found[place] = np.count_nonzero(scores.round(_DECIMALS).argmax(axis=1) == labels)
        return found

    def _coordinates(self, ridge_lambda: float) -> npt.NDArray[np.float64]:
        return self.projected / (self.values + ridge_lambda)[:, None]

    def _bias(self, ridge_lambda: float) -> npt.NDArray[np.float64]:
        return BIAS**2 * self.target_sum / (BIAS**2 * self.count + ridge_lambda)


def ridge_path(features: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], *, num_classes: int) -> RidgePath:
    """The path of ``features`` (n, D) and ``labels`` (n,) in [0, num_classes), in float64.

    Decomposes Z'Z (D, D) where n >= D, and ZZ' (n, n), the dual form, where n < D.
    """
    z = features.astype(np.float64)
    mean, std = z.mean(axis=0), z.std(axis=0) + STD_FLOOR
    z -= mean
    z /= std
    targets = np.full((len(z), num_classes), -1.0)
    targets[np.arange(len(z)), labels] = 1.0
    dual = z.shape[0] < z.shape[1]
    values, vectors = spectrum(z @ z.T if dual else z.T @ z)
    return RidgePath(
        count=len(z),
        mean=mean,
        std=std,
        basis=z.T @ vectors if dual else vectors,
        values=values,
        projected=vectors.T @ targets if dual else vectors.T @ (z.T @ targets),
        target_sum=targets.sum(axis=0),
    )


def spectrum(gram: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Eigenvalues (r,), rising, and eigenvectors (m, r) of a Gram matrix (m, m), less those that are
    zero but for rounding, of which the images say nothing: a small penalty would magnify the rounding.
    """
    values, vectors = eigh(gram)
    kept = values > len(gram) * np.finfo(np.float64).eps * values[-1]
    return values[kept], vectors[:, kept]


def best_penalty(hits: npt.NDArray[np.int64], penalties: Sequence[float]) -> float:
    """The penalty with the most right answers, ``hits`` (P,); of equals the largest, which is the simplest.

    >>> best_penalty(np.array([3, 5, 5, 4]), (0.5, 1.0, 2.0, 4.0))
    2.0
    """
    return max(zip(hits.tolist(), penalties, strict=True))[1]
