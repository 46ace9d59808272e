"""The dataset ``voc``: PASCAL VOC's images with a segmentation by class, in the layout in which it is distributed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DataError, ParameterError
from harness.params import checked
from harness.protocols import DatasetInfo
from harness.types import Ids
from harness_datasets.classes import ClassSet
from harness_datasets.mask_views import VOID, largest_class, read_mask
from harness_datasets.masked_images import MaskedFiles, MaskedImages, existing_folder, masked_fingerprint
from harness_datasets.segmentation import VocParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness_datasets.segmentation import VocSplit

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Class number c of a mask is ``CLASSES[c - 1]``."""

_SPLITS: tuple[VocSplit, ...] = ("train", "val", "trainval")
_IMAGES = "JPEGImages"
_INSIDE = ("", "VOC2012", "VOCdevkit/VOC2012")


class VocFolder(MaskedImages):
    """PASCAL VOC 2012, segmentation (Everingham et al., IJCV 2015); parameters as in ``VocParams``.

    ``root`` is ``VOCdevkit/VOC2012``, or a folder above it, with ``JPEGImages``, ``SegmentationClass`` and the lists
    ``ImageSets/Segmentation/{train,val,trainval}.txt``, of which one at least must be there. Probes learn from
    ``train`` and are asked about ``query``. ``regions`` are the masks' palette indices: 0 for background, 1 to 20 for
    the classes, 255 for void, the outline of objects. The label of an image is the class of its largest region.

    Raises :class:`~harness.errors.DataError` for folders, lists, images or masks that are not there, and
    :class:`~harness.errors.ParameterError` for a query split that has no list.
    """

    def __init__(self, *, root: str, masks: str = "SegmentationClass", query: VocSplit = "val") -> None:
        checked(VocParams(root=root, masks=masks, query=query), "voc")
        base = _base(Path(root).expanduser().absolute())
        images = base / _IMAGES
        mask_folder = existing_folder(base / masks, "segmentation masks", "masks=NAME is a folder of the root")
        lists = base / "ImageSets" / "Segmentation"
        splits: dict[str, MaskedFiles] = {
            split: _read_list(lists / f"{split}.txt") for split in _SPLITS if (lists / f"{split}.txt").is_file()
        }
        if not splits:
            raise DataError(
                f"{lists}: none of the lists {', '.join(f'{split}.txt' for split in _SPLITS)}",
                hint="unpack VOCtrainval_11-May-2012.tar whole; it holds them",
            )
        if query not in splits:
            raise ParameterError(
                f"voc: query={query}, but {lists} has lists of {', '.join(splits)} only",
                hint=f"query={next(iter(splits))}",
            )
        classes = ClassSet(names=CLASSES, label_space="voc")
        info = DatasetInfo(
            name="voc",
            classes=classes.names,
            label_space=classes.label_space,
            splits=tuple(splits),
            query_split=query,
            whole_split=query,
            support_split="train" if query == "val" and "train" in splits else None,
            fingerprint=masked_fingerprint(classes, splits, images=images, masks=mask_folder),
        )
        super().__init__(info, splits, _VocReading(), images=images, masks=mask_folder)


class _VocReading:
    """Palette indices of ``SegmentationClass``."""

    def regions(self, mask: Path) -> npt.NDArray[np.uint8]:
        """As they are stored. Raises :class:`~harness.errors.DataError` for an index that is no class."""
        found = read_mask(mask)
        wrong = found[(found > len(CLASSES)) & (found != VOID)]
        if len(wrong):
            raise DataError(
                f"{mask}: holds class number {int(wrong[0])}; PASCAL VOC has 0 to {len(CLASSES)}, and {VOID} for void",
                hint="masks=SegmentationClass are the masks by class; for another dataset use masks instead of voc",
            )
        return found

    def label(self, mask: Path, regions: npt.NDArray[np.uint8]) -> int:
        """The class of the largest region. Raises :class:`~harness.errors.DataError` for a mask without one."""
        number = largest_class(regions)
        if number is None:
            raise DataError(f"{mask}: holds no class", hint="leave this image out of the list of its split")
        return number - 1


def _base(root: Path) -> Path:
    """The folder that holds ``JPEGImages``, in ``root`` or at one of its usual places below."""
    existing_folder(root, "PASCAL VOC", "give VOCdevkit/VOC2012 with --data DIR")
    for inside in _INSIDE:
        if (root / inside / _IMAGES).is_dir():
            return root / inside
    raise DataError(
        f"{root}: no folder {_IMAGES}, nor in {' or '.join(inside for inside in _INSIDE if inside)}",
        hint="unpack VOCtrainval_11-May-2012.tar and give VOCdevkit/VOC2012 with --data DIR",
    )


def _read_list(path: Path) -> MaskedFiles:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})", hint="it names an image a line") from error
    if not names:
        raise DataError(f"{path}: names no images", hint="it names an image a line, such as 2007_000033")
    if len(set(names)) < len(names):
        double = next(name for place, name in enumerate(names) if name in names[:place])
        raise DataError(f"{path}: names {double} twice", hint="remove one of the two lines")
    names.sort()
    return MaskedFiles(
        ids=Ids(names), images=Ids(f"{name}.jpg" for name in names), masks=Ids(f"{name}.png" for name in names)
    )
