"""What the first layers look for: the principal components of their filters as small images, and their variances."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.exhibits import Exhibit, Finding, Table
from harness_inspect.figures import COLOURS, MARKERS, NOTE_PT, TICK_PT, bare, frame, new_figure, plain
from harness_inspect.patch_filters_probe import COMPONENTS, VARIANCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.figure import Figure

    from harness.types import JSONScalar

_ACROSS = 7
"""Components in a row, so that the usual 28 make four rows, as in the paper."""
_MODELS_PER_PICTURE = 6
_LEAST_SIDE = 24
"""Pixels that the side of a component is made of at least, so that gaps look alike for filters of any size."""


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """The components of every model, at most six models to a picture, and the variances of all in one."""
    starts = range(0, len(findings), _MODELS_PER_PICTURE)
    pages = [findings[start : start + _MODELS_PER_PICTURE] for start in starts]
    pictures = {"" if number == 1 else f"page{number}": _components(page) for number, page in enumerate(pages, start=1)}
    return Exhibit(
        pictures={**pictures, "variance": _variances(findings)},
        tables={"": _numbers(findings), "variance": _shares(findings)},
    )


def mosaic(components: npt.NDArray[Any], across: int = _ACROSS) -> npt.NDArray[np.float64]:
    """Components (K, 3, P, P) as one picture (rows, columns, 3) in [0, 1], side by side with white gaps.

    Small ones are enlarged by a whole factor. Each fills its own range around mid-grey: 0 is 0.5, its largest
    magnitude 0 or 1.
    """
    components = components.astype(np.float64)
    times = math.ceil(_LEAST_SIDE / components.shape[-1])
    components = components.repeat(times, axis=2).repeat(times, axis=3)
    count, _, side, _ = components.shape
    gap = side // 8
    down, across = math.ceil(count / across), min(across, count)
    picture = np.ones((down * (side + gap) - gap, across * (side + gap) - gap, 3))
    for i, component in enumerate(components):
        row, column = (place * (side + gap) for place in divmod(i, across))
        scaled = 0.5 + 0.5 * component / np.abs(component).max()
        picture[row : row + side, column : column + side] = scaled.transpose(1, 2, 0)
    return picture


def _components(findings: Sequence[Finding]) -> Figure:
    across = min(3, len(findings))
    down = math.ceil(len(findings) / across)
    shapes = [mosaic(finding.arrays[COMPONENTS]).shape for finding in findings]
    width = {1: 6.0, 2: 4.4, 3: 3.6}[across]
    height = width * max(shape[0] / shape[1] for shape in shapes) + 0.35
    figure = new_figure(across * width, down * height + 0.7, title="principal components of the first layer's filters")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(wspace=0.04, hspace=0.03)  # type: ignore[call-arg]  # of the constrained layout that figures here have
    for axes in (places := figure.subplots(down, across, squeeze=False).ravel())[len(findings) :]:
        axes.set_visible(False)
    for axes, finding in zip(places, findings, strict=False):
        components = finding.arrays[COMPONENTS]
        axes.imshow(mosaic(components), interpolation="nearest")
        bare(axes)
        axes.set_anchor("NW")
        share = finding.record.get("explained_variance").value
        axes.set_title(
            plain(f"{finding.label}\nfirst {len(components)}: {_percent(share)} of the variance"),
            fontsize=TICK_PT,
            loc="left",
        )
    figure.supxlabel(
        "over normalised pixels; grey is 0, each component fills its own range; its sign has no meaning",
        fontsize=NOTE_PT,
        x=0.01,
        ha="left",
    )
    return figure


def _variances(findings: Sequence[Finding]) -> Figure:
    longest_name = max(len(finding.label) for finding in findings)
    figure = new_figure(
        5.2 + 0.075 * longest_name,
        3.8 + 0.18 * max(0, len(findings) - 16),
        title="how few components say it all",
    )
    axes = figure.subplots()
    frame(axes, x_label="principal components", y_label="share of the filters' variance (%)")
    for i, finding in enumerate(findings):
        shares = 100 * np.cumsum(finding.arrays[VARIANCE])
        axes.plot(
            np.arange(1, len(shares) + 1),
            shares,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=3.5,
            markevery=_every(len(shares)),
            linewidth=1.2,
            label=plain(finding.label),
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 102)
    longest = max(len(finding.arrays[VARIANCE]) for finding in findings)
    ticks = [n for n in (1, 2, 3, 5, 10, 20, 28, 50, 100, 200, 500, 1000) if n <= longest]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    figure.legend(loc="outside right upper", fontsize=TICK_PT, frameon=False)
    return figure


def _numbers(findings: Sequence[Finding]) -> Table:
    metrics = ("explained_variance", "effective_rank", "low_frequency_share")
    rows: list[list[JSONScalar]] = []
    for finding in findings:
        side = finding.arrays[COMPONENTS].shape[-1]
        values = [finding.record.get(metric) for metric in metrics]
        shown = len(finding.arrays[COMPONENTS])
        rows.append([finding.label, values[0].n, side, shown, *(value.value for value in values)])
    return Table(header=("model", "filters", "side_px", "components", *metrics), rows=rows)


def _shares(findings: Sequence[Finding]) -> Table:
    return Table(
        header=("model", "component", "variance_share", "cumulative_share"),
        rows=[
            [finding.label, i, float(share), float(total)]
            for finding in findings
            for i, (share, total) in enumerate(
                zip(finding.arrays[VARIANCE], np.cumsum(finding.arrays[VARIANCE]), strict=True), start=1
            )
        ],
    )


def _every(count: int) -> list[int]:
    """Places of markers that are about evenly spaced on a logarithmic axis."""
    return sorted({round(10 ** (step / 5)) - 1 for step in range(20) if 10 ** (step / 5) <= count})


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
