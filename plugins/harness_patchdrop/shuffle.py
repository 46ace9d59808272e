"""Patch shuffle: the blocks of an image put back in a random order (arXiv 2105.10497, figure 10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness import rng
from harness.errors import ParameterError
from harness.params import canonical, checked
from harness.protocols import PerturbationContext, PerturbationInfo
from harness.types import ImageBatch
from harness_patchdrop.mask_scope import mask_groups, mask_ids
from harness_patchdrop.parameters import MaskScope
from harness_patchdrop.token_parameters import BLOCKS, IdentityOrder, ShuffleParams

STREAM = "patchdrop.shuffle"
"""What orders are keyed by, together with the number of blocks."""


def block_grid(blocks: int, rows: int | None = None) -> tuple[int, int]:
    """``blocks`` as rows and columns: ``rows`` of them, or the most nearly square with no more rows than columns.

    One block is the whole image, whatever ``rows``. Raises :class:`~harness.errors.ParameterError` for ``rows`` that
    do not divide ``blocks``.

    >>> [block_grid(n) for n in (4, 8, 49, 196)], block_grid(8, rows=8)
    ([(2, 2), (2, 4), (7, 7), (14, 14)], (8, 1))
    """
    if blocks == 1:
        return 1, 1
    if rows is None:
        rows = next(n for n in range(math.isqrt(blocks), 0, -1) if blocks % n == 0)
    if blocks % rows:
        raise ParameterError(
            f"patch_shuffle: {blocks} blocks do not make {rows} rows",
            hint=f"choose a multiple of {rows} blocks, or leave out rows",
        )
    return rows, blocks // rows


def block_order(
    seed: int, ids: Sequence[str], blocks: int, identity: IdentityOrder = "excluded"
) -> npt.NDArray[np.int64]:
    """A uniformly random order of ``blocks`` per id: (N, blocks) int64; which block comes to each place.

    Where the order that moves nothing is excluded it is drawn again, from a stream of its own each time, so that all
    others are equally likely; a single block has no other order.
    """
    order = rng.permutations(seed, f"{STREAM}.{blocks}", ids, blocks)
    if identity == "allowed" or blocks == 1:
        return order
    attempt = 0
    while (still := (order == np.arange(blocks)).all(axis=1)).any():
        attempt += 1
        drawn_again = [name for name, same in zip(ids, still, strict=True) if same]
        order[still] = rng.permutations(seed, f"{STREAM}.{blocks}.again{attempt}", drawn_again, blocks)
    return order


def shuffled(images: Tensor, order: Tensor, grid: tuple[int, int]) -> Tensor:
    """``images`` (N, C, H, W) with block ``order[i, j]`` of image i in place j; ``order`` (N, rows * columns) int64.

    Blocks of floor(H / rows) x floor(W / columns) pixels, counted row by row. Where that does not cover the image they
    cover its centre, and the margin around them stays. Differentiable. Raises
    :class:`~harness.errors.ParameterError` for more rows or columns than pixels.
    """
    n, channels, height, width = images.shape
    (rows, columns), (tall, wide) = grid, _block_size(grid, (height, width))
    top, left = (height - rows * tall) // 2, (width - columns * wide) // 2
    centre = (..., slice(top, top + rows * tall), slice(left, left + columns * wide))
    blocks = images[centre].reshape(n, channels, rows, tall, columns, wide).permute(0, 2, 4, 1, 3, 5)
    moved = blocks.reshape(n, rows * columns, channels, tall, wide)[
        torch.arange(n, device=order.device)[:, None], order
    ]
    mixed = moved.view(n, rows, columns, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
    mixed = mixed.reshape(n, channels, rows * tall, columns * wide)
    if mixed.shape == images.shape:
        return mixed
    result = images.clone()
    result[centre] = mixed
    return result


def inverse(order: Tensor) -> Tensor:
    """The orders (N, blocks) that put every block back: ``shuffled(shuffled(x, order, g), inverse(order), g)`` is x."""
    return order.argsort(dim=1)


def _block_size(grid: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    tall, wide = size[0] // grid[0], size[1] // grid[1]
    if not tall or not wide:
        raise ParameterError(
            f"patch_shuffle: {grid[0]}x{grid[1]} blocks do not fit on {size[0]}x{size[1]} pixels",
            hint="choose fewer blocks",
        )
    return tall, wide


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleKeys:
    """What the orders of a batch are keyed by, whatever the number of blocks."""

    keys: tuple[str, ...]


class PatchShuffle:
    """Cut each image into blocks and put them back in a random order.

    Naseer et al., "Intriguing Properties of Vision Transformers" (arXiv 2105.10497), figure 10, with two
    differences: each image has its own order, keyed by seed and image id, where their code draws one per batch
    (``mask_scope="batch"``); and an order that moves no block is drawn again (``identity="allowed"`` keeps it, as
    theirs does). The level is the number of blocks, laid out by :func:`block_grid` and moved by :func:`shuffled`; a
    foreground mask moves with its image. Orders of different numbers of blocks have nothing in common.

    ``realised["displaced"]`` is the share of blocks that came to another place, ``realised["shuffled_area"]`` the
    share of pixels that blocks cover.
    """

    def __init__(
        self, *, rows: int | None = None, identity: IdentityOrder = "excluded", mask_scope: MaskScope = "image"
    ) -> None:
        params = checked(ShuffleParams(rows=rows, identity=identity, mask_scope=mask_scope), "patch_shuffle")
        self._info = PerturbationInfo(
            name="patch_shuffle", stochastic=True, stream=STREAM, level=BLOCKS, params=canonical(params)
        )
        self._rows = params.rows
        self._identity: IdentityOrder = params.identity
        self._mask_scope: MaskScope = params.mask_scope
        self._context: PerturbationContext | None = None

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        return self._info

    @property
    def context(self) -> PerturbationContext:
        """What :meth:`prepare` was given."""
        if self._context is None:
            raise RuntimeError("patch_shuffle: begin() was called before prepare()")
        return self._context

    def prepare(self, context: PerturbationContext) -> None:
        """Take the seed."""
        self._context = context

    def begin(self, batch: ImageBatch) -> ShuffleKeys:
        """What all levels share: no more than the names that orders are drawn by."""
        return ShuffleKeys(keys=tuple(mask_ids(batch.ids, self._mask_scope, self.context)))

    def apply(self, batch: ImageBatch, state: ShuffleKeys, level: float | None) -> ImageBatch:
        """The batch with its blocks in another order.

        Raises :class:`~harness.errors.ParameterError` for no level, one out of range or between whole numbers, more
        blocks than pixels, or blocks that do not make the rows asked for.
        """
        blocks = _whole(level)
        grid = block_grid(blocks, self._rows)
        height, width = batch.images.shape[2:]
        tall, wide = _block_size(grid, (height, width))
        drawn = block_order(self.context.seed, state.keys, blocks, self._identity)
        order = torch.from_numpy(drawn).to(batch.images.device)
        displaced = torch.from_numpy((drawn != np.arange(blocks)).sum(axis=1) / blocks)
        area = torch.full((len(batch),), blocks * tall * wide / (height * width), dtype=torch.float64)
        mixed = batch.with_images(
            shuffled(batch.images, order, grid),
            displaced=displaced,
            shuffled_area=area,
            **mask_groups(batch.ids, self._mask_scope, self.context),
        )
        return mixed.with_maps(lambda maps: shuffled(maps[:, None], order, grid)[:, 0])


def _whole(level: float | None) -> int:
    if level is None:
        raise ParameterError("patch_shuffle needs a number of blocks", hint="patch_shuffle@16, or @all for the sweep")
    blocks = BLOCKS.check(level, "patch_shuffle")
    if blocks != int(blocks):
        raise ParameterError(f"patch_shuffle: blocks must be a whole number, not {level:g}", hint="patch_shuffle@16")
    return int(blocks)
