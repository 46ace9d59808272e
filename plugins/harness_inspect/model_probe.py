"""What probes of a model itself share: they ask nothing of images and choose none."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeInfo
from harness.types import FeatureTable, ModelInfo, OutputSpec

if TYPE_CHECKING:
    import numpy.typing as npt


class ModelProbe(Probe):
    """A probe whose ``fit`` does all the work, on the network that its context holds."""

    def __init__(self, info: ProbeInfo) -> None:
        self._info = info

    @property
    def info(self) -> ProbeInfo:
        """Its card."""
        return self._info

    def wants(self, model: ModelInfo) -> OutputSpec:  # noqa: ARG002  # some refuse by the card
        """Nothing: no image is shown."""
        return OutputSpec()

    def features(self, model: ModelInfo) -> None:
        """None: it does not learn."""

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:  # noqa: ARG002  # the contract's
        """No images."""
        return np.empty(0, np.int64)

    @abstractmethod
    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """Measure the model; ``support`` is None."""
