"""A tiny network as a Model that counts its forward passes, and models that break in one way each."""

from __future__ import annotations

import torch
from torch import nn

from harness.adapters import check_want, model_input
from harness.errors import WeightsError
from harness.types import Capability, ModelInfo, ModelOutputs, OutputSpec, View, WeightsInfo

SIDE_PX = 16
VIEW = View(crop=SIDE_PX)
SPACE = "shapes"
CLASSES = ("circle", "square", "star")
GIVES = frozenset({Capability.LOGITS, Capability.POOLED, Capability.GRADIENTS})


class TinyNet(nn.Module):
    """Two layers, in float64 so that the batch size cannot change a decision; a bare module as users have them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):
            self.trunk = nn.Conv2d(3, 12, 4, 4)
            self.head = nn.Linear(12, len(CLASSES))
        self.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator) * 0.5)
        self.double().eval().requires_grad_(False)

    def pooled(self, images):
        return torch.tanh(self.trunk(images.double())).mean(dim=(2, 3))

    def forward(self, images):
        return self.head(self.pooled(images)).float()


class TinyModel:
    """``calls``: (images, whether it was a metric forward) of every call. ``memory_images``: the most it can take."""

    def __init__(self, name="tiny", *, seed=0, label_space=SPACE, view=VIEW, gives=GIVES, memory_images=None):
        self.net = TinyNet(seed)
        self.memory_images = memory_images
        self.calls: list[tuple[int, bool]] = []
        self.wants: list[OutputSpec] = []
        self.seen: list[torch.Tensor] = []
        self.autocast: list[torch.dtype | None] = []
        self._info = ModelInfo(
            name=name,
            family="tiny",
            weights=WeightsInfo(origin="embedded", identity=f"embedded:{name}:{seed}"),
            view=view,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            label_space=label_space,
            num_classes=len(CLASSES) if Capability.LOGITS in gives else None,
            num_blocks=1,
            embed_dim=12,
            pooled_dim=12,
            heads=("head",) if Capability.LOGITS in gives else (),
            capabilities=gives,
        )

    @property
    def info(self):
        return self._info

    @property
    def metric_calls(self) -> list[int]:
        return [images for images, metric in self.calls if metric]

    def outputs(self, images, want):
        check_want(self.info, want)
        if self.memory_images is not None and len(images) > self.memory_images:
            raise torch.OutOfMemoryError(f"out of memory: {len(images)} images")
        self.calls.append((len(images), torch.is_inference_mode_enabled()))
        self.wants.append(want)
        self.seen.append((images.detach() * 255).round().byte())
        self.autocast.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        pooled = self.net.pooled(model_input(images, self.info))
        return ModelOutputs(
            logits={"head": self.net.head(pooled).float()} if want.logits else {},
            pooled=pooled.float() if want.pooled else None,
        )

    def to(self, device):
        self.net.to(device)
        return self


class BreaksAfter(TinyModel):
    """Fails on the forward pass after the first ``calls_left``."""

    def __init__(self, name="breaks", *, calls_left):
        super().__init__(name)
        self.calls_left = calls_left

    def outputs(self, images, want):
        if len(self.calls) >= self.calls_left:
            raise ValueError("the network fell over")
        return super().outputs(images, want)


built: list[str] = []
"""The named models that were built, in order."""


def make_tiny(*, net: int = 0, weights):
    built.append(f"tiny:{net}:{weights.origin}")
    return TinyModel("named_tiny", seed=net + (100 + weights.seed if weights.origin == "random" else 0))


def make_unpublished(*, url=None, weights):
    return TinyModel("unpublished", seed=weights.seed)


def make_headless(*, weights):
    return TinyModel("headless", label_space=None, gives=GIVES - {Capability.LOGITS})


def make_elsewhere(*, weights):
    return TinyModel("elsewhere", label_space="imagenet1k")


def make_unbuildable(*, weights):
    raise RuntimeError("this architecture is not what its author thought")


def make_weightless(*, weights):
    raise WeightsError("the weights of weightless are not cached and the hub does not answer", hint="harness fetch")
