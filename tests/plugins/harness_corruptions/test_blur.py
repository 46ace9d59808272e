"""Blurs by a disk and a Gaussian, against the package, slow sums and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from harness_corruptions import reference
from harness_corruptions.blur import (
    DEFOCUS,
    DefocusBlur,
    GaussianBlur,
    correlate,
    defocus_blur,
    disk_kernel,
    gaussian_blur,
)

BOTH = (DefocusBlur, GaussianBlur)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", BOTH)
def test_generated_pictures_come_out_as_the_packages(pictures, corrupted, package, kind, severity):
    given = pictures(2, 224)
    expected = np.stack([reference.corrupt_one(kind.name, picture, severity, seed=0) for picture in given])
    difference = np.abs(corrupted(kind(), given, severity) - expected)
    assert difference.mean(axis=(1, 2, 3)).max() < 0.2
    assert difference.max() < 1.01


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", BOTH)
def test_photographs_come_out_as_the_packages(photographs, corrupted, package, kind, severity):
    given = photographs(4)
    expected = np.stack([reference.corrupt_one(kind.name, picture, severity, seed=0) for picture in given])
    difference = np.abs(corrupted(kind(), given, severity) - expected)
    assert difference.mean(axis=(1, 2, 3)).max() < 0.2
    assert difference.max() < 1.01


@pytest.mark.parametrize("border", ["reflect", "replicate"])
@pytest.mark.parametrize("size", [(9, 13), (4, 5)])
def test_correlation_is_the_slow_sum(border, size):
    images = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(0))
    kernel = torch.rand((7, 7), generator=torch.Generator().manual_seed(1))
    kernel = (kernel + kernel.flip(0, 1)) / 2
    mode = {"reflect": "mirror", "replicate": "nearest"}[border]
    expected = [
        [ndimage.correlate(plane.double().numpy(), kernel.double().numpy(), mode=mode) for plane in image]
        for image in images
    ]
    assert np.abs(correlate(images, kernel, border).numpy() - np.array(expected)).max() < 2e-5


@pytest.mark.parametrize("sigma", [0.5, 1.0, 6.0])
def test_the_gaussian_is_scipys(sigma):
    images = torch.rand((1, 2, 31, 40), generator=torch.Generator().manual_seed(2))
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    assert np.abs(gaussian_blur(images, sigma).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(("radius", "alias_sigma"), DEFOCUS)
def test_a_single_point_is_spread_as_the_packages_disk(package, radius, alias_sigma):
    point = torch.zeros((1, 1, 41, 41))
    point[0, 0, 20, 20] = 1
    expected = package.disk(radius=int(radius), alias_blur=alias_sigma)
    margin = (41 - len(expected)) // 2
    spread = defocus_blur(point, radius, alias_sigma)[0, 0].numpy()
    assert np.abs(spread - np.pad(expected, margin)).max() < 1e-7


def test_the_disk_counts_the_pixels_within_its_radius():
    kernel = disk_kernel(3.0, 1e-3, 8, 1).numpy()
    inside = [(y, x) for y in range(-8, 9) for x in range(-8, 9) if y * y + x * x <= 9]
    assert np.count_nonzero(kernel > 1e-9) == len(inside) == 29
    assert kernel.sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", BOTH)
def test_lengths_scale_with_the_image(pictures, corrupted, kind):
    large = pictures(1, 224)
    small = large[:, ::2, ::2]
    scaled = corrupted(kind(quantise=False), small, 3)
    fixed = corrupted(kind(quantise=False, lengths="fixed"), small, 3)
    # Half the size with half the blur looks like the large one at half the size.
    reduced = corrupted(kind(quantise=False), large, 3)[:, ::2, ::2]
    assert np.abs(scaled - reduced).mean() < np.abs(fixed - reduced).mean()


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("size", [(8, 8), (8, 40), (56, 33)])
def test_any_size_can_be_blurred(pictures, corrupted, kind, size):
    given = pictures(1, *size)
    for severity in (1, 5):
        assert corrupted(kind(), given, severity).shape == given.shape


@pytest.mark.parametrize("quantise", [True, False])
@pytest.mark.parametrize("kind", BOTH)
def test_a_gradient_leads_through(batch_of, pictures, kind, quantise):
    batch = batch_of(pictures(1, 24))
    batch.images.requires_grad_()
    (gradient,) = torch.autograd.grad(
        kind(quantise=quantise).apply(batch, None, 3).images[0, :, 12, 12].sum(), batch.images
    )
    assert gradient.isfinite().all()
    assert gradient.sum() == pytest.approx(3, abs=1e-3)
