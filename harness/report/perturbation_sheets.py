"""A perturbation as a contact sheet: each image clean, the maps that it goes by, and the image at each level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_erosion

from harness.loader import split_batch
from harness.protocols import HasMaps
from harness.report.sheets import OUTLINE, SheetRow, Tile, contact_sheet
from harness.types import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from PIL import Image
    from torch import Tensor

    from harness.protocols import Perturbation
    from harness.types import ImageBatch

DEFAULT_VIEW = View(resize=224, crop=224, interpolation="bicubic")
"""Where no model has a view of its own: the size that the papers' grids are meant for."""

TILE_PX = 168
"""Images are magnified by the whole factor that brings their side nearest to this, so that captions have room."""

_OUTLINE_PX = 2

_COLOURS = "viridis"
"""Lightness rises evenly with the value, in grey print and for the colour-blind as well."""


def perturbation_sheet(
    perturbation: Perturbation,
    batch: ImageBatch,
    *,
    levels: Sequence[float | None],
    titles: Sequence[str],
    heading: str = "",
) -> Image.Image:
    """One row for each image of ``batch``, under its title; see :func:`perturbation_row`.

    ``perturbation`` has been prepared. ``levels``: those to show, ``(None,)`` where it has none. Raises what the
    perturbation raises.
    """
    return contact_sheet(
        [
            perturbation_row(perturbation, image, levels=levels, title=title)
            for image, title in zip(split_batch(batch, 1), titles, strict=True)
        ],
        heading=heading,
    )


def perturbation_row(
    perturbation: Perturbation, image: ImageBatch, *, levels: Sequence[float | None], title: str = ""
) -> SheetRow:
    """One image clean, with its object outlined where it has a mask, its maps, and itself as each level leaves it.

    ``image`` is a batch of one. Maps are there where the perturbation has any. Raises what the perturbation raises.
    """
    clean = _array(image.images[0])
    tiles = [_tile(clean, "clean")]
    if image.masks is not None:
        tiles.append(Tile(pixels=_outlined(_magnified(clean), _magnified(_array(image.masks[0]))), caption="object"))
    state = perturbation.begin(image)
    if isinstance(perturbation, HasMaps):
        tiles += [
            _tile(heat_map(_array(values[0]), clean.shape[1:]), name.replace("_", " "))
            for name, values in perturbation.maps(state).items()
        ]
    for level in levels:
        seen = perturbation.apply(image, state, level)
        tiles.append(_tile(_array(seen.images[0]), _caption(perturbation, level, seen)))
    return SheetRow(title=title, tiles=tuple(tiles))


def heat_map(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A map (rows, columns) of values from 0 up as colours, each value as large as its cell of the image.

    ``size``: height and width in pixels of the image; the result is (3, height, width). Dark is 0 and bright the
    largest value of the map; where all are 0, all is dark.
    """
    from matplotlib import colormaps

    highest = values.max()
    shares = values / highest if highest > 0 else np.zeros_like(values, dtype=np.float64)
    colours = np.rint(255 * colormaps[_COLOURS](shares)[..., :3]).astype(np.uint8)
    rows, columns = (np.arange(length) * cells // length for length, cells in zip(size, values.shape, strict=True))
    enlarged: npt.NDArray[np.uint8] = colours[rows][:, columns].transpose(2, 0, 1)
    return enlarged


def _caption(perturbation: Perturbation, level: float | None, seen: ImageBatch) -> str:
    spec = perturbation.info.level
    words = ["perturbed" if level is None or spec is None else f"{spec.name} {level:g}"]
    if (loss := seen.realised.get("information_loss")) is not None:
        words.append(f"loss {100 * float(loss[0]):.1f} %")
    return ", ".join(words)


def _tile(pixels: npt.NDArray[Any], caption: str) -> Tile:
    return Tile(pixels=_magnified(pixels), caption=caption)


def _magnified(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy of (..., H, W) with every value repeated down and across by the whole factor for :data:`TILE_PX`."""
    factor = max(1, round(TILE_PX / max(values.shape[-2:])))
    return values.repeat(factor, axis=-2).repeat(factor, axis=-1)


def _outlined(pixels: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """``pixels`` (3, H, W), which are overwritten, with the outline of ``mask`` (H, W)."""
    edge = mask & ~binary_erosion(mask, iterations=_OUTLINE_PX)
    pixels[:, edge] = np.array(OUTLINE, dtype=np.float32)[:, None] / 255
    return pixels


def _array(values: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = values.detach().cpu().numpy()
    return array
