"""Few-shot transfer: a linear classifier on frozen features, fitted on k support images per class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.errors import HarnessError, ParameterError
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness.types import FeatureTable, Measurement
from harness_probes.fewshot import FewShotParams
from harness_probes.linear_scores import FittedLinear
from harness_probes.ridge import fit_ridge
from harness_probes.ridge_path import PENALTIES, best_penalty, ridge_path
from harness_probes.shots import Shots, draw_shots, grouping
from harness_probes.tables import learned_classes, require_table
from harness_probes.token_probe import TokenProbe

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


class FewShotProbe(TokenProbe):
    """The few-shot linear evaluation of big_vision (``evaluators/fewshot_lsr.py``): closed-form ridge regression.

    For each of ``seeds`` seeds, counted up from the run's probe seed, ``shots`` images of every class are drawn,
    nested in the number of shots. ``features`` is a token ensemble, by default the pooled vector in front of the head.
    See :func:`harness_probes.ridge.fit_ridge` for the classifier.

    The published penalty, 1024, weighs less on wider features, even if they only say the same again. With
    ``ridge_lambda="auto"`` it is chosen from powers of two, 2^-10 to 2^20, one for each number of shots: the one whose
    classifiers, over all seeds, have the highest mean accuracy on up to ``validation_images`` further support images
    of every class, which are shots of no seed; of equals the largest. It stands among the measurements.
    """

    def __init__(
        self,
        *,
        features: str = "pooled",
        shots: tuple[int, ...] = (1, 5, 10, 25),
        seeds: int = 3,
        ridge_lambda: float | Literal["auto"] = 1024.0,
        validation_images: int = 10,
    ) -> None:
        params = FewShotParams(
            features=features,
            shots=shots,
            seeds=seeds,
            ridge_lambda=ridge_lambda,
            validation_images=validation_images,
        )
        self._params = checked(params, "fewshot")
        super().__init__(
            ProbeInfo(name="fewshot", learns=True, params=canonical(self._params)), features=self._params.features
        )
        # A feature table tells neither positions nor the split's labels, from which the draw could be made again.
        self._drawn: dict[tuple[int, bytes], Shots] = {}

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """The positions of every shot of every seed, rising; :meth:`fit` expects exactly these rows, in this order.

        With ``ridge_lambda="auto"`` those of the images that it is chosen on are among them.

        Raises :class:`~harness.errors.DataError` for a class with fewer images than the largest number of shots, or
        without any that the penalty could be chosen on, and :class:`~harness.errors.ParameterError` for a negative
        seed.
        """
        if seed < 0:
            raise ParameterError(f"fewshot: the probe's seed must not be negative, but is {seed}")
        drawn = draw_shots(
            labels,
            shots=self._params.shots,
            seeds=range(seed, seed + self._params.seeds),
            validation=self._params.validation_images if self._params.ridge_lambda == "auto" else 0,
        )
        self._drawn[seed, grouping(labels[drawn.positions])] = drawn
        return drawn.positions

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """One classifier per number of shots and seed.

        Raises :class:`~harness.errors.HarnessError` for rows that :meth:`select_support` of this probe did not select
        with this seed, and :class:`~harness.errors.DataError` for labels outside the dataset's classes, or features
        that are not finite.
        """
        support = require_table(support, self.features(context.model), probe="fewshot", model=context.model)
        drawn = self._drawn.get((context.seed, grouping(support.y)))
        if drawn is None:
            raise HarnessError(
                f"fewshot: these {len(support)} support rows are not those selected with seed {context.seed}",
                hint="call select_support(labels, seed) of this probe, and give fit exactly those rows in that order",
            )
        learned = learned_classes(support.y, context.classes, probe="fewshot")
        labels = np.searchsorted(learned, support.y)
        variants, weights, biases, extra = [], [], [], []
        for k in self._params.shots:
            # Rising rows make the sums, and so the last bits, independent of the order in which shots were drawn.
            rows = [np.sort(per_class[:, :k], axis=None) for per_class in drawn.rows]
            ridge_lambda = self._params.ridge_lambda
            if ridge_lambda == "auto":
                ridge_lambda = _chosen_penalty(support.x, labels, rows, drawn.validation, num_classes=len(learned))
                extra.append(
                    Measurement(
                        metric="ridge_lambda",
                        dims={"shots": k},
                        value=ridge_lambda,
                        n=len(drawn.validation),
                        unit="",
                        higher_is_better=None,
                    )
                )
            for s, mine in enumerate(rows):
                linear = fit_ridge(support.x[mine], labels[mine], num_classes=len(learned), ridge_lambda=ridge_lambda)
                variants.append({"shots": k, "seed": context.seed + s})
                weights.append(linear.weight)
                biases.append(linear.bias)
        return FittedLinear(
            probe="fewshot",
            model=context.model,
            spec=support.spec,
            classes=context.classes,
            learned=learned,
            variants=variants,
            weight=np.concatenate(weights, axis=1),
            bias=np.concatenate(biases),
            # The most shots and the first seed: variants are ordered by shots, then by seed.
            scored=len(variants) - self._params.seeds,
            extra=extra,
        )


def _chosen_penalty(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    rows: Sequence[npt.NDArray[np.int64]],
    validation: npt.NDArray[np.int64],
    *,
    num_classes: int,
) -> float:
    """The penalty that is best on the ``validation`` rows for the classifiers of ``rows``, one set per seed."""
    hits = np.zeros(len(PENALTIES), np.int64)
    for mine in rows:
        path = ridge_path(x[mine], y[mine], num_classes=num_classes)
        hits += path.hits(x[validation], y[validation], PENALTIES)
    return best_penalty(hits, PENALTIES)
