"""Clean accuracy held against what was published: the cheapest guard against wrong preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.planning import Pass, PlannedCell
    from harness.types import Measurement, ResultRecord

LABEL_SPACE = "imagenet1k"
CLASSES, PER_CLASS = 1000, 50
"""What the validation set of ImageNet-1k is known by: 50 images of each of its classes."""


def accuracy_warnings(passes: Iterable[Pass], records: Mapping[str, ResultRecord]) -> Iterator[str]:
    """A sentence for every clean accuracy on all of ImageNet's validation images that cannot be the published one.

    The interval of the record (95 %) must hold the published number. Looked at are presets as they stand, with their
    pretrained weights, in the view of the publication, read by their own head. ``records``: by key.
    """
    for walk in passes:
        published = walk.model.published_top1
        if published is None or walk.view != walk.model.published_view or not _is_validation_set(walk):
            continue
        for cell in walk.cells:
            found = _clean_top1(cell, records)
            if found is None or found.low is None or found.high is None or found.low <= published / 100 <= found.high:
                continue
            name = walk.model.ref.name
            yield (
                f"{name}: clean top-1 is {100 * found.value:.2f} % [{100 * found.low:.2f}, {100 * found.high:.2f}] on "
                f"ImageNet's validation images, but {published:g} % was published for these weights: labels or "
                f"preprocessing are not what they were evaluated with, and no other number of this model can be trusted"
                f" before that is found (harness show model {name} prints the view, mean and std it expects)"
            )


def _is_validation_set(walk: Pass) -> bool:
    dataset = walk.dataset
    info = dataset.dataset.info
    if info.label_space != LABEL_SPACE or dataset.baselined or len(info.classes) != CLASSES:
        return False
    labels = dataset.dataset.index(walk.split).labels
    return bool((np.bincount(labels, minlength=CLASSES) == PER_CLASS).all())


def _clean_top1(cell: PlannedCell, records: Mapping[str, ResultRecord]) -> Measurement | None:
    """The first top-1 over all images: that of the default head."""
    reads_head = cell.probe.needs_label_space and not cell.probe.learns and cell.cell.control is None
    record = records.get(cell.key)
    if not (reads_head and cell.perturbation.is_clean) or record is None:
        return None
    rows = (row for row in record.measurements if row.metric == "top1" and row.n == CLASSES * PER_CLASS)
    return next(rows, None)
