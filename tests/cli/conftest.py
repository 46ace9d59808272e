"""The command in this process, away from the person's own cache, hub and plugins."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main

HEADER = """
from dataclasses import dataclass
from harness.entries import DatasetEntry, ModelEntry, PerturbationEntry, ProbeEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability, LevelSpec, View
"""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    # Nothing listens on the discard port: whoever asks the hub is refused at once.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HARNESS_DISABLE_PLUGINS", "HARNESS_PLUGIN_AUTOLOAD", "HARNESS_OFFLINE", "HF_HUB_OFFLINE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def harness(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run ``harness ARGUMENTS`` as the console script does, exit code included."""

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Answer(code, printed.out, printed.err)

    return run


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a plugin: a distribution with one entry point of its own name, and the module behind it."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)

    def write(name: str, source: str, **modules: str) -> None:
        info = site / f"{name}_dist-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[harness.plugins]\n{name} = {name}_plugin\n")
        for module, text in {f"{name}_plugin": HEADER + textwrap.dedent(source), **modules}.items():
            (site / f"{module}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()

    yield write
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(site)):
            del sys.modules[module]
