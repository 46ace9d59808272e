"""Textures: tiles without seams, against a blur by SciPy, and no two of the classes alike."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import ndimage

from harness_mini.generator.textures import (
    CLASS_TEXTURES,
    DEFAULT_SIDE,
    IRREGULAR_PERIOD_PX,
    NOVEL_TEXTURES,
    REGULAR_PERIOD_PX,
    STYLE_TEXTURES,
    TEXTURES,
    TILE_SIDE,
    ground_tile,
    period_px,
    tiles,
)

NAMES = (*CLASS_TEXTURES, *STYLE_TEXTURES, *NOVEL_TEXTURES)
REGULAR = (*CLASS_TEXTURES, *NOVEL_TEXTURES)
# They compare sums of coordinates with each other. The coordinates are fractions of 512: such sums are not rounded.
EXACT = ("zigzag", "triangles", "pinwheels")


def samples(points: int = 256):
    along = (np.arange(points) + 0.5) / points
    y, x = np.meshgrid(along, along, indexing="ij")
    return x, y


def similarity(first, second) -> float:
    """The highest correlation of two tiles over all shifts of one against the other."""
    a, b = ((tile - tile.mean()) / tile.std() for tile in (first.astype(float), second.astype(float)))
    return float(np.fft.ifft2(np.fft.fft2(a) * np.fft.fft2(b).conj()).real.max() / a.size)


def seam_and_interior(tile, axis: int) -> tuple[float, float]:
    """Mean difference of the last line from the first, and the most of any line from the next."""
    steps = np.abs(np.diff(tile.astype(float), axis=axis, append=tile.take([0], axis=axis))).mean(axis=1 - axis)
    return steps[-1], steps[:-1].max()


def test_lists_share_no_texture():
    assert len(set(NAMES)) == len(NAMES)
    assert set(NAMES) == set(TEXTURES)
    assert (len(CLASS_TEXTURES), len(STYLE_TEXTURES), len(NOVEL_TEXTURES)) == (12, 10, 10)


def test_irregular_tiles_are_three_times_as_long():
    assert {period_px(name) for name in REGULAR} == {REGULAR_PERIOD_PX}
    assert {period_px(name) for name in STYLE_TEXTURES} == {IRREGULAR_PERIOD_PX}
    assert IRREGULAR_PERIOD_PX == 3 * REGULAR_PERIOD_PX


def test_tiles_come_in_the_order_of_their_names():
    pair, (dots,), (grid,) = tiles(["dots", "grid"], 56), tiles(["dots"], 56), tiles(["grid"], 56)
    assert (pair.dtype, pair.shape) == (np.uint8, (2, TILE_SIDE, TILE_SIDE))
    assert np.array_equal(pair, [dots, grid])
    assert not np.array_equal(dots, grid)


@pytest.mark.parametrize("name", REGULAR)
def test_regular_textures_repeat(name):
    x, y = samples()
    texture = TEXTURES[name]
    assert np.array_equal(texture(x, y), texture(x + 1, y))
    assert np.array_equal(texture(x, y), texture(x, y - 1))


@pytest.mark.parametrize("name", NAMES)
def test_tiles_have_no_seam(name):
    (tile,) = tiles([name], 224)
    for axis in (0, 1):
        seam, interior = seam_and_interior(tile, axis)
        # Bitmaps of a few rows have few lines to compare with, hence the margin.
        assert seam <= 1.25 * interior + 1


@pytest.mark.parametrize("name", STYLE_TEXTURES)
def test_a_tile_cut_short_has_a_seam(name):
    """The measure of the test above finds one where there is one."""
    (tile,) = tiles([name], 224)
    cut = tile[:83, :83]
    assert any(seam > 1.25 * interior + 1 for seam, interior in (seam_and_interior(cut, 0), seam_and_interior(cut, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_values_use_the_whole_range(name):
    (tile,) = tiles([name], 224)
    assert tile.min() <= 5
    assert tile.max() >= 245
    assert tile.std() > 60


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side_px", [56, 112])
def test_tiles_are_the_texture_blurred_over_a_pixel(name, side_px):
    pixel = 256 / (period_px(name) * side_px / DEFAULT_SIDE)
    fine = np.asarray(TEXTURES[name](*samples()), dtype=np.float64)
    blurred = ndimage.gaussian_filter(fine, 0.4 * pixel, mode="wrap", truncate=8)
    expected = blurred.reshape(TILE_SIDE, 2, TILE_SIDE, 2).mean(axis=(1, 3)) * 255
    (tile,) = tiles([name], side_px)
    assert np.abs(tile - expected).max() < 1.6


@pytest.mark.parametrize("name", NAMES)
def test_smaller_images_get_smoother_tiles_of_the_same_mean(name):
    small, default, large = (tiles([name], side)[0].astype(float) for side in (28, 56, 224))
    assert small.std() < default.std() < large.std()
    assert abs(small.mean() - large.mean()) < 1


def test_bitmaps_are_read_in_rows():
    (tile,) = tiles(["meander"], 4096)
    cells = tile.reshape(8, 16, 8, 16).mean(axis=(1, 3)) > 127
    assert ["".join(".#"[int(cell)] for cell in row) for row in cells[:3]] == ["#######.", "#.......", "#.#####."]


@pytest.mark.parametrize("name", NAMES)
def test_no_texture_hangs_on_a_rounding(name):
    """Another machine's last bit must not turn a sample from black to white."""
    x, y = samples()
    values = TEXTURES[name](x, y)
    if name in EXACT:
        single = TEXTURES[name](x.astype(np.float32), y.astype(np.float32))
        assert np.array_equal(single, values)
        return
    for shift_x, shift_y in ((1e-13, 1e-13), (-1e-13, 1e-13), (1e-13, -1e-13), (-1e-13, -1e-13)):
        np.testing.assert_allclose(
            np.asarray(TEXTURES[name](x + shift_x, y + shift_y), float), np.asarray(values, float), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("side_px", [56, 224])
@pytest.mark.parametrize("names", [CLASS_TEXTURES, NOVEL_TEXTURES, STYLE_TEXTURES], ids=["class", "novel", "style"])
def test_no_two_of_a_list_are_alike(names, side_px):
    drawn = dict(zip(names, tiles(names, side_px), strict=True))
    for first, second in combinations(names, 2):
        assert similarity(drawn[first], drawn[second]) < 0.9, (first, second)
    tile = drawn[names[0]]
    assert similarity(tile, np.roll(tile, (17, 40), (0, 1))) > 0.999


def test_the_ground_is_smooth_and_seamless():
    tile = ground_tile()
    assert (tile.dtype, tile.shape) == (np.uint8, (TILE_SIDE, TILE_SIDE))
    assert (tile.min(), tile.max()) == (0, 255)
    for axis in (0, 1):
        seam, interior = seam_and_interior(tile, axis)
        assert seam <= interior < 20


def test_tiles_cannot_be_written_to_by_accident():
    tile = ground_tile()
    with pytest.raises(ValueError, match="read-only"):
        tile[0, 0] = 1
    given = tiles(["dots"], 56)
    given[:] = 0
    assert tiles(["dots"], 56).max() == 255
