"""Parameters and strength axes of what is done to tokens, or to an image as a whole; read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.params import param
from harness.types import LevelSpec
from harness_patchdrop.parameters import MASK_SCOPE_HELP, FillParams, MaskScope

TOKEN_RATIO = LevelSpec(
    name="ratio",
    unit="of patch tokens",
    values=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    low=0.0,
    high=0.99,
    identity=0.0,
    nested=True,
)
"""The fraction of patch tokens taken away; below 1, so that at least one stays."""

LESION_RATE = LevelSpec(
    name="rate",
    unit="of patch tokens",
    values=(0.25, 0.5, 0.75),
    low=0.0,
    high=1.0,
    identity=0.0,
    nested=True,
)
"""The fraction of patch tokens set to zero. The sweep is that of the paper's tables 6 and 7."""

BLOCKS = LevelSpec(
    name="blocks",
    values=(4, 8, 16, 32, 64, 196, 256),
    low=1,
    high=65536,
    identity=1,
)
"""The number of blocks that an image is cut into. The sweep is that of the authors' script."""

Before: TypeAlias = int | Literal["pool"]
LesionCount: TypeAlias = Literal["patches", "tokens"]
LesionDraw: TypeAlias = Literal["exact", "bernoulli"]
IdentityOrder: TypeAlias = Literal["excluded", "allowed"]
Corner: TypeAlias = Literal["top_left", "top_right", "bottom_left", "bottom_right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDropParams:
    """Parameters of ``tokendrop``."""

    mask_scope: MaskScope = param("image", help=MASK_SCOPE_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionParams:
    """Parameters of ``lesion``."""

    before: Before = param(
        0,
        help="the transformer block, or else the stage of a CNN, in front of which tokens are set to zero: counted "
        "from 0, negative from the end; pool: in front of a CNN's average pool",
    )
    count: LesionCount = param(
        "patches",
        help="what the rate is a fraction of: the patch tokens, or, as in the authors' code, the patch and the prefix "
        "tokens together (49, 98 and 147 of 196 either way at 14x14)",
    )
    draw: LesionDraw = param(
        "exact",
        help="exactly that many positions, or, as in the authors' code for ResNet, each position by its own chance",
    )
    mask_scope: MaskScope = param("image", help=MASK_SCOPE_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleParams:
    """Parameters of ``patch_shuffle``."""

    rows: int | None = param(
        None,
        help="rows of blocks, which must divide their number; none: as many as make the grid most nearly square, with "
        "no more rows than columns",
        unit="blocks",
        low=1,
    )
    identity: IdentityOrder = param(
        "excluded",
        help="whether an order that moves no block may be drawn: drawn again, or kept as in the authors' code",
    )
    mask_scope: MaskScope = param("image", help=MASK_SCOPE_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class CornerParams(FillParams):
    """Parameters of ``image_in_corner``; the fill is what the rest of the canvas shows."""

    scale: float = param(
        4 / 7,
        help="side of the pasted image; the default is the paper's 128 of 224 pixels",
        unit="of the image's side",
        low=0.01,
        high=1,
    )
    corner: Corner = param("top_left", help="where the small image is pasted")
