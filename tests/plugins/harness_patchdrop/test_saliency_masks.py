"""Sets of cells by mass against a loop over cells in exact fractions, and resampling against overlaps as fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness import rng
from harness.errors import DataError
from harness_patchdrop.saliency_masks import UNITS, cells_by_mass, resampled, whole_numbers

LEVELS = [tenths / 10 for tenths in range(11)]


def salient_cells(mass, image_id, share):
    """The definition, cell by cell: in iff the sum so far is above (1 - Q) of the whole; the ends are explicit."""
    if share in (0, 1):
        return {cell for cell in range(len(mass)) if share == 1}
    ties = rng.bits(0, "patchdrop.ties", [image_id], len(mass))[0]
    chosen, so_far = set(), Fraction(0)
    for cell in sorted(range(len(mass)), key=lambda cell: (mass[cell], ties[cell])):
        so_far += Fraction(int(mass[cell]))
        if so_far > (1 - share) * int(mass.sum()):
            chosen.add(cell)
    return chosen


def indices(chosen):
    return [set(np.flatnonzero(row).tolist()) for row in chosen]


def example_maps(images=40, cells=30):
    """Maps with ties and cells without mass, among them such as exact masks give."""
    generator = np.random.default_rng(0)
    fine = generator.integers(0, 2**20, (images, cells))
    coarse = generator.integers(0, 4, (images, cells))
    maps = np.where(generator.random((images, 1)) < 0.5, fine, coarse)
    maps[:, 0] += 1
    return maps.astype(np.int64)


@pytest.mark.parametrize("tenths", range(11))
def test_salient_and_nonsalient_sets_equal_the_loop_over_cells_in_fractions(tenths):
    maps = example_maps()
    ids = [f"image-{i}" for i in range(len(maps))]
    order = cells_by_mass(maps, ids)
    share = Fraction(tenths, 10)
    salient = [salient_cells(row, name, share) for row, name in zip(maps, ids, strict=True)]
    rest = [salient_cells(row, name, 1 - share) for row, name in zip(maps, ids, strict=True)]
    everything = set(range(maps.shape[1]))
    assert indices(order.salient(tenths / 10)) == salient
    assert indices(order.nonsalient(tenths / 10)) == [everything - kept for kept in rest]


maps_of_one_image = arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 30)).filter(lambda mass: mass.any())
shares = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


@settings(max_examples=150, deadline=None)
@given(mass=maps_of_one_image, share=shares, other=shares)
def test_sets_are_nested_complementary_smallest_and_hold_what_they_promise(mass, share, other):
    order = cells_by_mass(mass[None], ["a"])
    salient, rest = order.salient(share)[0], order.nonsalient(share)[0]
    lower, higher = sorted((share, other))
    assert not (order.salient(lower) & ~order.salient(higher)).any()
    assert not (order.nonsalient(lower) & ~order.nonsalient(higher)).any()
    assert (order.salient(share) == ~order.nonsalient(1 - share)).all()

    exact, whole = Fraction(round(share * 1000), 1000), int(mass.sum())
    assert int(mass[salient].sum()) >= exact * whole
    assert int(mass[rest].sum()) <= exact * whole or share == 1
    if 0 < share < 1:
        # No set of fewer cells holds as much: the largest cells do not.
        most = np.sort(mass)[::-1][: int(salient.sum()) - 1]
        assert int(most.sum()) < exact * whole
    assert order.share_of(order.salient(share))[0] == float(Fraction(int(mass[salient].sum()), whole))


def test_share_0_is_nothing_and_share_1_everything_even_cells_without_mass():
    order = cells_by_mass(np.array([[0, 0, 5], [1, 1, 1]], np.int64), ["a", "b"])
    for chosen in (order.salient, order.nonsalient):
        assert not chosen(0.0).any()
        assert chosen(1.0).all()
    assert order.salient(0.999).tolist()[0] == [False, False, True]
    assert order.nonsalient(0.001).tolist()[0] == [True, True, False]


@pytest.mark.parametrize("share", [*LEVELS, 0.1 + 0.2, 1 - 0.9, 0.7 + 0.1])
def test_shares_are_decimal_numbers(share):
    """Ten equal cells: in binary fractions (1 - 0.9) * 10 falls below 1 and would let a tenth cell in."""
    order = cells_by_mass(np.ones((1, 10), np.int64), ["a"])
    assert order.salient(share).sum() == round(share * 10)
    assert order.nonsalient(share).sum() == round(share * 10)


def test_large_maps_do_not_overflow():
    order = cells_by_mass(np.full((1, 4), 2**60 // 4, np.int64), ["a"])
    assert [int(order.salient(share).sum()) for share in (0.25, 0.26, 0.5, 0.75, 0.751)] == [1, 2, 2, 3, 4]


def test_cells_that_tie_come_in_an_order_of_the_image_and_not_of_rows():
    ids = [f"image-{i}" for i in range(2000)]
    flat = np.ones((len(ids), 16), np.int64)
    chosen = cells_by_mass(flat, ids).salient(0.25)
    alone = cells_by_mass(flat[:1], ids[1500:1501]).salient(0.25)
    assert (alone[0] == chosen[1500]).all()
    # 2000 draws of 4 out of 16 cells: mean 500, standard deviation 19.4.
    assert (np.abs(chosen.sum(axis=0) - 500) < 5 * 19.4).all()


# --- resampling --------------------------------------------------------------------------------------------------


def spread(mass, source, target):
    """Area-weighted resampling of one map, in fractions of its own unit."""
    found = [[Fraction(0)] * target[1] for _ in range(target[0])]
    for r in range(source[0]):
        for c in range(source[1]):
            for i in range(target[0]):
                for j in range(target[1]):
                    down = overlap(r, source[0], i, target[0]) * source[0]
                    across = overlap(c, source[1], j, target[1]) * source[1]
                    found[i][j] += int(mass[r, c]) * down * across
    return [value for row in found for value in row]


def overlap(i, n, j, m):
    return max(Fraction(0), min(Fraction(i + 1, n), Fraction(j + 1, m)) - max(Fraction(i, n), Fraction(j, m)))


@pytest.mark.parametrize(
    ("source", "target"), [((2, 2), (4, 4)), ((4, 4), (2, 2)), ((3, 5), (4, 2)), ((5, 3), (7, 3)), ((1, 1), (3, 2))]
)
def test_resampling_spreads_by_area(source, target):
    maps = np.random.default_rng(1).integers(0, 100, (2, source[0] * source[1]))
    found = resampled(maps, source, target)
    for row, mass in zip(found, maps, strict=True):
        exact = spread(mass.reshape(source), source, target)
        assert sum(exact) == int(mass.sum())
        assert [Fraction(int(value), int(row.sum())) for value in row] == [value / sum(exact) for value in exact]


def test_resampling_to_the_same_grid_changes_nothing():
    maps = np.arange(12).reshape(1, 12)
    assert resampled(maps, (3, 4), (3, 4)).tolist() == maps.tolist()


def test_a_coarser_grid_that_divides_the_finer_one_sums_its_cells():
    maps = np.random.default_rng(2).integers(0, UNITS // 196, (3, 196))
    sums = maps.reshape(3, 7, 2, 7, 2).sum(axis=(2, 4)).reshape(3, 49)
    found = resampled(maps, (14, 14), (7, 7))
    assert (found * sums.sum(axis=1, keepdims=True) == sums * found.sum(axis=1, keepdims=True)).all()


# --- whole numbers -----------------------------------------------------------------------------------------------


def test_a_map_becomes_parts_of_a_whole():
    assert whole_numbers(np.array([0.25, 0.0, 0.75]), "a").tolist() == [UNITS // 4, 0, 3 * UNITS // 4]
    assert whole_numbers(np.array([3e-30, 1e-30]), "a").tolist() == [3 * UNITS // 4, UNITS // 4]
    values = np.random.default_rng(3).random(196)
    found = whole_numbers(values, "a")
    assert found.dtype == np.int32
    assert np.abs(found - values / values.sum() * UNITS).max() <= 0.5


def test_a_map_of_zeros_is_even():
    assert whole_numbers(np.zeros(4), "a").tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_refused_by_the_name_of_its_image(broken):
    with pytest.raises(DataError, match=r"cat\.png"):
        whole_numbers(np.array([1.0, broken]), "cat.png")
