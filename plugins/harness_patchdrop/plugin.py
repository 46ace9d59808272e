"""Descriptors of the PatchDrop family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import PerturbationEntry
from harness.hookspecs import hookimpl
from harness_patchdrop.parameters import RATIO, OffsetDropParams, PixelDropParams, RandomDropParams

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOSS = "information_loss"


@hookimpl
def harness_register_perturbations() -> Iterable[PerturbationEntry]:
    """Offer every drop, shuffle and lesion of the family."""
    yield PerturbationEntry(
        name="patchdrop_random",
        target="harness_patchdrop.random_drop:RandomPatchDrop",
        summary="black out a random fraction of the cells of a grid, other cells for every image",
        params=RandomDropParams,
        level=RATIO,
        stochastic=True,
        loss=_LOSS,
    )
    yield PerturbationEntry(
        name="patchdrop_offset",
        target="harness_patchdrop.random_drop:OffsetPatchDrop",
        summary="random PatchDrop shifted by half a cell, so that it does not line up with a model's patches",
        params=OffsetDropParams,
        level=RATIO,
        stochastic=True,
        loss=_LOSS,
    )
    yield PerturbationEntry(
        name="pixeldrop",
        target="harness_patchdrop.random_drop:PixelDrop",
        summary="black out a random fraction of the pixels",
        params=PixelDropParams,
        level=RATIO,
        stochastic=True,
        loss=_LOSS,
    )
