"""Class names into labels: ImageNet's ids to its 1000 indices, subsets of them to theirs, others in sorted order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import DataError
from harness.imagenet_classes import imagenet_wnids, is_wnid
from harness.label_maps import IMAGENET, find_label_map
from harness.types import digest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

OWN = "own"
_MAX_CLASSES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSet:
    """The classes of a dataset: label i is called ``names[i]``."""

    names: tuple[str, ...]
    label_space: str

    def labels(self) -> dict[str, int]:
        """The label of each name."""
        return {name: label for label, name in enumerate(self.names)}


def known_classes(label_space: str | None) -> tuple[str, ...] | None:
    """The classes of a label space that is ImageNet-1k's or mapped from it, in the order of their labels; else None.

    They are ids for ImageNet-1k and its subsets ``imagenet_a`` and ``imagenet_r``, names for ``imagenet16``. Raises as
    :func:`harness.imagenet_classes.imagenet_wnids` does.
    """
    found = find_label_map(IMAGENET, label_space)
    if found is None:
        return None
    if found.classes:
        return found.classes
    wnids = imagenet_wnids()
    return wnids if found.groups is None else tuple(wnids[index] for (index,) in found.groups)


def name_classes(names: Collection[str], *, label_space: str | None, where: str) -> ClassSet:
    """The classes that these names stand for; see :class:`harness_datasets.folder.FolderParams` for ``label_space``.

    ImageNet ids always get their true indices, however few of them there are, and so do the classes of a label space
    that is mapped from ImageNet-1k. ``where`` begins the errors. Raises :class:`~harness.errors.DataError` for ids that
    are not of ImageNet-1k, for a mixture of ids and other names, for names that are not of a known label space, and for
    fewer than two classes of one's own.
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
    if known := known_classes(label_space):
        assert label_space is not None
        if strange := sorted(set(names).difference(known)):
            raise DataError(
                f"{where}: {_some(strange)} of {len(names)} class names are not among {label_space}'s {len(known)}",
                hint=f"they are {_some(known)}; remove what is none of them, or use label_space={OWN} to number the "
                "names as they are",
            )
        return ClassSet(names=known, label_space=label_space)
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
    known = known_classes(label_space)
    limit = len(known) if known else _MAX_CLASSES
    if low < 0 or high >= limit:
        raise DataError(
            f"{where}: class indices reach from {low} to {high}; expected 0 to {limit - 1}",
            hint="class indices count from 0"
            if label_space == IMAGENET or not known
            else f"they count the {limit} classes of {label_space} from 0; they are no indices of {IMAGENET}",
        )
    if known and label_space is not None:
        return ClassSet(names=known, label_space=label_space)
    found = tuple(names.get(index, str(index)) for index in range(high + 1))
    return ClassSet(names=found, label_space=_label_space(found, label_space))


def _label_space(names: tuple[str, ...], stated: str | None) -> str:
    return f"classes:{digest(names)[:12]}" if stated in (None, OWN) else stated


def _some(names: Collection[str], limit: int = 3) -> str:
    shown = ", ".join(list(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
