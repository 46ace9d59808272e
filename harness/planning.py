"""What a plan is: the request for a grid, its cells, and the passes over the images that answer them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.components import (
    CLEAN,
    AttackTarget,
    DatasetComponent,
    ModelComponent,
    PerturbationComponent,
    ProbeComponent,
)
from harness.errors import UsageError
from harness.naming import parameter_text
from harness.sampling import stratified
from harness.types import Cell, JSONValue, LevelSpec, OutputSpec, ResolvedRef, View, digest
from harness.weights import WeightsChoice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.exhibits import MakeExhibit

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRequest:
    """What is asked for: every combination of these becomes a cell.

    Items are names in the command line's grammar or instances. ``view`` is ``model`` (each model's own), a named view
    or a :class:`View`. ``seeds`` are those of the perturbations; ``support_seed`` and ``probe_seed`` are one each.
    ``split`` None leaves the choice to the dataset. ``tolerant`` turns combinations that make no sense into
    ``not_applicable`` rows (globs and suites) instead of errors. ``controls`` adds the negative controls of every cell
    (:mod:`harness.control_cells`). ``baseline`` names the model that numbers under corruptions are read against;
    ``attack_target`` is what attacks aim at whose own text does not say so.
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
    controls: bool = False
    baseline: object = None
    attack_target: AttackTarget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """A cell with the components that answer it; ``is_control``: nobody asked for it but as a control of another."""

    cell: Cell
    perturbation: PerturbationComponent
    probe: ProbeComponent
    support: PerturbationComponent | None
    is_control: bool = False

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
                **({} if cell.control is None else {"control": cell.control}),
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
    exhibits: Mapping[str, Callable[[], MakeExhibit]] = field(default_factory=dict)
    """What draws the exhibits of probes that have one, by the probe's fingerprint."""
    controls: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The keys of a cell's negative controls, by the cell's key and the name of the control."""
    control_keys: frozenset[str] = frozenset()
    """Keys of the cells that are there as controls or baselines of others only."""
    baselines: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The keys of the cells that a cell is read against, by the cell's key and the name of the baseline model."""

    @property
    def asked(self) -> tuple[Cell, ...]:
        """The cells without those that are there as controls of others only."""
        return tuple(cell for cell in self.cells if cell.key not in self.control_keys)

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
            **({"controls": {key: dict(found) for key, found in self.controls.items()}} if self.controls else {}),
            **({"baselines": {key: dict(found) for key, found in self.baselines.items()}} if self.baselines else {}),
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


def union(specs: Iterable[OutputSpec]) -> OutputSpec:
    """Everything that any of ``specs`` wants."""
    total = OutputSpec()
    for spec in specs:
        total |= spec
    return total


def describe_ref(ref: ResolvedRef) -> str:
    """A reference as people type it: the name, and the parameters that neither it nor their defaults say."""
    extra = ":".join(parameter_text(name, value) for name, value in sorted(ref.beside_name.items()))
    return ref.name if not extra else f"{ref.name}:{extra}"
