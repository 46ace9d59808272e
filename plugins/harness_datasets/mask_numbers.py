"""What the numbers of a folder's masks mean: classes with background and void, or a foreground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness import rng
from harness.errors import DataError
from harness_datasets.mask_views import BACKGROUND, VOID, largest_class, read_mask

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from harness_datasets.masked_images import MaskedFiles

OBJECT = 1
"""The number of the region of a foreground."""

_LOOKED_AT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ForegroundNumbers:
    """Whatever is neither ``background`` nor ``void`` is the object.

    ``foreground``: the one number of it, where that is what made these masks count as a foreground.
    """

    background: int
    void: int | None
    foreground: int | None = None

    def regions(self, mask: Path) -> npt.NDArray[np.uint8]:
        """0 for background, 255 for void, 1 for the object.

        Raises :class:`~harness.errors.DataError` for a number that was not to be expected.
        """
        numbers = read_mask(mask)
        found = np.where(numbers == self.background, BACKGROUND, OBJECT).astype(np.uint8)
        if self.void is not None:
            found[numbers == self.void] = VOID
        strange = numbers[(found == OBJECT) & (numbers != self.foreground)]
        if self.foreground is not None and len(strange):
            raise DataError(
                f"{mask}: holds the number {int(strange[0])}; the {_LOOKED_AT} masks that were looked at hold none but "
                f"{self.background} and {self.foreground}",
                hint="say what the masks tell, with kind=classes or kind=foreground",
            )
        return found

    def label(self, mask: Path, regions: npt.NDArray[np.uint8]) -> int:  # noqa: ARG002  # others depend on it
        """There is one class only."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNumbers:
    """Numbers 1 to ``classes``, ``background`` and ``void``."""

    background: int
    void: int | None
    classes: int

    def regions(self, mask: Path) -> npt.NDArray[np.uint8]:
        """0 for background, 255 for void, else the class's number.

        Raises :class:`~harness.errors.DataError` for a number that is none of these.
        """
        numbers = read_mask(mask)
        found = numbers.copy()
        special = numbers == self.background
        found[special] = BACKGROUND
        if self.void is not None:
            found[numbers == self.void] = VOID
            special |= numbers == self.void
        strange = numbers[~special & ((numbers < 1) | (numbers > self.classes))]
        if len(strange):
            raise DataError(
                f"{mask}: holds the number {int(strange[0])}; classes are numbered from 1 to {self.classes}, "
                f"{self._special()}",
                hint="give background, void and classes as they are in these masks",
            )
        return found

    def _special(self) -> str:
        words = f"background is {self.background}"
        return words if self.void is None else f"{words} and void {self.void}"

    def label(self, mask: Path, regions: npt.NDArray[np.uint8]) -> int:  # noqa: ARG002  # errors of others name it
        """The class of the largest region, counted from 0; the last label for a mask without a region."""
        number = largest_class(regions)
        return self.classes if number is None else number - 1


def default_void(background: int) -> int | None:
    """The number of void among classes: 255, unless that is the background."""
    return None if background == VOID else VOID


def look(files: MaskedFiles, masks: Path, *, background: int, void: int | None) -> ForegroundNumbers | None:
    """What some masks of the folder ``masks`` look like: a foreground of one number, or None for classes.

    The 32 are those with the lowest keyed hash of the images' ids.
    """
    lowest = np.argsort(rng.bits(0, "masks.kind", files.ids, 1)[:, 0], kind="stable")[:_LOOKED_AT]
    numbers: set[int] = set()
    for row in lowest.tolist():
        numbers |= set(np.unique(read_mask(masks / files.masks[row])).tolist())
    others = numbers - {background, void}
    if len(others) > 1:
        return None
    return ForegroundNumbers(background=background, void=void, foreground=next(iter(others), None))
