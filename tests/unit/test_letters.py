"""Compact letter display: two share a letter iff they are not separable, and no letter is there for nothing."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ParameterError
from harness.letters import letters


def matrix(count: int, pairs: list[tuple[int, int]]) -> list[list[bool]]:
    return [[(i, j) in pairs or (j, i) in pairs for j in range(count)] for i in range(count)]


@st.composite
def matrices(draw: st.DrawFn) -> list[list[bool]]:
    count = draw(st.integers(1, 7))
    pairs = list(combinations(range(count), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return matrix(count, chosen)


def says(given_letters: list[set[str]]) -> list[list[bool]]:
    """Who is separable, read off the letters alone."""
    return [[not (one & other) for other in given_letters] for one in given_letters]


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_two_share_a_letter_iff_they_are_not_separable(separable):
    found = letters(separable)
    assert says([set(text) for text in found]) == separable


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_no_letter_can_be_taken_away(separable):
    found = [set(text) for text in letters(separable)]
    for place, mine in enumerate(found):
        for letter in mine:
            less = [own - {letter} if other == place else own for other, own in enumerate(found)]
            assert says(less) != separable or not less[place]


@settings(max_examples=100, deadline=None)
@given(matrices())
def test_letters_come_in_order_of_rank_and_the_best_has_a(separable):
    found = letters(separable)
    assert "a" in found[0]
    firsts = [
        min(place for place, text in enumerate(found) if letter in text) for letter in sorted(set("".join(found)))
    ]
    assert firsts == sorted(firsts)
    assert set("".join(found)) == set("abcdefghijklmnopqrstuvwxyz"[: len(firsts)])


def test_eight_results_by_hand():
    """The middle ones are tied to both ends; the second is separable from more than the first."""
    pairs = [(0, 6), (0, 7), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (2, 6), (2, 7), (3, 6), (3, 7), (4, 6), (4, 7)]
    assert letters(matrix(8, pairs)) == ["ab", "a", "ab", "b", "b", "bc", "c", "c"]


@pytest.mark.parametrize(
    ("count", "pairs", "expected"),
    [
        (0, [], []),
        (1, [], ["a"]),
        (3, [], ["a", "a", "a"]),
        (3, [(0, 1), (0, 2), (1, 2)], ["a", "b", "c"]),
        (3, [(0, 2)], ["a", "ab", "b"]),
        (4, [(0, 3), (0, 2), (1, 3)], ["a", "ab", "bc", "c"]),
    ],
)
def test_small_cases_by_hand(count, pairs, expected):
    assert letters(matrix(count, pairs)) == expected


def test_a_column_whose_pairs_all_share_other_letters_is_swept_away():
    """A triangle whose sides each have a letter with a third one of their own needs none of its own."""
    joined = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (1, 4), (2, 4), (0, 5), (2, 5)]
    apart = [pair for pair in combinations(range(6), 2) if pair not in joined]
    assert len(set("".join(letters(matrix(6, apart))))) == 3


def test_more_results_than_letters():
    found = letters(matrix(60, list(combinations(range(60), 2))))
    assert len(set(found)) == 60
    assert found[25:27] == ["z", "A"]
    assert found[51:53] == ["Z", "[53]"]


def test_arrays_are_taken():
    assert letters(np.array([[False, True], [True, False]])) == ["a", "b"]


@pytest.mark.parametrize(
    "wrong", [[[False, True]], [[False, True], [False, False]], [[True]], [[False, False], [True, False]]]
)
def test_a_matrix_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ParameterError, match="letters"):
        letters(wrong)
