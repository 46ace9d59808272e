"""The identity perturbation: the clean pass as one more point of the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.protocols import PerturbationInfo

if TYPE_CHECKING:
    from harness.protocols import PerturbationContext
    from harness.types import ImageBatch


class Clean:
    """Perturbation ``none``: stage ``image``, no level, nothing random, nothing changed (bound 0)."""

    @property
    def info(self) -> PerturbationInfo:
        """The card of perturbation ``none``."""
        return PerturbationInfo(name="none", linf=0.0)

    def prepare(self, context: PerturbationContext) -> None:
        """Nothing to prepare."""

    def begin(self, batch: ImageBatch) -> None:
        """Nothing to share between levels, as there are none."""

    def apply(self, batch: ImageBatch, state: None, level: float | None) -> ImageBatch:  # noqa: ARG002 - the contract's signature
        """The very batch it was given."""
        return batch
