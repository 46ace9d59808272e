"""The grid: every model x perturbation x probe as cells, and how the cells share passes over the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

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
from harness.errors import CapabilityError, DataError, UsageError
from harness.planning import GridRequest, Pass, PlannedCell, RunPlan
from harness.sampling import limit_count
from harness.types import Cell, DatasetRef, JSONValue, Seeds, View, digest

if TYPE_CHECKING:
    from harness.catalog import Catalog
    from harness.entries import SummaryEntry
    from harness.protocols import Dataset


def build_plan(catalog: Catalog, request: GridRequest, *, summaries: Sequence[SummaryEntry] = ()) -> RunPlan:
    """Resolve ``request`` into cells and passes. Decodes nothing, builds no model, imports no torch.

    ``summaries`` that need the clean cell of a sweep make the plan hold it. Raises :class:`CapabilityError` for a
    combination that makes no sense, unless the request is tolerant; and what resolving a name raises.
    """
    models = [model_component(catalog, item, request.weights) for item in request.models]
    datasets = [dataset_component(catalog, item, request.data) for item in request.datasets]
    perturbations = [perturbation_component(catalog, item) for item in request.perturbations]
    supports = [perturbation_component(catalog, item) for item in request.support_perturbations]
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
    planned: dict[str, PlannedCell] = {}
    order: dict[str, Cell] = {}
    places: dict[str, tuple[ModelComponent, DatasetComponent]] = {}
    for model in models:
        for dataset in datasets:
            for probe in probes:
                sweep = _with_clean(perturbations, clean, summaries)
                for item in _cells(request, model, dataset, sweep, supports, probe):
                    order.setdefault(item.key, item.cell)
                    places[item.key] = (model, dataset)
                    if item.cell.not_applicable is None:
                        planned.setdefault(item.key, item)
    asked = frozenset(order)
    controls: dict[str, dict[str, str]] = {}
    if request.controls:
        baselines = Baselines.of(catalog, request.probes, probes)
        for item in tuple(planned.values()):
            model, dataset = places[item.key]
            for name, control, owner in control_cells(item, model, dataset, baselines):
                controls.setdefault(item.key, {})[name] = control.key
                order.setdefault(control.key, control.cell)
                places.setdefault(control.key, (owner, dataset))
                planned.setdefault(control.key, control)
    return RunPlan(
        cells=tuple(order.values()),
        passes=tuple(_passes(planned.values(), places, clean, tolerant=request.tolerant)),
        headlines={probe.ref.name: probe.headline for probe in probes},
        controls=controls,
        control_keys=frozenset(order) - asked,
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
) -> Iterable[PlannedCell]:
    info = dataset.dataset.info
    view = _view(request.view, model)
    split = request.split or (info.query_split if probe.learns else info.whole_split)
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
    for support, support_level in _support_levels(supports, probe):
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
                        support_split=info.support_split if probe.learns else None,
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


def _support_levels(
    supports: Sequence[PerturbationComponent], probe: ProbeComponent
) -> Iterable[tuple[PerturbationComponent | None, float | None]]:
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
        if support is not None:
            check_applies(model, support, probe, info.label_space)
        if probe.learns and info.support_split is None:
            raise CapabilityError(f"probe {probe.ref.name} learns, but dataset {info.name} has no support split")
        if probe.learns and split == info.support_split:
            raise CapabilityError(
                f"probe {probe.ref.name} would be asked about split {split!r}, the images it learns from",
                hint=f"query another split of {info.name}: {', '.join(s for s in info.splits if s != split)}",
            )
    except CapabilityError as error:
        if not request.tolerant:
            raise
        return error.message
    return None


def _view(asked: str | View, model: ModelComponent) -> View:
    if isinstance(asked, View):
        return asked
    return model.view if asked == "model" else View.parse(asked)


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
