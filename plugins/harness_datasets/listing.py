"""What a folder holds, before any image is decoded: ids, labels and file sizes by split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness import rng
from harness.errors import DataError
from harness.types import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from harness.types import Ids
    from harness_datasets.classes import ClassSet

_SAMPLED_FILES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFiles:
    """The images of one split, sorted by label and then by id.

    ``ids`` are paths relative to the root, with forward slashes. ``labels`` and ``sizes`` (bytes): (N,) int64.
    """

    ids: Ids
    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The classes and splits of a folder; ``notes`` are sentences on what was left out."""

    classes: ClassSet
    splits: Mapping[str, LabelledFiles]
    notes: tuple[str, ...] = ()


def fingerprint(root: Path, listing: Listing, *, tolerate_unreadable: bool) -> str:
    """SHA-256 (hex) over classes, and each image's split, id, size and label, and the bytes of 32 images.

    The 32 are those with the lowest keyed hash of their ids. Neither the folder's place nor any time stamp matters.
    Raises :class:`~harness.errors.DataError` for one of them that cannot be read, unless ``tolerate_unreadable``.
    """
    total = hashlib.sha256()
    total.update(canonical_json([listing.classes.label_space, listing.classes.names]).encode())
    candidates: list[tuple[int, str]] = []
    for split, files in sorted(listing.splits.items()):
        total.update(f"\0{split}\0{len(files)}\0".encode())
        for name, size, label in zip(files.ids, files.sizes.tolist(), files.labels.tolist(), strict=True):
            total.update(f"{name}\0{size}\0{label}\0".encode())
        draws = rng.bits(0, "folder.fingerprint", files.ids, 1)[:, 0]
        lowest = np.argsort(draws, kind="stable")[:_SAMPLED_FILES]
        candidates += [(int(draws[row]), files.ids[int(row)]) for row in lowest]
    for _, name in sorted(candidates)[:_SAMPLED_FILES]:
        total.update(_content_digest(root, name, tolerate_unreadable))
    return total.hexdigest()


def _content_digest(root: Path, name: str, tolerate_unreadable: bool) -> bytes:
    try:
        with (root / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        if tolerate_unreadable:
            return b"unreadable"
        raise DataError(
            f"{root / name}: cannot be read ({error.strerror})",
            hint="make it readable, or use on_error=skip to leave such images out",
        ) from error
