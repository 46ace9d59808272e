"""The picture of a run: curves of the headline metric over what was taken away, with their intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RecordsError, UsageError
from harness.report.page import (
    LABEL_PT,
    LINE_SPACING,
    MARGIN,
    NOTE_PT,
    TICK_PT,
    TITLE_PT,
    arrange,
    line_height,
    row_labels,
    title_lines,
)
from harness.report.panels import Panel, Picture, Point, picture_of
from harness.run_folder import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

    from harness.types import LevelSpec, ResultRecord

ENDINGS = (".png", ".svg", ".pdf")
"""What a picture's file may end in; the ending is the format."""

# Okabe and Ito's palette for all kinds of colour vision, without the yellow that white paper swallows.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# As many as are coprime to the colours: 77 models differ in one or the other.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (4, 2)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 3)),
    (0, (3, 1, 1, 1, 1, 1)),
)

_DPI = 150
_GREY = "#6b6b6b"
_GRID = "#e3e3e3"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    colour: str
    marker: str
    dash: Any


def check_picture(path: Path, *, made: Path | None = None) -> None:
    """Raise :class:`~harness.errors.UsageError` unless a picture can be written to ``path``.

    It must end in one of :data:`ENDINGS` and lie in a folder that exists and may be written to, or in ``made``, a
    folder that will be there by then. A picture that is there already will be replaced.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"a picture must end in .png, .svg or .pdf, not {path.name!r}", hint="such as curves.png")
    if path.is_dir():
        raise UsageError(f"the picture {path} is a folder", hint="name a file in it")
    folder = path.parent
    if made is not None and not folder.exists() and folder.resolve() == made.resolve():
        return
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder} for the picture {path.name}", hint="make it, or name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"no picture can be written into {folder}", hint="name a folder that may be written to")


def save_curves(
    records: Sequence[ResultRecord],
    headlines: Mapping[str, str],
    path: str | os.PathLike[str],
    levels: Mapping[str, LevelSpec] | None = None,
) -> None:
    """Write :func:`draw_curves` to ``path`` in one step, in the format that its ending names.

    Raises :class:`~harness.errors.UsageError` for another ending, a folder that is not there or not writable, and what
    :func:`draw_curves` raises.
    """
    path = Path(path)
    check_picture(path)
    figure = draw_curves(records, headlines, levels)
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix.lower().removeprefix("."))
    except RecordsError as error:
        raise UsageError(error.message, hint="name a file that may be written to") from error


def draw_curves(
    records: Sequence[ResultRecord],
    headlines: Mapping[str, str],
    levels: Mapping[str, LevelSpec] | None = None,
    *,
    among: Sequence[ResultRecord] = (),
    loss_end: float | None = None,
) -> Figure:
    """What ``records`` say, as one figure.

    A panel per dataset, probe, row of its headline metric (such as shots = 5) and perturbation. Over it runs the
    realised information loss in percent where every record has it, else the level; the metric stands on the y axis,
    accuracies in percent from 0 to 100, with chance level as a dotted line. A line per model and support perturbation,
    in one style on all panels, intervals as a band (as bars where lines are many); untrained models are marked in the
    legend. Numbers without a level are dots with bars, a row per model. ``headlines`` gives the metric by probe name,
    ``levels`` the strength axis by perturbation name. Which numbers are drawn, what is averaged, and what ``among`` is,
    is said at :func:`~harness.report.panels.picture_of`. ``loss_end`` is where axes over losses end, in percent: by
    default at the highest that is drawn.

    matplotlib's global state is neither used nor changed. Raises :class:`~harness.errors.UsageError` if there is
    nothing to draw, or more than fits on a page.
    """
    picture = picture_of(records, headlines, levels, among=among)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    styles = _styles(picture)
    page = arrange(
        picture.panels,
        picture.notes,
        measure=lambda text, size_pt: _text_width(figure, text, size_pt),
        legend=lambda width: _add_legend(figure, picture, styles, width),
    )
    figure.set_size_inches(page.width, page.height)
    for legend in figure.legends:
        legend.set_bbox_to_anchor((MARGIN / page.width, 1 - MARGIN / page.height), transform=figure.transFigure)
    if loss_end is None:
        loss_end = _loss_end(picture.panels)
    for panel, box in zip(picture.panels, page.axes, strict=True):
        axes = figure.add_axes(
            (box.left / page.width, box.bottom / page.height, box.width / page.width, box.height / page.height)
        )
        if panel.x_label:
            _draw_lines(axes, panel, styles, loss_end)
        else:
            _draw_rows(axes, panel, styles)
        _frame(axes, panel, title_lines(panel, box.width))
    figure.text(
        MARGIN / page.width,
        MARGIN / page.height,
        _plain("\n".join(page.notes)),
        fontsize=NOTE_PT,
        color=_GREY,
        va="bottom",
        linespacing=LINE_SPACING,
    )
    return figure


# --- styles and words ------------------------------------------------------------------------------------------


def _styles(picture: Picture) -> dict[tuple[str, str], _Style]:
    """Colour and marker by model, dashes by support, in the order of their appearance."""
    lines = [line for panel in picture.panels for line in panel.lines]
    models = list(dict.fromkeys(line.model for line in lines))
    supports = sorted(dict.fromkeys(line.support for line in lines), key=bool)  # solid lines for clean supports
    return {
        (line.model, line.support): _Style(
            colour=_COLOURS[models.index(line.model) % len(_COLOURS)],
            marker=_MARKERS[models.index(line.model) % len(_MARKERS)],
            dash=_DASHES[supports.index(line.support) % len(_DASHES)],
        )
        for line in lines
    }


def _dress(line: Line2D, style: _Style) -> Line2D:
    line.set(color=style.colour, marker=style.marker, linestyle=style.dash, linewidth=1.6, markersize=5)
    return line


def _plain(text: str) -> str:
    """``text`` for matplotlib, which would otherwise read what stands between dollars as a formula."""
    return text.replace("$", r"\$")


def _text_width(figure: Figure, text: str, size_pt: float) -> float:
    """Inches of the longest line of ``text``."""
    drawn = figure.text(0, 0, _plain(text), fontsize=size_pt)
    width = float(drawn.get_window_extent().width) / _DPI
    drawn.remove()
    return width


def _add_legend(
    figure: Figure, picture: Picture, styles: Mapping[tuple[str, str], _Style], width: float
) -> tuple[float, float]:
    """Put every line into a legend of at most ``width`` inches if that can be; its width and height, 0 for no lines."""
    from matplotlib.lines import Line2D

    lines = {(line.model, line.support): line for panel in picture.panels if panel.x_label for line in panel.lines}
    # A leading underscore would hide the entry.
    labels = [_plain(f"\u200a{line.label}" if line.label.startswith("_") else line.label) for line in lines.values()]
    handles = [_dress(Line2D([], []), styles[key]) for key in lines]
    found = 0.0, 0.0
    for columns in _fewer_columns(len(lines)):
        legend: Legend = figure.legend(
            handles,
            labels,
            ncols=columns,
            loc="upper left",
            borderaxespad=0,
            borderpad=0,
            frameon=False,
            fontsize=LABEL_PT,
            handlelength=3.4,
            columnspacing=1.8,
        )
        extent = legend.get_window_extent()
        found = extent.width / _DPI, extent.height / _DPI
        if found[0] <= width or columns == 1:
            break
        legend.remove()
    return found


def _fewer_columns(entries: int) -> Iterator[int]:
    """Columns for one line of entries, then for two, and so on, filled evenly."""
    yield from dict.fromkeys(math.ceil(entries / lines) for lines in range(1, entries + 1))


# --- drawing -----------------------------------------------------------------------------------------------------


def _draw_lines(axes: Axes, panel: Panel, styles: Mapping[tuple[str, str], _Style], loss_end: float) -> None:
    places = sorted({point.x for line in panel.lines for point in line.points})
    span = places[-1] - places[0] or 1.0
    aside = places[0] - 0.16 * span
    for place, line in enumerate(panel.lines):
        style, label = styles[line.model, line.support], _plain(line.label)
        xs = [point.x for point in line.points]
        lows, highs = zip(*(_ends(point) for point in line.points), strict=True)
        if panel.banded:
            axes.fill_between(xs, lows, highs, color=style.colour, alpha=0.13, linewidth=0, zorder=2, label=label)
        else:
            axes.vlines(xs, lows, highs, color=style.colour, alpha=0.6, linewidth=1, zorder=2, label=label)
        (drawn,) = axes.plot(xs, [point.y for point in line.points], label=label, clip_on=False, zorder=4)
        _dress(drawn, style)
        if line.clean is not None:
            # Side by side, so that no bar hides another.
            shifted = aside + 0.02 * span * (place - (len(panel.lines) - 1) / 2)
            axes.vlines(shifted, *_ends(line.clean), color=style.colour, alpha=0.6, linewidth=1, label=label)
            (dot,) = axes.plot([shifted], [line.clean.y], label=f"{label}, clean", clip_on=False, zorder=4)
            _dress(dot, style)
    axes.set_xlabel(_plain(panel.x_label), fontsize=LABEL_PT)
    axes.set_ylabel(_plain(panel.y_label), fontsize=LABEL_PT)
    if panel.over_loss:
        axes.set_xlim(-0.02 * loss_end, 1.02 * loss_end)
    else:
        _level_ticks(axes, places, aside if any(line.clean for line in panel.lines) else None)


def _draw_rows(axes: Axes, panel: Panel, styles: Mapping[tuple[str, str], _Style]) -> None:
    """A row per line, the first on top: its number as a dot, its interval as a bar, the number again at the right."""
    for row, line in enumerate(panel.lines):
        style, label, point = styles[line.model, line.support], _plain(line.label), line.points[0]
        axes.hlines(row, *_ends(point), color=style.colour, linewidth=1.6, label=label)
        (dot,) = axes.plot([point.y], [row], label=label, clip_on=False, zorder=4)
        _dress(dot, style)
        number = f"{point.y:.1f}" if panel.is_fraction else f"{point.y:.4g}"
        beside = axes.get_yaxis_transform()
        axes.text(1.015, row, number, transform=beside, fontsize=TICK_PT, va="center_baseline")
    axes.set_yticks(range(len(panel.lines)), [_plain(label) for label in row_labels(panel)])
    axes.set_ylim(len(panel.lines) - 0.5, -0.5)
    axes.set_xlabel(_plain(panel.y_label), fontsize=LABEL_PT)


def _ends(point: Point) -> tuple[float, float]:
    """Of the interval; matplotlib draws nothing where they are not finite."""
    if point.low is None or point.high is None:
        return math.nan, math.nan
    return point.low, point.high


def _level_ticks(axes: Axes, places: Sequence[float], aside: float | None) -> None:
    """A tick at every level where they stand apart, and one for clean points beside them."""
    from matplotlib.ticker import MaxNLocator

    first, last = places[0], places[-1]
    span = last - first or 1.0
    ticks = list(places)
    if any(right - left < 0.06 * span for left, right in pairwise(places)):
        round_ones = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(first, last)
        ticks = [float(tick) for tick in round_ones if first <= tick <= last]
    names = [f"{tick:g}" for tick in ticks]
    if aside is not None:
        ticks, names, first = [aside, *ticks], ["clean", *names], aside - 0.04 * span
    axes.set_xticks(ticks, names)
    axes.set_xlim(first - 0.04 * span, last + 0.04 * span)


def _loss_end(panels: Sequence[Panel]) -> float:
    """One end of the axis for every panel over losses, in percent, so that they can be compared."""
    losses = [point.x for panel in panels if panel.over_loss for line in panel.lines for point in line.points]
    return max(10.0, 10.0 * math.ceil(max(losses, default=0.0) / 10))


def _frame(axes: Axes, panel: Panel, title: Sequence[str]) -> None:
    """Title, chance level, and the range and grid of the metric's axis."""
    rows = not panel.x_label
    if panel.is_fraction:
        (axes.set_xticks if rows else axes.set_yticks)(range(0, 101, 20))
        numbers = [y for line in panel.lines for point in line.points for y in (point.y, *_ends(point))]
        drawn = [y for y in numbers if math.isfinite(y)]
        (axes.set_xlim if rows else axes.set_ylim)(min(0.0, *drawn), max(100.0, *drawn))
    if panel.chance is not None:
        line: dict[str, Any] = {"color": _GREY, "linestyle": ":", "linewidth": 1.1, "label": "chance", "zorder": 1}
        words: dict[str, Any] = {"fontsize": NOTE_PT, "color": _GREY}
        if rows:
            axes.axvline(panel.chance, **line)
            words |= {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
            axes.text(panel.chance, 1.02, f"chance {panel.chance:.3g} %", **words)
        else:
            axes.axhline(panel.chance, **line)
            words |= {"transform": axes.get_yaxis_transform(), "va": "center"}
            axes.text(1.015, panel.chance, f"chance\n{panel.chance:.3g} %", **words)
    axes.grid(axis="x" if rows else "y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TICK_PT, length=0 if rows else 3)
    pad = 8 + (72 * line_height(NOTE_PT) if rows and panel.chance is not None else 0)
    axes.set_title(_plain("\n".join(title)), loc="left", fontsize=TITLE_PT, pad=pad, linespacing=LINE_SPACING)
