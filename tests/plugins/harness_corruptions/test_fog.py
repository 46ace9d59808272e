"""Fog against the package, given its uniforms, and the diamond-square algorithm in slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness_corruptions.fog import FOG, Fog, fog, map_side, plasma
from harness_corruptions.quantise import eight_bit


def in_turn(values):
    """The package's ``numpy.random.uniform``, answered from ``values`` in [0, 1)."""
    used = 0

    def uniform(low, high, size):
        nonlocal used
        count = int(np.prod(size))
        taken = values[used : used + count].reshape(size)
        used += count
        return low + (high - low) * taken

    return uniform


def expect_equal_to_package(given, tensor_of, fed, uniforms_of):
    size = given.shape[1:3]
    side = map_side(size)
    uniforms = uniforms_of("fog", [str(i) for i in range(len(given))], (side * side - 1,))
    for severity, (amplitude, decay) in enumerate(FOG, start=1):
        haze = plasma(torch.from_numpy(uniforms), side, decay)
        found = eight_bit(fog(tensor_of(given), amplitude, haze)).permute(0, 2, 3, 1).numpy() * 255
        wanted = np.stack(
            [
                fed("fog", picture, severity, uniform=in_turn(values.astype(np.float64)))
                for picture, values in zip(given, uniforms, strict=True)
            ]
        )
        assert np.abs(found - wanted).max() < 1.01, severity
        assert (np.abs(found - wanted) > 0.5).mean() < 0.005, severity


def test_equals_the_package_on_photographs_given_its_uniforms(photographs, tensor_of, fed, uniforms_of):
    expect_equal_to_package(photographs(4), tensor_of, fed, uniforms_of)


@pytest.mark.parametrize("size", [(32, 32), (33, 70)])
def test_equals_the_package_at_other_sizes_given_its_uniforms(size, pictures, tensor_of, fed, uniforms_of):
    expect_equal_to_package(pictures(2, *size), tensor_of, fed, uniforms_of)


def slow_plasma(uniforms, side, decay):
    heights = {(0, 0): 0.0}
    values = iter(uniforms)
    step, roughness = side, 100.0
    while step > 1:
        half = step // 2
        grid = [(y, x) for y in range(0, side, step) for x in range(0, side, step)]

        def wobble(y, x, around, roughness=roughness):
            mean = sum(heights[(y + dy) % side, (x + dx) % side] for dy, dx in around) / 4
            heights[y, x] = mean + roughness * (2 * next(values) - 1) * roughness

        for y, x in grid:
            wobble(y + half, x + half, [(a, b) for a in (-half, half) for b in (-half, half)])
        for down, right in ((0, half), (half, 0)):
            for y, x in grid:
                wobble(y + down, x + right, [(-half, 0), (half, 0), (0, -half), (0, half)])
        step, roughness = half, roughness / decay
    table = np.array([[heights[y, x] for x in range(side)] for y in range(side)])
    return (table - table.min()) / (table.max() - table.min())


@pytest.mark.parametrize("decay", [2.0, 1.4])
def test_plasma_is_the_diamond_square_algorithm(decay):
    uniforms = np.random.default_rng(0).random((2, 255))
    found = plasma(torch.from_numpy(uniforms), 16, decay)
    for one, values in zip(found, uniforms, strict=True):
        np.testing.assert_allclose(one, slow_plasma(values, 16, decay), atol=1e-12)


@pytest.mark.parametrize(("size", "side"), [((8, 8), 8), ((224, 224), 256), ((256, 200), 256), ((90, 257), 512)])
def test_the_plasma_is_as_large_as_the_next_power_of_two(size, side):
    assert map_side(size) == side
    assert Fog().draw(0, ("a",), size).shape == (1, side * side - 1)


def test_the_maximum_of_each_image_stays():
    images = (
        torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        * torch.tensor([0.5, 1.0])[:, None, None, None]
    )
    found = fog(images, 3.0, torch.ones(2, 8, 8))
    torch.testing.assert_close(found.amax(dim=(1, 2, 3)), images.amax(dim=(1, 2, 3)))


def test_draws_follow_the_id_and_not_the_batch():
    whole = Fog().draw(3, ("a", "b", "c"), (16, 16))
    assert torch.equal(Fog().draw(3, ("b",), (16, 16))[0], whole[1])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(Fog().draw(4, ("a",), (16, 16))[0], whole[0])


def test_gradients_are_those_of_finite_differences():
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    haze = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: fog(x, 2.0, haze), images.requires_grad_())
