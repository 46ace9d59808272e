"""The dataset ``cue_conflict``: a folder per shape class, with files called ``<shape><i>-<texture><j>.png``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness import views
from harness.decision_files import cues_of, stimulus_of
from harness.errors import DataError
from harness.naming import did_you_mean
from harness.protocols import DatasetInfo, SplitIndex
from harness.types import View
from harness_datasets.class_folders import read_class_folders
from harness_datasets.classes import known_classes
from harness_datasets.listing import fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from harness.types import ImageBatch
    from harness_datasets.listing import LabelledFiles

_LABEL_SPACE = "imagenet16"
_SPLIT = "all"
_DEEPEST = 3
"""Folders between the root and the class folders at most: published archives have ``stimuli/NAME`` there."""


class CueConflictFolder:
    """Cue-conflict stimuli of Geirhos et al., "ImageNet-trained CNNs are biased towards texture" (arXiv 1811.12231).

    Of the published set 1280 images of 224 x 224 pixels, 80 for each of 16 shape classes; any set of files of that
    layout and kind of names is read. The class folders lie in ``root`` or up to three levels below it. An image is
    labelled by its shape; ``columns`` of a batch hold ``shape`` and ``texture``, in the order of the label space
    ``imagenet16``, and ``conflict``, 1 where the two differ. An id is ``CLASS/FILE``. Parameters as in
    :class:`harness_datasets.cue_conflict.CueConflictParams`.

    Raises :class:`~harness.errors.DataError` for a folder without class folders, or with several sets of them, and for
    an image whose name does not say its cues, or contradicts its folder.
    """

    def __init__(self, *, root: str, side_px: int = 224) -> None:
        classes = known_classes(_LABEL_SPACE)
        assert classes is not None
        self._root = _class_root(Path(root).expanduser().absolute(), classes)
        self._side_px = side_px
        listing = read_class_folders(self._root, class_depth=1, label_space=_LABEL_SPACE)
        if set(listing.splits) != {_SPLIT}:
            raise DataError(
                f"{self._root}: class folders in split folders {', '.join(sorted(listing.splits))}",
                hint="point root at one of them: the published stimuli are one whole",
            )
        files = listing.splits[_SPLIT]
        self._index = SplitIndex(ids=files.ids, labels=files.labels)
        self._textures = _textures(self._root, files, classes)
        missing = [classes[label] for label in sorted(set(range(len(classes))).difference(files.labels.tolist()))]
        partial = f"no images with the shape of {len(missing)} of the {len(classes)} classes: {', '.join(missing)}"
        self._notes = (*listing.notes, *((partial,) if missing else ()))
        self._info = DatasetInfo(
            name="cue_conflict",
            classes=classes,
            label_space=_LABEL_SPACE,
            splits=(_SPLIT,),
            query_split=_SPLIT,
            whole_split=_SPLIT,
            support_split=None,
            fingerprint=fingerprint(self._root, listing, tolerate_unreadable=False),
            view=View(crop=side_px),
        )

    @property
    def info(self) -> DatasetInfo:
        """Classes, the one split and fingerprint; ``view`` shows images as they are stored."""
        return self._info

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is missing, or was left out."""
        return self._notes

    def index(self, split: str) -> SplitIndex:
        """Ids and labels. Raises :class:`~harness.errors.DataError` for another split than ``all``."""
        if split != _SPLIT:
            raise DataError(f"{self._root}: no split {split!r}; there is {_SPLIT}", hint=did_you_mean(split, [_SPLIT]))
        return self._index

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """Decode the images at ``positions``, on the CPU, in that order; ``view`` may crop them, not resize them.

        Raises :class:`~harness.errors.DataError` for an image that cannot be decoded or is not of ``side_px`` pixels,
        and for a view that resizes. Raises IndexError for a position outside the split.
        """
        import torch

        index = self.index(split)
        if view.resize is not None:
            raise DataError(
                f"cue_conflict: view {view.text} would resize stimuli that are shown as they are stored",
                hint=f"leave --view out, or take one that resizes nothing, such as crop={self._side_px}",
            )
        rows = np.array(positions, dtype=np.int64).reshape(-1)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(index):
            raise IndexError(f"a position of {rows.tolist()} lies outside split {split!r} of {len(index)} images")
        ids = [index.ids[row] for row in rows.tolist()]
        pixels = np.empty((len(rows), 3, view.crop, view.crop), dtype=np.uint8)
        for place, name in enumerate(ids):
            pixels[place] = self._pixels(name, view)
        shape, texture = index.labels[rows], self._textures[rows]
        return views.to_batch(
            pixels,
            labels=shape,
            ids=ids,
            positions=rows,
            columns={
                "shape": torch.from_numpy(shape),
                "texture": torch.from_numpy(texture),
                "conflict": torch.from_numpy((shape != texture).astype(np.int64)),
            },
        )

    def _pixels(self, name: str, view: View) -> npt.NDArray[np.uint8]:
        path, side = self._root / name, self._side_px
        image = views.decode(path)
        if image.size != (side, side):
            width, height = image.size
            raise DataError(
                f"{path}: {width} x {height} pixels, where stimuli are {side} x {side} and are never resized",
                hint=f"is it a whole set of another size? side_px={width} reads that"
                if width == height
                else "stimuli are square",
            )
        return views.render(image, view, name=str(path))


def _class_root(root: Path, classes: Sequence[str]) -> Path:
    """The folder that holds the class folders: ``root`` itself, or the only such folder a few levels below it."""
    level = [_existing_folder(root)]
    for _ in range(_DEEPEST + 1):
        below = {folder: _folders(folder) for folder in level}
        found = [folder for folder, inner in below.items() if any(path.name in classes for path in inner)]
        if len(found) > 1:
            shown = ", ".join(str(path.relative_to(root)) for path in found)
            raise DataError(f"{root}: several folders hold class folders: {shown}", hint="point root at one of them")
        if found:
            return found[0]
        level = [path for inner in below.values() for path in inner]
    raise DataError(
        f"{root}: no folder of a shape class; expected {', '.join(classes[:3])} and others of {len(classes)}",
        hint="the published stimuli lie in stimuli/style-transfer-preprocessed-512 of rgeirhos/texture-vs-shape",
    )


def _existing_folder(path: Path) -> Path:
    try:
        if path.is_dir():
            return path
        exists = path.exists()
    except OSError as error:
        raise DataError(f"{path}: cannot be reached ({error.strerror})", hint="check its permissions") from error
    if exists:
        raise DataError(f"{path}: a file, but a folder of stimuli is expected", hint="unpack an archive first")
    raise DataError(f"{path}: there is no such folder", hint="give the folder of stimuli with --data DIR")


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"{folder}: the folder cannot be read ({error.strerror})", hint="check its permissions"
        ) from error


def _textures(root: Path, files: LabelledFiles, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """(N,): the class of every image's texture, as its name says. Raises :class:`~harness.errors.DataError`."""
    numbers = {name: number for number, name in enumerate(classes)}
    textures = np.empty(len(files), dtype=np.int64)
    first: dict[str, str] = {}
    for row, (name, label) in enumerate(zip(files.ids, files.labels.tolist(), strict=True)):
        cues, stimulus = cues_of(name), stimulus_of(name)
        if cues is None or stimulus is None:
            raise DataError(
                f"{root / name}: its name does not say what it shows",
                hint="stimuli are called SHAPE1-TEXTURE2.png, such as airplane1-bicycle2.png; move other images away",
            )
        shape, texture = cues
        if shape != classes[label]:
            raise DataError(
                f"{root / name}: lies in the folder {classes[label]}, but its name says that its shape is {shape}",
                hint="move or rename it",
            )
        if texture not in numbers:
            raise DataError(
                f"{root / name}: its name says that its texture is {texture!r}, which is none of the {len(classes)} "
                "classes",
                hint=did_you_mean(texture, classes) or f"they are {', '.join(classes)}",
            )
        if (other := first.setdefault(stimulus, name)) != name:
            raise DataError(f"{root}: {other} and {name} are one stimulus, {stimulus}", hint="remove one of them")
        textures[row] = numbers[texture]
    return textures
