"""Descriptor of the inspection of attention maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability
from harness_inspect.attention_weights import AUTO, BlockChoice

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionMapsParams:
    """Parameters of ``attention_maps``."""

    token: str = param(
        AUTO,
        help="whose maps: a prefix token such as cls or dist, mean for the mean over patches, auto for the class token "
        "where there is one and the mean elsewhere",
    )
    blocks: BlockChoice = param("all", help="blocks by number, such as 0+11 or -1, or all in which the token attends")
    examples: int = param(4, help="how many images are shown", low=0, high=64)

    def __post_init__(self) -> None:
        if not self.token:
            raise ParameterError("attention_maps: token is empty", hint="name a token such as cls, or auto")
        if not self.blocks:
            raise ParameterError("attention_maps: blocks is empty", hint="name blocks, such as 0+11, or all")


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``attention_maps``."""
    yield ProbeEntry(
        name="attention_maps",
        target="harness_inspect.attention_maps_probe:AttentionMapsProbe",
        summary="where the class token looks in every block, and how much of that on patches that are still visible",
        params=AttentionMapsParams,
        needs=frozenset({Capability.ATTENTION}),
        headline="attention_on_visible",
        exhibit="harness_inspect.attention_maps_exhibit:exhibit",
    )
