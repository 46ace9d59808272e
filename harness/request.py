"""What a person asked for, joined with the suite and the registry's defaults into a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.grammar import split_names
from harness.planning import GridRequest, Precision
from harness.types import Kind, View
from harness.weights import WeightsChoice

if TYPE_CHECKING:
    from harness.catalog import Catalog
    from harness.components import AttackTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The axes of a grid as given: names in the grammar, globs, ``@file`` lists, or instances.

    An empty axis comes from ``suite``, then from the registry's defaults. None means: not given.
    """

    models: Sequence[object] = ()
    perturbations: Sequence[object] = ()
    probes: Sequence[object] = ()
    datasets: Sequence[object] = ()
    support_perturbations: Sequence[object] = ()
    suite: str | None = None
    weights: WeightsChoice = field(default_factory=WeightsChoice)
    data: str | Path | None = None
    split: str | None = None
    view: str | View | None = None
    seeds: Sequence[int] | None = None
    support_seed: int = 0
    probe_seed: int = 0
    limit: int | float | str | None = None
    precision: Precision | None = None
    controls: bool = False
    baseline: object = None
    attack_target: AttackTarget | None = None

    def resolve(self, catalog: Catalog) -> GridRequest:
        """The grid. Combinations that make no sense are tolerated where a glob or a suite brought them in."""
        defaults = catalog.defaults
        suite = None if self.suite is None else catalog.suite(self.suite)
        tolerant = suite is not None

        def axis(kind: Kind, given: Sequence[object], of_suite: Sequence[str], default: str) -> list[object]:
            nonlocal tolerant
            items: list[object] = []
            for item in given or of_suite or [default]:
                if not isinstance(item, str):
                    items.append(item)
                    continue
                found = catalog.expand(kind, split_names([item]))
                tolerant |= any(expansion.from_glob for expansion in found)
                items += [expansion.text for expansion in found]
            return items

        seeds = self.seeds if self.seeds is not None else suite.seeds if suite and suite.seeds else defaults.seeds
        every = [*seeds, self.support_seed, self.probe_seed]
        if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in every):
            raise UsageError(f"seeds must be whole numbers from 0 up, not {every}")
        return GridRequest(
            models=axis("model", self.models, suite.models if suite else (), defaults.model),
            datasets=axis("dataset", self.datasets, suite.datasets if suite else (), self._default(defaults.dataset)),
            perturbations=axis(
                "perturbation", self.perturbations, suite.perturbations if suite else (), defaults.perturbation
            ),
            support_perturbations=axis(
                "perturbation", self.support_perturbations, suite.support_perturbations if suite else (), "none"
            ),
            probes=axis("probe", self.probes, suite.probes if suite else (), defaults.probe),
            weights=self.weights,
            data=None if self.data is None else str(self.data),
            split=self.split,
            view=self.view or (suite.view if suite and suite.view else defaults.view),
            seeds=tuple(dict.fromkeys(seeds)),
            support_seed=self.support_seed,
            probe_seed=self.probe_seed,
            limit=self.limit if self.limit is not None else suite.limit if suite else None,
            precision=self.precision or defaults.precision,
            tolerant=tolerant,
            controls=self.controls,
            baseline=self.baseline,
            attack_target=self.attack_target,
        )

    def _default(self, default: str) -> str:
        """A place without a dataset's name means a folder of images."""
        return default if self.data is None else "folder"
