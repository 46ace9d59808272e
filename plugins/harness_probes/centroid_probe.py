"""The nearest class mean: an image is of the class whose support images are, on average, closest to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness import metrics
from harness.features import extract
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo, ProbeRun
from harness.types import FeatureSpec, FeatureTable, ImageBatch, JSONScalar, ModelInfo, ModelOutputs
from harness_probes.centroid import CentroidParams, Metric
from harness_probes.classification import ClassificationRun
from harness_probes.tables import learned_classes, require_learned, require_table
from harness_probes.token_probe import TokenProbe, spread_over_classes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

_DECIMALS = 9
_NEVER = -1e4
_UNIT_FLOOR = 1e-12
_ROWS_AT_ONCE = 8192


class CentroidProbe(TokenProbe):
    """Nearest class mean on frozen features.

    ``metric="cosine"``: features at length 1, their mean at length 1 again, the highest cosine similarity.
    ``"euclidean"``: means of the features as they are, the smallest distance (Snell et al., "Prototypical Networks for
    Few-shot Learning", 2017). ``centre`` subtracts the mean of all support images before anything is normalised (CL2N
    of Wang et al., "SimpleShot", 2019). ``per_class`` takes at most so many support images of every class, evenly
    spaced over the split.
    """

    def __init__(
        self,
        *,
        features: str = "pooled",
        metric: Metric = "cosine",
        centre: bool = False,
        per_class: int | None = None,
    ) -> None:
        params = CentroidParams(features=features, metric=metric, centre=centre, per_class=per_class)
        self._params = checked(params, "centroid")
        super().__init__(
            ProbeInfo(name="centroid", learns=True, params=canonical(self._params)), features=self._params.features
        )

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:  # noqa: ARG002  # the contract's
        """All positions, or ``per_class`` of every class, rising."""
        return spread_over_classes(labels, self._params.per_class)

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """The mean of every class, in float64, read block by block.

        Raises :class:`~harness.errors.HarnessError` for a table of another vector, and
        :class:`~harness.errors.DataError` for an empty one, labels outside the dataset's classes, or features that are
        not finite.
        """
        support = require_table(support, self.features(context.model), probe="centroid", model=context.model)
        learned = learned_classes(support.y, context.classes, probe="centroid")
        places = np.searchsorted(learned, support.y)
        mean = sum(block.sum(axis=0) for _, block in _blocks(support.x)) / len(support)
        cosine = self._params.metric == "cosine"
        # Where nothing is to be centred, distances are taken from the mean all the same: it changes none of them, and
        # small differences between large features keep their digits.
        origin = mean if self._params.centre or not cosine else np.zeros_like(mean)
        centroids = np.zeros((len(learned), support.x.shape[1]))
        for part, block in _blocks(support.x):
            rows = block - origin
            if cosine:
                rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _UNIT_FLOOR)
            order = np.argsort(places[part], kind="stable")
            present, first = np.unique(places[part][order], return_index=True)
            centroids[present] += np.add.reduceat(rows[order], first, axis=0)
        centroids /= np.bincount(places)[:, None]
        if cosine:
            centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), _UNIT_FLOOR)
        return FittedCentroids(
            model=context.model,
            spec=support.spec,
            classes=context.classes,
            learned=learned,
            centroids=centroids,
            origin=origin,
            metric=self._params.metric,
        )


class FittedCentroids:
    """The ``centroids`` (L, D) of the labels ``learned`` (L,), rising, relative to ``origin`` (D,).

    Of length 1 for ``metric="cosine"``.
    """

    variants: tuple[dict[str, JSONScalar], ...] = ({},)

    def __init__(
        self,
        *,
        model: ModelInfo,
        spec: FeatureSpec,
        classes: Sequence[str],
        learned: npt.NDArray[np.int64],
        centroids: npt.NDArray[np.float64],
        origin: npt.NDArray[np.float64],
        metric: Metric,
    ) -> None:
        self._model = model
        self._spec = spec
        self._classes = tuple(classes)
        self._learned = torch.from_numpy(learned)
        self._centroids = torch.from_numpy(centroids)
        self._origin = torch.from_numpy(origin)
        self._metric = metric
        # Scores are compared in units of this: features may be of any size, and rounding is relative to it.
        self._scale = 1.0 if metric == "cosine" else float((centroids**2).sum(axis=1).mean()) or 1.0
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return ClassificationRun(self)

    def scores(self, outputs: ModelOutputs) -> Tensor:
        """(N, C) float32, differentiable: cosine similarities to the centroids, or minus the squared distances.

        Classes that had no support images score far below all others.
        """
        similarities = self._similarities(outputs)
        learned = similarities.float()
        # Below every similarity and every distance.
        never = 10 * learned.detach().amin(dim=1, keepdim=True) + _NEVER
        scores: Tensor = never.expand(-1, len(self._classes)).index_copy(1, self._learned.to(learned.device), learned)
        return scores

    def predict(self, batch: ImageBatch, outputs: ModelOutputs) -> npt.NDArray[np.int64]:
        """Predicted labels (1, N).

        Raises :class:`~harness.errors.DataError` for features that are not finite and classes never learned.
        """
        require_learned(batch, self._learned, self._classes, probe="centroid")
        similarities = self._similarities(outputs) / self._scale
        metrics.require_finite(similarities, batch.ids, source=f"centroid scores on {self._model.name}")
        # Classes whose scores differ by rounding alone are tied; the first of them wins, whatever the batch size.
        best = similarities.round(decimals=_DECIMALS).argmax(dim=1)
        found: npt.NDArray[np.int64] = self._learned.to(best.device)[best].cpu().numpy()
        return found[None]

    def _similarities(self, outputs: ModelOutputs) -> Tensor:
        """(N, L) float64."""
        x = extract(outputs, self._spec, self._model)
        # Metal has no float64; the vectors are small enough to be moved.
        device = torch.device("cpu") if x.device.type == "mps" else x.device
        if device not in self._on_device:
            # A copy made inside inference mode could never take part in a gradient of scores().
            with torch.inference_mode(False):
                self._on_device[device] = (self._centroids.to(device), self._origin.to(device))
        centroids, origin = self._on_device[device]
        x = x.to(device).double() - origin
        products: Tensor = x @ centroids.T
        if self._metric == "cosine":
            lengths: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            return products / lengths.clamp(min=_UNIT_FLOOR)
        nearness: Tensor = 2 * products - centroids.square().sum(dim=1) - x.square().sum(dim=1, keepdim=True)
        return nearness


def _blocks(x: npt.NDArray[np.float32]) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    for start in range(0, len(x), _ROWS_AT_ONCE):
        part = slice(start, min(start + _ROWS_AT_ONCE, len(x)))
        yield part, np.asarray(x[part]).astype(np.float64)
