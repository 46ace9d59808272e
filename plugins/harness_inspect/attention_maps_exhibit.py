"""Attention under occlusion: mean maps of every block and condition, curves over the blocks, and a few images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.exhibits import Exhibit
from harness_inspect.attention_maps_probe import IMAGE, LAST, VISIBLE, map_name
from harness_inspect.attention_pictures import (
    by_model,
    chief_first,
    column_title,
    example_pages,
    label_row,
    line_of_blocks,
    measured,
    metric_table,
    note,
    number_blocks,
)
from harness_inspect.figures import COLOURS, GREY, SIGNED_COLOURS, TICK_PT, frame, in_lines, new_figure, plain, show_map
from harness_inspect.inspection import MEAN

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.exhibits import Finding

_CONDITIONS, _BLOCKS = 8, 12
"""Rows and columns of maps on a picture."""
_PANELS = 6
_CELL_IN, _LABEL_IN = 0.92, 1.5
_METRICS = (
    "attention_on_visible", "visible_share", "visible_lift", "attention_on_visible_of_block", "visible_lift_of_block",
    "attention_entropy", "special_token_mass",
)  # fmt: skip


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """Maps of each model, and curves of all models; the maps come first where there is one model."""
    groups = by_model(findings)
    maps = {name: page for model, group in groups.items() for name, page in _map_pages(model, group).items()}
    pages = example_pages(findings, image=IMAGE, shown=LAST, mean=LAST, title="attention of the last block")
    examples = {f"examples {name}".strip(): page for name, page in pages.items()}
    curves = _curves(findings)
    pictures = chief_first(maps, curves, examples) if len(groups) == 1 else chief_first(curves, maps, examples)
    return Exhibit(pictures=pictures, tables={"": metric_table(findings, _METRICS)})


def _blocks(finding: Finding) -> list[int]:
    return [int(str(row.dims["block"])) for row in measured(finding, "attention_entropy")]


def _map_pages(model: str, findings: Sequence[Finding]) -> dict[str, Figure]:
    """Pictures of a model, by its name and number."""
    blocks = _blocks(findings[0])
    doublings = _doublings(findings)
    pages: dict[str, Figure] = {}
    for start in range(0, len(findings), _CONDITIONS):
        for first in range(0, len(blocks), _BLOCKS):
            name = f"{model} page{len(pages) + 1}" if pages else model
            rows, columns = findings[start : start + _CONDITIONS], blocks[first : first + _BLOCKS]
            pages[name] = _maps(model, rows, columns, doublings)
    return pages


def _maps(model: str, findings: Sequence[Finding], blocks: Sequence[int], doublings: int) -> Figure:
    occluded = any(_occluded(finding) for finding in findings)
    across = len(blocks) + occluded
    figure = new_figure(
        max(5.5, _LABEL_IN + (across + 0.9) * _CELL_IN),
        1.0 + len(findings) * (_CELL_IN + 0.05),
        title=f"where {_token(findings[0])} looks: {model}",
    )
    places = figure.subplots(len(findings), across, squeeze=False)
    shown = None
    for line, finding in zip(places, findings, strict=True):
        if occluded:
            show_map(line[0], finding.arrays[f"{MEAN}{VISIBLE}"], vmin=0, vmax=1, cmap="gray")
        for axes, block in zip(line[occluded:], blocks, strict=True):
            values = np.clip(_over_uniform(finding, block), -doublings, doublings)
            shown = show_map(axes, values, vmin=-doublings, vmax=doublings, cmap=SIGNED_COLOURS)
        for axes in line:
            axes.spines[:].set(visible=True, color=GREY, linewidth=0.4)
        label_row(line[0], finding.condition)
    for axes, block in zip(places[0, occluded:], blocks, strict=True):
        column_title(axes, f"block {block}")
    if occluded:
        column_title(places[0, 0], "visible")
    _scale(figure, places, shown, doublings)
    what = "means over images; one scale for all maps of the model"
    note(figure, f"{what}; visible: share of images that kept a patch, black 0, white 1" if occluded else what)
    return figure


def _scale(figure: Figure, places: Any, shown: Any, doublings: int) -> None:
    bar = figure.colorbar(shown, ax=places, shrink=0.9 if len(places) < 3 else 0.5, extend="both", pad=0.015)
    marks = range(-doublings, doublings + 1)
    bar.set_ticks(list(marks), labels=[f"{2**n}" if n >= 0 else f"1/{2**-n}" for n in marks])
    bar.ax.tick_params(labelsize=TICK_PT)
    bar.set_label("times uniform", fontsize=TICK_PT)


def _over_uniform(finding: Finding, block: int) -> npt.NDArray[np.float64]:
    """How often a mean map is doubled (or halved, if negative) against uniform attention, place by place."""
    values = finding.arrays[f"{MEAN}{map_name(block)}"]
    return np.asarray(np.log2(np.maximum(values * values.size, np.finfo(np.float64).tiny)))


def _doublings(findings: Sequence[Finding]) -> int:
    """The end of the scale of colours: what holds nearly all places of all maps, in [1, 3]."""
    sizes = np.concatenate([np.abs(_over_uniform(f, block)).ravel() for f in findings for block in _blocks(f)])
    return int(np.clip(np.ceil(np.quantile(sizes, 0.98)), 1, 3))


def _occluded(finding: Finding) -> bool:
    return finding.record.get("visible_share").value < 1


def _token(finding: Finding) -> str:
    token = str(finding.record.get("attention_on_visible").dims["token"])
    return {"cls": "the class token", "mean": "the mean patch"}.get(token, f"the {token} token")


def _curves(findings: Sequence[Finding]) -> dict[str, Figure]:
    """Numbers over the blocks; the share on what is visible only where something is not."""
    pictures: dict[str, Figure] = {}
    if any(_occluded(finding) for finding in findings):
        pictures |= _curve_pages(
            "visible",
            findings,
            "attention_on_visible_of_block",
            "attention on visible patches",
            "attention and occlusion",
        )
    pictures |= _curve_pages(
        "entropy", findings, "attention_entropy", "entropy of the map (bits)", "spread of attention"
    )
    if any(measured(finding, "special_token_mass") for finding in findings):
        pictures |= _curve_pages(
            "special", findings, "special_token_mass", "attention to prefix tokens", "what is no part of the maps"
        )
    return pictures


def _curve_pages(name: str, findings: Sequence[Finding], metric: str, y_label: str, title: str) -> dict[str, Figure]:
    groups = list(by_model(findings).items())
    conditions = list(dict.fromkeys(finding.condition for finding in findings))
    pages = {}
    for start in range(0, len(groups), _PANELS):
        page = groups[start : start + _PANELS]
        across = min(3, len(page))
        down = math.ceil(len(page) / across)
        longest = max(map(len, conditions))
        height = max(down * 3.0 + 0.75, 0.9 + 0.19 * len(conditions))
        figure = new_figure(across * (5.4 if across == 1 else 3.5) + 0.6 + 0.07 * longest, height, title=title)
        places = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes in places[len(page) :]:
            axes.set_visible(False)
        for i, (axes, (model, group)) in enumerate(zip(places, page, strict=False)):
            frame(
                axes,
                title=in_lines(model, 72 if across == 1 else 40),
                x_label="block",
                y_label=y_label if i % across == 0 else "",
            )
            for finding in group:
                style = conditions.index(finding.condition)
                line_of_blocks(axes, measured(finding, metric), style=style)
                if name == "visible":
                    _expected(axes, finding, style)
            number_blocks(axes, [block for finding in group for block in _blocks(finding)])
        places[0].set_ylim(bottom=0)
        _legend(figure, places[0], conditions)
        note(figure, "bands: 95 % intervals over images" + _DASHED.get(name, ""))
        pages[name if start == 0 else f"{name} page{start // _PANELS + 1}"] = figure
    return pages


_DASHED = {"visible": "; dashed: visible share of the image, which uniform attention would give"}


def _expected(axes: Axes, finding: Finding, style: int) -> None:
    value = finding.record.get("visible_share").value
    axes.axhline(value, color=COLOURS[style % len(COLOURS)], linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)


def _legend(figure: Figure, axes: Axes, conditions: Sequence[str]) -> None:
    handles = []
    for style, condition in enumerate(conditions):
        line_of_blocks(axes, [], style=style, label=condition)
        handles.append(axes.lines[-1])
    figure.legend(
        handles,
        [plain(condition) for condition in conditions],
        loc="outside right upper",
        fontsize=TICK_PT,
        frameon=False,
    )
