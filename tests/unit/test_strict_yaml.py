"""YAML read strictly: lines, key paths, duplicates, anchors, tags, and the traps of YAML 1.1."""

from __future__ import annotations

import pytest

from harness.errors import RegistryError
from harness.strict_yaml import MAX_DEPTH, read_yaml


def value_of(text: str) -> object:
    return read_yaml(f"a: {text}\n", "f.yaml").mapping()["a"].value()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7), ("-7", -7), ("0", 0), ("0.5", 0.5), (".5", 0.5), ("1.5e+3", 1500.0), ("true", True), ("on", True),
        ("no", False), ("null", None), ("~", None), ("1e3", "1e3"), ("14x14", "14x14"), ("'no'", "no"),
        ("[1, 0.5, x]", [1, 0.5, "x"]), ("[]", []),
    ],
)  # fmt: skip
def test_values_have_the_type_that_yaml_gives(text: str, expected: object) -> None:
    value = value_of(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("text", ["010", "0x10", "0b1", "1_000", "1:30", ".inf", ".nan", "-.inf", "1:30.5", ""])
def test_numbers_that_are_not_what_they_look_like_are_refused(text: str) -> None:
    with pytest.raises(RegistryError, match=r"^f\.yaml:1: a: ") as caught:
        value_of(text)
    assert "quote it" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("", "f.yaml: ", "empty"),
        ("# nothing\n", "f.yaml: ", "empty"),
        ("a: [1\nb: 2", "f.yaml:2: ", "not valid YAML"),
        ("a: 1\n b: 2", "f.yaml:2: ", "not valid YAML"),
        ("a:\n\t- 1", "f.yaml:2: ", "not valid YAML"),
        ("a: *b", "f.yaml:1: ", "undefined alias"),
        ("a: 1\n---\nb: 2", "f.yaml:2: ", "single document"),
        ("a: \x01", "f.yaml: ", "not valid YAML"),
        ("a: &x 1\nb: *x", "f.yaml:1: ", "anchors"),
        ("&a [*a]", "f.yaml:1: ", "anchors"),
        ("a:\n  <<: {b: 1}", "f.yaml:2: a: ", "merge keys"),
        ("a:\n  b: !!python/object/apply:os.system [ls]", "f.yaml:2: a.b: ", "python/object/apply:os.system"),
        ("a: !mine x", "f.yaml:1: a: ", "!mine"),
        ("a: 2020-01-01", "f.yaml:1: a: ", "timestamp"),
        ("a: !!binary aGk=", "f.yaml:1: a: ", "binary"),
        ("a: !!set {b}", "f.yaml:1: a: ", "set"),
    ],
)
def test_documents_that_are_refused_say_where(text: str, place: str, problem: str) -> None:
    with pytest.raises(RegistryError) as caught:
        read_yaml(text, "f.yaml")
    assert caught.value.message.startswith(place)
    assert problem in caught.value.message
    assert "\n" not in caught.value.message


def test_an_anchor_that_repeats_itself_a_billion_times_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(RegistryError, match="anchors"):
        read_yaml("\n".join(lines), "f.yaml")


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 200_000 + "x", "a: " + "{b: " * 5_000 + "1" + "}" * 5_000])
def test_nesting_that_would_exhaust_the_stack_is_refused(text: str) -> None:
    with pytest.raises(RegistryError, match=f"deeper than {MAX_DEPTH}"):
        read_yaml(text, "f.yaml")


def test_wide_files_are_not_taken_for_deep_ones() -> None:
    text = "".join(f"m{n}: {{a: [1, 2]}}\n" for n in range(2 * MAX_DEPTH))
    assert len(read_yaml(text, "f.yaml").mapping()) == 2 * MAX_DEPTH


@pytest.mark.parametrize("text", ["a:\n  b: 1\n  c: 2\n  b: 3\n", "a: {b: 1, c: 2,\n\n b: 3}"])
def test_a_key_given_twice_is_refused_at_any_depth(text: str) -> None:
    with pytest.raises(RegistryError, match=r"'b' is given twice, first in line [12]"):
        read_yaml(text, "f.yaml").mapping()["a"].mapping()


@pytest.mark.parametrize(("key", "kind"), [("no", "a truth value"), ("224", "a number"), ("~", "nothing")])
def test_a_key_that_yaml_does_not_read_as_text_must_be_quoted(key: str, kind: str) -> None:
    with pytest.raises(
        RegistryError, match=f"f.yaml:1: expected a key, found {key}, which YAML reads as {kind}"
    ) as caught:
        read_yaml(f"{key}: 1", "f.yaml").mapping()
    assert f'quote it: "{key}"' in str(caught.value)
    assert list(read_yaml(f"'{key}': 1", "f.yaml").mapping()) == [key]


def test_items_know_their_line_and_path() -> None:
    root = read_yaml("a:\n  b:\n    - 1\n    - x: 2\n", "f.yaml").mapping()
    element = root["a"].mapping()["b"].elements()[1].mapping()["x"]
    assert (str(element.source), element.path) == ("f.yaml:4", "a.b[1].x")


def test_reading_something_as_what_it_is_not_names_the_place() -> None:
    root = read_yaml("text: x\nnumber: 3\nlist: [1]\nmap: {a: 1}\nempty: ''\n", "f.yaml").mapping()
    cases = [
        (root["text"].mapping, "f.yaml:1: text: expected a mapping"),
        (root["number"].text, "f.yaml:2: number: expected text, found 3, which YAML reads as a number"),
        (root["list"].text, "f.yaml:3: list: expected text, found a list"),
        (root["list"].scalar, "f.yaml:3: list: expected a single value, found a list"),
        (root["map"].value, "f.yaml:4: map: expected a single value, found a mapping"),
        (root["empty"].text, "f.yaml:5: empty: expected text, found an empty text"),
        (root["text"].boolean, "f.yaml:1: text: expected true or false, found 'x'"),
        (lambda: root["number"].integer(4), "f.yaml:2: number: expected an integer of at least 4, found 3"),
        (lambda: root["text"].integer(0), "f.yaml:1: text: expected an integer"),
        (lambda: root["map"].fields(["aa", "b"]), "f.yaml:4: map.a: unknown key 'a'"),
    ]
    for read, message in cases:
        with pytest.raises(RegistryError) as caught:
            read()
        assert caught.value.message.startswith(message)
