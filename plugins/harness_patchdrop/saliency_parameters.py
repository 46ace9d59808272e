"""Parameters and strength axes of drops by saliency, light enough to be read without torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.params import param
from harness.types import LevelSpec
from harness_patchdrop.parameters import CellParams

MASS = LevelSpec(
    name="mass",
    unit="of the saliency",
    values=tuple(tenths / 10 for tenths in range(11)),
    low=0.0,
    high=1.0,
    identity=0.0,
    nested=True,
)
"""The strength axis: the share Q of the saliency that is dropped, a share of mass and not of area."""

BACKGROUND_MASS = dataclasses.replace(MASS, identity=None)
"""That of the drop of the rest; which end of it is the clean image depends on ``background_axis``."""

KEPT_MASS = dataclasses.replace(MASS, identity=None, nested=False)
"""That of the authors' code for the drop of the rest: the share that is kept, so that more is less dropped."""

SALIENCY_WORDS = ("mask", "self", "gradient")
"""Sources of saliency that name no model of the registry."""

Head: TypeAlias = int | Literal["mean", "max"]
SaliencyNorm: TypeAlias = Literal["own", "classifier"]
BackgroundAxis: TypeAlias = Literal["dropped", "kept"]
DropOf: TypeAlias = Literal["salient", "nonsalient"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SalientDropParams(CellParams):
    """Parameters of ``patchdrop_salient``, and what all drops by saliency share."""

    saliency: str = param(
        "dino_mini",
        help="where the map comes from: the attention of a model of the registry; self, that of the evaluated model; "
        "gradient, the size of the gradient of gradient_of in the pixels; mask, the exact foreground of the images",
    )
    gradient_of: str = param(
        "self", help="with saliency=gradient: whose gradient, a model of the registry or self, the evaluated model"
    )
    head: Head = param(
        "mean", help="which attention head, from 0 (the authors' code takes 1 of DINO ViT-S/16); mean or max", low=0
    )
    block: int = param(-1, help="which block's attention; negative counts from the last block that has any")
    saliency_norm: SaliencyNorm = param(
        "own",
        help="whose mean and standard deviation the model of the map gets its pixels by: its own, or, as in the "
        "authors' code, those of the evaluated model",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NonsalientDropParams(SalientDropParams):
    """Parameters of ``patchdrop_nonsalient``."""

    background_axis: BackgroundAxis = param(
        "dropped",
        help="what the level counts: the mass dropped, or, as in the authors' code, the mass kept, so that 1 is the "
        "clean image",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedDropParams(SalientDropParams):
    """Parameters of ``patchdrop_matched``."""

    of: DropOf = param("salient", help="whose number of cells is dropped at random, image by image")
