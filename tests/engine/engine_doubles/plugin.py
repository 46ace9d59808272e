"""The doubles that are asked for by name, as a plugin."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine_doubles.models import GIVES, SPACE, VIEW
from engine_doubles.perturbations import EPS, SHARE, SIGMA, GuidedParams, SignStepParams
from engine_doubles.probes import CentroidParams
from harness.entries import DatasetEntry, ModelEntry, PerturbationEntry, ProbeEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability, LevelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyParams:
    net: int = param(0, help="which of the tiny networks")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressedParams:
    url: str | None = param(None, help="where its weights are")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedParams:
    grade: int = param(1, help="how strong", low=1, high=3)


GRADES = LevelSpec(name="grade", values=(1, 2, 3), low=1, high=3, whole=True)


def _model(name, target, params=TinyParams, space=SPACE, gives=GIVES):
    return ModelEntry(
        name=name,
        target=f"engine_doubles.models:{target}",
        summary="a double",
        view=VIEW,
        label_space=space,
        capabilities=gives,
        **({} if params is None else {"params": params}),
    )


@hookimpl
def harness_register_models():
    yield _model("tiny", "make_tiny")
    yield _model("headless", "make_headless", None, None, GIVES - {Capability.LOGITS})
    yield _model("elsewhere", "make_elsewhere", None, "imagenet1k")
    yield _model("unbuildable", "make_unbuildable", None)
    yield _model("weightless", "make_weightless", None)
    yield replace(_model("unpublished", "make_unpublished", AddressedParams), url_param="url")


def _perturbation(name, cls, **given):
    return PerturbationEntry(
        name=name, target=f"engine_doubles.perturbations:{cls}", summary="a double", **{"level": SHARE, **given}
    )


@hookimpl
def harness_register_perturbations():
    yield _perturbation("dimmed", "Dimmed")
    yield _perturbation("holed", "Holed", stochastic=True)
    yield _perturbation("speckled", "Speckled", stochastic=True, level=SIGMA)
    yield _perturbation(
        "signstep",
        "SignStep",
        needs_target=True,
        target_param="aim",
        source_param="source",
        model_params=("source",),
        level=EPS,
        params=SignStepParams,
    )
    yield _perturbation("smeared", "Dimmed", baselined=True)
    yield _perturbation("guided", "Guided", model_params=("guide",), params=GuidedParams)
    yield _perturbation("muffled", "Muffled", stage="model")


def _probe(name, cls, **given):
    return ProbeEntry(
        name=name,
        target=f"engine_doubles.probes:{cls}",
        summary="a double",
        **{"needs": frozenset({Capability.POOLED}), **given},
    )


@hookimpl
def harness_register_probes():
    yield _probe("pixels", "PixelProbe", headline="pixels")
    yield _probe("toy_head", "HeadProbe", needs=frozenset({Capability.LOGITS}), needs_label_space=True)
    yield _probe("centroid", "CentroidProbe", learns=True, stochastic=True, params=CentroidParams)
    yield _probe("agreement", "AgreementProbe", compares=True)


@hookimpl
def harness_register_datasets():
    yield DatasetEntry(
        name="graded",
        target="engine_doubles.data:make_graded",
        summary="a double",
        label_space=SPACE,
        params=GradedParams,
        level=GRADES,
        level_param="grade",
        baselined=True,
    )
    yield DatasetEntry(name="tints", target="engine_doubles.data:make_tints", summary="a double", label_space=SPACE)
