"""Plugin ``timm_densenet``: DenseNets (Huang et al., CVPR 2017) with timm's weights."""

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
    """Offer ``densenet``."""
    yield timm_entry(
        "densenet",
        "DenseNet of timm",
        view=View(resize=256, crop=224, interpolation="bilinear"),
        capabilities=STAGED,
        tags=("cnn",),
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.densenet import DenseNet, _filter_torchvision_pretrained

    from harness.backbones.convnets import staged_model
    from harness_timm.build import Family

    return Family(
        name="densenet",
        classes=(DenseNet,),
        wrap=staged_model,
        rename=lambda state, _: _filter_torchvision_pretrained(state),
    )
