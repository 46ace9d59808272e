"""Tests of the pytest front end: known failures are strict, and name checks that exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from contract_doubles import plugin
from contract_doubles.subjects import SAMPLE

from harness.catalog import build_catalog
from harness.errors import UsageError
from harness.manager import build_manager
from harness.testing import ContractViolation, parametrize_contract

CATALOG = build_catalog(build_manager(discover=False, extra=[plugin]))


@parametrize_contract("dimming", sample=SAMPLE, catalog=CATALOG)
def test_a_good_component_passes(check):
    check()


@parametrize_contract(
    "fading",
    sample=SAMPLE,
    catalog=CATALOG,
    known_failures={"distortion_rises": "brightens again above 0.25", "facts_agree": "named after what it varies"},
)
def test_a_known_failure_is_expected(check):
    check()


def parameters(mark):
    return {p.id: p for p in mark.args[1]}


def test_one_parameter_per_check_with_the_evidence_when_it_fails():
    found = parameters(parametrize_contract("fading", sample=SAMPLE, catalog=CATALOG))
    with pytest.raises(ContractViolation, match=r"(?s)mean change .*promised: Distortion"):
        found["distortion_rises"].values[0]()
    with pytest.raises(pytest.skip.Exception, match="does not claim nested levels"):
        found["levels_nested"].values[0]()
    assert found["identity_level"].marks == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fading", {"known_failures": {"levels_nest": "why"}}, "no perturbation check named 'levels_nest'"),
        ("fading", {"known_failures": {"levels_nested": " "}}, "has no reason"),
        ("twice", {}, "'twice' is a perturbation and a probe"),
        ("fadin", {}, "nothing is named 'fadin'"),
    ],
)
def test_what_cannot_be_meant_is_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        parametrize_contract(name, catalog=CATALOG, **options)


def test_kind_tells_a_shared_name_apart():
    found = parameters(parametrize_contract("twice", kind="probe", sample=SAMPLE, catalog=CATALOG))
    assert "labels_do_not_leak" in found


def test_a_known_failure_that_passes_fails_the_run(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "from contract_doubles.perturbations import REFERENCES\n"
        "from harness.testing import parametrize_contract\n"
        "@parametrize_contract(REFERENCES['GoodDimming'], known_failures={'identity_level': 'mended long ago'})\n"
        "def test_dimming(check):\n"
        "    check()\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        f"pythonpath={Path(__file__).parent}",
    ]
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "[XPASS(strict)] mended long ago" in done.stdout
    assert "1 failed" in done.stdout
