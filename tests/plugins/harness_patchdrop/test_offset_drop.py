"""The offset variant and PixelDrop against loops, the paper's sizes, and the masks of patchdrop_random."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness import rng
from harness_patchdrop.grids import drop_count
from harness_patchdrop.random_drop import OffsetPatchDrop, PixelDrop, RandomPatchDrop

IDS = tuple(f"val/{i:03}.png" for i in range(4))


def slow_offset(ids, grid, size, count, *, visible):
    """Pixel by pixel: the cell of the pixel half a cell up and left, in a torus or not."""
    height, width = size
    down, right = height // (2 * grid[0]), width // (2 * grid[1])
    ranks = rng.ranks(0, "patchdrop", ids, grid[0] * grid[1])
    masks = np.zeros((len(ids), height, width), bool)
    for y in range(height):
        for x in range(width):
            if visible and (y < down or x < right):
                continue
            from_y, from_x = (y - down) % height, (x - right) % width
            cell = (from_y * grid[0] // height) * grid[1] + from_x * grid[1] // width
            masks[:, y, x] = ranks[:, cell] < count
    return masks


@pytest.mark.parametrize("border", ["wrapped", "visible"])
@pytest.mark.parametrize(
    ("grid", "size"), [((14, 14), (56, 56)), ((4, 8), (57, 43)), ((7, 5), (40, 41)), ((1, 1), (9, 8))]
)
@pytest.mark.parametrize("level", [0.0, 0.3, 0.7, 1.0])
def test_masks_equal_the_loop_over_pixels(batch_of, ready, applied, black, grid, size, border, level):
    batch = batch_of(IDS[:2], height=size[0], width=size[1])
    after = applied(ready(OffsetPatchDrop(grid=grid, border=border)), batch, level)
    expected = slow_offset(batch.ids, grid, size, drop_count(level, grid[0] * grid[1]), visible=border == "visible")
    np.testing.assert_array_equal(black(after).numpy(), expected)
    losses = expected.reshape(len(batch), -1).sum(axis=1) / (size[0] * size[1])
    assert after.realised["information_loss"].tolist() == losses.tolist()


def test_wrapped_cells_lose_exactly_the_ratio(batch_of, ready, applied):
    batch = batch_of(IDS)
    for count, level in zip([19, 98, 176], [0.1, 0.5, 0.9], strict=True):
        after = applied(ready(OffsetPatchDrop()), batch, level)
        assert after.realised["information_loss"].tolist() == [count / 196] * len(IDS)


def test_a_visible_border_costs_each_mask_what_protocol_1_4_says(batch_of, ready, applied, black):
    """(M - dropped cells of the two sides shifted out / 2 - 3/4 of the corner cell) / 196, at half a cell of offset."""
    batch = batch_of(IDS, height=224, width=224)
    level, count = 0.5, 98
    aligned = black(applied(ready(RandomPatchDrop()), batch, level))[:, ::16, ::16]
    losses = applied(ready(OffsetPatchDrop(border="visible")), batch, level).realised["information_loss"]
    for mask, loss in zip(aligned, losses.tolist(), strict=True):
        edge = int(mask[-1, :-1].sum() + mask[:-1, -1].sum())
        corner = int(mask[-1, -1])
        assert loss == pytest.approx((count - edge / 2 - 3 / 4 * corner) / 196, abs=1e-12)


def test_a_visible_border_leaves_0_9298_of_the_ratio_in_expectation(batch_of, ready, applied):
    ids = [f"image-{i}" for i in range(600)]
    batch = batch_of(ids, height=28, width=28)  # cells of two pixels, so that half a cell is one
    losses = applied(ready(OffsetPatchDrop(border="visible")), batch, 0.5).realised["information_loss"]
    expected = 0.5 * (216 / 224) ** 2
    assert expected / 0.5 == pytest.approx(0.9298, abs=5e-5)
    assert float(losses.mean()) == pytest.approx(expected, abs=4 * float(losses.std()) / len(ids) ** 0.5)


def test_offset_cells_are_those_of_patchdrop_random(batch_of, ready, applied, black):
    batch = batch_of(IDS)
    shifted = black(applied(ready(OffsetPatchDrop(), seed=3), batch, 0.4))
    aligned = black(applied(ready(RandomPatchDrop(), seed=3), batch, 0.4))
    assert torch.equal(shifted, aligned.roll((2, 2), dims=(1, 2)))


@pytest.mark.parametrize("size", [(56, 56), (9, 17)])
@pytest.mark.parametrize("level", [0.0, 0.25, 0.9, 1.0])
def test_pixeldrop_drops_the_pixels_of_the_lowest_draws(batch_of, ready, applied, black, size, level):
    batch = batch_of(IDS, height=size[0], width=size[1])
    after = applied(ready(PixelDrop(), seed=1), batch, level)
    pixels = size[0] * size[1]
    expected = rng.ranks(1, "patchdrop", IDS, pixels) < drop_count(level, pixels)
    np.testing.assert_array_equal(black(after).flatten(1).numpy(), expected)
    assert after.realised["information_loss"].tolist() == [drop_count(level, pixels) / pixels] * len(IDS)


def test_pixeldrop_is_patchdrop_random_on_the_grid_of_pixels(batch_of, ready, applied):
    batch = batch_of(IDS)
    pixels = applied(ready(PixelDrop()), batch, 0.3)
    cells = applied(ready(RandomPatchDrop(grid=(56, 56))), batch, 0.3)
    assert torch.equal(pixels.images, cells.images)
