"""Images beside the map by which they were gathered, or the maps of the classes that were thought of, with numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.exhibits import Exhibit
from harness_inspect.attention_pictures import (
    chief_first,
    column_title,
    example_pages,
    interval_chart,
    metric_table,
    note,
)
from harness_inspect.attention_pool_maps_probe import (
    CLASS_MAPS,
    IMAGE,
    LABEL_NAMES,
    MAP,
    NAMES,
    PROBABILITIES,
    decoded,
)
from harness_inspect.figures import new_figure, show_image, show_overlay
from harness_inspect.inspection import SHOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from harness.exhibits import Finding

_TITLE = "what the class token gathers"
_IMAGES = 6
"""Rows of a page of class maps."""
_CELL_IN = 1.35
_CHARTED = {
    "effective number of patches": ("effective_patches",),
    "share on the object (grey: its area)": ("pool_on_object", "object_area"),
    "share over area": ("pool_object_lift",),
    "distance to the mean class": ("class_map_distance",),
}
_METRICS = (
    "effective_patches", "effective_share", "pool_entropy", "pool_on_object", "object_area", "pool_object_lift",
    "class_map_distance", "special_token_mass",
)  # fmt: skip


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """Images with their maps, those of classes apart for models that have one of each; and a chart of all numbers."""
    single = [finding for finding in findings if f"{SHOWN}{CLASS_MAPS}" not in finding.arrays]
    pages = example_pages(single, image=IMAGE, shown=MAP, mean=MAP, title=_TITLE, said=_said)
    by_class: dict[str, Figure] = {}
    for finding in findings:
        if f"{SHOWN}{CLASS_MAPS}" in finding.arrays:
            by_class |= _class_pages(finding)
    chart = interval_chart(findings, _CHARTED, title=_TITLE)
    numbers = {} if chart is None else {"numbers": chart}
    return Exhibit(pictures=chief_first(pages, by_class, numbers), tables={"": metric_table(findings, _METRICS)})


def _said(finding: Finding, image: int) -> tuple[str, str]:
    """The class of an image, and that which was predicted of it, where anything was."""
    own = decoded(finding.arrays[f"{SHOWN}{LABEL_NAMES}"][image])
    predicted = decoded(finding.arrays[f"{SHOWN}{NAMES}"][image, 0])
    return own, "" if not predicted else "predicted right" if predicted == own else f"predicted: {predicted}"


def _class_pages(finding: Finding) -> dict[str, Figure]:
    count = len(finding.arrays[f"{SHOWN}{IMAGE}"])
    starts = range(0, count, _IMAGES)
    return {
        f"{finding.label} page{number}" if number > 1 else finding.label: _class_page(
            finding, range(start, min(start + _IMAGES, count))
        )
        for number, start in enumerate(starts, start=1)
    }


def _class_page(finding: Finding, images: range) -> Figure:
    pixels, maps = finding.arrays[f"{SHOWN}{IMAGE}"], finding.arrays[f"{SHOWN}{CLASS_MAPS}"]
    names, chances = finding.arrays[f"{SHOWN}{NAMES}"], finding.arrays[f"{SHOWN}{PROBABILITIES}"]
    # The map of the image's own class stands ahead of those of the highest-scored ones, where the model has it.
    own = _has_own(finding)
    figure = new_figure(
        0.4 + (1 + maps.shape[1]) * (_CELL_IN + 0.1),
        0.9 + len(images) * (_CELL_IN + 0.42),
        title=f"{_TITLE}, by class: {finding.label}",
    )
    places = figure.subplots(len(images), 1 + maps.shape[1], squeeze=False)
    for line, image in zip(places, images, strict=True):
        show_image(line[0], pixels[image])
        column_title(line[0], decoded(finding.arrays[f"{SHOWN}{LABEL_NAMES}"][image]))
        for rank, axes in enumerate(line[1:]):
            show_overlay(axes, pixels[image], maps[image, rank])
            place = rank if own else rank + 1
            told = f"{place}. {decoded(names[image, rank])}," if place else "own class,"
            column_title(axes, f"{told} {_percent(chances[image, rank])}")
    first = "the image and its class; the map of that class; " if own else "the image and its class; "
    note(figure, f"{first}maps of the classes of the highest scores; each from 0 to its own largest value")
    return figure


def _has_own(finding: Finding) -> bool:
    return any(row.dims.get("map") == "true" for row in finding.record.measurements)


def _percent(share: float) -> str:
    """In whole percent, the sign on the same line as the number."""
    return "<1\u00a0%" if share < 0.005 else f"{100 * share:.0f}\u00a0%"
