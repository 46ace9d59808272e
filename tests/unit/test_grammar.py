"""Selectors, lists, globs and list files: what they read, what they refuse, and that every spelling reads back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError, ParameterError, UsageError
from harness.grammar import Selector, is_glob, match_glob, parse_selector, split_name, split_names

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_.\-]{0,12}", fullmatch=True)
KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
# Every character but one kind of quote: a value can hold ':', ',', '@', '=', brackets, blanks.
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="'\n\r"), max_size=12)
LEVELS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4, unique=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vit_b16", Selector(name="vit_b16")),
        ("  vit_b16 ", Selector(name="vit_b16")),
        ("drop@0.5", Selector(name="drop", levels=(0.5,))),
        ("drop@1,2,1", Selector(name="drop", levels=(1.0, 2.0))),
        ("drop@1e+3,-.5", Selector(name="drop", levels=(1000.0, -0.5))),
        ("drop@all", Selector(name="drop", levels="all")),
        ("drop:grid=7x7", Selector(name="drop", params={"grid": "7x7"})),
        ("drop:grid=7:offset=8@0.5", Selector(name="drop", params={"grid": "7", "offset": "8"}, levels=(0.5,))),
        ("drop:grid=7,offset=8@0.5", Selector(name="drop", params={"grid": "7", "offset": "8"}, levels=(0.5,))),
        ("fewshot:shots=1+5", Selector(name="fewshot", params={"shots": "1+5"})),
        ("fewshot:shots=[1,5],seed=3", Selector(name="fewshot", params={"shots": "[1,5]", "seed": "3"})),
        ("timm_vit:vit", Selector(name="vit", plugin="timm_vit")),
        ("My_Plugin:vit:arch=a.b", Selector(name="vit", plugin="My_Plugin", params={"arch": "a.b"})),
        ('folder:root="C:\\a,b@c"', Selector(name="folder", params={"root": "C:\\a,b@c"})),
        ("folder:root=/it's/[here", Selector(name="folder", params={"root": "/it's/[here"})),
        ('folder:root=""', Selector(name="folder", params={"root": ""})),
        ("folder:query=a=b", Selector(name="folder", params={"query": "a=b"})),
    ],
)
def test_a_selector_reads(text: str, expected: Selector) -> None:
    assert parse_selector(text) == expected


@given(
    selector=st.builds(
        Selector,
        name=NAMES,
        plugin=st.none() | NAMES,
        params=st.dictionaries(KEYS, VALUES, max_size=3),
        levels=st.none() | st.just("all") | LEVELS.map(tuple),
    )
)
def test_the_text_of_a_selector_reads_back(selector: Selector) -> None:
    assert parse_selector(selector.text) == selector


def test_a_value_that_cannot_be_spelt_is_an_error() -> None:
    with pytest.raises(ParameterError, match="both kinds of quotes"):
        Selector(name="a", params={"k": "'\"@"}).text  # noqa: B018 - the property is what is tested


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("", "a name is missing", "for example"),
        ("drop:", "a name is missing", "for example"),
        ("ViT_B16", "is not a name", "did you mean vit_b16"),
        ("vit b16", "is not a name", "for example"),
        ("grid=7", "without a name before it", "NAME:grid=7"),
        ("vit*", "pattern", None),
        ("drop:grid", "'drop'", None),
        ("a:b:c", "expected key=value, found 'c'", "shots=1+5"),
        ("drop:grid=7,8", "expected key=value, found '8'", "shots=[1,5]"),
        ("drop:grid=7,grid=8", "'grid' is given twice", None),
        ("drop:grid=", "'grid' has no value", "grid=VALUE"),
        ("drop:7=grid", "expected key=value", None),
        ("drop@", "level '' is not a number", "NAME@0.5"),
        ("drop@1,", "level '' is not a number", "NAME@0.5"),
        ("drop@half", "level 'half' is not a number", "NAME@all"),
        ("drop@nan", "not a number", None),
        ("drop@1e999", "not a number", None),
        ("drop@1_0", "not a number", None),
        ("drop@0.5:grid=7", "not a number", "parameters come before '@'"),
        ("folder:root=/me@home", "not a number", "quote a value"),
        ("drop@1@2", "more than one '@'", "quote"),
        ("folder:root='/a", "is missing at the end", None),
        ("fewshot:shots=[1,5", "']' is missing", None),
        ("a b:vit", "not the name of a plugin", None),
    ],
)
def test_what_is_no_selector_is_refused_quoting_it(text: str, problem: str, hint: str | None) -> None:
    if text == "drop:grid":  # the second part without '=' is the name: valid, and looked up in plugin 'drop'
        assert parse_selector(text) == Selector(name="grid", plugin="drop")
        return
    with pytest.raises((UsageError, ParameterError)) as caught:
        parse_selector(text)
    assert repr(text) in caught.value.message
    assert problem in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["A@3+B@0.5", "a@3+b", "a+b", "a@3+b:k=1@all", "plugin_a+b@1"])
def test_a_composition_is_recognised_and_reserved(text: str) -> None:
    with pytest.raises(UsageError, match="reserved") as caught:
        parse_selector(text)
    assert "--perturb A@3 --perturb B@0.5" in (caught.value.hint or "")


@given(text=st.text(st.sampled_from("ab1:=,@+[]'\"* .e-"), max_size=16))
def test_any_text_is_read_or_refused_with_an_error_of_ours(text: str) -> None:
    try:
        selector = parse_selector(text)
    except HarnessError:
        return  # anything but an error of ours would fail the test
    assert parse_selector(selector.text) == selector
    assert selector.levels in (None, "all") or all(map(math.isfinite, selector.levels))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a,b", "c"], ["a", "b", "c"]),
        ([" a , b "], ["a", "b"]),
        (["a", "a,b"], ["a", "b"]),
        (["a@1,2,b"], ["a@1,2", "b"]),
        (["a:x=1,y=2,b:z=3@1,2,none"], ["a:x=1,y=2", "b:z=3@1,2", "none"]),
        (["a:x=[1,2],b"], ["a:x=[1,2]", "b"]),
        (["vit*,deit_[st]@all,resnet?"], ["vit*", "deit_[st]@all", "resnet?"]),
        (['a:x="1,2",b'], ['a:x="1,2"', "b"]),
        ([], []),
    ],
)
def test_lists_split_at_commas_that_belong_to_no_selector(texts: list[str], expected: list[str]) -> None:
    assert split_names(texts) == expected


@given(
    selectors=st.lists(
        st.builds(Selector, name=NAMES.filter(lambda n: not n[0].isdigit()), levels=st.none() | LEVELS.map(tuple)),
        max_size=5,
    )
)
def test_a_joined_list_splits_into_its_parts(selectors: list[Selector]) -> None:
    texts = [selector.text for selector in selectors]
    assert split_names([",".join(texts)] if texts else []) == list(dict.fromkeys(texts))


@pytest.mark.parametrize("text", ["a,,b", ",a", "a,", ""])
def test_an_empty_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="missing between commas"):
        split_names([text])


def test_a_list_file_holds_lists_and_comments(tmp_path) -> None:
    path = tmp_path / "models.txt"
    path.write_text("\ufeff# ours\nvit_b16, vit_s16  # small\n\n  drop:x=a#b@1,2\n", encoding="utf-8")
    assert split_names(["resnet50", f"@{path}", "vit_b16"]) == ["resnet50", "vit_b16", "vit_s16", "drop:x=a#b@1,2"]


def test_a_list_file_that_cannot_be_used_is_named(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"none\.txt.*No such file"):
        split_names([f"@{tmp_path / 'none.txt'}"])
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        split_names([f"@{binary}"])
    nested = tmp_path / "nested.txt"
    nested.write_text("vit_b16\n@nested.txt\n")
    with pytest.raises(UsageError, match=r"nested\.txt:2: a list file cannot name another"):
        split_names([f"@{nested}"])


def test_globs_are_told_by_the_name_alone() -> None:
    assert [text for text in ("vit*", "vit", "a:x=[1,2]", "a:x=*", "p:vit_?@all", "a@1*2") if is_glob(text)] == [
        "vit*",
        "p:vit_?@all",
    ]
    assert split_name("drop_*:grid=7@all") == ("drop_*", ":grid=7@all")
    assert split_name("drop_*@all") == ("drop_*", "@all")


def test_a_glob_keeps_order_and_case() -> None:
    assert match_glob("v[ab]*", ["vb", "va_1", "Va", "vc"]) == ["vb", "va_1"]
