"""A patch's outline in pixels, where it lies in each image, and the pixels under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness import rng


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """Which pixels of a box of ``rows`` by ``columns`` the patch covers: ``mask`` (rows, columns) bool, on the CPU."""

    mask: Tensor

    @property
    def rows(self) -> int:
        """The height of the box, in pixels."""
        return self.mask.shape[0]

    @property
    def columns(self) -> int:
        """The width of the box, in pixels."""
        return self.mask.shape[1]

    @property
    def count(self) -> int:
        """How many pixels it covers."""
        return int(self.mask.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The box's first row ``top`` (N,) and first column ``left`` (N,) in each image, int64 on the CPU."""

    top: Tensor
    left: Tensor

    def take(self, rows: Tensor) -> Placement:
        """That of some of the images."""
        return Placement(top=self.top[rows], left=self.left[rows])


def outline(shape: Literal["square", "disk"], area: float, size: tuple[int, int]) -> Outline:
    """The outline that covers about ``area``, a fraction above 0, of an image of ``size`` (rows, columns).

    A square of side round(sqrt(area * rows * columns)), or the pixels whose centres lie within sqrt(area * rows *
    columns / pi) of the middle of a box; both cut to the image, and of at least one pixel.

    >>> outline("square", 0.25, (8, 8)).mask.shape, outline("disk", 0.25, (20, 20)).count
    (torch.Size([4, 4]), 97)
    """
    pixels = area * size[0] * size[1]
    if shape == "square":
        side = max(1, round(math.sqrt(pixels)))
        return Outline(mask=torch.ones(min(side, size[0]), min(side, size[1]), dtype=torch.bool))
    radius = math.sqrt(pixels / math.pi)
    side = max(1, round(2 * radius))
    rows, columns = min(side, size[0]), min(side, size[1])
    down, across = (torch.arange(length, dtype=torch.float64) + 0.5 - length / 2 for length in (rows, columns))
    mask = down[:, None] ** 2 + across[None] ** 2 <= radius**2
    # A disk smaller than a pixel may hold no centre at all.
    mask[rows // 2, columns // 2] = True
    return Outline(mask=mask)


def places(
    placement: Literal["random", "centre", "corner"],
    shape: Outline,
    size: tuple[int, int],
    *,
    seed: int,
    stream: str,
    ids: Sequence[str],
) -> Placement:
    """Where the outline lies in images of ``size`` (rows, columns): at random, central, or at the top left.

    ``random``: keyed by seed, stream and id; every place at which it lies within the image is equally likely.
    """
    room = torch.tensor([size[0] - shape.rows, size[1] - shape.columns])
    if placement == "random":
        draws = torch.from_numpy(rng.uniforms(seed, stream, ids, 2))
        corner = (draws * (room + 1)).long().minimum(room)
    else:
        fixed = room // 2 if placement == "centre" else torch.zeros_like(room)
        corner = fixed.expand(len(ids), 2)
    return Placement(top=corner[:, 0], left=corner[:, 1])


def lay(patch: Tensor, shape: Outline, images: Tensor, placement: Placement) -> Tensor:
    """Copies of ``images`` (N, 3, H, W) with ``patch`` (3, h, w) on their device over the pixels of the outline."""
    covered = images.clone()
    index = _index(shape, placement, images.device)
    mask = shape.mask.to(images.device)[None, :, :, None]
    covered[index] = torch.where(mask, patch.permute(1, 2, 0), covered[index])
    return covered


def under(values: Tensor, shape: Outline, placement: Placement) -> Tensor:
    """What of ``values`` (N, 3, H, W) lies in the outline's box: (N, 3, h, w)."""
    return values[_index(shape, placement, values.device)].permute(0, 3, 1, 2)


def _index(shape: Outline, placement: Placement, device: torch.device) -> tuple[Tensor, slice, Tensor, Tensor]:
    """The index whose result is (N, h, w, 3): the sliced dimension comes last where it stands between others."""
    image = torch.arange(len(placement.top), device=device)[:, None, None]
    down = placement.top.to(device)[:, None, None] + torch.arange(shape.rows, device=device)[:, None]
    across = placement.left.to(device)[:, None, None] + torch.arange(shape.columns, device=device)
    return image, slice(None), down, across
