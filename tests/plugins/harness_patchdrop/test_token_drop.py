"""Tokens taken out of the sequence, against timm's own layers run by hand on the tokens that are left."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import rng
from harness.adapters import wrap_module
from harness.errors import CapabilityError, ParameterError
from harness.features import extract
from harness.protocols import ModelPerturbation, PerturbationContext
from harness.testing.sample import sample_batch, tiny_model
from harness.types import FeatureSpec, OutputSpec, View
from harness.weights import WeightsChoice
from harness_mini.models import build_model
from harness_patchdrop.plugin import harness_register_perturbations
from harness_patchdrop.random_drop import RandomPatchDrop
from harness_patchdrop.token_drop import TokenDrop

IDS = ("val/cat.png", "val/dog.png", "val/owl.png")
LOGITS = OutputSpec(logits=True)
COUNTS = dict(zip([k / 10 for k in range(10)], [0, 19, 39, 58, 78, 98, 117, 137, 156, 176], strict=True))


@cache
def mini(name):
    return build_model(name, weights=WeightsChoice(origin="random", seed=5))


def kept_indices(perturbation, model, batch, level):
    """The kept indices (N, K) that the first block is told of; None where the tokens are left alone."""
    seen = []

    def look(tokens):
        seen.append(tokens)
        return tokens

    with (
        perturbation.around(model, batch, perturbation.begin(batch), level) as (surrounded, perturbed),
        surrounded.intervene("block:1", look, ids=batch.ids),
    ):
        surrounded.outputs(perturbed.images, OutputSpec(pooled=True))
    return seen[0].kept


def outputs_under(perturbation, model, batch, level, want=LOGITS):
    with perturbation.around(model, batch, perturbation.begin(batch), level) as (surrounded, perturbed):
        return surrounded.outputs(perturbed.images, want), perturbed


def by_hand(net, pixels, kept):
    """timm's layers on one image (1, 3, H, W) whose other patches never enter the first block: logits of each head."""
    x = net._pos_embed(net.patch_embed(pixels))
    prefix = net.num_prefix_tokens
    x = torch.cat([x[:, :prefix], x[:, [prefix + k for k in kept]]], dim=1)
    for block in net.blocks:
        x = block(net.norm_pre(x) if block is net.blocks[0] else x)
    x = net.norm(x)
    if hasattr(net, "head_dist"):
        return {"cls": net.head(x[:, 0]), "dist": net.head_dist(x[:, 1])}
    return {"head": net.forward_head(x)}


@pytest.mark.parametrize("name", ["vit_mini", "vit_mini_nopos", "deit_mini"])
@pytest.mark.parametrize("level", [0.3, 0.9])
def test_the_other_tokens_never_enter_the_network(name, level, batch_of, ready):
    model, batch = mini(name), batch_of(IDS)
    found, _ = outputs_under(ready(TokenDrop(), seed=4, evaluated=model), model, batch, level)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.info.mean, model.info.std))
    for i, ranks in enumerate(rng.ranks(4, "patchdrop", IDS, 196)):
        kept = [cell for cell in range(196) if ranks[cell] >= COUNTS[level]]
        for head, logits in by_hand(model.net, (batch.images[i : i + 1] - mean) / std, kept).items():
            torch.testing.assert_close(found.logits[head][i], logits[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("level", COUNTS)
def test_sequences_are_as_short_as_the_counts_of_the_paper_say(level, batch_of, ready):
    model, batch, lengths = mini("vit_mini"), batch_of(IDS), []
    perturbation = ready(TokenDrop(), evaluated=model)
    handle = model.net.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    try:
        _, perturbed = outputs_under(perturbation, model, batch, level)
    finally:
        handle.remove()
    assert lengths == [1 + 196 - COUNTS[level]]
    assert perturbed.realised["information_loss"].dtype == torch.float64
    assert perturbed.realised["information_loss"].tolist() == [COUNTS[level] / 196] * len(IDS)
    assert torch.equal(perturbed.images, batch.images)


@pytest.mark.parametrize("scope", ["image", "batch"])
def test_the_patches_lost_are_those_that_patchdrop_blackens(scope, batch_of, ready, applied, black):
    model, batch = mini("vit_mini"), batch_of([f"{i}" for i in range(9)])
    context = {"seed": 11, "evaluated": model, "num_images": 600}
    kept = kept_indices(ready(TokenDrop(mask_scope=scope), **context), model, batch, 0.6)
    pixels = applied(ready(RandomPatchDrop(mask_scope=scope), **context), batch, 0.6)
    visible = ~black(pixels)[:, ::4, ::4].flatten(1)
    assert [row.nonzero()[:, 0].tolist() for row in visible] == kept.tolist()


def test_images_of_a_group_lose_the_same_patches_and_say_so(batch_of, ready):
    model, batch = mini("vit_mini"), batch_of([f"{i}" for i in range(12)])
    perturbation = ready(TokenDrop(mask_scope="batch"), evaluated=model, num_images=600)
    _, perturbed = outputs_under(perturbation, model, batch, 0.5)
    groups = perturbed.realised["mask_group"].tolist()
    kept = [tuple(row) for row in kept_indices(perturbation, model, batch, 0.5).tolist()]
    assert 1 < len(set(groups)) <= 3
    assert len(set(zip(groups, kept, strict=True))) == len(set(groups)) == len(set(kept))


def test_what_a_ratio_removes_every_higher_ratio_removes(batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    perturbation = ready(TokenDrop(), evaluated=model)
    before = [set(range(196))] * len(IDS)
    for level in (0.1, 0.5, 0.77, 0.99):
        kept = kept_indices(perturbation, model, batch, level)
        assert torch.equal(kept, kept.sort(dim=1).values)
        now = [set(row) for row in kept.tolist()]
        assert all(few < many for few, many in zip(now, before, strict=True))
        before = now


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.floats(0, 0.99))
def test_one_patch_at_least_stays(side, level):
    model, batch = tiny_model(side_px=4 * side, patch_px=4), sample_batch([0], side_px=4 * side)
    perturbation = TokenDrop()
    perturbation.prepare(
        PerturbationContext(
            seed=0, view=View(crop=4), device=torch.device("cpu"), dataset_fingerprint="none", num_classes=2
        )
    )
    found, perturbed = outputs_under(perturbation, model, batch, level, OutputSpec(tokens=frozenset({0})))
    left = found.tokens[0].patches.shape[1]
    assert left >= 1
    assert perturbed.realised["information_loss"].tolist() == [(side**2 - left) / side**2]


def test_ratio_0_leaves_the_model_alone_to_the_last_bit(batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    want = OutputSpec(logits=True, tokens=frozenset({5}))
    found, _ = outputs_under(ready(TokenDrop(), evaluated=model), model, batch, 0.0, want)
    clean = model.outputs(batch.images, want)
    assert torch.equal(found.logits["head"], clean.logits["head"])
    assert found.tokens[5].grid == (14, 14)


def test_features_are_means_of_the_patches_that_are_left(batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    spec = FeatureSpec(blocks=(-2, -1), prefix=("cls",), mean_patch="last")
    perturbation = ready(TokenDrop(), evaluated=model)
    found, _ = outputs_under(perturbation, model, batch, 0.9, spec.outputs(6))
    tokens = found.normed_tokens[5]
    assert (tokens.patches.shape, tokens.grid) == ((3, 20, 64), (1, 20))
    features = extract(found, spec, model.info)
    assert features.shape == (3, 192)
    torch.testing.assert_close(features[:, 128:], sum(tokens.patches[:, k] for k in range(20)) / 20)


def test_one_forward_of_one_image_tells_the_grid(batch_of, ready):
    model, batch, sizes = mini("vit_mini"), batch_of(IDS), []
    handle = model.net.patch_embed.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        perturbation = ready(TokenDrop(), evaluated=model)
        for level in (0.0, 0.5, 0.9):
            outputs_under(perturbation, model, batch, level)
        assert sizes == [1, 3, 3, 3]
        _, perturbed = outputs_under(perturbation, tiny_model(side_px=56, patch_px=8), batch, 0.5)
        assert perturbed.realised["information_loss"].tolist() == [24 / 49] * 3
        assert sizes == [1, 3, 3, 3]
    finally:
        handle.remove()


def test_it_needs_no_model_before_the_first_batch(batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    late, early = ready(TokenDrop(), seed=2), ready(TokenDrop(), seed=2, evaluated=model)
    assert torch.equal(kept_indices(late, model, batch, 0.5), kept_indices(early, model, batch, 0.5))


@pytest.mark.parametrize("name", ["cnn_mini", "patchconv_mini", "patchconv_mini_multi"])
def test_models_that_need_every_patch_are_refused_before_the_first_image(name, ready):
    with pytest.raises(CapabilityError, match=rf"tokendrop takes patch tokens out.* model {name} .* cannot") as refusal:
        ready(TokenDrop(), evaluated=mini(name))
    assert "patchdrop_random" in refusal.value.hint


def test_models_without_interventions_are_refused(ready):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    model = wrap_module(net, name="plain", view=View(crop=4), mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(CapabilityError, match="model plain"):
        ready(TokenDrop(), evaluated=model)


@pytest.mark.parametrize("level", [-0.1, 0.995, 1.0, None])
def test_ratios_outside_the_range_are_refused(level, batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    with pytest.raises(ParameterError, match=r"tokendrop.*ratio"):
        outputs_under(ready(TokenDrop(), evaluated=model), model, batch, level)


def test_a_seed_is_needed_first(batch_of):
    with pytest.raises(RuntimeError, match="prepare"):
        TokenDrop().begin(batch_of(IDS))


def test_realised_values_of_earlier_steps_are_kept(batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    batch = replace(batch, realised={"other": torch.ones(3, dtype=torch.float64)})
    _, perturbed = outputs_under(ready(TokenDrop(), evaluated=model), model, batch, 0.5)
    assert set(perturbed.realised) == {"other", "information_loss"}


def test_the_descriptor_agrees_with_the_perturbation():
    entry = next(entry for entry in harness_register_perturbations() if entry.name == "tokendrop")
    info = TokenDrop().info
    assert isinstance(TokenDrop(), ModelPerturbation)
    assert (info.name, info.version, info.stage, info.level) == (entry.name, entry.version, "model", entry.level)
    assert entry.stage == "model"
    assert entry.level.values == tuple(COUNTS)


def test_the_patches_of_version_1_stay_what_they_are(batch_of, ready):
    """A change here is a change of numerics: raise ``version`` in the descriptor together with the digest."""
    model, batch = mini("vit_mini"), batch_of(IDS)
    kept = kept_indices(ready(TokenDrop(), seed=2, evaluated=model), model, batch, 0.5)
    digest = hashlib.sha256(kept.numpy().astype(np.int64).tobytes()).hexdigest()
    assert digest == "6fbd4ea2f5296ca39387240e5775eecd55f3c3dc862a2589d8847506d7994a9e"
