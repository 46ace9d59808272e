"""Which images of a split are the shots: k of every class, nested in k, drawn anew for each seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """The shots of several seeds over one set of images.

    ``positions`` (R,) int64: the union over seeds, rising. ``rows`` (S, C, K) int64: for seed s and the c-th class,
    that occurs,
    places in ``positions`` in the order drawn, so that ``rows[s, c, :k]`` are its k shots.
    """

    positions: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def draw_shots(labels: npt.NDArray[np.int64], *, shots: Sequence[int], seeds: Sequence[int]) -> Shots:
    """The first ``max(shots)`` images of a random permutation of every class of ``labels`` (N,), for every seed.

    One NumPy default generator per seed permutes the classes in rising order (google-research/big_vision,
    ``evaluators/fewshot_lsr.py``), so on images in the same order the draw is theirs.

    Classes without any image are passed over. Raises :class:`~harness.errors.DataError` for no labels, and for a
    class that has images, but too few.
    """
    if not len(labels):
        raise DataError("few-shot: the support split is empty", hint="check the dataset's support split")
    count = max(shots)
    classes, sizes = np.unique(labels, return_counts=True)
    _require(classes, sizes, shots)
    members = [np.flatnonzero(labels == c) for c in classes]
    drawn = np.empty((len(seeds), len(members), count), np.int64)
    for per_class, seed in zip(drawn, seeds, strict=True):
        generator = np.random.default_rng(seed)
        for row, places in zip(per_class, members, strict=True):
            row[:] = generator.permutation(places)[:count]
    positions = np.unique(drawn)
    return Shots(positions=positions, rows=np.searchsorted(positions, drawn))


def grouping(labels: npt.NDArray[np.int64]) -> bytes:
    """Which rows share a class, whatever the classes are called: equal for ``labels`` that differ by renaming only.

    >>> grouping(np.array([4, 4, 2])) == grouping(np.array([0, 0, 7]))
    True
    >>> grouping(np.array([4, 4, 2])) == grouping(np.array([4, 2, 2]))
    False
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order_of_appearance = np.argsort(np.argsort(first))
    return bytes(order_of_appearance[inverse].astype("<i8").tobytes())


def _require(classes: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], shots: Sequence[int]) -> None:
    few = int(np.argmin(sizes))
    have = int(sizes[few])
    if have >= max(shots):
        return
    possible = [k for k in shots if k <= have]
    raise DataError(
        f"few-shot: {max(shots)} shots need that many support images of every class; class {classes[few]} has {have}",
        hint=f"fewshot:shots={'+'.join(map(str, possible))}"
        if possible
        else "give every class enough images in the support split",
    )
