"""Descriptor of the inspection of attention pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import ProbeEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPoolMapsParams:
    """Parameters of ``attention_pool_maps``."""

    classes: int = param(
        3, help="of a model with a map for each class, how many of the highest-scored classes are shown", low=1, high=10
    )
    examples: int = param(6, help="how many images are shown", low=0, high=64)


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``attention_pool_maps``."""
    yield ProbeEntry(
        name="attention_pool_maps",
        target="harness_inspect.attention_pool_maps_probe:AttentionPoolMapsProbe",
        summary="the map by which a class token gathers the patches last, or the map of each class, as in PatchConvNet",
        params=AttentionPoolMapsParams,
        needs=frozenset({Capability.ATTENTION}),
        headline="effective_patches",
        exhibit="harness_inspect.attention_pool_maps_exhibit:exhibit",
    )
