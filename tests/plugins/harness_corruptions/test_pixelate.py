"""Pixelation against Pillow, the package, and means by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from harness_corruptions.pixelate import PIXELATE, Pixelate, boxes, nearest, pixelate

SEVERITIES = (1, 2, 3, 4, 5)


def by_pillow(picture, share):
    rows, columns = picture.shape[:2]
    reduced = Image.fromarray(picture).resize((int(columns * share), int(rows * share)), Image.Resampling.BOX)
    return np.asarray(reduced.resize((columns, rows), Image.Resampling.NEAREST))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_equals_the_package_on_photographs(severity, photographs, corrupted, fed):
    given = photographs(6)
    wanted = np.stack([fed("pixelate", picture, severity) for picture in given])
    np.testing.assert_allclose(corrupted(Pixelate(), given, severity), wanted, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (17, 17), (61, 97), (97, 61), (224, 224), (299, 299), (300, 512)])
def test_equals_pillow_at_any_size(size, pictures, corrupted):
    given = pictures(2, *size)
    for severity, share in zip(SEVERITIES, PIXELATE, strict=True):
        wanted = np.stack([by_pillow(picture, share) for picture in given])
        np.testing.assert_allclose(corrupted(Pixelate(), given, severity), wanted, atol=1e-4)


def test_images_more_than_twice_as_high_as_wide_are_at_most_a_level_off(pictures, corrupted):
    given = pictures(2, 90, 30)
    for severity, share in zip(SEVERITIES, PIXELATE, strict=True):
        wanted = np.stack([by_pillow(picture, share) for picture in given])
        assert np.abs(corrupted(Pixelate(), given, severity) - wanted).max() < 1.01


@pytest.mark.parametrize("share", PIXELATE)
def test_boxes_and_repeats_are_those_of_pillow_at_every_length(share):
    for length in (*range(8, 70), 224, 299, 384, 1001):
        reduced = int(length * share)
        one_by_one = Image.fromarray(np.eye(length, dtype=np.float32))
        weights = np.asarray(one_by_one.resize((reduced, length), Image.Resampling.BOX)).T
        starts, counts = boxes(length, reduced)
        for row, start, count in zip(weights, starts, counts, strict=True):
            assert np.flatnonzero(row).tolist() == list(range(start, start + count)), length
        numbers = Image.fromarray(np.arange(reduced, dtype=np.float32)[None].repeat(2, axis=0))
        repeated = np.asarray(numbers.resize((length, 2), Image.Resampling.NEAREST))[0]
        assert repeated.tolist() == list(nearest(length, reduced)), length


def test_pixels_are_means_of_boxes_rounded_to_eight_bit():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = pixelate(images, 0.25)
    means = images.reshape(2, 3, 2, 4, 2, 4).mean(dim=(3, 5))
    # Rounded twice, hence up to a whole level from the mean.
    assert (found[:, :, ::4, ::4] - means).abs().max() <= 1 / 255 + 1e-6
    assert torch.equal(found, found[:, :, ::4, ::4].repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))
    torch.testing.assert_close(found * 255, (found * 255).round(), atol=1e-4, rtol=0)


def test_gradients_are_those_of_the_mean():
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pixelate(images, 0.25)[0, 1, 0, 0].backward()
    wanted = torch.zeros(1, 3, 8, 8)
    wanted[0, 1, :4, :4] = 1 / 16
    torch.testing.assert_close(images.grad, wanted)


def test_values_are_the_same_whether_or_not_gradients_are_wanted():
    images = torch.rand(2, 3, 30, 20, generator=torch.Generator().manual_seed(0))
    for share in PIXELATE:
        torch.testing.assert_close(pixelate(images.clone().requires_grad_(), share).detach(), pixelate(images, share))
