"""Descriptor of the dataset ``folder``: images from a folder of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.entries import DatasetEntry
from harness.hookspecs import hookimpl
from harness.params import param

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderParams:
    """Parameters of ``folder``. What the folder holds enters a key through the dataset's fingerprint."""

    root: str = param(help="the folder; --data DIR sets it", locates=True)
    labels: str | None = param(
        None,
        help="CSV with a column 'file' and a class column, beside the images or a path; 'folders' reads the classes "
        "from the folders' names; by default labels.csv where the root has one, else 'folders'",
        locates=True,
    )
    label_column: str | None = param(
        None,
        help="the CSV's class column; by default the first there is of wnid, class_index, label, class_name",
        locates=True,
    )
    label_space: str | None = param(
        None,
        help="the classes' label space, such as imagenet1k; imagenet_a, imagenet_r and imagenet16 are those that an "
        "ImageNet head can be read in; 'own' numbers the names in sorted order even if they are ImageNet ids; by "
        "default imagenet1k for ImageNet ids, else one derived from the class names",
    )
    class_depth: int = param(1, help="how many folder levels make a class name", unit="levels", low=1, high=8)
    support_fraction: float = param(
        0.5,
        help="share of each class that probes learn from, where the folder has no split folders",
        unit="of the images",
        low=0,
        high=1,
    )
    on_error: Literal["fail", "skip"] = param("fail", help="what to do about an image that cannot be decoded")


@hookimpl
def harness_register_datasets() -> Iterable[DatasetEntry]:
    """Offer ``folder``."""
    yield DatasetEntry(
        name="folder",
        target="harness_datasets.image_folder:ImageFolder",
        summary="labelled images: class folders with or without train/val/test, or a CSV of labels",
        params=FolderParams,
        offline=False,
    )
