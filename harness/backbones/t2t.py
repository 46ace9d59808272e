"""T2T-ViT: a transformer whose tokens are made by splitting the image softly, and a layer of attention, twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.backbones.initial_values import draw, truncated_normal
from harness.backbones.sequence import SequenceModel, TokenSequence, sites_of
from harness.backbones.t2t_tokens import PATCH, TOKEN_LAYERS, Mlp, PerformerLayer, TokenLayer, TokensToToken
from harness.errors import ParameterError
from harness.types import Capability, ModelInfo, OutputSpec


class T2TViT(nn.Module):
    """Normalised pixels (N, 3, H, W), sides multiples of 16, to logits (N, ``num_classes``), float32.

    Yuan et al., "Tokens-to-Token ViT" (ICCV 2021, arXiv 2101.11986). The image is unfolded into overlapping pieces; a
    layer of attention mixes these, the result is laid out as a map and unfolded again, twice; after the third unfolding
    a linear layer makes patch tokens of ``width``, which enter a transformer of ``depth`` blocks with a class token and
    fixed sinusoids as positions. The parameters' names are those of the authors' checkpoints.

    ``tokens``: the attention between the soft splits: ``performer``, linear in the number of tokens (Choromanski et
    al., arXiv 2009.14794), or ``transformer``, the paper's T2T-ViT_t. ``side``: of the input in pixels, for which the
    position embeddings are made. ``seed``: of the initial parameters, for which the global random state is neither
    read nor changed. The published recipe's dropout and stochastic depth, of which there is none in evaluation, are
    left out. Positions and random features are parameters that do not learn, as in the published counts.

    Raises :class:`~harness.errors.ParameterError` for sizes that make no network.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        num_classes: int,
        tokens: TokenLayer = "performer",
        side: int = 224,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(width, depth, heads, mlp_ratio, num_classes) < 1 or width % (2 * heads):
            raise ParameterError(
                f"T2TViT: width {width}, depth {depth}, {heads} heads, mlp_ratio {mlp_ratio} and {num_classes} classes "
                "make no network",
                hint="all are positive, and the width is an even multiple of the number of heads",
            )
        if tokens not in TOKEN_LAYERS:
            raise ParameterError(f"T2TViT: tokens must be one of {', '.join(TOKEN_LAYERS)}, not {tokens!r}")
        if side < PATCH or side % PATCH:
            raise ParameterError(f"T2TViT: the side of the input must be a multiple of {PATCH}, not {side}")
        self.num_classes = num_classes
        self.grid = (side // PATCH, side // PATCH)
        device = torch.get_default_device()
        # On the meta device the layers' own initialisers draw nothing from the global generator.
        with torch.device("meta"):
            self.tokens_to_token = TokensToToken(width, tokens)
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            cells = self.grid[0] * self.grid[1]
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + cells, width), requires_grad=False)
            self.pos_drop = nn.Identity()
            self.blocks = nn.ModuleList(_Block(width, heads, mlp_ratio) for _ in range(depth))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, num_classes)
        self.to_empty(device=device)
        if device.type != "meta":
            self._initialise(torch.Generator().manual_seed(seed))

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits; see the class."""
        patches = self.tokens_to_token(pixels)
        x = self.pos_drop(torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.classify(self.norm(x[:, 0]))

    def classify(self, class_token: Tensor) -> Tensor:
        """Logits (N, C) of class tokens (N, D) after the final norm."""
        logits: Tensor = self.head(class_token)
        return logits.float()

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Linear layers and class token normal, biases zero, random features orthogonal: as the authors do it."""
        draw(self.cls_token, truncated_normal(generator))
        self.pos_embed.copy_(sinusoids(*self.pos_embed.shape[1:]))
        for part in self.modules():
            if isinstance(part, nn.Linear):
                draw(part.weight, truncated_normal(generator))
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.LayerNorm):
                part.reset_parameters()
            elif isinstance(part, PerformerLayer):
                draw(part.w, lambda w: nn.init.orthogonal_(w, gain=len(w) ** 0.5, generator=generator))


class T2TModel(SequenceModel[TokenSequence]):
    """A :class:`T2TViT` as a Model: its blocks are those of the transformer behind the tokens-to-token module.

    Tokens of block i are those that leave it, a class token and the patches in row-major order; ``normed_tokens`` went
    through the final norm, ``pooled`` is the class token after it. Attention is softmax(Q K^T / sqrt(d)), kind
    ``global``; only the blocks it is asked of leave the fused kernel. What the tokens-to-token module attends to is not
    given: its tokens are no patches.

    Sites: ``block:i`` sees the tokens that enter block i; ``pos_embed`` sees the position embeddings themselves, which
    enter the sum with the patch tokens. Both may drop patches: ``kept`` says which stay, and the ``grid`` of tokens
    further on is one row of them.
    """

    def __init__(self, net: T2TViT, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        width, blocks = net.cls_token.shape[2], len(net.blocks)
        info = replace(
            card,
            num_classes=net.num_classes,
            num_blocks=blocks,
            embed_dim=width,
            pooled_dim=width,
            patch_size=PATCH,
            prefix=("cls",),
            heads=("head",),
            capabilities=frozenset(Capability),
        )
        super().__init__(net, info, sites=sites_of(blocks, positions=True), droppable=True)

    def _embed(self, pixels: Tensor) -> TokenSequence:
        net, positions = self.net, self.net.pos_embed
        return self._positioned(
            net.tokens_to_token(pixels), positions[:, 1:], net.grid, net.cls_token, positions[:, :1]
        )

    def _block(self, i: int, sequence: TokenSequence) -> TokenSequence:
        entering = self._enter(f"block:{i}", sequence)
        return replace(entering, x=self.net.blocks[i](entering.x))

    def _attention_layer(self, i: int) -> Any:
        return self.net.blocks[i].attn

    def _answer(self, normed: TokenSequence, want: OutputSpec) -> tuple[Mapping[str, Tensor], Tensor]:
        class_token = normed.x[:, 0]
        return {"head": self.net.classify(class_token)} if want.logits else {}, class_token


def sinusoids(positions: int, width: int) -> Tensor:
    """Position embeddings (1, positions, width): sin at even and cos at odd places, wavelengths 2 pi to 20000 pi.

    Vaswani et al. (NeurIPS 2017), section 3.5; computed in float64 on the CPU, given in float32. The class token is
    position 0, the patches count on in row-major order.
    """
    place = torch.arange(positions, dtype=torch.float64, device="cpu").unsqueeze(1)
    rates = 10_000 ** (-torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
    angles = place * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width].float().unsqueeze(0)


class _Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_ratio * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class _Attention(nn.Module):
    """Attention of several heads; queries, keys and values have no bias.

    As in timm's layers, ``fused_attn`` says whether the fused kernel is used; without it the weights (N, heads, T, T)
    pass through ``attn_drop``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused_attn = True
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_drop = nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused_attn:
            gathered = functional.scaled_dot_product_attention(query, key, value)
        else:
            weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
            gathered = self.attn_drop(weights) @ value
        joined: Tensor = self.proj(gathered.transpose(1, 2).flatten(2))
        return joined
