"""What stands in place of dropped pixels: black, a colour, noise, or the image blurred."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from harness import rng
from harness.errors import CapabilityError
from harness.protocols import PerturbationContext
from harness.threads import by_image
from harness.types import ImageBatch
from harness_patchdrop.parameters import FillName

_NOISE_STREAM = "patchdrop.noise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """A way to replace pixels, in [0, 1] and so before any model normalises.

    ``colour`` is that of ``constant``; ``blur`` the standard deviation of the Gaussian of ``blur``, as a share of the
    image's shorter side. Black is the fill of Naseer et al. (arXiv 2105.10497); ``mean`` is zero after normalisation,
    which is another experiment.
    """

    name: FillName = "black"
    colour: tuple[float, float, float] = (0.5, 0.5, 0.5)
    blur: float = 0.0625

    def pixels(self, batch: ImageBatch, context: PerturbationContext, *, seed: int) -> Tensor | None:
        """What dropped pixels become: None for black, else float32 that broadcasts to (N, 3, H, W).

        Noise is keyed by ``seed`` and image id, uniform in [0, 1), and independent of everything else. The blur is
        Pillow's on 8-bit pixels, the same bits on every device. Raises :class:`~harness.errors.CapabilityError` for
        ``mean`` where no model is evaluated.
        """
        if self.name == "black":
            return None
        if self.name == "constant":
            return batch.images.new_tensor(self.colour).view(1, 3, 1, 1)
        if self.name == "mean":
            if context.evaluated is None:
                raise CapabilityError("fill=mean is the mean of the evaluated model, and there is none here")
            return batch.images.new_tensor(context.evaluated.info.mean).view(1, 3, 1, 1)
        if self.name == "noise":
            shape = batch.images.shape[1:]
            noise = by_image(lambda name: rng.dense_uniforms(seed, _NOISE_STREAM, [name], shape)[0], batch.ids)
            return torch.from_numpy(noise).to(batch.images.device)
        return _blurred(batch.images, self.blur)


def replaced(images: Tensor, dropped: Tensor, fill: Tensor | None) -> Tensor:
    """``images`` (N, 3, H, W) with ``fill`` (None: black) wherever ``dropped`` (N, H, W) bool is true."""
    if fill is None:
        return images.masked_fill(dropped[:, None], 0.0)
    return torch.where(dropped[:, None], fill, images)


def _blurred(images: Tensor, share: float) -> Tensor:
    kernel = ImageFilter.GaussianBlur(share * min(images.shape[2:]))

    def blur(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        pixels = np.rint(image * np.float32(255)).astype(np.uint8).transpose(1, 2, 0)
        blurred = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).filter(kernel))
        scaled: npt.NDArray[np.float32] = np.divide(blurred.transpose(2, 0, 1), np.float32(255), dtype=np.float32)
        return scaled

    return torch.from_numpy(by_image(blur, images.detach().cpu().numpy())).to(images.device)
