"""A probe put to work on the kit's small transformer: support images selected, fitted, and batches to ask about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from harness.features import extract
from harness.protocols import FittedProbe, Outcomes, Probe, ProbeContext, ProbeRun
from harness.testing.kit import SampleOptions, Subject, expect
from harness.testing.sample import TinyModel, sample_batch, take_images, take_outputs, tiny_model
from harness.types import FeatureTable, ImageBatch, ModelOutputs

QUERY_PER_CLASS = 17
_QUERY_START = 100_000
_MISLABELLED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One batch as a probe's run is given it."""

    batch: ImageBatch
    outputs: ModelOutputs
    clean: ModelOutputs | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTrial:
    """A probe with what it needs to be fitted and asked; ``relabel`` renames class c to ``relabel[c]`` throughout."""

    probe: Probe
    model: TinyModel
    sample: SampleOptions
    relabel: npt.NDArray[np.int64]

    def support_labels(self) -> npt.NDArray[np.int64]:
        """Labels of the support split: every class in turn."""
        return self.relabel[np.arange(self.sample.classes * self.sample.support_per_class) % self.sample.classes]

    def select(self, seed: int = 0) -> npt.NDArray[np.int64]:
        """The probe's choice of support positions, or among the query images for one that takes a reference."""
        labels = self.query_batch().labels.numpy() if self.probe.info.reference else self.support_labels()
        return self.probe.select_support(labels, seed)

    def table(self, selected: npt.NDArray[np.int64]) -> FeatureTable | None:
        """Features of the selected images; None for a probe that is fitted on none."""
        spec = self.probe.features(self.model.info)
        if spec is None:
            return None
        if self.probe.info.reference:
            batch = take_images(self.query_batch(), selected.tolist())
            outputs = self.model.outputs(batch.images, spec.outputs(self.model.info.num_blocks))
            x = extract(outputs, spec, self.model.info).numpy().astype(np.float32)
            return FeatureTable(x=x, y=batch.labels.numpy(), ids=batch.ids, spec=spec)
        originals = [int(position) % self.sample.classes for position in selected]
        batches = [
            sample_batch([label], side_px=self.model.info.input_size, start=int(position))
            for label, position in zip(originals, selected, strict=True)
        ]
        images = torch.cat([batch.images for batch in batches]) if batches else torch.empty(0, 3, 32, 32)
        outputs = self.model.outputs(images, spec.outputs(self.model.info.num_blocks))
        return FeatureTable(
            x=extract(outputs, spec, self.model.info).numpy().astype(np.float32),
            y=self.support_labels()[selected],
            ids=[batch.ids[0] for batch in batches],
            spec=spec,
        )

    def fit(self, seed: int = 0) -> FittedProbe:
        """Select, extract and fit."""
        table = self.table(self.select(seed)) if self.takes_features else None
        return self.probe.fit(table, self.context(seed))

    @property
    def takes_features(self) -> bool:
        """Whether the probe is fitted on features of images."""
        return self.probe.info.learns or self.probe.info.reference

    def context(self, seed: int = 0) -> ProbeContext:
        """What ``fit`` may know."""
        names = [""] * self.sample.classes
        for original, label in enumerate(self.relabel.tolist()):
            names[label] = f"class {original}"
        batch = self.query_batch()
        return ProbeContext(
            model=self.model.info,
            classes=tuple(names),
            label_space=self.sample.label_space,
            seed=seed,
            query_positions=batch.positions,
            query_labels=batch.labels.numpy(),
            device=torch.device("cpu"),
            network=self.model,
        )

    def query_batch(self) -> ImageBatch:
        """All query images, clean.

        Every fifth image is labelled as the next class: with a score of 1.0 throughout, nothing could be told apart.
        """
        originals = [i % self.sample.classes for i in range(QUERY_PER_CLASS * self.sample.classes)]
        clean = sample_batch(originals, side_px=self.model.info.input_size)
        # Positions from 0, as a split's are, but ids and textures that no support image has.
        other = sample_batch(originals, side_px=self.model.info.input_size, start=_QUERY_START)
        labels = [(c + (i % _MISLABELLED == 0)) % self.sample.classes for i, c in enumerate(originals)]
        return replace(other, positions=clean.positions, labels=torch.from_numpy(self.relabel[labels]))

    def query(self) -> Query:
        """All query images in one batch; those of a probe that compares differ from the clean ones it also sees.

        A quarter of every image is said to be taken away, so that there is something to tell apart.
        """
        clean = self.query_batch()
        taken = torch.zeros(len(clean), *clean.images.shape[2:], dtype=torch.bool)
        taken[:, : taken.shape[1] // 2, : taken.shape[2] // 2] = True
        clean = replace(clean, taken=taken)
        batch = clean.with_images(0.8 * clean.images) if self.probe.info.compares else clean
        want = self.probe.wants(self.model.info)
        return Query(
            batch=batch,
            outputs=self.model.outputs(batch.images, want),
            clean=self.model.outputs(clean.images, want) if self.probe.info.compares else None,
        )


def probe_trial(subject: Subject, *, relabel: npt.NDArray[np.int64] | None = None) -> ProbeTrial:
    """A fresh probe, ready to be fitted on generated images of classes that look different."""
    sample = subject.sample
    return ProbeTrial(
        probe=cast(Probe, subject.make()),
        model=tiny_model(classes=sample.classes, label_space=sample.label_space),
        sample=sample,
        relabel=np.arange(sample.classes) if relabel is None else relabel,
    )


def rows_of(query: Query, rows: Sequence[int]) -> Query:
    """The part of a query at ``rows``, outputs included: the model is not asked again."""
    return Query(
        batch=take_images(query.batch, rows),
        outputs=take_outputs(query.outputs, rows),
        clean=None if query.clean is None else take_outputs(query.clean, rows),
    )


def split(query: Query, size: int) -> list[Query]:
    """A query in batches of ``size``."""
    n = len(query.batch)
    return [rows_of(query, range(start, min(start + size, n))) for start in range(0, n, size)]


def run_over(fitted: FittedProbe, queries: Sequence[Query]) -> ProbeRun:
    """A run that has seen ``queries``."""
    run = fitted.start()
    for query in queries:
        run.update(query.batch, query.outputs, query.clean)
    return run


def expect_equal_outcomes(expected: Outcomes, found: Outcomes, *, tolerance: float, what: str) -> None:
    """Raise unless both hold the same rows; floating-point columns may differ by ``tolerance``."""
    expect(np.array_equal(expected.positions, found.positions), f"{what}: expected the same positions, found others")
    expect(
        expected.variants == found.variants, f"{what}: expected variants {expected.variants}, found {found.variants}"
    )
    expect(
        set(expected.columns) == set(found.columns),
        f"{what}: expected the columns {sorted(expected.columns)}, found {sorted(found.columns)}",
    )
    expect(
        _equal_or_none(expected.episodes, found.episodes, tolerance),
        f"{what}: expected the same accuracies of episodes, found others",
    )
    for name, column in expected.columns.items():
        other = found.columns[name]
        if column.dtype.kind == "f" and column.shape == other.shape:
            same = bool(np.allclose(column, other, rtol=tolerance, atol=tolerance, equal_nan=True))
        else:
            same = np.array_equal(column, other)
        expect(same, f"{what}: expected the same outcomes, found others in column {name!r}")


def _equal_or_none(
    expected: npt.NDArray[np.float64] | None, found: npt.NDArray[np.float64] | None, tolerance: float
) -> bool:
    if expected is None or found is None:
        return expected is found
    return expected.shape == found.shape and np.allclose(expected, found, rtol=0, atol=tolerance, equal_nan=True)
