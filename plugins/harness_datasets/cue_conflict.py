"""Descriptor of the dataset ``cue_conflict``: images with the shape of one class and the texture of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import DatasetEntry
from harness.hookspecs import hookimpl
from harness.params import param

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class CueConflictParams:
    """Parameters of ``cue_conflict``. What the folder holds enters a key through the dataset's fingerprint."""

    root: str = param(
        help="the folder with a folder for each shape class, or one above it; --data DIR sets it", locates=True
    )
    side_px: int = param(
        224, help="side of the images, which are shown as they are stored", unit="pixels", low=1, high=4096
    )


@hookimpl
def harness_register_datasets() -> Iterable[DatasetEntry]:
    """Offer ``cue_conflict``."""
    yield DatasetEntry(
        name="cue_conflict",
        target="harness_datasets.cue_conflict_folder:CueConflictFolder",
        summary="stimuli with the shape of one of 16 classes and the texture of another, to measure shape bias",
        params=CueConflictParams,
        label_space="imagenet16",
        offline=False,
    )
