"""Corruptions of colour against the package, the standard library's conversions, and closed forms."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from harness_corruptions.colour import (
    BRIGHTNESS,
    CONTRAST,
    SATURATE,
    Brightness,
    Contrast,
    Saturate,
    brightness,
    contrast,
    saturate,
)

SEVERITIES = (1, 2, 3, 4, 5)
CLASSES = {"brightness": Brightness, "contrast": Contrast, "saturate": Saturate}


def expect_equal_to_package(name, given, corrupted, fed):
    for severity in SEVERITIES:
        found = corrupted(CLASSES[name](), given, severity)
        wanted = np.stack([fed(name, picture, severity) for picture in given])
        apart = np.abs(found - wanted)
        # A level is lost where a value is whole in theory and double precision falls short of it.
        assert apart.max() < 1.01, (severity, apart.max())
        assert apart.mean(axis=(1, 2, 3)).max() < 0.6, severity


@pytest.mark.parametrize("name", CLASSES)
def test_equals_the_package_on_photographs(name, photographs, corrupted, fed):
    expect_equal_to_package(name, photographs(4), corrupted, fed)


@pytest.mark.parametrize("name", CLASSES)
def test_equals_the_package_on_generated_pictures(name, pictures, corrupted, fed):
    given = pictures(3, 61, 45)
    given[0, :9] = 0
    given[1, :9] = given[1, :9, :, :1]
    expect_equal_to_package(name, given, corrupted, fed)


def by_colorsys(change):
    def run(colours):
        return [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*colour))) for colour in colours]

    return run


COLOURS = [(0.2, 0.4, 0.6), (0.9, 0.1, 0.1), (0.0, 0.0, 0.0), (0.3, 0.3, 0.3), (1.0, 1.0, 1.0), (0.7, 0.8, 0.02)]


def as_image(colours):
    return torch.tensor(colours, dtype=torch.float64).T[None, :, None]


@pytest.mark.parametrize("amount", BRIGHTNESS)
def test_brightness_is_value_of_hsv_raised(amount):
    wanted = by_colorsys(lambda h, s, v: (h, s, min(v + amount, 1)))(COLOURS)
    torch.testing.assert_close(brightness(as_image(COLOURS), amount), as_image(wanted))


@pytest.mark.parametrize(("factor", "offset"), SATURATE)
def test_saturate_is_saturation_of_hsv_scaled_and_shifted(factor, offset):
    wanted = by_colorsys(lambda h, s, v: (h, min(max(s * factor + offset, 0), 1), v))(COLOURS)
    torch.testing.assert_close(saturate(as_image(COLOURS), factor, offset), as_image(wanted))


@pytest.mark.parametrize("share", CONTRAST)
def test_contrast_keeps_means_and_leaves_a_share_of_the_spread(share):
    images = torch.rand(3, 3, 20, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = contrast(images, share)
    torch.testing.assert_close(found.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    torch.testing.assert_close(found.std(dim=(2, 3)), images.std(dim=(2, 3)) * share)


@pytest.mark.parametrize(
    "change",
    [lambda x: brightness(x, 0.3), lambda x: contrast(x, 0.3), lambda x: saturate(x, 2.0, 0.1)],
    ids=["brightness", "contrast", "saturate"],
)
def test_gradients_are_those_of_finite_differences(change):
    images = torch.rand(2, 3, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.8 + 0.1
    assert torch.autograd.gradcheck(change, images.requires_grad_())


@pytest.mark.parametrize("change", [lambda x: brightness(x, 0.3), lambda x: saturate(x, 5.0, 0.1)])
def test_gradients_are_finite_for_black_and_grey(change):
    images = as_image([(0.0, 0.0, 0.0), (0.5, 0.5, 0.5)]).requires_grad_()
    change(images).sum().backward()
    assert images.grad.isfinite().all()


def test_an_image_alone_is_the_same_bits_as_in_a_batch():
    images = torch.rand(9, 3, 37, 23, generator=torch.Generator().manual_seed(2))
    for change in (lambda x: brightness(x, 0.3), lambda x: contrast(x, 0.3), lambda x: saturate(x, 5.0, 0.1)):
        assert torch.equal(change(images)[4], change(images[4:5].clone())[0])
