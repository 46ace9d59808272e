"""Token ensembles: every spelling, what it asks of a model, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ParameterError
from harness.token_ensemble import PRESETS, TokenEnsemble
from harness.types import Capability, FeatureSpec, ModelInfo, View, WeightsInfo


def card(*, blocks: int = 12, width: int = 384) -> ModelInfo:
    return ModelInfo(
        name="m",
        family="test",
        weights=WeightsInfo(origin="random", identity="random:m:0"),
        view=View(crop=32),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        label_space=None,
        num_classes=None,
        num_blocks=blocks,
        embed_dim=width,
        prefix=("cls", "dist"),
    )


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("pooled", FeatureSpec(pooled=True)),
        ("last", FeatureSpec(blocks=(-1,), prefix=("cls",))),
        ("ensemble4", FeatureSpec(blocks=(-4, -3, -2, -1), prefix=("cls",))),
        ("all", FeatureSpec(blocks=tuple(range(12)), prefix=("cls",))),
        ("ensemble4+patch", FeatureSpec(blocks=(-4, -3, -2, -1), prefix=("cls",), mean_patch="last")),
        ("all+patches", FeatureSpec(blocks=tuple(range(12)), prefix=("cls",), mean_patch="each")),
        ("pooled+patch", FeatureSpec(pooled=True, blocks=(-1,), mean_patch="last")),
        ("dinov2", FeatureSpec(blocks=(-4, -3, -2, -1), prefix=("cls",), mean_patch="last")),
        ("dinov2_1", FeatureSpec(blocks=(-1,), prefix=("cls",), mean_patch="last")),
        ("patches/all", FeatureSpec(blocks=tuple(range(12)), mean_patch="each")),
        ("cls+dist/8+-1", FeatureSpec(blocks=(8, -1), prefix=("cls", "dist"))),
        ("dist/last2/raw", FeatureSpec(blocks=(-2, -1), prefix=("dist",), norm=False)),
        ("pooled+patch/0", FeatureSpec(pooled=True, blocks=(0,), mean_patch="last")),
    ],
)
def test_a_text_becomes_the_vector_it_names(text, spec):
    assert TokenEnsemble.parse(text).spec(card()) == spec


def test_dino_takes_four_class_tokens_of_a_narrow_model_and_one_with_the_mean_patch_of_a_wide_one():
    narrow, wide = card(width=384), card(width=768)
    dino = TokenEnsemble.parse("dino")
    assert dino.spec(narrow) == TokenEnsemble.parse("ensemble4").spec(narrow)
    assert dino.spec(wide) == TokenEnsemble.parse("last+patch").spec(wide)


def test_equal_values_have_one_spelling_which_reads_back():
    texts = [*PRESETS, "cls/last4", "cls+patch/last", "last+patch", "cls/0+1", "patches/all", "cls/all/raw", "dist/-2"]
    for text in texts:
        value = TokenEnsemble.parse(text)
        assert TokenEnsemble.parse(value.text) == value
    assert TokenEnsemble.parse("cls/-4+-3+-2+-1").text == "ensemble4"
    assert TokenEnsemble.parse("cls+patch/last").text == TokenEnsemble.parse("dinov2_1").text == "last+patch"


@settings(max_examples=60, deadline=None)
@given(
    prefix=st.lists(st.sampled_from(["cls", "dist", "shape"]), unique=True).map(tuple),
    blocks=st.lists(st.integers(-12, 11), unique=True, min_size=1).map(tuple),
    patch=st.sampled_from(["none", "last", "each"]),
    norm=st.booleans(),
    pooled=st.booleans(),
)
def test_every_value_survives_its_spelling(prefix, blocks, patch, norm, pooled):
    if not prefix and patch == "none":
        return
    value = TokenEnsemble(pooled=pooled, prefix=prefix, blocks=blocks, mean_patch=patch, norm=norm)
    assert TokenEnsemble.parse(value.text) == value


def test_what_a_model_must_give_follows_from_the_tokens():
    assert TokenEnsemble.parse("pooled").needs == {Capability.POOLED}
    assert TokenEnsemble.parse("last").needs == {Capability.TOKENS, Capability.CLASS_TOKEN}
    assert TokenEnsemble.parse("patches/all").needs == {Capability.TOKENS}
    assert TokenEnsemble.parse("pooled+patch").needs == {Capability.POOLED, Capability.TOKENS}


@pytest.mark.parametrize(
    "text",
    ["", "lst", "ensemble5x", "cls", "cls/", "cls/last0", "cls/4..8", "cls/last/norm", "cls/last/", "/last",
     "pooled/-1",
     "cls+cls/last", "patch+patches/last", "cls/1+1", "dino+patch", "last+patch+patch", "c ls/last"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(ParameterError) as refused:
        TokenEnsemble.parse(text)
    assert refused.value.hint
