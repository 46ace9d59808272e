"""What inspections of attention share: they learn nothing, choose no images, and ask for the attention of blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeInfo, ProbeRun
from harness.types import FeatureTable, ModelInfo, ModelOutputs, OutputSpec
from harness_inspect.attention_weights import require_attention
from harness_inspect.inspection import InspectionRun

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from harness.protocols import Outcomes
    from harness.types import ImageBatch, JSONScalar, Measurement
    from harness_inspect.attention_weights import BlockChoice
    from harness_inspect.inspection import Arrays, Found


class AttentionProbe(Probe):
    """An inspection of the attention of ``blocks``: numbers, negative ones from the end, or all that have attention."""

    def __init__(self, info: ProbeInfo, blocks: BlockChoice = "all") -> None:
        self._info = info
        self._blocks = None if blocks == "all" else blocks

    @property
    def info(self) -> ProbeInfo:
        """Its card."""
        return self._info

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The attention of the blocks chosen.

        Raises :class:`~harness.errors.CapabilityError` for a model without attention, or a block without.
        """
        return OutputSpec(attention=frozenset(require_attention(model, self._blocks)))

    def features(self, model: ModelInfo) -> None:
        """None: it does not learn."""

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:  # noqa: ARG002  # the contract's
        """No images."""
        return np.empty(0, np.int64)

    @abstractmethod
    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """See what the blocks of this model attend to; ``support`` is None."""


class FittedAttention(FittedProbe):
    """An inspection of attention that knows its model; see :class:`~harness_inspect.inspection.Inspection`."""

    def __init__(
        self,
        name: str,
        *,
        variants: Sequence[Mapping[str, JSONScalar]],
        columns: Mapping[str, npt.DTypeLike],
        shown_images: int = 0,
    ) -> None:
        self.name = name
        self.variants = tuple(variants)
        self.columns = columns
        self.shown_images = shown_images

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return InspectionRun(self)

    def scores(self, outputs: ModelOutputs) -> None:
        """None: it scores nothing."""

    @abstractmethod
    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:
        """What is found in a batch."""

    @abstractmethod
    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:
        """Numbers with intervals."""
