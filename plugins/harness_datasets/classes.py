"""Class names into labels: ImageNet's ids to its 1000 indices, any other names in sorted order."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DataError
from harness.types import digest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

IMAGENET = "imagenet1k"
OWN = "own"
_WNID = re.compile(r"n[0-9]{8}\Z")
_MAX_CLASSES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSet:
    """The classes of a dataset: label i is called ``names[i]``."""

    names: tuple[str, ...]
    label_space: str

    def labels(self) -> dict[str, int]:
        """The label of each name."""
        return {name: label for label, name in enumerate(self.names)}


def is_wnid(name: str) -> bool:
    """Whether a class name looks like an ImageNet id: ``n`` and the eight digits of a WordNet noun.

    >>> is_wnid("n01440764"), is_wnid("tench")
    (True, False)
    """
    return _WNID.match(name) is not None


def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 ids of ImageNet-1k in the order of their class indices, from timm's data file; timm is not imported.

    Raises :class:`~harness.errors.DataError` where that file is missing or not what it should be.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("ImageNet's class ids are read from timm, which is not installed", hint="pip install timm")
    path = Path(spec.submodule_search_locations[0], "data", "_info", "imagenet_synsets.txt")
    try:
        wnids = tuple(path.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read ImageNet's class ids: {error}", hint="reinstall timm") from error
    if len(wnids) != 1000 or list(wnids) != sorted(set(wnids)) or not all(map(is_wnid, wnids)):
        raise DataError(f"{path}: expected the 1000 sorted class ids of ImageNet", hint="reinstall timm")
    return wnids


def name_classes(names: Collection[str], *, label_space: str | None, where: str) -> ClassSet:
    """The classes that these names stand for; see :class:`harness_datasets.folder.FolderParams` for ``label_space``.

    ImageNet ids always get their true indices, however few of them there are. ``where`` begins the errors. Raises
    :class:`~harness.errors.DataError` for ids that are not of ImageNet-1k, for a mixture of ids and other names, and
    for fewer than two classes of one's own.
    """
    wnids = sorted(filter(is_wnid, names))
    others = sorted(set(names).difference(wnids))
    if label_space == IMAGENET or (label_space is None and wnids):
        if others:
            raise DataError(
                f"{where}: expected ImageNet ids as class names, found {_some(others)}"
                + (f" beside {_some(wnids)}" if wnids else ""),
                hint=f"remove what is no ImageNet class, or use label_space={OWN} to number the names as they are",
            )
        imagenet = imagenet_wnids()
        if unknown := sorted(set(wnids).difference(imagenet)):
            raise DataError(
                f"{where}: {_some(unknown)} of {len(wnids)} class names are not among ImageNet-1k's 1000 ids",
                hint=f"remove them, or use label_space={OWN} to number the ids found in sorted order",
            )
        return ClassSet(names=imagenet, label_space=IMAGENET)
    found = tuple(sorted(names))
    if len(found) < 2:
        raise DataError(
            f"{where}: only one class, {_some(found)}",
            hint="two or more are expected: a folder for each class, or a labels.csv beside the images",
        )
    return ClassSet(names=found, label_space=_label_space(found, label_space))


def number_classes(
    indices: Collection[int], names: Mapping[int, str], *, label_space: str | None, where: str
) -> ClassSet:
    """The classes of labels given as numbers; ``names`` may name some, the others are called by their number.

    Raises :class:`~harness.errors.DataError` for numbers outside the label space.
    """
    low, high = min(indices), max(indices)
    limit = 1000 if label_space == IMAGENET else _MAX_CLASSES
    if low < 0 or high >= limit:
        raise DataError(
            f"{where}: class indices reach from {low} to {high}; expected 0 to {limit - 1}",
            hint="class indices count from 0",
        )
    if label_space == IMAGENET:
        return ClassSet(names=imagenet_wnids(), label_space=IMAGENET)
    found = tuple(names.get(index, str(index)) for index in range(high + 1))
    return ClassSet(names=found, label_space=_label_space(found, label_space))


def _label_space(names: tuple[str, ...], stated: str | None) -> str:
    return f"classes:{digest(names)[:12]}" if stated in (None, OWN) else stated


def _some(names: Collection[str], limit: int = 3) -> str:
    shown = ", ".join(list(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
