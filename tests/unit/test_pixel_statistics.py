"""The baseline of bare pixels, against sums written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.errors import CapabilityError
from harness.pixel_statistics import DIM, THUMBNAIL, PixelStatistics
from harness.types import OutputSpec
from harness.weights import WeightsChoice

POOLED = OutputSpec(pooled=True)


def test_the_vector_is_colours_thumbnail_and_steepness():
    images = np.random.default_rng(0).random((3, 3, 32, 48)).astype(np.float32)
    found = PixelStatistics().outputs(torch.from_numpy(images), POOLED).pooled.numpy()
    h, w = 32 // THUMBNAIL, 48 // THUMBNAIL
    thumbnail = images.reshape(3, 3, THUMBNAIL, h, THUMBNAIL, w).mean(axis=(3, 5))
    expected = np.concatenate(
        [
            images.mean(axis=(2, 3)),
            images.std(axis=(2, 3)),
            thumbnail.reshape(3, -1),
            np.abs(images[:, :, 1:] - images[:, :, :-1]).mean(axis=(2, 3)),
            np.abs(images[..., 1:] - images[..., :-1]).mean(axis=(2, 3)),
        ],
        axis=1,
    )
    assert found.shape == (3, DIM)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_images_of_any_size_give_vectors_of_one_length():
    model = PixelStatistics()
    assert {model.outputs(torch.rand(1, 3, *size), POOLED).pooled.shape for size in ((5, 5), (224, 224), (1, 9))} == {
        (1, DIM)
    }


def test_a_grey_image_has_a_finite_gradient():
    images = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    PixelStatistics().outputs(images, POOLED).pooled.sum().backward()
    assert torch.isfinite(images.grad).all()


def test_it_has_no_logits_and_says_so():
    with pytest.raises(CapabilityError):
        PixelStatistics().outputs(torch.rand(1, 3, 8, 8), OutputSpec(logits=True))


def test_untrained_is_what_a_run_with_random_weights_calls_it():
    assert PixelStatistics().info.weights.identity == "embedded:pixel_statistics:1"
    assert PixelStatistics(weights=WeightsChoice(origin="random")).info.weights.untrained
