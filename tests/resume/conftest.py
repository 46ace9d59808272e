"""Runs in processes that can be killed, and what is compared of the folders that they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

JOB: dict[str, Any] = {
    "models": [1, 2],
    "perturbations": ["patchdrop_random:grid=4@0,0.25,0.5,0.75"],
    "probes": ["head", "fewshot:shots=1+3:seeds=2"],
    "seeds": [0, 1],
    "images": 61,
    "batch_size": 8,
    "checkpoint_every": 1,
}


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended: exit status (negative: the signal), stderr, and its own account if it came to the end."""

    status: int
    stderr: str
    answer: dict[str, Any]

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Runner:
    """Runs jobs one after the other in children of a warm process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, out: Path, *, cache: Path | None = None, check: bool = True, **changes: Any) -> Ended:
        """Run the standard job with ``changes`` into ``out``; with ``check`` it must end well unless it is killed."""
        job = {**JOB, "out": str(out), "cache": str(cache or out.with_name(f"{out.name}-cache")), **changes}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        raw = json.loads(self._process.stdout.readline())
        ended = Ended(status=raw["status"], stderr=raw["stderr"], answer=raw["answer"] or {})
        if check and not ended.killed:
            assert ended.status == 0, ended.stderr
            assert ended.answer["failures"] == []
        return ended


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Runs a grid in a process of its own; see :class:`Runner`."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork()")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("run_server.py")), str(tmp_path_factory.mktemp("server"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **threads, "HARNESS_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))},
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Runner(process)
        assert process.stdin is not None
        process.stdin.close()


@dataclass(frozen=True, kw_only=True)
class Uninterrupted:
    """A run of the standard job that nobody disturbed."""

    out: Path
    answer: dict[str, Any]


@pytest.fixture(scope="session")
def uninterrupted(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """What every killed and resumed run must end up with."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    return Uninterrupted(out=out, answer=run(out).answer)
