"""What every drop of pixels shares: begin once, replace a mask at each level, count what was lost."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.errors import ParameterError
from harness.params import canonical, checked
from harness.protocols import INFORMATION_LOSS, PerturbationContext, PerturbationInfo
from harness.types import ImageBatch, LevelSpec
from harness_patchdrop.fills import Fill, replaced
from harness_patchdrop.parameters import FillParams

STREAM = "patchdrop"
"""What the draws are keyed by; every variant of the family that drops random cells shares it, and so its masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What all levels share for one batch: ``order``, from which each level's mask follows, and the fill's pixels."""

    order: Any
    fill: Tensor | None


class PixelReplacement(ABC):
    """An image-stage perturbation that replaces the pixels of a mask; subclasses say which mask.

    ``realised["information_loss"]`` is the exact fraction of pixels replaced, as float64.
    """

    def __init__(self, name: str, params: FillParams, level: LevelSpec, *, stochastic: bool) -> None:
        params = checked(params, name)
        self._info = PerturbationInfo(
            name=name,
            stochastic=stochastic,
            stream=STREAM if stochastic else None,
            level=level,
            params=canonical(params),
        )
        self._level = level
        self._fill = Fill(name=params.fill, colour=params.colour, blur=params.blur)
        self._context: PerturbationContext | None = None

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        return self._info

    @property
    def context(self) -> PerturbationContext:
        """What :meth:`prepare` was given."""
        if self._context is None:
            raise RuntimeError(f"{self._info.name}: begin() was called before prepare()")
        return self._context

    def prepare(self, context: PerturbationContext) -> None:
        """Take the seed, and what the grid may be relative to."""
        self._context = context

    def begin(self, batch: ImageBatch) -> Begun:
        """What all levels share; on the images' device where it is large."""
        # Noise is no reason for several seeds where the pixels that it fills are always the same.
        seed = self.context.seed if self._info.stochastic else 0
        return Begun(order=self._order(batch), fill=self._fill.pixels(batch, self.context, seed=seed))

    def apply(self, batch: ImageBatch, state: Begun, level: float | None) -> ImageBatch:
        """The batch with the level's pixels replaced.

        Raises :class:`~harness.errors.ParameterError` for no level, one out of range, or a grid finer than the image.
        """
        name = self._info.name
        if level is None:
            raise ParameterError(f"{name} needs a {self._level.name}", hint=f"{name}@0.5, or @all for the sweep")
        size = (batch.images.shape[2], batch.images.shape[3])
        dropped = self._dropped(state.order, self._level.check(level, name), size)
        # Pixels are counted as integers, so the quotient is the same on every device.
        loss = dropped.sum(dim=(1, 2)).cpu().to(torch.float64) / (size[0] * size[1])
        realised = {INFORMATION_LOSS: loss, **self._realised(batch, state.order, level)}
        taken = dropped if batch.taken is None else dropped | batch.taken
        return dataclasses.replace(
            batch.with_images(replaced(batch.images, dropped, state.fill), **realised), taken=taken
        )

    @abstractmethod
    def _order(self, batch: ImageBatch) -> Any:
        """Whatever the masks of all levels follow from."""

    @abstractmethod
    def _dropped(self, order: Any, level: float, size: tuple[int, int]) -> Tensor:
        """The mask (N, H, W) bool of pixels that a level in range replaces, on the images' device."""

    def _realised(self, batch: ImageBatch, order: Any, level: float) -> Mapping[str, Tensor]:  # noqa: ARG002 - for subclasses
        """Further (N,) float64 values by name."""
        return {}
