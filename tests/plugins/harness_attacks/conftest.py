"""Two small frozen networks to attack, images that are functions of their ids, and attacks prepared for a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from harness import rng
from harness.protocols import PerturbationContext
from harness.types import ImageBatch, View

CLASSES = 10


class Normalise(nn.Module):
    def forward(self, images):
        return (images - 0.5) / 0.25


def _conv() -> nn.Module:
    return nn.Sequential(
        Normalise(),
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, CLASSES),
    )


def _vit() -> nn.Module:
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=CLASSES)
    return nn.Sequential(Normalise(), vit)


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    """``conv`` and ``vit``: (N, 3, 32, 32) to (N, 10), with seeded weights."""
    made = {}
    with torch.random.fork_rng(devices=[]):
        for name, make in {"conv": _conv, "vit": _vit}.items():
            torch.manual_seed(7)
            made[name] = make().eval().requires_grad_(False)
    return made


@pytest.fixture(scope="session")
def pictures() -> Callable[..., ImageBatch]:
    """Noise of whole 255ths; the labels are given, or what ``scores`` says of the images."""

    def make(
        n: int = 6,
        *,
        side: int = 32,
        labels: Sequence[int] | None = None,
        scores: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> ImageBatch:
        ids = tuple(f"{i}.png" for i in range(n))
        noise = torch.from_numpy(rng.dense_uniforms(0, "test.images", ids, (3, side, side)))
        images = (noise * 255).round() / 255
        if scores is not None:
            with torch.no_grad():
                found = scores(images).argmax(dim=1)
        else:
            found = torch.tensor([i % CLASSES for i in range(n)] if labels is None else labels)
        return ImageBatch(images=images, labels=found, ids=ids, positions=np.arange(n))

    return make


@pytest.fixture(scope="session")
def ready() -> Callable[..., object]:
    """An attack prepared for a target."""

    def prepare(attack, target, *, seed: int = 0, **context):
        attack.prepare(
            PerturbationContext(
                seed=seed,
                view=View(crop=32),
                device=torch.device("cpu"),
                dataset_fingerprint="none",
                num_classes=CLASSES,
                target=target,
                **context,
            )
        )
        return attack

    return prepare


@pytest.fixture(scope="session")
def applied() -> Callable[..., ImageBatch]:
    def apply(attack, batch, level) -> ImageBatch:
        return attack.apply(batch, attack.begin(batch), level)

    return apply


class Counted:
    """A target that counts its forward passes: those that could be differentiated, the others, and images in all."""

    def __init__(self, scores):
        self._scores = scores
        self.differentiable = self.plain = self.images = 0

    def __call__(self, images):
        if torch.is_grad_enabled() and images.requires_grad:
            self.differentiable += 1
        else:
            self.plain += 1
        self.images += len(images)
        return self._scores(images)


@pytest.fixture(scope="session")
def counted() -> type:
    return Counted
