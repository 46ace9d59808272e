"""Folders whose names are the classes, with or without split folders around them."""

from __future__ import annotations

import os
import stat
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import DataError
from harness.types import Ids
from harness_datasets import splits as split_names
from harness_datasets.classes import name_classes
from harness_datasets.listing import LabelledFiles, Listing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of image files, in any case: those of torchvision's ``ImageFolder``."""


def read_class_folders(root: Path, *, class_depth: int, label_space: str | None) -> Listing:
    """The images under ``root`` by class folder; the single split of a root without split folders is called ``all``.

    A folder called ``train``, ``val``, ``valid``, ``validation`` or ``test`` (in any case) that holds folders is a
    split. In it, the first ``class_depth`` levels make the class name, and images may lie deeper, as in torchvision's
    ``ImageFolder``. Hidden files are passed over, links followed. Raises :class:`~harness.errors.DataError` for
    whatever leaves the classes in doubt.
    """
    scan = _Scan(root)
    classes_by_split = {split: scan.class_folders(base, class_depth) for split, base in _find_splits(scan).items()}
    names = {name for folders in classes_by_split.values() for name in folders}
    classes = name_classes(names, label_space=label_space, where=str(root))
    labels = classes.labels()
    found = {
        split: scan.collect({labels[name]: folder for name, folder in folders.items()})
        for split, folders in classes_by_split.items()
    }
    if scan.empty:
        raise DataError(
            f"{root}: no images in class folders ({len(scan.empty)}): {_shown(scan.empty)}",
            hint=f"remove them or fill them; images end in {', '.join(SUFFIXES)}",
        )
    partial = [
        f"split {split} has no images of {len(names) - len(folders)} of {len(names)} classes: "
        f"{_shown(sorted(names.difference(folders)))}"
        for split, folders in classes_by_split.items()
        if len(folders) < len(names)
    ]
    return Listing(classes=classes, splits=found, notes=(*scan.notes(), *partial))


def _find_splits(scan: _Scan) -> dict[str, str]:
    """The folder of each split, relative to the root; ``{"all": ""}`` without split folders."""
    top = scan.contents("")
    if not top.folders:
        what = f"{len(top.images)} images but no class folders" if top.images else "no images"
        raise DataError(
            f"{scan.root}: {what}",
            hint="put each class into a folder of its own, or add a labels.csv with columns file,label",
        )
    named = [folder for folder in top.folders if folder.lower() in split_names.NAMES]
    found = [folder for folder in named if scan.contents(folder).folders]
    if not found:
        if len(named) == len(top.folders):
            raise DataError(
                f"{scan.root}: the split folders {_shown(named)} hold no class folders",
                hint="put each class into a folder of its own, or add a labels.csv with columns file,label,split",
            )
        return {"all": ""}
    for folder in top.folders:
        if folder in found:
            continue
        if folder in named and not scan.contents(folder).images:
            raise DataError(f"{scan.root}: the split folder {folder} is empty", hint="fill it or remove it")
        if next(scan.walk(folder), None) is not None:
            raise DataError(
                f"{scan.root}: {folder} holds images beside the split folders {_shown(found)}",
                hint="a root holds either splits with class folders, or class folders alone; "
                "point it at one split, or move that folder away",
            )
    if top.images:
        scan.stray += [name for name, _ in top.images]
    by_name = {folder.lower(): folder for folder in found}
    if len(by_name) < len(found):
        raise DataError(f"{scan.root}: split folders that differ in case only: {_shown(found)}", hint="rename one")
    return by_name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    folders: list[str]
    images: list[tuple[str, int]]
    """Id and size in bytes."""


@dataclass(slots=True)
class _Scan:
    """One walk over a root, and what it left out on the way."""

    root: Path
    ignored: set[str] = field(default_factory=set)
    stray: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def contents(self, folder: str) -> _Contents:
        """The visible folders and images directly in ``folder`` (relative to the root), sorted by name."""
        folders: list[str] = []
        images: list[tuple[str, int]] = []
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = _joined(folder, self._checked(entry.name))
                    if entry.is_dir():
                        folders.append(name)
                    elif not entry.name.lower().endswith(SUFFIXES):
                        self.ignored.add(name)
                    else:
                        images.append((name, self._size(entry)))
        except OSError as error:
            raise _unreadable_folder(self.root / folder, error) from error
        return _Contents(folders=sorted(folders), images=sorted(images))

    def walk(self, folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, int]]:
        """Id and size of every image in and under ``folder``."""
        try:
            status = (self.root / folder).stat()
        except OSError as error:
            raise _unreadable_folder(self.root / folder, error) from error
        place = (status.st_dev, status.st_ino)
        if place in above:
            raise DataError(
                f"{self.root / folder}: a link to a folder that holds it", hint="remove the link; it never ends"
            )
        contents = self.contents(folder)
        yield from contents.images
        for inner in contents.folders:
            yield from self.walk(inner, above | {place})

    def class_folders(self, base: str, depth: int) -> dict[str, str]:
        """The folder of each class under ``base``; images that lie above that level are noted as stray."""
        level = [base]
        for _ in range(depth):
            contents = [self.contents(folder) for folder in level]
            self.stray += [name for inner in contents for name, _ in inner.images]
            level = [folder for inner in contents for folder in inner.folders]
        if not level:
            raise DataError(
                f"{self.root / base}: no class folders {depth} levels down", hint="check root and class_depth"
            )
        return {folder.removeprefix(base).removeprefix("/"): folder for folder in level}

    def collect(self, folders: dict[int, str]) -> LabelledFiles:
        """The images of one split, from the folder of each label."""
        labels, sizes = array("q"), array("q")

        def ids() -> Iterator[str]:
            for label, folder in sorted(folders.items()):
                images = sorted(self.walk(folder))
                if not images:
                    self.empty.append(folder)
                for name, size in images:
                    labels.append(label)
                    sizes.append(size)
                    yield name

        found = Ids(ids())
        return LabelledFiles(ids=found, labels=np.array(labels, dtype=np.int64), sizes=np.array(sizes, dtype=np.int64))

    def notes(self) -> tuple[str, ...]:
        """A sentence for each kind of thing that was left out."""
        stray = sorted(set(self.stray))
        return tuple(
            f"left out, {what} ({len(names)}): {_shown(names)}"
            for names, what in (
                (sorted(self.ignored), "not images"),
                (stray, "images in no class folder"),
            )
            if names
        )

    def _checked(self, name: str) -> str:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self.root}: the file name {os.fsencode(name)!r} is not UTF-8", hint="rename the file"
            ) from error
        return name

    def _size(self, entry: os.DirEntry[str]) -> int:
        try:
            status = entry.stat()
        except OSError as error:
            raise DataError(
                f"{entry.path}: cannot be reached ({error.strerror})", hint="is it a link to something that is gone?"
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{entry.path}: called an image but no file", hint="remove or rename it")
        return status.st_size


def _unreadable_folder(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: the folder cannot be read ({error.strerror})", hint="check its permissions")


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _shown(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
