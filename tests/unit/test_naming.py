"""Names and did-you-mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.naming import did_you_mean, is_valid_name, suggest

KNOWN = ["vit_b16", "vit_b32", "vit_s16", "resnet50", "patchdrop_random", "head"]


@pytest.mark.parametrize("name", ["vit_b16", "a", "7x7", "a.b-c_d"])
def test_names_that_may_be_used(name: str) -> None:
    assert is_valid_name(name)


@pytest.mark.parametrize(
    "name", ["", "ViT", "a b", "_a", "-a", ".a", "a@b", "a:b", "a+b", "a,b", "a=b", "a/b", "é", "a\n", "a*"]
)
def test_names_that_would_clash_with_the_grammar(name: str) -> None:
    assert not is_valid_name(name)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("vit_b61", "vit_b16"), ("VIT_B16", "vit_b16"), ("resnet5O", "resnet50"), ("random", "patchdrop_random")],
)
def test_the_nearest_name_comes_first(typed: str, meant: str) -> None:
    assert suggest(typed, KNOWN)[0] == meant
    assert did_you_mean(typed, KNOWN).startswith(f"did you mean {meant}")


def test_nothing_near_gives_nothing() -> None:
    assert suggest("zzzz", KNOWN) == []
    assert suggest("", KNOWN) == []
    assert did_you_mean("zzzz", KNOWN) is None
    assert did_you_mean("vit", []) is None


@given(name=st.text(max_size=8), known=st.lists(st.sampled_from(KNOWN)), limit=st.integers(1, 4))
def test_suggestions_are_known_names_each_once_in_any_order_of_asking(name: str, known: list[str], limit: int) -> None:
    found = suggest(name, known, limit=limit)
    assert set(found) <= set(known)
    assert len(found) == len(set(found)) <= limit
    assert found == suggest(name, reversed(known), limit=limit)
