"""Plugin ``timm_resnet``: ResNets (He et al., CVPR 2016) and their kin with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetParams:
    """Parameters of ``resnet``."""

    arch: str = param(help="timm's full name, architecture.tag: it fixes the weights, their view and normalisation")


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``resnet``."""
    yield ModelEntry(
        name="resnet",
        target="harness_timm.build:build_resnet",
        summary="ResNet, ResNeXt or SE-ResNet of timm, by architecture.tag",
        tags=("timm", "cnn"),
        params=ResNetParams,
        tag_param="arch",
        timm_weights=True,
        view=View(resize=256, crop=224, interpolation="bilinear"),
        label_space="imagenet1k",
        capabilities=frozenset(
            {
                Capability.LOGITS,
                Capability.POOLED,
                Capability.TOKENS,
                Capability.GRADIENTS,
                Capability.INTERVENTION,
            }
        ),
    )
