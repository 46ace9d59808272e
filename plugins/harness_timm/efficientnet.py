"""Plugin ``timm_efficientnet``: EfficientNets (Tan and Le, ICML 2019) with timm's weights."""

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
    """Offer ``efficientnet``."""
    yield timm_entry(
        "efficientnet",
        "EfficientNet of timm",
        view=View(resize=256, crop=224, interpolation="bicubic"),
        capabilities=STAGED,
        tags=("cnn",),
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.efficientnet import EfficientNet

    from harness.backbones.convnets import staged_model
    from harness_timm.build import Family

    return Family(
        name="efficientnet",
        classes=(EfficientNet,),
        wrap=staged_model,
    )
