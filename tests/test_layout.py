"""The shape of the repository: floors that name every module, plugins that are packages, no stray folders."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLUGINS = sorted(folder.name for folder in (ROOT / "plugins").iterdir() if folder.name != "__pycache__")
OUR_WEIGHTS = Path("plugins/harness_mini/weights")
"""Networks that the project trained itself; 15 MB is what they may take all together."""
CONTRACTS = PROJECT["tool"]["importlinter"]["contracts"]


def test_plugins_are_packages_named_harness_something():
    assert PLUGINS
    for name in PLUGINS:
        assert name.startswith("harness_")
        assert (ROOT / "plugins" / name / "__init__.py").is_file()
    assert not (ROOT / "plugins" / "__init__.py").exists()


def test_the_import_rules_name_every_plugin():
    assert sorted(PROJECT["tool"]["importlinter"]["root_packages"]) == ["harness", *PLUGINS]
    independence, forbidden = CONTRACTS[1], CONTRACTS[2]
    assert sorted(independence["modules"]) == PLUGINS
    assert sorted(forbidden["forbidden_modules"]) == PLUGINS


def test_every_module_of_the_core_stands_on_a_floor():
    placed = {name.strip() for layer in CONTRACTS[0]["layers"] for name in layer.split(":")}
    top = {path.stem if path.is_file() else path.name for path in (ROOT / "harness").iterdir()}
    modules = {f"harness.{name}" for name in top - {"__init__", "__pycache__", "py", "registry"}}
    modules |= {"harness.registry"}
    assert modules == placed


def test_every_entry_point_is_a_plugin_module_and_every_plugin_has_one():
    targets = PROJECT["project"]["entry-points"]["harness.plugins"].values()
    for target in targets:
        assert (ROOT / "plugins" / Path(*target.split("."))).with_suffix(".py").is_file()
    assert {target.split(".")[0] for target in targets} == set(PLUGINS)


def test_the_packaged_registry_is_a_link_to_the_one_people_edit():
    link = ROOT / "harness" / "registry.yaml"
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: an unpacked sdist holds a copy")
    assert link.is_symlink()
    assert link.resolve() == ROOT / "registry.yaml"


def test_no_tracked_file_is_large_or_a_binary_of_others():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ours = [name for name in tracked if Path(name).parent == OUR_WEIGHTS and name.endswith(".safetensors")]
    assert sum((ROOT / name).stat().st_size for name in ours) <= 15 * 2**20
    assert [name for name in set(tracked) - set(ours) if (ROOT / name).stat().st_size > 512 * 1024] == []
