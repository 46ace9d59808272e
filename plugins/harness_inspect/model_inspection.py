"""What is measured of a model itself, when a probe is fitted: numbers and arrays that no image adds to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import CapabilityError
from harness.protocols import FittedProbe, HasArrays, Outcomes, ProbeRun

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from harness.protocols import Model, ProbeContext
    from harness.types import ImageBatch, Measurement, ModelOutputs


def measured_model(context: ProbeContext, probe: str) -> Model:
    """The model to measure. Raises :class:`~harness.errors.CapabilityError` where the context holds none."""
    if context.network is None:
        raise CapabilityError(f"probe {probe} measures a model itself, and was given its card alone")
    return context.network


class ModelFindings(FittedProbe):
    """A fitted probe whose numbers are there already."""

    def __init__(
        self, measurements: Sequence[Measurement], arrays: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> None:
        self.measurements = tuple(measurements)
        self.kept = dict(arrays or {})

    def start(self) -> ProbeRun:
        """A run with the same numbers, whatever it sees."""
        return ModelFindingsRun(self)

    def scores(self, outputs: ModelOutputs) -> None:
        """None: it scores nothing."""


class ModelFindingsRun(ProbeRun, HasArrays):
    """The numbers of :class:`ModelFindings` as a run, for no images."""

    def __init__(self, found: ModelFindings) -> None:
        self._found = found

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:
        """Nothing: images add nothing."""

    def merge(self, other: ProbeRun) -> None:
        """Nothing: the other's numbers are the same."""
        if not isinstance(other, ModelFindingsRun):
            raise TypeError(f"cannot merge {type(other).__name__} into {type(self).__name__}")

    def result(self) -> list[Measurement]:
        """The numbers."""
        return list(self._found.measurements)

    def outcomes(self) -> Outcomes:
        """Those of no image."""
        return Outcomes(positions=np.empty(0, np.int64), variants=({},), columns={})

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays."""
        return dict(self._found.kept)

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Nothing: everything was there from the start."""
        return {}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Nothing."""
