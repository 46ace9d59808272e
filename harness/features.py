"""Feature vectors: which numbers of a model's outputs make one vector per image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.errors import CapabilityError
from harness.types import BlockTokens, Capability, FeatureSpec, ModelInfo, ModelOutputs

if TYPE_CHECKING:
    from torch import Tensor


def require_features(spec: FeatureSpec, info: ModelInfo) -> None:
    """Nothing if the model claims all that ``spec`` names.

    Raises :class:`~harness.errors.CapabilityError` for a pooled vector, a prefix token, patch tokens or a block that
    the model has not. A model may still lack a token in some of its blocks; :func:`extract` finds that.
    """
    if spec.pooled and Capability.POOLED not in info.capabilities:
        raise CapabilityError(
            f"model {info.name} gives no pooled feature vector",
            hint="choose features from its tokens, or another model",
        )
    if not spec.blocks:
        return
    if Capability.TOKENS not in info.capabilities:
        raise CapabilityError(
            f"model {info.name} gives no tokens of its blocks", hint="use the pooled feature vector, or another model"
        )
    spec.resolve_blocks(info.num_blocks)
    for name in spec.prefix:
        _place(name, info)


def extract(outputs: ModelOutputs, spec: FeatureSpec, info: ModelInfo) -> Tensor:
    """One feature vector per image: (N, D) float32, differentiable wherever ``outputs`` are.

    The order within a vector: the pooled vector if asked for; then, per block in the order of ``spec.blocks``, its
    prefix tokens in the order of ``spec.prefix`` and, for ``mean_patch="each"``, the mean of its patch tokens; last,
    for ``mean_patch="last"``, the mean patch token of the last block listed. Means are taken in float32.

    Raises :class:`~harness.errors.CapabilityError` for a token that the model, or one of its blocks, has not, and for
    outputs that were not asked for by ``spec.outputs(info.num_blocks)``.
    """
    parts: list[Tensor] = []
    if spec.pooled:
        if outputs.pooled is None:
            raise CapabilityError(f"model {info.name}: the outputs hold no pooled feature vector", hint=_ASK)
        parts.append(outputs.pooled.float())
    blocks = spec.resolve_blocks(info.num_blocks)
    places = [(name, _place(name, info)) for name in spec.prefix] if blocks else []
    for i, block in enumerate(blocks):
        tokens = _tokens(outputs, spec, info, block)
        if places and tokens.prefix.shape[1] != len(info.prefix):
            raise CapabilityError(
                f"model {info.name}: block {block} holds {tokens.prefix.shape[1]} of the prefix tokens "
                f"{', '.join(info.prefix)}, so {', '.join(spec.prefix)} cannot be read there",
                hint="choose later blocks, or the mean patch token",
            )
        parts += [tokens.prefix[:, place].float() for _, place in places]
        if spec.mean_patch == "each" or (spec.mean_patch == "last" and i == len(blocks) - 1):
            parts.append(tokens.patches.float().mean(dim=1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


_ASK = "ask the model for spec.outputs(info.num_blocks)"


def _place(name: str, info: ModelInfo) -> int:
    if name not in info.prefix:
        have = f"its prefix tokens are {', '.join(info.prefix)}" if info.prefix else "it has no prefix tokens"
        raise CapabilityError(
            f"model {info.name} has no token named {name!r}: {have}",
            hint="use the mean patch token or the pooled feature vector",
        )
    return info.prefix.index(name)


def _tokens(outputs: ModelOutputs, spec: FeatureSpec, info: ModelInfo, block: int) -> BlockTokens:
    given = outputs.normed_tokens if spec.norm else outputs.tokens
    if block not in given:
        kind = "normed tokens" if spec.norm else "tokens"
        have = ", ".join(map(str, sorted(given))) or "none"
        raise CapabilityError(
            f"model {info.name}: the outputs hold {kind} of blocks {have}, not of block {block}", hint=_ASK
        )
    return given[block]
