"""Descriptors of the zoo: the parameters that every architecture has, and how an entry is filled in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.entries import ModelEntry
from harness.params import param
from harness.types import Capability, View

MAP_CAPABILITIES = frozenset(
    {Capability.LOGITS, Capability.POOLED, Capability.TOKENS, Capability.GRADIENTS, Capability.INTERVENTION}
)
"""What convolutional networks give: their stages are maps, without a class token and without attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooParams:
    """Parameters of every architecture."""

    input: int = param(0, help="side of the input; 0 for the architecture's own", unit="px", low=0)
    url: str | None = param(None, help="address of the pretrained weights; without it there are none")
    sha256: str | None = param(None, help="their SHA-256 in hexadecimal digits, checked at every load")


def zoo_entry(
    name: str,
    target: str,
    summary: str,
    *,
    view: View,
    capabilities: Iterable[Capability],
    tags: tuple[str, ...],
    params: type = ZooParams,
    label_space: str = "imagenet1k",
) -> ModelEntry:
    """The entry of one architecture; ``view`` is that of its own input size, ``capabilities`` of its first variant."""
    return ModelEntry(
        name=name,
        target=target,
        summary=summary,
        tags=("zoo", *tags),
        params=params,
        url_param="url",
        sha256_param="sha256",
        facts_vary=True,
        view=view,
        label_space=label_space,
        capabilities=frozenset(capabilities),
    )
