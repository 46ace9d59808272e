"""Stored masks of class numbers: read as they are, and shown under a view exactly as their images are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harness import views
from harness.errors import DataError
from harness.views import FileUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from harness.types import View

BACKGROUND, VOID = 0, 255
"""In the regions of a batch: no object, and what belongs to nothing for sure."""

_FORMATS = ("PNG", "BMP", "TIFF", "PPM")
_NUMBERED = ("P", "L", "1")


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """The numbers (H, W) of a mask file: indices into its palette, or grey values, never colours.

    Safe to call from threads. Raises :class:`~harness.errors.DataError` for a file that is no image or no mask:
    colours without a palette, more than 8 bits, or lossy JPEG, which changes the numbers.
    """
    try:
        with path.open("rb") as file:
            image = Image.open(file, formats=_FORMATS)
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # on broken bytes Pillow's decoders raise whatever those lead them to
        if isinstance(error, OSError) and error.errno is not None:
            # The disk or the system, not the mask.
            raise FileUnavailableError(
                f"{path}: cannot be read ({error.strerror})", hint="was it moved or deleted?"
            ) from error
        views.decode(path)  # which says what is wrong with a file that is no image at all
        raise DataError(
            f"{path}: not a mask in any of the formats {', '.join(_FORMATS)}",
            hint="save masks as PNG; lossy formats such as JPEG change the numbers in them",
        ) from error
    if image.mode not in _NUMBERED:
        raise DataError(
            f"{path}: pixels of mode {image.mode}, expected a palette or 8-bit grey, whose values number the classes",
            hint="convert colours to class numbers first",
        )
    return np.asarray(image).astype(np.uint8)


def render_mask(mask: npt.NDArray[np.uint8], view: View, *, name: str = "mask") -> npt.NDArray[np.uint8]:
    """The numbers of a ``mask`` (H, W) under ``view``: (crop, crop) uint8, none of which it did not hold.

    Resized to the size that :func:`harness.views.render` gives its image, by the nearest pixel whatever the view says,
    and cut as the image is. Raises as that does.
    """
    nearest = replace(view, interpolation="nearest")
    return np.ascontiguousarray(views.render(Image.fromarray(mask), nearest, name=name)[0])


def require_size(mask: npt.NDArray[np.uint8], size: tuple[int, int], mask_path: Path, image_path: Path) -> None:
    """Nothing if a mask (H, W) has the ``size``, width and height, of its image.

    Raises :class:`~harness.errors.DataError` that names both files otherwise.
    """
    height, width = mask.shape
    if (width, height) != size:
        raise DataError(
            f"{mask_path}: {width} x {height} pixels, but its image {image_path} has {size[0]} x {size[1]}",
            hint="a mask must be of its image's size; was it made for another version of the image?",
        )


def largest_class(regions: npt.NDArray[np.uint8]) -> int | None:
    """The class number of the largest region, the lowest of equally large ones; None where there is none.

    >>> largest_class(np.array([[0, 0, 0, 255], [0, 7, 7, 2]], np.uint8))
    7
    """
    counts = np.bincount(regions.ravel(), minlength=256)
    counts[[BACKGROUND, VOID]] = 0
    return int(counts.argmax()) if counts.any() else None
