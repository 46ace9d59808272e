"""Descriptors of the zoo: how an entry is filled in."""

from __future__ import annotations

from collections.abc import Iterable

from harness.entries import ModelEntry
from harness.model_params import NetworkParams
from harness.types import Capability, View


def zoo_entry(
    name: str,
    target: str,
    summary: str,
    *,
    view: View,
    capabilities: Iterable[Capability],
    tags: tuple[str, ...],
    params: type = NetworkParams,
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
