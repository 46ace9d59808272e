"""Toy probes: pixels seen, the head, a nearest-centroid classifier, agreement with the clean pass; and broken ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from harness.errors import DataError
from harness.metrics import accuracy_measurement
from harness.outcomes import OutcomeLog
from harness.params import param
from harness.protocols import ProbeInfo
from harness.types import FeatureSpec, Measurement, OutputSpec


class LoggedRun:
    """A run over an :class:`OutcomeLog`; subclasses say what they log of a batch."""

    columns: ClassVar[dict] = {"prediction": np.int32, "correct": np.bool_}
    dims: ClassVar[dict] = {}

    def __init__(self, fitted):
        self.fitted = fitted
        self.log = OutcomeLog(variants=(self.dims,), columns=self.columns)

    def classified(self, batch, prediction):
        correct = prediction == batch.labels
        self.log.update(
            batch.positions, {"prediction": prediction.int().numpy()[None], "correct": correct.numpy()[None]}
        )

    def merge(self, other):
        self.log.merge(other.log)

    def result(self):
        return [accuracy_measurement(self.log.table().columns["correct"][0], metric="accuracy", dims=self.dims)]

    def outcomes(self):
        return self.log.table()

    def state_dict(self):
        return self.log.state_dict()

    def load_state_dict(self, state):
        self.log.load_state_dict(state)


class Fitted:
    def __init__(self, run, **given):
        self.run = run
        for name, value in given.items():
            setattr(self, name, value)

    def start(self):
        return self.run(self)

    def scores(self, outputs):
        return None


class _NoSupport:
    def features(self, model):
        return None

    def select_support(self, labels, seed):
        return np.empty(0, np.int64)


class PixelRun(LoggedRun):
    columns: ClassVar[dict] = {"digest": np.int64}

    def update(self, batch, outputs, clean):
        pixels = (batch.images * 255).round().byte().numpy()
        digests = [int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:7], "big") for image in pixels]
        self.log.update(batch.positions, {"digest": np.array([digests])})

    def result(self):
        digests = self.log.table().columns["digest"][0]
        return [Measurement(metric="pixels", value=float(np.mean(digests % 1009)), n=len(digests), unit="hash")]


class PixelProbe(_NoSupport):
    """A digest of each image's 8-bit pixels as the model sees them."""

    info = ProbeInfo(name="pixels", headline="pixels")

    def wants(self, model):
        return OutputSpec(pooled=True)

    def fit(self, support, context):
        return Fitted(PixelRun)


class HeadRun(LoggedRun):
    def update(self, batch, outputs, clean):
        self.classified(batch, outputs.logits["head"].argmax(dim=1))


class FittedHead(Fitted):
    def scores(self, outputs):
        return outputs.logits["head"]


class HeadProbe(_NoSupport):
    info = ProbeInfo(name="toy_head", needs_label_space=True)

    def wants(self, model):
        return OutputSpec(logits=True)

    def fit(self, support, context):
        return FittedHead(HeadRun)


@dataclass(frozen=True, slots=True, kw_only=True)
class CentroidParams:
    shots: int = param(2, help="support images per class", low=1)


class CentroidRun(LoggedRun):
    def __init__(self, fitted):
        self.dims = {"shots": fitted.shots}
        super().__init__(fitted)

    def update(self, batch, outputs, clean):
        self.classified(batch, self.fitted.scores(outputs).argmax(dim=1))


class FittedCentroids(Fitted):
    def scores(self, outputs):
        return -torch.cdist(outputs.pooled.double(), self.centroids)


class CentroidProbe:
    """Nearest class mean of the pooled features of ``shots`` images per class, drawn by the probe's seed.

    ``fits``: (rows, positions' digest of ids) of every fit; ``selections``: seeds it was asked to choose with.
    """

    made: ClassVar[list[CentroidProbe]] = []

    def __init__(self, *, shots=2):
        self.info = ProbeInfo(name="centroid", learns=True, params={"shots": shots})
        self.shots = shots
        self.fits = []
        self.selections = []
        self.made.append(self)

    def wants(self, model):
        return OutputSpec(pooled=True)

    def features(self, model):
        return FeatureSpec(pooled=True)

    def select_support(self, labels, seed):
        self.selections.append(seed)
        generator = np.random.default_rng(seed)
        chosen = [generator.permutation(np.flatnonzero(labels == c))[: self.shots] for c in np.unique(labels)]
        return np.sort(np.concatenate(chosen))

    def fit(self, support, context):
        self.fits.append((list(support.ids), support.x.copy()))
        means = np.stack([support.x[support.y == c].mean(axis=0, dtype=np.float64) for c in np.unique(support.y)])
        return FittedCentroids(CentroidRun, shots=self.shots, centroids=torch.from_numpy(means))


class AgreementRun(LoggedRun):
    def update(self, batch, outputs, clean):
        assert clean is not None
        same = outputs.pooled.argmax(dim=1) == clean.pooled.argmax(dim=1)
        self.log.update(batch.positions, {"prediction": same.int().numpy()[None], "correct": same.numpy()[None]})


class AgreementProbe(_NoSupport):
    """How often the largest feature stays the largest."""

    info = ProbeInfo(name="agreement", compares=True)

    def wants(self, model):
        return OutputSpec(pooled=True)

    def fit(self, support, context):
        return Fitted(AgreementRun)


class BreakingRun(PixelRun):
    def update(self, batch, outputs, clean):
        if int(batch.positions.max()) >= self.fitted.position:
            raise self.fitted.error
        super().update(batch, outputs, clean)


class BreakingProbe(PixelProbe):
    """Raises at the batch that holds ``position``."""

    def __init__(self, error, position=0, name="breaking"):
        self.info = ProbeInfo(name=name)
        self._error, self._position = error, position

    def fit(self, support, context):
        return Fitted(BreakingRun, error=self._error, position=self._position)


class ResultlessRun(PixelRun):
    def result(self):
        raise ArithmeticError("the mean of nothing")


class ResultlessProbe(PixelProbe):
    info = ProbeInfo(name="resultless")

    def fit(self, support, context):
        return Fitted(ResultlessRun)


class PickyProbe(CentroidProbe):
    """Cannot choose its support."""

    def __init__(self):
        super().__init__()
        self.info = ProbeInfo(name="picky", learns=True)

    def select_support(self, labels, seed):
        raise DataError("class star has 6 images, 7 are needed")


class DeepProbe(PixelProbe):
    """Wants a block that the model has not, and does not look first."""

    info = ProbeInfo(name="deep")

    def wants(self, model):
        return OutputSpec(pooled=True, tokens=frozenset({99}))
