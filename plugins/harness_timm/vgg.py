"""Plugin ``timm_vgg``: VGG (Simonyan and Zisserman, ICLR 2015) with timm's weights."""

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
    """Offer ``vgg``."""
    yield timm_entry(
        "vgg",
        "VGG of timm, with or without batch normalisation",
        view=View(resize=256, crop=224, interpolation="bilinear"),
        capabilities=STAGED,
        tags=("cnn",),
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.vgg import VGG, _filter_fn

    from harness.backbones.convnets import staged_model
    from harness_timm.build import Family

    return Family(
        name="vgg",
        classes=(VGG,),
        wrap=staged_model,
        rename=lambda state, _: _filter_fn(state),
    )
