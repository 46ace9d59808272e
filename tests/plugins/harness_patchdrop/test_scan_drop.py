"""Scan-line drops against a loop over the cells of a scan."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from harness import rng
from harness_patchdrop.scan_drop import (
    CentreMaxScanDrop,
    CentreMinScanDrop,
    LinearScanDrop,
    SequentialScanDrop,
    scan_order,
    scan_shares,
)

IDS = tuple(f"val/{i:03}.png" for i in range(3))
DIRECTIONS = ("rows", "columns", "columns_reversed", "rows_reversed")
RANDOM = {"linear": LinearScanDrop, "center_max": CentreMaxScanDrop, "center_min": CentreMinScanDrop}


def cells_in_order(grid, direction):
    cells = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    if direction.startswith("columns"):
        cells.sort(key=lambda cell: (cell[1], cell[0]))
    return cells[::-1] if direction.endswith("reversed") else cells


def share(i, cells, profile):
    """Of the ratio, for the i-th of so many cells, written out from the profiles' description."""
    if profile == "linear":
        return Fraction(i + 1, cells)
    half = max(1, cells // 2)
    rise = Fraction(i + 1, half) if i < cells // 2 else Fraction(cells - i, half)
    rise = min(rise, Fraction(1))
    return rise if profile == "center_max" else 1 - rise


def pixels_of(cell, grid, size):
    (row, column), (height, width) = cell, size
    return [
        y * width + x
        for y in range(height)
        for x in range(width)
        if (y * grid[0] // height, x * grid[1] // width) == (row, column)
    ]


def slow_mask(name, size, grid, profile, direction, ratio):
    draws = rng.bits(0, "patchdrop", [name], size[0] * size[1])[0]
    mask = np.zeros(size[0] * size[1], bool)
    order = cells_in_order(grid, direction)
    for i, cell in enumerate(order):
        pixels = sorted(pixels_of(cell, grid, size), key=lambda pixel: draws[pixel])
        count = int(ratio * share(i, len(order), profile) * len(pixels))
        mask[pixels[:count]] = True
    return mask.reshape(size)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_scan_meets_every_cell_in_the_order_written_out(direction):
    order = scan_order((3, 5), direction).tolist()
    assert order == [row * 5 + column for row, column in cells_in_order((3, 5), direction)]


@pytest.mark.parametrize("profile", RANDOM)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("grid", "size"), [((4, 4), (24, 24)), ((3, 5), (13, 17)), ((1, 1), (5, 5))])
def test_masks_equal_the_loop_over_cells(batch_of, ready, applied, black, profile, direction, grid, size):
    batch = batch_of(IDS, height=size[0], width=size[1])
    perturbation = ready(RANDOM[profile](grid=grid, direction=direction))
    for tenths in (0, 3, 5, 10):
        after = applied(perturbation, batch, tenths / 10)
        for name, found, loss in zip(IDS, black(after), after.realised["information_loss"], strict=True):
            expected = slow_mask(name, size, grid, profile, direction, Fraction(tenths, 10))
            np.testing.assert_array_equal(found.numpy(), expected)
            assert float(loss) == expected.sum() / expected.size


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("tenths", [0, 4, 10])
def test_the_sequential_drop_takes_the_first_cells_whole(batch_of, ready, applied, black, direction, tenths):
    grid, size = (3, 5), (13, 17)
    batch = batch_of(IDS, height=size[0], width=size[1])
    after = applied(ready(SequentialScanDrop(grid=grid, direction=direction)), batch, tenths / 10)
    expected = np.zeros(size[0] * size[1], bool)
    for cell in cells_in_order(grid, direction)[: tenths * 15 // 10]:
        expected[pixels_of(cell, grid, size)] = True
    for found in black(after):
        np.testing.assert_array_equal(found.numpy().ravel(), expected)


@pytest.mark.parametrize("cells", [1, 2, 49, 196])
def test_shares_of_the_two_centred_profiles_add_up_to_one(cells):
    shares = zip(scan_shares(cells, "center_max"), scan_shares(cells, "center_min"), strict=True)
    assert all(Fraction(*up) + Fraction(*down) == 1 and 0 <= Fraction(*up) <= 1 for up, down in shares)


@pytest.mark.parametrize("profile", RANDOM)
def test_higher_ratios_drop_what_lower_ones_do_whatever_the_batch(batch_of, ready, applied, black, profile):
    batch, perturbation = batch_of(IDS), ready(RANDOM[profile]())
    state = perturbation.begin(batch)
    masks = [black(perturbation.apply(batch, state, level)) for level in (0.2, 0.5, 0.9)]
    for lower, higher in pairwise(masks):
        assert (higher | ~lower).all()
        assert higher.sum() > lower.sum()
    alone = black(applied(ready(RANDOM[profile]()), batch_of([IDS[2]]), 0.5))
    assert torch.equal(alone[0], masks[1][2])
