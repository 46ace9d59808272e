"""Descriptor of attention rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability
from harness_inspect.attention_weights import AUTO

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRolloutParams:
    """Parameters of ``attention_rollout``."""

    token: str = param(
        AUTO,
        help="whose map: a prefix token such as cls or dist, mean for the mean over patches, auto for the class token "
        "where there is one and the mean elsewhere",
    )
    discard: float = param(
        0.0, help="share of each block's weights, the lowest, that is set to zero beforehand", low=0.0, high=0.99
    )
    examples: int = param(6, help="how many images are shown", low=0, high=64)

    def __post_init__(self) -> None:
        if not self.token:
            raise ParameterError("attention_rollout: token is empty", hint="name a token such as cls, or auto")


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``attention_rollout``."""
    yield ProbeEntry(
        name="attention_rollout",
        target="harness_inspect.attention_rollout_probe:AttentionRolloutProbe",
        summary="attention multiplied from block to block: which patches of an image reach its class token",
        params=AttentionRolloutParams,
        needs=frozenset({Capability.ATTENTION}),
        headline="rollout_entropy",
        exhibit="harness_inspect.attention_rollout_exhibit:exhibit",
    )
