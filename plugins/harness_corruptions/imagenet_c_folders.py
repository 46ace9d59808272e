"""What is unpacked of ImageNet-C: where a corruption lies, and its files by class, listed without opening them."""

from __future__ import annotations

import hashlib
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness import rng
from harness.errors import DataError
from harness.imagenet_classes import is_wnid
from harness.types import Ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
"""The archives that ImageNet-C is published in, and the corruptions in each."""

PUBLISHED_IMAGES = 50_000
"""How many images each corruption has at each severity."""

_SEVERITIES = ("1", "2", "3", "4", "5")
_SUFFIXES = (".jpeg", ".jpg")
_SAMPLED_FILES = 32
_LAYOUT = "ROOT/CORRUPTION/SEVERITY/WNID/*.JPEG"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The images of one corruption at one severity, sorted by class and then by name.

    ``ids`` are paths relative to ``folder`` with forward slashes, the same for a photograph whatever was done to it.
    ``labels`` (N,) int64. ``notes`` are sentences on what is missing or was left out.
    """

    folder: Path
    ids: Ids
    labels: npt.NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


def find_severity(root: Path, corruption: str, severity: int) -> Path:
    """The folder of one corruption at one severity under ``root``.

    Raises :class:`~harness.errors.DataError` saying what is there instead.
    """
    top = _folders(root)
    group = next(name for name, corruptions in GROUPS.items() if corruption in corruptions)
    places = [root / corruption] if corruption in top else []
    if group in top and corruption in _folders(root / group):
        places.append(root / group / corruption)
    if len(places) > 1:
        raise DataError(f"{root}: {corruption} lies there twice, also in {group}", hint="remove one of the two")
    if not places:
        raise _no_corruption(root, corruption, group, top)
    found = _folders(places[0])
    if str(severity) not in found:
        told = [name for name in found if name in _SEVERITIES]
        raise DataError(
            f"{places[0]}: no severity {severity}; there are {_some(told) or 'none'}",
            hint=f"was the archive {group}.tar unpacked to its end? The layout is {_LAYOUT}",
        )
    return places[0] / str(severity)


def list_files(folder: Path, wnids: tuple[str, ...]) -> Files:
    """The JPEG files of the class folders in ``folder``; a label is the class folder's place among all ``wnids``.

    Hidden files are passed over. No file is opened, nor asked for its size. Raises
    :class:`~harness.errors.DataError` for folders that are no classes of ``wnids`` and for classes without images.
    """
    found = _folders(folder)
    if not found:
        raise DataError(f"{folder}: no class folders", hint=f"unpack the archive again; the layout is {_LAYOUT}")
    place = {wnid: label for label, wnid in enumerate(wnids)}
    if strange := [name for name in found if name not in place]:
        raise DataError(
            f"{folder}: {_some(strange)} of {len(found)} class folders are not among ImageNet-1k's 1000 ids",
            hint=f"the layout is {_LAYOUT}; other images are read by the dataset folder",
        )
    labels = array("q")
    left_out: list[str] = []
    empty: list[str] = []

    def ids() -> Iterator[str]:
        for wnid in found:
            names = _names(folder / wnid)
            images = [name for name in names if name.lower().endswith(_SUFFIXES)]
            left_out.extend(f"{wnid}/{name}" for name in names if not name.lower().endswith(_SUFFIXES))
            if not images:
                empty.append(wnid)
            for name in images:
                labels.append(place[wnid])
                yield f"{wnid}/{name}"

    listed = Ids(ids())
    if empty:
        raise DataError(
            f"{folder}: no JPEG files in class folders ({len(empty)}): {_some(empty)}",
            hint="unpack the archive again, or remove the folders of classes that are not wanted",
        )
    notes = [f"left out, not JPEG files ({len(left_out)}): {_some(left_out)}"] if left_out else []
    if len(labels) != PUBLISHED_IMAGES:
        notes.append(
            f"{len(labels)} images of {len(found)} classes, where ImageNet-C has {PUBLISHED_IMAGES} of {len(wnids)}: "
            "what is computed on them is not to be held against published numbers"
        )
    return Files(folder=folder, ids=listed, labels=np.array(labels, dtype=np.int64), notes=tuple(notes))


def fingerprint(files: Files, *, tolerate_unreadable: bool) -> str:
    """SHA-256 (hex) over corruption, severity, all ids, and the bytes of the 32 images of the lowest keyed hash.

    The place of ROOT does not matter. Raises :class:`~harness.errors.DataError` for one of the 32 that cannot be read,
    unless ``tolerate_unreadable``.
    """
    total = hashlib.sha256("\0".join(("imagenet_c", *files.folder.parts[-2:], "")).encode())
    for name in files.ids:
        total.update(name.encode() + b"\0")
    draws = rng.bits(0, "imagenet_c.fingerprint", files.ids, 1)[:, 0]
    for row in np.argsort(draws, kind="stable")[:_SAMPLED_FILES].tolist():
        path = files.folder / files.ids[row]
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            if not tolerate_unreadable:
                raise DataError(f"{path}: cannot be read ({error.strerror})", hint="make it readable") from error
            total.update(b"unreadable")
    return total.hexdigest()


def _no_corruption(root: Path, corruption: str, group: str, top: list[str]) -> DataError:
    known = {name for corruptions in GROUPS.values() for name in corruptions}
    there = known.intersection(top)
    for other in GROUPS.keys() & set(top):
        there |= set(GROUPS[other]).intersection(_folders(root / other))
    if there:
        return DataError(
            f"{root}: no corruption {corruption}; there are {_some(sorted(there), len(known))}",
            hint=f"unpack {group}.tar of ImageNet-C there",
        )
    # The folder that people name by mistake is most often one of the layout's others, or the one around them all.
    above = None
    if set(_SEVERITIES).intersection(top):
        above = root.parent
    elif any(map(is_wnid, top)):
        above = root.parent.parent
    elif is_wnid(root.name):
        above = root.parent.parent.parent
    if above is not None:
        return DataError(f"{root}: lies too deep; the layout is {_LAYOUT}", hint=f"give --data {above}")
    for name in top:
        if {*known, *GROUPS}.intersection(_folders(root / name)):
            return DataError(f"{root}: lies too high; the layout is {_LAYOUT}", hint=f"give --data {root / name}")
    return DataError(
        f"{root}: no corruption of ImageNet-C; found {_some(top) or 'no folders'}",
        hint=f"give the folder of the unpacked archives with --data DIR; the layout is {_LAYOUT}",
    )


def _folders(folder: Path) -> list[str]:
    """Names of the visible folders directly in ``folder``, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise _unreadable(folder, error) from error


def _names(folder: Path) -> list[str]:
    """Names of everything visible directly in ``folder``, sorted."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        for name in names:
            name.encode()
    except OSError as error:
        raise _unreadable(folder, error) from error
    except UnicodeEncodeError as error:
        raise DataError(
            f"{folder}: the file name {os.fsencode(name)!r} is not UTF-8", hint="rename the file"
        ) from error
    return names


def _unreadable(folder: Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{folder}: there is no such folder", hint="give the folder of ImageNet-C with --data DIR")
    if isinstance(error, NotADirectoryError):
        return DataError(f"{folder}: a file, but a folder is expected", hint="unpack the archive first")
    return DataError(f"{folder}: the folder cannot be read ({error.strerror})", hint="check its permissions")


def _some(names: Iterable[str], limit: int = 3) -> str:
    found = list(names)
    shown = ", ".join(found[:limit])
    return shown if len(found) <= limit else f"{shown} and {len(found) - limit} more"
