"""Plugin ``timm_cait``: CaiT (Touvron et al., ICCV 2021) with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View
from harness_timm.entry import PositionedTimmParams, timm_entry

if TYPE_CHECKING:
    from harness_timm.build import Family


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``cait``."""
    yield timm_entry(
        "cait",
        "CaiT of timm: class attention behind patch blocks that mix their heads",
        view=View(resize=224, crop=224, interpolation="bicubic"),
        capabilities=frozenset(Capability) - {Capability.CLASS_TOKEN},
        tags=("transformer",),
        params=PositionedTimmParams,
    )


def family() -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.cait import Cait, checkpoint_filter_fn

    from harness.backbones.cait import CaiTModel
    from harness_timm.build import Family, PositionEmbedding

    return Family(
        name="cait",
        classes=(Cait,),
        wrap=CaiTModel,
        sized=True,
        rename=checkpoint_filter_fn,
        positions=PositionEmbedding(),
    )
