"""Random PatchDrop: a random set of cells blacked out, drawn for each image by its id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness import rng
from harness.errors import ParameterError
from harness.params import canonical
from harness.protocols import PerturbationContext, PerturbationInfo
from harness_patchdrop.grids import cell_areas, drop_count, to_pixels
from harness_patchdrop.plugin import RATIO, RandomDropParams

if TYPE_CHECKING:
    from torch import Tensor

    from harness.types import ImageBatch

STREAM = "patchdrop"
"""What the draws are keyed by; every variant of the family that drops random cells shares it, and so its masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRanks:
    """The order in which each image loses its cells: ``ranks`` (N, cells) int32, the cell of rank 0 first."""

    ranks: Tensor


class RandomPatchDrop:
    """Write 0 (black, before the model normalises) over floor(ratio * cells) random cells of each image.

    Random PatchDrop of Naseer et al., "Intriguing Properties of Vision Transformers" (arXiv 2105.10497), section 3.1
    and appendix A, with one difference: their code draws one mask per batch, here each image has its own, keyed by
    seed and image id. For one image the cells of a lower ratio are among those of every higher one.

    ``grid``: rows and columns of cells; see :func:`harness_patchdrop.grids.cell_of_pixel` for sides it does not
    divide. ``realised["information_loss"]`` is the exact fraction of pixels dropped.
    """

    def __init__(self, *, grid: tuple[int, int] = (14, 14)) -> None:
        self._grid = grid
        self._seed: int | None = None
        self._info = PerturbationInfo(
            name="patchdrop_random",
            stochastic=True,
            stream=STREAM,
            level=RATIO,
            params=canonical(RandomDropParams(grid=grid)),
        )

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        return self._info

    def prepare(self, context: PerturbationContext) -> None:
        """Take the seed."""
        self._seed = context.seed

    def begin(self, batch: ImageBatch) -> CellRanks:
        """The order of cells of each image, shared by all ratios; on the images' device."""
        if self._seed is None:
            raise RuntimeError("patchdrop_random: begin() was called before prepare()")
        ranks = rng.ranks(self._seed, STREAM, batch.ids, self._grid[0] * self._grid[1])
        return CellRanks(ranks=torch.from_numpy(ranks).to(torch.int32).to(batch.images.device))

    def apply(self, batch: ImageBatch, state: CellRanks, level: float | None) -> ImageBatch:
        """The batch with the first floor(level * cells) cells of each image black.

        Raises :class:`~harness.errors.ParameterError` for no level, one outside [0, 1], or a grid finer than the image.
        """
        if level is None:
            raise ParameterError(
                "patchdrop_random needs a ratio of cells to drop", hint="patchdrop_random@0.5, or @all for the sweep"
            )
        cells = state.ranks.shape[1]
        dropped = state.ranks < drop_count(RATIO.check(level, "patchdrop_random"), cells)
        size = (batch.images.shape[2], batch.images.shape[3])
        areas = torch.from_numpy(cell_areas(self._grid, size).copy()).to(dropped.device)
        # Whole pixels are counted as integers, so the quotient is the same on every device.
        pixels = (dropped * areas).sum(dim=1).cpu()
        images = batch.images.masked_fill(to_pixels(dropped, self._grid, size)[:, None], 0.0)
        return batch.with_images(images, information_loss=pixels.to(torch.float64) / (size[0] * size[1]))
