"""timm's PiT as a Model, plain and distilled: transformer blocks in stages, between which patches are pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.backbones.sequence import SequenceModel, TokenSequence, read_card, sites_of
from harness.types import ModelInfo, OutputSpec


class PiTModel(SequenceModel[TokenSequence]):
    """A PiT of timm (Heo et al., "Rethinking Spatial Dimensions of Vision Transformers", arXiv 2103.16302).

    Blocks are the transformer blocks of all stages in order of depth. Tokens of a block are those that leave it: the
    class token, in distilled networks the distillation token, and the patches; width and grid differ by stage.
    ``normed_tokens`` of the last stage went through the final norm; earlier stages differ from it in width, so theirs
    are the tokens unchanged. ``pooled`` is the class token after the norm, of a distilled network, too. Attention is
    softmax(Q K^T / sqrt(d)), of kind ``global``.

    Patches overlap (16 px every 8 px in PiT-S), so the card gives no ``patch_size``: the grids are no parts of the
    input's side.

    Sites: ``block:i`` sees the tokens that enter block i, pooled where a stage begins; ``pos_embed`` sees the position
    embeddings of the patches, with zeros for the prefix tokens, which have none. None of them can drop patches, since
    they are pooled as a map.
    """

    def __init__(self, net: Any, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        self._distilled = net.head_dist is not None
        self._places = [(i, block) for i, stage in enumerate(net.transformers) for block in range(len(stage.blocks))]
        blocks = len(self._places)
        info = read_card(
            card,
            net,
            blocks=blocks,
            patch_size=None,
            prefix=("cls", "dist") if self._distilled else ("cls",),
            everywhere=True,
            heads=("average", "cls", "dist") if self._distilled else ("head",),
        )
        super().__init__(net, info, sites=sites_of(blocks, positions=True), droppable=False)

    def _embed(self, pixels: Tensor) -> TokenSequence:
        net = self.net
        x = net.patch_embed(pixels)
        positions, token = net.pos_embed.flatten(2).transpose(1, 2), net.cls_token
        return self._positioned(
            x.flatten(2).transpose(1, 2), positions, (x.shape[2], x.shape[3]), token, torch.zeros_like(token)
        )

    def _block(self, i: int, sequence: TokenSequence) -> TokenSequence:
        stage, place = self._places[i]
        layer = self.net.transformers[stage]
        if place == 0:
            sequence = _entering(layer, sequence)
        sequence = self._enter(f"block:{i}", sequence)
        return replace(sequence, x=layer.blocks[place](sequence.x))

    def _attention_layer(self, i: int) -> Any:
        stage, place = self._places[i]
        return self.net.transformers[stage].blocks[place].attn

    def _normed(self, i: int, sequence: TokenSequence) -> TokenSequence:
        in_last_stage = self._places[i][0] == len(self.net.transformers) - 1
        return replace(sequence, x=self.net.norm(sequence.x)) if in_last_stage else sequence

    def _pooled(self, normed: TokenSequence) -> Tensor:
        pooled: Tensor = self.net.head_drop(normed.x[:, 0])
        return pooled

    def _answer(self, normed: TokenSequence, want: OutputSpec) -> tuple[Mapping[str, Tensor], Tensor]:
        if not self._distilled:
            return super()._answer(normed, want)
        net, pooled = self.net, self._pooled(normed)
        if not want.logits:
            return {}, pooled
        by_class, by_second = net.head(pooled).float(), net.head_dist(net.head_drop(normed.x[:, 1])).float()
        return {"average": (by_class + by_second) / 2, "cls": by_class, "dist": by_second}, pooled


def _entering(stage: Any, sequence: TokenSequence) -> TokenSequence:
    """What enters the first block of ``stage``, for what left the stage before."""
    p, grid = sequence.prefix, sequence.grid
    prefix, patches = sequence.x[:, :p], sequence.x[:, p:]
    if stage.pool is not None:
        pooled, prefix = stage.pool(patches.transpose(1, 2).reshape(len(patches), -1, *grid), prefix)
        patches, grid = pooled.flatten(2).transpose(1, 2), (pooled.shape[2], pooled.shape[3])
    return TokenSequence(x=stage.norm(torch.cat([prefix, patches], dim=1)), prefix=p, grid=grid)
