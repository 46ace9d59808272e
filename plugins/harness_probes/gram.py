"""Ridge regression on a table that may be larger than memory: moments are summed over blocks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from harness_probes.ridge import BIAS, STD_FLOOR, LinearScores
from harness_probes.ridge_path import RidgePath, spectrum

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

_NUMBERS_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What ridge regression needs of n images: ``gram`` (D, D) = Z'Z and ``cross`` (D, C) = Z'Y, all float64.

    Z are their standardised features and Y their targets of +1 for the class and -1 for the others, as in
    :func:`harness_probes.ridge.fit_ridge`; ``target_sum`` (C,) sums Y over the images.
    """

    count: int
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    gram: npt.NDArray[np.float64]
    cross: npt.NDArray[np.float64]
    target_sum: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        features: npt.NDArray[np.floating],
        labels: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        *,
        num_classes: int,
    ) -> Moments:
        """The moments of ``rows`` of ``features`` (N, D) and ``labels`` (N,) in [0, num_classes).

        The table is read twice, for the mean and for the rest, a block of rows at a time.
        """
        width = features.shape[1]
        mean = np.zeros(width)
        for part in blocks(rows, width):
            mean += features[part].sum(axis=0, dtype=np.float64)
        mean /= len(rows)
        gram, class_sums = np.zeros((width, width)), np.zeros((num_classes, width))
        for part in blocks(rows, width):
            x = features[part].astype(np.float64)
            x -= mean
            gram += x.T @ x
            one_hot = np.zeros((len(part), num_classes))
            one_hot[np.arange(len(part)), labels[part]] = 1
            class_sums += one_hot.T @ x
        std = np.sqrt(gram.diagonal() / len(rows)) + STD_FLOOR
        gram /= std
        gram /= std[:, None]
        sizes = np.bincount(labels[rows], minlength=num_classes)
        # Y is twice the one-hot matrix minus one, and centred features sum to zero.
        return cls(
            count=len(rows),
            mean=mean,
            std=std,
            gram=gram,
            cross=2 * class_sums.T / std[:, None],
            target_sum=(2 * sizes - len(rows)).astype(np.float64),
        )

    def fit(self, ridge_lambda: float) -> LinearScores:
        """The classifier of one penalty, for features as they come."""
        gram = self.gram.copy()
        gram.flat[:: len(gram) + 1] += ridge_lambda
        factor = cho_factor(gram, lower=True, overwrite_a=True)
        weight = np.asarray(cho_solve(factor, self.cross)) / self.std[:, None]
        free = BIAS**2 * self.target_sum / (BIAS**2 * self.count + ridge_lambda)
        return LinearScores(weight=weight, bias=free - self.mean @ weight)

    def path(self) -> RidgePath:
        """The classifiers of every penalty."""
        values, vectors = spectrum(self.gram)
        return RidgePath(
            count=self.count,
            mean=self.mean,
            std=self.std,
            basis=vectors,
            values=values,
            projected=vectors.T @ self.cross,
            target_sum=self.target_sum,
        )


def blocks(rows: npt.NDArray[np.int64], width: int) -> Iterator[npt.NDArray[np.int64]]:
    """``rows`` in parts, so that float64 features of ``width`` numbers stay within 32 MiB."""
    size = max(1, _NUMBERS_AT_ONCE // width)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
