"""Plugin ``timm_mobilenet``: MobileNet v2 and v3 (Sandler et al., 2018; Howard et al., 2019) with timm's weights."""

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
    """Offer ``mobilenet``."""
    yield timm_entry(
        "mobilenet",
        "MobileNet v2 or v3 of timm",
        view=View(resize=256, crop=224, interpolation="bicubic"),
        capabilities=STAGED,
        tags=("cnn",),
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.efficientnet import EfficientNet
    from timm.models.mobilenetv3 import MobileNetV3

    from harness.backbones.convnets import staged_model
    from harness_timm.build import Family

    return Family(
        name="mobilenet",
        classes=(
            EfficientNet,
            MobileNetV3,
        ),
        wrap=staged_model,
    )
