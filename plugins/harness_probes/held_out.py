"""What a linear classifier is fitted on, and the part of it that is held out to choose hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness import rng
from harness.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import torch

    from harness.types import JSONScalar, Measurement
    from harness_probes.ridge import LinearScores


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProblem:
    """One seed's images: the ``rows`` (n,) int64, rising, of a table that may be memory-mapped.

    ``features`` (N, D) float32 and ``labels`` (N,) int64 in [0, ``num_classes``) are the whole table. ``device``: where
    mini-batches are worked on.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    num_classes: int
    seed: int
    device: torch.device | str = "cpu"

    def split(self, share: float, *, otherwise: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows to train on, and rows held out. Raises :class:`~harness.errors.DataError` where none can be.

        ``otherwise`` is how to do without held-out rows.
        """
        out = is_held_out(self.labels[self.rows], share, self.seed)
        if not out.any():
            raise DataError(
                "linear: no support image can be held out to choose on, since every class has one",
                hint=f"{otherwise}, or give classes more images in the support split",
            )
        return self.rows[~out], self.rows[out]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSolution:
    """What one seed gives: classifiers with their dims, which of them speaks for all, and numbers of the fit."""

    classifiers: tuple[tuple[Mapping[str, JSONScalar], LinearScores], ...]
    scored: int = 0
    extra: tuple[Measurement, ...] = ()


def is_held_out(labels: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which of ``labels`` (n,) are held out: (n,) bool, the same share of every class.

    Of a class with m images round(share x m) are, but at least one is and at least one is not; a class with one image
    keeps it. The draw depends on the seed and on which rows share a class, not on what the classes are called.

    >>> is_held_out(np.array([0, 0, 0, 0, 1, 1, 2]), 0.5, seed=0).sum()
    np.int64(3)
    """
    rank = rng.ranks(seed, "linear.held_out", ["rows"], len(labels))[0]
    out = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        out[members[np.argsort(rank[members])[:count]]] = True
    return out
