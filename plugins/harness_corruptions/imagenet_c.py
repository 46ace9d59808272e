"""The dataset ``imagenet_c``: the published files of ImageNet-C, which are read as they are and never resized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness import views
from harness.errors import DataError
from harness.imagenet_classes import imagenet_wnids
from harness.label_maps import IMAGENET
from harness.params import checked
from harness.protocols import DatasetInfo, SplitIndex
from harness.types import View
from harness_corruptions.imagenet_c_folders import find_severity, fingerprint, list_files
from harness_corruptions.imagenet_c_parameters import Corruption, ImageNetCParams

if TYPE_CHECKING:
    from harness.types import ImageBatch

SPLIT = "test"
VIEW = View.parse("imagenet_c")


class ImageNetC:
    """One corruption of ImageNet-C at one severity (Hendrycks and Dietterich, arXiv 1903.12261), as published.

    The files are photographs of ImageNet's validation set that were resized and cut to 224 pixels, corrupted, and
    stored as JPEG of quality 85: here they are decoded and their centre is cut, and nothing else. The one split is
    called ``test``. Classes are ImageNet's 1000, however few of them are there. A photograph has the same id,
    ``WNID/FILE``, under every corruption and severity, so that cells can be compared image by image.

    Parameters as in :class:`harness_corruptions.imagenet_c_parameters.ImageNetCParams`. The files are listed once, by
    their names, and 32 are read for the fingerprint; afterwards nothing changes, so threads may share it. Raises
    :class:`~harness.errors.DataError` for a folder that is not laid out as ImageNet-C.
    """

    def __init__(
        self, *, root: str, corruption: Corruption, severity: int, on_error: Literal["fail", "skip"] = "fail"
    ) -> None:
        given = ImageNetCParams(root=root, corruption=corruption, severity=severity, on_error=on_error)
        params = checked(given, "imagenet_c")
        self._skip = params.on_error == "skip"
        wnids = imagenet_wnids()
        folder = find_severity(Path(params.root).expanduser().absolute(), params.corruption, params.severity)
        self._files = list_files(folder, wnids)
        self._index = SplitIndex(ids=self._files.ids, labels=self._files.labels)
        self._info = DatasetInfo(
            name="imagenet_c",
            classes=wnids,
            label_space=IMAGENET,
            splits=(SPLIT,),
            query_split=SPLIT,
            whole_split=SPLIT,
            support_split=None,
            fingerprint=fingerprint(self._files, tolerate_unreadable=self._skip),
            view=VIEW,
        )

    @property
    def info(self) -> DatasetInfo:
        """Classes, split, view and fingerprint."""
        return self._info

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is missing of the published set or was left out."""
        return self._files.notes

    def index(self, split: str) -> SplitIndex:
        """Ids and labels of ``test``. Raises :class:`~harness.errors.DataError` for another split."""
        if split != SPLIT:
            raise DataError(f"{self._files.folder}: no split {split!r}; there is only {SPLIT}")
        return self._index

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """Decode the images at ``positions`` and cut their centre, on the CPU, in that order.

        Raises :class:`~harness.errors.DataError` for a view that resizes, for an image that cannot be decoded (or
        leaves it out under ``on_error="skip"``), and for one smaller than the crop; IndexError for a position outside
        the split.
        """
        index = self.index(split)
        if view.resize is not None:
            raise DataError(
                f"imagenet_c: view {view.text} resizes, but these files are the finished 224 x 224 pixels; resizing "
                "them once more is the classic error with ImageNet-C, and blurs every corruption",
                hint="use --view imagenet_c",
            )
        pixels = np.empty((len(positions), 3, view.crop, view.crop), dtype=np.uint8)
        kept: list[int] = []
        for position in map(int, positions):
            if not 0 <= position < len(index):
                raise IndexError(f"position {position} of split {split!r}, which has {len(index)} images")
            path = self._files.folder / index.ids[position]
            try:
                image = views.decode(path)
            except views.FileUnavailableError:
                raise
            except DataError as error:
                if self._skip:
                    continue
                hint = "on_error=skip leaves such images out, and says how many"
                raise DataError(error.message, hint=f"{error.hint} {hint}" if error.hint else hint) from error
            if min(image.size) < view.crop:
                raise DataError(
                    f"{path}: {image.width} x {image.height} pixels cannot fill the crop of {view.crop}; the files of "
                    "ImageNet-C have 224 x 224",
                    hint="other images than these are read by the dataset folder",
                )
            pixels[len(kept)] = views.render(image, view, name=str(path))
            kept.append(position)
        return views.to_batch(
            pixels[: len(kept)],
            labels=index.labels[kept],
            ids=[index.ids[position] for position in kept],
            positions=kept,
        )
