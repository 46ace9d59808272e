"""Typed parameters: what is read from text and from YAML, what is refused, and what enters a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ParameterError
from harness.params import NoParams, canonical, coerce, describe, identity, param


@dataclass(frozen=True, slots=True, kw_only=True)
class P:
    count: int = param(5, help="how many", unit="images", low=1, high=1000)
    rate: float = param(0.5, help="share", low=0.0, high=1.0)
    deep: bool = param(False, help="all blocks")
    mode: Literal["mean", "max", 3] = param("mean", help="how")
    name: str = param("x", help="a word")
    shots: tuple[int, ...] = param((1, 5), help="shots", low=1)
    grid: tuple[int, int] = param((14, 14), help="cells", low=1)
    eps: float | None = param(None, help="bound", low=0)
    pair: tuple[float, str] = param((1.0, "a"), help="two kinds")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("count", "7", 7), ("count", 7.0, 7), ("count", "1e2", 100), ("rate", "1", 1.0), ("rate", 1, 1.0),
        ("deep", "TRUE", True), ("deep", False, False), ("mode", "max", "max"), ("mode", "3", 3), ("mode", 3, 3),
        ("name", "7", "7"), ("name", "", ""), ("shots", "1+5+10", (1, 5, 10)), ("shots", "[1, 5]", (1, 5)),
        ("shots", [2], (2,)), ("shots", 3, (3,)), ("shots", "4", (4,)), ("shots", "", ()), ("grid", "7x8", (7, 8)),
        ("grid", "7", (7, 7)), ("grid", [7, 8], (7, 8)), ("grid", 4, (4, 4)), ("grid", "7+8", (7, 8)),
        ("eps", "none", None), ("eps", None, None), ("eps", "0.25", 0.25), ("eps", "NULL", None),
        ("pair", [2, "b"], (2.0, "b")),
    ],
)  # fmt: skip
def test_values_from_text_and_yaml_become_their_type(name: str, given: object, expected: object) -> None:
    value = getattr(coerce(P, {name: given}, "here"), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"cuont": 1}, "here: unknown parameter 'cuont'\n  hint: did you mean count?"),
        ({"zzz": 1}, "hint: parameters are: count, rate"),
        ({"count": "many"}, "here: count must be an integer, not 'many'"),
        ({"count": 1.5}, "here: count must be an integer, not 1.5"),
        ({"count": True}, "here: count must be an integer, not True"),
        ({"count": None}, "here: count must be an integer, not None"),
        ({"count": [1]}, "here: count must be an integer"),
        ({"count": 0}, "here: count must lie in [1, 1000], not 0"),
        ({"count": 1001}, "here: count must lie in [1, 1000], not 1001"),
        ({"rate": "nan"}, "here: rate must be a number"),
        ({"rate": "inf"}, "here: rate must be a number"),
        ({"rate": -0.1}, "here: rate must lie in [0.0, 1.0]"),
        ({"deep": "yes"}, "here: deep must be"),
        ({"deep": 1}, "here: deep must be"),
        ({"mode": "median"}, "here: mode cannot be 'median'"),
        ({"name": 3}, "here: name must be text, not 3"),
        ({"shots": "1+x"}, "here: shots must be an integer, not 'x'"),
        ({"shots": "1+0"}, "here: shots must lie in [1, inf], not 0"),
        ({"grid": "7x7x7"}, "here: grid needs 2 values such as 14x14"),
        ({"grid": "0x7"}, "here: grid must lie in [1, inf], not 0"),
        ({"eps": -1}, "here: eps must lie in [0, inf], not -1"),
        ({"eps": "much"}, "here: eps must be a number, not 'much'"),
    ],
)
def test_wrong_names_types_and_ranges_are_refused(given: dict[str, object], problem: str) -> None:
    with pytest.raises(ParameterError) as caught:
        coerce(P, given, "here")
    assert problem in str(caught.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Required:
    arch: str = param(help="name and tag")
    root: str = param(".", help="folder", locates=True)
    added: int = param(3, help="a parameter whose default has moved", introduced=1)


def test_a_parameter_without_default_is_required() -> None:
    with pytest.raises(ParameterError, match="here: parameter 'arch' is required") as caught:
        coerce(Required, {}, "here")
    assert caught.value.hint == "arch: name and tag"


def test_identity_leaves_out_introduction_defaults_and_places() -> None:
    assert identity(Required(arch="a")) == {"arch": "a", "added": 3}
    assert identity(Required(arch="a", added=1, root="/data")) == {"arch": "a"}
    assert identity(P()) == {}
    assert identity(P(grid=(7, 7), count=6)) == {"grid": [7, 7], "count": 6}
    assert canonical(Required(arch="a")) == {"arch": "a", "root": ".", "added": 3}
    assert canonical(NoParams()) == {}


@given(
    count=st.integers(1, 1000),
    rate=st.floats(0, 1),
    shots=st.lists(st.integers(1, 99), max_size=4).map(tuple),
    grid=st.tuples(st.integers(1, 99), st.integers(1, 99)),
    eps=st.none() | st.floats(0, 100),
)
def test_canonical_values_and_their_texts_read_back(count, rate, shots, grid, eps) -> None:
    params = P(count=count, rate=rate, shots=shots, grid=grid, eps=eps)
    assert coerce(P, canonical(params), "here") == params
    texts = {"count": str(count), "rate": repr(rate), "grid": f"{grid[0]}x{grid[1]}", "eps": str(eps)}
    texts["shots"] = "+".join(map(str, shots))
    assert coerce(P, texts, "here") == params


def test_descriptions_are_for_people() -> None:
    rows = {row.name: row for row in describe(P)}
    assert [rows[name].type for name in ("count", "shots", "eps", "deep", "mode")] == [
        "integer", "list of integer", "number | none", "true | false", "mean | max | 3",
    ]  # fmt: skip
    assert (rows["count"].range, rows["shots"].range, rows["name"].range) == ("1 <= count <= 1000", "1 <= shots", "")
    assert (rows["count"].unit, rows["shots"].default) == ("images", [1, 5])
    assert [(row.name, row.required) for row in describe(Required)] == [
        ("arch", True),
        ("root", False),
        ("added", False),
    ]


def test_a_field_that_is_not_declared_is_a_programming_error() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bare:
        count: int = 1

    with pytest.raises(TypeError, match=r"must be declared with harness\.params\.param"):
        describe(Bare)
