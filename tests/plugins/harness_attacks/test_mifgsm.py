"""MI-FGSM: equal to torchattacks, to FGSM in one step, and to a loop with momentum for l2."""

from __future__ import annotations

import pytest
import torch
import torchattacks
from torch.nn import functional

from harness_attacks.fgsm import FGSM
from harness_attacks.mifgsm import MIFGSM


@pytest.mark.parametrize("network", ["conv", "vit"])
@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_it_equals_torchattacks(network, decay, networks, pictures, ready, applied):
    net, batch = networks[network], pictures()
    expected = torchattacks.MIFGSM(net, eps=8 / 255, alpha=2 / 255, steps=6, decay=decay)(batch.images, batch.labels)
    found = applied(ready(MIFGSM(steps=6, step_255=2.0, decay=decay), net), batch, 8.0).images
    assert (found - expected).abs().max() <= 1e-6


def test_its_step_is_the_budget_over_the_steps(networks, pictures, ready, applied):
    net, batch = networks["conv"], pictures()
    told = applied(ready(MIFGSM(steps=4, step_255=2.0), net), batch, 8.0).images
    assert torch.equal(applied(ready(MIFGSM(steps=4), net), batch, 8.0).images, told)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_is_fgsm(norm, networks, pictures, ready, applied):
    net, batch = networks["vit"], pictures()
    one = applied(ready(MIFGSM(steps=1, norm=norm), net), batch, 16.0).images
    assert (one - applied(ready(FGSM(norm=norm), net), batch, 16.0).images).abs().max() <= 1e-6


def test_l2_steps_go_along_the_momentum(networks, pictures, ready, applied):
    net, batch = networks["conv"], pictures(2)
    eps, step, decay = 1.0, 0.3, 0.9
    found = applied(ready(MIFGSM(norm="l2", steps=5, step_255=255 * step, decay=decay), net), batch, 255.0).images
    for image, label, result in zip(batch.images, batch.labels, found, strict=True):
        point, momentum = image.clone(), torch.zeros_like(image)
        for _ in range(5):
            leaf = point.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(functional.cross_entropy(net(leaf[None]), label[None]), leaf)
            momentum = decay * momentum + gradient / gradient.abs().sum()
            change = point + step * momentum / momentum.norm() - image
            point = (image + change * min(1.0, eps / float(change.norm()))).clamp(0, 1)
        assert (result - point).abs().max() <= 1e-5


def test_levels_share_their_first_gradient(networks, pictures, ready, counted):
    target, batch = counted(networks["conv"]), pictures()
    attack = ready(MIFGSM(steps=4), target)
    state = attack.begin(batch)
    first = [attack.apply(batch, state, level).images for level in (2.0, 4.0)]
    assert (target.differentiable, target.plain) == (7, 0)
    alone = attack.apply(batch, attack.begin(batch), 4.0).images
    assert torch.equal(first[1], alone)


def test_a_flat_target_leaves_images_as_they_are(pictures, ready, applied):
    batch = pictures()
    found = applied(ready(MIFGSM(), lambda images: 0 * images.flatten(1)[:, :10]), batch, 8.0)
    assert torch.equal(found.images, batch.images)
    assert found.realised["zero_gradient"].tolist() == [1.0] * 6
