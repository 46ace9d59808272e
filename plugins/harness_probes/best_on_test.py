"""The best accuracy over epochs on the very images asked about, as some published numbers are made, and marked so."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from harness import metrics
from harness.types import Measurement
from harness_probes.classification import ClassificationRun
from harness_probes.linear_scores import FittedLinear

if TYPE_CHECKING:
    from harness.protocols import ProbeRun
    from harness.types import JSONScalar

SELECTED_ON_TEST: dict[str, JSONScalar] = {"selected_on": "test"}
"""The dims of every number that was the best of several on the images it is measured on."""


class FittedBestOnTest(FittedLinear):
    """Classifiers told apart by ``epoch`` and ``seed``, of which the best on the images asked about is reported."""

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return BestOnTestRun(self, extra=self.extra)


class BestOnTestRun(ClassificationRun):
    """Adds the marked rows to those of every epoch."""

    def result(self) -> list[Measurement]:
        """First ``accuracy`` with the dims ``{"selected_on": "test"}``, then what every epoch gives.

        For every seed the epoch (and learning rate) with the most right answers is taken, the first of equals. The
        number has no interval: a maximum over the images it is measured on is biased upwards, by how much depends on
        how much the epochs differ. ``accuracy_per_seed`` and ``epoch``, the one taken, come with the seed.
        """
        table = self.outcomes()
        hits = np.count_nonzero(table.columns["correct"], axis=1)
        best: dict[JSONScalar, int] = {}
        for place, dims in enumerate(table.variants):
            seed = dims["seed"]
            if seed not in best or hits[place] > hits[best[seed]]:
                best[seed] = place
        rows = list(
            metrics.seeds_measurements(
                table.columns["correct"][list(best.values())], metric="accuracy", dims=SELECTED_ON_TEST
            )
        )
        for seed, place in best.items():
            dims = {**SELECTED_ON_TEST, "seed": seed}
            rows.append(
                metrics.accuracy_measurement(table.columns["correct"][place], metric="accuracy_per_seed", dims=dims)
            )
            epoch = table.variants[place]["epoch"]
            assert isinstance(epoch, int)
            rows.append(
                Measurement(
                    metric="epoch", dims=dims, value=epoch, n=len(table.positions), unit="", higher_is_better=None
                )
            )
        marked = [dataclasses.replace(row, low=None, high=None, interval=None) for row in rows]
        return [*marked, *super().result()]
