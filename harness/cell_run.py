"""One cell while it is being answered: the probe's counters, and what the perturbation really did to each image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.outcomes import OutcomeLog
from harness.protocols import MASK_GROUP, FittedProbe, ProbeRun
from harness.types import ImageBatch, Measurement, ModelOutputs

_PROBE = "probe."
_REALISED = "realised."
_COLUMN = f"{_REALISED}column."
_IDENTIFIERS = (MASK_GROUP,)
"""Realised columns that name something: their mean would be no measurement."""


class CellRun:
    """A :class:`~harness.protocols.ProbeRun` together with the realised quantities of its cell.

    Mergeable and serialisable like the run it holds. Realised values are kept as float64 per image.
    """

    def __init__(self, fitted: FittedProbe) -> None:
        self._probe: ProbeRun = fitted.start()
        self._realised: OutcomeLog | None = None

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:
        """Count one batch."""
        self._probe.update(batch, outputs, clean)
        if batch.realised:
            values = {name: column.detach().cpu().double().numpy()[None] for name, column in batch.realised.items()}
            self._log(values).update(batch.positions, values)

    def merge(self, other: CellRun) -> None:
        """Add what ``other`` counted on other images."""
        self._probe.merge(other._probe)
        if other._realised is not None:
            self._log(other._realised.columns).merge(other._realised)

    def _log(self, names: Iterable[str]) -> OutcomeLog:
        if self._realised is None:
            self._realised = OutcomeLog(variants=({},), columns=dict.fromkeys(names, np.float64))
        return self._realised

    @property
    def probe(self) -> ProbeRun:
        """The probe's own counters."""
        return self._probe

    def realised(self) -> dict[str, npt.NDArray[np.float64]]:
        """Per-image values (N,) by name, in order of position."""
        if self._realised is None:
            return {}
        return {name: column[0] for name, column in self._realised.table().columns.items()}

    def result(self) -> list[Measurement]:
        """The probe's numbers, and the mean of each realised quantity over the images.

        Where groups of images share a mask they are no independent units, and the probe's intervals, which take them
        for such, are left out; summaries resample groups.
        """
        rows, realised = list(self._probe.result()), self.realised()
        if MASK_GROUP in realised:
            rows = [dataclasses.replace(row, low=None, high=None, interval=None) for row in rows]
        for name, values in sorted(realised.items()):
            if name in _IDENTIFIERS:
                continue
            rows.append(
                Measurement(
                    metric=name,
                    value=float(np.mean(values, dtype=np.float64)),
                    n=len(values),
                    higher_is_better=None,
                )
            )
        return rows

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything counted so far, as arrays."""
        state = {f"{_PROBE}{name}": array for name, array in self._probe.state_dict().items()}
        if self._realised is not None:
            state |= {f"{_REALISED}{name}": array for name, array in self._realised.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._probe.load_state_dict({k.removeprefix(_PROBE): v for k, v in state.items() if k.startswith(_PROBE)})
        self._realised = None
        realised = {k.removeprefix(_REALISED): v for k, v in state.items() if k.startswith(_REALISED)}
        if realised:
            self._log(k.removeprefix(_COLUMN) for k in state if k.startswith(_COLUMN)).load_state_dict(realised)
