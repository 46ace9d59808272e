"""Compact letter display: letters for results in order of rank, shared by two exactly where they are not separable."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from harness.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LETTERS = string.ascii_lowercase + string.ascii_uppercase


def letters(separable: Sequence[Sequence[bool]]) -> list[str]:
    """The letters of K results, best first: two share a letter if and only if they are not separable.

    ``separable``: (K, K), symmetric, whether the difference between two results is established; the order of the
    results is their rank, and the best gets ``a``. "Not separable" is no equivalence, so that a result may have
    several letters: ``a``, ``ab``, ``b`` says that the first and the last differ and the middle one may be equal to
    either. No letter can be taken away. After ``z`` come ``A`` to ``Z``, then ``[53]``.

    Insert and absorb (Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons", Journal of
    Computational and Graphical Statistics 2004), with its sweep that takes away letters whose pairs all share others.

    Raises :class:`~harness.errors.ParameterError` for a matrix that is not square or not symmetric, and for a result
    that is separable from itself.

    >>> letters([[False, False, True], [False, False, False], [True, False, False]])
    ['a', 'ab', 'b']
    """
    count = len(separable)
    if any(len(row) != count for row in separable):
        raise ParameterError(f"letters: a matrix of {count} results must be ({count}, {count})")
    pairs = [(i, j) for i in range(count) for j in range(i + 1) if separable[i][j] or separable[j][i]]
    if any(i == j or bool(separable[i][j]) != bool(separable[j][i]) for i, j in pairs):
        raise ParameterError("letters: who is separable from whom must be symmetric, and nobody is from itself")
    columns = [frozenset(range(count))] if count else []
    for i, j in pairs:
        split: dict[frozenset[int], None] = {}
        for column in columns:
            parts = (column - {i}, column - {j}) if {i, j} <= column else (column,)
            split.update(dict.fromkeys(parts))
        columns = _absorb(list(split))
    swept = _sweep(sorted(columns, key=sorted))
    marks = [_LETTERS[place] if place < len(_LETTERS) else f"[{place + 1}]" for place in range(len(swept))]
    return ["".join(mark for mark, column in zip(marks, swept, strict=True) if i in column) for i in range(count)]


def _absorb(columns: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """The columns that lie in no other."""
    return [column for column in columns if not any(column < other for other in columns)]


def _sweep(columns: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """The columns without members whose every pair another column holds, worst first.

    One pass is enough: what a member was needed for when it was looked at, it is needed for ever after.
    """
    left = [set(column) for column in columns]
    for place in reversed(range(len(left))):
        others = [column for other, column in enumerate(left) if other != place]
        for member in sorted(left[place], reverse=True):
            partners = left[place] - {member}
            elsewhere = [column for column in others if member in column]
            if elsewhere and all(any(partner in column for column in elsewhere) for partner in partners):
                left[place].discard(member)
    return sorted((frozenset(column) for column in left if column), key=sorted)
