"""Negative controls: what a number would be if there were nothing behind it, planned beside every cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.components import (
    DatasetComponent,
    ModelComponent,
    ProbeComponent,
    check_applies,
    model_component,
    probe_component,
)
from harness.errors import CapabilityError
from harness.grammar import parse_selector
from harness.planning import PlannedCell
from harness.weights import WeightsChoice

if TYPE_CHECKING:
    from harness.catalog import Catalog

BASELINE = "pixel_statistics"
"""The core's own model of statistics of the pixels."""

PERMUTATIONS = 20
"""How many times labels are shuffled: the fewest over which an interval of 95 % is more than the two extremes."""

COPIES = 4
"""How often duplicated features say everything."""

RANDOM_WEIGHTS = "random_weights"
CONTROLS = (RANDOM_WEIGHTS, "shuffled_labels", "duplicated_features", BASELINE)
"""The controls by name, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """The model of pixel statistics, and every probe as it reads that model's one vector."""

    model: ModelComponent
    probes: Mapping[str, ProbeComponent]

    @classmethod
    def of(cls, catalog: Catalog, items: Sequence[object], probes: Sequence[ProbeComponent]) -> Baselines:
        """``items`` are the probes as they were asked for, ``probes`` the components made of them."""
        return cls(
            model=model_component(catalog, BASELINE, WeightsChoice(origin="pretrained")),
            probes={
                probe.ref.fingerprint: _pooled(catalog, item, probe) for item, probe in zip(items, probes, strict=True)
            },
        )


def _pooled(catalog: Catalog, item: object, probe: ProbeComponent) -> ProbeComponent:
    """``probe`` on the pooled vector, since pixel statistics have no tokens."""
    if not isinstance(item, str) or probe.features_param is None:
        return probe
    selector = parse_selector(item)
    params = {**selector.params, probe.features_param: "pooled"}
    return probe_component(catalog, dataclasses.replace(selector, params=params).text)


def control_cells(
    item: PlannedCell, model: ModelComponent, dataset: DatasetComponent, baselines: Baselines
) -> Iterator[tuple[str, PlannedCell, ModelComponent]]:
    """The controls of ``item``: name, cell, and the model it asks. A control that makes no sense is left out.

    * ``random_weights``: the same network with random weights of seed 0;
    * ``shuffled_labels``: the probe fitted on support images whose labels were permuted over the whole support split,
      :data:`PERMUTATIONS` times;
    * ``duplicated_features``: the probe on every number of the features :data:`COPIES` times over, which adds no
      information;
    * ``pixel_statistics``: the probe on statistics of the very pixels instead of the model's features.

    A probe that does not learn has the first alone. Nothing can aim at a probe with shuffled labels.
    """
    cell = item.cell
    if model.twin is not None:
        twin = model.twin()
        yield RANDOM_WEIGHTS, _changed(item, model=twin.ref, weights=twin.weights), twin
    if not item.probe.learns:
        return
    aimed = any(part is not None and part.target == "probe" for part in (item.perturbation, item.support))
    if not aimed:
        yield "shuffled_labels", _changed(item, control="shuffled_labels"), model
    yield "duplicated_features", _changed(item, control="duplicated_features"), model
    probe = baselines.probes[item.probe.ref.fingerprint]
    baseline = baselines.model
    if baseline.ref.fingerprint == model.ref.fingerprint:
        return
    try:
        for part in filter(None, (item.perturbation, item.support)):
            check_applies(baseline, part, probe, dataset.dataset.info.label_space)
    except CapabilityError:
        return
    changed = dataclasses.replace(cell, model=baseline.ref, weights=baseline.weights, probe=probe.ref)
    yield BASELINE, dataclasses.replace(item, cell=changed, probe=probe, is_control=True), baseline


def _changed(item: PlannedCell, **cell: object) -> PlannedCell:
    changed = dataclasses.replace(item.cell, **cell)  # type: ignore[arg-type]  # the fields named above, of their types
    return dataclasses.replace(item, cell=changed, is_control=True)
