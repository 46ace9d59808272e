"""What wrapped networks of every family share: the card, the input, the device, the interventions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.adapters import check_want, model_input
from harness.backbones.first_convolution import first_convolution
from harness.backbones.intervention import Interventions
from harness.errors import CapabilityError
from harness.protocols import SiteTokens
from harness.types import BlockTokens, Capability, ModelInfo, ModelOutputs, OutputSpec, belongs_to_head


class NetworkModel(ABC):
    """A network as a :class:`~harness.protocols.Model` that supports interventions.

    ``net``: the network, put into eval mode and frozen here. ``sites``: where its tokens can be changed.
    ``droppable``: whether patches can be dropped there.
    """

    def __init__(self, net: Any, info: ModelInfo, *, sites: Sequence[str], droppable: bool) -> None:
        self.net = net.eval().requires_grad_(False)
        self._initial_head = tuple(name for name in info.weights.initial if belongs_to_head(name))
        if self._initial_head:
            # Scores of a classifier that nobody trained are not those of the classes.
            info = replace(info, heads=(), capabilities=info.capabilities - {Capability.LOGITS})
        self._info = info
        self._interventions = Interventions(info.name, sites, droppable=droppable)

    @property
    def info(self) -> ModelInfo:
        """The model's card."""
        return self._info

    def outputs(self, images: Tensor, want: OutputSpec) -> ModelOutputs:
        """See :meth:`harness.protocols.Model.outputs`. Logits are float32 under autocast, too."""
        if want.logits and self._initial_head:
            raise CapabilityError(
                f"model {self._info.name} gives no logits: {', '.join(self._initial_head)} were not in its weights",
                hint="give weights with a trained head, or a probe that learns from features",
            )
        check_want(self._info, want)
        return self._forward(model_input(images, self._info), want)

    def to(self, device: torch.device | str) -> NetworkModel:
        """Moves in place."""
        self.net.to(device)
        return self

    def intervene(
        self, site: str, fn: Callable[[SiteTokens], SiteTokens], *, ids: tuple[str, ...]
    ) -> AbstractContextManager[None]:
        """See :meth:`harness.protocols.SupportsIntervention.intervene`; several at one site act in order of opening."""
        return self._interventions.opened(site, fn, ids)

    def patch_filters(self) -> Tensor:
        """See :meth:`harness.protocols.HasPatchFilters.patch_filters`: the first convolution of a forward pass.

        A copy. The filters of a patch embedding by convolution, of a convolutional stem ahead of one, or of a
        convolutional network; a network that splits the image otherwise (T2T) is refused, and so are filters that see
        one colour each or are no squares.
        """
        info = self._info
        capabilities = info.capabilities
        want = OutputSpec(
            tokens=frozenset({0} if Capability.TOKENS in capabilities else ()),
            pooled=Capability.TOKENS not in capabilities and Capability.POOLED in capabilities,
            logits=not capabilities & {Capability.TOKENS, Capability.POOLED},
        )
        device = next((tensor.device for tensor in (*self.net.parameters(), *self.net.buffers())), torch.device("cpu"))
        black = torch.zeros(1, 3, info.input_size, info.input_size, device=device)
        weight = first_convolution(lambda: self._forward(model_input(black, info), want))
        if weight is None or weight.shape[1] != 3 or weight.shape[2] != weight.shape[3]:
            found = "none" if weight is None else f"one with weights of {tuple(weight.shape)}"
            raise CapabilityError(
                f"model {info.name} begins with no convolution over squares of coloured pixels: its first is {found}",
                hint="take a model whose patch embedding or stem is a convolution, such as a ViT or a ResNet",
            )
        return weight.clone()

    @abstractmethod
    def _forward(self, pixels: Tensor, want: OutputSpec) -> ModelOutputs:
        """One walk over the network, for normalised pixels and a want that has been checked."""

    def _enter_map(self, site: str, x: Tensor) -> Tensor:
        """A map (N, C, H, W) as it leaves ``site``, where interventions see it as :func:`map_tokens`."""
        if not self._interventions.at(site):
            return x
        tokens = map_tokens(x)
        _, patches, _ = self._interventions.apply(site, tokens.prefix, tokens.patches, tokens.grid, None)
        return patches.transpose(1, 2).reshape(x.shape)


def map_tokens(x: Tensor) -> BlockTokens:
    """A map (N, C, H, W) as tokens: a patch (N, H*W, C) a place in row-major order, and no prefix."""
    no_prefix = x.new_zeros(x.shape[0], 0, x.shape[1])
    return BlockTokens(prefix=no_prefix, patches=x.flatten(2).transpose(1, 2), grid=(x.shape[2], x.shape[3]))
