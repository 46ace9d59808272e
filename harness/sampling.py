"""Which images of a split are used: a stratified limit, the same for every model, order and machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.protocols import SplitIndex

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_STREAM = "limit"


def limit_count(limit: str | int | float | None, total: int) -> int | None:
    """How many images a limit means: a whole number is a count, a fraction below 1 a share of ``total``.

    None where the limit leaves nothing out. Raises :class:`UsageError` for anything else.

    >>> limit_count("0.1", 1797), limit_count(100, 1797), limit_count(5000, 1797)
    (180, 100, None)
    """
    if limit is None:
        return None
    try:
        number = float(limit)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf or (number >= 1 and not number.is_integer()):
        raise UsageError(f"limit must be a number of images or a fraction below 1, not {limit!r}")
    count = int(number) if number >= 1 else max(1, round(number * total))
    return None if count >= total else count


def stratified(index: SplitIndex, limit: int | None) -> npt.NDArray[np.int64]:
    """Positions (n,) int64, ascending, of at most ``limit`` images, spread evenly over the classes.

    Within a class the images come in the order of a keyed hash of their ids, so a larger limit holds a smaller one,
    and a class-sorted folder is never read as a prefix.
    """
    import numpy as np

    from harness import rng

    positions = np.arange(len(index), dtype=np.int64)
    if limit is None or limit >= len(index):
        return positions
    draws = rng.bits(0, _STREAM, index.ids, 1)[:, 0]
    by_class = np.lexsort((draws, index.labels))
    labels = index.labels[by_class]
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    rank_in_class = np.arange(len(labels)) - np.repeat(starts, np.diff(np.r_[starts, len(labels)]))
    chosen = by_class[np.lexsort((draws[by_class], rank_in_class))][:limit]
    return np.sort(chosen).astype(np.int64)
