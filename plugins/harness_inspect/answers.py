"""What a model is asked where only the pass matters, not what comes out of it."""

from __future__ import annotations

from harness.errors import CapabilityError
from harness.types import Capability, ModelInfo, OutputSpec


def whole_pass(info: ModelInfo) -> OutputSpec:
    """What makes the whole network work: its logits; of one without a head the pooled vector, or the last tokens.

    Raises :class:`~harness.errors.CapabilityError` for a model that gives none of these.
    """
    if Capability.LOGITS in info.capabilities:
        return OutputSpec(logits=True)
    if Capability.POOLED in info.capabilities:
        return OutputSpec(pooled=True)
    if Capability.TOKENS in info.capabilities:
        return OutputSpec(tokens=frozenset({info.num_blocks - 1}))
    raise CapabilityError(f"model {info.name} gives neither logits nor a pooled vector nor tokens: nothing can be run")


def first_block(info: ModelInfo) -> OutputSpec:
    """What makes the pixels enter the network, at the least cost: the tokens of its first block where it gives any."""
    return OutputSpec(tokens=frozenset({0})) if Capability.TOKENS in info.capabilities else whole_pass(info)
