"""timm's CaiT as a Model: blocks of patches with talking heads, then blocks in which a class token gathers them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.backbones.sequence import SequenceModel, TokenSequence, read_card, sites_of, with_class_token
from harness.types import BlockAttention, ModelInfo


class CaiTModel(SequenceModel[TokenSequence]):
    """A CaiT of timm (Touvron et al., "Going deeper with Image Transformers", arXiv 2103.17239).

    Blocks are those of the patches, then the class blocks. Tokens of a patch block are the patches that leave it;
    those of a class block the class token, as prefix, and the patches, which it does not change. A class token is
    there in the class blocks only, so ``CLASS_TOKEN`` is not claimed. ``normed_tokens`` went through the final norm,
    ``pooled`` is the class token after it.

    Attention of a patch block is of kind ``global``, among patches alone: W softmax(L Q K^T / sqrt(d)), where L and W
    mix the heads ahead of and behind the softmax (talking heads), as it multiplies the values; behind W rows are no
    distributions. That of a class block is of kind ``class``: (N, heads, 1, 1 + patches), softmax(Q K^T / sqrt(d)) of
    the class token over itself and the patches.

    Sites: ``block:i`` sees the tokens that enter block i, in class blocks with the class token; ``pos_embed`` sees the
    position embeddings, which patches alone have. All may drop patches.
    """

    def __init__(self, net: Any, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        self._depth = len(net.blocks)
        blocks = self._depth + len(net.blocks_token_only)
        info = read_card(card, net, blocks=blocks, patch_size=net.patch_embed.patch_size[0], prefix=("cls",))
        super().__init__(net, info, sites=sites_of(blocks, positions=True), droppable=True)

    def _embed(self, pixels: Tensor) -> TokenSequence:
        net = self.net
        nothing = net.cls_token[:, :0]
        return self._positioned(
            net.patch_embed(pixels), net.pos_embed, tuple(net.patch_embed.grid_size), nothing, nothing
        )

    def _block(self, i: int, sequence: TokenSequence) -> TokenSequence:
        net, site, after = self.net, f"block:{i}", i - self._depth
        if after < 0:
            sequence = self._enter(site, sequence)
            return replace(sequence, x=net.blocks[i](sequence.x))
        if after == 0:
            sequence = with_class_token(sequence, net.cls_token)
        sequence = self._enter(site, sequence)
        token, patches = sequence.x[:, :1], sequence.x[:, 1:]
        return replace(sequence, x=torch.cat([net.blocks_token_only[after](patches, token), patches], dim=1))

    def _attention_layer(self, i: int) -> Any:
        net, after = self.net, i - self._depth
        return net.blocks[i].attn if after < 0 else net.blocks_token_only[after].attn

    def _attention(self, i: int, weights: Tensor) -> BlockAttention:
        if i < self._depth:
            return BlockAttention(weights=weights, kind="global", distribution=False)
        return BlockAttention(weights=weights, kind="class")
