"""What the wrapped timm networks of every family share: the card, the input, the device, the interventions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from harness.adapters import check_want, model_input
from harness.protocols import SiteTokens
from harness.types import ModelInfo, ModelOutputs, OutputSpec
from harness_timm.intervention import Interventions


class TimmModel(ABC):
    """A timm network as a :class:`~harness.protocols.Model` that supports interventions.

    ``net``: the network, put into eval mode and frozen here. ``sites``: where its tokens can be changed.
    ``droppable``: whether patches can be dropped there.
    """

    def __init__(self, net: Any, info: ModelInfo, *, sites: Sequence[str], droppable: bool) -> None:
        self.net = net.eval().requires_grad_(False)
        self._info = info
        self._interventions = Interventions(info.name, sites, droppable=droppable)

    @property
    def info(self) -> ModelInfo:
        """The model's card."""
        return self._info

    def outputs(self, images: Tensor, want: OutputSpec) -> ModelOutputs:
        """See :meth:`harness.protocols.Model.outputs`. Logits are float32 under autocast, too."""
        check_want(self._info, want)
        return self._forward(model_input(images, self._info), want)

    def to(self, device: torch.device | str) -> TimmModel:
        """Moves in place."""
        self.net.to(device)
        return self

    def intervene(
        self, site: str, fn: Callable[[SiteTokens], SiteTokens], *, ids: tuple[str, ...]
    ) -> AbstractContextManager[None]:
        """See :meth:`harness.protocols.SupportsIntervention.intervene`; several at one site act in order of opening."""
        return self._interventions.opened(site, fn, ids)

    @abstractmethod
    def _forward(self, pixels: Tensor, want: OutputSpec) -> ModelOutputs:
        """One walk over the network, for normalised pixels and a want that has been checked."""
