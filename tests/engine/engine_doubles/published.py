"""A model whose clean accuracy is known: it reads the label off the pixels, and errs on the images that say so."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.adapters import check_want
from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, ModelInfo, ModelOutputs, OutputSpec, View
from harness.weights import WeightsChoice, identify

VIEW = View(crop=1)
CAPABILITIES = frozenset({Capability.LOGITS})


class Reader:
    """The label is red * 40 + green of an image of one pixel; blue above 0 makes it err."""

    def __init__(self, weights: WeightsChoice) -> None:
        self.info = ModelInfo(
            name="reader",
            family="reader",
            weights=identify(weights, use="reader", embedded="reader:1"),
            view=VIEW,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            label_space="imagenet1k",
            num_classes=1000,
            num_blocks=0,
            embed_dim=0,
            heads=("head",),
            capabilities=CAPABILITIES,
        )

    def outputs(self, images: Tensor, want: OutputSpec) -> ModelOutputs:
        check_want(self.info, want)
        red, green, blue = (images * 255).round().long()[:, :, 0, 0].T
        label = (red * 40 + green + (blue > 0)) % 1000
        return ModelOutputs(logits={"head": torch.nn.functional.one_hot(label, 1000).float()})

    def to(self, device: torch.device | str) -> Reader:
        return self


def build(*, weights: WeightsChoice) -> Reader:
    return Reader(weights)


@hookimpl
def harness_register_models():
    yield ModelEntry(
        name="reader",
        target="engine_doubles.published:build",
        summary="reads its label off the pixels",
        view=VIEW,
        label_space="imagenet1k",
        capabilities=CAPABILITIES,
    )
