"""Rollout as the ViT paper shows it: images beside what of them reaches the class token, and its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.exhibits import Exhibit
from harness_inspect.attention_pictures import chief_first, example_pages, interval_chart, metric_table
from harness_inspect.attention_rollout_probe import IMAGE, MAP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.exhibits import Finding

_CHARTED = {
    "entropy of the map (bits)": ("rollout_entropy",),
    "share on the object (grey: its area)": ("rollout_on_object", "object_area"),
    "share over area": ("rollout_object_lift",),
}
_METRICS = (
    "rollout_entropy", "effective_patches", "rollout_on_object", "object_area", "rollout_object_lift",
    "special_token_mass",
)  # fmt: skip


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """Images with their maps, by model and condition, and a chart of the numbers of all."""
    pages = example_pages(findings, image=IMAGE, shown=MAP, mean=MAP, title="attention rollout")
    chart = interval_chart(findings, _CHARTED, title="attention rollout")
    pictures = chief_first(pages, {} if chart is None else {"numbers": chart})
    return Exhibit(pictures=pictures, tables={"": metric_table(findings, _METRICS)})
