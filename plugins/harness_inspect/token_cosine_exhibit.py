"""How alike tokens are along the depth of a network, as lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.exhibits import Exhibit, Finding
from harness_inspect.attention_pictures import line_of_blocks, measured, metric_table, note, number_blocks
from harness_inspect.figures import GREY, TICK_PT, frame, new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from harness.types import Measurement

_LINES = 10
_METRIC = "token_cosine_of_block"


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """A line for every model, condition and pair of tokens; ten to a picture."""
    lines = [
        (f"{finding.label}: {pair}", [row for row in measured(finding, _METRIC) if row.dims["tokens"] == pair])
        for finding in findings
        for pair in dict.fromkeys(str(row.dims["tokens"]) for row in measured(finding, _METRIC))
    ]
    count = math.ceil(len(lines) / _LINES)
    pages = [_page(lines[i * _LINES : (i + 1) * _LINES]) for i in range(count)]
    return Exhibit(
        pictures={"" if i == 0 else f"page{i + 1}": page for i, page in enumerate(pages)},
        tables={"": metric_table(findings, ["token_cosine", _METRIC])},
    )


def _page(lines: Sequence[tuple[str, list[Measurement]]]) -> Figure:
    longest = max(len(label) for label, _ in lines)
    figure = new_figure(5.4 + 0.078 * longest, 3.9, title="cosine between tokens")
    axes = figure.subplots()
    frame(axes, x_label="block (network depth)", y_label="cosine, mean over images")
    axes.axhline(0, color=GREY, linewidth=0.8)
    for style, (label, rows) in enumerate(lines):
        line_of_blocks(axes, rows, style=style, label=label)
    number_blocks(axes, [int(str(row.dims["block"])) for _, rows in lines for row in rows])
    axes.set_ylim(top=1.03)
    figure.legend(loc="outside right upper", fontsize=TICK_PT, frameon=False)
    note(figure, "bands: 95 % intervals over images")
    return figure
