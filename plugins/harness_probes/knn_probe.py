"""The vote of the nearest neighbours: the labels of the most similar support images, for several k at once."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from harness import metrics
from harness.errors import DataError
from harness.features import extract
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo, ProbeRun
from harness.stats import bootstrap_mean
from harness.types import (
    FeatureSpec,
    FeatureTable,
    ImageBatch,
    JSONScalar,
    Measurement,
    ModelInfo,
    ModelOutputs,
)
from harness_probes.classification import ClassificationRun
from harness_probes.knn import Backend, IndexName, KnnParams, Weights
from harness_probes.neighbours import (
    ExactSearch,
    Gallery,
    Search,
    inverted_lists,
    nearest,
    recalls,
    require_faiss,
    small_world_graph,
)
from harness_probes.tables import learned_classes, require_learned, require_table
from harness_probes.token_probe import TokenProbe, spread_over_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

_DECIMALS = 9
_NEVER = -1e4
_RECALL_QUERIES = 256


class KnnProbe(TokenProbe):
    """The k-NN evaluation of DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021).

    The k support images of the highest cosine similarity vote for their class, each with ``exp(similarity /
    temperature)``, or alike with ``weights="uniform"``. One search serves every k. Equally similar images (to 1e-9)
    count as nearer the earlier they stand in the support split, and equal votes go to the smaller label.

    ``per_class`` takes at most so many support images of every class, evenly spaced over the split. ``index`` says how
    neighbours are found: ``flat`` compares with every image; ``ivf`` and ``hnsw`` miss some, and the share they find is
    measured when fitting (``index_recall``). The defaults of the parameters are those of :class:`KnnParams`.

    Raises :class:`~harness.errors.CapabilityError` for an index or backend of faiss where that is not installed.
    """

    def __init__(
        self,
        *,
        features: str = "pooled",
        k: tuple[int, ...] = (1, 5, 10, 20, 100, 200),
        weights: Weights = "temperature",
        temperature: float = 0.07,
        per_class: int | None = None,
        index: IndexName = "flat",
        nlist: int | None = None,
        nprobe: int = 16,
        hnsw_m: int = 32,
        ef_search: int = 256,
        backend: Backend = "auto",
    ) -> None:
        params = KnnParams(
            features=features,
            k=k,
            weights=weights,
            temperature=temperature,
            per_class=per_class,
            index=index,
            nlist=nlist,
            nprobe=nprobe,
            hnsw_m=hnsw_m,
            ef_search=ef_search,
            backend=backend,
        )
        self._params = checked(params, "knn")
        if self._params.index != "flat" or self._params.backend == "faiss":
            require_faiss(f"knn: index={self._params.index}:backend={self._params.backend}")
        super().__init__(
            ProbeInfo(name="knn", learns=True, params=canonical(self._params)), features=self._params.features
        )

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:  # noqa: ARG002  # the contract's
        """All positions, or ``per_class`` of every class, rising.

        Raises :class:`~harness.errors.DataError` for fewer of them than the most neighbours that are asked for.
        """
        positions = spread_over_classes(labels, self._params.per_class)
        require_neighbours(len(positions), self._params.k, probe="knn")
        return positions

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """Keep the support, which is not copied, and build the index if there is one.

        Raises :class:`~harness.errors.HarnessError` for a table of another vector, and
        :class:`~harness.errors.DataError` for too few rows, labels outside the dataset's classes, or features that are
        not finite.
        """
        support = require_table(support, self.features(context.model), probe="knn", model=context.model)
        require_neighbours(len(support), self._params.k, probe="knn")
        learned = learned_classes(support.y, context.classes, probe="knn")
        gallery = Gallery(support.x)
        search = self._search(gallery)
        return FittedKnn(
            params=self._params,
            model=context.model,
            spec=support.spec,
            classes=context.classes,
            learned=learned,
            places=np.searchsorted(learned, support.y),
            gallery=gallery,
            search=search,
            extra=() if isinstance(search, ExactSearch) else _recall(gallery, search, self._params.k),
        )

    def _search(self, gallery: Gallery) -> Search:
        params = self._params
        if params.index == "ivf":
            return inverted_lists(gallery, nlist=params.nlist, nprobe=params.nprobe)
        if params.index == "hnsw":
            return small_world_graph(gallery, links=params.hnsw_m, ef_search=params.ef_search)
        # faiss gives the same neighbours, but its flat index is a second copy of the table and slower on a CPU.
        return ExactSearch(gallery, with_faiss=params.backend == "faiss")


class FittedKnn:
    """The support images and a way to search them.

    ``learned`` (L,) int64 are the labels that occur, rising, and ``places`` (n,) those of the support images among
    them.
    """

    def __init__(
        self,
        *,
        params: KnnParams,
        model: ModelInfo,
        spec: FeatureSpec,
        classes: Sequence[str],
        learned: npt.NDArray[np.int64],
        places: npt.NDArray[np.int64],
        gallery: Gallery,
        search: Search,
        extra: tuple[Measurement, ...] = (),
    ) -> None:
        self.variants: tuple[dict[str, JSONScalar], ...] = tuple({"k": k} for k in params.k)
        self._params = params
        self._model = model
        self._spec = spec
        self._classes = tuple(classes)
        self._learned = torch.from_numpy(learned)
        self._places = places
        self._gallery = gallery
        self._search = search
        self._extra = extra

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return ClassificationRun(self, extra=self._extra)

    def predict(self, batch: ImageBatch, outputs: ModelOutputs) -> npt.NDArray[np.int64]:
        """Predicted labels (V, N), a row for every k.

        Raises :class:`~harness.errors.DataError` for features that are not finite and classes never learned.
        """
        require_learned(batch, self._learned, self._classes, probe="knn")
        features = extract(outputs, self._spec, self._model).detach()
        metrics.require_finite(features, batch.ids, source=f"knn features of {self._model.name}")
        found = nearest(self._gallery, self._search, features.cpu().numpy(), max(self._params.k))
        weights = vote_weights(
            found.similarities, temperature=None if self._params.weights == "uniform" else self._params.temperature
        )
        winners = vote(self._places[found.rows], weights, self._params.k, num_classes=len(self._learned))
        return np.asarray(self._learned.numpy()[winners])

    def scores(self, outputs: ModelOutputs) -> Tensor:
        """(N, C) float32: the logarithm of the votes that *every* support image casts, differentiable.

        The surrogate that attacks aim at, since a search has no gradient: ``log(sum(exp(similarity / temperature)))``
        over the support images of a class (the soft nearest neighbours of Goldberger et al., "Neighbourhood Components
        Analysis", 2004). For large classes it is not the vote of the nearest k. Classes without support images score
        far below all others.
        """
        features = functional.normalize(extract(outputs, self._spec, self._model), dim=1)
        # Metal has no float64; the vectors are small enough to be moved.
        queries = features.cpu() if features.device.type == "mps" else features
        votes: Tensor = _SoftVotes.apply(
            queries, self._gallery, self._places, len(self._learned), self._params.temperature
        )
        scores = votes.new_full((len(votes), len(self._classes)), _NEVER)
        return scores.index_copy(1, self._learned.to(votes.device), votes)


def require_neighbours(have: int, k: Sequence[int], *, probe: str) -> None:
    """Raise :class:`~harness.errors.DataError` where ``have`` support images are fewer than the largest ``k``."""
    if max(k) <= have:
        return
    possible = "+".join(str(size) for size in k if size <= have)
    raise DataError(
        f"{probe}: {max(k)} neighbours were asked for, but there are {have} support images",
        hint=f"take k={possible}" if possible else f"take k up to {have}, or more support images",
    )


def vote_weights(similarities: npt.NDArray[np.float64], *, temperature: float | None) -> npt.NDArray[np.float64]:
    """Weights (n, K) of neighbours by their ``similarities`` (n, K), the nearest first; minus infinity has none.

    ``exp((similarity - nearest) / temperature)``, which gives the same winner as without the nearest; None: ones.
    """
    there = np.isfinite(similarities)
    if temperature is None:
        return there.astype(np.float64)
    nearest_first = np.where(there[:, :1], similarities[:, :1], 0.0)
    return np.asarray(np.exp((similarities - nearest_first) / temperature))


def vote(
    classes: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], ks: Sequence[int], *, num_classes: int
) -> npt.NDArray[np.int64]:
    """The class (len(ks), n) with the most votes of the first k neighbours, for every k; of equals the smallest.

    ``classes`` and ``weights`` (n, K): those of the neighbours, the nearest first, K >= max(ks). Votes that differ by
    less than about 1e-9 of the nearest neighbour's are equal.
    """
    n = len(classes)
    cells = np.arange(n)[:, None] * num_classes + classes
    votes = np.zeros((n, num_classes))
    winners = np.empty((len(ks), n), np.int64)
    for row, (start, stop) in enumerate(pairwise((0, *ks))):
        part = slice(start, stop)
        added = np.bincount(cells[:, part].ravel(), weights=weights[:, part].ravel(), minlength=votes.size)
        votes += added.reshape(votes.shape)
        winners[row] = votes.round(_DECIMALS).argmax(axis=1)
    return winners


class _SoftVotes(torch.autograd.Function):
    """Log-sum-exp of similarities over the gallery, by class, and its gradient, in one pass each over the blocks.

    Recorded by autograd itself, every block would be kept for the way back: several copies of the table.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, gallery: Gallery, places: npt.NDArray[np.int64], num_classes: int, temperature: float
    ) -> Tensor:
        shape = (len(queries), num_classes)
        largest = queries.new_full(shape, -torch.inf, dtype=torch.float64)
        total = queries.new_zeros(shape, dtype=torch.float64)
        for similarities, columns, _ in _blocks(queries, gallery, places):
            logits = similarities / temperature
            before = largest
            largest = before.scatter_reduce(1, columns.expand_as(logits), logits, "amax")
            # A class not met yet has no votes to be rescaled: minus infinity less itself is not a number.
            total = torch.where(total > 0, total * (before - largest).exp(), total)
            total.index_add_(1, columns, (logits - largest[:, columns]).exp())
        votes = total.log() + largest
        ctx.save_for_backward(queries, votes)
        ctx.rest = (gallery, places, temperature)
        return votes.float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        queries, votes = ctx.saved_tensors
        gallery, places, temperature = ctx.rest
        towards = torch.zeros_like(queries)
        for similarities, columns, block in _blocks(queries, gallery, places):
            shares = (similarities / temperature - votes[:, columns]).exp() * gradients[0].double()[:, columns]
            towards += shares.to(block.dtype) @ block
        return towards / temperature, None, None, None, None


def _blocks(queries: Tensor, gallery: Gallery, places: npt.NDArray[np.int64]) -> Any:
    """Similarities (N, B) float64 of ``queries`` (N, D), classes (B,) and unit rows (B, D), block by block."""
    for part, rows in gallery.unit_blocks():
        block = torch.from_numpy(rows).to(queries.device)
        columns = torch.from_numpy(places[part]).to(queries.device)
        yield (queries.detach() @ block.T).double(), columns, block


def _recall(gallery: Gallery, search: Search, ks: Sequence[int]) -> tuple[Measurement, ...]:
    """``index_recall`` for every k: the share of the true neighbours that an approximate index finds."""
    found = recalls(gallery, search, ks, most=_RECALL_QUERIES)
    rows = []
    for k, shares in zip(ks, found, strict=True):
        if len(shares):
            interval = bootstrap_mean(shares)
            rows.append(
                Measurement(
                    metric="index_recall",
                    dims={"k": k},
                    value=float(shares.mean()),
                    low=interval.low,
                    high=interval.high,
                    interval=interval.method,
                    n=len(shares),
                )
            )
    return tuple(rows)
