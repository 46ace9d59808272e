"""Tests of the kit's core: outcomes, names, and that nothing a component does can stop it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from contract_doubles import plugin
from contract_doubles.perturbations import DIMMING
from contract_doubles.subjects import SAMPLE, subject

from harness.catalog import build_catalog
from harness.errors import MissingDependencyError, ParameterError, RegistryError, UsageError
from harness.manager import build_manager
from harness.testing import check_named, iter_checks, run_checks, subject_named


@pytest.fixture(scope="module")
def catalog():
    return build_catalog(build_manager(discover=False, extra=[plugin]))


def raising(error):
    def make():
        raise error

    return replace(subject(DIMMING), make=make)


def test_outcomes_come_in_order_with_promises_and_are_plain_json():
    outcomes = run_checks(subject(DIMMING))
    assert [o.check for o in outcomes] == [check.name for check in iter_checks(subject(DIMMING))]
    assert {o.status for o in outcomes} == {"passed", "skipped"}
    assert all(o.message for o in outcomes if o.status == "skipped")
    assert all(o.promise.endswith(".") and o.seconds >= 0 for o in outcomes)
    assert json.loads(json.dumps([o.as_dict() for o in outcomes]))[0]["check"] == "target_imports"


def test_a_failure_names_component_check_and_evidence(catalog):
    (outcome,) = check_named(catalog, "perturbation", "fading", sample=SAMPLE, only=["distortion_rises"])
    assert outcome.status == "failed"
    assert outcome.message.startswith(
        "fading: distortion_rises: distortion must not fall along the sweep: at factor 0.25"
    )


def test_whatever_a_component_raises_is_a_failure_and_says_where():
    outcomes = {o.check: o for o in run_checks(raising(ZeroDivisionError("by zero")))}
    assert outcomes["images_well_formed"].status == "failed"
    assert "raised ZeroDivisionError: by zero (test_kit.py, line" in outcomes["images_well_formed"].message


def test_an_interrupt_is_not_a_failure():
    with pytest.raises(KeyboardInterrupt):
        run_checks(raising(KeyboardInterrupt()))


def test_a_missing_extra_skips():
    outcomes = {o.check: o for o in run_checks(raising(MissingDependencyError("needs ray", extra="ray")))}
    assert outcomes["images_well_formed"].status == "skipped"
    assert "vit-harness[ray]" in outcomes["images_well_formed"].message


def test_unknown_check_names_are_refused_with_a_suggestion(catalog):
    with pytest.raises(UsageError, match="no perturbation check named 'levels_nest'") as caught:
        check_named(catalog, "perturbation", "dimming", only=["levels_nest"])
    assert caught.value.hint == "did you mean levels_nested?"


def test_a_name_brings_its_parameters_and_its_plugin(catalog):
    found = subject_named(catalog, "perturbation", "tint:tint=0.25")
    assert found.params == {"tint": 0.25}
    assert found.make().tint == 0.25
    assert found.plugin == "contract_doubles.plugin"
    assert subject_named(catalog, "perturbation", "tint", params={"tint": 0.75}).make().tint == 0.75
    assert subject_named(catalog, "perturbation", "none").plugin == "harness.builtin"


def test_wrong_names_and_parameters_are_refused_before_any_check(catalog):
    with pytest.raises(RegistryError, match="no perturbation named 'tin'"):
        check_named(catalog, "perturbation", "tin")
    with pytest.raises(ParameterError, match="unknown parameter 'tone'"):
        check_named(catalog, "perturbation", "tint", params={"tone": 1})


def test_the_clean_pass_keeps_its_promises(catalog):
    assert [o for o in check_named(catalog, "perturbation", "none", sample=SAMPLE) if o.status == "failed"] == []
