"""Layer by occlusion as maps, block against information loss, of every model; and models beside each other as lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.exhibits import Exhibit, Finding, Table
from harness.protocols import INFORMATION_LOSS
from harness_inspect.figures import GREY, LABEL_PT, MAP_COLOURS, NOTE_PT, TICK_PT, in_lines, new_figure, plain
from harness_inspect.layer_occlusion_lines import comparisons
from harness_inspect.layer_occlusion_series import CONDITION, LOSS, Series, by_block, loss_of, series_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.types import JSONScalar

PANELS = {
    "accuracy_of_block": "few-shot accuracy",
    "retention_chance_corrected": "accuracy above chance,\nover the clean one's",
    "correlation_centred": "centred correlation\nwith the clean image",
    "correlation": "correlation\nwith the clean image",
    "correlation_floor": "floor: correlation\nwith other images",
}
"""Metrics that are drawn as maps, by what a reader of the picture calls them."""
METRICS = (*PANELS, "correlation_centred_floor", "clean_accuracy_of_block", "undefined")
"""Metrics by block."""

_WIDEST_IN = 15.6
_MOST_NUMBERS = 150
"""Cells of a map that are few enough to be read as numbers, too."""
_UNDEFINED = "#d9d9d9"
_BELOW = "#1b0030"
"""Darker than all of the scale: below 0."""
_DARK_BELOW = 0.55


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """A picture of maps for every model and perturbation; of several, lines that compare them as the chief picture."""
    maps = series_of(findings)
    pictures = comparisons(findings) if len(maps) > 1 else {}
    for series in maps:
        pictures[f"{series.model}-{series.perturbation}" if "" in pictures else ""] = _maps(series)
    return Exhibit(pictures=pictures, tables={"": _table(findings)})


def _maps(series: Series) -> Figure:
    columns, blocks = len(series.findings), len(series.blocks)
    numbers = columns * blocks <= _MOST_NUMBERS
    wide = max(1.45, columns * (0.42 if numbers else 0.24))
    down = math.ceil(len(PANELS) / max(1, int((_WIDEST_IN - 1.6) / (wide + 0.15))))
    across = math.ceil(len(PANELS) / down)
    tall = max(1.3, blocks * (0.27 if blocks <= 16 else 0.22))
    below = 0.45 if series.axis != CONDITION else 1.6
    width = 1.6 + across * (wide + 0.15)
    name = series.model if series.perturbation == "none" else f"{series.model}: {series.perturbation}"
    title = in_lines(name, int(11 * width))
    height = 0.75 + 0.18 * title.count("\n") + down * (tall + below + 0.5)
    figure = new_figure(width, height, title=title)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes in grid[len(PANELS) :]:
        axes.set_visible(False)
    shown: Any = None
    for place, metric in enumerate(PANELS):
        axes = grid[place]
        shown = _map(axes, series.values(metric), numbers=numbers)
        axes.set_title(plain(_panel_title(metric, series)), fontsize=LABEL_PT, loc="left")
        _number(axes, series, left=place % across == 0)
    bar = figure.colorbar(shown, ax=grid[: len(PANELS)].tolist(), extend="both", pad=0.01, shrink=1 / down, aspect=25)
    bar.ax.tick_params(labelsize=TICK_PT)
    figure.supxlabel(plain(in_lines(_note(series), int(17 * width))), fontsize=NOTE_PT, x=0.01, ha="left")
    return figure


def _map(axes: Axes, values: npt.NDArray[np.float64], *, numbers: bool) -> Any:
    from matplotlib import colormaps

    # To what is printed, so that 0.00 has the colour of 0; adding zero turns -0 into 0.
    values = values.round(2) + 0.0
    colours = colormaps[MAP_COLOURS].with_extremes(bad=_UNDEFINED, under=_BELOW)
    shown = axes.imshow(values, cmap=colours, vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest")
    if numbers:
        for (row, column), value in np.ndenumerate(values):
            text = "-" if math.isnan(value) else f"{value:.2f}"
            colour = "white" if value < _DARK_BELOW else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=NOTE_PT - 0.5, color=colour)
    return shown


def _panel_title(metric: str, series: Series) -> str:
    chances = {m.value for finding in series.findings for m in finding.record.measurements if m.metric == "chance"}
    return (
        f"{PANELS[metric]}\n(chance {min(chances):.2g})"
        if metric == "accuracy_of_block" and chances
        else PANELS[metric]
    )


def _number(axes: Axes, series: Series, *, left: bool) -> None:
    names = [_column(finding, series.axis) for finding in series.findings]
    if series.axis == CONDITION:
        lines = [plain(in_lines(name, 24)) for name in names]
        axes.set_xticks(range(len(names)), lines, rotation=50, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel(series.axis, fontsize=LABEL_PT)
    step = math.ceil(len(series.blocks) / 30)
    axes.set_yticks(range(0, len(series.blocks), step), [str(block) for block in series.blocks[::step]])
    if left:
        axes.set_ylabel("block", fontsize=LABEL_PT)
    axes.tick_params(labelsize=TICK_PT, length=2, color=GREY)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _column(finding: Finding, axis: str) -> str:
    loss = loss_of(finding)
    if axis == CONDITION:
        return finding.condition if not loss else f"{finding.condition}, {100 * loss:.0f} % lost"
    if axis == LOSS:
        return f"{100 * (loss or 0.0):.0f}"
    return "none" if finding.level is None else f"{finding.level:g}"


def _note(series: Series) -> str:
    notes = ["deeper blocks lie above", "one scale for all maps; dark violet: below 0, grey: undefined"]
    floors = series.values("correlation_centred_floor")
    if not np.isnan(floors).all():
        low, high = f"{np.nanmin(floors):.2f}", f"{np.nanmax(floors):.2f}"
        notes.append(f"floor of the centred correlation: {low if low == high else f'{low} to {high}'}")
    return "; ".join(notes)


def _table(findings: Sequence[Finding]) -> Table:
    rows: list[list[JSONScalar]] = [
        [finding.model, finding.condition, finding.level, loss_of(finding), block, metric, m.value, m.low, m.high, m.n]
        for finding in findings
        for metric in METRICS
        for block, m in by_block(finding, metric).items()
    ]
    header = ("model", "condition", "level", INFORMATION_LOSS, "block", "metric", "value", "low", "high", "images")
    return Table(header=header, rows=rows)
