"""JPEG compression against Pillow, which both references encode and decode with."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from harness_corruptions.jpeg import QUALITY, JpegCompression, jpeg

SEVERITIES = (1, 2, 3, 4, 5)


def by_pillow(picture, quality):
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_equals_the_package_on_photographs(severity, photographs, corrupted, fed):
    given = photographs(6)
    wanted = np.stack([fed("jpeg_compression", picture, severity) for picture in given])
    np.testing.assert_allclose(corrupted(JpegCompression(), given, severity), wanted, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (97, 61), (224, 224)])
def test_equals_pillow_at_any_size(size, pictures, corrupted):
    given = pictures(2, *size)
    for severity, quality in zip(SEVERITIES, QUALITY, strict=True):
        wanted = np.stack([by_pillow(picture, quality) for picture in given])
        np.testing.assert_allclose(corrupted(JpegCompression(), given, severity), wanted, atol=1e-4)


def test_pixels_between_levels_are_rounded_first(pictures, tensor_of):
    given = tensor_of(pictures(1, 32, 32))
    between = (given + 0.4 / 255).clamp(0, 1)
    assert torch.equal(jpeg(between, 25), jpeg(given, 25))
    assert not torch.equal(jpeg((given + 0.6 / 255).clamp(0, 1), 25), jpeg(given, 25))


def test_pixels_out_of_range_are_clipped_first():
    assert torch.equal(jpeg(torch.full((1, 3, 16, 16), 1.3), 25), jpeg(torch.ones(1, 3, 16, 16), 25))


def test_gradients_pass_straight_through(pictures, tensor_of):
    images = tensor_of(pictures(1, 32, 32))
    wanted = jpeg(images, 10)
    weights = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    found = jpeg(images.requires_grad_(), 10)
    torch.testing.assert_close(found.detach(), wanted)
    (found * weights).sum().backward()
    torch.testing.assert_close(images.grad, weights)
