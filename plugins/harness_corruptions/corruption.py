"""What every corruption shares: its parameters, draws keyed by image id, and the way to the reference package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from harness.errors import ParameterError
from harness.params import canonical, checked
from harness.protocols import PerturbationContext, PerturbationInfo
from harness.types import ImageBatch
from harness_corruptions.parameters import SEVERITY, CorruptionParams, Implementation, Lengths, Variant
from harness_corruptions.quantise import eight_bit

PUBLISHED_SIDE_PX = 224
"""The side of the images that the published parameters are for."""


class Corruption(ABC):
    """One common corruption of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
    and Perturbations" (arXiv 1903.12261), at severities 1 to 5.

    Random draws depend on seed, name and image id; severities share them where the definition allows it. With
    ``implementation="imagecorruptions"`` the package computes everything, from a seed of the same key.
    """

    name: ClassVar[str]
    stochastic: ClassVar[bool] = False
    already_eight_bit: ClassVar[bool] = False
    """Whether :meth:`corrupt` gives multiples of 1/255 by itself."""

    def __init__(
        self,
        *,
        variant: Variant = "imagecorruptions",
        implementation: Implementation = "native",
        lengths: Lengths = "scaled",
        quantise: bool = True,
    ) -> None:
        self._take(CorruptionParams(variant=variant, implementation=implementation, lengths=lengths, quantise=quantise))

    def _take(self, given: CorruptionParams) -> None:
        params = checked(given, self.name)
        if params.implementation == "imagecorruptions":
            from harness_corruptions.reference import require_package

            require_package()
        self.params = params
        self._seed: int | None = None

    @property
    def stream(self) -> str:
        """What its draws are keyed by."""
        return f"corruption.{self.name}"

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        return PerturbationInfo(
            name=self.name,
            stochastic=self.stochastic,
            stream=self.stream if self.stochastic else None,
            level=SEVERITY,
            params=canonical(self.params),
        )

    def prepare(self, context: PerturbationContext) -> None:
        """Take the seed."""
        self._seed = context.seed

    def begin(self, batch: ImageBatch) -> Any:
        """The draws that all severities of a batch share."""
        if self._seed is None:
            raise RuntimeError(f"{self.name}: begin() was called before prepare()")
        if self.params.implementation == "imagecorruptions" or not self.stochastic:
            return None
        size = (batch.images.shape[2], batch.images.shape[3])
        return self.draw(self._seed, batch.ids, size)

    def apply(self, batch: ImageBatch, state: Any, level: float | None) -> ImageBatch:
        """The corrupted batch. Raises :class:`~harness.errors.ParameterError` for a level that is no severity."""
        if level is None:
            raise ParameterError(f"{self.name} needs a severity", hint=f"{self.name}@3, or @all for the sweep")
        severity = int(SEVERITY.check(level, self.name))
        if self.params.implementation == "imagecorruptions":
            from harness_corruptions.reference import corrupted

            assert self._seed is not None
            return batch.with_images(corrupted(batch, self.name, severity, seed=self._seed, stream=self.stream))
        images = self.corrupt(batch.images, severity, state)
        if not self.params.quantise:
            return batch.with_images(images.clamp(0, 1))
        return batch.with_images(images if self.already_eight_bit else eight_bit(images))

    def scale(self, size: tuple[int, int]) -> float:
        """By what published lengths are multiplied for images of ``size`` (rows, columns)."""
        return 1.0 if self.params.lengths == "fixed" else min(size) / PUBLISHED_SIDE_PX

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> Any:
        """The random draws of a batch of images of ``size`` (rows, columns), from :mod:`harness.rng` alone."""
        raise NotImplementedError(f"{self.name} is random and must say what it draws")

    @abstractmethod
    def corrupt(self, images: Tensor, severity: int, draws: Any) -> Tensor:
        """(N, 3, H, W) float32 pixels in [0, 1] corrupted, on their device; what leaves [0, 1] is clipped later.

        ``draws`` are what :meth:`draw` gave, None for a corruption that is not random.
        """
