"""Plugin ``timm_inception``: Inception v3 (Szegedy et al., CVPR 2016) with timm's weights."""

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
    """Offer ``inception``."""
    yield timm_entry(
        "inception",
        "Inception v3 of timm",
        view=View(resize=341, crop=299, interpolation="bicubic"),
        capabilities=STAGED,
        tags=("cnn",),
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.inception_v3 import InceptionV3

    from harness.backbones.convnets import staged_model
    from harness_timm.build import Family

    return Family(
        name="inception",
        classes=(InceptionV3,),
        wrap=staged_model,
        unused=("AuxLogits.*",),
    )
