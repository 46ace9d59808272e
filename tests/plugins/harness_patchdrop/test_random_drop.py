"""Random PatchDrop against a loop over cells: pixels, counts, losses, keys and the identity."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from harness import rng
from harness.errors import ParameterError
from harness.params import canonical, coerce
from harness.protocols import Perturbation, PerturbationContext
from harness.types import ImageBatch, View
from harness_patchdrop.plugin import harness_register_perturbations
from harness_patchdrop.random_drop import RandomPatchDrop


def batch_of(ids, *, height: int = 56, width: int = 56) -> ImageBatch:
    """Images without a black pixel, each a function of its id."""
    images = 0.25 + 0.75 * rng.dense_uniforms(0, "test.images", ids, (3, height, width))
    return ImageBatch(
        images=torch.from_numpy(images),
        labels=torch.arange(len(ids)),
        ids=tuple(ids),
        positions=np.arange(len(ids)),
    )


IDS = tuple(f"val/{i:03}.png" for i in range(6))


def prepared(*, seed: int = 0, grid=(14, 14)) -> RandomPatchDrop:
    perturbation = RandomPatchDrop(grid=grid)
    perturbation.prepare(
        PerturbationContext(
            seed=seed, view=View(crop=56), device=torch.device("cpu"), dataset_fingerprint="none", num_classes=2
        )
    )
    return perturbation


def apply(perturbation, batch, level) -> ImageBatch:
    return perturbation.apply(batch, perturbation.begin(batch), level)


def black(batch: ImageBatch) -> torch.Tensor:
    return (batch.images == 0).all(dim=1)


def slow_drop(batch, grid, count, seed):
    """The definition cell by cell, with the loss as an exact fraction."""
    images, losses = batch.images.clone(), []
    height, width = images.shape[2:]
    for i, ranks in enumerate(rng.ranks(seed, "patchdrop", batch.ids, grid[0] * grid[1])):
        pixels = 0
        for cell, rank in enumerate(ranks):
            if rank >= count:
                continue
            row, column = divmod(cell, grid[1])
            top, bottom = -(-row * height // grid[0]), -(-(row + 1) * height // grid[0])
            left, right = -(-column * width // grid[1]), -(-(column + 1) * width // grid[1])
            images[i, :, top:bottom, left:right] = 0
            pixels += (bottom - top) * (right - left)
        losses.append(Fraction(pixels, height * width))
    return images, losses


@pytest.mark.parametrize("grid", [(14, 14), (4, 8), (7, 7), (13, 5), (56, 40), (1, 1)])
@pytest.mark.parametrize("tenths", [0, 3, 7, 10])
def test_pixels_and_losses_equal_the_loop_over_cells(grid, tenths):
    batch = batch_of(IDS[:3], height=57, width=43)
    after = apply(prepared(seed=5, grid=grid), batch, tenths / 10)
    images, losses = slow_drop(batch, grid, tenths * grid[0] * grid[1] // 10, seed=5)
    assert torch.equal(after.images, images)
    assert after.realised["information_loss"].dtype == torch.float64
    assert after.realised["information_loss"].tolist() == [float(loss) for loss in losses]


@pytest.mark.parametrize("level", [k / 10 for k in range(10)])
def test_the_default_grid_drops_the_counts_of_the_paper(level):
    batch = batch_of(IDS)
    after = apply(prepared(), batch, level)
    counts = dict(zip([k / 10 for k in range(10)], [0, 19, 39, 58, 78, 98, 117, 137, 156, 176], strict=True))
    assert black(after).sum(dim=(1, 2)).tolist() == [counts[level] * 16] * len(IDS)
    assert after.realised["information_loss"].tolist() == [counts[level] / 196] * len(IDS)


def test_it_keeps_the_contract():
    batch = batch_of(IDS)
    perturbation = prepared()
    before = batch.images.clone()
    after = apply(perturbation, batch, 0.5)
    assert isinstance(perturbation, Perturbation)
    assert torch.equal(batch.images, before)
    assert (after.ids, after.images.dtype, after.images.shape) == (batch.ids, torch.float32, batch.images.shape)
    assert torch.equal(after.labels, batch.labels)
    kept = ~black(after)[:, None].expand_as(before)
    assert torch.equal(after.images[kept], before[kept])


def test_the_descriptor_agrees_with_the_perturbation():
    entry = next(entry for entry in harness_register_perturbations() if entry.name == "patchdrop_random")
    params = coerce(entry.params, {"grid": "4x8"}, entry.name)
    info = RandomPatchDrop(grid=params.grid).info
    assert (info.name, info.version, info.stage) == (entry.name, entry.version, entry.stage)
    assert (info.level, info.stochastic, info.params) == (entry.level, entry.stochastic, canonical(params))
    assert entry.loss in apply(prepared(), batch_of(IDS), 0.5).realised
    assert entry.level.values == tuple(k / 10 for k in range(10))


def test_ratio_0_changes_nothing_and_ratio_1_leaves_nothing():
    batch, perturbation = batch_of(IDS), prepared(grid=(13, 11))
    nothing, everything = apply(perturbation, batch, 0.0), apply(perturbation, batch, 1.0)
    assert torch.equal(nothing.images, batch.images)
    assert nothing.realised["information_loss"].tolist() == [0.0] * len(IDS)
    assert not everything.images.any()
    assert everything.realised["information_loss"].tolist() == [1.0] * len(IDS)


def test_what_a_ratio_drops_every_higher_ratio_drops():
    batch, perturbation = batch_of(IDS), prepared()
    state = perturbation.begin(batch)
    masks = [black(perturbation.apply(batch, state, level)) for level in (0.1, 0.25, 0.5, 0.9)]
    for lower, higher in pairwise(masks):
        assert (higher | ~lower).all()
        assert higher.sum() > lower.sum()


def test_an_image_keeps_its_mask_in_any_batch_and_order():
    whole = apply(prepared(seed=3), batch_of(IDS), 0.5)
    turned = apply(prepared(seed=3), batch_of(IDS[::-1]), 0.5)
    assert torch.equal(whole.images, turned.images.flip(0))
    for i, name in enumerate(IDS):
        assert torch.equal(apply(prepared(seed=3), batch_of([name]), 0.5).images[0], whole.images[i])


def test_masks_differ_between_images_and_between_seeds():
    masks = black(apply(prepared(), batch_of(IDS), 0.5)).flatten(1)
    assert len({tuple(mask.tolist()) for mask in masks}) == len(IDS)
    assert not torch.equal(masks, black(apply(prepared(seed=1), batch_of(IDS), 0.5)).flatten(1))


def test_no_global_generator_is_touched():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the one watched
    apply(prepared(), batch_of(IDS), 0.5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_every_cell_is_dropped_equally_often():
    ids = [f"image-{i}" for i in range(2000)]
    state = prepared(grid=(4, 4)).begin(batch_of(ids, height=4, width=4))
    times = state.order.first(4).sum(dim=0)
    # 2000 draws of 4 out of 16 cells: mean 500, standard deviation 19.4.
    assert (times - 500).abs().max() < 5 * 19.4


def test_gradients_pass_through_what_is_kept_only():
    batch = batch_of(IDS[:1])
    batch.images.requires_grad_()
    after = apply(prepared(), batch, 0.5)
    after.images.sum().backward()
    assert torch.equal(batch.images.grad, (~black(after))[:, None].expand_as(batch.images).float())


def test_realised_values_of_earlier_steps_are_kept():
    batch = batch_of(IDS[:2])
    batch = batch.with_images(batch.images, other=torch.ones(2, dtype=torch.float64))
    assert set(apply(prepared(), batch, 0.5).realised) == {"other", "information_loss"}


@pytest.mark.parametrize("level", [-0.1, 1.1, None])
def test_ratios_outside_the_range_are_refused(level):
    with pytest.raises(ParameterError, match="ratio"):
        apply(prepared(), batch_of(IDS[:1]), level)


def test_a_grid_finer_than_the_image_is_refused():
    with pytest.raises(ParameterError, match="57 cells does not fit on a side of 56"):
        apply(prepared(grid=(57, 7)), batch_of(IDS[:1]), 0.5)


def test_a_seed_is_needed_first():
    with pytest.raises(RuntimeError, match="prepare"):
        RandomPatchDrop().begin(batch_of(IDS[:1]))


def test_the_pixels_of_version_1_stay_what_they_are():
    """A change here is a change of numerics: raise ``version`` in the descriptor together with the digest."""
    after = apply(prepared(seed=2), batch_of(IDS), 0.5)
    pixels = (after.images * 255).round().to(torch.uint8).numpy()
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert digest == "fdd7b36cef452842609ca1c3f399105faedbb8944c485ff5f8fd84b4d3712379"
