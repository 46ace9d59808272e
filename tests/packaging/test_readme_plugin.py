"""The plugin of the README, installed by pip exactly as printed: it is listed, runs, keeps its contract, and is caught
when it does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", README, flags=re.DOTALL))


def write(folder: Path, **replaced: str) -> Path:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    module = folder / "harness_darken.py"
    for old, new in replaced.values():
        assert old in module.read_text()
        module.write_text(module.read_text().replace(old, new))
    return folder


@pytest.fixture(scope="module")
def darkened(wheel, tmp_path_factory, installed):
    """The session's environment with the plugin in it; other tests of the session do not mind one more plugin."""
    installed.install(str(write(tmp_path_factory.mktemp("plugin") / "darken")))
    return installed


def test_the_readme_prints_a_whole_package():
    assert set(FILES) == {"harness_darken.py", "pyproject.toml", "test_darken.py"}
    assert len([line for line in FILES["harness_darken.py"].splitlines() if line.strip()]) <= 30


def test_it_is_listed_and_runs(darkened, tmp_path):
    listed = darkened.run("list", "perturbations", "--json", command="harness")
    assert {row["name"]: row["plugin"] for row in json.loads(listed.stdout)}["darken"] == "darken"
    ran = darkened.run(
        "run",
        "-m",
        "resnet18",
        "--weights",
        "random",
        "-p",
        "darken@all",
        "--probe",
        "fewshot:shots=1",
        "-L",
        "20",
        "--view",
        "resize=32,crop=32",
        "--json",
        "-o",
        str(tmp_path / "out"),
        command="harness",
    )
    assert ran.returncode == 0, ran.stderr
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(r["cell"]["perturbation"], r["cell"]["level"]) for r in records] == [
        ("none", None),
        ("darken", 0.25),
        ("darken", 0.5),
        ("darken", 0.75),
    ]


def test_its_own_test_passes(darkened, tmp_path):
    (tmp_path / "test_darken.py").write_text(FILES["test_darken.py"])
    done = darkened.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_darken.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 8


def test_it_passes_the_command(darkened):
    done = darkened.run("check", "darken", command="harness")
    assert done.returncode == 0, done.stdout + done.stderr


BROKEN = {
    "out of range": ("(1 - level)", "(1 + level)", "images_well_formed"),
    "changes its input": ("batch.images * (1 - level)", "batch.images.mul_(1 - level)", "batch_untouched"),
    "forgets labels": (
        "return batch.with_images(batch.images * (1 - level))",
        "from dataclasses import replace; return replace(batch, labels=batch.labels * 0)",
        "labels_and_ids_kept",
    ),
    "draws from the global generator": (
        "batch.images * (1 - level)",
        "(batch.images * (1 - level * __import__('torch').rand(1))).clamp(0, 1)",
        "same_seed_same_result",
    ),
    "not the identity where it says so": ("(1 - level)", "(0.9 - 0.9 * level)", "identity_level"),
}


def test_the_broken_example_of_the_readme_is_what_the_command_says(bare, wheel, tmp_path):
    (old, new, said), *_ = re.findall(r"<!-- broken: (.*?) -> (.*?) -->\n```text\n(.*?)```", README, flags=re.DOTALL)
    bare.install(str(wheel), str(write(tmp_path / "darken", change=(old, new))))
    done = bare.run("check", "darken", command="harness")
    assert done.returncode == 3
    assert said in done.stdout


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_named(bare, wheel, tmp_path, name):
    old, new, promise = BROKEN[name]
    bare.install(str(wheel), str(write(tmp_path / "darken", change=(old, new))))
    done = bare.run("check", "darken", "--json", command="harness")
    assert done.returncode == 3, done.stdout + done.stderr
    broken = [row for row in json.loads(done.stdout)[0]["checks"] if row["status"] == "failed"]
    assert promise in {row["check"] for row in broken}, broken
