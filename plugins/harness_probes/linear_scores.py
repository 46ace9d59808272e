"""Several linear classifiers on one feature vector: what the few-shot and linear probes end up with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness import metrics
from harness.features import extract
from harness_probes.classification import ClassificationRun
from harness_probes.tables import require_learned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from harness.protocols import ProbeRun
    from harness.types import FeatureSpec, ImageBatch, JSONScalar, Measurement, ModelInfo, ModelOutputs

_DECIMALS = 9
_NEVER = -1e4


class FittedLinear:
    """Linear classifiers on the vector ``spec``: ``weight`` (D, V * L) and ``bias`` (V * L,), a block per variant.

    ``learned`` (L,) int64 are the labels that had support images, rising; ``variants`` the dims of each classifier;
    ``scored`` the place of the one that :meth:`scores` speaks for. ``probe`` names it in errors. ``extra`` are numbers
    of the fit that stand beside the accuracies in every result.
    """

    def __init__(
        self,
        *,
        probe: str,
        model: ModelInfo,
        spec: FeatureSpec,
        classes: Sequence[str],
        learned: npt.NDArray[np.int64],
        variants: Sequence[Mapping[str, JSONScalar]],
        weight: npt.NDArray[np.float64],
        bias: npt.NDArray[np.float64],
        scored: int = 0,
        extra: Sequence[Measurement] = (),
    ) -> None:
        self.probe = probe
        self.model = model
        self.spec = spec
        self.classes = tuple(classes)
        self.variants = tuple(variants)
        self.extra = tuple(extra)
        self.learned = torch.from_numpy(learned)
        self._count = len(learned)
        self._weight = torch.from_numpy(weight)
        self._bias = torch.from_numpy(bias)
        self._scored = scored
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return ClassificationRun(self, extra=self.extra)

    def scores(self, outputs: ModelOutputs) -> Tensor:
        """(N, C) float32 scores of the classifier that is ``scored``, differentiable.

        Classes that had no support images score far below all others.
        """
        x, weight, bias = self._operands(outputs)
        block = slice(self._scored * self._count, (self._scored + 1) * self._count)
        learned = (x @ weight[:, block] + bias[block]).float()
        scores = learned.new_full((len(x), len(self.classes)), _NEVER)
        return scores.index_copy(1, self.learned.to(learned.device), learned)

    def all_scores(self, outputs: ModelOutputs) -> Tensor:
        """(N, V, L) float64 scores of every variant for the classes that were learned."""
        x, weight, bias = self._operands(outputs)
        return (x @ weight + bias).view(len(x), len(self.variants), self._count)

    def predict(self, batch: ImageBatch, outputs: ModelOutputs) -> npt.NDArray[np.int64]:
        """Predicted labels (V, N).

        Raises :class:`~harness.errors.DataError` for features that are not finite and classes never learned.
        """
        require_learned(batch, self.learned, self.classes, probe=self.probe)
        scores = self.all_scores(outputs)
        metrics.require_finite(scores, batch.ids, source=f"{self.probe} scores on {self.model.name}")
        # Classes whose scores differ by rounding alone are tied; the first of them wins, whatever the batch size.
        best = scores.round(decimals=_DECIMALS).argmax(dim=2).T
        found: npt.NDArray[np.int64] = self.learned.to(best.device)[best].cpu().numpy()
        return found

    def _operands(self, outputs: ModelOutputs) -> tuple[Tensor, Tensor, Tensor]:
        x = extract(outputs, self.spec, self.model)
        # Metal has no float64; the vectors are small enough to be moved.
        device = torch.device("cpu") if x.device.type == "mps" else x.device
        if device not in self._on_device:
            # A copy made inside inference mode could never take part in a gradient of scores().
            with torch.inference_mode(False):
                self._on_device[device] = (self._weight.to(device), self._bias.to(device))
        return (x.to(device).double(), *self._on_device[device])
