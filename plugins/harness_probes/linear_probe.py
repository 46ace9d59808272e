"""Linear evaluation: a linear classifier on frozen features, fitted on the support images by one of three solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.errors import DataError, HarnessError, ParameterError
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness.types import FeatureTable, ModelInfo
from harness_probes.best_on_test import FittedBestOnTest
from harness_probes.held_out import LinearProblem, LinearSolution
from harness_probes.linear import LinearParams
from harness_probes.linear_scores import FittedLinear
from harness_probes.logistic import solve_logistic
from harness_probes.ridge_selection import solve_ridge
from harness_probes.sgd_selection import solve_sgd
from harness_probes.shots import Shots, draw_shots, grouping
from harness_probes.tables import learned_classes, require_table
from harness_probes.token_probe import TokenProbe

if TYPE_CHECKING:
    import numpy.typing as npt


class LinearProbe(TokenProbe):
    """One linear classifier per seed, counted up from the run's probe seed, fitted on the support images.

    A seed draws the held-out part that hyper-parameters are chosen on (never the images asked about), the initial
    weights and the batches of ``solver=sgd``, and, where ``per_class`` is given, which images of each class are used:
    those that ``fewshot`` draws for as many shots.

    * ``logistic``: multinomial logistic regression with an L2 penalty by L-BFGS (scikit-learn), on ``standardise``-d
      features, the best ``c`` refitted on all images. Features are copied into memory. Of two classes it is
      scikit-learn's binary form;
    * ``sgd``: the published recipes (:mod:`harness_probes.recipes`) on mini-batches, for tables larger than memory,
      with several learning rates at once. Differences from the publications: features are cached, so the recipes'
      augmentation of training images (random crops and flips) is not there; batches have 256 images unless
      ``batch_size`` says otherwise, and rates that a recipe scales follow that size;
    * ``ridge``: regression to one-hot targets in closed form, as in ``fewshot``, on any number of images.

    ``recipe=ipvit`` starts from the ViT's normal weights for models with patches and from Xavier's for all others.
    """

    def __init__(
        self,
        *,
        features: str = "pooled",
        solver: Literal["logistic", "sgd", "ridge"] = "logistic",
        seeds: int = 1,
        per_class: int | None = None,
        validation: float = 0.2,
        standardise: bool = True,
        c: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0),
        iterations: int = 1000,
        recipe: Literal["dino", "dinov2", "ipvit"] = "dino",
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rates: tuple[float, ...] | None = None,
        selection: Literal["last", "best_val", "best_test"] | None = None,
        compat: bool = False,
        ridge_lambda: float | Literal["auto"] = "auto",
    ) -> None:
        params = LinearParams(
            features=features,
            solver=solver,
            seeds=seeds,
            per_class=per_class,
            validation=validation,
            standardise=standardise,
            c=c,
            iterations=iterations,
            recipe=recipe,
            epochs=epochs,
            batch_size=batch_size,
            learning_rates=learning_rates,
            selection=selection,
            compat=compat,
            ridge_lambda=ridge_lambda,
        )
        self._params = checked(params, "linear")
        super().__init__(
            ProbeInfo(name="linear", learns=True, params=canonical(self._params)), features=self._params.features
        )
        # A feature table tells neither positions nor the split's labels, from which the draw could be made again.
        self._drawn: dict[tuple[int, bytes], Shots] = {}

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """All positions, or with ``per_class`` those drawn for any seed, rising; :meth:`fit` expects exactly these.

        Raises :class:`~harness.errors.DataError` for a class with fewer images than ``per_class``, and
        :class:`~harness.errors.ParameterError` for a negative seed.
        """
        if seed < 0:
            raise ParameterError(f"linear: the probe's seed must not be negative, but is {seed}")
        per_class = self._params.per_class
        if per_class is None:
            return np.arange(len(labels), dtype=np.int64)
        seeds = range(seed, seed + self._params.seeds)
        drawn = draw_shots(labels, shots=(per_class,), seeds=seeds, probe="linear", parameter="per_class")
        self._drawn[seed, grouping(labels[drawn.positions])] = drawn
        return drawn.positions

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """One classifier per seed, or one per seed and learning rate (and, with ``best_test``, epoch).

        Raises :class:`~harness.errors.HarnessError` for rows that :meth:`select_support` of this probe did not select
        with this seed and for a solver that does not converge, and :class:`~harness.errors.DataError` for labels
        outside the dataset's classes, fewer than two classes, too few images, or features that are not finite.
        """
        support = require_table(support, self.features(context.model), probe="linear", model=context.model)
        learned = learned_classes(support.y, context.classes, probe="linear")
        if len(learned) < 2:
            raise DataError(
                f"linear: the support images are all of class {context.classes[int(learned[0])]}",
                hint="give two or more classes images in the support split",
            )
        labels = np.searchsorted(learned, support.y)
        solutions = [
            self._solve(
                LinearProblem(
                    features=support.x,
                    labels=labels,
                    rows=rows,
                    num_classes=len(learned),
                    seed=context.seed + s,
                    device=context.device or "cpu",
                ),
                context.model,
            )
            for s, rows in enumerate(self._rows(support, context.seed))
        ]
        classifiers = [classifier for solution in solutions for classifier in solution.classifiers]
        kind = FittedBestOnTest if self._params.selected_on_test else FittedLinear
        return kind(
            probe="linear",
            model=context.model,
            spec=support.spec,
            classes=context.classes,
            learned=learned,
            variants=[dims for dims, _ in classifiers],
            weight=np.concatenate([linear.weight for _, linear in classifiers], axis=1),
            bias=np.concatenate([linear.bias for _, linear in classifiers]),
            # The first seed: its classifiers come first.
            scored=solutions[0].scored,
            extra=[row for solution in solutions for row in solution.extra],
        )

    def _rows(self, support: FeatureTable, seed: int) -> list[npt.NDArray[np.int64]]:
        """The rows of every seed, rising."""
        if self._params.per_class is None:
            return [np.arange(len(support), dtype=np.int64)] * self._params.seeds
        drawn = self._drawn.get((seed, grouping(support.y)))
        if drawn is None:
            raise HarnessError(
                f"linear: these {len(support)} support rows are not those selected with seed {seed}",
                hint="call select_support(labels, seed) of this probe, and give fit exactly those rows in that order",
            )
        return [np.sort(rows, axis=None) for rows in drawn.rows]

    def _solve(self, problem: LinearProblem, model: ModelInfo) -> LinearSolution:
        if self._params.solver == "logistic":
            return solve_logistic(problem, self._params)
        if self._params.solver == "sgd":
            return solve_sgd(problem, self._params, model)
        return solve_ridge(problem, self._params)
