"""Few-shot transfer: a linear classifier on frozen features, fitted on k support images per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.errors import HarnessError, ParameterError
from harness.features import require_features
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness.token_ensemble import TokenEnsemble
from harness.types import FeatureSpec, FeatureTable, ModelInfo, OutputSpec
from harness_probes.fewshot import FewShotParams
from harness_probes.linear_scores import FittedLinear
from harness_probes.ridge import fit_ridge
from harness_probes.shots import Shots, draw_shots, grouping
from harness_probes.tables import learned_classes, require_table

if TYPE_CHECKING:
    import numpy.typing as npt


class FewShotProbe:
    """The few-shot linear evaluation of big_vision (``evaluators/fewshot_lsr.py``): closed-form ridge regression.

    For each of ``seeds`` seeds, counted up from the run's probe seed, ``shots`` images of every class are drawn,
    nested in the number of shots. ``features`` is a token ensemble, by default the pooled vector in front of the head.
    See :func:`harness_probes.ridge.fit_ridge` for the classifier.
    """

    def __init__(
        self,
        *,
        features: str = "pooled",
        shots: tuple[int, ...] = (1, 5, 10, 25),
        seeds: int = 3,
        ridge_lambda: float = 1024.0,
    ) -> None:
        params = FewShotParams(features=features, shots=shots, seeds=seeds, ridge_lambda=ridge_lambda)
        self._params = checked(params, "fewshot")
        self._info = ProbeInfo(name="fewshot", learns=True, params=canonical(self._params))
        # A feature table tells neither positions nor the split's labels, from which the draw could be made again.
        self._drawn: dict[tuple[int, bytes], Shots] = {}

    @property
    def info(self) -> ProbeInfo:
        """Name, version and parameters."""
        return self._info

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The tokens of its ensemble. Raises :class:`~harness.errors.CapabilityError` for a model without them."""
        return self.features(model).outputs(model.num_blocks)

    def features(self, model: ModelInfo) -> FeatureSpec:
        """The vector of its ensemble. Raises :class:`~harness.errors.CapabilityError` for a model without it."""
        spec = TokenEnsemble.parse(self._params.features).spec(model)
        require_features(spec, model)
        return spec

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """The positions of every shot of every seed, rising; :meth:`fit` expects exactly these rows, in this order.

        Raises :class:`~harness.errors.DataError` for a class with fewer images than the largest number of shots, and
        :class:`~harness.errors.ParameterError` for a negative seed.
        """
        if seed < 0:
            raise ParameterError(f"fewshot: the probe's seed must not be negative, but is {seed}")
        drawn = draw_shots(labels, shots=self._params.shots, seeds=range(seed, seed + self._params.seeds))
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
        variants, weights, biases = [], [], []
        for k in self._params.shots:
            for s in range(self._params.seeds):
                # Rising rows make the sums, and so the last bits, independent of the order in which shots were drawn.
                rows = np.sort(drawn.rows[s, :, :k], axis=None)
                linear = fit_ridge(
                    support.x[rows],
                    np.searchsorted(learned, support.y[rows]),
                    num_classes=len(learned),
                    ridge_lambda=self._params.ridge_lambda,
                )
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
        )
