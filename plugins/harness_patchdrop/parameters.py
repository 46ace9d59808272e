"""Parameters and strength axes of the family, light enough to be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.params import param
from harness.types import LevelSpec

RATIO = LevelSpec(
    name="ratio",
    unit="of cells",
    values=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    low=0.0,
    high=1.0,
    identity=0.0,
    nested=True,
)
"""The strength axis: the fraction of cells dropped. The sweep is that of the paper."""

SCAN_RATIO = LevelSpec(
    name="ratio",
    unit="of the pixels of the cell that loses most",
    values=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    low=0.0,
    high=1.0,
    identity=0.0,
    nested=True,
)
"""The strength axis of drops that take a different part of every cell."""

Grid: TypeAlias = tuple[int, int] | Literal["tokens", "tokensx2", "tokensx4", "tokens/2", "tokens/4"]
"""Rows and columns of cells, or a multiple or part of the rows and columns of the evaluated model's patch tokens."""

FillName: TypeAlias = Literal["black", "mean", "noise", "blur", "constant"]
MaskScope: TypeAlias = Literal["image", "batch"]
ScanDirection: TypeAlias = Literal["rows", "columns", "columns_reversed", "rows_reversed"]

MASK_SCOPE_HELP = (
    "who shares a mask: every image has its own, or, as in the authors' code, each group of about 256 images does"
)
GRID_HELP = (
    "cells the image is divided into, as ROWSxCOLUMNS, any numbers up to the image's pixels; or by the evaluated "
    "model's token grid: tokens, tokensx2, tokensx4, tokens/2, tokens/4"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FillParams:
    """What stands in place of dropped pixels."""

    fill: FillName = param(
        "black",
        help="what replaces dropped pixels: black, the mean colour of the evaluated model (0 after its normalisation), "
        "uniform noise, the image blurred, or a constant colour",
    )
    colour: tuple[float, float, float] = param(
        (0.5, 0.5, 0.5),
        help="the colour of fill=constant, red, green and blue",
        unit="of the [0, 1] range",
        low=0,
        high=1,
    )
    blur: float = param(
        0.0625, help="standard deviation of the Gaussian of fill=blur", unit="of the shorter side", low=0.005, high=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CellParams(FillParams):
    """Parameters of drops of cells that do not depend on chance."""

    grid: Grid = param((14, 14), help=GRID_HELP, unit="cells", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomDropParams(CellParams):
    """Parameters of ``patchdrop_random``."""

    mask_scope: MaskScope = param("image", help=MASK_SCOPE_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetDropParams(RandomDropParams):
    """Parameters of ``patchdrop_offset``."""

    border: Literal["wrapped", "visible"] = param(
        "wrapped",
        help="what the shift uncovers at the top and the left: the cells that it pushed out on the other side, or, as "
        "in the authors' code, a strip of the image that is never dropped",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelDropParams(FillParams):
    """Parameters of ``pixeldrop``."""

    mask_scope: MaskScope = param("image", help=MASK_SCOPE_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialDropParams(CellParams):
    """Parameters of ``scandrop_sequential``."""

    direction: ScanDirection = param(
        "rows",
        help="the way of the scan: along rows or down columns from the top left, or the same backwards from the bottom "
        "right; in this order the directions 1, 2, 3 and 4 of the authors' code",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanDropParams(SequentialDropParams):
    """Parameters of the scan-line drops of pixels."""

    mask_scope: MaskScope = param("image", help=MASK_SCOPE_HELP)
