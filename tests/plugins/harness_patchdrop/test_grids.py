"""Grids: the paper's counts, cells that tile the image, and pixels against loops."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ParameterError
from harness_patchdrop.grids import cell_areas, cell_of_pixel, drop_count, to_pixels

sides = st.integers(1, 60).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))


@pytest.mark.parametrize(
    ("cells", "counts"),
    [
        (16, [0, 1, 3, 4, 6, 8, 9, 11, 12, 14]),
        (49, [0, 4, 9, 14, 19, 24, 29, 34, 39, 44]),
        (196, [0, 19, 39, 58, 78, 98, 117, 137, 156, 176]),
        (256, [0, 25, 51, 76, 102, 128, 153, 179, 204, 230]),
    ],
)
def test_counts_of_the_paper(cells, counts):
    assert [drop_count(k / 10, cells) for k in range(10)] == counts


@given(st.integers(1, 224 * 224), st.integers(1, 1000), st.data())
def test_counts_are_the_floor_of_the_exact_product(cells, parts, data):
    k = data.draw(st.integers(0, parts))
    assert drop_count(k / parts, cells) == Fraction(k, parts) * cells // 1


@pytest.mark.parametrize("cells", [10, 16, 49, 100, 196, 256, 1000, 50176])
def test_percentages_are_not_hurt_by_binary_fractions(cells):
    assert [drop_count(k / 100, cells) for k in range(101)] == [k * cells // 100 for k in range(101)]


@given(sides)
def test_cells_tile_a_side_in_order(side):
    length, cells = side
    owner = cell_of_pixel(length, cells)
    for i in range(cells):
        first, last = -(-i * length // cells), -(-(i + 1) * length // cells)
        assert (owner[first:last] == i).all()
    widths = np.bincount(owner, minlength=cells)
    assert widths.sum() == length
    assert widths.max() - widths.min() <= (0 if length % cells == 0 else 1)


@given(sides, sides)
def test_areas_are_counted_pixels(rows, columns):
    grid, size = (rows[1], columns[1]), (rows[0], columns[0])
    owner = to_pixels(torch.arange(grid[0] * grid[1])[None], grid, size)[0]
    assert owner.shape == size
    np.testing.assert_array_equal(cell_areas(grid, size), torch.bincount(owner.flatten()).numpy())


@given(sides, sides, st.integers(0, 99))
def test_pixels_take_the_value_of_their_cell(rows, columns, seed):
    grid, size = (rows[1], columns[1]), (rows[0], columns[0])
    cells = torch.rand(2, grid[0] * grid[1], generator=torch.Generator().manual_seed(seed)) < 0.5
    found = to_pixels(cells, grid, size)
    for y in range(0, size[0], 3):
        for x in range(0, size[1], 3):
            cell = (y * grid[0] // size[0]) * grid[1] + x * grid[1] // size[1]
            assert torch.equal(found[:, y, x], cells[:, cell])


@pytest.mark.parametrize(("grid", "size"), [((7, 7), (224, 224)), ((4, 8), (224, 224)), ((14, 14), (28, 42))])
def test_grids_that_divide_the_image_equal_nearest_interpolation(grid, size):
    cells = torch.rand(3, grid[0] * grid[1], generator=torch.Generator().manual_seed(0))
    reference = torch.nn.functional.interpolate(cells.view(3, 1, *grid), size=size, mode="nearest")
    assert torch.equal(to_pixels(cells, grid, size), reference[:, 0])


@pytest.mark.parametrize("cells", [0, 9])
def test_more_cells_than_pixels_are_refused(cells):
    with pytest.raises(ParameterError, match="side of 8 pixels"):
        cell_of_pixel(8, cells)
