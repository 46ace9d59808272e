"""Which head's mask counts: the rules by which what heads score on an image, or on all of them, becomes one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Values = npt.NDArray[np.float64]

ORACLE, MEAN_OF_HEADS, FIXED, AVERAGED = "oracle", "mean", "fixed", "head_averaged"
RULES = (ORACLE, MEAN_OF_HEADS, FIXED, AVERAGED)
"""In the order of tables and pictures."""
PER_IMAGE = (ORACLE, MEAN_OF_HEADS, AVERAGED)
"""Those that need one image alone, in the order of :func:`by_rule`."""


def by_rule(jaccard: Values) -> Values:
    """Values (..., 3 + heads) of :data:`PER_IMAGE`, and of every head, from what sets score (..., sets, R).

    The last of the sets is that of the averaged attention, those before it are the heads'; R are the classes that are
    in the image. The oracle picks a head for each of them; all else is averaged over them.

    >>> by_rule(np.array([[0.5, 0.1], [0.3, 0.2], [0.4, 0.0]])).round(3).tolist()
    [0.35, 0.275, 0.2, 0.3, 0.25]
    """
    of_sets = jaccard.mean(axis=-1, keepdims=True)
    heads, averaged = of_sets[..., :-1, 0], of_sets[..., -1:, 0]
    oracle = jaccard[..., :-1, :].max(axis=-2).mean(axis=-1, keepdims=True)
    return np.concatenate([oracle, heads.mean(axis=-1, keepdims=True), averaged, heads], axis=-1)


def later_half(keys: Values) -> npt.NDArray[np.bool_]:
    """Which of N images belong to the second half: (N,) bool, those with the higher ``keys`` (N,); the lesser half."""
    places = np.argsort(np.argsort(keys, kind="stable"))
    return np.asarray(2 * places >= len(keys) + len(keys) % 2)


def cross_fitted(scores: Values, later: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The head of the first half of the images and that of the second: each the best on the *other* half.

    ``scores`` (heads, N); of heads that are equally good the first. Both halves hold images.
    """
    return int(scores[:, later].mean(axis=1).argmax()), int(scores[:, ~later].mean(axis=1).argmax())


def of_fixed(values: Values, heads: tuple[int, int], later: npt.NDArray[np.bool_]) -> Values:
    """Of values (heads, N) those of the head of each image's half: (N,)."""
    return np.asarray(np.where(later, values[heads[1]], values[heads[0]]))
