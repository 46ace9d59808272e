"""The whole image made small and pasted in a corner of an empty canvas (arXiv 2105.10497, appendix F)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from harness.params import canonical, checked
from harness.protocols import PerturbationContext, PerturbationInfo
from harness.types import ImageBatch
from harness_patchdrop.fills import Fill
from harness_patchdrop.parameters import FillName
from harness_patchdrop.token_parameters import Corner, CornerParams


class ImageInCorner:
    """Paste each image, at ``scale`` of its size, in one corner of a canvas of the fill, black unless told otherwise.

    Naseer et al., "Intriguing Properties of Vision Transformers" (arXiv 2105.10497), appendix F, where 128 of 224
    pixels show the image. It is resized bilinearly with antialiasing; a foreground mask goes with it, by the nearest
    pixel. Nothing is random: noise, as a fill, is fixed for an image, whatever the seed.

    ``realised["covered_area"]`` is the share of pixels that the small image covers.
    """

    def __init__(
        self,
        *,
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        scale: float = 4 / 7,
        corner: Corner = "top_left",
    ) -> None:
        given = CornerParams(fill=fill, colour=colour, blur=blur, scale=scale, corner=corner)
        params = checked(given, "image_in_corner")
        self._info = PerturbationInfo(name="image_in_corner", params=canonical(params))
        self._fill = Fill(name=params.fill, colour=params.colour, blur=params.blur)
        self._scale = params.scale
        self._corner: Corner = params.corner
        self._context: PerturbationContext | None = None

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        return self._info

    def prepare(self, context: PerturbationContext) -> None:
        """Take what the fill may be relative to."""
        self._context = context

    def begin(self, batch: ImageBatch) -> Tensor | None:
        """The fill's pixels, None for black.

        Raises :class:`~harness.errors.CapabilityError` for the mean colour of a model where none is evaluated.
        """
        if self._context is None:
            raise RuntimeError("image_in_corner: begin() was called before prepare()")
        return self._fill.pixels(batch, self._context, seed=0)

    def apply(self, batch: ImageBatch, state: Tensor | None, level: float | None) -> ImageBatch:  # noqa: ARG002 - it has no levels
        """The batch with every image in the corner; at least one pixel of it remains."""
        height, width = batch.images.shape[2:]
        size = (max(1, round(self._scale * height)), max(1, round(self._scale * width)))
        canvas = torch.zeros_like(batch.images) if state is None else state.expand_as(batch.images).clone()
        rows, columns = _window(self._corner, size, (height, width))
        canvas[:, :, rows, columns] = _resized(batch.images, size)
        covered = torch.full((len(batch),), size[0] * size[1] / (height * width), dtype=torch.float64)

        def pasted(maps: Tensor) -> Tensor:
            small = functional.interpolate(maps[:, None].float(), size=size, mode="nearest-exact")
            moved = torch.zeros_like(maps)
            moved[:, rows, columns] = small[:, 0].to(maps.dtype)
            return moved

        moved = batch.with_images(canvas, covered_area=covered).with_maps(pasted)
        beside = torch.ones(len(batch), height, width, dtype=torch.bool, device=canvas.device)
        beside[:, rows, columns] = False
        return replace(moved, taken=beside if moved.taken is None else beside | moved.taken)


def _window(corner: Corner, size: tuple[int, int], canvas: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of a ``canvas`` that a picture of ``size`` takes in its corner."""
    upright, _, sideways = corner.partition("_")
    top = 0 if upright == "top" else canvas[0] - size[0]
    left = 0 if sideways == "left" else canvas[1] - size[1]
    return slice(top, top + size[0]), slice(left, left + size[1])


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing, in [0, 1]; rounding of the weights can leave it by a last bit."""
    # Strides decide which kernel is used, and with it the last bits; those of a batch and of one image must agree.
    small = functional.interpolate(images.contiguous(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return small.clamp(0, 1)
