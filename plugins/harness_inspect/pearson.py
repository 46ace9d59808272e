"""Pearson correlation of feature vectors, of the same image and of others, as products of standardised vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Vectors = npt.NDArray[np.float64]

_CONSTANT = 1e-6
"""Deviation of a vector's numbers, relative to the largest, below which rounding is all that tells them apart."""


def standardised(vectors: Vectors) -> Vectors:
    """Each row of (N, D) less its mean, at length 1; rows of one and the same number become NaN.

    The product of two such rows is their Pearson correlation (population deviation).
    """
    moved = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    constant = lengths <= _CONSTANT * largest * np.sqrt(vectors.shape[1])
    found: Vectors = np.where(constant, np.nan, moved / np.where(constant, 1.0, lengths))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """Standardised vectors of K clean images, by their ``total`` (D,): those that an image is falsely paired with.

    ``ids``: theirs; an image among them is never paired with itself. Images whose vector is constant take no part.
    """

    total: Vectors
    ids: frozenset[str]

    @classmethod
    def of(cls, vectors: Vectors, ids: Sequence[str]) -> Others:
        """Those with the clean ``vectors`` (K, D)."""
        units = standardised(vectors)
        usable = ~np.isnan(units[:, 0])
        return cls(
            total=units[usable].sum(axis=0),
            ids=frozenset(name for name, used in zip(ids, usable.tolist(), strict=True) if used),
        )

    def correlations(self, perturbed: Vectors, clean: Vectors, ids: Sequence[str]) -> Vectors:
        """Mean correlation (N,) of each perturbed vector with the clean ones of all other images.

        ``perturbed`` and ``clean`` (N, D) are the images' own vectors, standardised. NaN where there is no other image.
        """
        own = np.array([name in self.ids for name in ids])
        total = self.total - np.where(own[:, None], np.nan_to_num(clean), 0.0)
        count = len(self.ids) - own
        found: Vectors = (perturbed * total).sum(axis=1) / np.where(count > 0, count, np.nan)
        return found
