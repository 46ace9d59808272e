"""The picture of shape bias by class, as the field draws it: shape at the left, texture at the right."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.errors import RecordsError, UsageError
from harness.report.curves import check_picture
from harness.run_folder import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.shape_bias import CueCounts

Average: TypeAlias = Literal["pooled", "class_mean"]

# Okabe and Ito's palette for all kinds of colour vision, without the yellow that white paper swallows and the red that
# is the humans'.
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# As many as are coprime to the colours, the circle being the humans': 42 systems differ in one or the other.
_MARKERS = ("s", "^", "D", "v", "P", "X", "<")
_HUMANS = "#B2182B"
_GREY = "#6b6b6b"
_GRID = "#e3e3e3"
_TITLE_PT, _LABEL_PT, _TICK_PT, _NOTE_PT = 11.0, 9.0, 8.0, 7.5
_DPI = 150

_ROW_IN = 0.31
_PLOT_IN = 5.2
_MARGIN_IN, _AXIS_IN, _GAP_IN = 0.15, 0.48, 0.18
_LINE_SPACING = 1.25
_ENTRY_IN = 0.42
"""Height of an entry of the legend, which has two lines."""
_SPREAD = 0.56
"""Of the height of a row, over which the points of several systems are spread so that none hides another."""
_ABOVE, _LINE_ENDS = 1.0, -0.65
"""Rows between the first class and the axis above; and where among them lines bear their system's marker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row of the legend: a model or a subject, and its decisions."""

    label: str
    counts: CueCounts


def save_shape_bias(
    systems: Sequence[System],
    path: str | os.PathLike[str],
    *,
    humans: System | None = None,
    average: Average = "pooled",
    title: str = "",
) -> None:
    """Write :func:`draw_shape_bias` to ``path`` in one step, in the format that its ending names.

    Raises :class:`~harness.errors.UsageError` for another ending, a folder that is not there or not writable, and what
    :func:`draw_shape_bias` raises.
    """
    path = Path(path)
    check_picture(path)
    figure = draw_shape_bias(systems, humans=humans, average=average, title=title)
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix.lower().removeprefix("."))
    except RecordsError as error:
        raise UsageError(error.message, hint="name a file that may be written to") from error


def draw_shape_bias(
    systems: Sequence[System], *, humans: System | None = None, average: Average = "pooled", title: str = ""
) -> Figure:
    """The share of shape decisions of every system for every class, as one figure.

    A row per class, the first on top; along it the share of decisions by texture from 0 to 1 (below), and so that of
    decisions by shape from 1 to 0 (above): shape is at the left. A point is a system's decisions on the images of one
    shape class, a vertical line its average: over all decisions (``pooled``), or the mean of the points
    (``class_mean``). ``humans`` are red circles. The layout is that of Geirhos et al., "ImageNet-trained CNNs are
    biased towards texture" (arXiv 1811.12231), figure 4, with the models' numbers in the legend.

    matplotlib's global state is neither used nor changed. Raises :class:`~harness.errors.UsageError` for no systems,
    and for systems whose decisions are over different classes.
    """
    drawn = [*systems, *([humans] if humans is not None else [])]
    if not drawn:
        raise UsageError("there are no decisions to draw")
    classes = drawn[0].counts.classes
    if any(system.counts.classes != classes for system in drawn):
        raise UsageError("decisions over different classes do not fit on one picture", hint="draw them apart")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    entries = [_entry(system, average) for system in drawn]
    note = _note(drawn, average)
    left = 2 * _MARGIN_IN + 0.3 + max(_width(figure, name, _TICK_PT) for name in classes)
    right = _GAP_IN + 0.45 + max(_width(figure, entry, _TICK_PT) for entry in entries)
    below = _MARGIN_IN + _AXIS_IN + _GAP_IN + _height(note, _NOTE_PT)
    above = _MARGIN_IN + _AXIS_IN + (_height(title, _TITLE_PT) + 0.1 if title else 0.0)
    rows = max(_ROW_IN * (len(classes) + _ABOVE), _ENTRY_IN * len(drawn) - _AXIS_IN)
    width, height = left + _PLOT_IN + right, below + rows + above
    figure.set_size_inches(width, height)
    if title:
        figure.text(_MARGIN_IN / width, 1 - _MARGIN_IN / height, _plain(title), fontsize=_TITLE_PT, va="top", ha="left")
    figure.text(
        _MARGIN_IN / width,
        _MARGIN_IN / height,
        note,
        fontsize=_NOTE_PT,
        color=_GREY,
        va="bottom",
        linespacing=_LINE_SPACING,
    )
    axes = figure.add_axes((left / width, below / height, _PLOT_IN / width, rows / height))
    _frame(axes, classes)
    for place, (system, entry) in enumerate(zip(systems, entries, strict=False)):
        aside = 0.0 if len(systems) == 1 else _SPREAD * (place / (len(systems) - 1) - 0.5)
        colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
        _draw(axes, system, entry, colour=colour, marker=marker, aside=aside, average=average)
    if humans is not None:
        _draw(axes, humans, entries[-1], colour=_HUMANS, marker="o", aside=0.0, average=average)
    figure.legend(
        loc="upper left",
        bbox_to_anchor=((left + _PLOT_IN + _GAP_IN) / width, 1 - above / height),
        borderaxespad=0,
        borderpad=0,
        fontsize=_TICK_PT,
        frameon=False,
        labelspacing=0.7,
        handlelength=1.6,
    )
    return figure


def _draw(axes: Axes, system: System, entry: str, *, colour: str, marker: str, aside: float, average: Average) -> None:
    """Points of the classes, ``aside`` of their rows, and the line of the average."""
    found = [(row + aside, 1 - bias) for row, bias in enumerate(system.counts.by_class) if bias is not None]
    mean = _average(system.counts, average)
    dressed: dict[str, Any] = {
        "color": colour, "marker": marker, "markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.5,
        "clip_on": False,
    }  # fmt: skip
    if mean is not None:
        axes.axvline(1 - mean, color=colour, linewidth=1.4, alpha=0.85, zorder=2)
        axes.plot([1 - mean], [_LINE_ENDS], linestyle="none", zorder=4, **dressed)
    # A leading underscore would hide the entry.
    label = f"\u200a{entry}" if entry.startswith("_") else entry
    axes.plot([x for _, x in found], [y for y, _ in found], linestyle="none", zorder=4, label=label, **dressed)


def _frame(axes: Axes, classes: Sequence[str]) -> None:
    ticks = [tenth / 10 for tenth in range(0, 11, 2)]
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(len(classes) - 0.5, -_ABOVE)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(range(len(classes)), [_plain(name) for name in classes])
    axes.set_xlabel("share of decisions by texture", fontsize=_LABEL_PT)
    axes.set_ylabel("class of the shape", fontsize=_LABEL_PT)
    above = axes.secondary_xaxis("top")
    above.set_xticks(ticks, [f"{1 - tick:g}" for tick in ticks])
    above.set_xlabel("share of decisions by shape", fontsize=_LABEL_PT)
    above.tick_params(labelsize=_TICK_PT, length=3, color=_GREY)
    axes.tick_params(labelsize=_TICK_PT, length=3, color=_GREY)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, color=_GRID, linewidth=0.6)
    axes.axvline(0.5, color=_GREY, linewidth=0.9, linestyle=":", zorder=1)
    axes.set_axisbelow(True)
    axes.spines[["left", "right"]].set_visible(False)


def _average(counts: CueCounts, average: Average) -> float | None:
    return counts.bias if average == "pooled" else counts.class_mean


def _entry(system: System, average: Average) -> str:
    """What the legend says: who, and of the decisions that the number rests on how many are by shape."""
    counts = system.counts
    mean, decided, conflict = _average(counts, average), sum(counts.decided), sum(counts.conflict)
    said = "" if mean is None else f"{100 * mean:.1f} % shape, "
    return f"{_plain(system.label)}\n{said}{decided} of {conflict} decided"


def _note(systems: Sequence[System], average: Average) -> str:
    said = "all decisions" if average == "pooled" else "the mean over the classes"
    lines = [
        f"points: images with the shape of one class; lines: {said}",
        "decided: the class of the shape or that of the texture was named; shares are of these decisions",
    ]
    if any(system.counts.lacking for system in systems):
        lines.append("a class without a point: nothing was decided of its images")
    return "\n".join(lines)


def _width(figure: Figure, text: str, size_pt: float) -> float:
    """Inches of the longest line of ``text``."""
    drawn = figure.text(0, 0, _plain(text), fontsize=size_pt)
    width = float(drawn.get_window_extent().width) / _DPI
    drawn.remove()
    return width


def _height(text: str, size_pt: float) -> float:
    return (text.count("\n") + 1) * size_pt * _LINE_SPACING / 72


def _plain(text: str) -> str:
    """``text`` for matplotlib, which would otherwise read what stands between dollars as a formula."""
    return text.replace("$", r"\$")
