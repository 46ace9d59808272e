"""The command itself: killed, interrupted, refused while another writes, and run to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.checkpoints import load_all

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]

COMMAND = [
    *(sys.executable, "-c", "from harness.cli import main; main()", "run", "-m", "resnet18", "--weights", "random"),
    *("-d", "digits", "-L", "40", "--view", "resize=32,crop=32", "--probe", "fewshot:shots=1+3:seeds=2"),
    *("-p", "patchdrop_random:grid=4@0.25,0.5,0.75", "--seed", "0,1"),
]
SMALL_BATCHES = ["-b", "2", "--checkpoint-every", "1"]
DEADLINE_S = 120.0


def lines_without_environment(out: Path) -> list[str]:
    lines = (out / "records.jsonl").read_text(encoding="ascii").splitlines()
    return [line.partition(',"environment":')[0] for line in lines]


class Command:
    """The command on one output folder, with a cache of its own."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._env = {**os.environ, "HARNESS_CACHE_DIR": str(out.with_name(f"{out.name}-cache")), "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "--out", str(self.out), *arguments]
        return subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=DEADLINE_S, check=False)

    @contextmanager
    def started(self, arguments: Sequence[str], after: int) -> Iterator[subprocess.Popen[str]]:
        """The running command, once its checkpoint has passed image ``after``; killed at the end if still there."""
        process = subprocess.Popen(
            [*COMMAND, "--out", str(self.out), *arguments],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + DEADLINE_S
            while max((found.offset for found in load_all(self.out).checkpoints), default=0) <= after:
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield process
        finally:
            process.kill()
            process.communicate()


def test_the_command_goes_on_after_kill_and_interrupt(tmp_path: Path) -> None:
    whole, command = Command(tmp_path / "whole"), Command(tmp_path / "out")
    ended = whole.run("--json", *SMALL_BATCHES)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 7
    assert "forward passes over" in ended.stderr

    with command.started(SMALL_BATCHES, after=0) as process:
        process.send_signal(signal.SIGSTOP)
        second = command.run("--json")
        assert second.returncode == 2
        assert f"process {process.pid} " in second.stderr
        assert second.stdout == ""
        process.kill()
        assert process.wait() == -signal.SIGKILL

    killed_at = load_all(command.out).checkpoints[0].offset
    with command.started(["--batch-size", "auto", "--checkpoint-every", "1"], after=killed_at) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
        assert "run the same command to go on" in said
        assert "Traceback" not in said

    left = 40 - load_all(command.out).checkpoints[0].offset
    resumed = command.run("--json", "--batch-size", "auto")
    assert resumed.returncode == 0, resumed.stderr
    assert f"; {left} images decoded, " in resumed.stderr
    assert f" over {7 * left} images" in resumed.stderr
    assert lines_without_environment(command.out) == lines_without_environment(whole.out)
    assert (command.out / "summaries.jsonl").read_bytes() == (whole.out / "summaries.jsonl").read_bytes()
    assert [json.loads(line)["key"] for line in resumed.stdout.splitlines()] == [
        json.loads(line)["key"] for line in ended.stdout.splitlines()
    ]
    assert not list((command.out / "checkpoints").iterdir())
    assert not list(command.out.rglob("*.tmp"))
