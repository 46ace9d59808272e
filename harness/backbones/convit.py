"""timm's ConViT as a Model: gated positional self-attention among patches, then plain blocks with a class token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from harness.backbones.sequence import SequenceModel, TokenSequence, read_card, sites_of, with_class_token
from harness.types import ModelInfo


class ConViTModel(SequenceModel[TokenSequence]):
    """A ConViT of timm (d'Ascoli et al., "ConViT", ICML 2021, arXiv 2103.10697).

    The first blocks (``local_up_to_layer`` of them, ten of the published twelve) hold patches alone; the class token
    comes in ahead of the next. So ``CLASS_TOKEN`` is not claimed, and the class token is the prefix of the later
    blocks only. Tokens of block i are those that leave it, ``normed_tokens`` went through the final norm, ``pooled``
    is the class token after it.

    Attention is of kind ``global``. In the first blocks it is the gated map (1 - g) softmax(Q K^T / sqrt(d)) + g
    softmax(v^T r), brought to row sums of one, with g the sigmoid of each head's gate and r the relative places of two
    patches; in later ones softmax(Q K^T / sqrt(d)).

    Sites: ``block:i`` sees the tokens that enter block i, with the class token where there is one; ``pos_embed`` sees
    the position embeddings, which patches alone have. All may drop patches; those that are left keep their places,
    relative ones, too.
    """

    def __init__(self, net: Any, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        blocks = len(net.blocks)
        # timm computes the relative places in the first pass; one that changes no buffer leaves the network as it was.
        for block in net.blocks[: net.local_up_to_layer]:
            block.attn.rel_indices = block.attn.get_rel_indices(net.num_patches)
        info = read_card(
            card,
            net,
            blocks=blocks,
            patch_size=net.patch_embed.patch_size[0],
            prefix=("cls",) if net.local_up_to_layer < blocks else (),
            everywhere=net.local_up_to_layer == 0,
        )
        super().__init__(net, info, sites=sites_of(blocks, positions=net.use_pos_embed), droppable=True)

    def _embed(self, pixels: Tensor) -> TokenSequence:
        net = self.net
        patches, grid = net.patch_embed(pixels), tuple(net.patch_embed.grid_size)
        if not net.use_pos_embed:
            return TokenSequence(x=net.pos_drop(patches), prefix=0, grid=grid)
        nothing = net.cls_token[:, :0]
        return self._positioned(patches, net.pos_embed, grid, nothing, nothing)

    def _block(self, i: int, sequence: TokenSequence) -> TokenSequence:
        net, block = self.net, self.net.blocks[i]
        if i == net.local_up_to_layer:
            sequence = with_class_token(sequence, net.cls_token)
        sequence = self._enter(f"block:{i}", sequence)
        if sequence.kept is None or not block.use_gpsa:
            return replace(sequence, x=block(sequence.x))
        with _places_of(block.attn, sequence.kept):
            return replace(sequence, x=block(sequence.x))

    def _attention_layer(self, i: int) -> Any:
        return self.net.blocks[i].attn


@contextmanager
def _places_of(layer: Any, kept: Tensor) -> Iterator[None]:
    """While open, the relative places (N, K, K, 3) in ``layer`` are those of the patches ``kept`` (N, K)."""
    every = layer.rel_indices
    try:
        layer.rel_indices = every[0][kept.unsqueeze(2), kept.unsqueeze(1)]
        yield
    finally:
        layer.rel_indices = every
