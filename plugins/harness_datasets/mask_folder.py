"""The dataset ``masks``: a folder of images and a folder of masks, matched by name."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import DataError, ParameterError
from harness.params import checked
from harness.protocols import DatasetInfo
from harness.types import Ids, digest
from harness_datasets.class_folders import SUFFIXES
from harness_datasets.classes import ClassSet
from harness_datasets.mask_numbers import ClassNumbers, ForegroundNumbers, default_void, look
from harness_datasets.masked_images import (
    MaskedFiles,
    MaskedImages,
    existing_folder,
    masked_fingerprint,
    named,
    of_every_mask,
)
from harness_datasets.segmentation import MasksParams

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness_datasets.segmentation import MaskKind

_SPLIT = "all"
_MOST_CLASSES = 254


class MaskFolder(MaskedImages):
    """Images with masks of the same names but for the ending; parameters as in ``MasksParams``.

    Masks number what each pixel shows, by palette index or grey value. Of ``kind="classes"`` every number but those of
    background and void is a class: number c is called ``"c"`` and is label c - 1; the label of an image is that of its
    largest region, and an image without any has the last label, ``nothing``. Of ``kind="foreground"`` whatever is
    neither background nor void is the object, and every image has the label of the single class ``object``. ``auto``
    looks at 32 masks: more than one number besides background and void makes them classes. ``void`` is 255 among
    classes, and nothing in a foreground, unless given.

    Folders inside ``images`` and ``masks`` are read as well, hidden files passed over. Everything is listed when the
    dataset is made; where masks tell classes each is read then, unless ``classes`` says how many there are.

    Raises :class:`~harness.errors.DataError` for images without a mask or masks without an image, and for masks that
    are not of the kind said or found; :class:`~harness.errors.ParameterError` for parameters that contradict each
    other.
    """

    def __init__(
        self,
        *,
        root: str,
        images: str = "images",
        masks: str = "masks",
        kind: MaskKind = "auto",
        classes: int | None = None,
        background: int = 0,
        void: int | None = None,
    ) -> None:
        params = checked(
            MasksParams(
                root=root, images=images, masks=masks, kind=kind, classes=classes, background=background, void=void
            ),
            "masks",
        )
        base = existing_folder(
            Path(root).expanduser().absolute(), "images and masks", "give the folder of both with --data DIR"
        )
        image_folder = existing_folder(base / Path(images).expanduser(), "images", "images=NAME is a folder of root")
        mask_folder = existing_folder(base / Path(masks).expanduser(), "masks", "masks=NAME is a folder of root")
        files = _matched(image_folder, mask_folder)
        reading, labels = _reading(params, files, mask_folder)
        names = _class_set(reading)
        info = DatasetInfo(
            name="masks",
            classes=names.names,
            label_space=names.label_space,
            splits=(_SPLIT,),
            query_split=_SPLIT,
            whole_split=_SPLIT,
            support_split=None,
            fingerprint=masked_fingerprint(names, {_SPLIT: files}, images=image_folder, masks=mask_folder),
        )
        known = None if labels is None else {_SPLIT: labels}
        super().__init__(info, {_SPLIT: files}, reading, images=image_folder, masks=mask_folder, labels=known)


def _reading(
    params: MasksParams, files: MaskedFiles, masks: Path
) -> tuple[ForegroundNumbers | ClassNumbers, npt.NDArray[np.int64] | None]:
    """What the numbers mean, and the labels where every mask had to be read to know."""
    background, void = params.background, params.void
    if params.kind == "foreground":
        return ForegroundNumbers(background=background, void=void), np.zeros(len(files), np.int64)
    guess = look(files, masks, background=background, void=void) if params.kind == "auto" else None
    if guess is not None:
        if params.classes is not None:
            raise ParameterError(
                f"masks: classes={params.classes} has no effect: the masks in {masks} look like those of a foreground",
                hint="say kind=classes if they tell classes",
            )
        return guess, np.zeros(len(files), np.int64)
    void = default_void(background) if void is None else void
    if params.classes is not None:
        return ClassNumbers(background=background, void=void, classes=params.classes), None
    any_number = ClassNumbers(background=background, void=void, classes=_MOST_CLASSES)

    def highest_and_label(mask: Path) -> tuple[int, int]:
        regions = any_number.regions(mask)
        highest = int(np.where(regions <= _MOST_CLASSES, regions, 0).max(initial=0))
        return highest, any_number.label(mask, regions)

    found = of_every_mask(highest_and_label, files, masks)
    count = max(highest for highest, _ in found)
    if count == 0:
        raise DataError(
            f"{masks}: not one of {len(files)} masks holds a class, only background {background}"
            + ("" if void is None else f" and void {void}"),
            hint="masks of a foreground are read with kind=foreground",
        )
    labels = np.array([min(label, count) for _, label in found], dtype=np.int64)
    return ClassNumbers(background=background, void=void, classes=count), labels


def _class_set(reading: ForegroundNumbers | ClassNumbers) -> ClassSet:
    if isinstance(reading, ForegroundNumbers):
        return ClassSet(names=("object",), label_space="foreground")
    names = (*(str(number) for number in range(1, reading.classes + 1)), "nothing")
    return ClassSet(names=names, label_space=f"classes:{digest(names)[:12]}")


def _matched(images: Path, masks: Path) -> MaskedFiles:
    """The images with their masks, sorted by name."""
    of_images, of_masks = _by_stem(images), _by_stem(masks)
    if not of_images:
        raise DataError(f"{images}: no images", hint=f"images end in {', '.join(SUFFIXES)}")
    for these, others, what, other, where in (
        (of_images, of_masks, "images", "mask", masks),
        (of_masks, of_images, "masks", "image", images),
    ):
        lonely = sorted(name for stem, name in these.items() if stem not in others)
        if lonely:
            raise DataError(
                f"{len(lonely)} of {len(these)} {what} have no {other} in {where}: {named(lonely)}",
                hint="an image and its mask have the same name but for the ending; "
                "images=NAME and masks=NAME are the folders",
            )
    stems = sorted(of_images)
    return MaskedFiles(
        ids=Ids(of_images[stem] for stem in stems),
        images=Ids(of_images[stem] for stem in stems),
        masks=Ids(of_masks[stem] for stem in stems),
    )


def _by_stem(folder: Path) -> dict[str, str]:
    """Paths of the visible image files under ``folder``, relative to it, by these paths without their endings."""
    found: dict[str, str] = {}

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename}: the folder cannot be read ({error.strerror})", hint="check its permissions"
        ) from error

    for place, inner, names in os.walk(folder, onerror=refuse):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            path = PurePosixPath(*Path(place, name).relative_to(folder).parts)
            stem = str(path.with_suffix(""))
            try:
                stem.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{folder}: the file name {os.fsencode(str(path))!r} is not UTF-8", hint="rename the file"
                ) from error
            if stem in found:
                raise DataError(f"{folder}: {found[stem]} and {path} differ in their endings only", hint="remove one")
            found[stem] = str(path)
    return found
