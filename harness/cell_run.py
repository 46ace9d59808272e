"""One cell while it is being answered: the probe's counters, and what the perturbation really did to each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.protocols import FittedProbe, ProbeRun
from harness.types import ImageBatch, Measurement, ModelOutputs

_POSITIONS = "realised_positions"
_REALISED = "realised."
_PROBE = "probe."


class CellRun:
    """A :class:`~harness.protocols.ProbeRun` together with the realised quantities of its cell.

    Mergeable and serialisable like the run it holds. Realised values are kept as float64 per image.
    """

    def __init__(self, fitted: FittedProbe) -> None:
        self._probe: ProbeRun = fitted.start()
        self._positions: list[npt.NDArray[np.int32]] = []
        self._realised: dict[str, list[npt.NDArray[np.float64]]] = {}

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:
        """Count one batch."""
        self._probe.update(batch, outputs, clean)
        if batch.realised:
            self._positions.append(batch.positions.astype(np.int32))
            for name, values in batch.realised.items():
                self._realised.setdefault(name, []).append(values.detach().cpu().numpy().astype(np.float64))

    def merge(self, other: CellRun) -> None:
        """Add what ``other`` counted on other images."""
        self._probe.merge(other._probe)
        self._positions += other._positions
        for name, values in other._realised.items():
            self._realised.setdefault(name, []).extend(values)
        if len(self._positions) > 64:
            self._consolidate()

    def _consolidate(self) -> None:
        self._positions = [np.concatenate(self._positions)] if self._positions else []
        self._realised = {name: [np.concatenate(values)] for name, values in self._realised.items()}

    @property
    def probe(self) -> ProbeRun:
        """The probe's own counters."""
        return self._probe

    def realised(self) -> dict[str, npt.NDArray[np.float64]]:
        """Per-image values (N,) by name, in order of position."""
        if not self._positions:
            return {}
        order = np.argsort(np.concatenate(self._positions), kind="stable")
        return {name: np.concatenate(values)[order] for name, values in self._realised.items()}

    def result(self) -> list[Measurement]:
        """The probe's numbers, and the mean of each realised quantity over the images."""
        rows = list(self._probe.result())
        for name, values in sorted(self.realised().items()):
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
        self._consolidate()
        state = {f"{_PROBE}{name}": array for name, array in self._probe.state_dict().items()}
        if self._positions:
            state[_POSITIONS] = self._positions[0]
        return state | {f"{_REALISED}{name}": values[0] for name, values in self._realised.items()}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._probe.load_state_dict({k.removeprefix(_PROBE): v for k, v in state.items() if k.startswith(_PROBE)})
        self._positions = [state[_POSITIONS]] if _POSITIONS in state else []
        self._realised = {k.removeprefix(_REALISED): [v] for k, v in state.items() if k.startswith(_REALISED)}
