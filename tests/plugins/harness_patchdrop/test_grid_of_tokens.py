"""Grids relative to a model's tokens, and masks shared by groups of images."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness.errors import CapabilityError, ParameterError
from harness.params import coerce
from harness_patchdrop.grids import resolve_grid
from harness_patchdrop.parameters import RandomDropParams
from harness_patchdrop.random_drop import OffsetPatchDrop, PixelDrop, RandomPatchDrop
from harness_patchdrop.scan_drop import LinearScanDrop


def model(*, input_size=224, patch_size=16):
    return SimpleNamespace(info=SimpleNamespace(name="toy", input_size=input_size, patch_size=patch_size))


@pytest.mark.parametrize(
    ("grid", "patch_size", "cells"),
    [
        ("tokens", 16, (14, 14)),
        ("tokens", 32, (7, 7)),
        ("tokensx2", 16, (28, 28)),
        ("tokensx4", 32, (28, 28)),
        ("tokens/2", 16, (7, 7)),
        ("tokens/4", 8, (7, 7)),
        ((4, 8), 16, (4, 8)),
    ],
)
def test_grids_follow_the_tokens_of_the_model(grid, patch_size, cells):
    assert resolve_grid(grid, model(patch_size=patch_size)) == cells


def test_a_part_that_is_no_whole_number_is_refused():
    with pytest.raises(ParameterError, match="14 tokens a side of model toy do not divide by 4"):
        resolve_grid("tokens/4", model())


@pytest.mark.parametrize("nobody", [None, model(patch_size=None)])
def test_without_patches_there_is_no_grid_of_them(nobody):
    with pytest.raises(CapabilityError, match="grid=tokens"):
        resolve_grid("tokens", nobody)


def test_words_and_numbers_are_read_from_text():
    assert coerce(RandomDropParams, {"grid": "4x8"}, "x").grid == (4, 8)
    assert coerce(RandomDropParams, {"grid": "7"}, "x").grid == (7, 7)
    assert coerce(RandomDropParams, {"grid": "tokens/2"}, "x").grid == "tokens/2"
    for wrong in ("tokens/3", "1x2x3", "axb"):
        with pytest.raises(ParameterError, match="grid"):
            coerce(RandomDropParams, {"grid": wrong}, "x")


def test_the_grid_of_the_tokens_is_that_grid(batch_of, ready, applied):
    batch = batch_of(["a", "b"])
    relative = applied(ready(RandomPatchDrop(grid="tokens"), evaluated=model(input_size=56, patch_size=8)), batch, 0.5)
    assert torch.equal(relative.images, applied(ready(RandomPatchDrop(grid=(7, 7))), batch, 0.5).images)


@pytest.mark.parametrize("variant", [RandomPatchDrop, OffsetPatchDrop, PixelDrop, LinearScanDrop])
def test_images_of_one_group_share_a_mask_and_groups_do_not(batch_of, ready, applied, black, variant):
    ids = [f"image-{i}" for i in range(40)]
    perturbation = ready(variant(mask_scope="batch"), num_images=1000)
    after = applied(perturbation, batch_of(ids), 0.5)
    groups = after.realised["mask_group"].tolist()
    assert set(groups) == {0.0, 1.0, 2.0, 3.0}  # 1000 images are four batches of at most 256
    masks = {}
    for group, mask in zip(groups, black(after), strict=True):
        assert torch.equal(masks.setdefault(group, mask), mask)
    assert len({tuple(mask.flatten().tolist()) for mask in masks.values()}) == 4


def test_few_images_are_one_group_and_their_masks_do_not_depend_on_the_batch(batch_of, ready, applied):
    ids = [f"image-{i}" for i in range(6)]
    perturbation = ready(RandomPatchDrop(mask_scope="batch"), num_images=200)
    whole = applied(perturbation, batch_of(ids), 0.5)
    assert whole.realised["mask_group"].tolist() == [0.0] * 6
    assert torch.equal(applied(perturbation, batch_of(ids[4:]), 0.5).images, whole.images[4:])


def test_without_groups_none_are_recorded(batch_of, ready, applied):
    assert set(applied(ready(RandomPatchDrop()), batch_of(["a"]), 0.5).realised) == {"information_loss"}
