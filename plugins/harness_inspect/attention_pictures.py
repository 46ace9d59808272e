"""Pictures that inspections of attention share: images with maps over them, and intervals of numbers side by side."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.exhibits import Table
from harness_inspect.figures import (
    COLOURS,
    GREY,
    MARKERS,
    NOTE_PT,
    TICK_PT,
    bare,
    frame,
    in_lines,
    new_figure,
    plain,
    show_image,
    show_map,
    show_overlay,
)
from harness_inspect.inspection import MEAN, SHOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.exhibits import Finding
    from harness.types import JSONScalar, Measurement

    Said: TypeAlias = Callable[[Finding, int], tuple[str, str]]

_ROWS = 8
"""Rows of images or maps on a page."""
_ACROSS = 8
"""Images in a row."""
_CELL_IN, _LABEL_IN = 1.22, 1.5


def by_model(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """The findings of each model, in their order."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.model, []).append(finding)
    return groups


def example_pages(
    findings: Sequence[Finding], *, image: str, shown: str, mean: str, title: str, said: Said | None = None
) -> dict[str, Figure]:
    """Images that are kept as ``image``, and below them their maps ``shown``; the last column is ``mean`` over all.

    Models that were asked once each share pages; otherwise each model has its own, with its conditions below each
    other. Images that stand above already are not drawn again. Pages are named by their model where there are several.
    ``said``: what stands above the image of a number and above its map.
    """
    findings = [finding for finding in findings if len(finding.arrays.get(f"{SHOWN}{image}", ()))]
    groups = by_model(findings)
    together = all(len(group) == 1 for group in groups.values())
    stacks = [("", findings)] if together else list(groups.items())
    pages: dict[str, Figure] = {}
    for name, members in stacks:
        for number, rows in enumerate(_pages_of_rows(members, image), start=1):
            of_page = " ".join([*([name] if len(stacks) > 1 else []), *([f"page{number}"] if number > 1 else [])])
            heading = f"{title}: {name}" if name else title
            pages[of_page] = _example_page(rows, (image, shown, mean), heading, said, by_condition=not together)
    return pages


def chief_first(*groups: Mapping[str, Figure]) -> dict[str, Figure]:
    """All pictures in order, the first of them without a name, as the chief one of an exhibit."""
    pictures = [(name, figure) for group in groups for name, figure in group.items()]
    return {name if i else "": figure for i, (name, figure) in enumerate(pictures)}


def _pages_of_rows(findings: Sequence[Finding], image: str) -> list[list[tuple[str, Finding]]]:
    """Rows of pages: ``image`` where a page does not show the images yet, and ``map`` below them."""
    pages: list[list[tuple[str, Finding]]] = []
    last: Any = None
    for finding in findings:
        pixels = finding.arrays[f"{SHOWN}{image}"]
        same = last is not None and pixels.shape == last.shape and np.array_equal(pixels, last)
        needed = 1 if same else 2
        if not pages or len(pages[-1]) + needed > _ROWS:
            pages.append([])
            same = False
        pages[-1] += [("map", finding)] if same else [("image", finding), ("map", finding)]
        last = pixels
    return pages


def _example_page(
    rows: Sequence[tuple[str, Finding]],
    names: tuple[str, str, str],
    title: str,
    said: Said | None,
    *,
    by_condition: bool,
) -> Figure:
    image, shown, mean = names
    across = min(_ACROSS, max(len(finding.arrays[f"{SHOWN}{image}"]) for _, finding in rows))
    figure = new_figure(
        _LABEL_IN + (across + 1) * _CELL_IN,
        len(rows) * (_CELL_IN + (0.06 if said is None else 0.32)) + 0.85,
        title=title,
    )
    places = figure.subplots(len(rows), across + 1, squeeze=False)
    for line, (kind, finding) in zip(places, rows, strict=True):
        for axes in line:
            bare(axes)
        pixels, maps = finding.arrays[f"{SHOWN}{image}"], finding.arrays[f"{SHOWN}{shown}"]
        for i, (axes, picture, weights) in enumerate(zip(line, pixels, maps, strict=False)):
            if kind == "image":
                show_image(axes, picture)
            else:
                show_overlay(axes, picture, weights)
            if said is not None:
                column_title(axes, said(finding, i)[kind != "image"])
        if kind == "map":
            show_map(line[-1], finding.arrays[f"{MEAN}{mean}"], vmin=0)
            label_row(line[0], finding.condition if by_condition else finding.label)
        elif by_condition or len({id(f) for _, f in rows}) == 1:
            label_row(line[0], "image")
    places[0, -1].set_title("mean over all", fontsize=TICK_PT)
    note(figure, "each map from 0 to its own largest value, dark to light")
    return figure


def label_row(axes: Axes, text: str) -> None:
    """``text`` at the left of a row of pictures, in lines that fit there."""
    axes.set_ylabel(plain(in_lines(text, 20)), fontsize=TICK_PT, rotation=0, ha="right", va="center", labelpad=6)


def interval_chart(findings: Sequence[Finding], panels: Mapping[str, tuple[str, ...]], *, title: str) -> Figure | None:
    """A dot with its interval for every finding, in panels of one metric each; None where none was measured.

    ``panels``: label to a metric, and others that are drawn in grey behind it, for comparison. Rows of one metric
    whose dims differ are dots of their own.
    """
    there = {label: metrics for label, metrics in panels.items() if any(measured(f, metrics[0]) for f in findings)}
    if not there:
        return None
    chief = [metrics[0] for metrics in there.values()]
    lines = [(finding, told) for finding in findings for told in _told(finding, chief)]
    figure = new_figure(2.8 + 2.6 * len(there), 1.3 + 0.28 * len(lines), title=title)
    drawn = figure.subplots(1, len(there), squeeze=False, sharey=True).ravel()
    for axes, (label, metrics) in zip(drawn, there.items(), strict=True):
        frame(axes, x_label=label)
        for height, (finding, told) in enumerate(lines):
            for metric in reversed(metrics):
                for row in measured(finding, metric):
                    if not row.dims or _dims_text(row) == told:
                        _dot(axes, row, height, COLOURS[0] if metric == metrics[0] else GREY)
        axes.margins(x=0.12)
    names = [f"{finding.label}{f' ({told})' if told else ''}" for finding, told in lines]
    drawn[0].set_yticks(range(len(names)), [plain(in_lines(name, 44)) for name in names], fontsize=TICK_PT)
    drawn[0].set_ylim(len(names) - 0.4, -0.6)
    note(figure, "means over images with 95 % intervals")
    return figure


def measured(finding: Finding, metric: str) -> list[Measurement]:
    """The rows of a metric."""
    return [row for row in finding.record.measurements if row.metric == metric]


def _dims_text(row: Measurement) -> str:
    return ", ".join(str(value) for value in row.dims.values())


def _told(finding: Finding, metrics: Sequence[str]) -> list[str]:
    """What tells a finding's rows of ``metrics`` apart, in order of first use."""
    found = {_dims_text(row): None for metric in metrics for row in measured(finding, metric)}
    return list(found)


def _dot(axes: Axes, row: Measurement, height: int, colour: str) -> None:
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [height, height], color=colour, linewidth=1.4, solid_capstyle="butt")
    axes.plot([row.value], [height], marker="o", markersize=4.5, color=colour, linestyle="none")


def metric_table(findings: Sequence[Finding], metrics: Sequence[str]) -> Table:
    """Every row of ``metrics``, with its dims in words."""
    rows: list[list[JSONScalar]] = [
        [
            finding.model,
            finding.condition,
            metric,
            " ".join(f"{name}={value}" for name, value in row.dims.items()),
            row.value,
            row.low,
            row.high,
            row.unit,
            row.n,
        ]
        for finding in findings
        for metric in metrics
        for row in measured(finding, metric)
    ]
    return Table(
        header=("model", "condition", "metric", "of", "value", "low", "high", "unit", "images"),
        rows=rows,
    )


def line_of_blocks(axes: Axes, rows: Sequence[Measurement], *, style: int, label: str | None = None) -> None:
    """A line over the blocks that ``rows`` are of, with their intervals as a band; the number ``style`` tells lines."""
    blocks = [int(str(row.dims["block"])) for row in rows]
    colour, marker = COLOURS[style % len(COLOURS)], MARKERS[style % len(MARKERS)]
    axes.plot(
        blocks,
        [row.value for row in rows],
        color=colour,
        marker=marker,
        markersize=3.5,
        linewidth=1.2,
        label=None if label is None else plain(label),
    )
    low = [row.value if row.low is None else row.low for row in rows]
    high = [row.value if row.high is None else row.high for row in rows]
    axes.fill_between(blocks, low, high, color=colour, alpha=0.15, linewidth=0)


def number_blocks(axes: Axes, blocks: Sequence[int]) -> None:
    """Whole numbers below an axis of blocks, a dozen at most, from the first to the last."""
    first, last = min(blocks), max(blocks)
    step = max(1, math.ceil((last - first + 1) / 12))
    axes.set_xticks(range(first, last + 1, step))
    axes.set_xlim(first - 0.6, last + 0.6)


def note(figure: Figure, text: str) -> None:
    """Small print at the foot of a figure, in lines as wide as it is."""
    lines = textwrap.wrap(text, round(15 * figure.get_figwidth()))
    figure.supxlabel(plain("\n".join(lines)), fontsize=NOTE_PT, x=0.01, ha="left")


def column_title(axes: Axes, text: str, *, characters: int = 18) -> None:
    """A small title in lines that fit above a picture."""
    axes.set_title(plain(in_lines(text, characters)), fontsize=TICK_PT)
