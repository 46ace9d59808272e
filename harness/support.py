"""What happens before the walk: perturbations are prepared, support features extracted, probes fitted."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.adapters import check_want
from harness.control_cells import COPIES, PERMUTATIONS
from harness.controls import FittedOnDuplicates, FittedOnShuffles, duplicated, shuffled
from harness.errors import CapabilityError, DataError, HarnessError, WeightsError
from harness.feature_cache import FeatureCache, MemoryWriter, StoredFeatures, TableWriter
from harness.features import extract
from harness.forward import Forward, as_memory_allows, head_scores, is_out_of_memory, probe_scores
from harness.loader import BatchSize, load_batches
from harness.planning import union
from harness.protocols import (
    FittedProbe,
    Model,
    ModelPerturbation,
    Perturbation,
    PerturbationContext,
    Probe,
    ProbeContext,
)
from harness.sampling import stratified
from harness.types import FeatureSpec, FeatureTable, Ids, ImageBatch, JSONValue, OutputSpec, digest

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.components import AnyPerturbation, PerturbationComponent
    from harness.planning import Pass, PlannedCell
    from harness.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A support table to be made: its cache key, its vector, whether that is duplicated, and whose images."""

    key: dict[str, JSONValue]
    spec: FeatureSpec
    duplicated: bool
    positions: npt.NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class Preparation:
    """Builds and keeps, for one pass: probes, prepared perturbations, support features and fitted probes."""

    walk: Pass
    model: Model
    forward: Forward
    batch_size: BatchSize
    workers: int
    cache: FeatureCache | None
    cache_dir: Path | None
    progress: Progress
    _probes: dict[str, Probe] = field(default_factory=dict)
    _fitted: dict[str, FittedProbe] = field(default_factory=dict)
    _perturbations: dict[str, AnyPerturbation] = field(default_factory=dict)
    _injected: dict[str, Model] = field(default_factory=dict)
    _tables: dict[str, StoredFeatures] = field(default_factory=dict)
    _selected: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def probe(self, cell: PlannedCell) -> Probe:
        """The cell's probe, built once per reference."""
        name = cell.probe.ref.fingerprint
        if name not in self._probes:
            self._probes[name] = cell.probe.build()
        return self._probes[name]

    def perturbation(self, cell: PlannedCell) -> AnyPerturbation:
        """The cell's perturbation, built and prepared once per seed and target."""
        if cell.unit not in self._perturbations:
            seed = cell.cell.seeds.perturb or 0
            self._perturbations[cell.unit] = self._prepare(
                cell.perturbation, seed, self._target(cell), num_images=self.walk.num_images
            )
        return self._perturbations[cell.unit]

    def fitted(self, cell: PlannedCell) -> FittedProbe:
        """The cell's probe, fitted once per model, support and parameters; shared by every level."""
        if cell.fit_key not in self._fitted:
            self._fitted[cell.fit_key] = self._fit(cell)
        return self._fitted[cell.fit_key]

    def extract_all(self, cells: list[PlannedCell]) -> dict[str, Exception]:
        """Extract, in as few passes as can be, every support table that ``cells`` need and the cache lacks.

        Returns what went wrong, by the fit key of the cells that cannot be fitted for it.
        """
        broken: dict[str, Exception] = {}
        for members in self._by_support_pixels(cells):
            missing: dict[str, _Wanted] = {}
            for cell in members:
                try:
                    missing |= self._missing([cell])
                except Exception as error:  # noqa: BLE001 - a probe that cannot choose must not take the others with it
                    broken[cell.fit_key] = error
            if not missing:
                continue
            try:
                self._extract(members[0], missing)
            except WeightsError:
                raise
            except Exception as error:  # noqa: BLE001 - probes fitted on other pixels can go on
                broken |= {cell.fit_key: error for cell in members if cell.fit_key not in broken}
        return broken

    def missing_support_images(self, cells: list[PlannedCell]) -> int:
        """How many support images :meth:`extract_all` would decode and forward for ``cells``."""
        return sum(
            len(_union_of_positions(missing))
            for members in self._by_support_pixels(cells)
            if (missing := self._missing(members))
        )

    def _by_support_pixels(self, cells: list[PlannedCell]) -> list[list[PlannedCell]]:
        """The learning cells, grouped by equal pixels of the support images; attacks on a probe come one by one."""
        groups: dict[str, list[PlannedCell]] = {}
        for cell in cells:
            if cell.probe.takes_features and cell.support is not None and cell.support.target != "probe":
                groups.setdefault(digest([self._pixel_key(cell), _support_split(cell)]), []).append(cell)
        return list(groups.values())

    # --- perturbations

    def _target(self, cell: PlannedCell) -> Callable[[torch.Tensor], torch.Tensor] | None:
        if cell.perturbation.target != "probe":
            return self._head_target(cell.perturbation)
        return probe_scores(self.model, self.probe(cell), self.fitted(cell))

    def _head_target(self, component: PerturbationComponent) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """The head that an attack is crafted on: the evaluated model's, or that of the source it names."""
        label_space = self.walk.dataset.dataset.info.label_space
        if component.source_param is not None:
            return head_scores(self._inject(component, component.source_param), label_space)
        return head_scores(self.model, label_space) if component.target == "head" else None

    def _prepare(
        self,
        component: PerturbationComponent,
        seed: int,
        target: Callable[[torch.Tensor], torch.Tensor] | None,
        *,
        num_images: int,
    ) -> AnyPerturbation:
        perturbation = component.build()
        info = self.walk.dataset.dataset.info
        perturbation.prepare(
            PerturbationContext(
                seed=seed,
                view=self.walk.view,
                device=self.forward.device,
                dataset_fingerprint=info.fingerprint,
                num_classes=len(info.classes),
                models={name: self._inject(component, name) for name in component.injected},
                evaluated=self.model,
                num_images=num_images,
                target=target,
                support=None if info.support_split is None else self._support_batches,
                cache_dir=self.cache_dir,
            )
        )
        return perturbation

    def _inject(self, component: PerturbationComponent, name: str) -> Model:
        wanted = component.injected[name]
        key = digest([wanted.ref.key, wanted.weights.identity])
        if key not in self._injected:
            self._injected[key] = wanted.build().to(self.forward.device)
        return self._injected[key]

    def _support_batches(self, limit: int | None = None) -> Iterator[ImageBatch]:
        split = self.walk.dataset.dataset.info.support_split
        assert split is not None, "perturbations are given support images only where there are any"
        index = self.walk.dataset.dataset.index(split)
        positions = stratified(index, None if limit is None else min(limit, len(index)))
        yield from (batch for _, batch in self._load(split, positions))

    # --- support features

    def _pixel_key(self, cell: PlannedCell) -> dict[str, JSONValue]:
        parts = cell.cell
        key: dict[str, JSONValue] = {
            "support": None if parts.support is None else parts.support.key,
            "level": parts.support_level,
            "seed": parts.seeds.support_perturb,
        }
        if cell.support is not None and cell.support.target == "probe":
            key["target"] = [parts.probe.key, parts.seeds.probe]
        return key

    def _table_key(
        self, cell: PlannedCell, spec: FeatureSpec, positions: npt.NDArray[np.int64]
    ) -> dict[str, JSONValue]:
        """Everything upstream of a support feature."""
        info = self.walk.dataset.dataset.info
        return {
            **self._pixel_key(cell),
            "model": self.walk.model.ref.key,
            "weights": self.walk.model.weights.identity,
            "view": self.walk.view.text,
            "dataset": [info.fingerprint, _support_split(cell)],
            "positions": hashlib.sha256(positions.tobytes()).hexdigest(),
            "spec": _spec_key(spec),
            **({"copies": COPIES} if cell.cell.control == "duplicated_features" else {}),
            "precision": self.walk.precision,
            "libraries": {name: metadata.version(name) for name in ("torch", "timm")},
        }

    def _selection(self, cell: PlannedCell) -> tuple[FeatureSpec, npt.NDArray[np.int64]]:
        """What the cell's probe is fitted on: the vector, and the support images it chose from the labels alone."""
        probe, seed = self.probe(cell), cell.cell.seeds.probe or 0
        spec = probe.features(self.model.info)
        if spec is None:
            raise CapabilityError(f"probe {cell.probe.ref.name} learns but names no features")
        check_want(self.model.info, spec.outputs(self.model.info.num_blocks))
        is_shuffled = cell.cell.control == "shuffled_labels"
        name = digest([cell.probe.ref.fingerprint, seed, is_shuffled])
        if name not in self._selected:
            labels = self.walk.dataset.dataset.index(_support_split(cell)).labels
            # A reference is one of the images that are asked about: those that the limit leaves.
            among = self.walk.positions() if cell.probe.reference else np.arange(len(labels))
            labels = labels[among]
            orders = [shuffled(labels, p, seed) for p in range(PERMUTATIONS)] if is_shuffled else [labels]
            chosen = [np.asarray(probe.select_support(order, seed), dtype=np.int64) for order in orders]
            positions = among[np.unique(np.concatenate(chosen))]
            if not cell.probe.reference:
                self._check_disjoint(_support_split(cell), positions)
            self._selected[name] = positions
        return spec, self._selected[name]

    def _check_disjoint(self, split: str, positions: npt.NDArray[np.int64]) -> None:
        """Raise :class:`DataError` naming an image that would be both learned from and asked about."""
        dataset = self.walk.dataset.dataset
        ids = dataset.index(split).ids
        support = {ids[int(position)] for position in positions}
        shared = next((name for name in dataset.index(self.walk.split).ids if name in support), None)
        if shared is not None:
            raise DataError(
                f"dataset {dataset.info.name}: image {shared} lies in split {self.walk.split!r}, which is asked about, "
                f"and in split {split!r}, which probes learn from",
                hint="ask about a split that shares no images with it, such as "
                f"--split {dataset.info.query_split}, or repair the dataset",
            )

    def _missing(self, cells: list[PlannedCell]) -> dict[str, _Wanted]:
        """The tables of ``cells`` that are neither at hand nor in the cache; what is in the cache is taken up."""
        missing: dict[str, _Wanted] = {}
        for cell in cells:
            spec, positions = self._selection(cell)
            key = self._table_key(cell, spec, positions)
            name = digest(key)
            if name in self._tables or name in missing:
                continue
            stored = None if self.cache is None else self.cache.get(key)
            if stored is None:
                copies = cell.cell.control == "duplicated_features"
                missing[name] = _Wanted(key=key, spec=spec, duplicated=copies, positions=positions)
            else:
                self.forward.counters.cached_tables += 1
                self._tables[name] = stored
        return missing

    def _extract(self, cell: PlannedCell, missing: Mapping[str, _Wanted], *, keep: bool = True) -> None:
        """One pass over the union of the support images that ``missing`` needs, under the cell's perturbation.

        ``keep``: in the cache, where there is one.
        """
        wanted = _union_of_positions(missing)
        want = union(item.spec.outputs(self.model.info.num_blocks) for item in missing.values())
        writers: dict[str, TableWriter] = {
            name: MemoryWriter() if self.cache is None or not keep else self.cache.writer(item.key)
            for name, item in missing.items()
        }
        self.progress.begin(f"{self.walk.model.ref.name}: support features", len(wanted))
        rows = dict.fromkeys(missing, 0)
        try:
            for batch, outputs in self._perturbed_outputs(cell, wanted, want):
                for name, item in missing.items():
                    inside = np.isin(batch.positions, item.positions)
                    want_of_item = item.spec.outputs(self.model.info.num_blocks)
                    given = duplicated(outputs, want_of_item) if item.duplicated else outputs
                    x = extract(given, item.spec, self.model.info).float().cpu().numpy()
                    writers[name].append(x[inside], batch.positions[inside])
                    rows[name] += int(inside.sum())
                self.progress.advance(len(batch))
            unread = max(len(item.positions) - rows[name] for name, item in missing.items())
            if unread and not cell.probe.reference:
                # Not kept: once those images are repaired, the same key means the whole table.
                raise DataError(
                    f"{unread} of the {len(wanted)} support images that probes chose cannot be read",
                    hint="repair or remove the images that were reported, then run again",
                )
            if unread and keep and self.cache is not None:
                # A reference may lack images that cannot be read, as they are left out where they are asked about; but
                # the cache would give it for the whole one, once they are repaired.
                for writer in writers.values():
                    writer.discard()
                self._extract(cell, missing, keep=False)
                return
            self._tables |= {name: writer.finish() for name, writer in writers.items()}
        except BaseException as error:
            for writer in writers.values():
                writer.discard()
            if is_out_of_memory(error):
                self.batch_size.restore()
            raise
        finally:
            self.progress.end()

    def _perturbed_outputs(
        self, cell: PlannedCell, positions: npt.NDArray[np.int64], want: OutputSpec
    ) -> Iterator[tuple[ImageBatch, Any]]:
        """Support images as the cell's support perturbation leaves them, and the model's outputs on them."""
        perturbation = self._support_perturbation(cell)

        def outputs(batch: ImageBatch) -> tuple[ImageBatch, Any]:
            state, level = perturbation.begin(batch), cell.cell.support_level
            return forward_perturbed(self.forward, self.model, perturbation, batch, state, level, want)

        for consumed, loaded in self._load(_support_split(cell), positions):
            self.forward.counters.skipped_images += consumed - len(loaded)
            if len(loaded):
                yield from as_memory_allows(
                    loaded, self.batch_size, outputs, device=self.forward.device, progress=self.progress
                )

    def _support_perturbation(self, cell: PlannedCell) -> AnyPerturbation:
        component = cell.support
        assert component is not None
        target = self._head_target(component)
        if component.target == "probe":
            target = probe_scores(self.model, self.probe(cell), self._fit_clean(cell))
        seed = cell.cell.seeds.support_perturb or 0
        in_split = len(self.walk.dataset.dataset.index(_support_split(cell)))
        return self._prepare(component, seed, target, num_images=in_split)

    def _load(self, split: str, positions: npt.NDArray[np.int64]) -> Iterator[tuple[int, ImageBatch]]:
        for consumed, batch in load_batches(
            self.walk.dataset.dataset,
            split,
            positions,
            self.walk.view,
            batch_size=self.batch_size,
            workers=self.workers,
        ):
            self.forward.counters.decoded_images += len(batch)
            yield consumed, batch

    # --- fitting

    def _fit(self, cell: PlannedCell) -> FittedProbe:
        probe, info = self.probe(cell), self.walk.dataset.dataset.info
        positions = self.walk.positions()
        context = ProbeContext(
            model=self.model.info,
            classes=info.classes,
            label_space=info.label_space,
            seed=cell.cell.seeds.probe or 0,
            device=self.forward.device,
            query_positions=positions,
            query_labels=self.walk.dataset.dataset.index(self.walk.split).labels[positions],
            network=self.model,
            precision=self.walk.precision,
        )
        if cell.probe.of_model:
            self.progress.note(f"{self.walk.model.ref.name}: {cell.probe.ref.name} measures the model itself")
        if not cell.probe.takes_features:
            return probe.fit(None, context)
        table = self._table(cell)
        if cell.cell.control == "shuffled_labels":
            _, chosen = self._selection(cell)
            return FittedOnShuffles([self._fit_shuffled(probe, table, chosen, context, p) for p in range(PERMUTATIONS)])
        fitted = probe.fit(table, context)
        if cell.cell.control == "duplicated_features":
            return FittedOnDuplicates(fitted, probe.wants(self.model.info))
        return fitted

    def _fit_shuffled(
        self,
        probe: Probe,
        table: FeatureTable,
        positions: npt.NDArray[np.int64],
        context: ProbeContext,
        permutation: int,
    ) -> FittedProbe:
        """The probe fitted on the images that it chooses by labels in the order of ``permutation``.

        ``table`` holds those of every permutation, which lie at ``positions`` (N,) of the support split, rising.
        """
        split = self.walk.dataset.dataset.info.support_split
        assert split is not None, "only probes that learn have this control"
        labels = shuffled(self.walk.dataset.dataset.index(split).labels, permutation, context.seed)
        chosen = np.unique(np.asarray(probe.select_support(labels, context.seed), dtype=np.int64))
        if len(chosen) == len(positions):
            return probe.fit(dataclasses.replace(table, y=labels[chosen]), context)
        rows = np.searchsorted(positions, chosen)
        ids = Ids(table.ids[int(row)] for row in rows)
        return probe.fit(FeatureTable(x=table.x[rows], y=labels[chosen], ids=ids, spec=table.spec), context)

    def _fit_clean(self, cell: PlannedCell) -> FittedProbe:
        """The same probe fitted on clean support images: what a support attack on the probe aims at."""
        clean = self.walk.clean
        parts = dataclasses.replace(
            cell.cell,
            support=clean.ref,
            support_level=None,
            seeds=dataclasses.replace(cell.cell.seeds, support_perturb=None),
        )
        return self._fit(dataclasses.replace(cell, cell=parts, support=clean))

    def _table(self, cell: PlannedCell) -> FeatureTable:
        spec, positions = self._selection(cell)
        name = digest(self._table_key(cell, spec, positions))
        if name not in self._tables and (missing := self._missing([cell])):
            self._extract(cell, missing)
        x, found = self._tables[name].x, self._tables[name].positions
        index = self.walk.dataset.dataset.index(_support_split(cell))
        return FeatureTable(x=x, y=index.labels[found], ids=Ids(index.ids[int(i)] for i in found), spec=spec)


def forward_perturbed(
    forward: Forward,
    model: Model,
    perturbation: AnyPerturbation,
    batch: ImageBatch,
    state: Any,
    level: float | None,
    want: OutputSpec,
) -> tuple[ImageBatch, Any]:
    """The perturbed batch and the model's outputs on it, whatever stage the perturbation acts at."""
    if isinstance(perturbation, ModelPerturbation):
        with perturbation.around(model, batch, state, level) as (surrounded, seen):
            return seen, forward(surrounded, seen.images, want)
    if isinstance(perturbation, Perturbation):
        seen = perturbation.apply(batch, state, level)
        return seen, forward(model, seen.images, want)
    raise HarnessError(f"{type(perturbation).__name__} has neither apply nor around")


def _support_split(cell: PlannedCell) -> str:
    """The split whose images the cell's probe is fitted on."""
    split = cell.cell.support_split
    assert split is not None, "the plan refuses probes that learn where there is no support split"
    return split


def _union_of_positions(missing: Mapping[str, _Wanted]) -> npt.NDArray[np.int64]:
    return np.unique(np.concatenate([item.positions for item in missing.values()]))


def _spec_key(spec: FeatureSpec) -> dict[str, JSONValue]:
    return {
        "pooled": spec.pooled,
        "blocks": spec.blocks,
        "prefix": spec.prefix,
        "mean_patch": spec.mean_patch,
        "norm": spec.norm,
    }
