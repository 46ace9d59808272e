"""Attention as a segmentation, beside chance: numbers by rule, and images with their objects, masks and maps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.exhibits import Exhibit, Finding, Table
from harness_inspect.attention_segmentation_probe import (
    BASELINES,
    CENTRE,
    JACCARD,
    MINUS_CENTRE,
    MINUS_CHANCE,
    SCATTERED,
    SMOOTH,
)
from harness_inspect.figures import (
    COLOURS,
    GREY,
    NOTE_PT,
    TICK_PT,
    bare,
    frame,
    in_lines,
    new_figure,
    plain,
    show_image,
    show_overlay,
)
from harness_inspect.inspection import SHOWN
from harness_inspect.object_regions import BACKGROUND, VOID
from harness_inspect.segmentation_rules import AVERAGED, FIXED, MEAN_OF_HEADS, ORACLE, RULES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.types import JSONScalar, Measurement

_WORDS = {
    ORACLE: "oracle: best head of each image and class",
    MEAN_OF_HEADS: "mean over the heads",
    FIXED: "fixed: one head for all images",
    AVERAGED: "attention averaged over heads",
}
_SERIES = (
    (JACCARD, "attention, with 95 % interval", "o", COLOURS[0]),
    (SMOOTH, "the same masks, shifted", "|", COLOURS[1]),
    (SCATTERED, "as many cells, strewn", "x", GREY),
    (CENTRE, "as many cells, at the centre", "D", COLOURS[2]),
)
_DIFFERENCES = (
    (MINUS_CHANCE, "less the same masks, shifted", "o", COLOURS[1]),
    (MINUS_CENTRE, "less as many cells at the centre", "D", COLOURS[2]),
)
_ROWS_PER_PICTURE = 40
_ACROSS, _STRIPS = 6, 2
"""Images beside each other in a strip, and strips on a page."""
_CELL_IN = 1.62


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """Numbers of all findings, 40 to a picture, and of each finding the images that it keeps, 12 to a picture."""
    pictures: dict[str, Figure] = {}
    for start in range(0, len(findings), _ROWS_PER_PICTURE):
        part = findings[start : start + _ROWS_PER_PICTURE]
        page = f"page{start // _ROWS_PER_PICTURE + 1}" if start else ""
        pictures[page] = _chart(part, _SERIES, title="attention as a segmentation", x_label="Jaccard index")
        pictures[f"differences{page}"] = _chart(
            part, _DIFFERENCES, title="attention as a segmentation, less chance", x_label="difference of Jaccard index"
        )
    for finding in findings:
        shown = len(finding.arrays.get(f"{SHOWN}images", ()))
        for start in range(0, shown, _ACROSS * _STRIPS):
            rows = range(start, min(start + _ACROSS * _STRIPS, shown))
            pictures[_unused(pictures, f"examples {finding.label}")] = _examples(finding, rows)
    return Exhibit(pictures=pictures, tables={"": _table(findings), "heads": _heads(findings)})


def _unused(pictures: Mapping[str, Figure], name: str) -> str:
    if name not in pictures:
        return name
    number = next(n for n in range(2, len(pictures) + 2) if f"{name} {n}" not in pictures)
    return f"{name} {number}"


def _row(finding: Finding, metric: str, **dims: JSONScalar) -> Measurement | None:
    return next((m for m in finding.record.measurements if m.metric == metric and dict(m.dims) == dims), None)


# --- numbers -----------------------------------------------------------------------------------------------------


def _chart(
    findings: Sequence[Finding], series: Sequence[tuple[str, str, str, str]], *, title: str, x_label: str
) -> Figure:
    """A panel for each rule and a line in it for each finding; ``series``: metric, words, marker, colour."""
    rules = [rule for rule in RULES if any(_row(f, JACCARD, rule=rule) for f in findings)]
    names = [in_lines(finding.label, 40) for finding in findings]
    longest = max(len(line) for name in names for line in name.split("\n"))
    lines = sum(name.count("\n") + 1 for name in names)
    width, height = 1.0 + 0.065 * longest + 2.35 * len(rules), 1.55 + 0.15 * (lines + len(findings))
    figure = new_figure(width, height, title=title)
    panels = figure.subplots(1, len(rules), squeeze=False, sharey=True, sharex=True).ravel()
    for axes, rule in zip(panels, rules, strict=True):
        frame(axes, title=in_lines(_WORDS[rule], 34), x_label=x_label)
        if series is _DIFFERENCES:
            axes.axvline(0, color=GREY, linewidth=0.9)
        for place, (metric, words, marker, colour) in enumerate(series):
            for i, finding in enumerate(findings):
                _mark(
                    axes,
                    _row(finding, metric, rule=rule),
                    i + _aside(series, place),
                    marker,
                    colour,
                    words if not i else None,
                )
    ends = [m for f in findings for metric, *_ in series for rule in rules if (m := _row(f, metric, rule=rule))]
    low = min(0.0, *(m.value if m.low is None else m.low for m in ends))
    high = max(0.0, *(m.value if m.high is None else m.high for m in ends))
    margin = 0.04 * max(high - low, 1e-6)
    panels[0].set_xlim(low - margin if low < 0 else 0, high + margin)
    panels[0].set_yticks(range(len(findings)), [plain(name) for name in names], fontsize=TICK_PT)
    panels[0].set_ylim(len(findings) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=len(series), fontsize=TICK_PT, frameon=False)
    return figure


def _aside(series: Sequence[tuple[str, str, str, str]], place: int) -> float:
    """Differences have intervals each, and lie above each other; baselines share the line of what they judge."""
    return 0.0 if series is _SERIES else 0.24 * (place - 0.5)


def _mark(axes: Axes, row: Measurement | None, height: float, marker: str, colour: str, label: str | None) -> None:
    if row is None:
        return
    if row.metric not in BASELINES and row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [height, height], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=3)
    hollow = row.metric == CENTRE  # so that what lies below is seen
    axes.plot(
        [row.value],
        [height],
        marker=marker,
        markersize={"|": 11.0, "D": 4.5}.get(marker, 5.0),
        markeredgewidth=1.6 if marker in "|x" else 1.0,
        markerfacecolor="none" if hollow else colour,
        color=colour,
        linestyle="none",
        label=label,
        zorder=5 if hollow else 4,
    )


def _table(findings: Sequence[Finding]) -> Table:
    metrics = (JACCARD, *BASELINES, MINUS_CHANCE, MINUS_CENTRE, "area", "mass_on_object")
    header = ["model", "condition", "rule"]
    header += [name for metric in metrics for name in (metric, f"{metric}_low", f"{metric}_high")]
    rows: list[list[JSONScalar]] = []
    for finding in findings:
        for rule in RULES:
            found = [_row(finding, metric, rule=rule) for metric in metrics]
            if found[0] is None:
                continue
            numbers: list[JSONScalar] = []
            for row in found:
                numbers += [None, None, None] if row is None else [row.value, row.low, row.high]
            area, without = _row(finding, "object_area"), _row(finding, "images_without_object")
            rows.append(
                [
                    finding.model,
                    finding.condition,
                    rule,
                    *numbers,
                    None if area is None else area.value,
                    found[0].n,
                    None if without is None else int(without.value),
                ]
            )
    return Table(header=(*header, "object_area", "images", "images_without_object"), rows=rows)


def _heads(findings: Sequence[Finding]) -> Table:
    rows: list[list[JSONScalar]] = [
        [finding.model, finding.condition, row.dims["head"], row.value, row.low, row.high, row.n]
        for finding in findings
        for row in finding.record.measurements
        if row.metric == "jaccard_of_head"
    ]
    return Table(header=("model", "condition", "head", JACCARD, "low", "high", "images"), rows=rows)


# --- images ------------------------------------------------------------------------------------------------------


def _examples(finding: Finding, rows: range) -> Figure:
    """Strips of three rows: the object, the mask of the image's best head, and the averaged attention."""
    across = min(_ACROSS, len(rows))
    strips = math.ceil(len(rows) / across)
    figure = new_figure(
        1.15 + across * _CELL_IN,
        0.75 + strips * (3 * _CELL_IN + 0.75),
        title=in_lines(f"attention as a segmentation: {finding.label}", 30 + 22 * (across - 1)),
    )
    places = figure.subplots(3 * strips, across, squeeze=False)
    for axes in places.ravel():
        bare(axes)
    for place, row in enumerate(rows):
        strip, column = divmod(place, across)
        _example([places[3 * strip + i, column] for i in range(3)], finding.arrays, row)
    for line, words in enumerate(("object", "mask of the\nbest head", "averaged\nattention") * strips):
        places[line, 0].set_ylabel(words, fontsize=TICK_PT, rotation=0, ha="right", va="center", labelpad=4)
    words = "above each mask what it scores, and the oracle where that differs; above each map what its own mask scores"
    figure.supxlabel(in_lines(words, 38 + 26 * (across - 1)), fontsize=NOTE_PT, x=0.01, ha="left")
    return figure


def _example(column: Sequence[Axes], arrays: Mapping[str, npt.NDArray[Any]], row: int) -> None:
    pixels, regions = arrays[f"{SHOWN}images"][row], arrays[f"{SHOWN}regions"][row]
    head = int(arrays[f"{SHOWN}best_head"][row])
    of_head, oracle, averaged = (float(score) for score in arrays[f"{SHOWN}scores"][row])
    show_image(column[0], pixels)
    show_image(column[1], pixels if head < 0 else _lit(pixels, arrays[f"{SHOWN}best_set"][row]))
    show_overlay(column[2], pixels, arrays[f"{SHOWN}averaged"][row])
    for axes in column:
        _outline(axes, regions)
    if head < 0:
        column[1].set_title("no object", fontsize=TICK_PT)
        return
    of_head_text, oracle_text = f"{of_head:.2f}", f"{oracle:.2f}"
    several = "" if oracle_text == of_head_text else f", oracle {oracle_text}"
    column[1].set_title(f"head {head}: {of_head_text}{several}", fontsize=TICK_PT)
    column[2].set_title(f"{averaged:.2f}", fontsize=TICK_PT)


def _lit(pixels: npt.NDArray[np.uint8], cells: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The image (3, H, W) with what lies outside the set of ``cells`` (rows, columns) dark and without colour."""
    height, width = pixels.shape[1:]
    down, across = (np.arange(n) * of // n for n, of in zip((height, width), cells.shape, strict=True))
    dark = np.broadcast_to(0.3 * pixels.mean(axis=0), pixels.shape)
    return np.where(cells[down[:, None], across], pixels, dark).astype(np.uint8)


def _outline(axes: Axes, regions: npt.NDArray[np.uint8]) -> None:
    """A line around the region of every class."""
    for number in np.unique(regions):
        inside = regions == number
        if number in (BACKGROUND, VOID) or inside.all():
            continue
        for colour, width in (("black", 2.2), ("#F5E642", 1.1)):
            axes.contour(inside, levels=[0.5], colors=[colour], linewidths=[width])
