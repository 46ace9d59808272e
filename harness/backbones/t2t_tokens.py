"""T2T-ViT's tokens-to-token module: soft splits of the image with a layer of attention between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

TokenLayer: TypeAlias = Literal["performer", "transformer"]

PATCH = 16
"""Pixels between the middles of neighbouring patches: the product of the strides."""

_TOKEN_WIDTH = 64
"""Of the tokens between the soft splits."""

_SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Kernel, stride and padding of the soft splits, in pixels and then in tokens of the split before."""


class TokensToToken(nn.Module):
    """Pixels (N, 3, H, W) to patch tokens (N, H/16 * W/16, width): split softly and mix, twice, and split again."""

    def __init__(self, width: int, tokens: TokenLayer) -> None:
        super().__init__()
        layer = TOKEN_LAYERS[tokens]
        inside = _TOKEN_WIDTH * _SPLITS[1][0] ** 2
        self.attention1 = layer(3 * _SPLITS[0][0] ** 2)
        self.attention2 = layer(inside)
        self.project = nn.Linear(inside, width)
        self.soft_split0, self.soft_split1, self.soft_split2 = (
            nn.Unfold(kernel, stride=stride, padding=padding) for kernel, stride, padding in _SPLITS
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """The patch tokens; H and W are multiples of 16."""
        height, width = pixels.shape[-2:]
        x = self.attention1(self.soft_split0(pixels).transpose(1, 2))
        x = x.transpose(1, 2).unflatten(2, (height // 4, width // 4))
        x = self.attention2(self.soft_split1(x).transpose(1, 2))
        x = x.transpose(1, 2).unflatten(2, (height // 8, width // 8))
        tokens: Tensor = self.project(self.soft_split2(x).transpose(1, 2))
        return tokens


class PerformerLayer(nn.Module):
    """Tokens (N, T, ``arriving``) to (N, T, 64): softmax attention estimated by positive random features.

    exp(q k) is the mean of phi(q) phi(k) over features phi(x) = exp(w x - |x|^2 / 2) of random directions w; here 32,
    drawn once, orthogonal, and kept in the checkpoint. The values, not the tokens, are what attention is added to,
    since only they have the width that leaves.
    """

    def __init__(self, arriving: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(arriving)
        self.kqv = nn.Linear(arriving, 3 * _TOKEN_WIDTH)
        self.w = nn.Parameter(torch.empty(_TOKEN_WIDTH // 2, _TOKEN_WIDTH), requires_grad=False)
        self.proj = nn.Linear(_TOKEN_WIDTH, _TOKEN_WIDTH)
        self.norm2 = nn.LayerNorm(_TOKEN_WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(_TOKEN_WIDTH, _TOKEN_WIDTH), nn.GELU(), nn.Linear(_TOKEN_WIDTH, _TOKEN_WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mixed tokens."""
        key, query, value = self.kqv(self.norm1(x)).chunk(3, dim=2)
        x = value + self.proj(self._attended(query, key, value))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed

    def _attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Exponentials of squared lengths leave the range of half precision.
        kind = query.device.type
        with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
            of_queries, of_keys, values = (x.to(self.w.dtype) for x in (query, key, value))
            of_queries, of_keys = self._features(of_queries), self._features(of_keys)
            gathered = of_queries @ (of_keys.transpose(1, 2) @ values)
            weight = of_queries @ of_keys.sum(dim=1).unsqueeze(2)
            # Far from the origin every feature vanishes; the authors' constant then keeps the quotient finite.
            return (gathered / (weight + 1e-8)).to(value.dtype)

    def _features(self, x: Tensor) -> Tensor:
        """(N, T, 32), so that the scalar product of two estimates the exponential of that of their arguments."""
        exponent = x @ self.w.T - x.square().sum(dim=2, keepdim=True) / 2
        features: Tensor = exponent.exp() / len(self.w) ** 0.5
        return features


class _TransformerLayer(nn.Module):
    """Tokens (N, T, ``arriving``) to (N, T, 64): softmax attention of one head, added to the values."""

    def __init__(self, arriving: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(arriving)
        self.attn = _ValueSkipAttention(arriving)
        self.norm2 = nn.LayerNorm(_TOKEN_WIDTH)
        self.mlp = Mlp(_TOKEN_WIDTH, _TOKEN_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1(x))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class _ValueSkipAttention(nn.Module):
    """Attention of one head with values as skip connection, scaled by the width that arrives, not that of the head."""

    def __init__(self, arriving: int) -> None:
        super().__init__()
        self.scale = arriving**-0.5
        self.qkv = nn.Linear(arriving, 3 * _TOKEN_WIDTH, bias=False)
        self.proj = nn.Linear(_TOKEN_WIDTH, _TOKEN_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        # With an axis of heads, so that the fused kernel takes it: the map of weights would be huge.
        query, key, value = self.qkv(x).unsqueeze(1).chunk(3, dim=3)
        attended = functional.scaled_dot_product_attention(query, key, value, scale=self.scale)
        gathered: Tensor = (value + self.proj(attended)).squeeze(1)
        return gathered


TOKEN_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "performer": PerformerLayer,
    "transformer": _TransformerLayer,
}


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """The last axis mixed; the others are left alone."""
        mixed: Tensor = self.fc2(self.act(self.fc1(x)))
        return mixed
