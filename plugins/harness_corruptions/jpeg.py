"""JPEG compression: an image encoded at low quality and decoded again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from harness_corruptions.corruption import Corruption

QUALITY = (25, 18, 15, 10, 7)
"""Quality of the encoder, by severity."""

_AT_ONCE = 4
"""Images that a thread takes at a time: the fewer steps of Python there are, the less threads wait for each other."""


def jpeg(images: Tensor, quality: int) -> Tensor:
    """(N, 3, H, W) pixels in [0, 1] after JPEG of ``quality`` 1 to 100, in multiples of 1/255; gradients pass straight.

    Pixels are rounded to 8 bit first.
    """
    given = images.detach().cpu().numpy()
    pixels = np.empty(given.shape, dtype=np.float32)
    parts = [slice(start, start + _AT_ONCE) for start in range(0, len(given), _AT_ONCE)]
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        for _ in pool.map(lambda part: _through_codec(given[part], quality, out=pixels[part]), parts):
            pass
    compressed = torch.from_numpy(pixels).to(images.device)
    return images + (compressed - images.detach()) if images.requires_grad else compressed


def _through_codec(images: npt.NDArray[np.float32], quality: int, *, out: npt.NDArray[np.float32]) -> None:
    levels = np.multiply(images, np.float32(255))
    np.rint(levels, out=levels)
    decoded = []
    for bands in levels.clip(0, 255, out=levels).astype(np.uint8):
        file = BytesIO()
        # Pillow interleaves colours several times as fast as NumPy.
        Image.merge("RGB", [Image.fromarray(band) for band in bands]).save(file, "JPEG", quality=quality)
        decoded.append(Image.open(file, formats=("JPEG",)).tobytes())
    interleaved = np.frombuffer(b"".join(decoded), dtype=np.uint8).reshape(-1, *images.shape[2:], 3)
    np.divide(interleaved.transpose(0, 3, 1, 2), np.float32(255), out=out)


class JpegCompression(Corruption):
    """Encoded as JPEG of quality 25 to 7 with colours at half resolution, and decoded.

    The codec is Pillow's, as in both references: libjpeg-turbo in its wheels, called with Pillow's defaults. For images
    of 8 bit every pixel equals that of the package imagecorruptions, where both use one codec. Quality needs no
    scaling, so ``lengths`` makes no difference. There is no gradient to speak of; where one is asked for, it passes
    straight through.
    """

    name: ClassVar[str] = "jpeg_compression"
    already_eight_bit: ClassVar[bool] = True

    def corrupt(self, images: Tensor, severity: int, draws: Any) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """:func:`jpeg` at a severity."""
        return jpeg(images, QUALITY[severity - 1])
