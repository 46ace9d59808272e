"""Numbers of maps against closed forms, slow loops, torchvision-free resizing by hand, and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.stats import bootstrap_mean, bootstrap_statistic
from harness_inspect.map_numbers import (
    cell_shares,
    entropy_bits,
    many_mean_rows,
    mean_rows,
    object_rows,
    on_object,
    ratio_rows,
)


def shares_by_hand(pixels, grid):
    """Each pixel cut into as many equal parts as there are cells a side, so that cells hold whole numbers of parts."""
    n, height, width = pixels.shape
    rows, columns = grid
    fine = pixels.repeat(rows, axis=1).repeat(columns, axis=2)
    return fine.reshape(n, rows, height, columns, width).mean(axis=(2, 4)).reshape(n, -1)


class TestCellShares:
    @settings(deadline=None, max_examples=30)
    @given(
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
        seed=st.integers(0, 100),
    )
    def test_every_pixel_counts_with_the_part_that_lies_in_a_cell(self, size, grid, seed):
        pixels = np.random.default_rng(seed).random((2, *size)) < 0.5
        found = cell_shares(torch.from_numpy(pixels), grid)
        np.testing.assert_allclose(found, shares_by_hand(pixels, grid), atol=1e-12)
        np.testing.assert_allclose(found.mean(axis=1), pixels.mean(axis=(1, 2)), atol=1e-12)

    def test_all_and_nothing_are_exact(self):
        full = torch.ones(1, 224, 224, dtype=torch.bool)
        for grid in ((14, 14), (13, 13), (7, 7), (27, 27)):
            assert (cell_shares(full, grid) == 1).all()
            assert (cell_shares(~full, grid) == 0).all()

    def test_whole_patches_are_whole_cells(self):
        pixels = torch.zeros(1, 32, 32, dtype=torch.bool)
        pixels[0, 8:16, 24:32] = True
        assert cell_shares(pixels, (4, 4))[0].tolist() == [float(cell == 7) for cell in range(16)]


class TestEntropy:
    def test_closed_forms(self):
        uniform, single = np.full((1, 196), 1 / 196), np.eye(196)[:1]
        assert entropy_bits(uniform)[0] == pytest.approx(math.log2(196))
        assert entropy_bits(single)[0] == 0
        assert not np.signbit(entropy_bits(single)[0])
        assert entropy_bits(np.array([0.5, 0.25, 0.25, 0.0])) == pytest.approx(1.5)

    def test_scipy_agrees(self):
        maps = np.random.default_rng(0).dirichlet(np.full(49, 0.3), size=(3, 2))
        np.testing.assert_allclose(entropy_bits(maps), scipy_stats.entropy(maps, base=2, axis=-1))


class TestMeans:
    values = np.random.default_rng(1).gamma(2.0, size=(3, 40))
    dims = tuple({"block": block} for block in range(3))

    def test_rows_have_the_intervals_that_each_has_alone(self):
        rows = mean_rows("depth", self.values, self.dims, unit="px", higher_is_better=None)
        for row, values, dims in zip(rows, self.values, self.dims, strict=True):
            alone = bootstrap_mean(values)
            assert (row.low, row.high) == pytest.approx((alone.low, alone.high), rel=1e-12)
            assert row.interval == alone.method
            assert (row.value, row.n, row.dims, row.unit) == (values.mean(), 40, dims, "px")

    def test_many_rows_have_those_of_student(self):
        for row, values in zip(many_mean_rows("depth", self.values, self.dims), self.values, strict=True):
            low, high = scipy_stats.t.interval(0.95, 39, values.mean(), scipy_stats.sem(values))
            assert (row.low, row.high) == pytest.approx((low, high))
            assert row.interval == "t95"

    def test_one_image_has_no_spread(self):
        (many,) = many_mean_rows("depth", [[2.0]], [{}])
        (one,) = mean_rows("depth", [[2.0]])
        (ratio,) = ratio_rows("depth", [[2.0]], [[4.0]])
        assert [(row.value, row.low, row.high, row.interval) for row in (many, one, ratio)] == [
            (2.0, None, None, None),
            (2.0, None, None, None),
            (0.5, None, None, None),
        ]

    def test_equal_values_lie_in_their_interval(self):
        (row,) = mean_rows("depth", np.full(37, 116.49222709176634))
        assert row.low <= row.value <= row.high
        assert row.high - row.low < 1e-9

    def test_ratios_are_those_of_means_over_the_same_images(self):
        above, below = self.values[:2], self.values[1:]
        rows = ratio_rows("lift", above, below, self.dims[:2])
        for row, top, bottom in zip(rows, above, below, strict=True):
            alone = bootstrap_statistic([top, bottom], lambda means: means[:, 0] / means[:, 1])
            assert row.value == pytest.approx(top.mean() / bottom.mean())
            assert (row.low, row.high) == pytest.approx((alone.low, alone.high))

    def test_no_ratio_over_what_may_be_zero(self):
        (row,) = ratio_rows("lift", [[1.0, 2.0], [1.0, 2.0]], [[0.0, 0.0], [1.0, 1.0]], self.dims[:2])
        assert row.dims == {"block": 1}
        assert ratio_rows("lift", [1.0, 2.0], [0.0, 1.0]) == []


class TestObjects:
    def test_share_of_a_map_on_the_object(self):
        masks = torch.zeros(3, 4, 4, dtype=torch.bool)
        masks[0, :, :2] = True
        masks[1, 0, 0] = True
        maps = np.tile([0.4, 0.1, 0.3, 0.2], (3, 1))
        found, area = on_object(maps, masks, (2, 2))
        np.testing.assert_allclose(found, [0.7, 0.1, np.nan])  # a quarter of the first cell; no object at all
        np.testing.assert_allclose(area, [0.5, 1 / 16, np.nan])

    def test_of_several_maps_of_an_image(self):
        masks = torch.tensor([[[True, False], [False, False]]])
        maps = np.array([[[0.4, 0.1, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2]]])
        found, _ = on_object(maps, masks, (2, 2))
        np.testing.assert_allclose(found, [[0.4, 0.1]])

    def test_without_masks_nothing_is_known_and_nothing_measured(self):
        found, area = on_object(np.full((2, 4), 0.25), None, (2, 2))
        assert np.isnan(found).all()
        assert np.isnan(area).all()
        assert object_rows("map", found, area) == []

    def test_images_without_an_object_are_left_out(self):
        rows = {row.metric: row for row in object_rows("map", [0.5, np.nan, 0.7], [0.2, np.nan, 0.4])}
        assert rows["map_on_object"].value == pytest.approx(0.6)
        assert rows["object_area"].value == pytest.approx(0.3)
        assert rows["map_object_lift"].value == pytest.approx(2.0)
        assert {row.n for row in rows.values()} == {2}

    def test_uniform_maps_have_the_share_that_chance_gives(self):
        masks = torch.from_numpy(np.random.default_rng(2).random((5, 30, 30)) < 0.3)
        found, area = on_object(np.full((5, 49), 1 / 49), masks, (7, 7))
        np.testing.assert_allclose(found, area)
        np.testing.assert_allclose(area, masks.double().mean(dim=(1, 2)))
