"""ResNets for CIFAR-10 against a run by hand: depth, shortcuts without weights, and seeds."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.backbones.cifar_resnet import CifarResNet
from harness.errors import ParameterError


@pytest.fixture
def net():
    net = CifarResNet(depth=20, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.add_(0.05 * torch.rand(value.shape, generator=generator))
    return net


@torch.no_grad()
def by_hand(state, x):
    """The whole network from its weights by name, with the shortcuts written out channel by channel."""

    def norm(name, x):
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts)

    x = norm("bn1", functional.conv2d(x, state["conv1.weight"], padding=1)).relu()
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = functional.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = functional.conv2d(norm(f"{name}.bn1", y).relu(), state[f"{name}.conv2.weight"], padding=1)
            y = norm(f"{name}.bn2", y)
            offset = (y.shape[1] - x.shape[1]) // 2
            for channel in range(x.shape[1]):
                y[:, channel + offset] += x[:, channel, ::stride, ::stride]
            x = y.relu()
    return functional.linear(x.mean(dim=(2, 3)), state["linear.weight"], state["linear.bias"])


@torch.no_grad()
@pytest.mark.parametrize("side", [32, 48])
def test_logits_are_those_of_a_run_by_hand(net, side):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(net(images), by_hand(net.state_dict(), images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("depth", "thousands"), [(20, 270), (32, 464), (44, 659), (56, 853), (110, 1728)])
def test_depth_and_size_are_the_papers(depth, thousands):
    with torch.device("meta"):
        net = CifarResNet(depth=depth)
    layers = [part for part in net.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert round(sum(value.numel() for value in net.parameters()) / 1000) == thousands


def test_other_depths_are_refused():
    for depth in (2, 18, 51):
        with pytest.raises(ParameterError, match=r"6n \+ 2 layers"):
            CifarResNet(depth=depth)


def test_a_seed_means_the_same_parameters_and_the_global_state_stays():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (CifarResNet(depth=20, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert first["layer3.0.conv2.weight"].std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
