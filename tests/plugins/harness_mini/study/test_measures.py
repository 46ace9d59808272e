"""Measurements against slow loops, NumPy, Pillow and what must not change: pixels moved, tokens permuted, no budget."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from fractions import Fraction
from itertools import pairwise

import matplotlib.colors
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness import rng
from harness.errors import CapabilityError
from harness.types import ImageBatch, OutputSpec
from harness.weights import WeightsChoice
from harness_mini.models import build_model
from harness_mini.shapes_dataset import Shapes
from harness_mini.study import measures
from harness_mini.study.measures import (
    CORRUPTIONS,
    Images,
    attacked,
    attention_maps,
    cells_blackened,
    centred_correlation,
    class_tokens,
    correct,
    corrupted,
    decisions,
    few_shot,
    fewest,
    jaccard,
    labels,
    most,
    pooled,
    shuffled,
    token_cosine,
)
from harness_mini.zoo import VIEW

LOGITS = OutputSpec(logits=True)


@pytest.fixture(scope="module")
def images():
    return Images(dataset=Shapes(), split="test", count=24)


@pytest.fixture(scope="module")
def batch(images):
    (only,) = images.batches()
    return only


@pytest.fixture(scope="module")
def model(tell_apart):
    """``model(name)``: untrained, and yet another answer for other images."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = build_model(name, weights=WeightsChoice(origin="random"))
            tell_apart(made[name].net)
        return made[name]

    return get


def of_pixels(pixels, masks=None, labels=None):
    n = len(pixels)
    return ImageBatch(
        images=torch.as_tensor(pixels, dtype=torch.float32),
        labels=torch.zeros(n, dtype=torch.int64) if labels is None else labels,
        ids=tuple(f"test/{i}" for i in range(n)),
        positions=np.arange(n),
        masks=masks,
    )


def rows(batch, chosen):
    return dataclasses.replace(
        batch,
        images=batch.images[chosen],
        labels=batch.labels[chosen],
        ids=tuple(batch.ids[i] for i in chosen),
        positions=batch.positions[chosen],
        masks=batch.masks[chosen],
        columns={name: column[chosen] for name, column in batch.columns.items()},
    )


# --- which images ------------------------------------------------------------------------------------------------


def test_images_are_the_first_of_the_split_in_order(monkeypatch):
    monkeypatch.setattr(measures, "_BATCH", 7)
    dataset = Shapes(images=24)
    for count, expected in ((17, 17), (24, 24), (1000, 24)):
        asked = Images(dataset=dataset, split="test", count=count)
        ids = [name for part in asked.batches() for name in part.ids]
        assert ids == [f"test/{i:06d}" for i in range(expected)]
        assert all(len(part) <= 7 for part in asked.batches())
        assert labels(asked).tolist() == [i % 12 for i in range(expected)]


def test_labels_of_a_column_are_that_columns():
    asked = Images(dataset=Shapes(), split="cue_conflict", count=144)
    (first, second) = asked.batches()
    for column in ("shape", "texture", "conflict"):
        expected = torch.cat([first.columns[column], second.columns[column]])
        assert labels(asked, column).tolist() == expected.tolist()
    assert labels(asked, "shape").tolist() != labels(asked, "texture").tolist()


def test_decisions_are_the_likeliest_class_of_the_head_asked_of(images, batch, model):
    distilled = model("deit_mini_shape")
    logits = distilled.outputs(batch.images, LOGITS).logits
    for head in ("average", "cls", "shape"):
        assert decisions(distilled, images, head=head).tolist() == logits[head].argmax(1).tolist()
    assert decisions(distilled, images).tolist() == logits["average"].argmax(1).tolist()
    assert len({tuple(scores.argmax(1).tolist()) for scores in logits.values()}) == 3
    right = [float(a == b) for a, b in zip(logits["cls"].argmax(1).tolist(), batch.labels.tolist(), strict=True)]
    assert correct(distilled, images, head="cls").tolist() == right


def test_a_change_is_made_before_the_model_decides(images, batch, model):
    def negative(images):
        return 1 - images.images

    expected = model("cnn_mini").outputs(1 - batch.images, LOGITS).logits["head"].argmax(1)
    assert decisions(model("cnn_mini"), images, negative).tolist() == expected.tolist()
    assert decisions(model("cnn_mini"), images).tolist() != expected.tolist()


# --- sets of cells -----------------------------------------------------------------------------------------------


def slow_most(saliency, mass):
    """From the most salient cell on until their exact sum holds ``mass``, the crossing cell included."""
    total = sum(map(Fraction, saliency))
    held, chosen = Fraction(0), set()
    for cell in sorted(range(len(saliency)), key=lambda cell: -saliency[cell]):
        if held >= Fraction(mass) * total:
            break
        chosen.add(cell)
        held += Fraction(saliency[cell])
    return chosen


MASSES = st.sampled_from([0.0, 0.125, 0.5, 0.625, 0.875, 1.0])
"""Exact in floating point, as whole numbers are, so that a sum that equals the mass is seen to."""
DISTINCT = st.lists(st.integers(1, 10**6), min_size=1, max_size=30, unique=True)


def chosen_of(selection):
    return [set(np.flatnonzero(row)) for row in selection.numpy()]


@settings(deadline=None, max_examples=200)
@given(values=DISTINCT, mass=MASSES)
def test_most_is_the_smallest_set_that_holds_the_mass(values, mass):
    assert chosen_of(most(torch.tensor([values], dtype=torch.float32), mass)) == [slow_most(values, mass)]


def test_the_crossing_cell_is_in_and_a_sum_that_just_holds_the_mass_needs_no_more():
    saliency = torch.tensor([[1.0, 4.0, 2.0, 1.0]])
    for mass, cells in ((0.5, {1}), (0.51, {1, 2}), (0.75, {1, 2}), (0.25, {1}), (0.99, {0, 1, 2, 3})):
        assert chosen_of(most(saliency, mass)) == [cells]


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), sharpness=st.sampled_from([0.1, 1.0, 30.0, 100.0]))
def test_no_mass_is_no_cell_and_all_mass_is_every_cell_that_has_any(seed, sharpness):
    """Of float32 softmaxes, too, whose sums miss one by rounding and whose smallest parts vanish beside the rest."""
    scores = sharpness * torch.randn(4, 196, generator=torch.Generator().manual_seed(seed))
    saliency = scores.softmax(dim=1)
    saliency[:, ::5] = 0
    assert not most(saliency, 0.0).any()
    assert torch.equal(most(saliency, 1.0), saliency > 0)


@settings(deadline=None, max_examples=100)
@given(values=st.lists(st.integers(0, 5), min_size=4, max_size=30).filter(any), mass=MASSES)
def test_the_most_and_the_fewest_make_up_all_cells(values, mass):
    """Ties included: no cell is both in and out."""
    saliency = torch.tensor([values, values[::-1]], dtype=torch.float32)
    salient = most(saliency, mass)
    assert torch.equal(fewest(saliency, (~salient).sum(dim=1)), ~salient)


def test_sets_grow_with_the_mass():
    saliency = torch.rand(8, 196, generator=torch.Generator().manual_seed(0)).pow(4)
    nested = [most(saliency, k / 20) for k in range(21)]
    for smaller, larger in pairwise(nested):
        assert not (smaller & ~larger).any()
    held = [(saliency * chosen).sum(1) / saliency.sum(1) for chosen in nested]
    assert all((share >= k / 20 - 1e-6).all() for k, share in enumerate(held))


def test_the_fewest_are_the_least_salient():
    saliency = torch.rand(5, 30, generator=torch.Generator().manual_seed(1))
    counts = torch.tensor([0, 1, 7, 29, 30])
    for row, count, found in zip(saliency.numpy(), counts.tolist(), chosen_of(fewest(saliency, counts)), strict=True):
        assert found == set(np.argsort(row)[:count])


def test_cells_turn_black_and_all_else_stays():
    pixels = torch.rand(3, 3, 56, 56, generator=torch.Generator().manual_seed(2)) + 0.1
    dropped = torch.rand(3, 196, generator=torch.Generator().manual_seed(3)) < 0.4
    expected = pixels.clone()
    for i, cell in dropped.nonzero().tolist():
        y, x = 4 * (cell // 14), 4 * (cell % 14)
        expected[i, :, y : y + 4, x : x + 4] = 0
    before = pixels.clone()
    assert torch.equal(cells_blackened(dropped, pixels), expected)
    assert torch.equal(pixels, before)


# --- shuffles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2, 4, 7, 8, 14])
def test_a_shuffle_moves_whole_blocks_and_every_block_once(side):
    # Every pixel's number says where it comes from.
    numbered = torch.arange(56 * 56, dtype=torch.float32).view(1, 1, 56, 56).expand(3, 3, -1, -1).contiguous()
    moved = shuffled(side)(of_pixels(numbered))
    block = 56 // side
    for image in moved[:, 0]:
        assert torch.equal(image.flatten().sort().values, numbered[0, 0].flatten())
        blocks = image.view(side, block, side, block).transpose(1, 2)
        for part in blocks.flatten(0, 1):
            origin = int(part[0, 0])
            assert origin % 56 % block == origin // 56 % block == 0
            assert torch.equal(part, numbered[0, 0].view(56, 56)[origin // 56 :, origin % 56 :][:block, :block])
    assert torch.equal(moved[:, 0], moved[:, 2])


def test_every_image_is_shuffled_in_its_own_way_whatever_the_batch(batch):
    change = shuffled(14)
    same = dataclasses.replace(batch, images=batch.images[:1].expand(24, -1, -1, -1).contiguous())
    assert len({hashlib.sha256(image.numpy().tobytes()).digest() for image in change(same)}) == 24
    order = [5, 1, 17]
    assert torch.equal(change(rows(batch, order)), change(batch)[order])
    assert not torch.equal(shuffled(14, seed=1)(batch), change(batch))


@pytest.mark.parametrize("side", [14, 7, 2])
def test_without_positions_a_transformer_does_not_notice_shuffles_along_its_patches(batch, model, side):
    change = shuffled(side)
    clean, moved = (model("vit_mini_nopos").outputs(x, LOGITS).logits["head"] for x in (batch.images, change(batch)))
    assert (change(batch) != batch.images).any()
    torch.testing.assert_close(moved, clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [4, 8])
def test_it_notices_shuffles_that_cut_its_patches(batch, model, side):
    clean, moved = (
        model("vit_mini_nopos").outputs(x, LOGITS).logits["head"] for x in (batch.images, shuffled(side)(batch))
    )
    assert (moved - clean).abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize("side", [2, 4, 7, 8, 14])
def test_with_positions_a_transformer_notices_every_shuffle(batch, model, side):
    clean, moved = (model("vit_mini").outputs(x, LOGITS).logits["head"] for x in (batch.images, shuffled(side)(batch)))
    stayed = (shuffled(side)(batch) == batch.images).flatten(1).all(dim=1)
    assert (moved - clean).abs().amax(dim=1)[~stayed].min() > 1e-3
    assert not stayed.all()


# --- corruptions -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colours():
    """Random colours of every kind: dark and light, grey, black and white, each pixel its own."""
    pixels = np.random.default_rng(0).uniform(size=(4, 3, 56, 56)).round(3)
    pixels[0] = pixels[0, :1]
    pixels[1, :, :8], pixels[1, :, 8:16] = 0, 1
    pixels[2] *= 0.1
    pixels[3] = 0.9 + 0.1 * pixels[3]
    return of_pixels(pixels)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupted_images_are_images(batch, colours, name):
    for clean in (batch, colours):
        before = clean.images.clone()
        found = corrupted(name)(clean)
        assert (found.shape, found.dtype) == (clean.images.shape, torch.float32)
        assert found.min() >= 0
        assert found.max() <= 1
        assert (found != clean.images).flatten(1).any(dim=1).all()
        assert torch.equal(clean.images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_depends_on_the_image_and_not_on_its_batch(batch, name):
    order = [9, 2, 20]
    torch.testing.assert_close(corrupted(name)(rows(batch, order)), corrupted(name)(batch)[order])


def test_gaussian_noise_is_normal_of_the_third_severity():
    grey = of_pixels(np.full((8, 3, 56, 56), 0.5))
    noise = (CORRUPTIONS["gaussian_noise"](grey) - 0.5).double().numpy()
    assert noise.std() == pytest.approx(0.18, rel=0.01)
    assert abs(noise.mean()) < 0.003
    assert abs((noise**4).mean() / noise.var() ** 2 - 3) < 0.1
    independent = np.corrcoef(noise.reshape(24, -1))
    assert np.abs(independent - np.eye(24)).max() < 0.1
    np.testing.assert_allclose(corrupted("gaussian_noise")(grey), (noise + 0.5).clip(0, 1), atol=1e-6)


def test_impulse_noise_makes_as_much_salt_as_pepper_and_leaves_the_rest(colours):
    grey = of_pixels(np.full((8, 3, 56, 56), 0.5))
    found = corrupted("impulse_noise")(grey)
    assert set(found.unique().tolist()) == {0.0, 0.5, 1.0}
    for value in (0.0, 1.0):
        assert float((found == value).float().mean()) == pytest.approx(0.045, abs=0.003)
    # Channels are hit apart, as scikit-image's salt and pepper does.
    assert float((found != 0.5).any(dim=1).float().mean()) == pytest.approx(1 - (1 - 0.09) ** 3, abs=0.01)
    changed = corrupted("impulse_noise")(colours)
    assert ((changed == colours.images) | (changed == 0) | (changed == 1)).all()


def test_brightness_is_added_to_the_value_of_hue_saturation_and_value(colours):
    hsv = matplotlib.colors.rgb_to_hsv(np.moveaxis(colours.images.double().numpy(), 1, -1))
    hsv[..., 2] = (hsv[..., 2] + 0.3).clip(0, 1)
    expected = np.moveaxis(matplotlib.colors.hsv_to_rgb(hsv), -1, 1)
    np.testing.assert_allclose(corrupted("brightness")(colours), expected, atol=1e-5)


def test_contrast_is_a_fifth_of_what_it_was_about_each_channels_mean(colours):
    pixels = colours.images.double().numpy()
    means = pixels.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(corrupted("contrast")(colours), (pixels - means) * 0.2 + means, atol=1e-6)


def test_pixels_are_grown_as_pillow_grows_them(colours):
    """Down to 0.4 of the side and up again, by boxes, as in ImageNet-C."""
    for found, image in zip(corrupted("pixelate")(colours), colours.images.numpy(), strict=True):
        for mine, channel in zip(found.numpy(), image, strict=True):
            small = Image.fromarray(channel).resize((22, 22), Image.Resampling.BOX)
            expected = np.asarray(small.resize((56, 56), Image.Resampling.BOX))
            np.testing.assert_allclose(mine, expected, atol=1e-6)


# --- attacks -----------------------------------------------------------------------------------------------------

EPS = 1 / 255
BUDGET = {"eps": EPS, "step": EPS / 2, "steps": 5}


def per_image_loss(model, pixels, labels):
    scores = model.outputs(pixels, LOGITS).logits[model.info.heads[0]]
    return torch.nn.functional.cross_entropy(scores, labels, reduction="none")


@pytest.mark.parametrize("name", ["vit_mini", "cnn_mini", "deit_mini"])
def test_an_attack_keeps_to_its_ball_and_to_images_and_raises_the_loss(batch, model, name):
    before = batch.images.clone()
    found = attacked(model(name), **BUDGET)(batch)
    assert torch.equal(batch.images, before)
    assert not found.requires_grad
    assert (found - batch.images).abs().max() <= EPS + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    clean, attacked_loss = (per_image_loss(model(name), x, batch.labels) for x in (batch.images, found))
    assert (attacked_loss > clean).all()
    signs = torch.randn(found.shape, generator=torch.Generator().manual_seed(0)).sign()
    noisy = per_image_loss(model(name), (batch.images + EPS * signs).clamp(0, 1), batch.labels)
    assert (attacked_loss - clean).mean() > 3 * (noisy - clean).abs().mean()


def test_an_attack_keeps_to_images_at_black_and_white(model):
    pixels = (torch.rand(6, 3, 56, 56, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    found = attacked(model("vit_mini"), eps=0.1, step=0.05, steps=3)(of_pixels(pixels))
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found - pixels).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("name", ["vit_mini", "cnn_mini"])
def test_one_step_of_the_whole_budget_from_the_image_itself_is_the_fast_gradient_sign(batch, model, name, monkeypatch):
    # The random start is eps * (2 u - 1), and u = 1/2 starts at the image.
    monkeypatch.setattr(rng, "dense_uniforms", lambda seed, stream, ids, shape: np.full((len(ids), *shape), 0.5, "f4"))
    found = attacked(model(name), eps=EPS, step=EPS, steps=1)(batch)
    pixels = batch.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(per_image_loss(model(name), pixels, batch.labels).sum(), pixels)
    assert (slope == 0).float().mean() < 0.01
    torch.testing.assert_close(found, (batch.images + EPS * slope.sign()).clamp(0, 1), rtol=0, atol=1e-6)


def test_no_budget_is_the_clean_image(batch, model):
    assert torch.equal(attacked(model("vit_mini"), eps=0.0, step=EPS, steps=3)(batch), batch.images)


def test_an_attack_starts_anywhere_in_its_ball_by_image_and_seed(batch, model):
    def start(seed=0, clean=batch):
        return attacked(model("cnn_mini"), eps=EPS, step=0.0, steps=1, seed=seed)(clean)

    off = (start() - batch.images) / EPS
    assert off.std() == pytest.approx(1 / math.sqrt(3), rel=0.02)
    assert torch.equal(start(clean=rows(batch, [3, 20])), start()[[3, 20]])
    assert not torch.equal(start(seed=1), start())


# --- inside the model --------------------------------------------------------------------------------------------


def test_attention_maps_are_rows_of_the_last_block_over_the_patches_alone(batch, model):
    for name, token in (("vit_mini", "cls"), ("deit_mini_shape", "cls"), ("deit_mini_shape", "shape")):
        found = attention_maps(model(name), batch.images, token)
        prefix = model(name).info.prefix
        weights = model(name).outputs(batch.images, OutputSpec(attention=frozenset({5}))).attention[5].weights
        row = weights[:, :, prefix.index(token), len(prefix) :]
        assert found.shape == (24, 4, 196)
        torch.testing.assert_close(found, row / row.sum(dim=2, keepdim=True))
        torch.testing.assert_close(found.sum(dim=2), torch.ones(24, 4))


def test_attention_of_a_token_that_is_not_there_is_refused(batch, model):
    with pytest.raises(CapabilityError, match=r"vit_mini has no shape token; its prefix tokens are \('cls',\)"):
        attention_maps(model("vit_mini"), batch.images, "shape")


@pytest.mark.parametrize("mass", [0.6, 0.9])
def test_jaccard_is_that_of_the_best_head_pixel_by_pixel(images, batch, model, mass):
    found = jaccard(model("deit_mini"), images, mass=mass, token="dist")
    maps = attention_maps(model("deit_mini"), batch.images, "dist")
    for score, heads, mask in zip(found, maps, batch.masks.numpy(), strict=True):
        by_head = []
        for saliency in heads:
            cells = slow_most(saliency.tolist(), mass)
            inside = np.array([[14 * (y // 4) + x // 4 in cells for x in range(56)] for y in range(56)])
            by_head.append((inside & mask).sum() / (inside | mask).sum())
        assert score == pytest.approx(max(by_head), abs=1e-12)
    assert len(set(found)) > 12


def test_token_cosine_is_that_of_the_class_and_the_second_token(images, batch, model):
    found = token_cosine(model("deit_mini"), images)
    net = model("deit_mini").net
    with torch.no_grad():
        tokens = net.forward_features((batch.images - 0.5) / 0.25).double().numpy()
    first, second = tokens[:, 0], tokens[:, 1]
    expected = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (np.abs(found) < 0.999).all()


def test_class_tokens_stand_side_by_side_after_the_norm(images, batch, model):
    net, blocks = model("vit_mini").net, (2, 4, 5)
    found = class_tokens(model("vit_mini"), images, blocks)
    with torch.no_grad():
        given = net.forward_intermediates(
            (batch.images - 0.5) / 0.25, indices=blocks, norm=True, return_prefix_tokens=True, intermediates_only=True
        )
    expected = torch.cat([prefix[:, 0] for _, prefix in given], dim=1)
    assert found.shape == (24, 3 * 64)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(class_tokens(model("vit_mini"), images, (5,)), pooled(model("vit_mini"), images))


@pytest.mark.parametrize("name", ["vit_mini", "cnn_mini"])
def test_pooled_is_what_enters_the_head(images, batch, model, name):
    net = model(name).net
    for change, pixels in ((None, batch.images), (corrupted("contrast"), corrupted("contrast")(batch))):
        with torch.no_grad():
            expected = net.forward_head(net.forward_features((pixels - 0.5) / 0.25), pre_logits=True)
        np.testing.assert_allclose(pooled(model(name), images, change), expected, atol=1e-4)


# --- correlation -------------------------------------------------------------------------------------------------


@pytest.fixture
def tables():
    random = np.random.default_rng(0)
    clean = random.normal(size=(20, 16)) + 5 * random.normal(size=16)
    return clean, clean + random.normal(size=(20, 16))


def test_correlation_is_pearsons_of_rows_less_the_mean_row(tables):
    clean, changed = tables
    mean = clean.mean(axis=0)
    expected = [np.corrcoef(a - mean, b - mean)[0, 1] for a, b in zip(clean, changed, strict=True)]
    np.testing.assert_allclose(centred_correlation(clean, changed), expected, atol=1e-12)
    assert np.ptp(expected) > 0.1


def test_every_row_correlates_wholly_with_itself(tables):
    np.testing.assert_allclose(centred_correlation(tables[0], tables[0]), 1, atol=1e-12)


def test_correlation_does_not_depend_on_scale_origin_or_order_of_features(tables):
    clean, changed = tables
    expected = centred_correlation(clean, changed)
    order = np.random.default_rng(1).permutation(16)
    for same in (lambda x: 3 * x, lambda x: x + np.arange(16), lambda x: 2 - x, lambda x: x[:, order]):
        np.testing.assert_allclose(centred_correlation(same(clean), same(changed)), expected, atol=1e-9)
    np.testing.assert_allclose(centred_correlation(clean, changed + 7), expected, atol=1e-9)


def test_centring_tells_images_apart_that_share_most_of_their_features(tables):
    clean, _ = tables
    others = np.roll(clean, 1, axis=0)
    plain = [np.corrcoef(a, b)[0, 1] for a, b in zip(clean, others, strict=True)]
    assert np.mean(plain) > 0.9
    assert abs(centred_correlation(clean, others).mean()) < 0.2


# --- few shots ---------------------------------------------------------------------------------------------------


def clusters(noise, seed, each=20, classes=4):
    random = np.random.default_rng(seed)
    found = np.repeat(np.arange(classes), each)
    return np.eye(classes)[found] + noise * random.normal(size=(classes * each, classes)), found.astype(np.float64)


def test_classes_that_lie_apart_are_told_apart_by_few_shots():
    support, query = clusters(0.05, seed=0), clusters(0.05, seed=1)
    found = few_shot(*support, *query, shots=5, draws=3)
    assert found.shape == (80,)
    assert (found == 1).all()


def test_noise_is_classified_by_chance():
    support, query = clusters(1e6, seed=0, each=200), clusters(1e6, seed=1, each=200)
    found = few_shot(*support, *query, shots=5, draws=20)
    assert found.mean() == pytest.approx(0.25, abs=0.03)


def test_few_shots_are_those_of_the_formula_draw_by_draw():
    """As many of each class in every draw, another draw each time, lengths of vectors without meaning."""
    from sklearn.linear_model import LogisticRegression

    (support, known), (query, truth) = clusters(0.6, seed=0), clusters(0.6, seed=1)
    found = few_shot(support, known, query, truth, shots=3, draws=4)
    right, draws = np.zeros(80), []
    for draw in range(4):
        chosen = []
        for label in range(4):
            order = rng.permutations(draw, "mini.fewshot", [str(label)], 20)[0]
            chosen += (20 * label + order[:3]).tolist()
        draws.append(tuple(chosen))
        x, q = (z / np.sqrt((z**2).sum(axis=1))[:, None] for z in (support[chosen], query))
        right += LogisticRegression(C=1.0, max_iter=1000).fit(x, known[chosen]).predict(q) == truth
    np.testing.assert_allclose(found, right / 4)
    assert len(set(draws)) == 4
    assert 0.3 < found.mean() < 1
    lengths = np.random.default_rng(2).uniform(0.1, 10, (80, 1))
    np.testing.assert_allclose(few_shot(lengths * support, known, lengths * query, truth, shots=3, draws=4), found)


def test_the_order_of_queries_does_not_matter():
    (support, known), (query, truth) = clusters(0.6, seed=0), clusters(0.6, seed=1)
    order = np.random.default_rng(3).permutation(80)
    found = few_shot(support, known, query, truth, shots=3, draws=2)
    np.testing.assert_array_equal(few_shot(support, known, query[order], truth[order], shots=3, draws=2), found[order])


def test_views_are_those_of_the_zoo(batch):
    assert batch.images.shape[2:] == (VIEW.crop, VIEW.crop)
