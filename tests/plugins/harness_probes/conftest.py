"""Cards, batches and outputs without a network behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from harness.types import Capability, ImageBatch, ModelInfo, View, WeightsInfo


@pytest.fixture
def card() -> Callable[..., ModelInfo]:
    """Cards of imaginary models."""

    def make(
        *,
        heads: Sequence[str] = ("head",),
        num_classes: int | None = 10,
        label_space: str | None = "digits",
        pooled: bool = True,
    ) -> ModelInfo:
        claims = {Capability.LOGITS: bool(heads), Capability.POOLED: pooled}
        return ModelInfo(
            name="tiny",
            family="test",
            weights=WeightsInfo(origin="random", identity="random:tiny:0"),
            view=View(crop=8),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            label_space=label_space if heads else None,
            num_classes=num_classes if heads else None,
            num_blocks=2,
            embed_dim=64,
            pooled_dim=64 if pooled else None,
            heads=tuple(heads),
            capabilities=frozenset(claim for claim, held in claims.items() if held),
        )

    return make


@pytest.fixture
def batch() -> Callable[..., ImageBatch]:
    """Batches of blank images with the given labels and positions."""

    def make(labels: Sequence[int], positions: Sequence[int] | None = None) -> ImageBatch:
        places = np.arange(len(labels)) if positions is None else np.asarray(positions, np.int64)
        return ImageBatch(
            images=torch.zeros(len(labels), 3, 1, 1),
            labels=torch.tensor(labels, dtype=torch.int64),
            ids=tuple(f"image-{position}" for position in places),
            positions=places,
        )

    return make
