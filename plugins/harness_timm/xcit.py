"""Plugin ``timm_xcit``: XCiT (El-Nouby et al., NeurIPS 2021) with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View
from harness_timm.entry import timm_entry

if TYPE_CHECKING:
    from harness_timm.build import Family


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``xcit``."""
    yield timm_entry(
        "xcit",
        "XCiT of timm: attention over channels, then class attention",
        view=View(resize=224, crop=224, interpolation="bicubic"),
        capabilities=frozenset(Capability) - {Capability.CLASS_TOKEN},
        tags=("transformer",),
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.xcit import Xcit, checkpoint_filter_fn

    from harness.backbones.xcit import XCiTModel
    from harness_timm.build import Family

    return Family(
        name="xcit",
        classes=(Xcit,),
        wrap=XCiTModel,
        sized=True,
        rename=checkpoint_filter_fn,
    )
