"""Blur along a line, against the package at given angles and a slow loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness_corruptions.motion import MOTION, MotionBlur, blur_along, motion_offsets, motion_taps
from harness_corruptions.quantise import eight_bit

ANGLES = (-45.0, -30.5, -3.0, 0.0, 17.3, 44.9)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_at_a_given_angle_it_is_the_packages(pictures, tensor_of, fed, severity):
    given = pictures(len(ANGLES), 64, 72)
    expected = np.stack(
        [
            fed("motion_blur", picture, severity, uniform=lambda low, high, angle=angle: angle)
            for picture, angle in zip(given, ANGLES, strict=True)
        ]
    )
    radius, sigma = MOTION[severity - 1]
    found = eight_bit(blur_along(tensor_of(given), radius=radius, sigma=sigma, degrees=ANGLES))
    difference = np.abs((found.double() * 255).permute(0, 2, 3, 1).numpy() - expected)
    assert difference.max() < 1.01
    assert (difference > 0.01).mean() < 0.02


def test_it_is_the_slow_mean_over_the_steps(pictures, tensor_of):
    images = tensor_of(pictures(1, 12, 14)).double()
    found = blur_along(images, radius=3, sigma=2.0, degrees=[-37.0])
    weights = [np.exp(-(i**2) / 8) for i in range(7)]
    for y, x in ((0, 0), (5, 7), (11, 13), (0, 13), (11, 0)):
        expected = 0.0
        for i, weight in enumerate(weights):
            row = y + int(np.ceil(i * np.sin(np.deg2rad(-37.0)) - 0.5))
            column = x + int(np.ceil(i * np.cos(np.deg2rad(-37.0)) - 0.5))
            expected = expected + weight * images[0, :, min(max(row, 0), 11), min(max(column, 0), 13)]
        assert torch.allclose(found[0, :, y, x], expected / sum(weights))


def test_weights_sum_to_one_and_the_first_step_stays():
    assert motion_taps(10, 3.0).sum() == pytest.approx(1)
    assert motion_offsets(5, 30.0)[0].tolist() == [0, 0]
    assert motion_offsets(5, 0.0).tolist() == [[0, i] for i in range(5)]
    assert motion_offsets(5, -90.0).tolist() == [[-i, 0] for i in range(5)]


def test_angles_are_those_of_the_images_and_lie_within_45_degrees():
    corruption = MotionBlur()
    angles = corruption.draw(0, tuple(f"{i}" for i in range(500)), (8, 8))
    assert np.abs(angles).max() <= 45
    assert np.abs(angles.mean()) < 4
    assert angles.std() == pytest.approx(90 / np.sqrt(12), rel=0.1)
    assert corruption.draw(0, ("7",), (8, 8))[0] == angles[7]


def test_a_motion_longer_than_the_image_ends_as_the_packages_does(pictures, tensor_of, fed):
    given = pictures(1, 34, 34)
    expected = fed("motion_blur", given[0], 5, uniform=lambda low, high: 10.0)
    found = eight_bit(blur_along(tensor_of(given), radius=20, sigma=15.0, degrees=[10.0]))
    assert np.abs((found[0].double() * 255).permute(1, 2, 0).numpy() - expected).max() < 1.01


def test_the_variants_differ_by_how_they_end(pictures, corrupted):
    given = pictures(2, 56)
    cut, rounded = (corrupted(MotionBlur(variant=variant), given, 3) for variant in ("imagecorruptions", "imagenet_c"))
    difference = rounded - cut
    assert set(np.unique(difference.round(3))) == {0, 1}
    assert 0.3 < difference.mean() < 0.7


def test_the_length_scales_with_the_image(pictures, corrupted):
    given = pictures(1, 56)
    scaled, fixed = (corrupted(MotionBlur(lengths=lengths), given, 5) for lengths in ("scaled", "fixed"))
    assert np.abs(scaled - given).mean() < np.abs(fixed - given).mean()


@pytest.mark.parametrize("variant", ["imagecorruptions", "imagenet_c"])
@pytest.mark.parametrize("quantise", [True, False])
def test_a_gradient_leads_through(batch_of, pictures, quantise, variant):
    batch = batch_of(pictures(1, 40))
    batch.images.requires_grad_()
    blurred = MotionBlur(quantise=quantise, variant=variant).apply(batch, np.array([20.0]), 1).images
    (gradient,) = torch.autograd.grad(blurred[0, :, 20, 20].sum(), batch.images)
    assert gradient.sum() == pytest.approx(3, abs=1e-4)
