"""FGSM: equal to torchattacks, optimal on a linear target, one gradient for a whole sweep."""

from __future__ import annotations

import pytest
import torch
import torchattacks

from harness_attacks.fgsm import FGSM

NETWORKS = ("conv", "vit")


def linear(side=32):
    """Two classes whose scores are linear in the pixels, and the direction of the second against the first."""
    weights = 0.003 * torch.randn(2, 3 * side * side, generator=torch.Generator().manual_seed(3))
    return (lambda images: images.flatten(1) @ weights.T), (weights[1] - weights[0]).view(3, side, side)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("level", [0.5, 4.0, 16.0])
def test_it_equals_torchattacks(network, level, networks, pictures, ready, applied):
    net, batch = networks[network], pictures()
    expected = torchattacks.FGSM(net, eps=level / 255)(batch.images, batch.labels)
    found = applied(ready(FGSM(), net), batch, level).images
    assert (found - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_on_a_linear_target_it_finds_the_linf_optimum(loss, pictures, ready, applied):
    target, direction = linear()
    batch = pictures(labels=[0] * 6)
    found = applied(ready(FGSM(loss=loss), target), batch, 8.0).images
    assert (found - (batch.images + 8 / 255 * direction.sign()).clamp(0, 1)).abs().max() <= 1e-6


def test_on_a_linear_target_it_finds_the_l2_optimum_where_nothing_is_clipped(pictures, ready, applied):
    target, direction = linear()
    batch = pictures(labels=[0] * 6)
    batch = batch.with_images(0.25 + 0.5 * batch.images)
    found = applied(ready(FGSM(norm="l2"), target), batch, 128.0).images
    assert (found - (batch.images + 128 / 255 * direction / direction.norm())).abs().max() <= 1e-6
    assert (found - batch.images).flatten(1).norm(dim=1).tolist() == pytest.approx([128 / 255] * 6, abs=1e-5)


def test_with_a_goal_it_moves_towards_it(pictures, ready, applied):
    target, direction = linear()
    batch = pictures(labels=[0] * 6)
    found = applied(ready(FGSM(goal="next"), target), batch, 4.0).images
    assert (found - (batch.images + 4 / 255 * direction.sign()).clamp(0, 1)).abs().max() <= 1e-6


def test_all_levels_share_one_gradient(networks, pictures, ready, counted):
    target, batch = counted(networks["conv"]), pictures()
    attack = ready(FGSM(), target)
    state = attack.begin(batch)
    assert target.images == 0
    assert torch.equal(attack.apply(batch, state, 0.0).images, batch.images)
    assert target.images == 0
    for level in (1.0, 2.0, 4.0):
        attack.apply(batch, state, level)
    assert (target.differentiable, target.plain) == (1, 0)
