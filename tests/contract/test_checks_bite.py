"""Tests of the checks: every one is failed by some double, each double fails exactly what it should."""

from __future__ import annotations

import importlib
import json
import os
from functools import cache
from pathlib import Path

import pytest

from harness.testing import run_checks
from harness.testing.kit import check_functions, check_name, promise
from harness.types import KINDS

GOLDEN = Path(__file__).with_name("golden_matrix.json")
MODULES = [
    importlib.import_module(f"contract_doubles.{n}")
    for n in ("entries", "models", "perturbations", "probes", "shown_probes", "datasets")
]
REFERENCES = {name: subject for module in MODULES for name, subject in module.REFERENCES.items()}
DOUBLES = {f"{s.entry.kind}:{name}": s for module in MODULES for name, s in module.DOUBLES.items()}


@cache
def failures(name: str) -> dict[str, str]:
    return {o.check: o.message for o in run_checks(DOUBLES[name]) if o.status == "failed"}


@pytest.mark.parametrize("name", REFERENCES)
def test_references_fail_nothing(name):
    assert {o.check: o.message for o in run_checks(REFERENCES[name]) if o.status == "failed"} == {}


@pytest.mark.parametrize("name", DOUBLES)
def test_each_double_fails_exactly_its_golden_checks(name):
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("UPDATE_GOLDEN_MATRIX") == "1":
        golden[name] = list(failures(name))
        GOLDEN.write_text(json.dumps({key: golden[key] for key in DOUBLES if key in golden}, indent=2) + "\n")
        pytest.fail("golden matrix rewritten: read the difference, then run without UPDATE_GOLDEN_MATRIX")
    assert list(failures(name)) == golden.get(name), failures(name)


def test_the_golden_matrix_names_no_double_that_is_gone():
    assert list(json.loads(GOLDEN.read_text())) == list(DOUBLES)


def test_every_check_is_failed_by_some_double():
    golden = json.loads(GOLDEN.read_text())
    bitten = {(name.partition(":")[0], check) for name, checks in golden.items() for check in checks}
    # Checks of entries are the same function for every kind; one double of any kind shows that they bite.
    entry_checks = {check_name(f) for f in check_functions("summary")}
    bitten |= {(kind, check) for kind in KINDS for _, check in bitten if check in entry_checks}
    toothless = [
        f"{kind}: {check_name(f)}"
        for kind in KINDS
        for f in check_functions(kind)
        if (kind, check_name(f)) not in bitten
    ]
    assert toothless == []


def test_every_double_fails_something():
    assert [name for name, checks in json.loads(GOLDEN.read_text()).items() if not checks] == []


@pytest.mark.parametrize("kind", KINDS)
def test_checks_promise_one_sentence_and_are_all_listed(kind):
    functions = check_functions(kind)
    names = [check_name(f) for f in functions]
    assert len(set(names)) == len(names)
    for function in functions:
        sentence = promise(function)
        assert sentence.endswith("."), function
        assert ". " not in sentence, function
        listed = importlib.import_module(function.__module__).CHECKS
        defined = [f for n, f in vars(importlib.import_module(function.__module__)).items() if n.startswith("check_")]
        assert set(listed) == {f for f in defined if f.__module__ == function.__module__}


@pytest.mark.parametrize("name", DOUBLES)
def test_failures_show_evidence(name):
    for check, message in failures(name).items():
        assert message.startswith(f"{DOUBLES[name].entry.name}: {check}: "), message
        assert len(message) < 600, message
