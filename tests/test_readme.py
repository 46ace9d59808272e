"""README and program say the same: transcripts are run, commands and flags exist, names resolve."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from harness.cli.root import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMAND = Path(sys.executable).with_name("harness")


def blocks(mark: str) -> list[str]:
    return re.findall(rf"<!-- run: {mark} -->\n```\w+\n(.*?)```", README, flags=re.DOTALL)


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HARNESS_CACHE_DIR": str(cwd / "cache"), "COLUMNS": "200"}
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_transcript_is_what_the_command_prints(tmp_path):
    (block,) = blocks("offline")
    line, expected = block.split("\n", 1)
    done = run([str(COMMAND), *shlex.split(line.removeprefix("$ harness "))], tmp_path)
    assert done.returncode == 0, done.stderr
    assert numberless(done.stdout) == numberless(expected)
    # Another processor rounds features differently, and few-shot decisions near a boundary follow.
    for found, told in zip(numbers(done.stdout), numbers(expected), strict=True):
        assert abs(found - told) < 2.0


def numberless(text: str) -> list[str]:
    return [" ".join(re.sub(r"\d+\.\d", "#", line).split()) for line in text.splitlines() if line.strip()]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d", text)]


def test_the_python_block_runs(tmp_path):
    (block,) = blocks("python")
    done = run([sys.executable, "-c", block], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"0\.\d\d in \[0\.\d\d, 0\.\d\d\] over 100 images; untrained: False\n", done.stdout)


def commands() -> list[list[str]]:
    """Every `harness ...` line of the README, with what is optional or elided taken away."""
    lines = re.findall(r"(?:^\$? ?|`)(harness [a-z][^`\n#]*)", README, flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_and_flags_exist(words):
    names = words[0].split("|") if "|" not in " ".join(words) else [w for w in words if w != "|"]
    for name in names:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, name
        if isinstance(command, click.Group) or len(names) > 1:
            continue
        flags = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= flags


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"\bmake (\w+)", README)) <= set(targets)


def test_files_and_names_exist():
    for path in re.findall(r"`(harness/\w+\.py|tests/\w+|registry\.yaml)`", README):
        assert (ROOT / path).exists()
    import harness

    for name in re.findall(r"`harness\.(\w+)\(", README):
        assert hasattr(harness, name), name
