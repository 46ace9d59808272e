"""Attention distance as the ViT paper shows it: a dot for every head over the depth of the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from harness.exhibits import Exhibit, Finding, Table
from harness_inspect.attention_pictures import line_of_blocks, measured, note, number_blocks
from harness_inspect.figures import COLOURS, GREY, TICK_PT, frame, in_lines, new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.types import JSONScalar

_PANELS = 6
"""To a picture, three in a row."""
_SPREAD = 0.5
"""Of a block's place, over which the dots of its heads are spread so that equal ones are seen."""


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """A panel of heads for every model and condition, six to a picture, and for several all blocks' means in one."""
    starts = range(0, len(findings), _PANELS)
    pages = [_heads(findings[start : start + _PANELS], findings) for start in starts]
    pictures = {"" if number == 1 else f"page{number}": page for number, page in enumerate(pages, start=1)}
    if len(findings) > 1:
        pictures["blocks"] = _blocks(findings)
    return Exhibit(
        pictures=pictures,
        tables={
            "": _table(findings, "attention_distance", ()),
            "heads": _table(findings, "attention_distance_of_head", ("block", "head")),
            "blocks": _table(findings, "attention_distance_of_block", ("block",)),
            "uniform": _table(findings, "uniform_attention_distance", ("block",)),
        },
    )


def _blocks_and_values(finding: Finding, metric: str) -> tuple[list[int], list[float]]:
    rows = measured(finding, metric)
    return [int(str(row.dims["block"])) for row in rows], [row.value for row in rows]


def _highest(finding: Finding, findings: Sequence[Finding]) -> float:
    """The upper end of a panel's axis, common to all whose images are about as large, so that eyes can compare them."""
    size = _uniform_px(finding)
    like = [other for other in findings if abs(_uniform_px(other) - size) <= 0.05 * size]
    heads = [row.value for other in like for row in measured(other, "attention_distance_of_head")]
    return 1.05 * max(*heads, size)


def _uniform_px(finding: Finding) -> float:
    return max(row.value for row in measured(finding, "uniform_attention_distance"))


def _heads(findings: Sequence[Finding], everything: Sequence[Finding]) -> Figure:
    across = min(3, len(findings))
    down = math.ceil(len(findings) / across)
    width = {1: 6.4, 2: 4.6, 3: 3.7}[across]
    figure = new_figure(across * width, down * 3.1 + 0.75, title="attention distance of every head")
    places = figure.subplots(down, across, squeeze=False)
    for axes in places.ravel()[len(findings) :]:
        axes.set_visible(False)
    for i, finding in enumerate(findings):
        axes = places.ravel()[i]
        _heads_of(axes, finding)
        axes.set_ylim(0, _highest(finding, everything))
        y_label = "mean attention distance (px)" if i % across == 0 else ""
        title = in_lines(finding.label, round(11 * width))
        frame(axes, title=title, x_label="block (network depth)", y_label=y_label)
    note(figure, "a dot: one head, mean over images; line: mean over the heads of a block; dashed: uniform attention")
    return figure


def _heads_of(axes: Axes, finding: Finding) -> None:
    rows = measured(finding, "attention_distance_of_head")
    blocks = np.array([int(str(row.dims["block"])) for row in rows])
    heads = np.array([int(str(row.dims["head"])) for row in rows])
    most = max(1, int(heads.max()))
    size = 26 if len(set(blocks.tolist())) <= 12 else 14
    axes.scatter(
        blocks + _SPREAD * (heads / most - 0.5) * (heads.max() > 0),
        [row.value for row in rows],
        s=size,
        color=COLOURS[0],
        alpha=0.75,
        linewidths=0,
        zorder=3,
    )
    axes.plot(*_blocks_and_values(finding, "attention_distance_of_block"), color=COLOURS[1], linewidth=1.2, zorder=2)
    _uniform(axes, finding)
    number_blocks(axes, blocks.tolist())


def _uniform(axes: Axes, finding: Finding) -> None:
    blocks, values = _blocks_and_values(finding, "uniform_attention_distance")
    if len(set(values)) == 1:
        axes.axhline(values[0], color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    else:
        axes.step(blocks, values, where="mid", color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)


def _blocks(findings: Sequence[Finding]) -> Figure:
    longest = max(len(finding.label) for finding in findings)
    figure = new_figure(
        5.6 + 0.075 * longest, 3.8 + 0.18 * max(0, len(findings) - 16), title="attention distance, mean over heads"
    )
    axes = figure.subplots()
    frame(axes, x_label="block (network depth)", y_label="mean attention distance (px)")
    for i, finding in enumerate(findings):
        line_of_blocks(axes, measured(finding, "attention_distance_of_block"), style=i, label=finding.label)
    axes.set_ylim(bottom=0)
    number_blocks(axes, [block for f in findings for block in _blocks_and_values(f, "attention_distance_of_block")[0]])
    figure.legend(loc="outside right upper", fontsize=TICK_PT, frameon=False)
    note(figure, "bands: 95 % intervals over images")
    return figure


def _table(findings: Sequence[Finding], metric: str, dims: Sequence[str]) -> Table:
    rows: list[list[JSONScalar]] = [
        [finding.model, finding.condition, *(row.dims[dim] for dim in dims), row.value, row.low, row.high, row.n]
        for finding in findings
        for row in measured(finding, metric)
    ]
    return Table(header=("model", "condition", *dims, "distance_px", "low_px", "high_px", "images"), rows=rows)
