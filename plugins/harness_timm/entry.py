"""Descriptors of timm's families: their parameters, and one entry a family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.entries import ModelEntry
from harness.model_params import NetworkParams, PositionedParams
from harness.params import param
from harness.types import Capability, View

ARCH = "timm's full name, architecture.tag: it fixes the weights, their view and normalisation"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmParams(NetworkParams):
    """Parameters of every family."""

    arch: str = param(help=ARCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionedTimmParams(PositionedParams):
    """Parameters of families that add an embedding of its place to every patch."""

    arch: str = param(help=ARCH)


def timm_entry(
    name: str,
    summary: str,
    *,
    view: View,
    capabilities: Iterable[Capability],
    tags: tuple[str, ...],
    params: type = TimmParams,
    target: str | None = None,
) -> ModelEntry:
    """The entry of one family, built by its namesake in :mod:`harness_timm.builders` unless ``target`` says otherwise;
    ``view`` and ``capabilities`` are those of its best-known member."""
    claimed = frozenset(capabilities)
    return ModelEntry(
        name=name,
        target=target or f"harness_timm.builders:build_{name}",
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
