"""Pixels cut to the 256 values of an image file, as the references leave them."""

from __future__ import annotations

from torch import Tensor

_NEARLY_WHOLE = 1e-3
"""How far below a whole value one still counts as it: what float32 loses must not cost a whole level."""


def eight_bit(images: Tensor) -> Tensor:
    """(N, 3, H, W) pixels clipped to [0, 1] and cut down to multiples of 1/255; gradients pass straight through.

    Both references end in ``numpy.uint8(255 * x)``, which cuts and does not round.
    """
    # One new tensor: a batch's first touch costs more than all of the arithmetic.
    cut = images.detach().mul(255).add_(_NEARLY_WHOLE).clamp_(0, 255).floor_().div_(255)
    if not images.requires_grad:
        return cut
    clipped = images.clamp(0, 1)
    return clipped + (cut - clipped.detach())


def nearest_eight_bit(images: Tensor) -> Tensor:
    """(N, 3, H, W) pixels clipped to [0, 1] and rounded to multiples of 1/255; gradients pass straight through."""
    clipped = images.clamp(0, 1)
    rounded = clipped.detach().mul(255).round_().div_(255)
    return clipped + (rounded - clipped.detach()) if clipped.requires_grad else rounded
