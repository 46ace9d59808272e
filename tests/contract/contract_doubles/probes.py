"""Reference probes, and doubles that each break one promise of a probe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch

from contract_doubles.subjects import doubles_of, subject
from harness.entries import ProbeEntry
from harness.errors import CapabilityError
from harness.features import extract, require_features
from harness.outcomes import OutcomeLog
from harness.params import param
from harness.protocols import ProbeInfo
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability, FeatureSpec, Measurement, OutputSpec

POOLED = FeatureSpec(pooled=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTokensParams:
    features: str = param("pooled", help="token ensemble")


class GoodNearestMean:
    """Learns: the class whose mean support feature is nearest."""

    @property
    def info(self):
        return ProbeInfo(name="nearest_mean", learns=True)

    def wants(self, model):
        require_features(POOLED, model)
        return OutputSpec(pooled=True)

    def features(self, model):
        require_features(POOLED, model)
        return POOLED

    def select_support(self, labels, seed):
        return np.arange(len(labels), dtype=np.int64)

    def fit(self, support, context):
        means = [support.x[support.y == label].mean(axis=0) for label in range(len(context.classes))]
        return self.fitted(torch.from_numpy(np.stack(means)))

    def fitted(self, means):
        return GoodFitted(means, self.run)

    def run(self, fitted):
        return GoodRun(fitted)


class GoodFitted:
    def __init__(self, means, run):
        self.means, self.run = means, run

    def start(self):
        return self.run(self)

    def scores(self, outputs):
        return -((outputs.pooled[:, None] - self.means) ** 2).sum(dim=2)


class GoodRun:
    columns = MappingProxyType({"prediction": np.int32, "correct": np.bool_})

    def __init__(self, fitted):
        self.fitted = fitted
        self.log = OutcomeLog(variants=({},), columns=self.columns)

    def predict(self, batch, outputs, clean):
        return self.fitted.scores(outputs).argmax(dim=1)

    def correct(self, batch, outputs, prediction):
        return prediction == batch.labels

    def update(self, batch, outputs, clean):
        prediction = self.predict(batch, outputs, clean)
        correct = self.correct(batch, outputs, prediction)
        self.log.update(batch.positions, {"prediction": prediction.numpy()[None], "correct": correct.numpy()[None]})

    def merge(self, other):
        self.log.merge(other.log)

    def measure(self, value, n):
        return [Measurement(metric="accuracy", value=value, n=n, low=value / 2, high=(1 + value) / 2, interval="loose")]

    def result(self):
        correct = self.outcomes().columns["correct"]
        return self.measure(float(correct.mean()), correct.shape[1])

    def outcomes(self):
        return self.log.table()

    def state_dict(self):
        return self.log.state_dict()

    def load_state_dict(self, state):
        self.log.load_state_dict(state)


class GoodHead:
    """Learns nothing: reads the logits."""

    @property
    def info(self):
        return ProbeInfo(name="own_head", needs_label_space=True)

    def wants(self, model):
        if Capability.LOGITS not in model.capabilities:
            raise CapabilityError("no head")
        return OutputSpec(logits=True)

    def features(self, model):
        return None

    def select_support(self, labels, seed):
        return np.empty(0, np.int64)

    def fit(self, support, context):
        return GoodFittedHead()


class GoodFittedHead:
    def start(self):
        return GoodRun(self)

    def scores(self, outputs):
        return outputs.logits["head"]


class GoodAgreement(GoodHead):
    """Compares: whether the favourite class is still that of the clean image. Predicts no class, gives no scores."""

    @property
    def info(self):
        return ProbeInfo(name="agreement", compares=True, headline="agreement")

    def fit(self, support, context):
        return GoodFittedAgreement()


class GoodFittedAgreement:
    def start(self):
        return GoodAgreementRun()

    def scores(self, outputs):
        return None


class GoodAgreementRun(GoodRun):
    columns = MappingProxyType({"agrees": np.bool_})

    def __init__(self):
        super().__init__(None)

    def update(self, batch, outputs, clean):
        agrees = outputs.logits["head"].argmax(dim=1) == clean.logits["head"].argmax(dim=1)
        self.log.update(batch.positions, {"agrees": agrees.numpy()[None]})

    def result(self):
        agrees = self.outcomes().columns["agrees"]
        return [Measurement(metric="agreement", value=float(agrees.mean()), n=agrees.shape[1])]


class GoodOnTokens(GoodNearestMean):
    """Nearest mean on any token ensemble."""

    def __init__(self, *, features="pooled"):
        self.ensemble = TokenEnsemble.parse(features)

    @property
    def info(self):
        return ProbeInfo(name="on_tokens", learns=True, params={"features": self.ensemble.text})

    def wants(self, model):
        return self.features(model).outputs(model.num_blocks)

    def features(self, model):
        spec = self.ensemble.spec(model)
        require_features(spec, model)
        return spec

    def fit(self, support, context):
        self.model = context.model
        return super().fit(support, context)

    def fitted(self, means):
        return FittedOnTokens(means, self.run, self)


class FittedOnTokens(GoodFitted):
    def __init__(self, means, run, probe):
        super().__init__(means, run)
        self.spec, self.model = probe.features(probe.model), probe.model

    def scores(self, outputs):
        return -((extract(outputs, self.spec, self.model)[:, None] - self.means) ** 2).sum(dim=2)


# --- needs and support ---


class ReadsThePooledVectorAnyway(GoodOnTokens):
    def __init__(self, *, features="pooled"):
        super().__init__(features="pooled")


class MapsInNameOnly(GoodHead):
    """Reads the first classes of the head, whatever they mean."""

    @property
    def info(self):
        return ProbeInfo(name="own_head", needs_label_space=True, maps_labels=True)

    def fit(self, support, context):
        return FirstClasses(len(context.classes))


class FirstClasses(GoodFittedHead):
    def __init__(self, classes):
        self.classes = classes

    def scores(self, outputs):
        return outputs.logits["head"][:, : self.classes]


class NamesNoSuchParameter(GoodNearestMean):
    pass


class AsksWithoutLooking(GoodNearestMean):
    def wants(self, model):
        return OutputSpec(pooled=True)

    def features(self, model):
        return POOLED


class AsksForMore(GoodNearestMean):
    def wants(self, model):
        return super().wants(model) | OutputSpec(attention=frozenset({0}))


class SelectsWithReplacement(GoodNearestMean):
    def select_support(self, labels, seed):
        return np.concatenate([np.arange(len(labels)), np.arange(2)])


class SelectsPositionsAsFloats(GoodNearestMean):
    def select_support(self, labels, seed):
        return np.arange(len(labels) - 1, dtype=np.int32)


class SelectsFromTheGlobalGenerator(GoodNearestMean):
    def select_support(self, labels, seed):
        return np.random.permutation(len(labels))  # noqa: NPY002  # what is to be found


# --- fitting ---


class FitsAtRandom(GoodNearestMean):
    fitted_so_far = 0

    def fit(self, support, context):
        type(self).fitted_so_far += 1
        noise = np.random.default_rng(self.fitted_so_far).normal(scale=1, size=support.x.shape)
        return super().fit(replace(support, x=(support.x + noise).astype(np.float32)), context)


class CentresTheSupportInPlace(GoodNearestMean):
    def fit(self, support, context):
        fitted = super().fit(support, context)
        np.subtract(support.x, support.x.mean(axis=0), out=support.x)
        return fitted


class UsesTheSeedInSecret(GoodNearestMean):
    def fit(self, support, context):
        noise = np.random.default_rng(context.seed).normal(scale=1, size=support.x.shape)
        return super().fit(replace(support, x=(support.x + noise).astype(np.float32)), context)


class RegressesTheClassNumber(GoodNearestMean):
    """Takes class 3 to lie between class 2 and class 4, on three features."""

    def fit(self, support, context):
        x = np.concatenate([support.x[:, :3], np.ones((len(support), 1), np.float32)], axis=1)
        slope = np.linalg.lstsq(x, support.y.astype(np.float32), rcond=None)[0]
        return FittedRegression(torch.from_numpy(slope), len(context.classes))


class FittedRegression(GoodFitted):
    def __init__(self, slope, classes):
        super().__init__(slope, GoodRun)
        self.classes = classes

    def scores(self, outputs):
        number = outputs.pooled[:, :3] @ self.means[:3] + self.means[3]
        return -((number[:, None] - torch.arange(self.classes)) ** 2)


class _Detached(GoodFitted):
    def scores(self, outputs):
        return super().scores(outputs).detach()


class DetachedScores(GoodNearestMean):
    def fitted(self, means):
        return _Detached(means, self.run)


class _OneMore(GoodFitted):
    def scores(self, outputs):
        return torch.nn.functional.pad(super().scores(outputs), (0, 1), value=-1e9)


class ScoresOfOneClassTooMany(GoodNearestMean):
    def fitted(self, means):
        return _OneMore(means, self.run)


# --- runs ---


class _SharedLog(GoodFitted):
    def __init__(self, means, run):
        super().__init__(means, run)
        self.only = run(self)

    def start(self):
        return self.only


class SharesItsCounters(GoodNearestMean):
    def fitted(self, means):
        return _SharedLog(means, self.run)


class _ForgetfulMerge(GoodRun):
    def merge(self, other):
        pass


class MergesNothing(GoodNearestMean):
    def run(self, fitted):
        return _ForgetfulMerge(fitted)


class _MeanOfMeans(GoodRun):
    def __init__(self, fitted):
        super().__init__(fitted)
        self.means = []

    def update(self, batch, outputs, clean):
        super().update(batch, outputs, clean)
        prediction = self.predict(batch, outputs, clean)
        self.means.append(float((prediction == batch.labels).double().mean()))

    def merge(self, other):
        super().merge(other)
        self.means += other.means

    def result(self):
        return self.measure(float(np.mean(sorted(self.means))), len(self.outcomes().positions))

    def state_dict(self):
        return {**super().state_dict(), "means": np.array(self.means)}

    def load_state_dict(self, state):
        self.means = state["means"].tolist()
        super().load_state_dict({name: array for name, array in state.items() if name != "means"})


class AveragesBatchAverages(GoodNearestMean):
    def run(self, fitted):
        return _MeanOfMeans(fitted)


class _ForgetfulState(GoodRun):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "column.correct": np.zeros_like(state["column.correct"])})


class ForgetsOnResume(GoodNearestMean):
    def run(self, fitted):
        return _ForgetfulState(fitted)


class _NoEmptyState(GoodRun):
    def state_dict(self):
        state = super().state_dict()
        state["positions"].max()
        return state


class CannotSaveNothing(GoodNearestMean):
    def run(self, fitted):
        return _NoEmptyState(fitted)


class _InPlace(GoodRun):
    def predict(self, batch, outputs, clean):
        outputs.pooled.div_(outputs.pooled.norm(dim=1, keepdim=True))
        return super().predict(batch, outputs, clean)


class NormalisesOutputsInPlace(GoodNearestMean):
    def run(self, fitted):
        return _InPlace(fitted)


class _Leaky(GoodRun):
    def predict(self, batch, outputs, clean):
        prediction = super().predict(batch, outputs, clean)
        prediction[::4] = batch.labels[::4]
        return prediction


class PeeksAtLabels(GoodNearestMean):
    def run(self, fitted):
        return _Leaky(fitted)


class LearnsWhatItIsAskedAbout(GoodNearestMean):
    """Leans towards the class that most images asked about are of."""

    def fit(self, support, context):
        self.favourite = int(context.query_labels[0])
        return super().fit(support, context)

    def run(self, fitted):
        run = _Favouring(fitted)
        run.favourite = self.favourite
        return run


class _Favouring(GoodRun):
    def predict(self, batch, outputs, clean):
        scores = self.fitted.scores(outputs)
        scores[:, self.favourite] += (self.fitted.means**2).sum(dim=1).mean()
        return scores.argmax(dim=1)


class _EpisodesInPercent(GoodRun):
    def outcomes(self):
        table = super().outcomes()
        return replace(table, episodes=100 * table.columns["correct"].mean(axis=1, keepdims=True))


class CountsEpisodesInPercent(GoodNearestMean):
    def run(self, fitted):
        return _EpisodesInPercent(fitted)


class _Percent(GoodRun):
    def measure(self, value, n):
        return super().measure(100 * value, n)


class ReportsPercent(GoodNearestMean):
    def run(self, fitted):
        return _Percent(fitted)


class _UpsideDown(GoodRun):
    def measure(self, value, n):
        return [replace(m, low=m.high, high=m.low) for m in super().measure(value, n)]


class IntervalUpsideDown(GoodNearestMean):
    def run(self, fitted):
        return _UpsideDown(fitted)


class _Twice(GoodRun):
    def measure(self, value, n):
        return super().measure(value, n) * 2


class SameRowTwice(GoodNearestMean):
    def run(self, fitted):
        return _Twice(fitted)


class _Backwards(GoodRun):
    def outcomes(self):
        table = super().outcomes()
        columns = {name: column[:, ::-1] for name, column in table.columns.items()}
        return replace(table, positions=table.positions[::-1], columns=columns)


class OutcomesBackwards(GoodNearestMean):
    def run(self, fitted):
        return _Backwards(fitted)


class _TopTwo(GoodRun):
    def correct(self, batch, outputs, prediction):
        best = self.fitted.scores(outputs).topk(3, dim=1).indices
        return (best == batch.labels[:, None]).any(dim=1) & (prediction != batch.labels)


class CountsOtherThingsAsCorrect(GoodNearestMean):
    def run(self, fitted):
        return _TopTwo(fitted)


NEAREST_MEAN = ProbeEntry(
    name="nearest_mean",
    target=f"{__name__}:GoodNearestMean",
    summary="nearest class mean",
    learns=True,
    needs=frozenset({Capability.POOLED}),
)
HEAD = ProbeEntry(
    name="own_head",
    target=f"{__name__}:GoodHead",
    summary="the model's own head",
    needs=frozenset({Capability.LOGITS}),
    needs_label_space=True,
)
AGREEMENT = ProbeEntry(
    name="agreement",
    target=f"{__name__}:GoodAgreement",
    summary="agreement with the clean prediction",
    compares=True,
    needs=frozenset({Capability.LOGITS}),
    headline="agreement",
)

ON_TOKENS = ProbeEntry(
    name="on_tokens",
    target=f"{__name__}:GoodOnTokens",
    summary="nearest class mean of a token ensemble",
    params=OnTokensParams,
    learns=True,
    needs=frozenset({Capability.POOLED}),
    features_param="features",
)

REFERENCES = {
    "GoodNearestMean": subject(NEAREST_MEAN),
    "GoodOnTokens": subject(ON_TOKENS),
    "GoodHead": subject(HEAD),
    "GoodAgreement": subject(AGREEMENT),
}
DOUBLES = doubles_of(
    NEAREST_MEAN,
    AsksWithoutLooking,
    AsksForMore,
    SelectsWithReplacement,
    SelectsPositionsAsFloats,
    SelectsFromTheGlobalGenerator,
    FitsAtRandom,
    CentresTheSupportInPlace,
    UsesTheSeedInSecret,
    RegressesTheClassNumber,
    DetachedScores,
    ScoresOfOneClassTooMany,
    SharesItsCounters,
    MergesNothing,
    AveragesBatchAverages,
    ForgetsOnResume,
    CannotSaveNothing,
    NormalisesOutputsInPlace,
    PeeksAtLabels,
    ReportsPercent,
    IntervalUpsideDown,
    SameRowTwice,
    OutcomesBackwards,
    CountsOtherThingsAsCorrect,
    LearnsWhatItIsAskedAbout,
    CountsEpisodesInPercent,
)
DOUBLES |= doubles_of(replace(HEAD, maps_labels=True), MapsInNameOnly)
DOUBLES |= doubles_of(ON_TOKENS, ReadsThePooledVectorAnyway)
DOUBLES |= doubles_of(replace(NEAREST_MEAN, features_param="tokens"), NamesNoSuchParameter)
