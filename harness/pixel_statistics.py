"""A model that sees nothing: colours and contrasts of the pixels as the feature vector that any backbone must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from harness.adapters import check_want
from harness.types import Capability, ModelInfo, ModelOutputs, View, WeightsInfo
from harness.weights import WeightsChoice, identify

if TYPE_CHECKING:
    from torch import Tensor

    from harness.types import OutputSpec

THUMBNAIL = 8
"""Cells of the thumbnail per side."""

DIM = 3 * (2 + THUMBNAIL**2 + 2)
VIEW = View(resize=256, crop=224)


class PixelStatistics:
    """Mean, standard deviation, an 8 x 8 thumbnail and the mean steepness in both directions of every colour channel.

    The pooled vector (N, 204) of images (N, 3, H, W) of any size, on their device, differentiable in them: a probe on
    it tells how much of a task is solved by colour and layout alone. There are no weights; ``weights`` only says how a
    run names them.
    """

    def __init__(self, *, weights: WeightsChoice | None = None) -> None:
        found: WeightsInfo = identify(weights or WeightsChoice(), use="pixel_statistics", embedded="pixel_statistics:1")
        self._info = ModelInfo(
            name="pixel_statistics",
            family="pixel_statistics",
            weights=found,
            view=VIEW,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            label_space=None,
            num_classes=None,
            num_blocks=0,
            embed_dim=DIM,
            pooled_dim=DIM,
            capabilities=frozenset({Capability.POOLED, Capability.GRADIENTS}),
        )

    @property
    def info(self) -> ModelInfo:
        """Its card: the pooled vector, no classes, no blocks."""
        return self._info

    def outputs(self, images: Tensor, want: OutputSpec) -> ModelOutputs:
        """The pooled vector. Raises :class:`~harness.errors.CapabilityError` for anything else."""
        check_want(self._info, want)
        # A grey image has no contrast, and the slope of a square root at 0 is infinite.
        std = (images.var(dim=(2, 3), unbiased=False) + 1e-12).sqrt()
        parts = [images.mean(dim=(2, 3)), std, functional.adaptive_avg_pool2d(images, THUMBNAIL).flatten(1)]
        parts += [_steepness(images, dim) for dim in (2, 3)]
        return ModelOutputs(pooled=torch.cat(parts, dim=1) if want.pooled else None)

    def to(self, device: torch.device | str) -> PixelStatistics:  # noqa: ARG002  # the contract's; nothing to move
        """Itself: it works wherever its images are."""
        return self


def _steepness(images: Tensor, dim: int) -> Tensor:
    if images.shape[dim] < 2:
        return images.new_zeros(images.shape[:2])
    return images.diff(dim=dim).abs().mean(dim=(2, 3))
