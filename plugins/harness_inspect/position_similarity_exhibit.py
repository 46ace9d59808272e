"""Position embeddings as the ViT paper shows them: a map of similarities for every position, laid out as the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.exhibits import Exhibit, Finding, Table
from harness_inspect.figures import (
    COLOURS,
    GREY,
    LABEL_PT,
    MARKERS,
    NOTE_PT,
    SIGNED_COLOURS,
    TICK_PT,
    frame,
    new_figure,
    plain,
)
from harness_inspect.position_similarity_probe import GRID, SIMILARITY, distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.types import JSONScalar

_METRICS = (
    "position_locality", "neighbour_similarity", "pair_similarity", "row_structure", "column_structure",
    "embedding_norm", "norm_variation",
)  # fmt: skip
_LARGEST_IN = 11.0
_GAP = "#404040"
"""Between maps: a colour that no similarity has."""


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """For one model its maps; for several the similarity over distance of all, and the maps of each on a picture."""
    if len(findings) == 1:
        pictures = {"": _maps(findings[0]), "distance": _over_distance(findings)}
    else:
        pictures = {"": _over_distance(findings), **{finding.label: _maps(finding) for finding in findings}}
    return Exhibit(pictures=pictures, tables={"": _numbers(findings), "distance": _by_distance(findings)})


def mosaic(similarity: npt.NDArray[Any], grid: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Similarities (G, G) as one map, NaN between the maps of two positions.

    The map of the position at (row, column) of the grid lies at that place, and is itself laid out as the grid.
    """
    rows, columns = grid
    padded = np.full((rows, columns, rows + 1, columns + 1), np.nan)
    padded[:, :, :rows, :columns] = similarity.reshape(rows, columns, rows, columns)
    whole = padded.transpose(0, 2, 1, 3).reshape(rows * (rows + 1), columns * (columns + 1))
    return whole[:-1, :-1]


def by_distance(
    similarity: npt.NDArray[Any], grid: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Distances between two positions in whole patches, from 1 on, and the mean similarity over the pairs of each.

    Both (K,). Distances are rounded to the nearest whole number: 1 holds the eight positions around one.
    """
    pairs = ~np.eye(len(similarity), dtype=bool)
    between = distances(grid)[pairs].round().astype(np.int64)
    sums, counts = np.bincount(between, similarity[pairs].astype(np.float64)), np.bincount(between)
    there = np.flatnonzero(counts)
    return there, sums[there] / counts[there]


def _grid(finding: Finding) -> tuple[int, int]:
    rows, columns = finding.arrays[GRID].tolist()
    return rows, columns


def _maps(finding: Finding) -> Figure:
    similarity, (rows, columns) = finding.arrays[SIMILARITY], _grid(finding)
    # At least two dots of the picture for every value, as long as it stays of a size that can be looked at.
    side = min(_LARGEST_IN, max(5.6, columns * (columns + 1) / 75))
    locality = finding.record.get("position_locality").value
    figure = new_figure(side + 0.9, side * rows / columns + 0.4, title=f"similarity of positions: {finding.label}")
    axes = figure.subplots()
    # A position is as similar as can be to itself: the ends are those of the others, or no structure could be seen.
    end = max(float(np.abs(similarity[~np.eye(len(similarity), dtype=bool)]).max()), 0.01)
    axes.set_facecolor(_GAP)
    shown = axes.imshow(
        mosaic(similarity, (rows, columns)), cmap=SIGNED_COLOURS, vmin=-end, vmax=end, interpolation="nearest"
    )
    _number(axes, rows, columns)
    axes.set_title(
        plain(f"each map: similarity of one position to all {rows * columns}; locality {locality:.2f}"),
        fontsize=LABEL_PT,
        loc="left",
    )
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, pad=0.02, extend="max" if end < 1 else "neither")
    bar.set_label("cosine similarity", fontsize=LABEL_PT)
    bar.ax.tick_params(labelsize=TICK_PT)
    return figure


def _number(axes: Axes, rows: int, columns: int) -> None:
    """Which row and column of the input patches a map belongs to, counted from 1."""
    every = max(1, rows // 14)
    for axis, count, text in (
        (axes.xaxis, columns, "input patch column"),
        (axes.yaxis, rows, "input patch row"),
    ):
        numbers = range(0, count, every)
        axis.set_ticks([number * (count + 1) + (count - 1) / 2 for number in numbers], [str(n + 1) for n in numbers])
        axis.set_label_text(text, fontsize=LABEL_PT)
    axes.tick_params(labelsize=TICK_PT, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _over_distance(findings: Sequence[Finding]) -> Figure:
    longest_name = max(len(finding.label) for finding in findings)
    figure = new_figure(
        5.2 + 0.075 * longest_name,
        3.8 + 0.18 * max(0, len(findings) - 16),
        title="similarity of position embeddings over distance",
    )
    axes = figure.subplots()
    frame(axes, x_label="distance (patches)", y_label="mean cosine similarity")
    axes.axhline(0, color=GREY, linewidth=0.8)
    for i, finding in enumerate(findings):
        x, y = by_distance(finding.arrays[SIMILARITY], _grid(finding))
        axes.plot(
            x,
            y,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=3.5,
            linewidth=1.2,
            label=plain(finding.label),
        )
    figure.legend(loc="outside right upper", fontsize=TICK_PT, frameon=False)
    figure.supxlabel(
        "mean over all pairs of positions whose distance is nearest to that many patches",
        fontsize=NOTE_PT,
        x=0.01,
        ha="left",
    )
    return figure


def _numbers(findings: Sequence[Finding]) -> Table:
    rows: list[list[JSONScalar]] = []
    for finding in findings:
        values = [finding.record.get(metric).value for metric in _METRICS]
        rows.append([finding.label, *_grid(finding), *values])
    return Table(header=("model", "rows", "columns", *_METRICS), rows=rows)


def _by_distance(findings: Sequence[Finding]) -> Table:
    rows: list[list[JSONScalar]] = []
    for finding in findings:
        pairs = by_distance(finding.arrays[SIMILARITY], _grid(finding))
        rows += [[finding.label, int(x), float(y)] for x, y in zip(*pairs, strict=True)]
    return Table(header=("model", "distance_patches", "mean_similarity"), rows=rows)
