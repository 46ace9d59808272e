"""Targets and extras: what is imported when, and what is said of what cannot be."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from harness.entries import ProbeEntry
from harness.errors import MissingDependencyError, PluginError
from harness.targets import EXTRAS, load_target, missing_packages

ROOT = Path(__file__).parents[2]


def entry(target: str, extra: str | None = None) -> ProbeEntry:
    return ProbeEntry(name="p", target=target, summary="s", extra=extra)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def module(source: str) -> None:
        (tmp_path / "a_target.py").write_text(source)

    yield module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_table_of_extras_is_that_of_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    given = {extra: tuple(line.split(">")[0] for line in lines) for extra, lines in project.items()}
    assert {extra: given[extra] for extra in given if extra not in ("all", "dev")} == EXTRAS


def test_a_target_is_the_attribute_named(module) -> None:
    module("class Probe:\n  pass\n")
    assert load_target(entry("a_target:Probe")).__name__ == "Probe"


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        (
            "",
            "absent_target:Probe",
            "cannot import absent_target: ModuleNotFoundError: No module named 'absent_target'",
        ),
        ("import absent_thing", "a_target:Probe", "No module named 'absent_thing'"),
        ("1 / 0", "a_target:Probe", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(2)", "a_target:Probe", "SystemExit: 2"),
        ("class Probes: pass", "a_target:Probe", "a_target:Probe is not there\n  hint: did you mean Probes?"),
        ("Probe = 3", "a_target:Probe", "is a int, which cannot be called"),
    ],
)
def test_a_target_that_fails_is_an_error_of_its_plugin(module, source: str, target: str, text: str) -> None:
    module(source)
    with pytest.raises(PluginError) as caught:
        load_target(entry(target))
    assert str(caught.value).startswith("probe p: ")
    assert text in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_missing_extra_is_told_before_anything_is_imported(module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "ray", ("absent_package",))
    module("raise AssertionError('imported')")
    with pytest.raises(MissingDependencyError, match="needs absent_package, not installed") as caught:
        load_target(entry("a_target:Probe", extra="ray"))
    assert caught.value.hint == "pip install 'vit-harness[ray]'"


def test_an_import_of_a_package_of_an_extra_names_the_extra(module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "ray", ("absent_package",))
    module("import absent_package.deep")
    with pytest.raises(MissingDependencyError) as caught:
        load_target(entry("a_target:Probe"))
    assert caught.value.extra == "ray"


def test_packages_are_looked_for_without_importing(module, monkeypatch: pytest.MonkeyPatch) -> None:
    module("raise AssertionError('imported')")
    monkeypatch.setitem(EXTRAS, "ray", ("a_target", "absent_package"))
    assert missing_packages("ray") == ("absent_package",)
    assert missing_packages(None) == ()
    by_hand = ModuleType("absent_package")
    monkeypatch.setitem(sys.modules, "absent_package", by_hand)
    by_hand.__spec__ = None
    assert missing_packages("ray") == ()
