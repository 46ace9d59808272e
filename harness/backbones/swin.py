"""timm's Swin Transformer as a Model: transformer blocks on windows, with maps of four sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from harness.backbones.sequence import SequenceModel, TokenSequence, read_card, sites_of
from harness.types import ModelInfo


class SwinModel(SequenceModel[TokenSequence]):
    """A Swin Transformer of timm (Liu et al., ICCV 2021, arXiv 2103.14030).

    Blocks are the transformer blocks of all stages in order of depth. Tokens of a block are the map that leaves it, a
    token a place in row-major order, without prefix; width and grid differ by stage, and the last block of a stage
    gives the stage's output, before the next one merges patches. ``normed_tokens`` of the last stage went through the
    final norm; earlier stages differ from it in width, so theirs are the tokens unchanged. ``pooled`` is the mean of
    the normed map.

    Attention is of kind ``window``: (N * windows, heads, queries, keys), softmax(Q K^T / sqrt(d) + B + M) with the
    relative position bias B and the shift mask M, which is -100 between parts that do not touch in the image and 0
    elsewhere. Row ``n * windows + w`` is window w of image n; windows, and the tokens of each, stand in row-major
    order. Every other block of a stage, the second first, shifts its windows: its map is first rolled up and left by s
    = half a window, so that the place (row, column) of the rolled map holds the patch ((row + s) mod rows, (column + s)
    mod columns). A map that fits into one window is not shifted. A map that windows do not fill is padded behind the
    roll, at the bottom and on the right, by tokens of zeros, which are queries and keys like others.

    Sites: ``block:i`` sees the map that enters block i, merged where a stage begins; ``pool`` sees the normed map that
    is pooled. None of them can drop patches.
    """

    _kind = "window"

    def __init__(self, net: Any, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        self._places = [(stage, block) for stage, layer in enumerate(net.layers) for block in range(len(layer.blocks))]
        blocks = len(self._places)
        info = read_card(card, net, blocks=blocks, patch_size=net.patch_embed.patch_size[0])
        super().__init__(net, info, sites=[*sites_of(blocks, positions=False), "pool"], droppable=False)

    def _embed(self, pixels: Tensor) -> TokenSequence:
        return _sequence(self.net.patch_embed(pixels))

    def _block(self, i: int, sequence: TokenSequence) -> TokenSequence:
        stage, place = self._places[i]
        layer = self.net.layers[stage]
        if place == 0:
            sequence = _sequence(layer.downsample(_map(sequence)))
        return _sequence(layer.blocks[place](_map(self._enter(f"block:{i}", sequence))))

    def _attention_layer(self, i: int) -> Any:
        stage, place = self._places[i]
        return self.net.layers[stage].blocks[place].attn

    def _normed(self, i: int, sequence: TokenSequence) -> TokenSequence:
        in_last_stage = self._places[i][0] == len(self.net.layers) - 1
        return replace(sequence, x=self.net.norm(sequence.x)) if in_last_stage else sequence

    def _pooled(self, normed: TokenSequence) -> Tensor:
        pooled: Tensor = self.net.forward_head(_map(self._enter("pool", normed)), pre_logits=True)
        return pooled


def _sequence(x: Tensor) -> TokenSequence:
    """A map (N, H, W, C) as tokens."""
    return TokenSequence(x=x.flatten(1, 2), prefix=0, grid=(x.shape[1], x.shape[2]))


def _map(sequence: TokenSequence) -> Tensor:
    """Tokens as a map (N, H, W, C)."""
    return sequence.x.reshape(len(sequence.x), *sequence.grid, -1)
