"""The smallest sets of cells that hold a share of a map: what a map of attention becomes when it must be a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_SLACK = 1e-10
"""Of a map's sum: what rounding makes of cells that hold the share exactly neither adds one nor loses one."""


def smallest_sets(maps: npt.NDArray[np.float64], mass: float, ties: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """The smallest set of cells of each map that holds at least ``mass`` of its sum: (..., cells) bool.

    ``maps`` (..., cells) are finite, from 0 up, and of a sum above 0; they need not sum to one. The cells go from the
    least on, and one is in if the sum up to it, itself included, exceeds ``1 - mass`` of the whole: the set of the
    authors' code (Naseer et al., arXiv 2105.10497; Caron et al., arXiv 2104.14294), with the cell in which the share
    is reached. 0 is no cell and 1 every cell, those without mass as well; the set of a larger mass holds that of a
    smaller one. Among cells of equal mass those of the higher ``ties``, which broadcast to the maps, come first.

    >>> smallest_sets(np.array([0.5, 0.2, 0.3]), 0.6, np.arange(3, dtype=np.uint64)).tolist()
    [True, False, True]
    """
    if mass <= 0 or mass >= 1:
        return np.full(maps.shape, mass >= 1)
    order = np.lexsort((np.broadcast_to(ties, maps.shape), maps), axis=-1)
    rising = np.cumsum(np.take_along_axis(maps, order, axis=-1), axis=-1)
    inside = rising > (1 - mass + _SLACK) * rising[..., -1:]
    inside[..., -1] = True
    sets = np.empty(maps.shape, dtype=np.bool_)
    np.put_along_axis(sets, order, inside, axis=-1)
    return sets
