"""Initial parameters drawn from a generator of their own, so that the global random state is left alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Fill = Callable[[Tensor], Tensor]
"""Fills a tensor in place, and returns it."""


def draw(parameter: Tensor, fill: Fill) -> None:
    """Give ``parameter`` what ``fill`` draws: on the CPU, so that a seed means the same values whatever the device."""
    with torch.no_grad():
        parameter.copy_(fill(torch.empty(parameter.shape, device="cpu")))


def truncated_normal(generator: torch.Generator, std: float = 0.02) -> Fill:
    """Normal with mean 0 between -2 and 2: the initial values of transformers (Dosovitskiy et al., ICLR 2021)."""
    return lambda value: nn.init.trunc_normal_(value, std=std, generator=generator)


def normal(generator: torch.Generator, std: float) -> Fill:
    """Normal with mean 0."""
    return lambda value: value.normal_(0, std, generator=generator)


def uniform(generator: torch.Generator, bound: float) -> Fill:
    """Uniform between ``-bound`` and ``bound``."""
    return lambda value: value.uniform_(-bound, bound, generator=generator)
