"""What every probe that learns asks of its support table, and of the images it is asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.errors import DataError, HarnessError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from harness.types import FeatureSpec, FeatureTable, ImageBatch, ModelInfo

_ROWS_AT_ONCE = 16384


def require_table(support: FeatureTable | None, spec: FeatureSpec, *, probe: str, model: ModelInfo) -> FeatureTable:
    """``support`` if it is a table of ``spec`` with rows, and every feature is finite.

    A memory-mapped table is read in parts. Raises :class:`~harness.errors.HarnessError` for no table or one of another
    vector, and :class:`~harness.errors.DataError` for an empty one and for NaN or infinite features.
    """
    if support is None or support.spec != spec:
        raise HarnessError(f"{probe}: fit needs support features of its own spec, {spec}")
    if not len(support):
        raise DataError(f"{probe}: the support split is empty", hint="check the dataset's support split")
    bad, first = 0, ""
    for start in range(0, len(support), _ROWS_AT_ONCE):
        rows = np.flatnonzero(~np.isfinite(support.x[start : start + _ROWS_AT_ONCE]).all(axis=1))
        if len(rows) and not bad:
            first = support.ids[start + int(rows[0])]
        bad += len(rows)
    if bad:
        raise DataError(
            f"{probe}: NaN or infinite features of {model.name} for {bad} of {len(support)} support images, "
            f"such as {first}",
            hint="run with --precision fp32; if it persists, the weights or these images are at fault",
        )
    return support


def learned_classes(labels: npt.NDArray[np.int64], classes: Sequence[str], *, probe: str) -> npt.NDArray[np.int64]:
    """The labels that occur, rising: a folder with some of ImageNet's classes has fewer of them than ``classes``.

    Raises :class:`~harness.errors.DataError` for labels outside the dataset's classes.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(
            f"{probe}: support labels reach from {labels.min()} to {labels.max()}, "
            f"the dataset has {len(classes)} classes"
        )
    return np.unique(labels)


def require_learned(batch: ImageBatch, learned: Tensor, classes: Sequence[str], *, probe: str) -> None:
    """Raise :class:`~harness.errors.DataError` for images of a class that had no support images.

    ``learned`` (L,) int64: the labels that had some.
    """
    known = torch.isin(batch.labels, learned.to(batch.labels.device))
    if known.all():
        return
    first = int(torch.nonzero(~known)[0])
    label = int(batch.labels[first])
    raise DataError(
        f"{probe}: image {batch.ids[first]} is of class {classes[label]} (label {label}), which has no support images",
        hint="give every class images in the support split, or leave the class out of the query split",
    )
