"""Contact sheets: labelled tiles in rows under titles, as one picture; what the tiles show is the caller's matter."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from harness.errors import ParameterError, RecordsError, UsageError
from harness.run_folder import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

LEGIBLE_PX = 112
"""Small tiles are magnified by the whole factor that brings their longer side nearest to this."""

OUTLINE = (255, 0, 255)
"""Colour of a mask's outline: hardly any photograph holds it."""

_OUTLINE_PX = 2
_WIDTH_PX = 1500
_MARGIN_PX = 24
_GAP_PX = 8
_SPACE_PX = 20
_HEADING_PX, _TITLE_PX, _CAPTION_PX = 20, 17, 12
_PAPER, _INK, _GREY, _FRAME = (255, 255, 255), (20, 20, 20), (90, 90, 90), (208, 208, 208)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One small picture of a sheet.

    ``pixels``: (3, H, W), uint8 or float32 in [0, 1]. ``mask``: (H, W) bool, the object whose outline is drawn. Raises
    :class:`~harness.errors.ParameterError` for another shape, type or range.
    """

    pixels: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_] | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        pixels, mask = self.pixels, self.mask
        if pixels.ndim != 3 or len(pixels) != 3 or not pixels.size or pixels.dtype not in (np.uint8, np.float32):
            raise ParameterError(
                f"a tile's pixels must be (3, H, W) uint8 or float32, not {pixels.shape} {pixels.dtype}"
            )
        if pixels.dtype == np.float32 and not 0 <= float(pixels.min()) <= float(pixels.max()) <= 1:
            raise ParameterError(
                f"a tile's float32 pixels must lie in [0, 1], found {pixels.min():g} to {pixels.max():g}"
            )
        if mask is not None and (mask.shape != pixels.shape[1:] or mask.dtype != np.bool_):
            raise ParameterError(
                f"the mask of a tile of {pixels.shape[1:]} pixels must be bool of that shape, "
                f"not {mask.shape} {mask.dtype}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """Tiles under a common title, such as a split and its size, or a perturbation and its seed; there may be none."""

    title: str
    tiles: tuple[Tile, ...] = ()


def contact_sheet(rows: Sequence[SheetRow], *, heading: str = "") -> Image.Image:
    """All rows under each other, as one RGB picture.

    A row shows its tiles as they are, each above its caption; where any has a mask, those with one are repeated right
    below with the outline of the mask. Rows that are too long go on in the next line. Tiles smaller than about
    :data:`LEGIBLE_PX` are magnified by a whole factor, pixel by pixel; larger ones are shown at their size. Text that
    does not fit ends in an ellipsis. Raises :class:`~harness.errors.ParameterError` without rows.
    """
    if not rows:
        raise ParameterError("a contact sheet needs at least one row")
    cell_px = max((_size(tile)[0] for row in rows for tile in row.tiles), default=0)
    columns = _columns(max(len(row.tiles) for row in rows), cell_px)
    width_px = _width(rows, heading, columns, cell_px)
    strips = [_text_strip(heading, _HEADING_PX, width_px)] if heading else []
    for row in rows:
        strips.append(_text_strip(row.title, _TITLE_PX, width_px))
        for start in range(0, len(row.tiles), columns):
            tiles = row.tiles[start : start + columns]
            strips.append(_tile_strip(tiles, cell_px, width_px))
            if any(tile.mask is not None for tile in tiles):
                strips.append(_outline_strip(tiles, cell_px, width_px))
    return _stacked(strips, width_px)


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a picture as PNG, in one step: a reader sees the old file or the whole new one.

    Raises :class:`~harness.errors.UsageError` for what the file system refuses.
    """
    try:
        with replacing(path) as temporary:
            sheet.save(temporary, format="PNG")
    except RecordsError as error:
        raise UsageError(error.message, hint="name a file that may be written to") from error


def shortened(text: str, size_px: int, width_px: int) -> str:
    """``text`` on one line, cut with an ellipsis where it is wider than ``width_px`` in letters of ``size_px``.

    >>> shortened("hourglass", 12, 200), shortened("hourglass in honeycomb", 12, 60).endswith("…")
    ('hourglass', True)
    """
    font, text = _font(size_px), _on_one_line(text)
    if font.getlength(text) <= width_px:
        return text
    fitting = bisect_right(range(len(text)), width_px, key=lambda length: _text_width(text[:length] + "…", size_px))
    return text[: fitting - 1].rstrip() + "…" if fitting else ""


# --- sizes -----------------------------------------------------------------------------------------------------


def _factor(tile: Tile) -> int:
    side: int = max(tile.pixels.shape[1:])
    return max(1, round(LEGIBLE_PX / side))


def _size(tile: Tile) -> tuple[int, int]:
    """Width and height in pixels of the sheet."""
    height, width = tile.pixels.shape[1:]
    return width * _factor(tile), height * _factor(tile)


def _columns(longest: int, cell_px: int) -> int:
    """How many tiles stand side by side: as few lines as the sheet's width allows, and those of equal lengths."""
    fitting = max(1, (_WIDTH_PX - 2 * _MARGIN_PX + _GAP_PX) // (cell_px + _GAP_PX))
    lines = max(1, math.ceil(longest / fitting))
    return max(1, math.ceil(longest / lines))


def _width(rows: Sequence[SheetRow], heading: str, columns: int, cell_px: int) -> int:
    """Of the sheet, in pixels: that of its tiles, or of its longest title where that is wider."""
    tiles = columns * (cell_px + _GAP_PX) - _GAP_PX
    texts = [_text_width(heading, _HEADING_PX), *(_text_width(row.title, _TITLE_PX) for row in rows)]
    return 2 * _MARGIN_PX + max(tiles, min(max(texts), _WIDTH_PX - 2 * _MARGIN_PX))


def _text_width(text: str, size_px: int) -> int:
    return math.ceil(_font(size_px).getlength(_on_one_line(text)))


def _line_height(size_px: int) -> int:
    return round(1.4 * size_px)


# --- strips: what stands side by side, as wide as the sheet ----------------------------------------------------


def _text_strip(text: str, size_px: int, width_px: int) -> Image.Image:
    """A line of text with space above it."""
    strip = Image.new("RGB", (width_px, _SPACE_PX + _line_height(size_px)), _PAPER)
    _write(strip, (_MARGIN_PX, _SPACE_PX), text, size_px, width_px - 2 * _MARGIN_PX, _INK)
    return strip


def _tile_strip(tiles: Sequence[Tile], cell_px: int, width_px: int) -> Image.Image:
    """The tiles as they are, over their captions."""
    height = _strip_height(tiles)
    captioned = any(tile.caption for tile in tiles)
    strip = Image.new("RGB", (width_px, height + (_line_height(_CAPTION_PX) if captioned else 0)), _PAPER)
    for left, tile in zip(_lefts(cell_px), tiles, strict=False):  # places without end
        _paste(strip, left, _magnified(_bytes(tile.pixels).transpose(1, 2, 0), _factor(tile)))
        _write(strip, (left, height), tile.caption, _CAPTION_PX, cell_px, _GREY)
    return strip


def _outline_strip(tiles: Sequence[Tile], cell_px: int, width_px: int) -> Image.Image:
    """Those of the tiles that have a mask, each in its place, with the mask's outline."""
    strip = Image.new("RGB", (width_px, _strip_height(tiles)), _PAPER)
    for left, tile in zip(_lefts(cell_px), tiles, strict=False):  # places without end
        if tile.mask is not None:
            pixels = _magnified(_bytes(tile.pixels).transpose(1, 2, 0), _factor(tile))
            pixels[_outline(_magnified(tile.mask, _factor(tile)))] = OUTLINE
            _paste(strip, left, pixels)
    return strip


def _stacked(strips: Sequence[Image.Image], width_px: int) -> Image.Image:
    sheet = Image.new("RGB", (width_px, sum(strip.height for strip in strips) + _MARGIN_PX), _PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _strip_height(tiles: Sequence[Tile]) -> int:
    """Space above, the tallest tile, and the frame below it."""
    return _GAP_PX + max(_size(tile)[1] for tile in tiles) + 1


def _lefts(cell_px: int) -> Iterator[int]:
    """Where each column begins."""
    return count(_MARGIN_PX, cell_px + _GAP_PX)


def _paste(strip: Image.Image, left: int, pixels: npt.NDArray[np.uint8]) -> None:
    height, width = pixels.shape[:2]
    # The frame lies outside the tile, so that a white picture has an edge and every pixel of it is shown.
    frame = (left - 1, _GAP_PX - 1, left + width, _GAP_PX + height)
    ImageDraw.Draw(strip).rectangle(frame, outline=_FRAME)
    strip.paste(Image.fromarray(pixels), (left, _GAP_PX))


def _write(
    strip: Image.Image, place: tuple[int, int], text: str, size_px: int, width_px: int, ink: tuple[int, int, int]
) -> None:
    middle = (place[0], place[1] + _line_height(size_px) // 2)
    shown = shortened(text, size_px, width_px)
    ImageDraw.Draw(strip).text(middle, shown, fill=ink, font=_font(size_px), anchor="lm")


# --- pixels and letters ----------------------------------------------------------------------------------------


def _bytes(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def _magnified(values: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """A copy of (H, W, ...) with every value repeated ``factor`` times down and across."""
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of the mask (H, W) next to its edge, or to the tile's where it is cut off there."""
    inside: npt.NDArray[np.bool_] = binary_erosion(mask, iterations=_OUTLINE_PX)
    return mask & ~inside


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size_px)
