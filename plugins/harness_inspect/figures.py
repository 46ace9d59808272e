"""How the pictures of all inspections look: paper, letters, colours, maps, and images beside them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette for all kinds of colour vision, without the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
GREY = "#6b6b6b"
MAP_COLOURS = "viridis"
"""For values from 0 up: lightness rises evenly with the value."""
SIGNED_COLOURS = "RdBu_r"
"""For values around 0, drawn with equal ends."""
TITLE_PT, LABEL_PT, TICK_PT, NOTE_PT = 11.0, 9.0, 8.0, 7.5

_DPI = 150


def new_figure(width_in: float, height_in: float, *, title: str = "") -> Figure:
    """An empty white figure of that size in inches; matplotlib's global state is neither used nor changed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(plain(title), fontsize=TITLE_PT, x=0.01, ha="left")
    return figure


def plain(text: str) -> str:
    """``text`` without what matplotlib takes for mathematics."""
    return text.replace("$", r"\$")


def frame(axes: Axes, *, title: str = "", x_label: str = "", y_label: str = "") -> None:
    """Title and labels in the house's sizes, no lines above and at the right, a light grid behind."""
    axes.set_title(plain(title), fontsize=LABEL_PT, loc="left")
    axes.set_xlabel(plain(x_label), fontsize=LABEL_PT)
    axes.set_ylabel(plain(y_label), fontsize=LABEL_PT)
    axes.tick_params(labelsize=TICK_PT, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e3e3e3", linewidth=0.6)
    axes.set_axisbelow(True)


def show_map(axes: Axes, values: npt.NDArray[Any], *, title: str = "", **given: Any) -> Any:
    """A map (rows, columns) in colours, each value a square; ``given`` goes to ``imshow``. Returns what a bar needs."""
    shown = axes.imshow(values, **{"cmap": MAP_COLOURS, "interpolation": "nearest", **given})
    bare(axes, title)
    return shown


def show_image(axes: Axes, pixels: npt.NDArray[np.uint8], *, title: str = "") -> None:
    """An image (3, H, W) uint8."""
    axes.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
    bare(axes, title)


def show_overlay(axes: Axes, pixels: npt.NDArray[np.uint8], weights: npt.NDArray[Any], *, title: str = "") -> None:
    """A map (rows, columns) of values from 0 up over its image (3, H, W) uint8 in grey: the more, the more colour.

    Bilinear between the cells' centres; the largest value has the last of the colours, whatever it is.
    """
    grey = pixels.astype(np.float64).mean(axis=0) / 255
    height, width = grey.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    shares = weights.astype(np.float64) / max(float(weights.max()), np.finfo(np.float64).tiny)
    axes.imshow(grey, cmap="gray", vmin=-0.1, vmax=1.1, interpolation="nearest")
    alpha = 0.35 + 0.4 * shares
    axes.imshow(shares, cmap="inferno", vmin=0, vmax=1, alpha=alpha, extent=extent, interpolation="bilinear")
    bare(axes, title)


def in_lines(text: str, characters: int) -> str:
    """``text`` in lines of so many characters at most, broken behind spaces and marks within names where possible."""
    lines = [""]
    for part in re.split(r"(?<=[,:_/+ -])|(?<=[.@])(?=[a-z])", text):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > characters:
            lines.append("")
        lines[-1] += part
        while len(lines[-1].rstrip()) > characters:
            lines[-1:] = [lines[-1][:characters], lines[-1][characters:]]
    return "\n".join(line.strip() for line in lines)


def bare(axes: Axes, title: str = "") -> None:
    """No ticks, no frame, and a small title."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(plain(title), fontsize=TICK_PT)


def as_bytes(images: Any) -> npt.NDArray[np.uint8]:
    """Images (N, 3, H, W) in [0, 1], a tensor on any device, as (N, 3, H, W) uint8: what is kept to be shown."""
    found: npt.NDArray[np.uint8] = (images.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return found
