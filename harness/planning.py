"""The grid: every model x perturbation x probe as cells, and how the cells share passes over the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

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
)
from harness.errors import CapabilityError, DataError, UsageError
from harness.naming import parameter_text
from harness.protocols import Dataset
from harness.sampling import limit_count, stratified
from harness.types import Cell, DatasetRef, JSONValue, LevelSpec, OutputSpec, ResolvedRef, Seeds, View, digest
from harness.weights import WeightsChoice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.catalog import Catalog
    from harness.entries import SummaryEntry

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRequest:
    """What is asked for: every combination of these becomes a cell.

    Items are names in the command line's grammar or instances. ``view`` is ``model`` (each model's own), a named view
    or a :class:`View`. ``seeds`` are those of the perturbations; ``support_seed`` and ``probe_seed`` are one each.
    ``split`` None leaves the choice to the dataset. ``tolerant`` turns combinations that make no sense into
    ``not_applicable`` rows (globs and suites) instead of errors.
    """

    models: Sequence[object]
    datasets: Sequence[object]
    perturbations: Sequence[object] = (CLEAN,)
    probes: Sequence[object]
    support_perturbations: Sequence[object] = (CLEAN,)
    weights: WeightsChoice = field(default_factory=lambda: WeightsChoice(origin="pretrained"))
    data: str | None = None
    split: str | None = None
    view: str | View = "model"
    seeds: Sequence[int] = (0,)
    support_seed: int = 0
    probe_seed: int = 0
    limit: str | int | float | None = None
    precision: Precision = "fp32"
    tolerant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """A cell with the components that answer it."""

    cell: Cell
    perturbation: PerturbationComponent
    probe: ProbeComponent
    support: PerturbationComponent | None

    @property
    def key(self) -> str:
        """The key of the record to be."""
        return self.cell.key

    @property
    def is_identity(self) -> bool:
        """Whether the pixels queried are provably the clean ones."""
        level = self.perturbation.level
        return self.perturbation.is_clean or (level is not None and level.identity == self.cell.level)

    @property
    def unit(self) -> str:
        """Cells of one unit share one perturbation object, with its seed and target."""
        cell = self.cell
        parts: dict[str, JSONValue] = {"perturbation": cell.perturbation.key, "seed": cell.seeds.perturb}
        if self.perturbation.target == "probe":
            parts["target"] = self.fit_key
        return digest(parts)

    @property
    def fit_key(self) -> str:
        """Cells of one fit key share one fitted probe."""
        cell = self.cell
        return digest(
            {
                "probe": cell.probe.key,
                "seed": cell.seeds.probe,
                "support": None if cell.support is None else cell.support.key,
                "level": cell.support_level,
                "support_seed": cell.seeds.support_perturb,
                "split": cell.support_split,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One walk of one model over one set of images, from which all its cells are answered."""

    model: ModelComponent
    dataset: DatasetComponent
    split: str
    view: View
    limit: int | None
    precision: Precision
    cells: tuple[PlannedCell, ...]
    clean: PerturbationComponent
    tolerant: bool = False
    """Whether a cell that turns out to make no sense is recorded as not applicable instead of failing."""

    @property
    def walk_id(self) -> str:
        """What the order of the images depends on; a checkpoint of another walk is of no use."""
        return digest(
            {
                "model": self.model.ref.key,
                "weights": self.model.weights.identity,
                "dataset": self.dataset.dataset.info.fingerprint,
                "split": self.split,
                "view": self.view.text,
                "limit": self.limit,
                "precision": self.precision,
            }
        )

    def positions(self) -> npt.NDArray[np.int64]:
        """The images walked, as ascending positions in the split."""
        return stratified(self.dataset.dataset.index(self.split), self.limit)

    @property
    def num_images(self) -> int:
        """Images walked, without decoding any."""
        return len(self.dataset.dataset.index(self.split)) if self.limit is None else self.limit

    @property
    def forwards_per_image(self) -> int:
        """Forward passes that each image needs: one clean if any cell wants it, and one per perturbed level."""
        perturbed = {(cell.unit, cell.cell.level) for cell in self.cells if not cell.is_identity}
        clean = any(cell.is_identity or cell.probe.compares for cell in self.cells)
        return len(perturbed) + clean

    def restrict(self, keys: Iterable[str]) -> Pass:
        """The same walk for some of its cells."""
        wanted = set(keys)
        return dataclasses.replace(self, cells=tuple(cell for cell in self.cells if cell.key in wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Every cell asked for, in the order asked, and the passes that answer those that make sense."""

    cells: tuple[Cell, ...]
    passes: tuple[Pass, ...]
    headlines: Mapping[str, str] = field(default_factory=dict)
    """The metric that tables show first, by probe name."""

    @property
    def levels(self) -> Mapping[str, LevelSpec]:
        """The strength axis of every perturbation that is run and has one, by name."""
        planned = (cell for walk in self.passes for cell in walk.cells)
        return {cell.cell.perturbation.name: spec for cell in planned if (spec := cell.perturbation.level) is not None}

    @property
    def not_applicable(self) -> tuple[Cell, ...]:
        """Cells that cannot give a number, each with its reason."""
        return tuple(cell for cell in self.cells if cell.not_applicable is not None)

    @property
    def models(self) -> tuple[ModelComponent, ...]:
        """Every model that the passes build, those injected into perturbations included."""
        models = [walk.model for walk in self.passes]
        for cell in (cell for walk in self.passes for cell in walk.cells):
            for perturbation in filter(None, (cell.perturbation, cell.support)):
                models += perturbation.injected.values()
        return tuple({(model.ref.fingerprint, model.weights.identity): model for model in models}.values())

    def without(self, done: Iterable[str]) -> RunPlan:
        """The part of the plan whose cells have no record yet."""
        finished = set(done)
        cells = tuple(cell for cell in self.cells if cell.key not in finished)
        keys = {cell.key for cell in cells}
        passes = [walk.restrict(keys) for walk in self.passes]
        return dataclasses.replace(self, cells=cells, passes=tuple(walk for walk in passes if walk.cells))

    def shard(self, index: int, count: int) -> RunPlan:
        """Part ``index`` of ``count`` (zero-based) of the cells; cells that share a forward pass stay together.

        Raises :class:`UsageError` unless ``0 <= index < count``.
        """
        if not 0 <= index < count:
            raise UsageError(
                f"shard {index + 1}/{count} does not exist: shards are numbered 1/{count} to {count}/{count}"
            )
        groups: dict[tuple[int, str, float | None], set[str]] = {}
        for number, walk in enumerate(self.passes):
            for cell in walk.cells:
                # Every level that changes nothing is answered from the clean forward.
                shared = ("", None) if cell.is_identity else (cell.unit, cell.cell.level)
                groups.setdefault((number, *shared), set()).add(cell.key)
        mine = {key for place, keys in enumerate(groups.values()) if place % count == index for key in keys}
        if index == 0:
            mine |= {cell.key for cell in self.not_applicable}
        return self.without({cell.key for cell in self.cells} - mine)

    def as_dict(self) -> dict[str, JSONValue]:
        """The resolved plan as ``plan.json`` holds it."""
        return {
            "cells": [
                {"key": cell.key, **cell.as_dict(), "not_applicable": cell.not_applicable} for cell in self.cells
            ],
            "passes": [
                {
                    "model": walk.model.ref.name,
                    "dataset": walk.dataset.ref.name,
                    "split": walk.split,
                    "view": walk.view.text,
                    "images": walk.num_images,
                    "forwards_per_image": walk.forwards_per_image,
                    "forward_images": walk.num_images * walk.forwards_per_image,
                    "cells": len(walk.cells),
                }
                for walk in self.passes
            ],
        }


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
    refused: dict[str, Cell] = {}
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
                    else:
                        refused[item.key] = item.cell
    return RunPlan(
        cells=tuple(order.values()),
        passes=tuple(_passes(planned.values(), places, clean, tolerant=request.tolerant)),
        headlines={probe.ref.name: probe.headline for probe in probes},
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


def union(specs: Iterable[OutputSpec]) -> OutputSpec:
    """Everything that any of ``specs`` wants."""
    total = OutputSpec()
    for spec in specs:
        total |= spec
    return total


def describe_ref(ref: ResolvedRef) -> str:
    """A reference as people type it: the name and the parameters that are not their defaults."""
    extra = ":".join(parameter_text(name, value) for name, value in sorted(ref.identity.items()))
    return ref.name if not extra else f"{ref.name}:{extra}"
