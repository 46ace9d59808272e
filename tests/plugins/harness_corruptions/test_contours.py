"""Edges and distances against OpenCV, and distances and histograms by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from harness_corruptions.contours import box_sum, distances, edges, equalised, relief


def layers(size):
    """Drops of four sizes, a gradient without drops, and noise: (rows, columns) uint8."""
    generator = np.random.default_rng(0)
    for sigma, threshold in ((4, 0.69), (3, 0.68), (2, 0.68), (1, 0.65)):
        blurred = ndimage.gaussian_filter(generator.normal(0.65, 0.3, size), sigma, mode="nearest")
        yield (np.where(blurred < threshold, 0, blurred) * 255).clip(0, 255).astype(np.uint8)
    yield np.linspace(0, 255, size[0] * size[1]).reshape(size).astype(np.uint8)
    yield generator.integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (100, 61)])
def test_edges_are_those_of_opencv(size):
    cv2 = pytest.importorskip("cv2")
    for grey in layers(size):
        for low, high in ((50, 150), (300, 700)):
            assert np.array_equal(edges(grey, low, high), cv2.Canny(grey, low, high) > 0)


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (100, 61)])
def test_distances_blurs_and_light_are_those_of_opencv(size):
    cv2 = pytest.importorskip("cv2")
    for grey in layers(size):
        found = edges(grey, 50, 150)
        if found.any():
            wanted = cv2.distanceTransform((~found).astype(np.uint8), cv2.DIST_L2, 5)
            np.testing.assert_allclose(distances(found[None])[0], wanted, atol=1e-3)
        assert np.array_equal((box_sum(grey.astype(np.int32)) + 4) // 9, cv2.blur(grey, (3, 3)))
        assert np.array_equal(equalised(grey), cv2.equalizeHist(grey))
        kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
        assert np.array_equal(relief(grey), cv2.filter2D(grey, cv2.CV_8U, kernel))


def test_edges_of_a_bar_are_its_sides():
    grey = np.zeros((12, 20), dtype=np.uint8)
    grey[:, 6:14] = 200
    found = edges(grey, 50, 150)
    assert np.flatnonzero(found[5]).tolist() == [5, 13]
    assert not edges(grey // 20, 50, 150).any()


def test_weak_edges_stay_where_they_touch_strong_ones():
    grey = np.zeros((20, 30), dtype=np.uint8)
    grey[10:, :15] = 60
    grey[10:, 15:] = 30
    assert edges(grey, 50, 150)[9, 18:].all()
    assert not edges(grey[:, 18:], 50, 150).any()


def test_distance_is_the_length_of_the_cheapest_steps():
    zeros = np.zeros((2, 15, 18), dtype=bool)
    zeros[0, 4, 5] = zeros[1, 0, 17] = zeros[1, 11, 2] = True
    found = distances(zeros)
    for n in range(2):
        places = np.argwhere(zeros[n])
        for y in range(15):
            for x in range(18):
                lengths = []
                for v, u in places:
                    short, long = sorted((abs(y - v), abs(x - u)))
                    knights, diagonals = (short, 0) if long >= 2 * short else (long - short, 2 * short - long)
                    lengths.append(2.1969 * knights + 1.4 * diagonals + (long - 2 * knights - diagonals))
                assert found[n, y, x] == pytest.approx(min(lengths), abs=1e-4)


def test_distances_where_nothing_is_set_are_huge():
    assert (distances(np.zeros((1, 9, 9), dtype=bool)) > 1000).all()


def test_equalised_levels_follow_their_ranks():
    grey = np.array([[3, 3], [7, 200]], dtype=np.uint8)
    assert equalised(grey).tolist() == [[0, 0], [128, 255]]
    assert equalised(np.full((3, 3), 9, dtype=np.uint8)).tolist() == [[9] * 3] * 3
