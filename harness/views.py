"""Raw images into the square of pixels that a view describes, with the pixels that torchvision gives for PIL images.

The order is torchvision's and timm's: decode, ``convert("RGB")``, resize with Pillow, cut the centre. So:

* alpha is dropped, not blended; a palette gives its colours, CMYK Pillow's plain conversion;
* EXIF orientation is not applied (ImageNet's published accuracies were measured without it);
* JPEG is decoded at full size, never through the faster ``draft`` mode, which changes pixels.

The one departure: 16-bit greyscale keeps its upper byte, as Pillow itself does for 16-bit colour, where
``convert("RGB")`` would clip every value above 255 to white.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from harness.errors import DataError
from harness.types import ImageBatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from harness.types import Interpolation, View

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
"""What Pillow may decode, judged by content: a PNG called ``.jpg`` is read, a PostScript file called so is not."""

_RESAMPLING: Mapping[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
_MAX_RESIZED_PIXELS = 2**27


class FileUnavailableError(DataError):
    """A file that the system does not hand out; unlike a broken image it is never skipped."""


def decode(path: str | os.PathLike[str], *, name: str | None = None) -> Image.Image:
    """Read one image file whole, as RGB. Safe to call from threads.

    ``name`` is what errors call the file (default: the path). Raises :class:`~harness.errors.DataError` for a file that
    is missing, empty, truncated, no image, too large for Pillow's limit on decompression, or of a pixel type without
    an agreed range (floating point).
    """
    name = os.fspath(path) if name is None else name
    try:
        with Path(path).open("rb") as file:
            image = Image.open(file, formats=FORMATS)
            image.load()
    except MemoryError:
        raise
    except OSError as error:
        if error.errno is not None:
            # The disk or the system, not the image: leaving the image out would make another, lasting number of it.
            told = _unreadable(path, name, error)
            raise FileUnavailableError(told.message, hint=told.hint) from error
        raise _unreadable(path, name, error) from error
    except Exception as error:  # on broken bytes Pillow's decoders raise whatever those lead them to
        raise _unreadable(path, name, error) from error
    return to_rgb(image, name=name)


def to_rgb(image: Image.Image, *, name: str = "image") -> Image.Image:
    """``image.convert("RGB")`` as torchvision's and timm's loaders do, but for 16-bit greyscale; see the module.

    Raises :class:`~harness.errors.DataError` for floating point pixels and integers beyond 16 bits.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 0xFFFF:
            raise DataError(
                f"{name}: integer pixels from {values.min()} to {values.max()}; expected 8 or 16 bits",
                hint="save it with 8 bits per channel",
            )
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError(
            f"{name}: floating point pixels, which have no agreed range", hint="save it with 8 bits per channel"
        )
    if "transparency" in image.info:
        # Pillow warns where a palette's transparency cannot be kept; it is to be dropped anyway.
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def render(image: Image.Image, view: View, *, name: str = "image") -> npt.NDArray[np.uint8]:
    """The pixels of ``image`` under ``view``: (3, crop, crop) uint8.

    Bit for bit what ``torchvision.transforms`` ``Resize`` and ``CenterCrop`` give for the PIL image (Pillow's
    resampling always antialiases). ``name`` is what errors call the image. Raises
    :class:`~harness.errors.DataError` for an image smaller than the crop, where torchvision would pad with black.
    """
    image = to_rgb(image, name=name)
    size = resized_size(image.size, view, name=name)
    if size != image.size:
        image = image.resize(size, _RESAMPLING[view.interpolation])
    image = image.crop(_centre(size, view, name))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def render_float(image: npt.NDArray[np.float32], view: View, *, name: str = "image") -> npt.NDArray[np.float32]:
    """As :func:`render`, for (3, H, W) float32 in [0, 1]: (3, crop, crop) float32 in [0, 1].

    Where ``view`` does not resize, the values are untouched. Else each channel goes through the same Pillow filter in
    floating point, and what bicubic overshoots is cut off. Raises as :func:`render` does.
    """
    source = (image.shape[2], image.shape[1])
    size = resized_size(source, view, name=name)
    if size != source:
        channels = [
            np.asarray(Image.fromarray(channel).resize(size, _RESAMPLING[view.interpolation])) for channel in image
        ]
        image = np.stack(channels).clip(0, 1)
    left, top, right, bottom = _centre(size, view, name)
    return np.ascontiguousarray(image[:, top:bottom, left:right])


def resized_size(size: tuple[int, int], view: View, *, name: str = "image") -> tuple[int, int]:
    """Width and height in pixels after the resize of ``view`` and before its crop; the longer side is rounded down.

    Raises :class:`~harness.errors.DataError` for an image so narrow that the result would not fit into memory.
    """
    if view.resize is None:
        return size
    if view.mode == "squash":
        return view.resize, view.resize
    shorter, longer = sorted(size)
    # In this order of operations, as torchvision does: the division's rounding decides the last pixel.
    other = int(view.resize * longer / shorter)
    if view.resize * other > _MAX_RESIZED_PIXELS:
        raise DataError(
            f"{name}: {size[0]} x {size[1]} pixels would become {view.resize} x {other} under view {view.text}",
            hint="leave this image out, or use a view with mode=squash",
        )
    return (view.resize, other) if size[0] <= size[1] else (other, view.resize)


def to_batch(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
    *,
    labels: Sequence[int] | npt.NDArray[np.int64],
    ids: Sequence[str],
    positions: Sequence[int] | npt.NDArray[np.int64],
    masks: Tensor | None = None,
    columns: Mapping[str, Tensor] | None = None,
) -> ImageBatch:
    """A batch on the CPU from (N, 3, H, W) pixels: uint8, which are divided by 255, or float32 in [0, 1].

    Raises :class:`~harness.errors.ParameterError` where the lengths disagree.
    """
    import torch

    images = torch.from_numpy(pixels)
    return ImageBatch(
        images=images.float().div_(255) if images.dtype == torch.uint8 else images,
        labels=torch.from_numpy(np.array(labels, dtype=np.int64)),
        ids=tuple(ids),
        positions=np.array(positions, dtype=np.int64),
        masks=masks,
        columns=columns or {},
    )


def _centre(size: tuple[int, int], view: View, name: str) -> tuple[int, int, int, int]:
    if min(size) < view.crop:
        raise DataError(
            f"{name}: {size[0]} x {size[1]} pixels cannot fill the {view.crop} x {view.crop} crop of view {view.text}",
            hint=f"use a view that resizes, such as resize={view.crop},crop={view.crop}",
        )
    # Python rounds halves to even, and so does torchvision: the offset of an odd margin depends on it.
    left, top = (round((length - view.crop) / 2) for length in size)
    return left, top, left + view.crop, top + view.crop


def _unreadable(path: str | os.PathLike[str], name: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{name}: there is no such file", hint="was it moved or deleted?")
    if isinstance(error, PermissionError):
        return DataError(f"{name}: no permission to read this file")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return DataError(
            f"{name}: {error}", hint="store a smaller image, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        )
    try:
        empty = Path(path).stat().st_size == 0
    except OSError:
        empty = False
    if empty:
        return DataError(f"{name}: the file is empty")
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"{name}: not an image in any of the formats {', '.join(FORMATS)}")
    return DataError(f"{name}: cannot be decoded ({type(error).__name__}: {error})", hint="is it a whole file?")
