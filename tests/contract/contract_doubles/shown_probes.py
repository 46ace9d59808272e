"""A reference probe that centres by a reference and has an exhibit, and doubles that each break a promise of these."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure

from contract_doubles.subjects import subject
from harness.entries import ProbeEntry
from harness.exhibits import Exhibit, Table
from harness.features import require_features
from harness.outcomes import OutcomeLog
from harness.protocols import ProbeInfo
from harness.types import Capability, FeatureSpec, Measurement, OutputSpec

POOLED = FeatureSpec(pooled=True)
SHOWN = 2


class GoodShown:
    """How long the pooled vector is without the mean over the images; it shows the vectors of two images."""

    @property
    def info(self):
        return ProbeInfo(name="shown", reference=True, headline="length")

    def wants(self, model):
        require_features(POOLED, model)
        return OutputSpec(pooled=True)

    def features(self, model):
        require_features(POOLED, model)
        return POOLED

    def select_support(self, labels, seed):
        return np.arange(0, len(labels), 2, dtype=np.int64)

    def fit(self, support, context):
        return GoodFitted(support.x.mean(axis=0), self.run)

    def run(self, fitted):
        return GoodRun(fitted)


class ChoosesItsReferenceByLabel(GoodShown):
    def select_support(self, labels, seed):
        return np.flatnonzero(labels == labels[0])


class CentresByOneClass(GoodShown):
    def fit(self, support, context):
        return GoodFitted(support.x[support.y == 0].mean(axis=0), self.run)


class GoodFitted:
    def __init__(self, mean, run):
        self.mean, self.run = mean, run

    def start(self):
        return self.run(self)

    def scores(self, outputs):
        return None


class GoodRun:
    def __init__(self, fitted):
        self.fitted = fitted
        self.log = OutcomeLog(variants=({},), columns={"length": np.float32})
        self.vectors, self.positions = np.empty((0, len(fitted.mean)), np.float32), np.empty(0, np.int64)

    def update(self, batch, outputs, clean):
        vectors = (outputs.pooled - torch.from_numpy(self.fitted.mean)).numpy()
        self.log.update(batch.positions, {"length": np.linalg.norm(vectors, axis=1)[None]})
        self.keep(vectors, batch.positions)

    def keep(self, vectors, positions):
        everything = np.concatenate([self.positions, positions])
        order = np.argsort(everything)[:SHOWN]
        self.vectors = np.concatenate([self.vectors, vectors])[order]
        self.positions = everything[order]

    def merge(self, other):
        self.log.merge(other.log)
        self.keep(other.vectors, other.positions)

    def result(self):
        values = self.outcomes().columns["length"][0]
        return [Measurement(metric="length", value=float(values.mean(dtype=np.float64)), n=len(values), unit="length")]

    def outcomes(self):
        return self.log.table()

    def arrays(self):
        return {"vectors": self.vectors, "positions": self.positions}

    def state_dict(self):
        return {**self.log.state_dict(), "shown.vectors": self.vectors, "shown.positions": self.positions}

    def load_state_dict(self, state):
        self.vectors, self.positions = state["shown.vectors"], state["shown.positions"]
        self.log.load_state_dict({name: values for name, values in state.items() if not name.startswith("shown.")})


class _LastBatch(GoodRun):
    def keep(self, vectors, positions):
        self.vectors, self.positions = vectors[:SHOWN], positions[:SHOWN]


class ShowsTheLastBatch(GoodShown):
    def run(self, fitted):
        return _LastBatch(fitted)


class _Everything(GoodRun):
    def keep(self, vectors, positions):
        everything = np.concatenate([self.positions, positions])
        order = np.argsort(everything)
        self.vectors, self.positions = np.concatenate([self.vectors, vectors])[order], everything[order]


class ShowsEveryImage(GoodShown):
    def run(self, fitted):
        return _Everything(fitted)


def exhibit(findings):
    figure = Figure()
    axes = figure.subplots()
    for finding in findings:
        axes.plot(finding.arrays["vectors"].T, label=finding.label)
    rows = [(finding.model, finding.condition, finding.record.get("length").value) for finding in findings]
    return Exhibit(pictures={"": figure}, tables={"": Table(header=("model", "condition", "length"), rows=rows)})


def exhibit_of_the_first_model(findings):
    return exhibit([finding for finding in findings if finding.model == findings[0].model])


def exhibit_with_short_rows(findings):
    made = exhibit(findings)
    return replace(made, tables={"": replace(made.tables[""], rows=[row[:2] for row in made.tables[""].rows])})


def exhibit_in_pyplot(findings):
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    pyplot.figure()
    return exhibit(findings)


def exhibit_that_scales_in_place(findings):
    for finding in findings:
        finding.arrays["vectors"][:] /= 1 + np.abs(finding.arrays["vectors"]).max()
    return exhibit(findings)


SHOWN_ENTRY = ProbeEntry(
    name="shown",
    target=f"{__name__}:GoodShown",
    summary="length of the centred vector",
    reference=True,
    needs=frozenset({Capability.POOLED}),
    headline="length",
    exhibit=f"{__name__}:exhibit",
)

REFERENCES = {"GoodShown": subject(SHOWN_ENTRY)}
DOUBLES = {
    cls.__name__: subject(replace(SHOWN_ENTRY, target=f"{__name__}:{cls.__name__}"))
    for cls in (ChoosesItsReferenceByLabel, CentresByOneClass, ShowsTheLastBatch, ShowsEveryImage)
}
DOUBLES |= {
    function.__name__: subject(replace(SHOWN_ENTRY, exhibit=f"{__name__}:{function.__name__}"))
    for function in (
        exhibit_of_the_first_model,
        exhibit_with_short_rows,
        exhibit_in_pyplot,
        exhibit_that_scales_in_place,
    )
}
