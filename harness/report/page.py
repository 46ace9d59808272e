"""Where the panels of a picture, their titles, the legend and the notes stand: sizes in inches, text in lines."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.report.panels import Panel

TITLE_PT, LABEL_PT, TICK_PT, NOTE_PT = 10.5, 9.5, 8.5, 8.0
LINE_SPACING = 1.25
MARGIN = 0.2

_MEAN_LETTER = 0.56
"""Width of a letter of DejaVu Sans as a share of its size."""

_ONE, _MANY = (5.6, 3.7), (4.1, 2.9)
_LEFT, _RIGHT, _BELOW = 0.75, 0.65, 0.6
_GAP, _LEGEND_GAP, _TITLE_GAP = 0.3, 0.15, 0.15
_ROW = 0.3
_ROW_LABEL_CHARS = 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """Axes on the page, in inches from its lower left corner."""

    left: float
    bottom: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The size of the picture, and where the axes of each panel stand; legend and notes keep :data:`MARGIN`."""

    width: float
    height: float
    axes: tuple[Rectangle, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """What one panel needs: its axes, and what stands left of them and above."""

    width: float
    height: float
    left: float
    above: float


def arrange(
    panels: Sequence[Panel],
    notes: Sequence[str],
    measure: Callable[[str, float], float],
    legend: Callable[[float], tuple[float, float]],
) -> Page:
    """Panels in a grid under the legend and above the notes.

    ``measure`` gives the width of a text of a size in points; ``legend`` the width and height of the legend when there
    is so much width, (0, 0) without one.
    """
    columns = _columns(panels)
    rooms = [_room(panel, measure, single=len(panels) == 1) for panel in panels]
    lefts, end = [], MARGIN
    for column in range(columns):
        lefts.append(end + max(room.left for room in rooms[column::columns]))
        end = lefts[-1] + max(room.width for room in rooms[column::columns]) + _RIGHT
    legend_width, legend_height = legend(end - MARGIN)
    width = max(end, legend_width + MARGIN) + MARGIN
    lines = wrapped("; ".join(notes), _chars(width - 2 * MARGIN, NOTE_PT))
    rows = [rooms[start : start + columns] for start in range(0, len(rooms), columns)]
    heights = [max(room.above for room in row) + max(room.height for room in row) + _BELOW for row in rows]
    height = 2 * MARGIN + sum(heights) + _GAP * (len(rows) - 1) + len(lines) * line_height(NOTE_PT)
    axes = []
    top = height - MARGIN
    for row, row_height in zip(rows, heights, strict=True):
        upper = top - max(room.above for room in row)
        axes += [
            Rectangle(left=left, bottom=upper - room.height, width=room.width, height=room.height)
            for left, room in zip(lefts, row, strict=False)  # the last row may be short
        ]
        top -= row_height + _GAP
    above = legend_height + _LEGEND_GAP if legend_height else 0.0
    return Page(width=width, height=height + above, axes=tuple(axes), notes=tuple(lines))


def title_lines(panel: Panel, width: float) -> list[str]:
    """The title over axes of ``width``; it may reach over what stands to the right of them."""
    return [line for part in panel.title for line in wrapped(part, _chars(width + _RIGHT, TITLE_PT))]


def row_labels(panel: Panel) -> list[str]:
    """Of a panel without axis: the model, and the condition where there are several."""
    several = len({line.condition for line in panel.lines}) > 1
    texts = [f"{line.condition}: {line.label}" if several else line.label for line in panel.lines]
    return ["\n".join(wrapped(text, _ROW_LABEL_CHARS)) for text in texts]


def line_height(size_pt: float) -> float:
    """Inches from one line of text to the next."""
    return size_pt / 72 * LINE_SPACING


def wrapped(text: str, chars: int) -> list[str]:
    """Lines of at most ``chars`` letters, broken between words and parameters where that is possible.

    >>> wrapped("under drop:grid=7:fill=0", 14)
    ['under drop:', 'grid=7:fill=0']
    """
    lines = [""]
    for piece in re.split(r"(?<=[\s:,+])", text):
        for part in textwrap.wrap(piece, chars, drop_whitespace=False):
            if len(lines[-1] + part.rstrip()) > chars:
                lines.append("")
            lines[-1] += part
    return [line.rstrip() for line in lines]


def _chars(width: float, size_pt: float) -> int:
    """How many letters fit on ``width`` inches, roughly."""
    return max(10, int(width * 72 / (size_pt * _MEAN_LETTER)))


def _columns(panels: Sequence[Panel]) -> int:
    """Panels side by side: the perturbations of one row of a probe where those fit, else up to three.

    Panels without axis stand under each other, so that their numbers can be compared.
    """
    if not any(panel.x_label for panel in panels):
        return math.ceil(len(panels) / 4)
    sizes = {sum(other.title[0] == panel.title[0] for other in panels) for panel in panels}
    if len(sizes) == 1 and 2 <= (size := sizes.pop()) <= 4:
        return size
    return 2 if len(panels) in (2, 4) else min(3, len(panels))


def _room(panel: Panel, measure: Callable[[str, float], float], *, single: bool) -> _Room:
    width, height = _ONE if single else _MANY
    above = len(title_lines(panel, width)) * line_height(TITLE_PT) + _TITLE_GAP
    if panel.x_label:
        return _Room(width=width, height=height, left=_LEFT, above=above)
    labels = row_labels(panel)
    row = _ROW + max(label.count("\n") for label in labels) * line_height(TICK_PT)  # rows stand evenly
    return _Room(
        width=width,
        height=_ROW / 2 + row * len(labels),
        left=max(_LEFT, _TITLE_GAP + max(measure(label, TICK_PT) for label in labels)),
        above=above + (line_height(NOTE_PT) if panel.chance is not None else 0.0),
    )
