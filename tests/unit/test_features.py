"""Feature vectors: order, norm, gradients and refusals, against sums written out by hand."""

from __future__ import annotations

import pytest
import torch

from harness.errors import CapabilityError
from harness.features import extract, require_features
from harness.types import BlockTokens, Capability, FeatureSpec, ModelInfo, ModelOutputs, View, WeightsInfo

BLOCKS, IMAGES, WIDTH = 3, 4, 5
ALL = frozenset({Capability.POOLED, Capability.TOKENS, Capability.CLASS_TOKEN})


def card(*, prefix: tuple[str, ...] = ("cls", "dist"), capabilities: frozenset[Capability] = ALL) -> ModelInfo:
    return ModelInfo(
        name="tiny",
        family="test",
        weights=WeightsInfo(origin="random", identity="random:tiny:0"),
        view=View(crop=8),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        label_space=None,
        num_classes=None,
        num_blocks=BLOCKS,
        embed_dim=WIDTH,
        prefix=prefix,
        capabilities=capabilities,
    )


def block(seed: int, prefix: int = 2, dtype: torch.dtype = torch.float32) -> BlockTokens:
    generator = torch.Generator().manual_seed(seed)
    return BlockTokens(
        prefix=torch.randn(IMAGES, prefix, WIDTH, generator=generator).to(dtype),
        patches=torch.randn(IMAGES, 6, WIDTH, generator=generator).to(dtype),
        grid=(2, 3),
    )


@pytest.fixture
def outputs() -> ModelOutputs:
    return ModelOutputs(
        pooled=torch.randn(IMAGES, 7, generator=torch.Generator().manual_seed(99)),
        tokens={b: block(b) for b in range(BLOCKS)},
        normed_tokens={b: block(10 + b) for b in range(BLOCKS)},
    )


def mean_by_hand(patches: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(IMAGES, WIDTH)
    for p in range(patches.shape[1]):
        total += patches[:, p].float()
    return total / patches.shape[1]


def test_pooled_is_the_pooled_vector(outputs):
    assert torch.equal(extract(outputs, FeatureSpec(pooled=True), card()), outputs.pooled)


def test_prefix_tokens_come_block_by_block_in_the_order_asked(outputs):
    spec = FeatureSpec(blocks=(2, -2), prefix=("dist", "cls"), norm=False)
    x = extract(outputs, spec, card())
    tokens = outputs.tokens
    wanted = [tokens[2].prefix[:, 1], tokens[2].prefix[:, 0], tokens[1].prefix[:, 1], tokens[1].prefix[:, 0]]
    assert torch.equal(x, torch.cat(wanted, dim=1))


def test_norm_chooses_the_normed_tokens(outputs):
    normed = extract(outputs, FeatureSpec(blocks=(-1,), prefix=("cls",)), card())
    raw = extract(outputs, FeatureSpec(blocks=(-1,), prefix=("cls",), norm=False), card())
    assert torch.equal(normed, outputs.normed_tokens[2].prefix[:, 0])
    assert torch.equal(raw, outputs.tokens[2].prefix[:, 0])


def test_mean_patch_last_adds_one_width_and_each_adds_one_per_block(outputs):
    tokens = outputs.normed_tokens
    last = extract(outputs, FeatureSpec(blocks=(0, 1), prefix=("cls",), mean_patch="last"), card())
    each = extract(outputs, FeatureSpec(blocks=(0, 1), prefix=("cls",), mean_patch="each"), card())
    first, second = mean_by_hand(tokens[0].patches), mean_by_hand(tokens[1].patches)
    cls = [tokens[0].prefix[:, 0], tokens[1].prefix[:, 0]]
    torch.testing.assert_close(last, torch.cat([*cls, second], dim=1))
    torch.testing.assert_close(each, torch.cat([cls[0], first, cls[1], second], dim=1))


def test_blocks_of_different_widths_are_concatenated():
    narrow = BlockTokens(prefix=torch.zeros(2, 0, 3), patches=torch.ones(2, 4, 3), grid=(2, 2))
    wide = BlockTokens(prefix=torch.zeros(2, 0, 8), patches=torch.full((2, 1, 8), 2.0), grid=(1, 1))
    cnn = card(prefix=(), capabilities=frozenset({Capability.TOKENS}))
    spec = FeatureSpec(blocks=(0, 2), mean_patch="each", norm=False)
    x = extract(ModelOutputs(tokens={0: narrow, 2: wide}), spec, cnn)
    assert x.tolist() == [[1.0] * 3 + [2.0] * 8] * 2


def test_half_precision_becomes_float32_before_the_mean():
    tokens = block(0, dtype=torch.bfloat16)
    spec = FeatureSpec(blocks=(0,), mean_patch="last")
    x = extract(ModelOutputs(normed_tokens={0: tokens}), spec, card())
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, mean_by_hand(tokens.patches), rtol=1e-6, atol=1e-6)


def test_gradients_flow_to_the_tokens():
    tokens = block(0)
    tokens.patches.requires_grad_()
    spec = FeatureSpec(blocks=(0,), prefix=("cls",), mean_patch="last")
    extract(ModelOutputs(normed_tokens={0: tokens}), spec, card()).sum().backward()
    torch.testing.assert_close(tokens.patches.grad, torch.full_like(tokens.patches, 1 / 6))


@pytest.mark.parametrize("norm", [True, False])
def test_what_the_spec_asks_for_is_what_extract_reads(outputs, norm):
    spec = FeatureSpec(pooled=True, blocks=(-1, 0), prefix=("cls",), mean_patch="each", norm=norm)
    want = spec.outputs(BLOCKS)
    only_asked = ModelOutputs(
        pooled=outputs.pooled if want.pooled else None,
        tokens={b: outputs.tokens[b] for b in want.tokens},
        normed_tokens={b: outputs.normed_tokens[b] for b in want.normed_tokens},
    )
    assert extract(only_asked, spec, card()).shape == (IMAGES, 7 + 4 * WIDTH)


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        (FeatureSpec(blocks=(-1,), prefix=("shape",)), "'shape'"),
        (FeatureSpec(blocks=(BLOCKS,), prefix=("cls",)), "block 3"),
    ],
)
def test_a_token_or_block_the_model_has_not_is_refused_before_and_after_the_forward(outputs, spec, missing):
    with pytest.raises(CapabilityError, match=missing):
        require_features(spec, card())
    with pytest.raises(CapabilityError, match=missing):
        extract(outputs, spec, card())


def test_a_block_without_its_prefix_tokens_is_refused(outputs):
    late_class_token = ModelOutputs(normed_tokens={0: block(0, prefix=0), 2: block(2)})
    spec = FeatureSpec(blocks=(0,), prefix=("cls",))
    with pytest.raises(CapabilityError, match="block 0 holds 0 of the prefix tokens"):
        extract(late_class_token, spec, card())
    assert extract(late_class_token, FeatureSpec(blocks=(2,), prefix=("cls",)), card()).shape == (IMAGES, WIDTH)


def test_outputs_that_were_not_asked_for_are_named():
    with pytest.raises(CapabilityError, match="pooled"):
        extract(ModelOutputs(), FeatureSpec(pooled=True), card())
    with pytest.raises(CapabilityError, match="normed tokens of blocks none, not of block 2"):
        extract(ModelOutputs(tokens={2: block(2)}), FeatureSpec(blocks=(2,), prefix=("cls",)), card())


def test_claims_are_checked():
    bare = card(capabilities=frozenset(), prefix=())
    with pytest.raises(CapabilityError, match="no pooled"):
        require_features(FeatureSpec(pooled=True), bare)
    with pytest.raises(CapabilityError, match="no tokens"):
        require_features(FeatureSpec(blocks=(0,), mean_patch="last"), bare)
    require_features(FeatureSpec(pooled=True, blocks=(0,), prefix=("cls",)), card())


def test_a_block_named_twice_from_both_ends_is_refused():
    with pytest.raises(CapabilityError, match="twice"):
        FeatureSpec(blocks=(BLOCKS - 1, -1), prefix=("cls",)).resolve_blocks(BLOCKS)
