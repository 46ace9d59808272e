"""Patch shuffle: blocks against a slow loop, orders as permutations, and models without positions, which see none."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

from harness import rng
from harness.errors import ParameterError
from harness.params import canonical, coerce
from harness.protocols import Perturbation
from harness.types import OutputSpec
from harness.weights import WeightsChoice
from harness_mini.models import build_model
from harness_patchdrop.plugin import harness_register_perturbations
from harness_patchdrop.shuffle import PatchShuffle, block_grid, block_order, inverse, shuffled

IDS = tuple(f"val/{i:03}.png" for i in range(6))

layouts = st.tuples(st.integers(1, 23), st.integers(1, 23)).flatmap(
    lambda size: st.tuples(st.just(size), st.tuples(st.integers(1, size[0]), st.integers(1, size[1])))
)


def slow_shuffle(image, order, grid):
    """The definition block by block, with block sizes and margins written out."""
    _, height, width = image.shape
    tall, wide = height // grid[0], width // grid[1]
    top, left = (height - grid[0] * tall) // 2, (width - grid[1] * wide) // 2
    result = image.clone()
    for place, block in enumerate(order):
        row, column = divmod(place, grid[1])
        from_row, from_column = divmod(int(block), grid[1])
        for y in range(tall):
            for x in range(wide):
                result[:, top + row * tall + y, left + column * wide + x] = image[
                    :, top + from_row * tall + y, left + from_column * wide + x
                ]
    return result


@pytest.mark.parametrize(
    ("blocks", "grid"),
    [
        (1, (1, 1)),
        (4, (2, 2)),
        (5, (1, 5)),
        (8, (2, 4)),
        (16, (4, 4)),
        (32, (4, 8)),
        (49, (7, 7)),
        (64, (8, 8)),
        (196, (14, 14)),
        (256, (16, 16)),
        (65536, (256, 256)),
    ],
)
def test_grids_of_the_authors_script(blocks, grid):
    assert block_grid(blocks) == grid


@given(st.integers(1, 3000))
def test_grids_are_the_most_nearly_square(blocks):
    rows, columns = block_grid(blocks)
    assert rows * columns == blocks
    assert rows <= columns
    assert not any(blocks % n == 0 for n in range(rows + 1, int(blocks**0.5) + 1))


def test_rows_can_be_asked_for_and_must_divide():
    assert block_grid(28, rows=2) == (2, 14)
    assert block_grid(28, rows=28) == (28, 1)
    assert block_grid(1, rows=2) == (1, 1)
    with pytest.raises(ParameterError, match="28 blocks do not make 3 rows"):
        block_grid(28, rows=3)


@settings(max_examples=40)
@given(layouts, st.integers(0, 99))
def test_blocks_go_where_the_loop_puts_them_and_come_back(layout, seed):
    size, grid = layout
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, *size, generator=generator)
    order = torch.stack([torch.randperm(grid[0] * grid[1], generator=generator) for _ in range(2)])
    mixed = shuffled(images, order, grid)
    for image, found, blocks in zip(images, mixed, order, strict=True):
        assert torch.equal(found, slow_shuffle(image, blocks, grid))
    assert torch.equal(shuffled(mixed, inverse(order), grid), images)
    assert torch.equal(mixed.flatten(2).sort(dim=2).values, images.flatten(2).sort(dim=2).values)


def test_gradients_travel_with_the_pixels():
    images = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(1))
    order = torch.stack([torch.tensor([3, 1, 0, 2]), torch.tensor([2, 3, 1, 0])])
    (shuffled(images, order, (2, 2)) * weights).sum().backward()
    assert torch.equal(images.grad, shuffled(weights, inverse(order), (2, 2)))


def test_the_perturbation_puts_the_blocks_in_the_drawn_order(batch_of, ready, applied):
    batch = batch_of(IDS, height=57, width=43)
    for blocks, grid in ((4, (2, 2)), (32, (4, 8)), (49, (7, 7))):
        after = applied(ready(PatchShuffle(), seed=5), batch, blocks)
        orders = block_order(5, IDS, blocks)
        for i, order in enumerate(orders):
            assert torch.equal(after.images[i], slow_shuffle(batch.images[i], order, grid))
        moved = [sum(place != block for place, block in enumerate(order)) / blocks for order in orders]
        area = (57 // grid[0]) * (43 // grid[1]) * blocks / (57 * 43)
        assert after.realised["displaced"].tolist() == moved
        assert after.realised["shuffled_area"].tolist() == [area] * len(IDS)
        assert {column.dtype for column in after.realised.values()} == {torch.float64}


def test_it_keeps_the_contract(batch_of, ready, applied):
    batch, perturbation = batch_of(IDS), ready(PatchShuffle())
    before = batch.images.clone()
    after = applied(perturbation, batch, 16)
    assert isinstance(perturbation, Perturbation)
    assert torch.equal(batch.images, before)
    assert (after.ids, after.images.shape, after.masks) == (batch.ids, batch.images.shape, None)
    assert after.realised["shuffled_area"].tolist() == [1.0] * len(IDS)


def test_foreground_masks_move_with_their_images(batch_of, ready, applied):
    batch = batch_of(IDS)
    batch = replace(batch, masks=batch.images[:, 0] > 0.5)
    after = applied(ready(PatchShuffle()), batch, 64)
    assert torch.equal(after.masks, after.images[:, 0] > 0.5)
    assert not torch.equal(after.masks, batch.masks)


def test_regions_and_what_was_taken_move_with_their_images(batch_of, ready, applied):
    batch = batch_of(IDS)
    regions = (batch.images[:, 0] * 200).to(torch.uint8)
    batch = replace(batch, regions=regions, taken=regions > 90)
    after = applied(ready(PatchShuffle()), batch, 16)
    assert torch.equal(after.regions, (after.images[:, 0] * 200).to(torch.uint8))
    assert torch.equal(after.taken, after.regions > 90)


def test_one_block_changes_nothing(batch_of, ready, applied):
    batch = batch_of(IDS)
    for rows in (None, 3):
        after = applied(ready(PatchShuffle(rows=rows)), batch, 1)
        assert torch.equal(after.images, batch.images)
        assert after.realised["displaced"].tolist() == [0.0] * len(IDS)


def test_an_order_that_moves_nothing_is_drawn_again_and_no_other():
    names = [f"{i}" for i in range(600)]
    for blocks in (2, 3, 4):
        allowed = rng.permutations(7, f"patchdrop.shuffle.{blocks}", names, blocks)
        excluded, unmoved = block_order(7, names, blocks), np.arange(blocks)
        np.testing.assert_array_equal(block_order(7, names, blocks, "allowed"), allowed)
        still = (allowed == unmoved).all(axis=1)
        assert 5 < still.sum() < 595
        assert not (excluded == unmoved).all(axis=1).any()
        np.testing.assert_array_equal(excluded[~still], allowed[~still])


def test_all_other_orders_are_equally_likely():
    names = [f"{i}" for i in range(5000)]
    times = Counter(tuple(row) for row in block_order(0, names, 3).tolist())
    # 5000 draws of probability 1/5: standard deviation 28.3.
    assert len(times) == 5
    assert max(abs(count - 1000) for count in times.values()) < 5 * 28.3


def test_an_image_keeps_its_order_in_any_batch(batch_of, ready, applied):
    whole = applied(ready(PatchShuffle(), seed=3), batch_of(IDS), 4)
    turned = applied(ready(PatchShuffle(), seed=3), batch_of(IDS[::-1]), 4)
    assert torch.equal(whole.images, turned.images.flip(0))
    for i, name in enumerate(IDS):
        assert torch.equal(applied(ready(PatchShuffle(), seed=3), batch_of([name]), 4).images[0], whole.images[i])


def test_images_of_a_group_share_their_order(batch_of, ready, applied):
    batch = batch_of([f"{i}" for i in range(12)])
    positions = torch.arange(56 * 56, dtype=torch.float32).view(1, 1, 56, 56) / (56 * 56)
    batch = batch.with_images(positions.expand(12, 3, 56, 56).contiguous())
    after = applied(ready(PatchShuffle(mask_scope="batch"), num_images=600), batch, 64)
    pictures = [image.numpy().tobytes() for image in after.images]
    groups = after.realised["mask_group"].tolist()
    assert 1 < len(set(groups)) <= 3
    assert len(set(zip(groups, pictures, strict=True))) == len(set(groups)) == len(set(pictures))


@pytest.mark.parametrize("level", [0, 0.5, 4.5, 65537, None])
def test_levels_that_are_no_number_of_blocks_are_refused(level, batch_of, ready, applied):
    with pytest.raises(ParameterError, match=r"patch_shuffle.*blocks"):
        applied(ready(PatchShuffle()), batch_of(IDS[:1]), level)


def test_more_blocks_than_pixels_are_refused(batch_of, ready, applied):
    with pytest.raises(ParameterError, match="64x64 blocks do not fit on 56x56 pixels"):
        applied(ready(PatchShuffle()), batch_of(IDS[:1]), 4096)


def test_a_seed_is_needed_first(batch_of):
    with pytest.raises(RuntimeError, match="prepare"):
        PatchShuffle().begin(batch_of(IDS[:1]))


@cache
def without_positions_at_224():
    """A random transformer of 16 px patches at 224 px, every parameter moved off its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = VisionTransformer(img_size=224, patch_size=16, embed_dim=48, depth=3, num_heads=3, pos_embed="none")
        for parameter in net.parameters():
            parameter.data.add_(0.05 * torch.randn(parameter.shape))
    return net.eval()


def mini_logits(name):
    model = build_model(name, weights=WeightsChoice())
    return lambda images: model.outputs(images, OutputSpec(logits=True)).logits["head"]


@torch.no_grad()
def changes(logits, batch, ready, applied):
    """By the number of blocks, the largest change of any logit."""
    clean, perturbation = logits(batch.images), ready(PatchShuffle())
    return {
        blocks: (logits(applied(perturbation, batch, blocks).images) - clean).abs().max().item()
        for blocks in (4, 49, 196, 16, 64, 256)
    }


def test_without_positions_the_trained_network_cannot_see_blocks_of_whole_patches(batch_of, ready, applied):
    found = changes(mini_logits("vit_mini_nopos"), batch_of(IDS), ready, applied)
    assert max(found[blocks] for blocks in (4, 49, 196)) <= 1e-5
    assert min(found[blocks] for blocks in (16, 64, 256)) > 0.01


def test_with_positions_the_trained_network_sees_every_shuffle(batch_of, ready, applied):
    assert min(changes(mini_logits("vit_mini"), batch_of(IDS), ready, applied).values()) > 0.01


def test_without_positions_a_random_network_at_224_cannot_either(batch_of, ready, applied):
    found = changes(without_positions_at_224(), batch_of(IDS[:2], height=224, width=224), ready, applied)
    assert max(found[blocks] for blocks in (4, 49, 196)) <= 1e-5
    assert min(found[blocks] for blocks in (16, 64, 256)) > 1e-3


def test_the_descriptor_agrees_with_the_perturbation():
    entry = next(entry for entry in harness_register_perturbations() if entry.name == "patch_shuffle")
    params = coerce(entry.params, {"rows": "2"}, entry.name)
    info = PatchShuffle(rows=params.rows).info
    assert (info.name, info.version, info.stage) == (entry.name, entry.version, entry.stage)
    assert (info.level, info.stochastic, info.params) == (entry.level, entry.stochastic, canonical(params))
    assert entry.level.values == (4, 8, 16, 32, 64, 196, 256)


def test_the_pixels_of_version_1_stay_what_they_are(batch_of, ready, applied):
    """A change here is a change of numerics: raise ``version`` in the descriptor together with the digest."""
    after = applied(ready(PatchShuffle(), seed=2), batch_of(IDS), 32)
    pixels = (after.images * 255).round().to(torch.uint8).numpy()
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert digest == "130a718b2562fd7a4039910d738032e773010dd24674036e5499a8ed92877b21"
