"""Images with a mask file each: what datasets of segmentations share, whatever their folders look like."""

from __future__ import annotations

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from harness import views
from harness.errors import DataError
from harness.naming import did_you_mean
from harness.protocols import Dataset, DatasetInfo, SplitIndex
from harness.types import Ids
from harness_datasets.listing import LabelledFiles, Listing, fingerprint
from harness_datasets.mask_views import BACKGROUND, VOID, render_mask, require_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from harness.types import ImageBatch, View
    from harness_datasets.classes import ClassSet

_READERS = 4
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedFiles:
    """The images of one split: their ids, and paths of images and masks relative to the folders of these."""

    ids: Ids
    images: Ids
    masks: Ids

    def __len__(self) -> int:
        return len(self.ids)


class MaskReading(Protocol):
    """What the numbers of a dataset's masks mean."""

    def regions(self, mask: Path) -> npt.NDArray[np.uint8]:
        """The regions (H, W) of a mask file: 0 for background, 255 for void, else class numbers."""
        ...

    def label(self, mask: Path, regions: npt.NDArray[np.uint8]) -> int:
        """The label of an image, from the regions of its mask."""
        ...


class MaskedImages(Dataset):
    """A dataset whose batches hold ``regions``, and ``masks`` of what is neither background nor void.

    Labels follow from the masks; those of a split are read, by four threads, when its index is first asked for, unless
    ``labels`` gives them. Threads may share it.
    """

    def __init__(
        self,
        info: DatasetInfo,
        splits: Mapping[str, MaskedFiles],
        reading: MaskReading,
        *,
        images: Path,
        masks: Path,
        labels: Mapping[str, npt.NDArray[np.int64]] | None = None,
    ) -> None:
        self._info = info
        self._splits = dict(splits)
        self._reading = reading
        self._images = images
        self._masks = masks
        self._indices = {
            split: SplitIndex(ids=splits[split].ids, labels=of_split) for split, of_split in (labels or {}).items()
        }

    @property
    def info(self) -> DatasetInfo:
        """Classes, splits and fingerprint."""
        return self._info

    def index(self, split: str) -> SplitIndex:
        """Ids and labels of a split. Raises :class:`~harness.errors.DataError` for an unknown one, and broken masks."""
        files = self._files(split)
        if split not in self._indices:  # two threads that come at once read twice what is the same
            self._indices[split] = SplitIndex(ids=files.ids, labels=self._labels(files))
        return self._indices[split]

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """Decode the images at ``positions`` of ``split`` and their masks under ``view``, on the CPU, in that order.

        Raises :class:`~harness.errors.DataError` naming a file that cannot be decoded, or a mask of another size than
        its image, and IndexError for a position outside the split.
        """
        files = self._files(split)
        wanted = list(map(int, positions))
        pixels = np.empty((len(wanted), 3, view.crop, view.crop), dtype=np.uint8)
        regions = np.empty((len(wanted), view.crop, view.crop), dtype=np.uint8)
        labels = np.empty(len(wanted), dtype=np.int64)
        for row, position in enumerate(wanted):
            if not 0 <= position < len(files):
                raise IndexError(f"position {position} of split {split!r}, which has {len(files)} images")
            path, mask_path = self._images / files.images[position], self._masks / files.masks[position]
            image, of_image = views.decode(path), self._reading.regions(mask_path)
            require_size(of_image, image.size, mask_path, path)
            labels[row] = self._reading.label(mask_path, of_image)
            pixels[row] = views.render(image, view, name=str(path))
            regions[row] = render_mask(of_image, view, name=str(mask_path))
        return self._batch(files, wanted, pixels, regions, labels)

    @staticmethod
    def _batch(
        files: MaskedFiles,
        positions: Sequence[int],
        pixels: npt.NDArray[np.uint8],
        regions: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
    ) -> ImageBatch:
        import torch

        found = torch.from_numpy(regions)
        batch = views.to_batch(
            pixels,
            labels=labels,
            ids=[files.ids[position] for position in positions],
            positions=positions,
            masks=(found != BACKGROUND) & (found != VOID),
        )
        return replace(batch, regions=found)

    def _files(self, split: str) -> MaskedFiles:
        try:
            return self._splits[split]
        except KeyError:
            raise DataError(
                f"{self._images}: no split {split!r}; there are {', '.join(self._splits)}",
                hint=did_you_mean(split, self._splits),
            ) from None

    def _labels(self, files: MaskedFiles) -> npt.NDArray[np.int64]:
        def label(path: Path) -> int:
            return self._reading.label(path, self._reading.regions(path))

        return np.array(of_every_mask(label, files, self._masks), dtype=np.int64)


T = TypeVar("T")


def of_every_mask(read: Callable[[Path], T], files: MaskedFiles, masks: Path) -> list[T]:
    """What ``read`` gives for every mask of ``files`` in the folder ``masks``, by four threads, in order."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="harness-masks") as pool:
        return list(pool.map(read, (masks / name for name in files.masks)))


def masked_fingerprint(classes: ClassSet, splits: Mapping[str, MaskedFiles], *, images: Path, masks: Path) -> str:
    """SHA-256 (hex) over classes, and each image's split, name and size, its mask's, and the bytes of 32 of either.

    Neither the folders' places nor any time stamp matters; labels follow from the masks. Raises
    :class:`~harness.errors.DataError` for files that are not there or cannot be read.
    """
    total = hashlib.sha256()
    for folder, names in ((images, "images"), (masks, "masks")):
        listed = {split: _listed(folder, getattr(files, names)) for split, files in splits.items()}
        listing = Listing(classes=classes, splits=listed)
        total.update(f"{names}\0{fingerprint(folder, listing, tolerate_unreadable=False)}\0".encode())
    return total.hexdigest()


def _listed(folder: Path, names: Ids) -> LabelledFiles:
    sizes, missing = [], []
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError:
            missing.append(name)
            continue
        if not stat.S_ISREG(status.st_mode):
            missing.append(name)
        sizes.append(status.st_size)
    if missing:
        raise DataError(
            f"{folder}: of {len(names)} files these are not there: {named(missing)}", hint="was all of it unpacked?"
        )
    return LabelledFiles(ids=names, labels=np.zeros(len(names), dtype=np.int64), sizes=np.array(sizes, dtype=np.int64))


def existing_folder(path: Path, what: str, hint: str) -> Path:
    """``path`` if it is a folder; :class:`~harness.errors.DataError` otherwise, in words of ``what`` it should hold."""
    try:
        if path.is_dir():
            return path
        exists = path.exists()
    except OSError as error:
        raise DataError(f"{path}: cannot be reached ({error.strerror})", hint="check its permissions") from error
    if exists:
        raise DataError(f"{path}: a file, but a folder of {what} is expected", hint="unpack an archive first")
    raise DataError(f"{path}: there is no such folder, of {what}", hint=hint)


def named(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
