"""Which images are learned from and which are asked about: the names of splits, and a keyed division."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness import rng

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

SUPPORT = "train"
QUERIES = ("val", "valid", "validation", "test")
"""Names of splits that are asked about, the preferred first."""
NAMES = (SUPPORT, *QUERIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which split probes learn from, None if none, and which they are asked about."""

    support: str | None
    query: str


def roles(names: Collection[str]) -> Roles:
    """The roles of several splits: ``train`` is learned from, ``val`` (or ``valid``, ``validation``) asked about.

    ``test`` is asked about where there is no ``val``. ``names`` are two or more of :data:`NAMES`.

    >>> roles({"train", "test"})
    Roles(support='train', query='test')
    """
    return Roles(support=SUPPORT if SUPPORT in names else None, query=next(name for name in QUERIES if name in names))


def support_rows(
    ids: Sequence[str], labels: npt.NDArray[np.int64], fraction: float, *, stream: str
) -> npt.NDArray[np.bool_]:
    """Which images are support: (N,) bool, about ``fraction`` of each class, the rest being query.

    In each class the images stand in the order of a hash of their own ids (keyed by ``stream``), and the first
    ``fraction`` of them, rounded up, are support; but at least one stays query. So the order of ``ids`` does not
    matter, and an image added or removed moves at most one other of its class across the border.
    """
    draws = rng.bits(0, stream, ids, 1)[:, 0]
    order = np.lexsort((draws, labels))
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        # The small slack keeps 0.7 * 10 = 7.000000000000001 from rounding up to 8.
        count = min(math.ceil(fraction * size - 1e-9), size - 1)
        chosen[order[start : start + count]] = True
    return chosen
