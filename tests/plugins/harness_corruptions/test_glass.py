"""Frosted glass, against the package with its moves given and slow loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import skew

from harness_corruptions import reference
from harness_corruptions.glass import GLASS, GlassBlur, copied_from, exchanged_from, glass_blur, region
from harness_corruptions.quantise import eight_bit

SIZES = [(9, 12, 2), (16, 16, 1), (20, 15, 4), (8, 8, 4)]


def moves_of(size, reach, seed=0):
    return np.random.default_rng(seed).integers(-reach, reach, (len(region(size, reach)[0]), 2))


def slowly(moves, size, reach, *, exchange):
    held = np.arange(size[0] * size[1]).reshape(size)
    queue = iter(moves.tolist())
    for h in range(size[0] - reach, reach, -1):
        for w in range(size[1] - reach, reach, -1):
            down, right = next(queue)
            here, there = int(held[h, w]), int(held[h + down, w + right])
            held[h, w] = there
            if exchange:
                held[h + down, w + right] = here
    return held.ravel()


@pytest.mark.parametrize(("height", "width", "reach"), SIZES)
def test_taking_in_turn_is_the_slow_loop(height, width, reach):
    moves = moves_of((height, width), reach)
    assert (copied_from(moves, (height, width), reach) == slowly(moves, (height, width), reach, exchange=False)).all()


@pytest.mark.parametrize(("height", "width", "reach"), SIZES)
def test_exchanging_in_turn_is_the_slow_loop(height, width, reach):
    moves = moves_of((height, width), reach)
    found = exchanged_from(moves, (height, width), reach)
    assert (found == slowly(moves, (height, width), reach, exchange=True)).all()
    assert sorted(found.tolist()) == list(range(height * width))


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_with_given_moves_it_is_the_packages(pictures, tensor_of, fed, severity):
    given = pictures(1, 36, 40)
    sigma, reach, times = GLASS[severity - 1]
    turns = [moves_of((36, 40), reach, seed) for seed in range(times)]
    # The package draws the move to the right first.
    queue = iter([move[::-1] for turn in turns for move in turn])
    expected = fed("glass_blur", given[0], severity, randint=lambda low, high, size: next(queue))
    assert next(queue, None) is None
    sources = np.arange(36 * 40)
    for turn in turns:
        sources = sources[copied_from(turn, (36, 40), reach)]
    found = eight_bit(glass_blur(tensor_of(given), sigma, torch.from_numpy(sources)[None]))
    difference = np.abs((found[0].double() * 255).permute(1, 2, 0).numpy() - expected)
    assert difference.max() < 2.01
    assert (difference > 1.01).mean() < 1e-3


def test_moves_are_drawn_for_each_image_within_reach(pictures, corrupted):
    given = pictures(2, 40)
    whole = corrupted(GlassBlur(lengths="fixed"), given, 4, ids=("a", "b"))
    assert (corrupted(GlassBlur(lengths="fixed"), given[1:], 4, ids=("b",)) == whole[1:]).all()
    sources = GlassBlur()._sources(0, "s", "a", (40, 40), 3, 1).reshape(40, 40)
    moved = np.stack(np.divmod(sources, 40)) - np.indices((40, 40))
    assert moved.min() < 0 < moved.max()
    assert (sources[0] == np.arange(40)).all()


@pytest.mark.parametrize(
    "severity", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_glass_has_the_packages_distribution(pictures, corrupted, package, radial_spectrum, severity):
    given = pictures(100, 36)
    ours = corrupted(GlassBlur(lengths="fixed"), given, severity) - given
    theirs = np.stack([reference.corrupt_one("glass_blur", g, severity, seed=i) for i, g in enumerate(given)])
    theirs = theirs.astype(float) - given
    assert abs(ours.mean() - theirs.mean()) < 0.3
    assert abs(ours.std() / theirs.std() - 1) < 0.02
    assert abs(skew(ours.ravel()) - skew(theirs.ravel())) < 0.05
    assert np.abs(radial_spectrum(ours) / radial_spectrum(theirs) - 1).max() < 0.1


def test_the_variants_differ(pictures, corrupted):
    given = pictures(1, 56)
    copied, exchanged = (corrupted(GlassBlur(variant=v), given, 3) for v in ("imagecorruptions", "imagenet_c"))
    assert (copied != exchanged).mean() > 0.1


@pytest.mark.parametrize("quantise", [True, False])
def test_a_gradient_leads_through(batch_of, pictures, quantise):
    corruption = GlassBlur(quantise=quantise)
    batch = batch_of(pictures(1, 32))
    corruption._seed = 0
    draws = corruption.draw(0, batch.ids, (32, 32))
    batch.images.requires_grad_()
    (gradient,) = torch.autograd.grad(corruption.apply(batch, draws, 3).images[0, :, 16, 16].sum(), batch.images)
    assert gradient.sum() == pytest.approx(3, abs=1e-3)
