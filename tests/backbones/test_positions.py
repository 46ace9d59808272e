"""Position embeddings resampled against SciPy, DINO's own recipe and identity; ablations by their definition."""

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch.nn import functional

from harness.backbones.positions import ablate_positions, resample_map, resample_positions
from harness.errors import ParameterError, WeightsError


def embeddings(side=7, width=5, prefix=1, seed=0):
    return torch.randn(1, prefix + side * side, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("how", ["bicubic", "bilinear_corner"])
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_the_same_grid_gives_the_same_embeddings(how, prefix):
    given = embeddings(prefix=prefix)
    assert torch.equal(resample_positions(given, prefix, (7, 7), how), given)


def test_bilinear_between_aligned_corners_is_an_order_one_zoom():
    given = embeddings(side=7, prefix=1)
    found = resample_positions(given, 1, (12, 12), "bilinear_corner")
    square = given[0, 1:].reshape(7, 7, 5).numpy()
    expected = zoom(square, (12 / 7, 12 / 7, 1), order=1)
    assert expected.shape == (12, 12, 5)
    np.testing.assert_allclose(found[0, 1:].reshape(12, 12, 5).numpy(), expected, atol=1e-5)
    assert torch.equal(found[:, :1], given[:, :1])


def test_bicubic_is_that_of_dino_where_its_scale_factor_is_exact():
    given = embeddings(side=7, prefix=1)
    found = resample_positions(given, 1, (14, 14), "bicubic")
    square = given[:, 1:].reshape(1, 7, 7, 5).permute(0, 3, 1, 2)
    expected = functional.interpolate(square, scale_factor=2.0, mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(found[0, 1:].reshape(14, 14, 5), expected[0])


def test_the_two_are_not_the_same():
    given = embeddings()
    bicubic, bilinear = (resample_positions(given, 1, (14, 14), how) for how in ("bicubic", "bilinear_corner"))
    assert (bicubic - bilinear).abs().max() > 0.1


def test_corners_stay_where_corners_are_aligned():
    given = embeddings(side=4, prefix=0).reshape(1, 4, 4, 5).permute(0, 3, 1, 2)
    found = resample_map(given, (9, 9), "bilinear_corner")
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(found[:, :, row, column], given[:, :, row, column])


def test_what_is_no_square_is_refused():
    with pytest.raises(WeightsError, match="no square grid"):
        resample_positions(torch.zeros(1, 51, 3), 0, (7, 7), "bicubic")


def test_none_leaves_everything_zero_takes_patches_only():
    given = embeddings(prefix=2)
    assert ablate_positions(given, 2, "none") is given
    found = ablate_positions(given, 2, "zero")
    assert torch.equal(found[:, :2], given[:, :2])
    assert not found[:, 2:].any()


def test_mean_gives_every_patch_the_same():
    given = embeddings()
    found = ablate_positions(given, 1, "mean")
    torch.testing.assert_close(found[:, 1:], given[:, 1:].mean(dim=1, keepdim=True).expand(1, 49, 5))
    assert torch.equal(found[:, :1], given[:, :1])


def test_shuffle_is_a_permutation_of_its_seed():
    given = embeddings()
    first, again, other = (ablate_positions(given, 1, "shuffle", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, given)
    rows = sorted(map(tuple, given[0, 1:].tolist()))
    assert sorted(map(tuple, first[0, 1:].tolist())) == rows
    assert torch.equal(first[:, :1], given[:, :1])


def test_another_word_is_refused():
    with pytest.raises(ParameterError, match="'gone' is none of none, zero, shuffle, mean"):
        ablate_positions(embeddings(), 1, "gone")
