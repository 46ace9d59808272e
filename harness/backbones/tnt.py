"""timm's TNT as a Model: the outer of its two streams of tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from harness.backbones.sequence import SequenceModel, TokenSequence, read_card, sites_of
from harness.types import ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class _Streams(TokenSequence):
    """Outer tokens, and the inner ones (N * K, pixels, d) of each of the K patches that are left."""

    inner: Tensor


class TNTModel(SequenceModel[_Streams]):
    """A TNT of timm (Han et al., "Transformer in Transformer", arXiv 2103.00112).

    In a block each patch has pixel tokens of its own, the inner stream, which attend to each other and are then added
    to the patch's token in the outer stream. Tokens, attention and interventions are those of the outer stream, with
    the class token ahead of the patches. Tokens of block i are those that leave it, ``normed_tokens`` went through the
    final norm, ``pooled`` is the class token after it. Attention is softmax(Q K^T / sqrt(d)).

    Sites: ``block:i`` sees the outer tokens that enter block i, before the inner stream is added to them there;
    ``pos_embed`` sees the outer position embeddings, that of the class token as prefix. Both may drop patches, and the
    pixel tokens of a patch go with it; what else is done to outer tokens leaves the inner stream as it is.
    """

    def __init__(self, net: Any, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        blocks = len(net.blocks)
        info = read_card(
            card, net, blocks=blocks, patch_size=net.pixel_embed.patch_size[0], prefix=("cls",), everywhere=True
        )
        super().__init__(net, info, sites=sites_of(blocks, positions=True), droppable=True)

    def _embed(self, pixels: Tensor) -> _Streams:
        net, n = self.net, len(pixels)
        inner = net.pixel_embed(pixels, net.pixel_pos)
        patches = net.norm2_proj(net.proj(net.norm1_proj(inner.reshape(n, net.num_patches, -1))))
        positions, grid = net.patch_pos, tuple(net.pixel_embed.grid_size)
        outer = self._positioned(patches, positions[:, 1:], grid, net.cls_token, positions[:, :1])
        if outer.kept is not None:
            inner = _of_patches(inner, None, outer.kept)
        return _Streams(x=outer.x, prefix=outer.prefix, grid=outer.grid, kept=outer.kept, inner=inner)

    def _block(self, i: int, sequence: _Streams) -> _Streams:
        entering = self._enter(f"block:{i}", sequence)
        inner, x = self.net.blocks[i](entering.inner, entering.x)
        return replace(entering, x=x, inner=inner)

    def _enter(self, site: str, sequence: _Streams) -> _Streams:
        entering = super()._enter(site, sequence)
        if entering.kept is None or entering.kept is sequence.kept:
            return entering
        return replace(entering, inner=_of_patches(entering.inner, sequence.kept, entering.kept))

    def _attention_layer(self, i: int) -> Any:
        return self.net.blocks[i].attn_out


def _of_patches(inner: Tensor, there: Tensor | None, kept: Tensor) -> Tensor:
    """The inner tokens of the patches ``kept`` (N, K), of those of the patches ``there`` (None for all)."""
    places = kept if there is None else (kept.unsqueeze(2) == there.unsqueeze(1)).int().argmax(dim=2)
    by_image = inner.reshape(len(kept), -1, *inner.shape[1:])
    return by_image.take_along_dim(places[:, :, None, None], dim=1).flatten(0, 1)
