"""A plugin of some references and one double, under names that a test asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.entries import PerturbationEntry, ProbeEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability, LevelSpec

DIMMING = PerturbationEntry(
    name="dimming",
    target="contract_doubles.perturbations:GoodDimming",
    summary="every pixel scaled down",
    level=LevelSpec(name="factor", values=(0.0, 0.25, 0.5), low=0, high=1, identity=0.0),
)
HEAD = ProbeEntry(
    name="own_head",
    target="contract_doubles.probes:GoodHead",
    summary="the model's own head",
    needs=frozenset({Capability.LOGITS}),
    needs_label_space=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TintParams:
    tint: float = param(0.5, help="colour of the light", low=0, high=1)


@hookimpl
def harness_register_perturbations():
    yield DIMMING
    yield replace(DIMMING, name="tint", target="contract_doubles.entries:GoodTint", params=TintParams)
    yield replace(DIMMING, name="fading", target="contract_doubles.perturbations:StrengthUpsideDown")
    yield replace(DIMMING, name="twice")


@hookimpl
def harness_register_probes():
    yield HEAD
    yield replace(HEAD, name="twice")
