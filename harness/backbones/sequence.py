"""Networks that send one sequence of tokens through a stack of blocks: the walk, the sites and the card they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from harness.backbones.attention import attention_of
from harness.backbones.network import NetworkModel
from harness.types import BlockAttention, BlockTokens, Capability, ModelInfo, ModelOutputs, OutputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """Tokens between two blocks: ``x`` (N, P + K, D), of which the first ``prefix`` = P are no patches.

    ``grid``: rows and columns of the patches while all are there. ``kept``: (N, K) int64 indices of those that are
    left, None for all.
    """

    x: Tensor
    prefix: int
    grid: tuple[int, int]
    kept: Tensor | None = None

    def split(self) -> BlockTokens:
        """Prefix tokens and patches apart; patches that are left over stand in one row."""
        p = self.prefix
        grid = self.grid if self.kept is None else (1, self.x.shape[1] - p)
        return BlockTokens(prefix=self.x[:, :p], patches=self.x[:, p:], grid=grid)


SequenceT = TypeVar("SequenceT", bound=TokenSequence)


class SequenceModel(NetworkModel, Generic[SequenceT]):
    """A network of timm whose blocks pass on one sequence of tokens, as a Model.

    A family says what enters its first block, what a block does, where attention is formed, and what else of this is
    its own.
    """

    _kind: ClassVar[Literal["global", "class", "window"]] = "global"
    """Of the attention of every block that gives any."""

    def _forward(self, pixels: Tensor, want: OutputSpec) -> ModelOutputs:
        tokens: dict[int, BlockTokens] = {}
        normed: dict[int, BlockTokens] = {}
        head = want.logits or want.pooled
        last = self.info.num_blocks - 1 if head else max(want.tokens | want.normed_tokens | want.attention, default=-1)
        with attention_of({i: self._attention_layer(i) for i in want.attention}) as weights:
            sequence = self._embed(pixels)
            for i in range(last + 1):
                sequence = self._block(i, sequence)
                if i in want.tokens:
                    tokens[i] = sequence.split()
                if i in want.normed_tokens:
                    normed[i] = self._normed(i, sequence).split()
        logits, pooled = self._answer(self._normed(last, sequence), want) if head else ({}, None)
        return ModelOutputs(
            logits=logits,
            pooled=pooled if want.pooled else None,
            tokens=tokens,
            normed_tokens=normed,
            attention={i: self._attention(i, found) for i, found in weights.items()},
        )

    @abstractmethod
    def _embed(self, pixels: Tensor) -> SequenceT:
        """What enters the first block, for normalised pixels (N, 3, H, W)."""

    @abstractmethod
    def _block(self, i: int, sequence: SequenceT) -> SequenceT:
        """What leaves block ``i`` for what left the block before: the interventions at its site, and the block."""

    @abstractmethod
    def _attention_layer(self, i: int) -> Any:
        """The layer in which the attention of block ``i`` is formed."""

    def _attention(self, i: int, weights: Tensor) -> BlockAttention:  # noqa: ARG002  # CaiT's differ by block
        return BlockAttention(weights=weights, kind=self._kind)

    def _normed(self, i: int, sequence: SequenceT) -> SequenceT:  # noqa: ARG002  # elsewhere stages differ in width
        """What left block ``i``, after the network's final norm."""
        return replace(sequence, x=self.net.norm(sequence.x))

    def _pooled(self, normed: SequenceT) -> Tensor:
        """The pre-logits vector (N, D) of what left the last block and the final norm."""
        pooled: Tensor = self.net.forward_head(normed.x, pre_logits=True)
        return pooled

    def _answer(self, normed: SequenceT, want: OutputSpec) -> tuple[Mapping[str, Tensor], Tensor]:
        """Logits by head, as far as wanted, and the pre-logits vector."""
        pooled = self._pooled(normed)
        return {"head": self.net.get_classifier()(pooled).float()} if want.logits else {}, pooled

    def _enter(self, site: str, sequence: SequenceT) -> SequenceT:
        """``sequence`` as it leaves the interventions at ``site``."""
        if not self._interventions.at(site):
            return sequence
        tokens = sequence.split()
        prefix, patches, kept = self._interventions.apply(
            site, tokens.prefix, tokens.patches, tokens.grid, sequence.kept
        )
        return replace(sequence, x=torch.cat([prefix, patches], dim=1), kept=kept)

    def _positioned(
        self, patches: Tensor, positions: Tensor, grid: tuple[int, int], prefix: Tensor, of_prefix: Tensor
    ) -> TokenSequence:
        """Patches (N, K, D) plus ``positions`` (1, K, D) after ``prefix`` (1, P, D) plus ``of_prefix`` (1, P, D).

        Interventions at ``pos_embed`` see the position embeddings, those of the prefix tokens first.
        """
        n, p, kept = len(patches), prefix.shape[1], None
        if self._interventions.at("pos_embed"):
            of_prefix, positions, kept = self._interventions.apply(
                "pos_embed", of_prefix.expand(n, -1, -1), positions.expand(n, -1, -1), grid, None
            )
            if kept is not None:
                patches = patches.take_along_dim(kept.unsqueeze(-1), dim=1)
        patches = patches + positions
        x = torch.cat([(prefix + of_prefix).expand(n, -1, -1), patches], dim=1) if p else patches
        return TokenSequence(x=self.net.pos_drop(x), prefix=p, grid=grid, kept=kept)


def with_class_token(sequence: TokenSequence, token: Tensor) -> TokenSequence:
    """``sequence`` with the class token (1, 1, D) ahead of all others."""
    x = torch.cat([token.expand(len(sequence.x), -1, -1), sequence.x], dim=1)
    return replace(sequence, x=x, prefix=sequence.prefix + 1)


def sites_of(blocks: int, *, positions: bool) -> list[str]:
    """``block:i`` for each block, and ``pos_embed`` where a network adds ``positions`` to its patches."""
    return [*(f"block:{i}" for i in range(blocks)), *(("pos_embed",) if positions else ())]


def read_card(
    card: ModelInfo,
    net: Any,
    *,
    blocks: int,
    patch_size: int | None,
    prefix: tuple[str, ...] = (),
    everywhere: bool = False,
    heads: tuple[str, ...] = ("head",),
    attention_blocks: tuple[int, ...] | None = None,
) -> ModelInfo:
    """``card`` with what is read off ``net``: classes, widths, and what it can give.

    ``everywhere``: whether the class token is there in every block, as ``CLASS_TOKEN`` promises. A network that does
    not pool (``global_pool=""``) gives neither logits nor a pre-logits vector.
    """
    pools = bool(net.global_pool)
    classes = net.num_classes if pools else 0
    facts = {
        Capability.LOGITS: classes > 0,
        Capability.POOLED: pools,
        Capability.CLASS_TOKEN: everywhere and "cls" in prefix,
    }
    refused = {capability for capability, holds in facts.items() if not holds}
    return replace(
        card,
        label_space=card.label_space if classes else None,
        num_classes=classes or None,
        num_blocks=blocks,
        embed_dim=net.num_features,
        pooled_dim=net.head_hidden_size if pools else None,
        patch_size=patch_size,
        prefix=prefix,
        heads=heads if classes else (),
        attention_blocks=attention_blocks,
        capabilities=frozenset(Capability) - refused,
    )
