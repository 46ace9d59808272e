"""What models cost, beside each other: throughput against computation, and the columns of the papers as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from harness.exhibits import Exhibit, Finding, Table
from harness.types import View
from harness_inspect.cost_probe import NOISY
from harness_inspect.figures import COLOURS, GREY, LABEL_PT, MARKERS, NOTE_PT, TICK_PT, frame, new_figure, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from harness.types import JSONScalar, Measurement

_ROWS_PER_PICTURE = 40
_NEAR = 0.05
"""Bubbles whose middles are nearer than this share of both axes have one label."""
_ROW_IN = 0.24
_TALL_IN = 5.0


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """Throughput against MACs and by batch size; the table of the papers, at most 40 models to a picture."""
    starts = range(0, len(findings), _ROWS_PER_PICTURE)
    pages = {
        "table" if not start else f"table{page}": _drawn_table(findings[start : start + _ROWS_PER_PICTURE], start + 1)
        for page, start in enumerate(starts, start=1)
    }
    return Exhibit(
        pictures={"": _overview(findings), **pages},
        tables={"": _all_numbers(findings), "papers": _papers_columns(findings)},
    )


# --- reading a record ------------------------------------------------------------------------------------------


def _row(finding: Finding, metric: str, batch: int | None = None) -> Measurement | None:
    dims = {} if batch is None else {"batch": batch}
    return next((m for m in finding.record.measurements if m.metric == metric and dict(m.dims) == dims), None)


def _value(finding: Finding, metric: str, batch: int | None = None) -> float:
    row = _row(finding, metric, batch)
    return math.nan if row is None else row.value


def _batches(finding: Finding) -> list[int]:
    return sorted(int(m.dims["batch"] or 0) for m in finding.record.measurements if m.metric == "throughput")


def _memory(finding: Finding, batch: int) -> float:
    """MiB as the allocator counted them where there is one, or else those of weights, images and activations."""
    peak = _row(finding, "peak_memory", batch)
    return _value(finding, "working_memory", batch) if peak is None else peak.value


def _side(finding: Finding) -> int:
    return View.parse(str(finding.record.cell["view"])).crop


def machine(finding: Finding) -> str:
    """The device with its threads, torch's version and the precision, as far as the record tells."""
    env = finding.record.environment
    versions = env.get("versions")
    torch_version = versions.get("torch") if isinstance(versions, dict) else None
    device = str(env.get("device", ""))
    parts = [str(env.get("device_name") or device or "unknown machine")]
    if device == "cpu" and env.get("threads"):
        parts.append(f"{env['threads']} threads")
    if torch_version:
        parts.append(f"torch {torch_version}")
    parts.append(str(finding.record.cell["precision"]))
    return ", ".join(parts)


def noise(finding: Finding) -> float:
    """The largest of the spread of the rounds and the load by others, as shares; above ``NOISY`` is too much."""
    shares = [m.value for m in finding.record.measurements if m.metric in ("timing_spread", "other_load")]
    return max(shares, default=0.0)


def _notes(findings: Sequence[Finding], first: int = 1) -> list[str]:
    """What they ran on, and whether it was noisy; ``first`` is the number of the first of them."""
    machines: dict[str, list[int]] = {}
    for number, finding in enumerate(findings, start=first):
        machines.setdefault(machine(finding), []).append(number)
    notes = [f"{name}{'' if len(machines) == 1 else f': {_listed(of)}'}" for name, of in machines.items()]
    noisy = [number for number, finding in enumerate(findings, start=first) if noise(finding) > NOISY]
    if noisy:
        spread = max(_worst(finding, "timing_spread") for finding in findings)
        load = max(_worst(finding, "other_load") for finding in findings)
        of = "all models" if len(noisy) == len(findings) else f"models {_listed(noisy)}"
        notes.append(
            f"this machine was noisy for {of}: rounds up to {100 * spread:.0f} % apart, other processes had up to "
            f"{100 * load:.0f} % of it; measure again when it is idle"
        )
    return notes


def _worst(finding: Finding, metric: str) -> float:
    return max((m.value for m in finding.record.measurements if m.metric == metric), default=0.0)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


# --- pictures --------------------------------------------------------------------------------------------------


def _overview(findings: Sequence[Finding]) -> Figure:
    notes = _notes(findings)
    height = max(4.2, 1.2 + _ROW_IN * len(findings) * max(1, len(_batches(findings[0])) / 2)) + 0.17 * len(notes)
    longest = max(len(finding.label) for finding in findings)
    figure = new_figure(10.0 + 0.06 * longest, height, title="what models cost")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    if height > _TALL_IN:
        left.set_box_aspect(1)
        left.set_anchor("N")
    _bubbles(left, findings)
    _by_batch(right, findings)
    figure.supxlabel(plain("\n".join(notes)), fontsize=NOTE_PT, x=0.01, ha="left")
    return figure


def _bubbles(axes: Axes, findings: Sequence[Finding]) -> None:
    largest = [_batches(finding)[-1] for finding in findings]
    x = np.array([_value(finding, "macs") for finding in findings])
    rows = [_row(finding, "throughput", batch) for finding, batch in zip(findings, largest, strict=True)]
    y = np.array([row.value for row in rows if row is not None])
    low = np.array([row.value if row.low is None else row.low for row in rows if row is not None])
    high = np.array([row.value if row.high is None else row.high for row in rows if row is not None])
    sizes = np.array([_value(finding, "parameters") for finding in findings])
    batches = sorted(set(largest))
    frame(
        axes,
        title=f"area: parameters, {sizes.max():.3g} M the largest",
        x_label="MACs of an image (billions)",
        y_label=f"images/s, {'' if len(batches) == 1 else 'up to '}{batches[-1]} at once",
    )
    area = 25 + 700 * sizes / max(float(sizes.max()), 1e-9)
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(findings))]
    axes.errorbar(x, y, yerr=[y - low, high - y], fmt="none", ecolor=GREY, elinewidth=0.8, zorder=1)
    axes.scatter(x, y, s=area, c=colours, alpha=0.55, linewidths=0.8, edgecolors="white", zorder=2)
    _logarithmic(axes, x, low, high)
    if len(findings) > 1:
        to_axes = axes.transData + axes.transAxes.inverted()
        places = to_axes.transform(np.column_stack([x, y]))
        for members in _near(places):
            axes.annotate(
                _listed([i + 1 for i in members]),
                (float(x[members].mean()), float(y[members].max())),
                xytext=(0, 3 + math.sqrt(float(area[members].max()) / math.pi)),
                textcoords="offset points",
                fontsize=TICK_PT,
                ha="center",
            )


def _logarithmic(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Logarithmic axes with room for the bubbles; near 0 the one of MACs is linear, for a model that has none."""
    axes.set_yscale("log")
    axes.set_ylim(float(low.min()) / 1.8, float(high.max()) * 1.8)
    if not x.any():
        axes.set_xlim(-1, 1)
    elif x.all():
        axes.set_xscale("log")
        axes.set_xlim(float(x.min()) / 2, float(x.max()) * 2)
    else:
        axes.set_xscale("symlog", linthresh=float(x[x > 0].min()))
        axes.set_xlim(-0.5 * float(x[x > 0].min()), float(x.max()) * 2)
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axes, axis)


def _plain_numbers(axes: Axes, axis: Axis) -> None:
    """Numbers without powers of ten; on a short axis 2 and 5 times these, too."""
    low, high = axis.get_view_interval()
    short = low > 0 and high / low < 30
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if short and f"{value:e}"[0] in "25" else "")
    axes.tick_params(which="minor", labelsize=TICK_PT)


def _near(places: np.ndarray) -> list[list[int]]:
    """Places (N, 2) in shares of the axes, in groups of those that a label each would lie upon each other."""
    groups: list[list[int]] = []
    for i, place in enumerate(places):
        touching = [group for group in groups if (np.abs(places[group] - place) < _NEAR).all(axis=1).any()]
        groups = [group for group in groups if group not in touching]
        groups.append(sorted([i, *(member for group in touching for member in group)]))
    return groups


def _by_batch(axes: Axes, findings: Sequence[Finding]) -> None:
    frame(axes, title="throughput by batch size, slowest to fastest round", x_label="images/s")
    sizes = sorted({batch for finding in findings for batch in _batches(finding)})
    for place, batch in enumerate(sizes):
        shift = 0.5 * ((place + 0.5) / len(sizes) - 0.5)
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        label: str | None = str(batch)
        for number, finding in enumerate(findings):
            row = _row(finding, "throughput", batch)
            if row is not None and row.low is not None and row.high is not None:
                axes.errorbar(
                    [row.value],
                    [number + shift],
                    xerr=[[row.value - row.low], [row.high - row.value]],
                    fmt=marker,
                    color=colour,
                    markersize=5,
                    elinewidth=1.0,
                    label=label,
                )
                label = None
    axes.set_xscale("log")
    _plain_numbers(axes, axes.xaxis)
    names = [plain(f"{number}  {finding.label}") for number, finding in enumerate(findings, start=1)]
    axes.set_yticks(range(len(findings)), names)
    axes.set_ylim(len(findings) - 0.4, -0.6)
    axes.legend(title="batch size", title_fontsize=TICK_PT, fontsize=TICK_PT, frameon=False, loc="best")


_COLUMNS = ("", "model", "res.", "params (M)", "FLOPs (B)*", "memory (MiB)**", "im/s", "latency (ms)", "noise (%)")


def _drawn_table(findings: Sequence[Finding], first: int) -> Figure:
    from matplotlib.transforms import Bbox

    longest = max(len(finding.label) for finding in findings)
    batches = sorted({batch for finding in findings for batch in _batches(finding)})
    of_allocator = all(_row(finding, "peak_memory", _batches(finding)[-1]) is not None for finding in findings)
    notes = [
        f"memory and im/s with {batches[-1]} images at once, latency with {batches[0]}",
        "* multiply-accumulates, as papers count them",
        "** the most that the allocator handed out"
        if of_allocator
        else "** weights, images and the tensors of a pass, without what kernels need inside themselves",
        *_notes(findings, first),
    ]
    height = 0.75 + _ROW_IN * (len(findings) + 1) + 0.17 * len(notes)
    figure = new_figure(7.4 + 0.075 * longest, height, title="what models cost")
    axes = figure.subplots()
    axes.set_axis_off()
    rows = [[str(number), *_cells(finding)] for number, finding in enumerate(findings, start=first)]
    widths = [4, longest + 2, *(len(name) + 2 for name in _COLUMNS[2:])]
    table = axes.table(
        cellText=[[plain(cell) for cell in row] for row in rows],
        colLabels=_COLUMNS,
        colWidths=[width / sum(widths) for width in widths],
        cellLoc="right",
        colLoc="right",
        bbox=Bbox.unit(),
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(LABEL_PT - 0.5)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("#c8c8c8")
        cell.set_linewidth(0.6)
        if column == 1:
            cell.set_text_props(ha="left")
        if row == 0:
            cell.set_text_props(weight="bold")
    figure.supxlabel(plain("\n".join(notes)), fontsize=NOTE_PT, x=0.01, ha="left")
    return figure


def _cells(finding: Finding) -> list[str]:
    batches = _batches(finding)
    return [
        finding.label,
        str(_side(finding)),
        f"{_value(finding, 'parameters'):.4g}",
        f"{_value(finding, 'macs'):.4g}",
        f"{_memory(finding, batches[-1]):.4g}",
        f"{_value(finding, 'throughput', batches[-1]):.4g}",
        f"{_value(finding, 'latency', batches[0]):.4g}",
        f"{100 * noise(finding):.0f}",
    ]


# --- tables for machines ---------------------------------------------------------------------------------------


def _all_numbers(findings: Sequence[Finding]) -> Table:
    of_model = ("parameters", "macs", "flops", "weight_memory")
    of_batch = ("activation_memory", "working_memory", "peak_memory")
    timed = ("latency", "throughput")
    header = [
        *("model", "input_px", "parameters_million", "macs_billion", "flops_billion", "weight_memory_mib", "batch"),
        *(f"{metric}_mib" for metric in of_batch),
        *("latency_ms", "latency_p10_ms", "latency_p90_ms", "images_per_s", "slowest_round", "fastest_round"),
        *("timing_spread", "other_load", "machine"),
    ]
    rows: list[list[JSONScalar]] = []
    for finding in findings:
        fixed = [_value(finding, metric) for metric in of_model]
        for batch in _batches(finding):
            memory = [None if (row := _row(finding, metric, batch)) is None else row.value for metric in of_batch]
            times: list[JSONScalar] = []
            for metric in timed:
                row = _row(finding, metric, batch)
                times += [None] * 3 if row is None else [row.value, row.low, row.high]
            load = _row(finding, "other_load")
            noisy: list[JSONScalar] = [_value(finding, "timing_spread", batch), None if load is None else load.value]
            rows.append([finding.label, _side(finding), *fixed, batch, *memory, *times, *noisy, machine(finding)])
    return Table(header=header, rows=rows)


def _papers_columns(findings: Sequence[Finding]) -> Table:
    """One row a model, at its largest batch: "FLOPs" are multiply-accumulates here, as in the papers."""
    rows: list[list[JSONScalar]] = []
    for finding in findings:
        batch = _batches(finding)[-1]
        rows.append(
            [
                finding.label,
                _side(finding),
                _value(finding, "macs"),
                _value(finding, "parameters"),
                _memory(finding, batch),
                "allocator" if _row(finding, "peak_memory", batch) else "tensors",
                _value(finding, "throughput", batch),
                batch,
                machine(finding),
                noise(finding) > NOISY,
            ]
        )
    header = (
        "model",
        "res",
        "FLOPs (B)",
        "params (M)",
        "memory (MiB)",
        "memory of",
        "im/s",
        "batch",
        "machine",
    )
    return Table(header=(*header, "noisy"), rows=rows)
