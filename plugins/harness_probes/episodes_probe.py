"""Few-shot episodes: a classifier of a few classes from a few images, again and again, and how well they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.errors import HarnessError
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness.types import FeatureTable
from harness_probes.episode_compositions import FixedSampler, MetaDatasetSampler
from harness_probes.episode_heads import fit_all, make_head
from harness_probes.episode_run import FittedEpisodes
from harness_probes.episode_sampling import ask, draw_supports
from harness_probes.episodes import EpisodesParams
from harness_probes.shots import grouping
from harness_probes.tables import learned_classes, require_table
from harness_probes.token_probe import TokenProbe

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.types import JSONScalar
    from harness_probes.episode_compositions import Sampler
    from harness_probes.episode_sampling import Supports


class EpisodesProbe(TokenProbe):
    """Mean accuracy over episodes: support images from the support split, queries from the split that is asked about.

    ``sampler="fixed"``: ``ways`` classes, ``shots`` support and ``queries`` query images of each.
    ``sampler="meta_dataset"``: all three drawn, see
    :class:`~harness_probes.episode_compositions.MetaDatasetSampler`. Episodes follow from labels, positions and the
    seed, so they are the same for every model, and for every perturbation of either split.

    ``head`` is fitted on each support set:

    - ``"ridge"``: regression to +1 and -1 on features of length 1 with an intercept, penalty ``ridge_lambda``. No
      convention exists; 1 weighs all weights as much as one image, as the C = 1 of the logistic head does.
    - ``"logistic"``: multinomial logistic regression on features of length 1, C = 1 (RFS: Tian et al., "Rethinking
      Few-Shot Image Classification", ECCV 2020), solved to the optimum.
    - ``"centroid"``: the nearest class mean, by ``metric="euclidean"`` on features as they come (Snell et al.,
      "Prototypical Networks", NeurIPS 2017) or ``"cosine"`` on features of length 1.
    """

    def __init__(
        self,
        *,
        features: str = "pooled",
        sampler: Literal["fixed", "meta_dataset"] = "fixed",
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        episodes: int = 600,
        head: Literal["ridge", "logistic", "centroid"] = "ridge",
        metric: Literal["euclidean", "cosine"] = "euclidean",
        ridge_lambda: float = 1.0,
    ) -> None:
        params = EpisodesParams(
            features=features,
            sampler=sampler,
            ways=ways,
            shots=shots,
            queries=queries,
            episodes=episodes,
            head=head,
            metric=metric,
            ridge_lambda=ridge_lambda,
        )
        self._params = checked(params, "episodes")
        super().__init__(
            ProbeInfo(name="episodes", learns=True, params=canonical(self._params)), features=self._params.features
        )
        self._sampler: Sampler = MetaDatasetSampler()
        self._dims: dict[str, JSONScalar] = {"sampler": "meta_dataset"}
        if self._params.sampler == "fixed":
            self._sampler = FixedSampler(ways=self._params.ways, shots=self._params.shots, asked=self._params.queries)
            self._dims = {"ways": self._params.ways, "shots": self._params.shots}
        # A feature table tells neither positions nor the split's labels, from which the draw could be made again.
        self._drawn: dict[tuple[int, bytes], Supports] = {}

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """The support images of every episode, rising; :meth:`fit` expects exactly these rows, in this order.

        Raises :class:`~harness.errors.DataError` for too few classes with images enough.
        """
        drawn = draw_supports(labels, self._sampler, episodes=self._params.episodes, seed=seed)
        self._drawn[seed, grouping(labels[drawn.positions])] = drawn
        return drawn.positions

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """Draw the queries of every episode, and fit its classifier.

        Raises :class:`~harness.errors.HarnessError` for rows that :meth:`select_support` of this probe did not select
        with this seed, or where the images to be asked about are not known; :class:`~harness.errors.DataError` for too
        few classes with query images enough, labels outside the dataset's classes, or features that are not finite.
        """
        support = require_table(support, self.features(context.model), probe="episodes", model=context.model)
        if context.query_positions is None or context.query_labels is None:
            raise HarnessError(
                "episodes: fit is not told which images will be asked about, from which it draws queries",
                hint="fill in query_positions and query_labels of its context",
            )
        drawn = self._drawn.get((context.seed, grouping(support.y)))
        if drawn is None:
            raise HarnessError(
                f"episodes: these {len(support)} support rows are not those selected with seed {context.seed}",
                hint="call select_support(labels, seed) of this probe, and give fit exactly those rows in that order",
            )
        learned_classes(support.y, context.classes, probe="episodes")
        episodes = ask(drawn, support.y, context.query_labels, self._sampler, seed=context.seed)
        head, unit = make_head(self._params.head, metric=self._params.metric, ridge_lambda=self._params.ridge_lambda)
        return FittedEpisodes(
            model=context.model,
            spec=support.spec,
            episodes=episodes,
            weights=fit_all(support.x, episodes, head, unit=unit),
            positions=context.query_positions,
            dims=self._dims,
        )
