"""The descriptor of the linear probe: what its parameters refuse before anything is decoded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.errors import ParameterError
from harness.params import canonical, coerce, identity
from harness_probes.linear import LinearParams, harness_register_probes
from harness_probes.linear_probe import LinearProbe
from harness_probes.recipes import RECIPES


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    assert (entry.name, entry.learns, entry.stochastic, entry.features_param) == ("linear", True, True, "features")
    params = coerce(entry.params, {"solver": "sgd", "learning_rates": "0.1+1", "seeds": "2"}, "linear")
    probe = LinearProbe(solver="sgd", learning_rates=(0.1, 1.0), seeds=2)
    assert probe.info.params == canonical(params)
    assert (probe.info.name, probe.info.version) == (entry.name, entry.version)
    assert LinearProbe().info.params == canonical(LinearParams())
    assert identity(LinearParams()) == {}


def test_the_descriptor_imports_nothing_heavy():
    code = "import sys, harness_probes.linear; print(*{'torch', 'numpy', 'sklearn', 'faiss'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_features_are_made_canonical():
    assert LinearParams(features="cls/last4").features == "ensemble4"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"solver": "sgd", "c": (1.0,)}, "c says nothing with solver=sgd"),
        ({"solver": "ridge", "standardise": False}, "standardise says nothing with solver=ridge"),
        ({"solver": "ridge", "iterations": 5}, "iterations says nothing with solver=ridge"),
        ({"recipe": "dinov2"}, "recipe says nothing with solver=logistic"),
        ({"epochs": 3}, "epochs says nothing with solver=logistic"),
        ({"batch_size": 3}, "batch_size says nothing with solver=logistic"),
        ({"learning_rates": (0.1,)}, "learning_rates says nothing with solver=logistic"),
        ({"solver": "ridge", "selection": "last"}, "selection says nothing with solver=ridge"),
        ({"ridge_lambda": 1.0}, "ridge_lambda says nothing with solver=logistic"),
        ({"compat": True}, "compat says nothing with solver=logistic"),
        ({"solver": "sgd", "compat": True}, "compat=true says nothing without selection=best_test"),
        ({"c": (1.0,), "validation": 0.3}, "validation=0.3 says nothing"),
        ({"solver": "sgd", "validation": 0.3}, "validation=0.3 says nothing"),
        ({"solver": "ridge", "ridge_lambda": 2.0, "validation": 0.3}, "validation=0.3 says nothing"),
        ({"c": (1.0, 0.1)}, "c must be numbers that rise"),
        ({"c": ()}, "c must be numbers that rise, not nothing"),
        ({"solver": "sgd", "learning_rates": (1.0, 1.0)}, "learning_rates must be numbers that rise"),
    ],
)
def test_parameters_that_would_not_be_read_are_refused(given, message):
    with pytest.raises(ParameterError, match=message) as caught:
        LinearProbe(**given)
    assert caught.value.hint


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_best_on_the_test_images_is_refused_without_compat(recipe):
    with pytest.raises(ParameterError, match="needs compat=true, since it chooses on the images it is measured on"):
        LinearProbe(solver="sgd", recipe=recipe, selection="best_test")
    LinearProbe(solver="sgd", recipe=recipe, selection="best_test", compat=True)


def test_validation_is_read_wherever_something_is_chosen():
    LinearProbe(validation=0.3)
    LinearProbe(validation=0.3, solver="ridge")
    LinearProbe(validation=0.3, solver="sgd", recipe="dinov2")
    LinearProbe(validation=0.3, solver="sgd", selection="best_val")


def test_recipes_hold_the_published_constants():
    dino, dinov2, ipvit = (RECIPES[name] for name in ("dino", "dinov2", "ipvit"))
    assert (dino.optimiser, dino.learning_rates, dino.scaled) == ("sgd", (0.001,), True)
    assert (dino.decay, dino.epochs, dino.weight_decay, dino.initial_std) == ("epoch", 100, 0.0, 0.01)
    assert (dinov2.optimiser, dinov2.scaled, dinov2.decay, dinov2.weight_decay) == ("sgd", True, "step", 0.0)
    assert len(dinov2.learning_rates) == 13
    assert (min(dinov2.learning_rates), max(dinov2.learning_rates)) == (1e-5, 0.1)
    assert (ipvit.optimiser, ipvit.learning_rates, ipvit.scaled, ipvit.decay) == ("adamw", (5e-4,), False, "none")
    assert (ipvit.weight_decay, ipvit.batch_size, ipvit.epochs, ipvit.drop_last) == (0.05, 256, 10, True)
    assert [LinearParams(solver="sgd", recipe=r).selected for r in RECIPES] == ["last", "best_val", "last"]
