"""Doubles whose entry, and not whose component, breaks a promise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from contract_doubles.perturbations import DIMMING, FACTOR, GoodDimming
from contract_doubles.subjects import subject
from harness.entries import SummaryEntry
from harness.params import param
from harness.types import Measurement


@dataclass(frozen=True, kw_only=True)
class TintParams:
    tint: float = param(0.5, help="colour of the light", low=0, high=1)


class GoodTint(GoodDimming):
    """With a parameter, which its entry declares."""

    def __init__(self, *, tint: float = 0.5):
        self.tint = tint


class TakesAnything(GoodDimming):
    def __init__(self, **options):
        self.options = options


class TakesAnotherName(GoodDimming):
    def __init__(self, *, colour: float = 0.5, tint: float = 0.5, weights=None):
        self.tint = tint + colour


class DefaultsDiffer(GoodDimming):
    def __init__(self, *, tint: float = 0.25):
        self.tint = tint


@dataclass(frozen=True, kw_only=True)
class OutOfRangeParams:
    tint: float = param(2.0, help="colour of the light", low=0, high=1)


class OutOfRange(GoodDimming):
    def __init__(self, *, tint: float = 2.0):
        self.tint = tint


@dataclass(frozen=True, kw_only=True)
class SilentParams:
    tint: float = param(0.5, help=" ")


class GoodSummary:
    def compute(self, group, clean):
        return [Measurement(metric="count", value=float(len(group)), n=len(group))]


def _tint(cls: type, params: type = TintParams):
    return subject(replace(DIMMING, target=f"{__name__}:{cls.__name__}", params=params))


SUMMARY = SummaryEntry(name="count", target=f"{__name__}:GoodSummary", summary="how many records there are")

REFERENCES = {"GoodTint": _tint(GoodTint), "GoodSummary": subject(SUMMARY)}
DOUBLES = {
    "TakesAnything": _tint(TakesAnything),
    "TakesAnotherName": _tint(TakesAnotherName),
    "DefaultsDiffer": _tint(DefaultsDiffer),
    "OutOfRange": _tint(OutOfRange, OutOfRangeParams),
    "Silent": _tint(GoodTint, SilentParams),
    "MissingTarget": subject(replace(DIMMING, target=f"{__name__}:Nowhere")),
    "MissingModule": subject(replace(DIMMING, target="contract_doubles.nowhere:Nothing")),
    "HeavyDescriptor": subject(DIMMING, plugin="contract_doubles.heavy_plugin"),
    "BrokenDescriptor": subject(DIMMING, plugin="contract_doubles.no_such_plugin"),
    "SourceIsNoModelParameter": subject(replace(DIMMING, source_param="factor")),
    "UnknownTargetParameter": subject(replace(DIMMING, target_param="aim", model_params=("saliency",))),
    "WrongLevelInEntry": subject(replace(DIMMING, level=replace(FACTOR, high=2))),
}
