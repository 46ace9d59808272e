"""Which images of a split are the shots: k of every class, nested in k, drawn anew for each seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


_VALIDATION = 0x76616C
"""Keeps the draw of validation images apart from that of shots, which a seed alone keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """The shots of several seeds over one set of images.

    ``positions`` (R,) int64: all images that are needed, rising. ``rows`` (S, C, K) int64: for seed s and the c-th
    class that occurs, places in ``positions`` in the order drawn, so that ``rows[s, c, :k]`` are its k shots.
    ``validation`` (V,) int64, rising: places of further images, which are shots of no seed.
    """

    positions: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]


def draw_shots(
    labels: npt.NDArray[np.int64],
    *,
    shots: Sequence[int],
    seeds: Sequence[int],
    validation: int = 0,
    probe: str = "fewshot",
    parameter: str = "shots",
) -> Shots:
    """The first ``max(shots)`` images of a random permutation of every class of ``labels`` (N,), for every seed.

    One NumPy default generator per seed permutes the classes in rising order (google-research/big_vision,
    ``evaluators/fewshot_lsr.py``), so on images in the same order the draw is theirs. ``validation``: up to so many
    further images of every class, drawn at random from those that are shots of no seed; the shots do not depend on it.

    Classes without any image are passed over. Raises :class:`~harness.errors.DataError`, in the name of ``probe`` and
    its ``parameter``, for no labels, and for a class that has images, but too few.
    """
    if not len(labels):
        raise DataError(f"{probe}: the support split is empty", hint="check the dataset's support split")
    count = max(shots)
    classes, sizes = np.unique(labels, return_counts=True)
    _require(classes, sizes, shots, probe, parameter)
    members = [np.flatnonzero(labels == c) for c in classes]
    drawn = np.empty((len(seeds), len(members), count), np.int64)
    for per_class, seed in zip(drawn, seeds, strict=True):
        generator = np.random.default_rng(seed)
        for row, places in zip(per_class, members, strict=True):
            row[:] = generator.permutation(places)[:count]
    further = _further(labels, drawn, validation, seeds[0], probe) if validation else np.empty(0, np.int64)
    positions = np.union1d(drawn, further)
    return Shots(
        positions=positions,
        rows=np.searchsorted(positions, drawn),
        validation=np.searchsorted(positions, further),
    )


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


def _further(
    labels: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64], count: int, seed: int, probe: str
) -> npt.NDArray[np.int64]:
    """Positions of up to ``count`` images of every class that are not among ``drawn``, rising."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _VALIDATION])))
    free = np.ones(len(labels), np.bool_)
    free[drawn] = False
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        left = members[free[members]]
        if not len(left):
            raise DataError(
                f"{probe}: ridge_lambda=auto needs support images of every class that are shots of no seed; the "
                f"{len(members)} of class {label} are all shots",
                hint="give fewer shots or seeds, or a penalty such as ridge_lambda=1024",
            )
        chosen.append(generator.permutation(left)[:count])
    return np.sort(np.concatenate(chosen))


def _require(
    classes: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], shots: Sequence[int], probe: str, parameter: str
) -> None:
    few = int(np.argmin(sizes))
    have = int(sizes[few])
    if have >= max(shots):
        return
    possible = [k for k in shots if k <= have] or ([have] if parameter == "per_class" else [])
    raise DataError(
        f"{probe}: {parameter}={max(shots)} needs that many support images of every class; class {classes[few]} has "
        f"{have}",
        hint=f"{probe}:{parameter}={'+'.join(map(str, possible))}"
        if possible
        else "give every class enough images in the support split",
    )
