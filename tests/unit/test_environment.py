"""The environment block: plain JSON, honest about what it cannot tell, cheap after the first time."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from harness import environment
from harness.environment import environment_block, source_state


def block(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"device": "cpu", "batch_size": 32, "threads": 2, "workers": 4, "seconds": 1.23456}
    return environment_block(**(arguments | changes))


def git(folder: Path, *arguments: str) -> str:
    identity = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
    ).stdout.strip()


def test_it_is_plain_json_that_reads_back() -> None:
    found = block(weights_sha256="ab", distributions=["pytest", "no-such-distribution"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["versions"]["numpy"] == version("numpy")
    assert found["versions"]["torch"] == version("torch")
    assert found["versions"]["vit-harness"]
    assert found["versions"]["pytest"] == version("pytest")
    assert found["versions"]["no-such-distribution"] is None
    assert found["python"] == platform.python_version()
    assert (found["batch_size"], found["threads"], found["workers"]) == (32, 2, 4)
    assert found["seconds"] == 1.235
    assert found["weights_sha256"] == "ab"
    assert found["cpu"]
    finished = datetime.fromisoformat(found["finished"])
    assert abs((datetime.now(UTC) - finished).total_seconds()) < 60


def test_it_names_neither_host_nor_user() -> None:
    text = json.dumps(block())
    assert platform.node() == "" or f'"{platform.node()}"' not in text
    assert str(Path.home()) not in text


def test_a_torch_device_is_written_as_its_text() -> None:
    torch = pytest.importorskip("torch")
    found = block(device=torch.device("cpu"))
    assert found["device"] == "cpu"
    assert found["device_name"] == found["cpu"]
    assert found["peak_device_memory_bytes"] is None
    assert block(device="mps")["device_name"] is None


MEASURE = """
import subprocess, sys
from harness.environment import peak_memory_bytes
before = peak_memory_bytes()
block = b"x" * (256 * 2**20)
after = peak_memory_bytes()
child = "from harness.environment import peak_memory_bytes; print(peak_memory_bytes())"
print(before, after, subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process inherits the peak of the one that started it")
def test_peak_memory_is_this_process_alone_in_bytes() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    before, after, child = map(int, done.stdout.split())
    assert 250 * 2**20 < after - before < 300 * 2**20
    assert child < 100 * 2**20


def test_it_is_cheap_after_the_first_time() -> None:
    block()
    started = time.perf_counter()
    for _ in range(20):
        block()
    assert time.perf_counter() - started < 0.5


def test_asking_about_a_cpu_does_not_import_torch() -> None:
    script = (
        "import sys; from harness.environment import environment_block as e\n"
        "e(device='cpu', batch_size=1, threads=1, workers=0, seconds=0.0)\n"
        "sys.exit(bool({'torch', 'numpy', 'timm'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- the commit ------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    source_state.cache_clear()
    assert source_state(checkout) == {"commit": commit, "dirty": False}
    (checkout / "untracked").write_text("")
    source_state.cache_clear()
    assert source_state(checkout) == {"commit": commit, "dirty": False}
    (checkout / "file").write_text("two")
    source_state.cache_clear()
    assert source_state(checkout) == {"commit": commit, "dirty": True}


def test_a_repository_that_only_contains_the_installation_is_not_asked(checkout: Path) -> None:
    (checkout / "site-packages").mkdir()
    assert source_state(checkout / "site-packages") == {}


def test_without_commits_or_without_git_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    assert source_state(tmp_path) == {}
    monkeypatch.setenv("PATH", "")
    source_state.cache_clear()
    assert source_state(tmp_path) == {}


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_COMMAND_SECONDS", 0.2)
    assert environment._ask(sys.executable, "-c", "import time; time.sleep(30)") is None
    assert environment._ask(sys.executable, "-c", "raise SystemExit(1)") is None
    assert environment._ask("no-such-command-anywhere") is None
