"""Plugin ``timm_resnet``: ResNets (He et al., CVPR 2016), ResNeXts and wide ResNets with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.model_params import STAGED
from harness.types import View
from harness_timm.entry import timm_entry

if TYPE_CHECKING:
    from harness_timm.build import Family


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``resnet``."""
    yield timm_entry(
        "resnet",
        "ResNet, ResNeXt, wide ResNet or SE-ResNet of timm",
        view=View(resize=256, crop=224, interpolation="bilinear"),
        capabilities=STAGED,
        tags=("cnn",),
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.resnet import ResNet

    from harness.backbones.resnet import ResNetModel
    from harness_timm.build import Family

    return Family(
        name="resnet",
        classes=(ResNet,),
        wrap=ResNetModel,
    )
