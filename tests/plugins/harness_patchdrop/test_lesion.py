"""Lesions against what the network's own layers receive, slow loops, and the counts of the paper's tables."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from harness import rng
from harness.adapters import wrap_module
from harness.errors import CapabilityError, ParameterError
from harness.params import canonical, coerce
from harness.protocols import ModelPerturbation
from harness.testing.sample import tiny_model
from harness.types import OutputSpec, View
from harness.weights import WeightsChoice
from harness_mini.models import build_model
from harness_patchdrop.lesion import Lesion
from harness_patchdrop.plugin import harness_register_perturbations

IDS = ("val/cat.png", "val/dog.png", "val/owl.png")
LOGITS = OutputSpec(logits=True)


@cache
def mini(name):
    return build_model(name, weights=WeightsChoice(origin="random", seed=5))


def entering(model, module, action):
    """What ``module`` receives while ``action`` runs the model once."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        action()
    finally:
        handle.remove()
    assert len(seen) == 1
    return seen[0]


def lesioned(perturbation, model, batch, level, want=LOGITS):
    with perturbation.around(model, batch, perturbation.begin(batch), level) as (surrounded, perturbed):
        return surrounded.outputs(perturbed.images, want), perturbed


def before_and_after(perturbation, model, module, batch, level):
    """What ``module`` receives without and with the lesion, and the perturbed batch."""
    clean = entering(model, module, lambda: model.outputs(batch.images, LOGITS))
    kept = []
    hurt = entering(model, module, lambda: kept.append(lesioned(perturbation, model, batch, level)[1]))
    return clean, hurt, kept[0]


def losses(perturbation, model, batch, level):
    return lesioned(perturbation, model, batch, level, OutputSpec(pooled=True))[1].realised["information_loss"]


@pytest.mark.parametrize("name", ["vit_mini", "vit_mini_nopos", "deit_mini"])
@pytest.mark.parametrize(("before", "block"), [(0, 0), (3, 3), (-1, 5), (-6, 0)])
def test_tokens_of_the_lowest_ranks_are_zero_where_they_enter_the_block(name, before, block, batch_of, ready):
    model, batch = mini(name), batch_of(IDS)
    perturbation = ready(Lesion(before=before), seed=4, evaluated=model)
    clean, hurt, _ = before_and_after(perturbation, model, model.net.blocks[block], batch, 0.5)
    prefix = len(model.info.prefix)
    for i, ranks in enumerate(rng.ranks(4, "patchdrop", IDS, 196)):
        assert torch.equal(hurt[i, :prefix], clean[i, :prefix])
        for cell in range(196):
            expected = torch.zeros(64) if ranks[cell] < 98 else clean[i, prefix + cell]
            assert torch.equal(hurt[i, prefix + cell], expected)


@pytest.mark.parametrize(
    ("before", "part"), [(0, "layer1"), (1, "layer2"), (3, "layer4"), (-1, "layer4"), ("pool", "global_pool")]
)
def test_positions_of_a_cnn_are_zero_in_all_channels_where_they_enter_the_stage(before, part, batch_of, ready):
    model, batch = mini("cnn_mini"), batch_of(IDS)
    perturbation = ready(Lesion(before=before), seed=4, evaluated=model)
    clean, hurt, perturbed = before_and_after(perturbation, model, getattr(model.net, part), batch, 0.75)
    rows, columns = clean.shape[2:]
    count = 3 * rows * columns // 4
    for i, ranks in enumerate(rng.ranks(4, "patchdrop", IDS, rows * columns)):
        for cell, rank in enumerate(ranks):
            row, column = divmod(cell, columns)
            expected = clean[i, :, row, column] * (0 if rank < count else 1)
            assert torch.equal(hurt[i, :, row, column], expected)
    exact = float(Fraction(count, rows * columns))
    assert perturbed.realised["information_loss"].tolist() == [exact] * len(IDS)


def test_logits_equal_the_layers_run_by_hand(batch_of, ready):
    model, batch, net = mini("vit_mini"), batch_of(IDS), mini("vit_mini").net
    found, _ = lesioned(ready(Lesion(before=2), seed=9, evaluated=model), model, batch, 0.25)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.info.mean, model.info.std))
    x = net._pos_embed(net.patch_embed((batch.images - mean) / std))
    for i, block in enumerate(net.blocks):
        if i == 2:
            for image, ranks in enumerate(rng.ranks(9, "patchdrop", IDS, 196)):
                for cell in np.nonzero(ranks < 49)[0]:
                    x[image, 1 + cell] = 0
        x = block(x)
    torch.testing.assert_close(found.logits["head"], net.forward_head(net.norm(x)), atol=1e-5, rtol=1e-4)
    assert (found.logits["head"] - model.outputs(batch.images, LOGITS).logits["head"]).abs().max() > 1e-3


@pytest.mark.parametrize("count", ["patches", "tokens"])
def test_the_paper_loses_49_98_and_147_of_196(count, batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    perturbation = ready(Lesion(count=count), evaluated=model)
    for level, number in ((0.25, 49), (0.5, 98), (0.75, 147)):
        assert losses(perturbation, model, batch, level).tolist() == [number / 196] * len(IDS)


@pytest.mark.parametrize(
    ("count", "level", "number"), [("patches", 0.5, 12), ("tokens", 0.5, 13), ("tokens", 0.97, 25), ("tokens", 1, 25)]
)
def test_counting_the_class_token_too_makes_a_difference_on_other_grids(count, level, number, batch_of, ready):
    model = tiny_model(side_px=40, patch_px=8)
    found = losses(ready(Lesion(count=count), evaluated=model), model, batch_of(IDS, height=40, width=40), level)
    assert found.tolist() == [number / 25] * len(IDS)


@pytest.mark.parametrize("level", [0.25, 0.5, 0.9])
def test_bernoulli_loses_each_position_whose_own_uniform_does_not_exceed_the_rate(level, batch_of, ready):
    model, batch = mini("cnn_mini"), batch_of(IDS)
    perturbation = ready(Lesion(before=1, draw="bernoulli"), seed=3, evaluated=model)
    clean, hurt, perturbed = before_and_after(perturbation, model, model.net.layer2, batch, level)
    places = clean.shape[2] * clean.shape[3]
    lost = rng.uniforms(3, "patchdrop", IDS, places) <= level
    kept = torch.from_numpy(~lost).view(len(IDS), 1, *clean.shape[2:])
    assert torch.equal(hurt, clean * kept)
    assert perturbed.realised["information_loss"].tolist() == [row.sum() / places for row in lost]
    assert len(set(perturbed.realised["information_loss"].tolist())) > 1


def test_bernoulli_rates_are_met_on_average(batch_of, ready):
    model, batch = tiny_model(side_px=40, patch_px=4), batch_of([f"{i}" for i in range(200)], height=40, width=40)
    perturbation = ready(Lesion(draw="bernoulli"), evaluated=model)
    for level in (0.25, 0.75):
        # 20,000 draws of probability p: standard deviation 0.0031.
        assert losses(perturbation, model, batch, level).mean().item() == pytest.approx(level, abs=5 * 0.0031)


def test_exact_and_bernoulli_lose_positions_in_the_same_order(batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    block = model.net.blocks[0]
    zero = {}
    for draw in ("exact", "bernoulli"):
        _, hurt, _ = before_and_after(ready(Lesion(draw=draw), evaluated=model), model, block, batch, 0.5)
        zero[draw] = (hurt[:, 1:] == 0).all(dim=2)
    for exact, bernoulli in zip(zero["exact"], zero["bernoulli"], strict=True):
        assert not (exact & ~bernoulli).any() or not (bernoulli & ~exact).any()


@pytest.mark.parametrize("draw", ["exact", "bernoulli"])
def test_rates_are_nested_and_0_and_1_lose_nothing_and_everything(draw, batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    perturbation, block = ready(Lesion(draw=draw), evaluated=model), model.net.blocks[0]
    zero = []
    for level in (0, 0.25, 0.5, 0.75, 1):
        _, hurt, perturbed = before_and_after(perturbation, model, block, batch, level)
        zero.append((hurt[:, 1:] == 0).all(dim=2))
        if level in (0, 1):
            assert perturbed.realised["information_loss"].tolist() == [level] * len(IDS)
    assert all((more | ~fewer).all() and more.sum() > fewer.sum() for fewer, more in pairwise(zero))
    assert not zero[0].any()
    assert zero[-1].all()


def test_rate_0_leaves_the_model_alone_to_the_last_bit(batch_of, ready):
    for name in ("vit_mini", "cnn_mini"):
        model, batch = mini(name), batch_of(IDS)
        found, _ = lesioned(ready(Lesion(before=1), evaluated=model), model, batch, 0)
        assert torch.equal(found.logits["head"], model.outputs(batch.images, LOGITS).logits["head"])


def test_images_of_a_group_share_their_lesion(batch_of, ready):
    model, batch = mini("vit_mini"), batch_of([f"{i}" for i in range(12)])
    perturbation = ready(Lesion(mask_scope="batch"), evaluated=model, num_images=600)
    _, hurt, perturbed = before_and_after(perturbation, model, model.net.blocks[0], batch, 0.5)
    masks = [tuple(row) for row in (hurt[:, 1:] == 0).all(dim=2).tolist()]
    groups = perturbed.realised["mask_group"].tolist()
    assert 1 < len(set(groups)) <= 3
    assert len(set(zip(groups, masks, strict=True))) == len(set(groups)) == len(set(masks))


@pytest.mark.parametrize(
    ("name", "before", "message"),
    [
        ("vit_mini", 6, "before=6, but model vit_mini has 6 blocks"),
        ("vit_mini", -7, "before=-7, but model vit_mini has 6 blocks"),
        ("cnn_mini", 4, "before=4, but model cnn_mini has 4 stages"),
        ("vit_mini", "pool", "model vit_mini cannot be changed in front of a pool"),
    ],
)
def test_places_that_a_model_has_not_are_refused_before_the_first_image(name, before, message, ready):
    with pytest.raises(CapabilityError, match=message):
        ready(Lesion(before=before), evaluated=mini(name))


def test_the_aggregation_of_a_patchconvnet_is_its_last_block(batch_of, ready):
    model, batch = mini("patchconv_mini"), batch_of(IDS)
    last, pool = (
        lesioned(ready(Lesion(before=before), evaluated=model), model, batch, 0.5)[0].logits["head"]
        for before in (-1, "pool")
    )
    assert torch.equal(last, pool)
    assert not torch.equal(last, model.outputs(batch.images, LOGITS).logits["head"])


def test_models_without_interventions_are_refused(ready):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    model = wrap_module(net, name="plain", view=View(crop=4), mean=(0, 0, 0), std=(1, 1, 1))
    for before in (0, "pool"):
        with pytest.raises(CapabilityError, match="model plain"):
            ready(Lesion(before=before), evaluated=model)


@pytest.mark.parametrize("level", [-0.1, 1.1, None])
def test_rates_outside_the_range_are_refused(level, batch_of, ready):
    model, batch = mini("vit_mini"), batch_of(IDS)
    with pytest.raises(ParameterError, match=r"lesion.*rate"):
        lesioned(ready(Lesion(), evaluated=model), model, batch, level)


def test_counting_tokens_has_no_meaning_where_nothing_is_counted():
    with pytest.raises(ParameterError, match="count=tokens"):
        Lesion(count="tokens", draw="bernoulli")


def test_the_descriptor_agrees_with_the_perturbation():
    entry = next(entry for entry in harness_register_perturbations() if entry.name == "lesion")
    for text, before in (("pool", "pool"), ("-1", -1), ("11", 11)):
        params = coerce(entry.params, {"before": text}, entry.name)
        perturbation = Lesion(before=before)
        info = perturbation.info
        assert isinstance(perturbation, ModelPerturbation)
        assert (info.name, info.version, info.stage, info.level) == (entry.name, entry.version, "feature", entry.level)
        assert info.params == canonical(params)
    assert entry.level.values == (0.25, 0.5, 0.75)
    with pytest.raises(ParameterError, match="before"):
        coerce(entry.params, {"before": "head"}, entry.name)


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        ("exact", "889e01d53bbd09c19b7b7b3dadeead49be2421a5005e3d22879e1241af79bf3a"),
        ("bernoulli", "6541e6fefa5116cc70fbcdbc0ce1bf0ae084e6fd2f27988188c7a750cdb56ec6"),
    ],
)
def test_the_positions_of_version_1_stay_what_they_are(draw, expected, batch_of, ready):
    """A change here is a change of numerics: raise ``version`` in the descriptor together with the digest."""
    model, batch = mini("vit_mini"), batch_of(IDS)
    perturbation = ready(Lesion(draw=draw), seed=2, evaluated=model)
    _, hurt, _ = before_and_after(perturbation, model, model.net.blocks[0], batch, 0.5)
    zero = (hurt[:, 1:] == 0).all(dim=2).numpy()
    assert hashlib.sha256(np.packbits(zero).tobytes()).hexdigest() == expected
