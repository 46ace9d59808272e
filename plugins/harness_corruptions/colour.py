"""Corruptions of an image's colours: brightness, contrast and saturation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from harness_corruptions.corruption import Corruption

BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""What is added to value, by severity."""

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
"""The share of contrast that is left, by severity."""

SATURATE = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))
"""By what saturation is multiplied, and what is then added, by severity."""


def brightness(images: Tensor, amount: float) -> Tensor:
    """(N, 3, H, W) pixels in [0, 1] with ``amount`` added to the value of HSV, which ends at 1.

    Hue and saturation stay as they are exactly when all channels are scaled alike, so no conversion is needed. Black
    has neither and becomes grey.
    """
    value = images.amax(dim=1, keepdim=True)
    black = value <= 0
    raised = value.add(amount).clamp_(max=1)
    gain = raised / value.masked_fill(black, 1)
    return (images * gain).add_(black, alpha=amount)


def contrast(images: Tensor, share: float) -> Tensor:
    """(N, 3, H, W) pixels drawn towards the mean of their image and channel until ``share`` of the distance is left."""
    # Image by image: a sum over the batch may be split among threads in ways that depend on the batch's size.
    means = torch.stack([image.mean(dim=(1, 2)) for image in images])
    return (images * share).add_(means[:, :, None, None] * (1 - share))


def saturate(images: Tensor, factor: float, offset: float) -> Tensor:
    """(N, 3, H, W) pixels in [0, 1] whose saturation s in HSV becomes clip(s * ``factor`` + ``offset``, 0, 1).

    Value stays, and with the hue every channel's distance from it scales as saturation does. Grey has no hue; where it
    gets saturation it turns red, which is hue 0.
    """
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    grey = chroma <= 0
    saturation = chroma / value.masked_fill(grey, 1)
    wanted = saturation.mul(factor).add_(offset).clamp_(0, 1)
    gain = (wanted / saturation.masked_fill(grey, 1)).masked_fill(grey, 0)
    red = (value * wanted) * grey
    saturated = value - (value - images) * gain
    return torch.cat([saturated[:, :1], saturated[:, 1:] - red], dim=1)


class Brightness(Corruption):
    """Value of HSV raised by .1 to .5.

    Against the package imagecorruptions no pixel differs by more than one of 256 values: raised by .2 or .4, many
    values fall on a whole level, below which double precision may leave the package.
    """

    name: ClassVar[str] = "brightness"

    def corrupt(self, images: Tensor, severity: int, draws: Any) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """:func:`brightness` at a severity."""
        return brightness(images, BRIGHTNESS[severity - 1])


class Contrast(Corruption):
    """Pixels drawn towards the image's mean colour until 40 to 5 % of the contrast is left.

    Against the package imagecorruptions no pixel differs by more than one of 256 values.
    """

    name: ClassVar[str] = "contrast"

    def corrupt(self, images: Tensor, severity: int, draws: Any) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """:func:`contrast` at a severity."""
        return contrast(images, CONTRAST[severity - 1])


class Saturate(Corruption):
    """Saturation of HSV taken away (severities 1 and 2) or exaggerated (3 to 5).

    Against the package imagecorruptions no pixel differs by more than one of 256 values.
    """

    name: ClassVar[str] = "saturate"

    def corrupt(self, images: Tensor, severity: int, draws: Any) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """:func:`saturate` at a severity."""
        return saturate(images, *SATURATE[severity - 1])
