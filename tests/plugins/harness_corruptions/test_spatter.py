"""Spatter against the package, given its noise, and what drops cover at any size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harness_corruptions.quantise import eight_bit
from harness_corruptions.spatter import MUD, SMALLEST_SCALE, SPATTER, WATER, Spatter, drops, mud, spatter, water


def layer_of(noise, liquid, scale=1.0):
    return (mud if liquid.mud else water)(noise, liquid, scale)


def expect_equal_to_package(given, noise, severity, tensor_of, fed):
    liquid = SPATTER[severity - 1]
    layer = torch.from_numpy(layer_of(noise, liquid))
    found = eight_bit(spatter(tensor_of(given), layer, muddy=liquid.mud)).permute(0, 2, 3, 1).numpy() * 255
    for picture, one, field in zip(given, found, noise, strict=True):
        wanted = fed("spatter", picture, severity, normal=lambda size, loc, scale, field=field: loc + scale * field)
        assert (np.abs(one - wanted) < 1.01).mean() >= 0.999
        assert (np.abs(one - wanted) > 0.5).mean() < 0.005


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_equals_the_package_on_photographs_given_its_noise(severity, photographs, tensor_of, fed):
    given = photographs(3)
    noise = np.random.default_rng(severity).standard_normal(given.shape[:3])
    expect_equal_to_package(given, noise, severity, tensor_of, fed)


@pytest.mark.parametrize("severity", [1, 4])
def test_equals_the_package_for_a_drop_deeper_than_any(severity, pictures, tensor_of, fed):
    y, x = np.ogrid[:128, :150]
    ripples = 0.5 * np.sin(x / 3) * np.sin(y / 4)
    noise = np.where((y - 60) ** 2 + (x - 80) ** 2 < 45**2, 0.8 + ripples, -1.0)
    expect_equal_to_package(pictures(1, 128, 150), noise[None], severity, tensor_of, fed)


def test_water_shines_in_addition_and_mud_covers():
    images = torch.full((1, 3, 2, 2), 0.5)
    layer = torch.tensor([[[0.0, 0.5], [1.0, 0.25]]])
    torch.testing.assert_close(spatter(images, layer, muddy=False)[0, 2, 1, 1].item(), 0.5 + 0.25 * WATER[2])
    muddy = spatter(images, layer, muddy=True)[0]
    torch.testing.assert_close(muddy[:, 1, 0], torch.tensor(MUD))
    torch.testing.assert_close(muddy[1, 0, 1].item(), 0.25 + 0.5 * MUD[1])
    assert torch.equal(muddy[:, 0, 0], images[0, :, 0, 0])


def test_the_brightest_water_has_the_strength_of_its_severity():
    noise = np.random.default_rng(0).standard_normal((2, 96, 96))
    for liquid in SPATTER[:3]:
        np.testing.assert_allclose(water(noise, liquid).max(axis=(1, 2)), liquid.strength)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_noise_is_left_as_strong_at_any_scale(scale):
    noise = np.random.default_rng(0).standard_normal((1000, 1000))
    for liquid in SPATTER:
        uncut = dataclasses.replace(liquid, threshold=-9.0)
        # Near the border the border's pixel counts several times and more noise is left.
        spreads = [drops(noise, uncut, each)[50:-50, 50:-50].std() for each in (1.0, scale)]
        assert spreads[1] == pytest.approx(spreads[0], rel=0.1)


def test_mud_covers_about_as_much_at_any_size():
    generator = np.random.default_rng(0)
    for liquid, covered in zip(SPATTER[3:], (0.125, 0.2), strict=True):
        for side, number in ((32, 60), (96, 6), (448, 1)):
            noise = generator.standard_normal((number, side, side))
            assert (mud(noise, liquid, max(side / 224, SMALLEST_SCALE)) > 0).mean() == pytest.approx(covered, abs=0.07)


def test_an_image_that_is_spared_every_drop_stays():
    noise = np.full((1, 16, 16), -3.0)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for liquid in SPATTER:
        assert torch.equal(spatter(images, torch.from_numpy(layer_of(noise, liquid)).float(), muddy=liquid.mud), images)


def test_draws_follow_the_id_and_the_seed():
    whole = Spatter().draw(3, ("a", "b"), (9, 12))
    assert whole.shape == (2, 9, 12)
    assert np.array_equal(Spatter().draw(3, ("b",), (9, 12))[0], whole[1])
    assert not np.array_equal(Spatter().draw(4, ("b",), (9, 12))[0], whole[1])


@pytest.mark.parametrize("muddy", [False, True])
def test_gradients_are_those_of_finite_differences(muddy):
    generator = torch.Generator().manual_seed(0)
    images, layer = (torch.rand(1, *shape, generator=generator, dtype=torch.float64) for shape in ((3, 3, 4), (3, 4)))
    assert torch.autograd.gradcheck(lambda x: spatter(x, layer, muddy=muddy), images.requires_grad_())
