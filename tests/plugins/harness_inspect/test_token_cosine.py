"""Cosines between tokens: closed forms, a slow loop, and who is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.errors import CapabilityError, DataError, ParameterError
from harness.protocols import ProbeContext
from harness.testing.sample import sample_batch, tiny_model, without
from harness.types import BlockTokens, Capability, ModelOutputs, OutputSpec
from harness_inspect.token_cosine_exhibit import exhibit
from harness_inspect.token_cosine_probe import TokenCosineProbe

MODEL = tiny_model()
DISTILLED = replace(MODEL.info, prefix=("cls", "shape"))
BATCH = sample_batch([0, 1, 2, 3, 4], side_px=32)


def context(model):
    return ProbeContext(model=model, classes=("a",), label_space=None, seed=0)


def rows_for(probe, model, tokens):
    """Rows for ``tokens``: (N, P, D) prefix and (N, G, D) patches of each block, as they are and normed alike."""
    given = {
        block: BlockTokens(prefix=torch.as_tensor(p), patches=torch.as_tensor(g), grid=(1, g.shape[1]))
        for block, (p, g) in enumerate(tokens)
    }
    run = probe.fit(None, context(model)).start()
    run.update(replace(BATCH), ModelOutputs(tokens=given, normed_tokens=given), None)
    return {(row.metric, *row.dims.values()): row for row in run.result()}


def drawn(seed, prefix):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(5, prefix, 8)), generator.normal(size=(5, 4, 8))


def test_every_pair_of_every_block_has_the_cosine_of_a_slow_loop():
    tokens = [drawn(0, 2), drawn(1, 2)]
    rows = rows_for(TokenCosineProbe(tokens="cls+shape+patch"), DISTILLED, tokens)
    for block, (prefix, patches) in enumerate(tokens):
        named = {"cls": prefix[:, 0], "shape": prefix[:, 1], "patch": patches.mean(axis=1)}
        for one, other in (("cls", "shape"), ("cls", "patch"), ("shape", "patch")):
            slow = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(named[one], named[other], strict=True)]
            row = rows["token_cosine_of_block", block, f"{one}-{other}"]
            assert row.value == pytest.approx(np.mean(slow), abs=1e-6)
            assert row.low <= row.value <= row.high
    assert rows["token_cosine", "cls-shape"].value == rows["token_cosine_of_block", 1, "cls-shape"].value


def test_equal_tokens_are_at_one_and_orthogonal_ones_at_zero():
    same, across = np.zeros((5, 2, 8)), np.zeros((5, 2, 8))
    same[:, :, 2] = (3.0, 0.5)
    across[:, 0, 1] = across[:, 1, 4] = 2.0
    patches = np.ones((5, 4, 8))
    rows = rows_for(TokenCosineProbe(), DISTILLED, [(same, patches), (across, patches)])
    assert rows["token_cosine_of_block", 0, "cls-shape"].value == 1
    assert rows["token_cosine", "cls-shape"].value == 0


def test_a_model_with_one_prefix_token_is_compared_with_its_patches():
    rows = rows_for(TokenCosineProbe(blocks="last"), MODEL.info, [drawn(0, 1), drawn(1, 1)])
    assert [key for key in rows if key[0] == "token_cosine"] == [("token_cosine", "cls-patch")]
    assert [key[1] for key in rows if key[0] == "token_cosine_of_block"] == [1]


def test_tokens_are_asked_for_after_the_norm_or_before():
    assert TokenCosineProbe().wants(DISTILLED) == OutputSpec(normed_tokens=frozenset({0, 1}))
    assert TokenCosineProbe(blocks="-1", norm=False).wants(DISTILLED) == OutputSpec(tokens=frozenset({1}))


def test_models_without_two_tokens_are_refused():
    patches_alone = without(MODEL.info, frozenset({Capability.CLASS_TOKEN}))
    with pytest.raises(CapabilityError, match="no two tokens"):
        TokenCosineProbe().wants(patches_alone)
    with pytest.raises(CapabilityError, match="no token named 'shape'"):
        TokenCosineProbe(tokens="cls+shape").wants(MODEL.info)
    with pytest.raises(CapabilityError, match="no tokens of its blocks"):
        TokenCosineProbe().wants(without(MODEL.info, frozenset({Capability.TOKENS})))
    with pytest.raises(CapabilityError, match="block 7"):
        TokenCosineProbe(blocks="7").wants(MODEL.info)


def test_a_block_without_its_prefix_tokens_is_refused():
    with pytest.raises(CapabilityError, match="block 0 does not hold all of its prefix tokens"):
        rows_for(TokenCosineProbe(), DISTILLED, [drawn(0, 0), drawn(1, 2)])


def test_tokens_without_a_direction_name_their_image():
    prefix, patches = drawn(0, 2)
    prefix[3] = 0
    with pytest.raises(DataError, match=BATCH.ids[3]):
        rows_for(TokenCosineProbe(blocks="0"), DISTILLED, [(prefix, patches)])


@pytest.mark.parametrize("given", [{"tokens": "cls"}, {"tokens": "cls+cls"}, {"blocks": "first"}])
def test_parameters_that_mean_nothing_are_refused(given):
    with pytest.raises(ParameterError):
        TokenCosineProbe(**given)


def test_many_lines_take_several_pictures(finding_of):
    one = finding_of(TokenCosineProbe())
    findings = [replace(one, model=f"model {i}") for i in range(12)]
    made = exhibit(findings)
    assert set(made.pictures) == {"", "page2"}
    assert {row[0] for row in made.tables[""].rows} == {f"model {i}" for i in range(12)}
