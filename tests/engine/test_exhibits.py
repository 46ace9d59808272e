"""Probes with a reference, probes of the model itself, and what probes keep and show, through the whole engine."""

from __future__ import annotations

import csv
from typing import ClassVar

import numpy as np
import pytest
import torch
from engine_doubles.models import VIEW, TinyModel
from engine_doubles.probes import Fitted, LoggedRun
from matplotlib.figure import Figure

from harness.array_files import array_path, read_arrays
from harness.catalog import build_catalog
from harness.entries import ProbeEntry
from harness.errors import CapabilityError
from harness.exhibits import Exhibit, Table
from harness.hookspecs import hookimpl
from harness.manager import build_manager
from harness.protocols import Outcomes, ProbeInfo
from harness.types import FeatureSpec, Measurement, OutputSpec

POOLED = FeatureSpec(pooled=True)


class DistanceRun(LoggedRun):
    columns: ClassVar[dict] = {"distance": np.float64}

    def update(self, batch, outputs, clean):
        away = outputs.pooled.double().numpy() - self.fitted.mean
        self.log.update(batch.positions, {"distance": np.linalg.norm(away, axis=1)[None]})

    def result(self):
        values = self.log.table().columns["distance"][0]
        return [Measurement(metric="distance", value=float(values.mean()), n=len(values), unit="length")]

    def arrays(self):
        return {"mean": self.fitted.mean}


class DistanceProbe:
    """How far from the mean of a reference the pooled vector is."""

    made: ClassVar[list] = []

    def __init__(self):
        self.tables, self.selections = [], []
        self.made.append(self)

    @property
    def info(self):
        return ProbeInfo(name="distance", reference=True, headline="distance")

    def wants(self, model):
        return OutputSpec(pooled=True)

    def features(self, model):
        return POOLED

    def select_support(self, labels, seed):
        self.selections.append(len(labels))
        return np.arange(0, len(labels), 2, dtype=np.int64)

    def fit(self, support, context):
        self.tables.append(support)
        assert isinstance(context.network, TinyModel)
        return Fitted(DistanceRun, mean=support.x.mean(axis=0, dtype=np.float64))


class SizeRun:
    def __init__(self, fitted):
        self.fitted = fitted

    def update(self, batch, outputs, clean):
        raise AssertionError("a probe of the model itself is shown no image")

    def merge(self, other):
        pass

    def result(self):
        return [Measurement(metric="size", value=self.fitted.size, n=1, unit="values")]

    def outcomes(self):
        return Outcomes(positions=np.empty(0, np.int64), variants=({},), columns={})

    def arrays(self):
        return {"size": np.array([self.fitted.size])}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class SizeProbe:
    """How many numbers the pooled vector has."""

    fits: ClassVar[list] = []

    @property
    def info(self):
        return ProbeInfo(name="size", of_model=True, headline="size")

    def wants(self, model):
        return OutputSpec()

    def features(self, model):
        return None

    def select_support(self, labels, seed):
        return np.empty(0, np.int64)

    def fit(self, support, context):
        self.fits.append((support, context.device, context.precision))
        black = torch.zeros(1, 3, VIEW.crop, VIEW.crop)
        return Fitted(SizeRun, size=context.network.outputs(black, OutputSpec(pooled=True)).pooled.shape[1])


def draw(findings):
    figure = Figure()
    figure.subplots().plot([finding.record.measurements[0].value for finding in findings])
    rows = [(f.model, f.condition, f.level, *f.arrays["mean"][:1].tolist(), f.ids[0]) for f in findings]
    header = ("model", "condition", "level", "mean", "first id")
    return Exhibit(pictures={"": figure, "again": figure}, tables={"": Table(header=header, rows=rows)})


def draw_nothing(findings):
    raise ValueError("no paper")


class Shown:
    @hookimpl
    def harness_register_probes(self):
        given = {"target": f"{__name__}:DistanceProbe", "summary": "s", "reference": True, "headline": "distance"}
        yield ProbeEntry(name="distance", exhibit=f"{__name__}:draw", **given)
        yield ProbeEntry(name="undrawn", exhibit=f"{__name__}:draw_nothing", **given)


@pytest.fixture
def run_shown(bench, tmp_path):
    """As ``run``, with the probes above by name."""
    from engine_doubles import plugin

    from harness.api import Workbench, run_asked
    from harness.options import RunOptions
    from harness.request import Asked

    manager = build_manager(discover=False, extra=(("doubles", plugin), ("shown", Shown())), strict=True)
    workbench = Workbench(manager=manager, catalog=build_catalog(manager))

    def go(*, progress=None, **given):
        options = RunOptions(device="cpu", batch_size=8, workers=0, cache_dir=None)
        return run_asked(workbench, Asked(**given), out=tmp_path / "out", options=options, progress=progress)

    return go


# --- a reference -------------------------------------------------------------------------------------------------


def test_a_reference_is_made_of_clean_images_that_are_asked_about(run, model, dataset):
    probe = DistanceProbe()
    result = run(model=model, dataset=dataset, probe=probe, perturb=["none", "dimmed"])
    ((table),) = probe.tables
    assert list(table.ids) == [dataset.index("query").ids[i] for i in range(0, 33, 2)]
    pixels = dataset.load("query", range(0, 33, 2), VIEW).images
    expected = TinyModel().outputs(pixels, OutputSpec(pooled=True)).pooled
    np.testing.assert_allclose(table.x, expected, atol=1e-6)
    assert not dataset.positions("support")
    assert {record.cell["support"]["split"] for record in result.records} == {"query"}


def test_a_reference_is_chosen_among_the_images_that_the_limit_leaves(run, model, dataset):
    probe = DistanceProbe()
    run(model=model, dataset=dataset, probe=probe, limit=9)
    assert probe.selections == [9]
    assert len(probe.tables[0]) == 5


def test_a_reference_leaves_out_what_cannot_be_read(run, model):
    from engine_doubles.data import CountingDataset

    probe = DistanceProbe()
    result = run(model=model, dataset=CountingDataset(unreadable={("query", 4)}, skip=True), probe=probe)
    assert len(probe.tables[0]) == 16
    assert result.records[0].get("distance").n == 32


def test_a_reference_that_lacks_images_is_not_kept_for_the_whole_one(run, model, tmp_path):
    from engine_doubles.data import CountingDataset

    cache = tmp_path / "features-here"
    run(
        model=model,
        dataset=CountingDataset(unreadable={("query", 4)}, skip=True),
        probe=DistanceProbe(),
        cache_dir=cache,
    )
    whole = DistanceProbe()
    result = run(model=model, dataset=CountingDataset(), probe=whole, cache_dir=cache, out="repaired")
    assert len(whole.tables[0]) == 17
    assert result.counters.cached_tables == 0
    again = DistanceProbe()
    result = run(model=model, dataset=CountingDataset(), probe=again, cache_dir=cache, out="again")
    assert (len(again.tables[0]), result.counters.cached_tables) == (17, 1)


def test_a_reference_needs_no_support_split(run, model):
    from engine_doubles.data import tiny_dataset

    result = run(model=model, dataset=tiny_dataset(support=0), probe=DistanceProbe())
    assert result.records[0].get("distance").n == 33


# --- the model itself --------------------------------------------------------------------------------------------


def test_a_probe_of_the_model_is_asked_once_whatever_the_datasets(run, model, dataset):
    from engine_doubles.data import tiny_dataset

    SizeProbe.fits.clear()
    result = run(model=model, dataset=[dataset, tiny_dataset(name="others")], probe=SizeProbe())
    (record,) = result.records
    assert record.get("size").value == model.info.pooled_dim
    assert record.cell["dataset"] == "no_images"
    assert dataset.loaded == []
    assert result.counters.decoded_images == 0
    assert [(support, str(device), precision) for support, device, precision in SizeProbe.fits] == [
        (None, "cpu", "fp32")
    ]


def test_neither_view_nor_limit_nor_split_matter_to_it(run, model, dataset):
    plain = run(model=model, dataset=dataset, probe=SizeProbe())
    other = run(
        model=model,
        dataset=dataset,
        probe=SizeProbe(),
        view="resize=64,crop=64,interpolation=bilinear",
        limit=0.5,
        split="support",
    )
    assert other.reused == 1
    assert [record.key for record in plain.records] == [record.key for record in other.records]


def test_perturbing_images_for_it_is_refused(run, model, dataset):
    with pytest.raises(CapabilityError, match="probe size measures the model itself"):
        run(model=model, dataset=dataset, probe=SizeProbe(), perturb="dimmed@0.5")


def test_its_record_is_not_made_twice(run, model, dataset):
    SizeProbe.fits.clear()
    for _ in range(2):
        result = run(model=model, dataset=dataset, probe=SizeProbe())
    assert (result.reused, len(SizeProbe.fits)) == (1, 1)


# --- arrays and exhibits -----------------------------------------------------------------------------------------


def test_arrays_lie_beside_the_record_that_names_them(run, model, dataset):
    result = run(model=model, dataset=dataset, probe=DistanceProbe())
    (record,) = result.records
    assert record.environment["arrays"] == ["mean"]
    assert read_arrays(result.path, record.key)["mean"].shape == (model.info.pooled_dim,)


def test_arrays_that_were_removed_are_made_anew(run, model, dataset):
    first = run(model=model, dataset=dataset, probe=DistanceProbe())
    path = array_path(first.path, first.records[0].key)
    before = read_arrays(first.path, first.records[0].key)["mean"]
    path.unlink()
    second = run(model=model, dataset=dataset, probe=DistanceProbe())
    np.testing.assert_array_equal(read_arrays(second.path, second.records[0].key)["mean"], before)
    assert second.records == first.records


def test_an_exhibit_shows_every_finding_of_a_probe(run_shown):
    result = run_shown(
        models=("tiny", "tiny:net=1"), datasets=("tints",), probes=("distance",), perturbations=("none", "dimmed@0.5")
    )
    folder = result.path / "artifacts" / "distance"
    (exhibit,) = result.exhibits
    assert exhibit.problem is None
    assert exhibit.pictures == (folder / "tints.png", folder / "tints" / "again.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in exhibit.pictures)
    rows = list(csv.reader((folder / "tints.csv").read_text().splitlines()))
    assert rows[0] == ["model", "condition", "level", "mean", "first id"]
    assert [row[:3] for row in rows[1:]] == [
        ["tiny", "none", ""],
        ["tiny", "dimmed@0.5", "0.5"],
        ["tiny:net=1", "none", ""],
        ["tiny:net=1", "dimmed@0.5", "0.5"],
    ]
    for row in rows[1:]:
        assert row[4] == "query-000000"
    means = {record.key: read_arrays(result.path, record.key)["mean"][0] for record in result.records}
    assert [float(row[3]) for row in rows[1:]] == list(means.values())


def test_pictures_of_an_earlier_exhibit_go_and_those_of_others_stay(run_shown):
    given = {"models": ("tiny",), "datasets": ("tints",), "probes": ("distance",), "perturbations": ("none",)}
    folder = run_shown(**given).path / "artifacts" / "distance"
    (folder / "tints" / "old.png").write_bytes(b"")
    (folder / "tints-others").mkdir()
    others = [folder / "other.png", folder / "tints-others.csv", folder / "tints-others" / "again.png"]
    for path in others:
        path.write_bytes(b"")
    run_shown(**given)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == sorted(
        [*(str(path.relative_to(folder)) for path in others), "tints/again.png", "tints.csv", "tints.png"]
    )


def test_an_exhibit_that_cannot_be_drawn_costs_nothing_else(run_shown):
    class Notes:
        def __init__(self):
            self.notes = []

        def __getattr__(self, name):
            return self.notes.append if name == "note" else lambda *_: None

    progress = Notes()
    result = run_shown(
        models=("tiny",),
        datasets=("tints",),
        probes=("undrawn", "distance"),
        perturbations=("none",),
        progress=progress,
    )
    assert len(result.records) == 2
    assert [exhibit.problem for exhibit in result.exhibits] == ["ValueError: no paper", None]
    assert any("what undrawn shows could not be drawn: ValueError: no paper" in note for note in progress.notes)
