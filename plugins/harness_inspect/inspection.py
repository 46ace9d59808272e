"""The run of any inspection: values per image, means of maps over the images, and a few images to show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness import rng
from harness.errors import HarnessError
from harness.outcomes import OutcomeLog
from harness.protocols import HasArrays, ProbeRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from harness.protocols import Outcomes
    from harness.types import ImageBatch, JSONScalar, Measurement, ModelOutputs

    Arrays = Mapping[str, npt.NDArray[Any]]

MEAN = "mean."
"""In front of the name of an array that is a mean over all images, as float64."""
SHOWN = "shown."
"""In front of the name of an array of the images shown, (K, ...), in order of position."""
POSITIONS = f"{SHOWN}positions"
"""The places (K,) of the images shown in their split."""

_STREAM = "inspect.shown"
_STEPS = 2.0**32
# A sum over 2**20 images of values below this stays inside 64 bits.
_LARGEST = 2.0**11


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an inspection finds in a batch of N images.

    ``values``: (V, N) by column, a row per variant. ``maps``: (N, ...) floats below 2048 in size by name, of which the
    mean over the images is kept (to 2**-32). ``shown``: (N, ...) by name, kept of the few images that are shown.
    """

    values: Arrays
    maps: Arrays = field(default_factory=dict)
    shown: Arrays = field(default_factory=dict)


class Inspection(Protocol):
    """A fitted inspection: how a batch is read, and what the values amount to."""

    @property
    def name(self) -> str:
        """The probe's name, for errors."""
        ...

    @property
    def variants(self) -> tuple[Mapping[str, JSONScalar], ...]:
        """The dims of each row of the columns."""
        ...

    @property
    def columns(self) -> Mapping[str, npt.DTypeLike]:
        """The type of every column."""
        ...

    @property
    def shown_images(self) -> int:
        """How many images are kept to be shown: those with the lowest keyed hash of their ids."""
        ...

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:
        """What is found in a batch; of an image, whatever stands beside it in the batch."""
        ...

    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:
        """Numbers with intervals from the values of all images, in order of position, and the arrays kept."""
        ...


class InspectionRun(ProbeRun, HasArrays):
    """What was found so far. Means are summed as whole numbers of 2**-32, so that no order of images changes a bit."""

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection
        self._log = OutcomeLog(variants=inspection.variants, columns=inspection.columns)
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, npt.NDArray[np.int64]] = {}
        self._shown: dict[str, npt.NDArray[Any]] = {}
        self._hashes = np.empty(0, np.uint64)

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:
        """Take in what is found in one batch."""
        found = self._inspection.inspect(batch, outputs, clean)
        self._log.update(batch.positions, found.values)
        self._add({name: self._steps(name, values).sum(axis=0) for name, values in found.maps.items()})
        if self._inspection.shown_images:
            hashes = rng.bits(0, _STREAM, batch.ids, 1)[:, 0]
            self._show(hashes, {"positions": batch.positions, **found.shown})

    def merge(self, other: ProbeRun) -> None:
        """Add what ``other`` has found in other images."""
        if not isinstance(other, InspectionRun):
            raise TypeError(f"cannot merge {type(other).__name__} into {type(self).__name__}")
        self._log.merge(other._log)
        self._add(other._sums)
        if len(other._hashes):
            self._show(other._hashes, other._shown)

    def result(self) -> list[Measurement]:
        """The inspection's numbers."""
        return self._inspection.measure(self._log.table(), self.arrays())

    def outcomes(self) -> Outcomes:
        """The values of every image."""
        return self._log.table()

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Means over all images as ``mean.NAME``, and what is shown of some as ``shown.NAME``."""
        order = np.argsort(self._shown.get("positions", self._hashes))
        means = {f"{MEAN}{name}": total / _STEPS / len(self._log) for name, total in self._sums.items()}
        return means | {f"{SHOWN}{name}": values[order] for name, values in self._shown.items()}

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything found so far."""
        state = {f"log.{name}": array for name, array in self._log.state_dict().items()}
        state |= {f"sum.{name}": total.copy() for name, total in self._sums.items()}
        state |= {f"{SHOWN}{name}": values.copy() for name, values in self._shown.items()}
        return state | {"hashes": self._hashes.copy()}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from :meth:`state_dict`. Raises :class:`~harness.errors.HarnessError` for another probe's."""
        if "hashes" not in state:
            raise HarnessError(
                f"a state of {self._inspection.name} must hold hashes, this one holds {', '.join(sorted(state))}",
                hint="the checkpoint belongs to another probe or version; delete it to start this cell again",
            )
        self._log.load_state_dict({k.removeprefix("log."): v for k, v in state.items() if k.startswith("log.")})
        self._sums = {k.removeprefix("sum."): v.copy() for k, v in state.items() if k.startswith("sum.")}
        self._shown = {k.removeprefix(SHOWN): v.copy() for k, v in state.items() if k.startswith(SHOWN)}
        self._hashes = state["hashes"].copy()

    def _steps(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        exact = np.asarray(values, dtype=np.float64)
        if not np.isfinite(exact).all():
            raise HarnessError(
                f"{self._inspection.name}: {name} holds numbers that are not finite", hint="try --precision fp32"
            )
        if (highest := float(np.abs(exact).max(initial=0.0))) >= _LARGEST:
            raise HarnessError(
                f"{self._inspection.name}: {name} reaches {highest:.4g}, its means are kept below {_LARGEST:g} only",
                hint="the perturbation moves some feature out of all proportion; choose other features",
            )
        return np.rint(exact * _STEPS).astype(np.int64)

    def _add(self, sums: Mapping[str, npt.NDArray[np.int64]]) -> None:
        for name, total in sums.items():
            self._sums[name] = self._sums[name] + total if name in self._sums else total.copy()

    def _show(self, hashes: npt.NDArray[np.uint64], shown: Arrays) -> None:
        """Of the images shown so far and those given, keep the ones with the lowest hashes."""
        everything = np.concatenate([self._hashes, hashes])
        kept = np.argsort(everything, kind="stable")[: self._inspection.shown_images]
        for name, values in shown.items():
            both = np.concatenate([self._shown[name], values]) if name in self._shown else values
            self._shown[name] = both[kept]
        self._hashes = everything[kept]
