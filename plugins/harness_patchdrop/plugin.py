"""Descriptor of the PatchDrop family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import PerturbationEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import LevelSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

RATIO = LevelSpec(
    name="ratio",
    unit="of cells",
    values=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    low=0.0,
    high=1.0,
    identity=0.0,
    nested=True,
)
"""The strength axis: the fraction of cells dropped. The sweep is that of the paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomDropParams:
    """Parameters of ``patchdrop_random``."""

    grid: tuple[int, int] = param(
        (14, 14),
        help="cells the image is divided into, as ROWSxCOLUMNS; any numbers up to the image's pixels",
        unit="cells",
        low=1,
    )


@hookimpl
def harness_register_perturbations() -> Iterable[PerturbationEntry]:
    """Offer ``patchdrop_random``."""
    yield PerturbationEntry(
        name="patchdrop_random",
        target="harness_patchdrop.random_drop:RandomPatchDrop",
        summary="black out a random fraction of the cells of a grid, other cells for every image",
        params=RandomDropParams,
        level=RATIO,
        stochastic=True,
        loss="information_loss",
    )
