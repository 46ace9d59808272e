"""Descriptor of the dataset ``digits``: small real data that need no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import DatasetEntry
from harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def harness_register_datasets() -> Iterable[DatasetEntry]:
    """Offer ``digits``."""
    yield DatasetEntry(
        name="digits",
        target="harness_datasets.handwritten_digits:HandwrittenDigits",
        summary="1,797 handwritten digits of 8x8 pixels, from scikit-learn",
        label_space="digits",
    )
