"""Initial values from a generator of their own: their spread, and the global random state left alone."""

import pytest
import torch
from torch import nn

from harness.backbones.initial_values import draw, normal, truncated_normal, uniform

FILLS = {
    "normal": (lambda generator: normal(generator, 0.5), 0.5, 10.0),
    "truncated": (truncated_normal, 0.02, 2.0),
    "uniform": (lambda generator: uniform(generator, 0.3), 0.3 / 3**0.5, 0.3),
}


def drawn(make, seed):
    parameter = nn.Parameter(torch.zeros(200, 100))
    draw(parameter, make(torch.Generator().manual_seed(seed)))
    return parameter.detach()


@pytest.mark.parametrize("name", FILLS)
def test_values_are_spread_as_said_and_follow_their_generator(name):
    make, spread, bound = FILLS[name]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (drawn(make, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std().item() == pytest.approx(spread, rel=0.03)
    assert first.mean().item() == pytest.approx(0, abs=0.03 * spread)
    assert first.abs().max() <= bound


def test_the_default_device_does_not_matter():
    parameter = nn.Parameter(torch.zeros(200, 100))
    with torch.device("meta"):
        draw(parameter, truncated_normal(torch.Generator(device="cpu").manual_seed(1)))
    assert torch.equal(parameter.detach(), drawn(truncated_normal, 1))
