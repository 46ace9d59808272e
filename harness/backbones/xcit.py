"""timm's XCiT as a Model: blocks that attend over channels, then blocks in which a class token gathers the patches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from harness.backbones.sequence import SequenceModel, TokenSequence, read_card, sites_of, with_class_token
from harness.types import ModelInfo


class XCiTModel(SequenceModel[TokenSequence]):
    """An XCiT of timm (El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", arXiv 2106.09681).

    Blocks are those with cross-covariance attention, then the class blocks. Tokens of the former are the patches that
    leave them; those of a class block the class token, as prefix, and the patches, which it changes, too. A class
    token is there in the class blocks only, so ``CLASS_TOKEN`` is not claimed. ``normed_tokens`` went through the
    final norm, ``pooled`` is the class token after it.

    Cross-covariance attention weighs channels and none of the tokens, so only class blocks give attention: of kind
    ``class``, (N, heads, 1, 1 + patches), softmax(Q K^T / sqrt(d)) of the class token over itself and the patches.

    Sites: ``block:i`` sees the tokens that enter block i, in class blocks with the class token; ``pos_embed`` sees the
    position embeddings, which are computed from sines of the places and which patches alone have. None of them can
    drop patches, since blocks convolve over their grid.
    """

    _kind = "class"

    def __init__(self, net: Any, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        self._depth = len(net.blocks)
        blocks = self._depth + len(net.cls_attn_blocks)
        info = read_card(
            card,
            net,
            blocks=blocks,
            patch_size=net.patch_embed.patch_size,
            prefix=("cls",),
            attention_blocks=tuple(range(self._depth, blocks)),
        )
        super().__init__(net, info, sites=sites_of(blocks, positions=net.pos_embed is not None), droppable=False)

    def _embed(self, pixels: Tensor) -> TokenSequence:
        net = self.net
        patches, (rows, columns) = net.patch_embed(pixels)
        if net.pos_embed is None:
            return TokenSequence(x=net.pos_drop(patches), prefix=0, grid=(rows, columns))
        positions = net.pos_embed(1, rows, columns).flatten(2).transpose(1, 2)
        nothing = net.cls_token[:, :0]
        return self._positioned(patches, positions, (rows, columns), nothing, nothing)

    def _block(self, i: int, sequence: TokenSequence) -> TokenSequence:
        net, site, after = self.net, f"block:{i}", i - self._depth
        if after < 0:
            sequence = self._enter(site, sequence)
            return replace(sequence, x=net.blocks[i](sequence.x, *sequence.grid))
        if after == 0:
            sequence = with_class_token(sequence, net.cls_token)
        sequence = self._enter(site, sequence)
        return replace(sequence, x=net.cls_attn_blocks[after](sequence.x))

    def _attention_layer(self, i: int) -> Any:
        return self.net.cls_attn_blocks[i - self._depth].attn
