"""Position embeddings at another grid, and taken away: what is changed before a transformer is asked anything."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harness.errors import ParameterError, WeightsError

Interpolation: TypeAlias = Literal["bicubic", "bilinear_corner"]
Ablation: TypeAlias = Literal["none", "zero", "shuffle", "mean"]


def resample_positions(positions: Tensor, num_prefix: int, grid: tuple[int, int], how: Interpolation) -> Tensor:
    """Position embeddings (1, P + G*G, D) of a square grid for another ``grid``; those of P prefix tokens are kept.

    ``bilinear_corner``: first-order interpolation between aligned corners, as the ViT paper's code does it.
    ``bicubic``: as DINO's and IPViT's code does it, without their rounding of the scale. The same grid gives the same
    embeddings. Raises :class:`~harness.errors.WeightsError` where the given ones do not form a square.
    """
    prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise WeightsError(
            f"position embeddings: {positions.shape[1]}, less {num_prefix} of prefix tokens, form no square grid",
            hint="they belong to another kind of network",
        )
    if (side, side) == tuple(grid):
        return positions
    square = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resampled = resample_map(square, grid, how).permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([prefix, resampled.to(prefix.dtype)], dim=1)


def resample_map(positions: Tensor, grid: tuple[int, int], how: Interpolation) -> Tensor:
    """Position embeddings (1, D, Gh, Gw) for another ``grid``; see :func:`resample_positions`."""
    if tuple(positions.shape[-2:]) == tuple(grid):
        return positions
    if how == "bilinear_corner":
        return functional.interpolate(positions, size=grid, mode="bilinear", align_corners=True)
    return functional.interpolate(positions, size=grid, mode="bicubic", align_corners=False)


def ablate_positions(positions: Tensor, num_prefix: int, how: Ablation, *, seed: int = 0) -> Tensor:
    """Position embeddings (1, P + K, D) that no longer say where a patch lies; those of P prefix tokens stay.

    ``none`` leaves them alone. ``zero``: no patch has one. ``mean``: every patch has the mean of all. ``shuffle``:
    each patch has that of another place, by a permutation of ``seed``. A network that was trained with positions and
    loses them is another experiment than one trained without (Naseer et al., arXiv 2105.10497, section 3.3).
    """
    prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
    if how == "none":
        return positions
    if how == "zero":
        changed = torch.zeros_like(patches)
    elif how == "mean":
        changed = patches.mean(dim=1, keepdim=True).expand_as(patches)
    elif how == "shuffle":
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(patches.shape[1])
        changed = patches[:, torch.from_numpy(order).to(patches.device)]
    else:
        raise ParameterError(f"positions: {how!r} is none of none, zero, shuffle, mean")
    return torch.cat([prefix, changed], dim=1)
