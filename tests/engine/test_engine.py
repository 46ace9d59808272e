"""From a plan to records: what is done again, what fails alone, what stops the run, and what is written."""

from __future__ import annotations

import json

import pytest
import torch
from engine_doubles import models
from engine_doubles.data import CountingDataset, tiny_dataset
from engine_doubles.models import BreaksAfter, TinyModel
from engine_doubles.perturbations import BreaksAt, Dimmed
from engine_doubles.probes import BreakingProbe, CentroidProbe, PixelProbe, ResultlessProbe

from harness.engine import execute
from harness.errors import CapabilityError, UsageError, WeightsError
from harness.options import Counters, RunOptions
from harness.records import RecordStore, load_records
from harness.types import View

GRID = {"probe": ["pixels", "centroid"], "perturb": ["none", "dimmed"], "support_perturb": ["none", "dimmed@0.5"]}


# --- doing it again


def test_the_same_command_again_does_nothing(run, model, dataset):
    first = run(model=model, dataset=dataset, **GRID)
    dataset.loaded.clear()
    model.calls.clear()
    again = run(model=model, dataset=dataset, **GRID)
    assert again.counters == Counters()
    assert (dataset.loaded, model.calls) == ([], [])
    assert again.records == first.records
    assert (first.reused, again.reused) == (0, len(again.records))


def test_the_same_command_again_builds_no_named_model(run, dataset):
    run(model="tiny", dataset=dataset, **GRID)
    run(model="tiny", dataset=dataset, **GRID)
    assert models.built == ["tiny:0:pretrained"]


def test_only_what_is_missing_is_run(run, model, dataset):
    run(model=model, dataset=dataset, probe="pixels", perturb=["none", "dimmed@0.25"])
    model.calls.clear()
    wider = run(model=model, dataset=dataset, probe=["pixels", "toy_head"], perturb=["none", "dimmed@0.25,0.5"])
    assert (wider.reused, len(wider.records)) == (2, 6)
    # pixels needs dimmed@0.5 alone; toy_head needs all three, and shares that one.
    assert sum(model.metric_calls) == 3 * 33
    model.calls.clear()
    narrow = run(model=model, dataset=dataset, probe="pixels", perturb="dimmed@0.5")
    assert (narrow.reused, model.calls) == (1, [])


def test_what_failed_is_tried_again(run, model, dataset):
    failing = run(model=model, dataset=dataset, probe=[BreakingProbe(OSError("disk"), name="pixels"), "toy_head"])
    assert len(failing.failures) == 1
    repaired = run(model=model, dataset=dataset, probe=[PixelProbe(), "toy_head"])
    assert (repaired.reused, len(repaired.records), repaired.failures) == (1, 2, ())


# --- shards


def test_shards_together_are_the_whole_run(run, dataset, numbers):
    grid = {"model": ["tiny", "elsewhere"], "dataset": dataset, **GRID}
    whole = run(**grid, out="whole")
    parts = [run(**grid, out="parts", shard=(index, 3)) for index in (1, 2, 3)]
    keys = [record.key for part in parts for record in part.records]
    assert sorted(keys) == sorted(record.key for record in whole.records)
    together = {key: value for part in parts for key, value in numbers(part).items()}
    assert together == numbers(whole)
    assert len(list(parts[0].path.glob("records-*of3.jsonl"))) == 3
    after = run(**grid, out="parts")
    assert (after.counters, after.reused) == (Counters(), len(whole.records))


# --- isolation


def test_a_model_that_cannot_be_built_fails_with_its_own_cells(run, dataset):
    result = run(model=["unbuildable", "tiny"], dataset=dataset, probe=["pixels", "toy_head"])
    assert {failure.cell for failure in result.failures} == {
        f"unbuildable / tints/query / none / {probe}" for probe in ("pixels", "toy_head")
    }
    assert all("not what its author thought" in f.trace and f.exit_code == 1 for f in result.failures)
    assert [record.cell["model"] for record in result.records] == ["tiny", "tiny"]
    assert result.exit_code == 1


def test_a_model_that_breaks_on_the_way_leaves_no_half_record(run, dataset):
    result = run(model=[BreaksAfter(calls_left=3), TinyModel()], dataset=dataset, probe=["pixels", "toy_head"])
    assert [record.cell["model"] for record in result.records] == ["tiny", "tiny"]
    assert len(result.failures) == 2
    assert all("the network fell over" in failure.message for failure in result.failures)


def test_a_result_that_cannot_be_made_fails_alone(run, model, dataset):
    result = run(model=model, dataset=dataset, probe=[ResultlessProbe(), "pixels"])
    (failure,) = result.failures
    assert "ArithmeticError: the mean of nothing" in failure.message
    assert [record.cell["probe"] for record in result.records] == ["pixels"]


def test_what_turns_out_to_make_no_sense_is_a_row_with_its_reason_where_a_pattern_asked(run, dataset):
    cannot = CapabilityError("model tiny has no block 7", hint="it has 2")
    grid = {"dataset": dataset, "probe": "pixels", "perturb": ["none", BreaksAt(0.25, cannot)]}
    result = run(model="tin*", **grid)
    assert (result.failures, result.exit_code) == ((), 0)
    reasons = {record.cell["level"]: record.not_applicable for record in result.records}
    assert reasons == {None: None, 0.0: None, 0.25: "model tiny has no block 7", 0.5: "model tiny has no block 7"}
    again = run(model="tin*", **grid)
    assert (again.counters, again.reused) == (Counters(), 4)


def test_what_turns_out_to_make_no_sense_fails_where_it_was_asked_for_by_name(run, dataset):
    cannot = CapabilityError("model tiny has no block 7", hint="it has 2")
    result = run(model="tiny", dataset=dataset, probe="pixels", perturb=BreaksAt(0.25, cannot))
    assert [failure.message for failure in result.failures] == ["model tiny has no block 7\n  hint: it has 2"] * 2
    assert result.exit_code == 1


def test_missing_weights_stop_the_run_at_once(run, dataset, tmp_path):
    with pytest.raises(WeightsError, match="weights of weightless") as caught:
        run(model=["tiny", "weightless", "elsewhere"], dataset=dataset, probe="pixels")
    assert caught.value.exit_code == 4
    # What was finished before is kept.
    assert [record.cell["model"] for record in load_records(tmp_path / "out")] == ["tiny"]


def test_missing_weights_of_an_injected_model_stop_the_run_too(run, model, dataset):
    with pytest.raises(WeightsError, match="weights of weightless"):
        run(model=model, dataset=dataset, probe="pixels", perturb=["none", "guided:guide=weightless@0.5"])
    with pytest.raises(WeightsError, match="weights of weightless"):
        run(model=model, dataset=dataset, probe="centroid", support_perturb="guided:guide=weightless@0.5")


def test_fail_fast_stops_at_the_batch_in_which_a_cell_fails(run, model, dataset):
    grid = {
        "model": [model, TinyModel("second", seed=1)],
        "dataset": dataset,
        "probe": [BreakingProbe(ValueError("no"), position=10), "pixels"],
    }
    result = run(**grid, fail_fast=True)
    assert [failure.cell for failure in result.failures] == ["tiny / tints/query / none / breaking"]
    assert result.records == ()
    assert sum(model.metric_calls) == 16
    slow = run(**grid, out="slow")
    assert (len(slow.failures), len(slow.records)) == (2, 2)


def test_fail_fast_stops_before_the_walk_where_that_fails(run, model, dataset):
    result = run(model=model, dataset=dataset, probe=["pixels"], perturb=["none", BreaksAt(0.0)], fail_fast=True)
    assert len(result.failures) >= 1
    assert sum(model.metric_calls) <= 8


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"view": View(crop=8)}, ["entry or preset says view crop=16, the model itself says crop=8", "--registry"]),
        ({"label_space": "other"}, ["says label space shapes, the model itself says other"]),
    ],
)
def test_a_model_that_is_not_what_its_entry_says_gives_no_number(run, dataset, monkeypatch, card, words):
    monkeypatch.setattr(models, "make_tiny", lambda *, net, weights: TinyModel(**card))
    result = run(model="tiny", dataset=dataset, probe="pixels")
    (failure,) = result.failures
    assert all(word in failure.message for word in words), failure.message
    assert failure.trace is None
    assert dataset.loaded == []


# --- what is written


def test_a_record_says_on_what_it_ran(run, model, dataset):
    (record,) = run(model=model, dataset=dataset, probe="pixels", workers=1, batch_size=7).records
    environment = record.environment
    assert (environment["device"], environment["batch_size"], environment["workers"]) == ("cpu", 7, 1)
    assert environment["threads"] == torch.get_num_threads()
    assert environment["seconds"] > 0


def test_how_it_ran_is_in_no_key(run, dataset):
    grid = {"model": TinyModel(), "dataset": dataset, "probe": ["pixels", "centroid"], "perturb": "speckled@0.1"}
    one = run(**grid, batch_size=3, workers=2, checkpoint_every=1, out="one")
    two = run(**grid, batch_size=32, workers=0, out="two")
    assert [record.key for record in one.records] == [record.key for record in two.records]


def test_records_come_in_the_order_of_the_plan(run, plan, dataset):
    grid = {"model": ["elsewhere", "tiny"], "dataset": dataset, "probe": ["pixels", "agreement"], "perturb": "dimmed"}
    assert [r.key for r in run(**grid).records] == [cell.key for cell in plan(**grid).cells]


def test_each_record_is_on_disk_when_it_is_announced(bare_plan, dataset, tmp_path):
    seen = []

    def written(record):
        seen.append(record.key)
        assert record.key in {found.key for found in load_records(tmp_path)}
        assert (tmp_path / "outcomes" / f"{record.key[:16]}.parquet").is_file()

    plan = bare_plan(model="tiny", dataset=dataset, probe=["pixels", "toy_head"])
    with RecordStore(tmp_path) as store:
        execution = execute(plan, store, RunOptions(device="cpu", workers=0), written=written)
    assert not execution.failures
    assert seen == [cell.key for cell in plan.cells]


def test_cells_that_cannot_give_a_number_are_recorded_with_the_reason(run, dataset):
    result = run(model="elsew*", dataset=dataset, probe=["toy_head", "pixels"])
    refused, answered = result.records
    assert "imagenet1k" in refused.not_applicable
    assert (refused.measurements, answered.not_applicable) == ((), None)
    assert result.exit_code == 0
    again = run(model="elsew*", dataset=dataset, probe=["toy_head", "pixels"])
    assert (again.reused, again.counters) == (2, Counters())


def test_cells_that_cannot_give_a_number_build_nothing(run, dataset):
    run(model="unbuild*", dataset=tiny_dataset(label_space="other"), probe="toy_head")
    run(model="elsew*", dataset=dataset, probe="toy_head", out="other")
    assert models.built == []


def test_the_folder_of_a_run(run, model, dataset, tmp_path):
    result = run(model=model, dataset=dataset, probe=["pixels", "toy_head"], perturb=["none", "dimmed"])
    assert result.path == tmp_path / "out"
    raw = json.loads((result.path / "plan.json").read_text())
    assert len(raw["cells"]) == 8
    assert len((result.path / "records.jsonl").read_text().splitlines()) == 8
    assert len(list((result.path / "outcomes").iterdir())) == 8
    assert list(result.path.glob("checkpoints/*")) == []
    # Retention needs a classifier, which the probe of pixels is not.
    assert [summary.summary for summary in result.summaries] == ["retention"]


def test_a_summary_goes_with_the_numbers_it_came_from(run, model, dataset):
    result = run(model=model, dataset=dataset, probe="toy_head", perturb=["none", "dimmed@0.25,0.5"])
    (summary,) = result.summaries
    assert set(summary.records) == {record.key for record in result.records}
    clean = result.get(perturbation="none").get("accuracy").value
    half = result.get(level=0.5).get("accuracy").value
    (retention,) = [row for row in summary.measurements if row.metric == "retention" and row.dims["level"] == 0.5]
    assert retention.value == pytest.approx(half / clean)


# --- options


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": "many"},
        {"batch_size": 2.5},
        {"workers": -1},
        {"workers": "auto"},
        {"checkpoint_every": 0},
    ],
)
def test_options_that_make_no_sense(wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=name.replace("_", "-")):
        RunOptions(**wrong)


def test_a_device_that_is_not_there_stops_the_run(run, model, dataset):
    with pytest.raises(UsageError, match="device 'cuda:99' cannot be used"):
        run(model=model, dataset=dataset, probe="pixels", device="cuda:99")


def test_automatic_batch_size_holds_for_the_device(run, model, dataset):
    run(model=model, dataset=dataset, probe="pixels", batch_size="auto")
    assert model.metric_calls == [32, 1]


def test_models_are_walked_one_after_the_other(run):
    order = []

    class Noted(CountingDataset):
        def load(self, split, positions, view):
            order.append(split)
            return super().load(split, positions, view)

    class Built(TinyModel):
        def to(self, device):
            order.append(self.info.name)
            return super().to(device)

    run(model=[Built("one"), Built("two", seed=1)], dataset=Noted(), probe=CentroidProbe(), batch_size=33)
    assert order == ["one", "support", "query", "two", "support", "query"]


def test_an_instance_is_not_changed_by_a_run(run, model, dataset):
    perturbation = Dimmed()
    before = set(vars(perturbation))
    run(model=model, dataset=dataset, probe="pixels", perturb=(perturbation, 0.5))
    assert set(vars(perturbation)) == before


def test_lost_outcomes_are_made_anew_and_the_records_stand(run):
    asked = {"model": "tiny", "dataset": "tints", "probe": "pixels", "perturb": ["none", "dimmed"]}
    first = run(**asked)
    lines = (first.path / "records.jsonl").read_bytes()
    lost, *_ = sorted((first.path / "outcomes").iterdir())
    lost.unlink()
    again = run(**asked)
    assert lost.is_file()
    assert (first.path / "records.jsonl").read_bytes() == lines
    assert 0 < again.counters.forward_images < first.counters.forward_images
    assert [s.as_dict() for s in again.summaries] == [s.as_dict() for s in first.summaries]
    assert run(**asked).counters.decoded_images == 0


def test_a_checkpoint_of_another_device_or_library_is_not_gone_on_from(bare_plan):
    import torch

    from harness import engine

    (walk,) = bare_plan(model="tiny", dataset="tints", probe="pixels").passes
    here = engine._walk_here(walk, torch.device("cpu"))
    assert here == engine._walk_here(walk, torch.device("cpu"))
    assert here != engine._walk_here(walk, torch.device("cuda"))
