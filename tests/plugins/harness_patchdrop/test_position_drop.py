"""Drops by position against distances in fractions, cell by cell."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_patchdrop.position_drop import BorderPatchDrop, CentrePatchDrop, centre_distances

IDS = tuple(f"val/{i:03}.png" for i in range(4))
SIDES = st.integers(1, 12)


def exact_distance(grid, cell):
    row, column = divmod(cell, grid[1])
    return (Fraction(2 * row + 1, 2 * grid[0]) - Fraction(1, 2)) ** 2 + (
        Fraction(2 * column + 1, 2 * grid[1]) - Fraction(1, 2)
    ) ** 2


@given(SIDES, SIDES)
def test_distances_order_cells_as_exact_fractions_do(rows, columns):
    grid = (rows, columns)
    exact = [exact_distance(grid, cell) for cell in range(rows * columns)]
    found = centre_distances(grid).tolist()
    scale = (2 * rows * columns) ** 2
    assert [distance * scale for distance in exact] == found


@settings(max_examples=25, deadline=None)
@given(SIDES, SIDES, st.integers(0, 20))
def test_what_is_dropped_is_never_farther_than_what_is_kept(batch_of, ready, applied, black, rows, columns, twentieths):
    grid, batch = (rows, columns), batch_of(IDS[:2], height=rows * 2, width=columns * 2)
    exact = np.array([exact_distance(grid, cell) for cell in range(rows * columns)])
    for kind, sign in ((CentrePatchDrop, 1), (BorderPatchDrop, -1)):
        after = applied(ready(kind(grid=grid)), batch, twentieths / 20)
        for mask in black(after)[:, ::2, ::2].flatten(1).numpy():
            assert mask.sum() == twentieths * rows * columns // 20
            if 0 < mask.sum() < mask.size:
                assert (sign * exact[mask]).max() <= (sign * exact[~mask]).min()
        assert after.realised["information_loss"].tolist() == [mask.sum() / mask.size] * 2


def test_the_last_cells_of_one_are_the_first_of_the_other(batch_of, ready, applied, black):
    batch = batch_of(IDS)
    centre = black(applied(ready(CentrePatchDrop(grid=(3, 3))), batch, 1 / 9))
    border = black(applied(ready(BorderPatchDrop(grid=(3, 3))), batch, 4 / 9))
    assert centre[:, 28, 28].all()
    assert not border[:, 28, 28].any()
    assert border[:, ::55, ::55].all()


def test_ties_are_broken_for_each_image_and_by_no_seed(batch_of, ready, applied, black):
    ids = [f"image-{i}" for i in range(400)]
    batch = batch_of(ids, height=4, width=4)
    masks = black(applied(ready(CentrePatchDrop(grid=(2, 2))), batch, 0.25))[:, ::2, ::2].flatten(1)
    # Each of four equal cells in a quarter of the images: 100 with a standard deviation of 8.7.
    assert (masks.sum(dim=0) - 100).abs().max() < 5 * 8.7
    again = black(applied(ready(CentrePatchDrop(grid=(2, 2)), seed=9), batch, 0.25))[:, ::2, ::2].flatten(1)
    assert torch.equal(masks, again)


@pytest.mark.parametrize("kind", [CentrePatchDrop, BorderPatchDrop])
def test_levels_are_nested_and_images_are_independent_of_their_batch(batch_of, ready, applied, black, kind):
    batch, perturbation = batch_of(IDS), ready(kind())
    state = perturbation.begin(batch)
    masks = [black(perturbation.apply(batch, state, level)) for level in (0.1, 0.5, 0.9)]
    assert (masks[1] | ~masks[0]).all()
    assert (masks[2] | ~masks[1]).all()
    for i, name in enumerate(IDS):
        assert torch.equal(black(applied(ready(kind()), batch_of([name]), 0.5))[0], masks[1][i])
