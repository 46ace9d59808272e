"""Layer by occlusion as lines: models beside each other, over the loss and over depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness_inspect.figures import COLOURS, GREY, MARKERS, NOTE_PT, TICK_PT, frame, in_lines, new_figure, plain
from harness_inspect.layer_occlusion_series import (
    CONDITION,
    LEVEL,
    LOSS,
    Series,
    by_block,
    is_clean,
    loss_of,
    series_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.exhibits import Finding
    from harness.types import Measurement

_PANELS = {
    "accuracy_of_block": "few-shot accuracy",
    "retention_chance_corrected": "accuracy above chance over the clean one's",
    "correlation_centred": "centred correlation with the clean image",
}
_MOST_BANDS = 4
_MOST_TICKS = 8


def comparisons(findings: Sequence[Finding]) -> dict[str, Figure]:
    """A picture of all models for every perturbation, or of all perturbations of an only model; the first is chief."""
    lines = series_of(findings, apart=True)
    groups: dict[str, list[Series]] = {}
    only = len({series.model for series in lines}) == 1
    for series in lines:
        groups.setdefault(series.axis if only else series.perturbation, []).append(series)
    pictures: dict[str, Figure] = {}
    for name, members in groups.items():
        if len(members) > 1:
            title = f"features of {members[0].model} by depth" if only else f"features by depth under {name}"
            labels = [series.perturbation if only else series.model for series in members]
            clean = not any(series.perturbed for series in members)
            pictures[f"compared-{name}" if pictures else ""] = (
                _clean_lines(members, labels) if clean else _lines(members, labels, title)
            )
    return pictures


def _clean_lines(lines: Sequence[Series], labels: Sequence[str]) -> Figure:
    figure = new_figure(5.4 + 0.075 * max(map(len, labels)), 3.6, title="few-shot accuracy over depth, clean images")
    axes = figure.subplots()
    _over_depth(axes, lines, [series.findings[0] for series in lines], "accuracy_of_block")
    frame(axes, x_label="relative depth of the block", y_label="few-shot accuracy")
    _legend(figure, axes, labels)
    figure.supxlabel(_note(lines), fontsize=NOTE_PT, x=0.01, ha="left")
    return figure


def _lines(lines: Sequence[Series], labels: Sequence[str], title: str) -> Figure:
    """Above, first and last block over the loss; below, all blocks at one level."""
    width = 11.2 + 0.075 * max(map(len, labels))
    figure = new_figure(width, max(6.2, 0.8 + 0.18 * len(labels)), title=in_lines(title, int(11 * width)))
    grid = figure.subplots(2, len(_PANELS))
    level = lines[0].nearest(None).level
    at = [series.nearest(level) for series in lines]
    axis = lines[0].axis if len({series.axis for series in lines}) == 1 else CONDITION
    for column, (metric, name) in enumerate(_PANELS.items()):
        above, below = grid[0, column], grid[1, column]
        _over_loss(above, lines, metric, axis)
        _over_depth(below, lines, at, metric)
        frame(above, title=name, x_label="" if axis == CONDITION else axis)
        frame(below, title=_where(at), x_label="relative depth of the block")
    _legend(figure, grid[0, 0], labels)
    note = f"above: the last block, and dashed the first; {_note(lines)}"
    figure.supxlabel(note, fontsize=NOTE_PT, x=0.01, ha="left")
    return figure


def _where(at: Sequence[Finding]) -> str:
    """What was lost in the findings ``at``, or the condition that they have in common."""
    losses = [100 * loss for finding in at if (loss := loss_of(finding)) is not None]
    if len(losses) == len(at):
        low, high = f"{min(losses):.0f}", f"{max(losses):.0f}"
        return f"at {low if low == high else f'{low} to {high}'} % information loss"
    conditions = {finding.condition for finding in at}
    return in_lines(f"under {next(iter(conditions))}", 46) if len(conditions) == 1 else "under each perturbation"


def _note(lines: Sequence[Series]) -> str:
    bands = ["bands: 95 % intervals over images"] if len(lines) <= _MOST_BANDS else []
    return "; ".join([*bands, "dotted: chance"])


def _legend(figure: Figure, axes: Axes, labels: Sequence[str]) -> None:
    handles = [
        axes.plot([], [], color=colour, marker=marker, markersize=4, linewidth=1.3, label=plain(in_lines(label, 60)))[0]
        for label, (colour, marker) in zip(labels, map(_look, range(len(labels))), strict=True)
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=TICK_PT, frameon=False)


def _look(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _over_loss(axes: Axes, lines: Sequence[Series], metric: str, axis: str) -> None:
    for number, series in enumerate(lines):
        # Nothing says at which level clean images lie.
        found = [f for f in series.findings if axis in (LOSS, CONDITION) or not is_clean(f)]
        x = [_place(finding, axis) for finding in found]
        first, last = series.blocks[0], series.blocks[-1]
        of_last = [by_block(finding, metric).get(last) for finding in found]
        _draw(axes, number, x, of_last, band=len(lines) <= _MOST_BANDS)
        if first != last:
            of_first = [by_block(finding, metric).get(first) for finding in found]
            _draw(axes, number, x, of_first, dashed=True)
    if axis == CONDITION:
        axes.set_xticks([0, 1], ["clean", "perturbed"])
        axes.set_xlim(-0.1, 1.1)
    elif axis == LEVEL:
        levels = sorted({f.level for series in lines for f in series.perturbed if f.level is not None})
        if len(levels) <= _MOST_TICKS:
            axes.set_xticks(levels, [f"{level:g}" for level in levels])
    _chance(axes, lines, metric)


def _place(finding: Finding, axis: str) -> float:
    if axis == LOSS:
        return 100 * (loss_of(finding) or 0.0)
    return float(not is_clean(finding) if axis == CONDITION else finding.level or 0.0)


def _over_depth(axes: Axes, lines: Sequence[Series], at: Sequence[Finding], metric: str) -> None:
    for number, (series, finding) in enumerate(zip(lines, at, strict=True)):
        rows = [by_block(finding, metric).get(block) for block in series.blocks]
        depth = [block / series.blocks[-1] if series.blocks[-1] else 1.0 for block in series.blocks]
        _draw(axes, number, depth, rows, band=len(lines) <= _MOST_BANDS)
    axes.set_xlim(-0.04, 1.04)
    _chance(axes, lines, metric)


def _draw(
    axes: Axes,
    number: int,
    x: Sequence[float],
    rows: Sequence[Measurement | None],
    *,
    band: bool = False,
    dashed: bool = False,
) -> None:
    """A line through the rows that there are."""
    known = [(place, row) for place, row in zip(x, rows, strict=True) if row is not None]
    if not known:
        return
    colour, marker = _look(number)
    places = np.array([place for place, _ in known])
    values = [row.value for _, row in known]
    axes.plot(
        places,
        values,
        color=colour,
        marker=marker,
        markersize=2.5 if dashed else 4,
        linewidth=0.9 if dashed else 1.3,
        linestyle=(0, (4, 2)) if dashed else "solid",
    )
    if band:
        low = [row.value if row.low is None else row.low for _, row in known]
        high = [row.value if row.high is None else row.high for _, row in known]
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def _chance(axes: Axes, lines: Sequence[Series], metric: str) -> None:
    """Where guessing lies, or nothing that is left."""
    if metric != "accuracy_of_block":
        axes.axhline(0, color=GREY, linewidth=0.8)
        return
    found = {
        m.value for series in lines for f in series.findings for m in f.record.measurements if m.metric == "chance"
    }
    for chance in sorted(found):
        axes.axhline(chance, color=GREY, linewidth=0.9, linestyle=":")
    axes.set_ylim(bottom=0)
