"""Episodes that are asked: which of them a batch's images belong to, their answers, and accuracies by episode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness import metrics, stats
from harness.errors import DataError, HarnessError
from harness.features import extract
from harness.outcomes import OutcomeLog
from harness.protocols import Outcomes
from harness.types import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from harness.protocols import ProbeRun
    from harness.types import FeatureSpec, ImageBatch, JSONScalar, ModelInfo, ModelOutputs
    from harness_probes.episode_heads import Weights
    from harness_probes.episode_sampling import Episodes

_DECIMALS = 9
_ELEMENTS = 2**20
"""Scores that one chunk of questions may take while it is answered: 8 MiB of float64."""
_GATHERED = 2**17
"""Features that are gathered at once: 1 MiB of float64, which stays in the processor's cache."""
_COUNTERS = ("episode.asked", "episode.hits")


class FittedEpisodes:
    """The classifiers of all episodes, and the query images that each of them is asked about.

    ``positions`` (N,) int64, rising: where the query images lie in their split. ``dims`` stand beside every number.
    """

    def __init__(
        self,
        *,
        model: ModelInfo,
        spec: FeatureSpec,
        episodes: Episodes,
        weights: Weights,
        positions: npt.NDArray[np.int64],
        dims: Mapping[str, JSONScalar],
    ) -> None:
        self.episodes = episodes
        self.dims = dict(dims)
        self._model = model
        self._spec = spec
        self._weights = weights
        self._positions = positions
        self._questions = np.searchsorted(episodes.asked_row, np.arange(len(positions) + 1))

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return EpisodeRun(self)

    def scores(self, outputs: ModelOutputs) -> None:  # noqa: ARG002  # the contract's signature
        """None: a classifier knows the classes of its own episode only, so there are no scores over all classes."""
        return

    def answer(
        self, batch: ImageBatch, outputs: ModelOutputs
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For the P questions that a batch holds: rows of the batch, episodes, and predicted labels, (P,) each.

        Raises :class:`~harness.errors.DataError` for features that are not finite.
        """
        x = extract(outputs, self._spec, self._model).detach().cpu().double().numpy()
        length = np.sqrt(np.einsum("nd,nd->n", x, x))
        metrics.require_finite(
            torch.from_numpy(length)[:, None], batch.ids, source=f"episodes: features of {self._model.name}"
        )
        scale = np.ones_like(length)
        if self._weights.unit:
            scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
        row, episode = self._asked(np.asarray(batch.positions))
        column = np.empty(len(row), np.int64)
        for places, best in self._predicted(x, scale, row, episode):
            column[places] = best
        return row, episode, self.episodes.labels[self.episodes.first[episode] + column]

    def _asked(self, positions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows of a batch and the episodes they are asked in, by episode."""
        place = np.minimum(np.searchsorted(self._positions, positions), len(self._positions) - 1)
        known = self._positions[place] == positions
        begin, end = self._questions[place], np.where(known, self._questions[place + 1], self._questions[place])
        count = end - begin
        row = np.repeat(np.arange(len(positions)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        episode = self.episodes.asked_episode[np.repeat(begin, count) + within]
        by_episode = np.argsort(episode * len(positions) + row)
        return row[by_episode], episode[by_episode]

    def _predicted(
        self,
        x: npt.NDArray[np.float64],
        scale: npt.NDArray[np.float64],
        row: npt.NDArray[np.int64],
        episode: npt.NDArray[np.int64],
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Places among the questions, and the class of the episode that each is answered with, chunk by chunk.

        Episodes with about as many ways and questions are filled up to the most of either and answered as one.
        """
        asked, begin, count = np.unique(episode, return_index=True, return_counts=True)
        first = self.episodes.first[asked]
        ways = self.episodes.first[asked + 1] - first
        by_size = np.lexsort((-count, -ways))
        start = 0
        while start < len(by_size):
            ahead = by_size[start:]
            widest = int(ways[ahead[0]])
            numbers = np.arange(1, len(ahead) + 1) * np.maximum.accumulate(count[ahead]) * (1 + widest)
            chosen = ahead[: max(1, int(np.searchsorted(numbers, _ELEMENTS, side="right")))]
            start += len(chosen)
            deepest = int(count[chosen].max())
            inside = np.arange(deepest) < count[chosen][:, None]
            real = np.arange(widest) < ways[chosen][:, None]
            question = np.where(inside, begin[chosen][:, None] + np.arange(deepest), begin[chosen][:, None])
            members = np.where(real, first[chosen][:, None] + np.arange(widest), first[chosen][:, None])
            scores = self._products(x, row[question], members)
            scores *= scale[row[question]][..., None]
            scores += self._weights.bias[members][:, None]
            scores[np.broadcast_to(~real[:, None], scores.shape)] = -np.inf
            # Classes whose scores differ by rounding alone are tied; the first of them wins, whatever the batch size.
            best = scores.round(_DECIMALS, out=scores).argmax(axis=2)
            yield question[inside], best[inside]

    def _products(
        self, x: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """(G, m, W) inner products of the images ``rows`` (G, m) with the weights of ``classes`` (G, W)."""
        (number, deepest), dimension = rows.shape, x.shape[1]
        products = np.empty((number, deepest, classes.shape[1]))
        at_once = max(1, _GATHERED // (deepest * dimension))
        # One small buffer for all that is gathered: copying into fresh memory takes longer than what is computed of it.
        space = np.empty((min(at_once, number), deepest, dimension))
        for start in range(0, number, at_once):
            part = slice(start, min(start + at_once, number))
            images = space[: part.stop - start]
            # A mode other than "raise" writes to the buffer directly; all indices are in range.
            np.take(x, rows[part], axis=0, out=images, mode="clip")
            np.matmul(images, self._weights.weight[classes[part]].transpose(0, 2, 1), out=products[part])
        return products


class EpisodeRun:
    """How often each episode was asked and right; and each image, which may be asked in many episodes or in none."""

    def __init__(self, fitted: FittedEpisodes) -> None:
        self._fitted = fitted
        self._log = OutcomeLog(variants=(fitted.dims,), columns={"asked": np.int32, "hits": np.int32})
        self._asked = np.zeros(len(fitted.episodes), np.int64)
        self._hits = np.zeros(len(fitted.episodes), np.int64)

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:  # noqa: ARG002  # the contract's
        """Ask every episode about its images in the batch.

        Raises :class:`~harness.errors.DataError` for features that are not finite.
        """
        row, episode, predicted = self._fitted.answer(batch, outputs)
        right = predicted == batch.labels.cpu().numpy()[row]
        asked = np.bincount(row, minlength=len(batch))
        hits = np.bincount(row[right], minlength=len(batch))
        self._log.update(batch.positions, {"asked": asked[None].astype(np.int32), "hits": hits[None].astype(np.int32)})
        self._asked += np.bincount(episode, minlength=len(self._asked))
        self._hits += np.bincount(episode[right], minlength=len(self._hits))

    def merge(self, other: ProbeRun) -> None:
        """Add what ``other`` has counted on other images."""
        if not isinstance(other, EpisodeRun):
            raise TypeError(f"cannot merge {type(other).__name__} into EpisodeRun")
        self._log.merge(other._log)
        self._asked += other._asked
        self._hits += other._hits

    def result(self) -> list[Measurement]:
        """``accuracy``, the mean over episodes with Student's t interval, and ``accuracy_episode_std``, their spread.

        ``n`` counts the episodes that were asked about at least one image. ``episode_classes`` is the number of
        classes they were drawn from. One episode has neither interval nor spread. Raises
        :class:`~harness.errors.DataError` where no episode was asked anything.
        """
        values = self._accuracies()
        values = values[~np.isnan(values)]
        if not len(values):
            raise DataError("episodes: not one query image of any episode was seen", hint="check the split and --limit")
        interval = stats.t_interval(values) if len(values) > 1 else None
        dims = self._fitted.dims
        rows = [
            Measurement(
                metric="accuracy",
                dims=dims,
                value=float(np.mean(values)),
                low=None if interval is None else interval.low,
                high=None if interval is None else interval.high,
                interval=None if interval is None else interval.method,
                n=len(values),
                counted="episodes",
            )
        ]
        if len(values) > 1:
            spread = float(np.std(values, ddof=1))
            rows.append(
                Measurement(
                    metric="accuracy_episode_std",
                    dims=dims,
                    value=spread,
                    n=len(values),
                    higher_is_better=None,
                    counted="episodes",
                )
            )
        classes = self._fitted.episodes.usable
        rows.append(
            Measurement(
                metric="episode_classes",
                dims=dims,
                value=float(classes),
                n=len(values),
                unit="classes",
                higher_is_better=None,
                counted="episodes",
            )
        )
        return rows

    def outcomes(self) -> Outcomes:
        """Per image, in how many episodes it was ``asked`` and hit; per episode, its accuracy."""
        table = self._log.table()
        return Outcomes(
            positions=table.positions,
            variants=table.variants,
            columns=table.columns,
            episodes=self._accuracies()[None],
        )

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything counted so far."""
        counters = (self._asked.copy(), self._hits.copy())
        return self._log.state_dict() | dict(zip(_COUNTERS, counters, strict=True))

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from :meth:`state_dict`. Raises :class:`~harness.errors.HarnessError` for a state of another probe."""
        for name in _COUNTERS:
            if name not in state or state[name].shape != self._asked.shape or state[name].dtype != np.int64:
                raise HarnessError(
                    f"a state of {len(self._asked)} episodes needs {name} as ({len(self._asked)},) int64",
                    hint="the checkpoint belongs to another probe or version; delete it to start this cell again",
                )
        self._log.load_state_dict({name: array for name, array in state.items() if name not in _COUNTERS})
        self._asked, self._hits = (state[name].copy() for name in _COUNTERS)

    def _accuracies(self) -> npt.NDArray[np.float64]:
        """(E,) float64, NaN for an episode that was asked nothing."""
        accuracy = np.full(len(self._asked), np.nan)
        np.divide(self._hits, self._asked, out=accuracy, where=self._asked > 0)
        return accuracy
