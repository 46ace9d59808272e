"""What is shipped: wheel, sdist and command, in an environment that never saw the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from harness import list_entries

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_the_core_the_plugins_and_the_registry_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"harness", *(folder.name for folder in (ROOT / "plugins").iterdir() if folder.is_dir())}
    assert {"harness/registry.yaml", "harness/py.typed", "harness/hookspecs.py"} <= set(names)
    text = zipfile.ZipFile(wheel).read("harness/registry.yaml").decode()
    assert text == (ROOT / "registry.yaml").read_text()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    models = {row.name for row in list_entries("model") if "embedded" in row.tags}
    shipped = {Path(name).stem for name in names if name.startswith("harness_mini/weights/") and ".safetensors" in name}
    cards = {Path(name).stem for name in names if name.startswith("harness_mini/weights/") and ".json" in name}
    assert models == shipped == cards


def test_the_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "out"), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (again,) = (tmp_path / "out").glob("*.whl")
    ours, theirs = (sorted(zipfile.ZipFile(file).namelist()) for file in (wheel, again))
    assert ours == theirs


def test_the_installed_command_lists_and_runs(installed, tmp_path):
    where = installed.run("-c", "import harness; print(harness.__file__, harness.__version__)")
    assert str(installed.folder) in where.stdout, where.stderr
    listed = installed.run("list", "models", "--json", command="harness")
    assert listed.returncode == 0, listed.stderr
    assert "vit_b16" in {row["name"] for row in json.loads(listed.stdout)}
    ran = installed.run("run", "-L", "20", "--json", "-o", str(tmp_path / "out"), command="harness")
    assert ran.returncode == 0, ran.stderr
    (record,) = [json.loads(line) for line in ran.stdout.splitlines()]
    assert record["cell"]["weights"].startswith("embedded:vit_mini:")
    assert record["measurements"][0]["n"] == 20


def test_an_editable_install_reaches_registry_and_plugins(bare):
    bare.install("-e", str(ROOT))
    listed = bare.run("list", "perturbations", "--json", command="harness")
    assert listed.returncode == 0, listed.stderr
    assert "patchdrop_random" in {row["name"] for row in json.loads(listed.stdout)}
    where = bare.run("-c", "import harness, harness_probes as p; print(harness.__file__); print(p.__file__)")
    assert where.stdout.split() == [str(ROOT / "harness/__init__.py"), str(ROOT / "plugins/harness_probes/__init__.py")]


@pytest.mark.slow
@pytest.mark.fresh_install
def test_a_plain_pip_install_on_a_fresh_machine_runs(wheel, tmp_path):
    """With every dependency from the index, as a user gets them."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    installed = subprocess.run(
        [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--no-compile", str(wheel)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    ran = subprocess.run(
        [str(folder / "bin/harness"), "run", "-L", "20", "--json", "-o", str(tmp_path / "out")],
        env=environment | {"HARNESS_CACHE_DIR": str(tmp_path / "cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["measurements"][0]["n"] == 20
