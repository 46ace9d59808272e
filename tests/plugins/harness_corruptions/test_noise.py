"""Noise of single pixels, against the package with its draws given, against scipy, and in distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import poisson, skew

from harness import rng
from harness_corruptions import reference
from harness_corruptions.noise import (
    SHOT_RATE,
    GaussianNoise,
    ImpulseNoise,
    ShotNoise,
    SpeckleNoise,
    gaussian_noise,
    impulse_noise,
    photon_counts,
    speckle_noise,
)
from harness_corruptions.quantise import eight_bit

ALL = (GaussianNoise, ShotNoise, ImpulseNoise, SpeckleNoise)


def in_255ths(images):
    return (eight_bit(images).double() * 255).permute(0, 2, 3, 1).numpy().round(4)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize(("name", "native"), [("gaussian_noise", gaussian_noise), ("speckle_noise", speckle_noise)])
def test_normal_noise_is_the_packages_for_equal_draws(pictures, tensor_of, fed, name, native, severity):
    given = pictures(1, 40, 48)
    sigma = {"gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38), "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6)}[name]
    draws = np.random.default_rng(1).standard_normal((40, 48, 3)).astype(np.float32)
    asked = []

    def normal(size, scale):
        asked.append(scale)
        return scale * draws.astype(float)

    expected = fed(name, given[0], severity, normal=normal)
    noise = torch.from_numpy(draws).permute(2, 0, 1)[None]
    found = in_255ths(native(tensor_of(given), sigma[severity - 1], noise))[0]
    assert asked == [sigma[severity - 1]]
    # In single precision a value may fall on the other side of a whole one.
    assert np.abs(found - expected).max() < 1.01
    assert (np.abs(found - expected) > 0.01).mean() < 0.002


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_shot_noise_is_the_packages_for_equal_counts(pictures, tensor_of, fed, severity):
    given = pictures(1, 40, 48)
    uniforms = np.random.default_rng(2).random((40, 48, 3))

    def counts(mean):
        return np.where(mean > 0, poisson.ppf(uniforms.astype(np.float32).astype(float), mean), 0)

    expected = fed("shot_noise", given[0], severity, poisson=counts)
    rate = SHOT_RATE[severity - 1]
    u = torch.from_numpy(uniforms.astype(np.float32)).permute(2, 0, 1)[None]
    found = in_255ths(photon_counts(tensor_of(given), rate, u) / rate)[0]
    assert (np.abs(found - expected) > 1.01).mean() < 1e-3
    assert (np.abs(found - expected) > 0.01).mean() < 2e-3


@pytest.mark.parametrize("rate", SHOT_RATE)
def test_photon_counts_are_scipys_quantiles_for_every_value(rate):
    images = (torch.arange(256) / 255).view(1, 1, 256, 1).repeat(1, 3, 1, 257)
    u = torch.from_numpy(rng.dense_uniforms(0, "test.counts", ["a"], (3, 256, 257)))
    u[..., 0], u[..., 1] = 0.0, 1 - 2.0**-24
    found = photon_counts(images, rate, u).numpy()
    with np.errstate(invalid="ignore"):
        expected = poisson.ppf(u.double().numpy(), images.double().numpy() * rate)
    expected = np.where((u.numpy() == 0) | (images.numpy() == 0), 0, expected)
    # Cumulative probabilities in single precision: only a draw within 6e-8 of one may go either way.
    assert (found != expected)[..., 2:].mean() < 1e-4
    assert np.abs(found - expected).max() <= 2


def test_impulse_noise_is_the_packages_for_equal_flips(pictures, tensor_of, package):
    given = pictures(1, 40, 48)
    generator = np.random.default_rng(5)
    from skimage.util import random_noise

    amount = 0.09
    expected = np.uint8(
        np.clip(random_noise(given[0] / 255.0, mode="s&p", amount=amount, rng=np.random.default_rng(5)), 0, 1) * 255
    )
    flipped = generator.random((40, 48, 3)) <= amount
    salted = generator.random((40, 48, 3)) <= 0.5
    as_tensor = [torch.from_numpy(mask).permute(2, 0, 1)[None] for mask in (flipped, salted)]
    assert (in_255ths(impulse_noise(tensor_of(given), *as_tensor))[0] == expected).all()


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("kind", ALL)
def test_noise_has_the_packages_distribution(pictures, corrupted, package, radial_spectrum, kind, severity):
    given = pictures(100, 40)
    ours = corrupted(kind(), given, severity) - given
    theirs = np.stack([reference.corrupt_one(kind.name, g, severity, seed=i) for i, g in enumerate(given)])
    theirs = theirs.astype(float) - given
    # 480,000 values: the standard error of the mean is 0.2 levels at most, and of the deviation less.
    assert abs(ours.mean() - theirs.mean()) < 0.6
    assert abs(ours.std() / theirs.std() - 1) < 0.015
    assert abs(skew(ours.ravel()) - skew(theirs.ravel())) < 0.05
    assert np.abs(radial_spectrum(ours) / radial_spectrum(theirs) - 1).max() < 0.12


@pytest.mark.parametrize("kind", ALL)
def test_severities_share_their_draws(pictures, corrupted, kind):
    given = np.full((1, 64, 64, 3), 128, dtype=np.uint8)
    mild, strong = (corrupted(kind(), given, severity) - 128 for severity in (2, 4))
    moved = (mild != 0) & (strong != 0)
    assert moved.any()
    assert (np.sign(mild[moved]) == np.sign(strong[moved])).mean() > 0.97


@pytest.mark.parametrize("kind", ALL)
def test_an_image_alone_gets_what_it_gets_in_a_batch(pictures, corrupted, kind):
    given = pictures(3, 24, 32)
    whole = corrupted(kind(), given, 3, ids=("a", "b", "c"))
    alone = corrupted(kind(), given[1:2], 3, ids=("b",))
    assert (whole[1:2] == alone).all()
    assert (corrupted(kind(), given, 3, seed=1, ids=("a", "b", "c")) != whole).any()


@pytest.mark.parametrize("quantise", [True, False])
@pytest.mark.parametrize("kind", [GaussianNoise, SpeckleNoise])
def test_a_gradient_leads_through(batch_of, pictures, kind, quantise):
    corruption = kind(quantise=quantise)
    batch = batch_of(pictures(2, 24) // 2 + 60)
    draws = torch.zeros_like(batch.images)
    batch.images.requires_grad_()
    (gradient,) = torch.autograd.grad(corruption.apply(batch, draws, 1).images.sum(), batch.images)
    assert torch.allclose(gradient, torch.ones_like(gradient))
