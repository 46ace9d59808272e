"""Descriptors of timm's families: their parameters, and one entry a family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.entries import ModelEntry
from harness.params import param
from harness.types import Capability, View

_ARCH = "timm's full name, architecture.tag: it fixes the weights, their view and normalisation"
_INPUT = "side of the input; 0 for the architecture's own"
_URL = "address of the pretrained weights, where they are not those of the tag"
_SHA256 = "their SHA-256 in hexadecimal digits, checked at every load"

CNN = frozenset(
    {Capability.LOGITS, Capability.POOLED, Capability.TOKENS, Capability.GRADIENTS, Capability.INTERVENTION}
)
"""What convolutional networks give: their stages are maps, without a class token and without attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmParams:
    """Parameters of every family."""

    arch: str = param(help=_ARCH)
    input: int = param(0, help=_INPUT, unit="px", low=0)
    url: str | None = param(None, help=_URL)
    sha256: str | None = param(None, help=_SHA256)


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionedParams(TimmParams):
    """Parameters of families that add an embedding of its place to every patch."""

    posemb_interp: Literal["bicubic", "bilinear_corner"] = param(
        "bicubic", help="how position embeddings are interpolated for another input size than that of the weights"
    )
    positions: Literal["none", "zero", "shuffle", "mean"] = param(
        "none", help="ablation of the trained position embeddings of patches; none leaves them as they are"
    )
    positions_seed: int = param(0, help="seed of positions=shuffle", low=0)


def timm_entry(
    name: str,
    target: str,
    summary: str,
    *,
    view: View,
    capabilities: Iterable[Capability],
    tags: tuple[str, ...],
    params: type = TimmParams,
) -> ModelEntry:
    """The entry of one family; ``view`` and ``capabilities`` are those of its best-known member."""
    claimed = frozenset(capabilities)
    return ModelEntry(
        name=name,
        target=target,
        summary=f"{summary}, by architecture.tag",
        tags=("timm", *tags),
        params=params,
        tag_param="arch",
        url_param="url",
        sha256_param="sha256",
        timm_weights=True,
        facts_vary=True,
        view=view,
        label_space="imagenet1k" if Capability.LOGITS in claimed else None,
        capabilities=claimed,
    )
