"""Fixtures of the engine's tests: the doubles as a plugin, a tiny grid runner, and a cache of its own per test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engine_doubles import models, perturbations, plugin, probes
from engine_doubles.data import CountingDataset
from engine_doubles.models import TinyModel

from harness.api import RunResult, Workbench, run_asked
from harness.catalog import build_catalog
from harness.grid import build_plan
from harness.manager import build_manager
from harness.options import RunOptions
from harness.outcome_files import read_outcomes
from harness.planning import RunPlan
from harness.request import Asked


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the cache of the person who runs it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def fresh_counts() -> Iterator[None]:
    """What the named doubles write down is of one test only."""
    yield
    models.built.clear()
    probes.CentroidProbe.made.clear()
    perturbations.SignStep.prepared.clear()
    perturbations.Unprepared.tried = 0


@pytest.fixture(scope="session")
def bench() -> Workbench:
    """The core and the doubles, without the installed plugins."""
    manager = build_manager(discover=False, extra=(("doubles", plugin),), strict=True)
    return Workbench(manager=manager, catalog=build_catalog(manager))


@pytest.fixture
def dataset() -> CountingDataset:
    """33 query and 18 support images of three classes, counting what is decoded."""
    return CountingDataset()


@pytest.fixture
def model() -> TinyModel:
    """A model that counts its forward passes."""
    return TinyModel()


def _axes(given: dict[str, object]) -> dict[str, object]:
    plural = {
        "model": "models",
        "dataset": "datasets",
        "probe": "probes",
        "perturb": "perturbations",
        "support_perturb": "support_perturbations",
    }
    axes: dict[str, object] = {}
    for name, value in given.items():
        if name in plural:
            axes[plural[name]] = tuple(value) if isinstance(value, list) else (value,)
        else:
            axes[name] = value
    return {"perturbations": ("none",), **axes}


@pytest.fixture
def plan(bench):
    """``plan(model=..., probe=..., ...)``: the plan of a grid; lists are several items."""

    def make(**given) -> RunPlan:
        from harness.api import plan_asked

        return plan_asked(bench, Asked(**_axes(given)))

    return make


@pytest.fixture
def bare_plan(bench):
    """As ``plan``, without the clean cells that summaries ask for."""

    def make(**given) -> RunPlan:
        return build_plan(bench.catalog, Asked(**_axes(given)).resolve(bench.catalog))

    return make


@pytest.fixture
def run(bench, tmp_path: Path):
    """``run(model=..., probe=..., ...)``: run a grid into ``out``, on the CPU, in batches of 8, without a cache."""

    def go(*, out="out", shard=None, progress=None, **given) -> RunResult:
        options = {"device": "cpu", "batch_size": 8, "workers": 0, "cache_dir": None}
        options |= {name: given.pop(name) for name in RunOptions.__slots__ if name in given}
        return run_asked(
            bench,
            Asked(**_axes(given)),
            out=tmp_path / out,
            shard=shard,
            options=RunOptions(**options),
            progress=progress,
        )

    return go


@pytest.fixture
def outcomes():
    """``outcomes(result, record)``: a record's per-image columns by name, (N,) each, in order of position."""

    def read(result: RunResult, record) -> dict[str, list]:
        stored = read_outcomes(result.path, record.key).outcomes
        columns = {name: values[0].tolist() for name, values in stored.columns.items()}
        return {"position": stored.positions.tolist(), **columns}

    return read


@pytest.fixture
def numbers():
    """``numbers(result)``: what must not depend on how a plan was executed, by record key."""

    def of(result: RunResult) -> dict[str, object]:
        return {record.key: [row.as_dict() for row in record.measurements] for record in result.records}

    return of
