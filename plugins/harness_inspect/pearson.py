"""Pearson correlation of feature vectors, of the same image and of others, as products of standardised vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Vectors = npt.NDArray[np.float64]

CORRELATIONS = ("correlation", "correlation_centred", "correlation_floor", "correlation_centred_floor")
"""Of an image: with its own clean features; after the mean clean features are taken away; and with others' clean ones,
both ways."""

_ROUNDING = 1e-6
"""Of a vector's largest number: numbers no further apart differ by the rounding of float32, and of means in it."""


def standardised(vectors: Vectors) -> Vectors:
    """Each row of (N, D) less its mean, at length 1; rows of one and the same number become NaN.

    The product of two such rows is their Pearson correlation (population deviation).
    """
    moved = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    constant = (np.ptp(vectors, axis=1) == 0)[:, None] | (lengths == 0)
    found: Vectors = np.where(constant, np.nan, moved / np.where(constant, 1.0, lengths))
    return found


def less(x: Vectors, mean: Vectors | float) -> Vectors:
    """Vectors (N, D) less ``mean`` (D,); zero where what is left of one varies by no more than rounding."""
    moved: Vectors = x - mean
    moved[np.ptp(moved, axis=1) <= _ROUNDING * np.abs(x).max(axis=1)] = 0
    return moved


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Clean images that others are held against: the ``mean`` (D,) of their vectors, and these with and without it."""

    mean: Vectors
    others: Others
    others_centred: Others

    @classmethod
    def of(cls, vectors: Vectors, ids: Sequence[str]) -> Reference:
        """That of the clean ``vectors`` (K, D) of the images ``ids``."""
        mean = vectors.mean(axis=0)
        return cls(
            mean=mean, others=Others.of(less(vectors, 0.0), ids), others_centred=Others.of(less(vectors, mean), ids)
        )

    def correlations(self, perturbed: Vectors, clean: Vectors, ids: Sequence[str]) -> dict[str, Vectors]:
        """Columns (N,) of :data:`CORRELATIONS` for features (N, D) of N images; NaN for vectors that do not vary."""
        u, v = (standardised(less(x, 0.0)) for x in (clean, perturbed))
        u_centred, v_centred = (standardised(less(x, self.mean)) for x in (clean, perturbed))
        found = {
            "correlation": (u * v).sum(axis=1),
            "correlation_centred": (u_centred * v_centred).sum(axis=1),
            "correlation_floor": self.others.correlations(v, u, ids),
            "correlation_centred_floor": self.others_centred.correlations(v_centred, u_centred, ids),
        }
        # What is constant has no correlation, whatever is left of it once a mean is taken away.
        undefined = np.isnan(found["correlation"])
        return {name: np.where(undefined, np.nan, np.clip(values, -1, 1)) for name, values in found.items()}
