"""Baselines: the same cells of a named model beside the others', remembered by the folder and handed to summaries."""

from __future__ import annotations

import json

import pytest
from engine_doubles import models
from engine_doubles.data import CountingDataset
from engine_doubles.models import TinyModel

from harness.baseline_log import note_baselines, read_baselines
from harness.entries import SummaryEntry
from harness.errors import CapabilityError, ParameterError, RecordsError, UsageError
from harness.records import load_records
from harness.summaries import summarise
from harness.types import Measurement

GRID = {"dataset": "tints", "probe": "toy_head", "perturb": ["none", "smeared@0.25,0.5", "holed@0.5"]}


def by_key(plan):
    return {cell.key: cell for cell in plan.cells}


def test_clean_and_baselined_cells_get_the_same_cell_of_the_baseline(plan):
    found = plan(model="tiny", baseline="tiny:net=2", **GRID)
    cells = by_key(found)
    compared = [cell for cell in found.asked if cell.perturbation.use in ("none", "smeared")]
    assert set(found.baselines) == {cell.key for cell in compared}
    for cell in compared:
        other = cells[found.baselines[cell.key]["tiny"]]
        assert other.model.identity == {"net": 2}
        assert {**cell.as_dict(), "model": 0, "components": 0} == {**other.as_dict(), "model": 0, "components": 0}
        assert other.key in found.control_keys
    assert len(found.cells) == len(found.asked) + len(compared)


def test_the_baseline_reads_the_pixels_of_the_evaluated_model(plan):
    found = plan(model="tiny", baseline="tiny:net=2", view="resize=30,crop=20", **GRID)
    assert {cell.view.text for cell in found.cells} == {found.cells[0].view.text}


def test_a_baseline_that_was_asked_for_itself_is_no_extra_cell(plan):
    found = plan(model=["tiny", "tiny:net=2"], baseline="tiny:net=2", **GRID)
    assert found.control_keys == frozenset()
    assert len(found.cells) == 2 * 4


def test_nothing_to_compare_is_said(plan):
    with pytest.raises(UsageError, match="nothing that was asked for is read against a baseline"):
        plan(model="tiny", dataset="tints", probe="toy_head", perturb="holed@0.5", baseline="tiny:net=2")


def test_a_baseline_that_cannot_be_asked_is_named(plan):
    with pytest.raises(CapabilityError, match="--baseline headless: probe toy_head needs logits"):
        plan(model="tiny", baseline="headless", **GRID)


class Ratios:
    """How many records stand beside each, and whose."""

    def compute(self, group, clean):
        rows = [given for given in (clean, *group) if given is not None]
        return [
            Measurement(
                metric="ratio",
                value=given.baselines[name].record.get("accuracy").value,
                n=1,
                dims={"level": given.record.cell["level"], "baseline": name},
            )
            for given in rows
            for name in given.baselines
        ]


def test_a_summary_gets_what_the_baseline_answered(run):
    result = run(model="tiny", baseline="tiny:net=2", **GRID)
    folder = result.path
    entry = SummaryEntry(
        name="ratios", target="x:Y", summary="-", consumes=("perturbation", "level", "seed"), baselined=True
    )
    asked = {record.key for record in result.asked}
    found = summarise(
        load_records(folder), lambda record: None, [entry], lambda entry: Ratios(), read_baselines(folder)
    )
    (mine,) = [summary for summary in found if summary.records[-1] in asked]
    baseline = run(model="tiny:net=2", out="alone", **{**GRID, "perturb": ["none", "smeared@0.25,0.5"]})
    expected = {r.cell["level"]: r.get("accuracy").value for r in baseline.records}
    assert {row.dims["level"]: row.value for row in mine.measurements} == expected
    assert len(mine.records) == len(set(mine.records)) == 4 + 3
    # Without the flag of its entry a summary knows nothing of baselines.
    plain = SummaryEntry(name="ratios", target="x:Y", summary="-", consumes=("perturbation", "level", "seed"))
    assert summarise(load_records(folder), lambda r: None, [plain], lambda e: Ratios(), read_baselines(folder)) == []


def test_records_of_baselines_are_not_among_those_asked(run):
    result = run(model="tiny", baseline="tiny:net=2", **GRID)
    assert len(result.asked) == 4
    assert len(result.records) == 7
    again = run(model="tiny", baseline="tiny:net=2", **GRID)
    assert again.counters.forward_passes == 0
    without = run(model="tiny", **GRID)
    assert without.counters.forward_passes == 0
    assert len(read_baselines(result.path)) == 3


def test_the_folder_remembers_every_baseline_once(tmp_path):
    note_baselines(tmp_path, {"a": {"x": "1"}})
    note_baselines(tmp_path, {"a": {"x": "1"}})
    note_baselines(tmp_path, {"a": {"y": "2"}, "b": {"x": "3"}})
    note_baselines(tmp_path, {})
    assert read_baselines(tmp_path) == {"a": {"x": "1", "y": "2"}, "b": {"x": "3"}}
    assert len((tmp_path / "baselines.jsonl").read_text().splitlines()) == 2
    (tmp_path / "baselines.jsonl").write_text('{"a": {"x": "1"}}\n[1]\n')
    with pytest.raises(RecordsError, match=r"baselines\.jsonl:2"):
        read_baselines(tmp_path)


# --- datasets that come at levels, with pixels of their own size


def test_a_dataset_at_levels_is_a_dataset_for_each(plan):
    found = plan(model="tiny", dataset="graded@all", probe="toy_head")
    assert [cell.dataset.ref.params["grade"] for cell in found.cells] == [1, 2, 3]
    some = plan(model="tiny", dataset="graded@3,1", probe="toy_head")
    assert [cell.dataset.ref.params["grade"] for cell in some.cells] == [3, 1]
    assert some.cells[1].key == plan(model="tiny", dataset="graded:grade=1", probe="toy_head").cells[0].key


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("graded@4", r"grade must lie in \[1, 3\], not 4"),
        ("graded@1.5", "grade must be a whole number, not 1.5"),
        ("graded:grade=1@2", "grade is given twice"),
        ("tints@1", "dataset tints has no levels"),
    ],
)
def test_levels_that_a_dataset_has_not_are_refused(plan, text, words):
    with pytest.raises(ParameterError, match=words):
        plan(model="tiny", dataset=text, probe="toy_head")


def test_images_stored_ready_to_use_keep_their_own_view(plan):
    assert plan(model="tiny", dataset="graded@1", probe="toy_head").cells[0].view.text == "crop=12"
    assert plan(model="tiny", dataset="graded@1", probe="toy_head", view="crop=16").cells[0].view.text == "crop=16"


def test_a_baseline_of_a_dataset_needs_no_perturbation(plan):
    found = plan(model="tiny", dataset="graded@all", probe="toy_head", baseline="tiny:net=2")
    assert len(found.baselines) == 3


class Counted:
    def compute(self, group, clean):
        return [Measurement(metric="datasets", value=len(group), n=len(group))]


def test_a_summary_over_datasets_gets_the_clean_cells_of_all(run):
    result = run(
        model="tiny", dataset=["graded@all", CountingDataset()], probe="toy_head", perturb=["none", "holed@0.5"]
    )
    entry = SummaryEntry(name="counted", target="x:Y", summary="-", consumes=("dataset",), requires_clean=False)
    found = summarise(result.records, lambda record: None, [entry], lambda entry: Counted())
    counts = {
        summary.group["perturbation"]: (summary.measurements[0].value, summary.group.get("fingerprint"))
        for summary in found
    }
    assert counts == {"none": (4, None), "holed": (4, None)}
    json.dumps([summary.as_dict() for summary in found])


def test_own_models_may_be_baselines(run):
    result = run(model=TinyModel(), baseline=TinyModel("other", seed=5), **GRID)
    assert {record.cell["model"] for record in result.records} == {"tiny", "other"}


def test_many_kinds_of_one_dataset_are_rows_of_one_table(run):
    result = run(model=["tiny", "tiny:net=2"], dataset=["graded@all"], probe="toy_head")
    (table,) = result.tables()[:1]
    assert table.header[0] == "dataset"
    assert [row[0] for row in table.rows] == ["graded", "graded:grade=2", "graded:grade=3"]
    assert all(all(row) for row in table.rows)
    two = run(model="tiny", dataset=["graded@1,2"], probe="toy_head", out="two")
    assert len(two.tables()) == 2
    mixed = run(model="tiny", dataset=["graded@all"], probe="toy_head", perturb=["none", "holed@0.5"], out="mixed")
    assert [table.header[0] for table in mixed.tables()[:3]] == ["perturbation"] * 3


def test_images_ready_to_use_are_not_resized_again_and_the_plan_says_so(plan):
    with pytest.raises(UsageError, match=r"ready to use, and view .* would resize them again"):
        plan(model="tiny", dataset="graded@1", probe="toy_head", view="resize=20,crop=12")


def test_a_model_asked_about_several_datasets_is_built_once(run):
    run(model=["tiny", "tiny:net=1"], dataset=["graded@all", "tints"], probe="toy_head")
    assert models.built == ["tiny:0:pretrained", "tiny:1:pretrained"]
