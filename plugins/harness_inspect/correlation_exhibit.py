"""Pictures of correlations: how they fall under a perturbation, beside their floors; how images spread; by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.exhibits import Exhibit, Finding
from harness_inspect.attention_pictures import by_model, measured, metric_table, note
from harness_inspect.figures import COLOURS, GREY, LABEL_PT, MARKERS, TICK_PT, frame, in_lines, new_figure, plain
from harness_inspect.pearson import CORRELATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.types import Measurement

_GROUPED = ("class", "group")
_PANELS = 6
_BARS = 24
_SPREAD_IN = 0.42
"""Height of the row of one violin."""


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """Means with their floors; per image; and by class or group, on as many pages as it takes."""
    pictures = {"": _means(findings)}
    if any(len(_images(finding)) for finding in findings):
        pictures["images"] = _spread(findings)
    metrics = [f"{kind}{what}" for kind in CORRELATIONS for what in ("", "_sd")]
    for dim in _GROUPED:
        metrics += [f"{kind}{what}_of_{dim}" for kind in CORRELATIONS for what in ("", "_sd")]
        pages = _by_group(findings, dim)
        pictures |= {dim if number == 0 else f"{dim}-page{number + 1}": page for number, page in enumerate(pages)}
    return Exhibit(
        pictures=pictures, tables={"": metric_table(findings, [*metrics, *(f"undefined{d}" for d in _SUFFIXES)])}
    )


_SUFFIXES = ("", *(f"_of_{dim}" for dim in _GROUPED))


def _one(finding: Finding, metric: str) -> Measurement | None:
    return next((row for row in measured(finding, metric) if not row.dims), None)


def _means(findings: Sequence[Finding]) -> Figure:
    """For as-is and centred features a panel; along it the conditions, in it dots for every model.

    Lines join the levels of one perturbation, and the clean images to them where there is no other.
    """
    groups = by_model(findings)
    conditions = list(dict.fromkeys(finding.condition for finding in findings))
    longest = max(map(len, groups))
    wide = max(3.4, 1.2 + 0.55 * len(conditions))
    figure = new_figure(2 * wide + 0.6 + 0.075 * longest, 4.4, title="correlation of clean and perturbed features")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (kind, title) in zip(
        panels,
        (("correlation", "features as they are"), ("correlation_centred", "less the mean over the images")),
        strict=True,
    ):
        frame(axes, title=title, y_label="Pearson correlation" if axes is panels[0] else "")
        axes.axhline(0, color=GREY, linewidth=0.8)
        for style, (model, members) in enumerate(groups.items()):
            _line(axes, members, conditions, (kind, style, len(groups)), label=model if axes is panels[0] else None)
        axes.set_xticks(
            range(len(conditions)),
            [plain(in_lines("clean" if name == "none" else name, 22)) for name in conditions],
            fontsize=TICK_PT,
            rotation=0 if len(conditions) <= 3 else 40,
            ha="center" if len(conditions) <= 3 else "right",
        )
        axes.set_xlim(-0.4, len(conditions) - 0.6)
    panels[0].set_ylim(top=max(1.04, panels[0].get_ylim()[1]))
    figure.legend(loc="outside right upper", fontsize=TICK_PT, frameon=False)
    note(
        figure,
        "bars: deviation over images (or dimensions); dashes: the floor, perturbed features with those of others",
    )
    return figure


def _line(
    axes: Axes,
    members: Sequence[Finding],
    conditions: Sequence[str],
    how: tuple[str, int, int],
    *,
    label: str | None,
) -> None:
    kind, style, count = how
    colour, marker = COLOURS[style % len(COLOURS)], MARKERS[style % len(MARKERS)]
    aside = 0.0 if count == 1 else 0.3 * (style / (count - 1) - 0.5)
    for sweep in _sweeps(members):
        found = [(conditions.index(finding.condition) + aside, finding) for finding in sweep]
        for metric, dashes in ((kind, "-"), (f"{kind}_floor", (0, (2, 2)))):
            points = [
                (place, row, _one(finding, f"{metric}_sd"))
                for place, finding in found
                if (row := _one(finding, metric))
            ]
            if not points:
                continue
            places, values = [place for place, _, _ in points], [row.value for _, row, _ in points]
            is_floor = metric != kind
            axes.plot(
                places,
                values,
                color=colour,
                linestyle=dashes,
                linewidth=0.9 if is_floor else 1.3,
                marker=marker if not is_floor else "" if len(points) > 1 else "_",
                markersize=9 if is_floor else 4.5,
                label=None if is_floor or label is None else plain(label),
            )
            if not is_floor:
                spread = [0.0 if deviation is None else deviation.value for _, _, deviation in points]
                axes.errorbar(places, values, yerr=spread, color=colour, linewidth=0, elinewidth=0.9, capsize=2)
                label = None


def _sweeps(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one model in parts that a line joins: the levels of a perturbation; what has no level is alone."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        stem = finding.condition if finding.level is None else f"{finding.condition.rpartition('@')[0]}@"
        groups.setdefault(stem, []).append(finding)
    if len(groups) == 2 and "none" in groups and any(stem.endswith("@") for stem in groups):
        return [list(findings)]
    return list(groups.values())


def _images(finding: Finding) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The correlation of each image, without those that have none."""
    if finding.outcomes is None or "correlation" not in finding.outcomes.columns:
        return np.empty(0)
    values = finding.outcomes.columns["correlation"][0].astype(np.float64)
    return np.asarray(values[~np.isnan(values)])


def _spread(findings: Sequence[Finding]) -> Figure:
    """How the correlations of the images of every finding spread, a row for each."""
    labels = [in_lines(finding.label, 30) for finding in findings]
    figure = new_figure(6.4, 1.3 + _SPREAD_IN * len(findings), title="correlation of each image")
    axes = figure.subplots()
    frame(axes, x_label="Pearson correlation of clean and perturbed features")
    colours = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(by_model(findings))}
    for height, finding in enumerate(findings):
        values = _images(finding)
        if not len(values):
            labels[height] += "\n(none)"
            continue
        if np.ptp(values) < 1e-6:
            axes.plot([values[0]] * 2, [height - 0.3, height + 0.3], color=colours[finding.model], linewidth=2)
            continue
        drawn = axes.violinplot([values], [height], orientation="horizontal", widths=0.8, showextrema=False)
        bodies: Any = drawn["bodies"]
        for body in bodies:
            body.set_facecolor(colours[finding.model])
            body.set_alpha(0.55)
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        axes.plot([low, high], [height, height], color="black", linewidth=2.2, solid_capstyle="butt")
        axes.plot([middle], [height], "o", color="white", markersize=3, markeredgecolor="black", markeredgewidth=0.7)
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels], fontsize=TICK_PT)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    note(figure, "bar: the middle half of the images; dot: the median")
    return figure


def _by_group(findings: Sequence[Finding], dim: str) -> list[Figure]:
    """Dots by class or group, a panel for every finding."""
    metric = f"correlation_of_{dim}"
    there = [finding for finding in findings if measured(finding, metric)]
    names = list(dict.fromkeys(str(row.dims[dim]) for finding in there for row in measured(finding, metric)))
    pages = []
    for first in range(0, len(there), _PANELS):
        for start in range(0, len(names), _BARS):
            part, shown = there[first : first + _PANELS], names[start : start + _BARS]
            pages.append(_group_page(part, shown, dim))
    return pages


def _group_page(findings: Sequence[Finding], names: Sequence[str], dim: str) -> Figure:
    figure = new_figure(
        2.2 + 2.1 * len(findings),
        1.5 + 0.24 * len(names),
        title=f"correlation of clean and perturbed features by {dim}",
    )
    panels = figure.subplots(1, len(findings), squeeze=False, sharey=True).ravel()
    for axes, finding in zip(panels, findings, strict=True):
        frame(axes, title=in_lines(finding.label, 24), x_label="correlation")
        axes.axvline(0, color=GREY, linewidth=0.8)
        for metric, colour in ((f"correlation_floor_of_{dim}", GREY), (f"correlation_of_{dim}", COLOURS[0])):
            for row in measured(finding, metric):
                if (name := str(row.dims[dim])) in names:
                    height = names.index(name)
                    if row.low is not None and row.high is not None:
                        axes.plot([row.low, row.high], [height, height], color=colour, linewidth=1.4)
                    axes.plot([row.value], [height], "o", color=colour, markersize=4)
    panels[0].set_yticks(range(len(names)), [plain(name) for name in names], fontsize=LABEL_PT - 1)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    note(figure, "means over images with 95 % intervals; grey: the floor, with features of other images")
    return figure
