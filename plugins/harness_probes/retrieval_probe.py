"""Retrieval: for every query image the whole support ranked by similarity, and where its own class stands in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness import metrics
from harness.features import extract
from harness.outcomes import OutcomeLog
from harness.params import canonical, checked
from harness.protocols import FittedProbe, Outcomes, ProbeContext, ProbeInfo, ProbeRun
from harness.stats import bootstrap_mean
from harness.types import FeatureSpec, FeatureTable, ImageBatch, Measurement, ModelInfo, ModelOutputs
from harness_probes.knn_probe import require_neighbours
from harness_probes.neighbours import Gallery, rows_of, unit
from harness_probes.retrieval import RetrievalParams
from harness_probes.tables import learned_classes, require_learned, require_table
from harness_probes.token_probe import TokenProbe, spread_over_classes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

_RANKED_BYTES = 2**26
_MEANS = {"average_precision": "map", "r_precision": "r_precision"}


class RetrievalProbe(TokenProbe):
    """Query images look for support images of their class, the gallery, by cosine similarity.

    * ``recall`` with ``{"k": k}``: the share of queries with an image of their class among the k most similar;
    * ``map``: the mean over queries of the average precision, itself the mean, over all gallery images of the class,
      of the share of them among the images up to there (Manning et al., "Introduction to Information Retrieval",
      2008, section 8.4);
    * ``r_precision``: the share of the class among the first R images, R being how many of it the gallery holds.

    Equally similar images (to 1e-9) stand in the order of the support split.
    """

    def __init__(
        self, *, features: str = "pooled", k: tuple[int, ...] = (1, 5, 10, 20, 100), per_class: int | None = None
    ) -> None:
        self._params = checked(RetrievalParams(features=features, k=k, per_class=per_class), "retrieval")
        super().__init__(
            ProbeInfo(name="retrieval", learns=True, headline="map", params=canonical(self._params)),
            features=self._params.features,
        )

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:  # noqa: ARG002  # the contract's
        """All positions, or ``per_class`` of every class, rising.

        Raises :class:`~harness.errors.DataError` for fewer of them than the largest k.
        """
        positions = spread_over_classes(labels, self._params.per_class)
        require_neighbours(len(positions), self._params.k, probe="retrieval")
        return positions

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """Keep the support, which is not copied.

        Raises :class:`~harness.errors.HarnessError` for a table of another vector, and
        :class:`~harness.errors.DataError` for too few rows, labels outside the dataset's classes, or features that are
        not finite.
        """
        support = require_table(support, self.features(context.model), probe="retrieval", model=context.model)
        require_neighbours(len(support), self._params.k, probe="retrieval")
        return FittedRetrieval(
            k=self._params.k,
            model=context.model,
            spec=support.spec,
            classes=context.classes,
            learned=learned_classes(support.y, context.classes, probe="retrieval"),
            labels=support.y.copy(),
            gallery=Gallery(support.x),
        )


class FittedRetrieval:
    """The gallery with the ``labels`` (n,) of its images; ``learned`` are those that occur."""

    def __init__(
        self,
        *,
        k: Sequence[int],
        model: ModelInfo,
        spec: FeatureSpec,
        classes: Sequence[str],
        learned: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        gallery: Gallery,
    ) -> None:
        self.k = tuple(k)
        self._model = model
        self._spec = spec
        self._classes = tuple(classes)
        self._learned = torch.from_numpy(learned)
        self._labels = labels
        self._gallery = gallery

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return RetrievalRun(self)

    def scores(self, outputs: ModelOutputs) -> None:  # noqa: ARG002  # the contract's
        """None: a ranking scores images, not classes."""
        return

    def relevance(self, batch: ImageBatch, outputs: ModelOutputs) -> Iterator[npt.NDArray[np.int64]]:
        """The rising ranks, from 1, of all gallery images of its class, for every image of the batch.

        Raises :class:`~harness.errors.DataError` for features that are not finite and classes without gallery images.
        """
        require_learned(batch, self._learned, self._classes, probe="retrieval")
        features = extract(outputs, self._spec, self._model).detach()
        metrics.require_finite(features, batch.ids, source=f"retrieval features of {self._model.name}")
        queries, labels = unit(features.cpu().numpy()), batch.labels.cpu().numpy()
        together = max(_RANKED_BYTES // (8 * len(self._gallery)), 1)
        for start in range(0, len(queries), together):
            part = slice(start, start + together)
            keys = np.empty((len(queries[part]), len(self._gallery)), np.int64)
            for rows, found in self._gallery.all_keys(queries[part]):
                keys[:, rows] = found
            keys.sort(axis=1)
            for ranking, label in zip(keys, labels[part], strict=True):
                yield np.flatnonzero(self._labels[rows_of(ranking)] == label) + 1


class RetrievalRun:
    """What each query found: ``average_precision``, ``r_precision`` and, for every k, ``hit_<k>``."""

    def __init__(self, fitted: FittedRetrieval) -> None:
        self._fitted = fitted
        columns: dict[str, npt.DTypeLike] = dict.fromkeys(_MEANS, np.float64)
        self._log = OutcomeLog(variants=({},), columns=columns | {f"hit_{k}": np.bool_ for k in fitted.k})

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:  # noqa: ARG002  # the contract's
        """Log a batch. Raises what :meth:`FittedRetrieval.relevance` raises."""
        found: dict[str, list[float]] = {name: [] for name in _MEANS}
        first = []
        for ranks in self._fitted.relevance(batch, outputs):
            count = len(ranks)
            found["average_precision"].append(float((np.arange(1, count + 1) / ranks).mean()))
            found["r_precision"].append(int((ranks <= count).sum()) / count)
            first.append(int(ranks[0]))
        hits = {f"hit_{k}": np.array([first], np.int64) <= k for k in self._fitted.k}
        self._log.update(batch.positions, {name: np.array([row]) for name, row in found.items()} | hits)

    def merge(self, other: ProbeRun) -> None:
        """Add what ``other`` has found for other images."""
        if not isinstance(other, RetrievalRun):
            raise TypeError(f"cannot merge {type(other).__name__} into RetrievalRun")
        self._log.merge(other._log)

    def result(self) -> list[Measurement]:
        """``map`` and ``r_precision``, bootstrapped over images, and ``recall`` for every k, with Wilson intervals.

        Raises :class:`~harness.errors.DataError` for no images.
        """
        columns = self._log.table().columns
        recalls = [
            metrics.accuracy_measurement(columns[f"hit_{k}"][0], metric="recall", dims={"k": k}) for k in self._fitted.k
        ]
        means = []
        for column, metric in _MEANS.items():
            values = columns[column][0]
            interval = bootstrap_mean(values)
            means.append(
                Measurement(
                    metric=metric,
                    value=float(values.mean()),
                    low=interval.low,
                    high=interval.high,
                    interval=interval.method,
                    n=len(values),
                )
            )
        return [*means, *recalls]

    def outcomes(self) -> Outcomes:
        """The columns per image."""
        return self._log.table()

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything found so far."""
        return self._log.state_dict()

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from :meth:`state_dict`."""
        self._log.load_state_dict(state)
