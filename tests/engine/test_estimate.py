"""What a run would cost, from a few batches."""

from __future__ import annotations

import time

import pytest
from engine_doubles.data import CountingDataset, tiny_dataset
from engine_doubles.models import TinyModel
from engine_doubles.probes import CentroidProbe

from harness.estimate import TIMED_BATCHES, Estimate, PassEstimate, estimate
from harness.options import RunOptions


class SlowModel(TinyModel):
    """2 ms an image, so that a clock can tell."""

    def outputs(self, images, want):
        time.sleep(0.002 * len(images))
        return super().outputs(images, want)


OPTIONS = RunOptions(device="cpu", batch_size=4, workers=0)


def test_an_estimate_is_about_what_the_run_takes(bare_plan, run):
    grid = {"model": SlowModel(), "probe": ["pixels", CentroidProbe()], "perturb": ["none", "speckled@0.1,0.3"]}
    dataset = CountingDataset(tiny_dataset(query=120))
    found = estimate(bare_plan(**grid, dataset=dataset), OPTIONS)
    (one,) = found.passes
    assert (one.images, one.forwards_per_image, one.support_images) == (120, 3, 6)
    # A floor that no machine beats, and room for a busy one above it.
    assert 0.006 <= one.seconds_per_image < 0.06
    assert one.walk_seconds >= 120 * 0.006
    assert one.support_seconds == pytest.approx(6 * one.seconds_per_image / 3)
    assert found.seconds == pytest.approx(one.walk_seconds + one.support_seconds)


def test_an_estimate_reads_a_few_batches_alone(bare_plan, dataset, model):
    estimate(bare_plan(model=model, dataset=dataset, probe="pixels", perturb=["none", "dimmed@0.5"]), OPTIONS)
    assert len(dataset.positions("query")) == 4 * (1 + TIMED_BATCHES)
    assert sum(model.metric_calls) == 2 * 12
    assert dataset.positions("support") == []


def test_nothing_is_recorded(bare_plan, dataset, tmp_path, own_cache):
    before = set(tmp_path.rglob("*"))
    estimate(bare_plan(model="tiny", dataset=dataset, probe="centroid", perturb="signstep@16"), OPTIONS)
    assert set(tmp_path.rglob("*")) == before


def test_cached_support_costs_nothing(bare_plan, dataset, run, tmp_path):
    grid = {"model": "tiny", "dataset": dataset, "probe": "centroid", "support_perturb": ["none", "dimmed@0.5"]}
    options = RunOptions(device="cpu", batch_size=4, workers=0, cache_dir=tmp_path)
    assert estimate(bare_plan(**grid), options).passes[0].support_images == 12
    run(**{**grid, "support_perturb": "none"}, cache_dir=tmp_path)
    assert estimate(bare_plan(**grid), options).passes[0].support_images == 6
    run(**grid, cache_dir=tmp_path)
    (one,) = estimate(bare_plan(**grid), options).passes
    assert (one.support_images, one.support_seconds) == (0, 0.0)


def test_an_attack_on_a_probe_can_be_estimated(bare_plan, dataset):
    found = estimate(
        bare_plan(model="tiny", dataset=dataset, probe="centroid", perturb="signstep:aim=probe@16"), OPTIONS
    )
    assert found.passes[0].forwards_per_image == 1
    assert found.passes[0].seconds_per_image > 0


def test_out_of_memory_halves_here_too(bare_plan, dataset):
    model = TinyModel(memory_images=2)
    found = estimate(
        bare_plan(model=model, dataset=dataset, probe="pixels"), RunOptions(device="cpu", batch_size=32, workers=0)
    )
    assert found.passes[0].seconds_per_image > 0
    assert max(model.metric_calls) == 2


def test_a_plan_with_nothing_to_do_costs_nothing(bare_plan, dataset):
    plan = bare_plan(model="tiny", dataset=dataset, probe="pixels")
    found = estimate(plan.without(cell.key for cell in plan.cells), OPTIONS)
    assert (found.passes, found.seconds) == ((), 0)


def test_the_text_and_the_json_say_the_same():
    one = PassEstimate(
        model="tiny",
        dataset="tints/query",
        images=1000,
        forwards_per_image=3,
        support_images=60,
        seconds_per_image=0.0915,
        support_seconds=1.83,
        walk_seconds=91.5,
    )
    found = Estimate(passes=(one, one), device="cpu")
    lines = found.text.splitlines()
    assert lines[0] == (
        "tiny on tints/query: 1000 images x 3 forwards at 91.5 ms an image = 1 min 32 s, support 60 images = 1.8 s"
    )
    assert lines[-1] == "about 3 min 07 s in all on cpu"
    raw = found.as_dict()
    assert raw["seconds"] == pytest.approx(2 * 93.33)
    assert raw["passes"][0]["walk_seconds"] == 91.5
    assert set(raw["passes"][0]) == set(PassEstimate.__slots__)
