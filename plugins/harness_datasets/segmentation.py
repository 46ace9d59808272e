"""Descriptors of the datasets ``voc`` and ``masks``: images with a mask each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.entries import DatasetEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param

if TYPE_CHECKING:
    from collections.abc import Iterable

VocSplit: TypeAlias = Literal["train", "val", "trainval"]
MaskKind: TypeAlias = Literal["auto", "foreground", "classes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VocParams:
    """Parameters of ``voc``. What the folder holds enters a key through the dataset's fingerprint."""

    root: str = param(help="VOCdevkit/VOC2012, or a folder above it; --data DIR sets it", locates=True)
    masks: str = param(
        "SegmentationClass", help="folder of the masks by class, such as SegmentationClassAug", locates=True
    )
    query: VocSplit = param("val", help="the list of images that probes are asked about")


@dataclass(frozen=True, slots=True, kw_only=True)
class MasksParams:
    """Parameters of ``masks``. What the folders hold enters a key through the dataset's fingerprint."""

    root: str = param(help="the folder of both; --data DIR sets it", locates=True)
    images: str = param("images", help="folder of the images, in root or a path", locates=True)
    masks: str = param("masks", help="folder of the masks, in root or a path", locates=True)
    kind: MaskKind = param(
        "auto",
        help="whether masks tell classes or a foreground; auto looks at some, and takes more than one number besides "
        "background and void for classes",
    )
    classes: int | None = param(
        None, help="how many classes there are; by default every mask is read to see", low=1, high=254
    )
    background: int = param(0, help="the number of what is no object", low=0, high=255)
    void: int | None = param(
        None,
        help="the number of what belongs to nothing for sure; by default 255 among classes, none in a foreground",
        low=0,
        high=255,
    )

    def __post_init__(self) -> None:
        if self.background == self.void:
            raise ParameterError(f"masks: background and void are both {self.void}", hint="give each its own number")
        if self.kind == "foreground" and self.classes is not None:
            raise ParameterError(
                f"masks: classes={self.classes} has no effect on masks of a foreground", hint="leave it out"
            )


@hookimpl
def harness_register_datasets() -> Iterable[DatasetEntry]:
    """Offer ``voc`` and ``masks``."""
    yield DatasetEntry(
        name="voc",
        target="harness_datasets.voc_folder:VocFolder",
        summary="PASCAL VOC 2012 segmentation: 20 classes by region",
        params=VocParams,
        label_space="voc",
        offline=False,
    )
    yield DatasetEntry(
        name="masks",
        target="harness_datasets.mask_folder:MaskFolder",
        summary="a folder of images and a folder of masks, by class or of a foreground",
        params=MasksParams,
        offline=False,
    )
