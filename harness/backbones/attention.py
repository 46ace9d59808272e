"""Attention weights of layers of timm, kept while a network runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def attention_of(layers: Mapping[int, Any]) -> Iterator[dict[int, Tensor]]:
    """While open, a pass leaves the attention weights of each of ``layers`` in the value, under the layer's key.

    They are the weights (N, heads, queries, keys) that multiply the values: timm's layers send them through
    ``attn_drop``. Layers that could use a fused kernel, which never forms them, do without it meanwhile.
    """
    seen: dict[int, Tensor] = {}
    fused = {i: layer.fused_attn for i, layer in layers.items() if hasattr(layer, "fused_attn")}
    handles = []

    def keep(i: int, weights: Tensor) -> None:
        seen[i] = weights

    try:
        for i, layer in layers.items():
            if i in fused:
                layer.fused_attn = False
            handles.append(layer.attn_drop.register_forward_pre_hook(lambda _, inputs, i=i: keep(i, inputs[0])))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for i, was in fused.items():
            layers[i].fused_attn = was
