"""Descriptor of the inspection of attention distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability
from harness_inspect.attention_weights import BlockChoice

if TYPE_CHECKING:
    from collections.abc import Iterable

Special = Literal["renormalise", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionDistanceParams:
    """Parameters of ``attention_distance``."""

    blocks: BlockChoice = param("all", help="blocks by number, such as 0+11 or -1, or all in which patches attend")
    special: Special = param(
        "renormalise",
        help="what becomes of attention to the class token: the rest is made to sum to one again, or it is dropped, "
        "which makes distances shorter by its share",
    )

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ParameterError("attention_distance: blocks is empty", hint="name blocks, such as 0+11, or all")


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``attention_distance``."""
    yield ProbeEntry(
        name="attention_distance",
        target="harness_inspect.attention_distance_probe:AttentionDistanceProbe",
        summary="mean distance in pixels over which every head of every block attends",
        params=AttentionDistanceParams,
        needs=frozenset({Capability.ATTENTION}),
        headline="attention_distance",
        exhibit="harness_inspect.attention_distance_exhibit:exhibit",
    )
