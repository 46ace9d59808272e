"""The grid: every model x perturbation x probe as cells, and how the cells share passes over the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.baseline_cells import baseline_cells, require_something_to_compare
from harness.components import (
    CLEAN,
    DatasetComponent,
    ModelComponent,
    PerturbationComponent,
    ProbeComponent,
    check_applies,
    dataset_component,
    model_component,
    perturbation_component,
    probe_component,
    used_label_map,
)
from harness.control_cells import Baselines, control_cells
from harness.errors import CapabilityError, DataError, UsageError, WeightsError
from harness.no_images import NoImages
from harness.planning import GridRequest, Pass, PlannedCell, RunPlan
from harness.sampling import limit_count
from harness.types import Cell, DatasetRef, JSONValue, Seeds, View, digest
from harness.weights import WeightsChoice

if TYPE_CHECKING:
    from harness.catalog import Catalog
    from harness.entries import SummaryEntry
    from harness.protocols import Dataset, DatasetInfo


def build_plan(catalog: Catalog, request: GridRequest, *, summaries: Sequence[SummaryEntry] = ()) -> RunPlan:
    """Resolve ``request`` into cells and passes. Decodes nothing, builds no model, imports no torch.

    ``summaries`` that need the clean cell of a sweep make the plan hold it. Raises :class:`CapabilityError` for a
    combination that makes no sense, unless the request is tolerant; and what resolving a name raises.
    """
    models = [model_component(catalog, item, request.weights) for item in request.models]
    datasets = [dataset_component(catalog, item, request.data) for item in request.datasets]
    aim = request.attack_target
    perturbations = [perturbation_component(catalog, item, aim) for item in request.perturbations]
    supports = [perturbation_component(catalog, item, aim) for item in request.support_perturbations]
    _require_an_attack(aim, (*perturbations, *supports))
    probes = [probe_component(catalog, item) for item in request.probes]
    for kind, found in (("model", models), ("dataset", datasets), ("perturbation", perturbations), ("probe", probes)):
        if not found:
            raise UsageError(f"nothing to run: no {kind} was given")
    for items, refs in (
        (request.perturbations, [item.ref.key for item in perturbations]),
        (request.support_perturbations, [item.ref.key for item in supports]),
        (request.probes, [item.ref.key for item in probes]),
        (request.models, [{**item.ref.key, "weights": item.weights.identity} for item in models]),
        (request.datasets, [{**item.ref.key, "fingerprint": item.dataset.info.fingerprint} for item in datasets]),
    ):
        _refuse_namesakes(items, refs)
    clean = perturbation_component(catalog, CLEAN)
    nothing = dataset_component(catalog, NoImages())
    grid = _Grid()
    for model in models:
        for dataset in datasets:
            for probe in probes:
                sweep = perturbations if probe.of_model else _with_clean(perturbations, clean, summaries)
                place = nothing if probe.of_model else dataset
                for item in _cells(request, model, place, sweep, supports, probe, clean):
                    grid.add(item, model, place)
    asked = frozenset(grid.order)
    controls = _add_controls(grid, Baselines.of(catalog, request.probes, probes)) if request.controls else {}
    beside: dict[str, dict[str, str]] = {}
    if request.baseline is not None:
        component = model_component(catalog, request.baseline, WeightsChoice(origin="pretrained"))
        beside = _add_baselines(
            grid, [item for item in grid.planned.values() if item.key in asked], datasets, component
        )
    return RunPlan(
        cells=tuple(grid.order.values()),
        passes=tuple(_passes(grid.planned.values(), grid.places, clean, tolerant=request.tolerant)),
        headlines={probe.ref.name: probe.headline for probe in probes},
        exhibits={probe.ref.fingerprint: probe.draw for probe in probes if probe.draw is not None},
        controls=controls,
        control_keys=frozenset(grid.order) - asked,
        baselines=beside,
    )


@dataclass(slots=True)
class _Grid:
    """Cells as they are gathered, by their keys: all in order, those that can be answered, and where each belongs."""

    order: dict[str, Cell] = field(default_factory=dict)
    planned: dict[str, PlannedCell] = field(default_factory=dict)
    places: dict[str, tuple[ModelComponent, DatasetComponent]] = field(default_factory=dict)

    def add(self, item: PlannedCell, model: ModelComponent, dataset: DatasetComponent) -> None:
        """Take a cell in, unless it is there."""
        self.order.setdefault(item.key, item.cell)
        self.places.setdefault(item.key, (model, dataset))
        if item.cell.not_applicable is None:
            self.planned.setdefault(item.key, item)


def _add_controls(grid: _Grid, baselines: Baselines) -> dict[str, dict[str, str]]:
    """Add the negative controls of every cell; their keys by the cell's key and the control's name."""
    controls: dict[str, dict[str, str]] = {}
    for item in tuple(grid.planned.values()):
        model, dataset = grid.places[item.key]
        for name, control, owner in control_cells(item, model, dataset, baselines):
            controls.setdefault(item.key, {})[name] = control.key
            grid.add(control, owner, dataset)
    return controls


def _add_baselines(
    grid: _Grid, items: Sequence[PlannedCell], datasets: Sequence[DatasetComponent], baseline: ModelComponent
) -> dict[str, dict[str, str]]:
    """Add what ``baseline`` answers in the cells of ``items`` that are read against it; keys as of controls."""
    require_something_to_compare(items, datasets)
    of_cell = {item.key: grid.places[item.key][1] for item in items}
    beside: dict[str, dict[str, str]] = {}
    for item, other in baseline_cells(items, of_cell, baseline):
        beside.setdefault(item.key, {})[baseline.ref.name] = other.key
        grid.add(other, baseline, of_cell[item.key])
    return beside


def _require_an_attack(aim: str | None, perturbations: Iterable[PerturbationComponent]) -> None:
    if aim is not None and not any(item.target or item.source for item in perturbations):
        raise UsageError(
            f"--attack-target {aim}: no perturbation that was asked for is an attack", hint="for example -p pgd@4"
        )


def _refuse_namesakes(items: Sequence[object], keys: Sequence[Mapping[str, JSONValue]]) -> None:
    """Two instances that records could not tell apart would share one record: say so instead of dropping one."""
    first: dict[str, object] = {}
    for item, key in zip(items, keys, strict=True):
        instance = item[0] if isinstance(item, tuple) else item
        if not isinstance(instance, str) and first.setdefault(digest(key), instance) is not instance:
            raise UsageError(
                f"two different objects both call themselves {key['use']} with equal parameters, so that their records "
                "would be the same",
                hint="give them different names or parameters in their info",
            )


def _with_clean(
    perturbations: Sequence[PerturbationComponent], clean: PerturbationComponent, summaries: Sequence[SummaryEntry]
) -> list[PerturbationComponent]:
    """The perturbations, the clean pass first if a summary over their levels needs it and it was not asked for."""
    if any(item.is_clean for item in perturbations):
        return list(perturbations)
    longest = max(len(item.levels) for item in perturbations)
    needed = any(entry.requires_clean and longest >= entry.min_cells for entry in summaries)
    return [clean, *perturbations] if needed else list(perturbations)


def _cells(
    request: GridRequest,
    model: ModelComponent,
    dataset: DatasetComponent,
    perturbations: Sequence[PerturbationComponent],
    supports: Sequence[PerturbationComponent],
    probe: ProbeComponent,
    clean: PerturbationComponent,
) -> Iterable[PlannedCell]:
    info = dataset.dataset.info
    # What is measured of the model itself has nothing to do with how images become pixels.
    view = model.view if probe.of_model else _view(request.view, model, info)
    split = info.whole_split if probe.of_model else request.split or _split(info, probe)
    if split not in info.splits:
        raise DataError(f"dataset {info.name} has no split {split!r}", hint=f"its splits are {', '.join(info.splits)}")
    ref = DatasetRef(
        ref=dataset.ref,
        split=split,
        fingerprint=info.fingerprint,
        label_space=info.label_space,
        num_classes=_num_choices(dataset.dataset, probe),
        limit=limit_count(request.limit, len(dataset.dataset.index(split))),
    )
    for support, support_level in _support_levels(supports, probe, clean):
        for perturbation in perturbations:
            reason = _refusal(request, model, perturbation, support, probe, dataset, split)
            for seed in request.seeds if perturbation.stochastic else (None,):
                for level in perturbation.levels:
                    cell = Cell(
                        model=model.ref,
                        weights=model.weights,
                        dataset=ref,
                        view=view,
                        perturbation=perturbation.ref,
                        level=level,
                        probe=probe.ref,
                        seeds=Seeds(
                            perturb=seed,
                            support_perturb=request.support_seed if support and support.stochastic else None,
                            probe=request.probe_seed if probe.stochastic else None,
                        ),
                        support=support.ref if support else None,
                        support_level=support_level,
                        support_split=split if probe.reference else info.support_split if probe.learns else None,
                        precision=request.precision,
                        label_map=used_label_map(model, perturbation, probe, info.label_space),
                        not_applicable=reason,
                    )
                    yield PlannedCell(cell=cell, perturbation=perturbation, probe=probe, support=support)


def _num_choices(dataset: Dataset, probe: ProbeComponent) -> int:
    """Among how many classes a guess is made: a probe that learns knows only those that have support images."""
    info = dataset.info
    if probe.learns and info.support_split is not None:
        return len(set(dataset.index(info.support_split).labels.tolist()))
    return len(info.classes)


def _split(info: DatasetInfo, probe: ProbeComponent) -> str:
    return info.query_split if probe.learns else info.whole_split


def _support_levels(
    supports: Sequence[PerturbationComponent], probe: ProbeComponent, clean: PerturbationComponent
) -> Iterable[tuple[PerturbationComponent | None, float | None]]:
    if probe.reference:
        return [(clean, None)]
    if not probe.learns:
        return [(None, None)]
    return [(support, level) for support in supports for level in support.levels]


def _refusal(
    request: GridRequest,
    model: ModelComponent,
    perturbation: PerturbationComponent,
    support: PerturbationComponent | None,
    probe: ProbeComponent,
    dataset: DatasetComponent,
    split: str,
) -> str | None:
    """Why this combination cannot give a number, None if it can; raises it if it was asked for by name."""
    info = dataset.dataset.info
    try:
        check_applies(model, perturbation, probe, info.label_space)
        if probe.of_model and not perturbation.is_clean:
            raise CapabilityError(
                f"probe {probe.ref.name} measures the model itself, and no perturbation of images changes that",
                hint="run it without --perturb",
            )
        if support is not None:
            check_applies(model, support, probe, info.label_space)
        if probe.learns and info.support_split is None:
            raise CapabilityError(f"probe {probe.ref.name} learns, but dataset {info.name} has no support split")
        if probe.learns and split == info.support_split:
            raise CapabilityError(
                f"probe {probe.ref.name} would be asked about split {split!r}, the images it learns from",
                hint=f"query another split of {info.name}: {', '.join(s for s in info.splits if s != split)}",
            )
    except (CapabilityError, WeightsError) as error:
        if not request.tolerant:
            raise
        return error.message
    return None


def _view(asked: str | View, model: ModelComponent, dataset: DatasetInfo) -> View:
    if asked == "model":
        return dataset.view or model.view
    view = asked if isinstance(asked, View) else View.parse(asked)
    if dataset.view is not None and view.resize is not None:
        raise UsageError(
            f"dataset {dataset.name} holds images that are ready to use, and view {view.text} would resize them again",
            hint=f"leave --view out, or take one that resizes nothing, such as {dataset.view.text}",
        )
    return view


def _passes(
    cells: Iterable[PlannedCell],
    places: Mapping[str, tuple[ModelComponent, DatasetComponent]],
    clean: PerturbationComponent,
    *,
    tolerant: bool,
) -> list[Pass]:
    grouped: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        parts = cell.cell
        walk: dict[str, JSONValue] = {
            "model": parts.model.key,
            "weights": parts.weights.identity,
            "dataset": parts.dataset.key,
            "view": parts.view.text,
        }
        grouped.setdefault(digest(walk), []).append(cell)
    passes = []
    for members in grouped.values():
        model, dataset = places[members[0].key]
        first = members[0].cell
        passes.append(
            Pass(
                model=model,
                dataset=dataset,
                split=first.dataset.split,
                view=first.view,
                limit=first.dataset.limit,
                precision=first.precision,
                cells=tuple(members),
                clean=clean,
                tolerant=tolerant,
            )
        )
    return passes
