"""Sources of saliency against softmax(QK^T / sqrt(d)) and gradients worked out by hand, and loops over pixels."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from harness.errors import CapabilityError, DataError, ParameterError
from harness.protocols import PerturbationContext
from harness.testing.sample import without
from harness.types import (
    BlockAttention,
    Capability,
    ModelInfo,
    ModelOutputs,
    View,
    WeightsInfo,
)
from harness.weights import WeightsChoice
from harness_mini.models import build_model
from harness_patchdrop.saliency_masks import UNITS
from harness_patchdrop.saliency_parameters import SalientDropParams
from harness_patchdrop.saliency_source import AttentionSource, GradientSource, MaskSource, source_of

IDS = [f"val/{i:03}.png" for i in range(3)]


@functools.cache
def mini(name):
    return build_model(name, weights=WeightsChoice(origin="pretrained"))


def context_of(*, side=56, **fields):
    given = {
        "seed": 0,
        "view": View(crop=side),
        "device": torch.device("cpu"),
        "dataset_fingerprint": "data",
        "num_classes": 12,
    }
    return PerturbationContext(**{**given, **fields})


def maps_of(source, batch):
    return source.maps(batch, range(len(batch)))


def wholes(shares):
    """Shares (N, cells) of each image's sum, in parts of UNITS."""
    shares = shares.double().numpy()
    return shares / shares.sum(axis=1, keepdims=True) * UNITS


def attending(weights, *, kind="global", prefix=("cls",), patches=4, capabilities=None):
    """A model of 2 blocks and ``patches`` patches of 28 px whose attention is ``weights`` (heads, queries, keys)."""
    side = math.isqrt(patches)

    class Attending:
        info = ModelInfo(
            name="attending",
            family="test",
            weights=WeightsInfo(origin="random", identity="random:attending:0"),
            view=View(crop=56),
            mean=(0.1, 0.2, 0.3),
            std=(0.5, 0.6, 0.7),
            label_space=None,
            num_classes=None,
            num_blocks=2,
            embed_dim=8,
            patch_size=56 // side,
            prefix=prefix,
            capabilities=frozenset({Capability.ATTENTION}) if capabilities is None else capabilities,
        )

        def __init__(self):
            self.seen = []

        def outputs(self, images, want):
            self.seen.append(images)
            attention = torch.as_tensor(weights)[None].expand(len(images), -1, -1, -1)
            return ModelOutputs(attention={i: BlockAttention(weights=attention, kind=kind) for i in want.attention})

        def to(self, device):
            return self

    return Attending()


# --- attention ---------------------------------------------------------------------------------------------------


def class_attention(name, images, block, prefixes):
    """softmax(q k^T / sqrt(d)) of the class token over the patches, head by head: (N, heads, patches)."""
    model = mini(name)
    net, mean, std = model.net, *(torch.tensor(v).view(1, 3, 1, 1) for v in (model.info.mean, model.info.std))
    with torch.no_grad():
        x = net.patch_embed((images - mean) / std)
        named = [net.cls_token, net.dist_token] if prefixes == 2 else [net.cls_token]
        x = torch.cat([*(token.expand(len(x), -1, -1) for token in named), x], dim=1) + net.pos_embed
        for layer in net.blocks[:block]:
            x = layer(x)
        attn = net.blocks[block].attn
        found = []
        for head in range(attn.num_heads):
            size = x.shape[2] // attn.num_heads
            rows = slice(head * size, (head + 1) * size)
            normed = net.blocks[block].norm1(x).double()
            weight, bias = attn.qkv.weight.double().chunk(3), attn.qkv.bias.double().chunk(3)
            q = normed[:, 0] @ weight[0][rows].T + bias[0][rows]
            k = normed @ weight[1][rows].T + bias[1][rows]
            logits = torch.einsum("nd,nkd->nk", q, k) / math.sqrt(size)
            exponents = (logits - logits.amax(dim=1, keepdim=True)).exp()
            found.append((exponents / exponents.sum(dim=1, keepdim=True))[:, prefixes:])
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(
    ("name", "prefixes", "block", "head"),
    [
        ("dino_mini", 1, -1, "mean"),
        ("dino_mini", 1, -1, "max"),
        ("dino_mini", 1, 2, 3),
        ("dino_mini", 1, -3, 1),
        ("deit_mini", 2, -1, "mean"),
    ],
)
def test_attention_is_the_softmax_of_queries_and_keys_worked_out_by_hand(batch_of, name, prefixes, block, head):
    batch = batch_of(IDS)
    source = AttentionSource(model=mini(name), context=context_of(), head=head, block=block)
    by_head = class_attention(name, batch.images, block % 6, prefixes)
    expected = {"mean": by_head.mean(1), "max": by_head.amax(1)}.get(head)
    expected = by_head[:, head] if expected is None else expected
    found = maps_of(source, batch)
    assert source.grid == (14, 14)
    assert found.dtype == np.int32
    assert (np.abs(found - wholes(expected)) <= 0.5 + 1e-5 * wholes(expected)).all()


def test_heads_differ_so_that_a_wrong_one_would_show(batch_of):
    batch = batch_of(IDS[:1])
    found = {
        head: tuple(maps_of(AttentionSource(model=mini("dino_mini"), context=context_of(), head=head), batch)[0])
        for head in (0, 1, 2, 3, "mean", "max")
    }
    assert len(set(found.values())) == 6


def test_the_row_asked_is_that_of_the_class_token_wherever_it_stands(batch_of):
    weights = torch.zeros(2, 7, 7)
    weights[:, 1, 3:] = torch.tensor([[0.1, 0.2, 0.3, 0.2], [0.3, 0.0, 0.1, 0.4]])
    model = attending(weights, prefix=("dist", "cls", "register0"))
    found = maps_of(AttentionSource(model=model, context=context_of(), block=0), batch_of(IDS[:1]))
    shares = torch.tensor([[0.4, 0.2, 0.4, 0.6]])
    assert np.abs(found - wholes(shares)).max() <= 1
    assert model.seen[0].shape[0] == 1


def test_where_class_tokens_alone_ask_their_rows_are_averaged(batch_of):
    weights = torch.tensor([[[0.5, 0.1, 0.1, 0.1, 0.2], [0.0, 0.4, 0.2, 0.4, 0.0]]])
    model = attending(weights, kind="class", prefix=())
    found = maps_of(AttentionSource(model=model, context=context_of()), batch_of(IDS[:1]))
    assert np.abs(found - wholes(torch.tensor([[0.25, 0.15, 0.25, 0.1]]))).max() <= 1


@pytest.mark.parametrize("name", ["patchconv_mini", "patchconv_mini_multi"])
def test_the_last_block_is_the_last_one_that_has_attention(batch_of, name):
    source = AttentionSource(model=mini(name), context=context_of())
    assert source.key["source"]["block"] == mini(name).info.attention_blocks[-1]
    assert maps_of(source, batch_of(IDS[:1])).shape == (1, 196)


def test_attention_that_is_no_map_of_patches_is_refused(batch_of):
    batch = batch_of(IDS[:1])
    square = torch.full((1, 5, 5), 0.2)
    for model in (
        attending(square, kind="window"),
        attending(square, prefix=("dist",)),
        attending(torch.full((1, 3, 3), 1 / 3)),
    ):
        with pytest.raises(CapabilityError) as caught:
            maps_of(AttentionSource(model=model, context=context_of()), batch)
        assert "self" in caught.value.hint
        assert "mask" in caught.value.hint
    with pytest.raises(CapabilityError, match="cnn_mini has no attention"):
        AttentionSource(model=mini("cnn_mini"), context=context_of())


def test_heads_and_blocks_that_are_not_there_are_refused_with_those_that_are(batch_of):
    with pytest.raises(ParameterError, match="has 4 heads"):
        maps_of(AttentionSource(model=mini("dino_mini"), context=context_of(), head=4), batch_of(IDS[:1]))
    with pytest.raises(ParameterError, match="0, 1, 2, 3, 4, 5"):
        AttentionSource(model=mini("dino_mini"), context=context_of(), block=6)
    with pytest.raises(ParameterError, match="with attention are 8"):
        AttentionSource(model=mini("patchconv_mini"), context=context_of(), block=3)
    with pytest.raises(ParameterError, match="block=-7"):
        AttentionSource(model=mini("dino_mini"), context=context_of(), block=-7)


def test_a_map_that_is_not_finite_is_an_error(batch_of):
    weights = torch.full((1, 5, 5), 0.2)
    weights[0, 0, 3] = torch.nan
    source = AttentionSource(model=attending(weights), context=context_of())
    with pytest.raises(DataError, match=r"001\.png"):
        source.maps(batch_of(IDS), [1])


def test_images_are_asked_about_one_by_one_and_only_those_wanted(batch_of):
    model, batch = attending(torch.full((1, 5, 5), 0.2)), batch_of(IDS)
    AttentionSource(model=model, context=context_of()).maps(batch, [2, 0])
    assert [images.shape[0] for images in model.seen] == [1, 1]
    assert torch.equal(torch.cat(model.seen), batch.images[[2, 0]])


# --- normalisation -----------------------------------------------------------------------------------------------


def test_with_the_classifiers_normalisation_the_network_sees_what_that_gives(batch_of):
    model, batch = attending(torch.full((1, 5, 5), 0.2)), batch_of(IDS[:1])
    classifier = mini("vit_mini")
    params = SalientDropParams(saliency="attending", saliency_norm="classifier")
    maps_of(source_of(params, {"saliency": model}, (14, 14), context_of(evaluated=classifier)), batch)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.info.mean, model.info.std))
    by_mean, by_std = (torch.tensor(v).view(1, 3, 1, 1) for v in (classifier.info.mean, classifier.info.std))
    inside, expected = (model.seen[0] - mean) / std, (batch.images - by_mean) / by_std
    assert torch.allclose(inside, expected, atol=1e-6)
    assert not torch.allclose(model.seen[0], batch.images, atol=0.1)


def test_the_classifiers_normalisation_needs_a_model_of_the_images_size_and_a_classifier():
    params = SalientDropParams(saliency="dino_mini", saliency_norm="classifier")
    given = {"saliency": mini("dino_mini")}
    with pytest.raises(ParameterError, match="takes 56 px and the images have 64"):
        source_of(params, given, (14, 14), context_of(side=64, evaluated=mini("vit_mini")))
    with pytest.raises(CapabilityError, match="no model that is evaluated"):
        source_of(params, given, (14, 14), context_of())
    for word in ("mask", "self", "gradient"):
        with pytest.raises(ParameterError, match="saliency_norm=classifier"):
            source_of(dataclasses.replace(params, saliency=word), {}, (14, 14), context_of(evaluated=mini("vit_mini")))


# --- which model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "refused"), [(27, True), (28, False), (56, False), (112, False), (113, True)])
def test_a_model_for_images_of_quite_another_size_is_refused(side, refused):
    context = context_of(side=side, models={"saliency": mini("dino_mini")})
    if not refused:
        assert source_of(SalientDropParams(), {}, (14, 14), context).grid == (14, 14)
        return
    with pytest.raises(ParameterError, match=f"dino_mini takes images of 56 px, and these have {side}") as caught:
        source_of(SalientDropParams(), {}, (14, 14), context)
    assert "dino_s16" in caught.value.hint


def test_the_evaluated_model_is_asked_whatever_the_size_of_the_images():
    context = context_of(side=224, evaluated=mini("vit_mini"))
    assert source_of(SalientDropParams(saliency="self"), {}, (14, 14), context).grid == (14, 14)


@pytest.mark.parametrize("saliency", ["self", "gradient"])
def test_self_needs_a_model_that_is_evaluated(saliency):
    with pytest.raises(CapabilityError, match="=self: there is no model that is evaluated"):
        source_of(SalientDropParams(saliency=saliency), {}, (14, 14), context_of())


def test_a_name_without_a_model_says_how_to_give_one():
    with pytest.raises(ParameterError, match="saliency=dino_mini: there is no model") as caught:
        source_of(SalientDropParams(), {}, (14, 14), context_of())
    assert "patchdrop_salient:saliency=NAME" in caught.value.hint
    with pytest.raises(ParameterError, match="gradient_of=mask"):
        source_of(SalientDropParams(saliency="gradient", gradient_of="mask"), {}, (14, 14), context_of())


@pytest.mark.parametrize("saliency", ["dino_mini", "self", "mask"])
def test_gradient_of_without_gradient_is_refused(saliency):
    with pytest.raises(ParameterError, match="gradient_of=vit_mini says nothing"):
        source_of(SalientDropParams(saliency=saliency, gradient_of="vit_mini"), {}, (14, 14), context_of())


# --- gradient ----------------------------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    """Logits W x + b of the pixels themselves, with parameters that could learn."""

    def __init__(self, side=6, classes=3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(classes, 3 * side * side, generator=generator))
        self.info = ModelInfo(
            name="linear",
            family="test",
            weights=WeightsInfo(origin="random", identity="random:linear:0"),
            view=View(crop=side),
            mean=(0, 0, 0),
            std=(1, 1, 1),
            label_space="test",
            num_classes=classes,
            num_blocks=0,
            embed_dim=0,
            heads=("head",),
            capabilities=frozenset({Capability.LOGITS, Capability.GRADIENTS}),
        )

    def outputs(self, images, want):
        return ModelOutputs(logits={"head": images.flatten(1) @ self.weight.T})


def test_gradient_of_a_linear_model_is_what_calculus_says(batch_of):
    batch, model = batch_of(IDS, height=6, width=6), Linear()
    source = GradientSource(model=model, context=context_of(side=6), grid=(2, 3))
    weight = model.weight.detach().double()
    logits = batch.images.double().flatten(1) @ weight.T
    chances = logits.softmax(dim=1)
    # d log p_c / dx = w_c - sum_k p_k w_k for the predicted class c.
    gradient = weight[logits.argmax(dim=1)] - chances @ weight
    sizes = gradient.abs().reshape(3, 3, 6, 6).sum(dim=1)
    expected = sizes.reshape(3, 2, 3, 3, 2).sum(dim=(2, 4)).reshape(3, 6)
    assert np.abs(maps_of(source, batch) - wholes(expected)).max() <= 0.5 + 1e-5 * UNITS
    assert model.weight.grad is None
    assert model.weight.requires_grad
    assert batch.images.grad is None
    assert not batch.images.requires_grad


def test_gradient_agrees_with_finite_differences_of_a_trained_network(batch_of):
    batch, model = batch_of(IDS[:1]), mini("vit_mini")
    net = model.net
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).double() for v in (model.info.mean, model.info.std))
    found = maps_of(GradientSource(model=model, context=context_of(), grid=(56, 56)), batch)[0] / UNITS
    pixels = [(c, y, x) for y, x in ((10, 10), (28, 30), (45, 17)) for c in range(3)]
    net = copy.deepcopy(net).double()
    with torch.no_grad():
        images = batch.images.double()
        label = int(net((images - mean) / std).argmax())

        def score(changed):
            return net((changed - mean) / std).log_softmax(dim=1)[0, label]

        slopes = []
        for c, y, x in pixels:
            step = torch.zeros_like(images)
            step[0, c, y, x] = 1e-5
            slopes.append(float((score(images + step) - score(images - step)) / 2e-5))
    sizes = np.abs(slopes).reshape(3, 3).sum(axis=1)
    expected = found[[10 * 56 + 10, 28 * 56 + 30, 45 * 56 + 17]]
    # The whole is not known here, ratios are.
    np.testing.assert_allclose(sizes / sizes.sum(), expected / expected.sum(), rtol=1e-3)


def test_gradient_is_the_same_where_the_caller_has_turned_gradients_off(batch_of):
    batch = batch_of(IDS[:2])
    source = GradientSource(model=mini("vit_mini"), context=context_of(), grid=(14, 14))
    expected = maps_of(source, batch)
    with torch.no_grad():
        assert (maps_of(source, batch) == expected).all()
    with torch.inference_mode():
        assert (maps_of(source, batch_of(IDS[:2])) == expected).all()


def test_gradient_needs_scores_and_gradients(batch_of):
    with pytest.raises(CapabilityError, match="dino_mini gives no logits"):
        GradientSource(model=mini("dino_mini"), context=context_of(), grid=(14, 14))
    frozen = Linear()
    frozen.info = without(frozen.info, frozenset({Capability.GRADIENTS}))
    with pytest.raises(CapabilityError, match="gives no gradients"):
        GradientSource(model=frozen, context=context_of(), grid=(2, 2))


# --- exact masks -------------------------------------------------------------------------------------------------


def test_mask_counts_the_pixels_of_the_foreground_in_each_cell(batch_of):
    masks = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0)) < 0.4
    masks[0, :4] = False
    batch = dataclasses.replace(batch_of(IDS[:2], height=9, width=7), masks=masks)
    expected = np.zeros((2, 2, 3), int)
    for i, y, x in zip(*np.nonzero(masks.numpy()), strict=True):
        expected[i, y * 2 // 9, x * 3 // 7] += 1
    found = maps_of(MaskSource(grid=(2, 3)), batch)
    assert (found == expected.reshape(2, 6)).all()
    assert found.dtype == np.int32


def test_an_image_without_foreground_is_salient_everywhere(batch_of):
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[1, 0, 0] = True
    batch = dataclasses.replace(batch_of(IDS[:2], height=8, width=8), masks=masks)
    assert maps_of(MaskSource(grid=(2, 2)), batch).tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]


def test_images_without_masks_are_refused_with_a_way_on(batch_of):
    with pytest.raises(CapabilityError, match="without masks") as caught:
        maps_of(MaskSource(grid=(2, 2)), batch_of(IDS[:1]))
    assert "shapes" in caught.value.hint


# --- what a stored map is filed under ----------------------------------------------------------------------------


def test_the_key_of_a_map_tells_all_that_it_depends_on():
    model = mini("dino_mini")

    def attention(*, context=None, of=model, **asked):
        return AttentionSource(model=of, context=context or context_of(), **asked).key

    other_weights = build_model("dino_mini", weights=WeightsChoice(origin="random"))
    keys = [
        attention(),
        attention(block=0),
        attention(head=0),
        attention(head="max"),
        attention(norm=mini("vit_mini").info),
        attention(of=other_weights),
        attention(of=mini("vit_mini")),
        attention(context=context_of(side=64)),
        attention(context=context_of(dataset_fingerprint="other")),
        GradientSource(model=mini("vit_mini"), context=context_of(), grid=(14, 14)).key,
        GradientSource(model=mini("vit_mini"), context=context_of(), grid=(7, 7)).key,
    ]
    assert all(keys.count(key) == 1 for key in keys)
    assert attention(block=-1) == attention(block=5)
    assert attention(context=context_of(seed=1, num_classes=3, num_images=9)) == attention()
    assert {"torch", "timm"} == set(attention()["versions"])
    assert MaskSource(grid=(2, 2)).key is None
