"""Blur by zoom, against the package and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from harness_corruptions import reference
from harness_corruptions.zoom import FACTORS, ZoomBlur, clipped_zoom


@pytest.mark.parametrize(("variant", "last"), [("imagecorruptions", 1.31), ("imagenet_c", 1.33)])
def test_magnifications_are_numpys_ranges_to_the_last_bit(variant, last):
    ranges = [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (last, 0.03)]
    for factors, (end, step) in zip(FACTORS[variant], ranges, strict=True):
        assert list(factors) == np.arange(1, end, step).tolist()


def test_the_ranges_end_where_rounding_lets_them():
    ends = [(len(factors), round(factors[-1], 6)) for factors in FACTORS["imagecorruptions"]]
    assert ends == [(12, 1.11), (16, 1.15), (11, 1.2), (13, 1.24), (11, 1.3)]


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_generated_pictures_come_out_as_the_packages(pictures, corrupted, package, severity):
    given = pictures(1, 224)
    expected = reference.corrupt_one("zoom_blur", given[0], severity, seed=0)
    difference = np.abs(corrupted(ZoomBlur(), given, severity)[0] - expected)
    assert difference.mean() < 0.05
    assert difference.max() < 1.01


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_photographs_come_out_as_the_packages(photographs, corrupted, package, severity):
    given = photographs(2)
    expected = np.stack([reference.corrupt_one("zoom_blur", picture, severity, seed=0) for picture in given])
    difference = np.abs(corrupted(ZoomBlur(), given, severity) - expected)
    assert difference.mean(axis=(1, 2, 3)).max() < 0.05
    assert difference.max() < 1.01


@pytest.mark.parametrize("size", [(69, 126), (138, 32)])
def test_sizes_at_which_the_last_bit_of_a_factor_counts_come_out_as_the_packages(pictures, corrupted, package, size):
    given = pictures(1, *size)
    expected = reference.corrupt_one("zoom_blur", given[0], 5, seed=0)
    difference = np.abs(corrupted(ZoomBlur(), given, 5)[0] - expected)
    assert difference.mean() < 0.05
    assert difference.max() < 1.01


@pytest.mark.parametrize("factor", [1.0, 1.03, 1.21, 3.0, 4.5])
def test_an_enlargement_is_scipys(factor):
    plane = torch.rand((1, 1, 60, 44), generator=torch.Generator().manual_seed(0))
    sides = [int(np.ceil(side / factor)) for side in (60, 44)]
    top, left = (60 - sides[0]) // 2, (44 - sides[1]) // 2
    middle = plane[0, 0, top : top + sides[0], left : left + sides[1]].double().numpy()
    expected = ndimage.zoom(middle, factor, order=1)
    found = clipped_zoom(plane, factor)[0, 0].numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


def test_the_script_is_the_mean_of_scipys_enlargements_cut_to_their_middle(pictures, tensor_of):
    image = tensor_of(pictures(1, 57))[0].double().numpy()
    total = image.copy()
    factors = np.arange(1, 1.33, 0.03)
    for factor in factors:
        cut = int(np.ceil(57 / factor))
        top = (57 - cut) // 2
        large = ndimage.zoom(image[:, top : top + cut, top : top + cut], (1, factor, factor), order=1)
        trim = (large.shape[1] - 57) // 2
        total += large[:, trim : trim + 57, trim : trim + 57]
    found = ZoomBlur(variant="imagenet_c").corrupt(tensor_of(pictures(1, 57)), 5, None)
    assert np.abs(found[0].numpy() - total / 13).max() < 1e-5


def test_an_image_alone_gets_what_it_gets_in_a_batch(pictures, corrupted):
    given = pictures(3, 40, 56)
    whole = corrupted(ZoomBlur(quantise=False), given, 5)
    assert (corrupted(ZoomBlur(quantise=False), given[1:2], 5) == whole[1:2]).all()


@pytest.mark.parametrize("quantise", [True, False])
def test_a_gradient_leads_through(batch_of, pictures, quantise):
    batch = batch_of(pictures(1, 32))
    batch.images.requires_grad_()
    corruption = ZoomBlur(quantise=quantise)
    (gradient,) = torch.autograd.grad(corruption.apply(batch, None, 3).images[0, :, 16, 16].sum(), batch.images)
    assert gradient.sum() == pytest.approx(3, abs=1e-3)
