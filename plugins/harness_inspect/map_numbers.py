"""Numbers of maps over patches: how spread out, how much in a region; and their means over images with intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.stats import resampled_means, t_interval
from harness.types import Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from harness.types import JSONScalar

_ENDS = (0.025, 0.975)


def exact(values: Tensor) -> Tensor:
    """``values`` as float64, or as float32 where the device has nothing better."""
    return values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)


def mean_of_heads(weights: Tensor) -> Tensor:
    """The mean over the heads of (N, heads, ...) as :func:`exact`, without a copy of every head in that type."""
    return weights.detach().mean(dim=1, dtype=torch.float32 if weights.device.type == "mps" else torch.float64)


def as_array(values: Tensor) -> npt.NDArray[np.float64]:
    """``values`` as a float64 array."""
    return np.asarray(exact(values).cpu().numpy(), dtype=np.float64)


def split_row(row: Tensor, patches: int) -> tuple[Tensor, Tensor]:
    """A row (N, keys) of attention as a map (N, patches) that sums to one, and the share (N,) of the special tokens.

    The last keys are the patches. The map of a row that gives these nothing is NaN.
    """
    of_patches, special = row[:, -patches:], row[:, :-patches].sum(dim=1)
    total = of_patches.sum(dim=1)
    return of_patches / total[:, None], special / (special + total)


def cell_shares(pixels: Tensor, grid: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Share of the area of every cell of ``grid`` that the pixels (N, H, W) bool cover: (N, cells), row-major.

    Cells are equal parts of the image; a pixel that lies in two of them counts for each with the part that lies there.
    """
    (rows, columns), (height, width) = grid, pixels.shape[1:]
    of_rows, of_columns = torch.from_numpy(_overlaps(height, rows)), torch.from_numpy(_overlaps(width, columns))
    # Lengths are those of overlaps in units of a cell's parts: whole numbers, so that sums are exact.
    covered = of_rows @ pixels.cpu().to(torch.float64) @ of_columns.T
    shares: npt.NDArray[np.float64] = as_array(covered.flatten(1)) / (height * width)
    return shares


def _overlaps(pixels: int, cells: int) -> npt.NDArray[np.float64]:
    """(cells, pixels): how much of each pixel lies in each cell, where a side is pixels * cells long."""
    cell_starts, pixel_starts = np.arange(cells)[:, None] * pixels, np.arange(pixels)[None, :] * cells
    ends = np.minimum(cell_starts + pixels, pixel_starts + cells)
    lengths: npt.NDArray[np.int64] = np.maximum(ends - np.maximum(cell_starts, pixel_starts), 0)
    return lengths.astype(np.float64)


def entropy_bits(maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Entropy in bits of distributions over the last axis: 0 for all on one patch, log2 of their number if uniform."""
    logarithms = np.log2(maps, out=np.zeros_like(maps), where=maps > 0)
    return np.asarray(np.abs((maps * logarithms).sum(axis=-1)))


def mean_rows(
    metric: str,
    values: npt.ArrayLike,
    dims: Sequence[Mapping[str, JSONScalar]] = ({},),
    **said: Any,
) -> list[Measurement]:
    """The mean over N images of each row of ``values`` (R, N), with ``dims`` (R,), as measurements of ``metric``.

    Intervals are percentile bootstraps over the images, from one set of resamples for all rows. ``said``: ``unit`` and
    what else a measurement says.
    """
    array = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if array.shape[1] < 2:
        # One image shows no spread.
        return [
            _measured(metric, float(row.mean()), None, None, dims=d, n=1, **said)
            for row, d in zip(array, dims, strict=True)
        ]
    low, high = np.quantile(resampled_means(array), _ENDS, axis=0)
    return [
        _measured(metric, float(row.mean()), (float(a), float(b)), "bootstrap95", dims=d, n=array.shape[1], **said)
        for row, a, b, d in zip(array, low, high, dims, strict=True)
    ]


def many_mean_rows(
    metric: str, values: npt.ArrayLike, dims: Sequence[Mapping[str, JSONScalar]], **said: Any
) -> list[Measurement]:
    """As :func:`mean_rows` for hundreds of rows: with Student's t intervals, and without any for a single image."""
    array = np.asarray(values, dtype=np.float64)
    rows = []
    for row, d in zip(array, dims, strict=True):
        interval = t_interval(row) if len(row) > 1 else None
        ends = None if interval is None else (interval.low, interval.high)
        rows.append(
            _measured(
                metric,
                float(row.mean()),
                ends,
                None if interval is None else interval.method,
                dims=d,
                n=len(row),
                **said,
            )
        )
    return rows


def ratio_rows(
    metric: str,
    above: npt.ArrayLike,
    below: npt.ArrayLike,
    dims: Sequence[Mapping[str, JSONScalar]] = ({},),
    **said: Any,
) -> list[Measurement]:
    """Mean of ``above`` over that of ``below``, both (R, N), row by row; none where a mean below can be zero.

    Intervals are percentile bootstraps of the ratio; both means are of the same resampled images.
    """
    tops, bottoms = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (above, below))
    means = resampled_means(np.concatenate([tops, bottoms]))
    rows = []
    for i, (top, bottom, d) in enumerate(zip(tops, bottoms, dims, strict=True)):
        of_top, of_bottom = means[:, i], means[:, len(tops) + i]
        if (of_bottom > 0).all():
            low, high = np.quantile(of_top / of_bottom, _ENDS)
            value, ends = float(top.mean() / bottom.mean()), (float(low), float(high))
            several = len(top) > 1
            named = (ends, "bootstrap95") if several else (None, None)
            rows.append(_measured(metric, value, *named, dims=d, n=len(top), unit="", **said))
    return rows


def object_rows(
    what: str, shares: npt.ArrayLike, areas: npt.ArrayLike, dims: Sequence[Mapping[str, JSONScalar]] = ({},)
) -> list[Measurement]:
    """``WHAT_on_object``, how much of the maps lies on objects; ``object_area``; ``WHAT_object_lift``, their ratio.

    ``shares`` and ``areas`` (R, N): of the map's mass and of the image, NaN for images without a mask or an object in
    it, which are left out; nothing where all are.
    """
    mass, area = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (shares, areas))
    known = ~np.isnan(mass).any(axis=0)
    if not known.any():
        return []
    mass, area = mass[:, known], area[:, known]
    return [
        *mean_rows(f"{what}_on_object", mass, dims, higher_is_better=None),
        *mean_rows("object_area", area[:1], higher_is_better=None),
        *ratio_rows(f"{what}_object_lift", mass, area, dims, higher_is_better=None),
    ]


def on_object(
    maps: npt.NDArray[np.float64], masks: Tensor | None, grid: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Share of each map (N, ..., cells) on its image's object (N, ...), and the object's area (N,); NaN where unknown.

    ``masks``: (N, H, W) bool. Unknown is what has no mask, or no object in it.
    """
    if masks is None:
        return np.full(maps.shape[:-1], math.nan), np.full(len(maps), math.nan)
    shares = cell_shares(masks, grid)
    areas = shares.mean(axis=1)
    areas[areas == 0] = math.nan
    shares[np.isnan(areas)] = math.nan
    mass = np.einsum("n...c,nc->n...", maps, shares)
    return np.minimum(mass, 1.0), areas


def _measured(
    metric: str, value: float, ends: tuple[float, float] | None, method: str | None, **said: Any
) -> Measurement:
    """An interval holds its mean but for rounding, which equal values of all images would show."""
    low, high = (None, None) if ends is None else (min(ends[0], value), max(ends[1], value))
    return Measurement(metric=metric, value=value, low=low, high=high, interval=method, **said)
