"""Images without a black pixel, each a function of its id, and perturbations prepared for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from harness import rng
from harness.protocols import PerturbationContext
from harness.types import ImageBatch, View


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., ImageBatch]:
    def make(ids, *, height: int = 56, width: int = 56) -> ImageBatch:
        images = 0.25 + 0.75 * rng.dense_uniforms(0, "test.images", ids, (3, height, width))
        return ImageBatch(
            images=torch.from_numpy(images),
            labels=torch.arange(len(ids)),
            ids=tuple(ids),
            positions=np.arange(len(ids)),
        )

    return make


@pytest.fixture(scope="session")
def ready() -> Callable[..., object]:
    """A perturbation that has been prepared, with ``seed`` and further fields of its context."""

    def prepare(perturbation, *, seed: int = 0, **context):
        perturbation.prepare(
            PerturbationContext(
                seed=seed,
                view=View(crop=56),
                device=torch.device("cpu"),
                dataset_fingerprint="none",
                num_classes=2,
                **context,
            )
        )
        return perturbation

    return prepare


@pytest.fixture(scope="session")
def applied() -> Callable[..., ImageBatch]:
    def apply(perturbation, batch, level) -> ImageBatch:
        return perturbation.apply(batch, perturbation.begin(batch), level)

    return apply


@pytest.fixture(scope="session")
def black() -> Callable[[ImageBatch], torch.Tensor]:
    """(N, H, W) bool: which pixels are black in all channels."""
    return lambda batch: (batch.images == 0).all(dim=1)
