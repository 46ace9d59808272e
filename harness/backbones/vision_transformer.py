"""timm's VisionTransformer, plain and distilled, as a Model: one walk over its own parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention
from torch import Tensor

from harness.backbones.sequence import SequenceModel, TokenSequence
from harness.errors import ParameterError
from harness.types import Capability, ModelInfo, OutputSpec


class TransformerModel(SequenceModel[TokenSequence]):
    """A VisionTransformer of timm.

    Tokens of block i are those that leave it; ``normed_tokens`` went through the network's ``norm``, which is the
    identity in networks that normalise after pooling (``fc_norm``). ``pooled`` is ``forward_head(pre_logits=True)``:
    the class token after the norm, or the pooled patches in networks without one; of a distilled network it is the
    class token after the norm. Attention is softmax(Q K^T / sqrt(d)), before dropout; the blocks it is asked of leave
    the fused kernel for that pass alone.

    Sites: ``block:i`` sees the tokens that enter block i; ``pos_embed`` sees the position embeddings themselves, which
    enter the sum with the patch embeddings (zeros for prefix tokens without one), so that they can be ablated. Both may
    drop patches: ``kept`` says which stay, and the ``grid`` of tokens further on is one row of them.
    """

    def __init__(
        self,
        net: Any,
        card: ModelInfo,
        *,
        second_token: str = "dist",  # noqa: S107  # a token of a transformer, no password
    ) -> None:
        """``card``: what is known without the network; the rest is read off here.

        ``second_token`` names the second prefix token of a distilled network and the head that reads it: ``dist``, or
        ``shape`` where it was distilled from a teacher of shapes (Naseer et al., arXiv 2105.10497). Raises
        :class:`~harness.errors.ParameterError` for a name that is taken, or a network that has no such token.
        """
        distilled = isinstance(net, VisionTransformerDistilled)
        _check_second_token(card.name, second_token, distilled)
        prefix = _prefix_names(net, second_token if distilled else None)
        blocks = len(net.blocks)
        sites = [f"block:{i}" for i in range(blocks)]
        if net.pos_embed is not None:
            sites.append("pos_embed")
        pools = net.attn_pool is not None or bool(net.global_pool)
        classes = net.num_classes if pools else 0
        capabilities = {Capability.TOKENS, Capability.GRADIENTS, Capability.INTERVENTION}
        facts = {
            Capability.LOGITS: classes > 0,
            Capability.POOLED: pools,
            Capability.CLASS_TOKEN: "cls" in prefix,
            Capability.ATTENTION: all(type(getattr(block, "attn", None)) is Attention for block in net.blocks),
        }
        info = replace(
            card,
            label_space=card.label_space if classes else None,
            num_classes=classes or None,
            num_blocks=blocks,
            embed_dim=net.embed_dim,
            pooled_dim=net.num_features if pools else None,
            patch_size=_patch_size(net),
            prefix=prefix,
            heads=() if not classes else ("average", "cls", second_token) if distilled else ("head",),
            capabilities=frozenset(capabilities | {capability for capability, holds in facts.items() if holds}),
        )
        super().__init__(net, info, sites=sites, droppable=True)
        self._second_token = second_token if distilled else None
        self._grid: tuple[int, int] = tuple(net.patch_embed.grid_size)

    def _embed(self, pixels: Tensor) -> TokenSequence:
        net = self.net
        x, kept = net.patch_embed(pixels), None
        if self._interventions.at("pos_embed"):
            x, kept = self._add_positions(x.flatten(1, -2))
        else:
            x = net._pos_embed(x)
        x = net.norm_pre(net.patch_drop(x))
        return TokenSequence(x=x, prefix=len(self.info.prefix), grid=self._grid, kept=kept)

    def _add_positions(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        net, n = self.net, len(patches)
        named = (getattr(net, name, None) for name in ("cls_token", "dist_token", "reg_token"))
        prefix = torch.cat(
            [patches.new_zeros(n, 0, patches.shape[2])] + [t.expand(n, -1, -1) for t in named if t is not None], 1
        )
        positions = net.pos_embed.expand(n, -1, -1)
        with_prefix = 0 if net.no_embed_class else prefix.shape[1]
        of_prefix = positions[:, :with_prefix] if with_prefix else torch.zeros_like(prefix)
        of_prefix, of_patches, kept = self._interventions.apply(
            "pos_embed", of_prefix, positions[:, with_prefix:], self._grid, None
        )
        if kept is not None:
            patches = patches.take_along_dim(kept.unsqueeze(-1), dim=1)
        return net.pos_drop(torch.cat([prefix + of_prefix, patches + of_patches], dim=1)), kept

    def _block(self, i: int, sequence: TokenSequence) -> TokenSequence:
        entered = self._enter(f"block:{i}", sequence)
        return replace(entered, x=self.net.blocks[i](entered.x))

    def _attention_layer(self, i: int) -> Any:
        return self.net.blocks[i].attn

    def _answer(self, normed: TokenSequence, want: OutputSpec) -> tuple[Mapping[str, Tensor], Tensor]:
        net, second = self.net, self._second_token
        if second is None:
            pooled = net.forward_head(normed.x, pre_logits=True)
            return {"head": net.head(pooled).float()} if want.logits else {}, pooled
        pooled = net.head_drop(normed.x[:, 0])
        if not want.logits:
            return {}, pooled
        by_class, by_second = net.head(pooled).float(), net.head_dist(net.head_drop(normed.x[:, 1])).float()
        return {"average": (by_class + by_second) / 2, "cls": by_class, second: by_second}, pooled


def _check_second_token(model: str, name: str, distilled: bool) -> None:
    if not distilled and name != "dist":
        raise ParameterError(f"model {model}: second_token is {name!r}, but the network has no second token")
    if name in ("", "average", "cls"):
        raise ParameterError(f"model {model}: second_token must be a name of its own, not {name!r}")


def _prefix_names(net: Any, second_token: str | None) -> tuple[str, ...]:
    names = ["cls"] if net.cls_token is not None else []
    if second_token is not None:
        names.append(second_token)
    registers = net.num_prefix_tokens - len(names)
    return (*names, *(f"register{i}" for i in range(registers)))


def _patch_size(net: Any) -> int | None:
    """Pixels per patch; of a hybrid the side of the input over that of the grid, since its stem counts, too."""
    if isinstance(net.patch_embed, PatchEmbed):
        return int(net.patch_embed.patch_size[0])
    side, cells = net.patch_embed.img_size[0], net.patch_embed.grid_size[0]
    return side // cells if side % cells == 0 else None
