"""The driver of summaries: which records belong together, what is passed over, and the file of what came out."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.entries import SummaryEntry
from harness.errors import PluginError, RecordsError
from harness.outcome_files import read_outcomes, write_outcomes
from harness.params import param
from harness.protocols import Outcomes, SummaryInput
from harness.records import RecordStore
from harness.summaries import load_summaries, summarise, write_summaries
from harness.types import Measurement, ResultRecord, SummaryRecord, digest

RETENTION = SummaryEntry(
    name="retention", target="harness.retention:Retention", summary="retention", consumes=("level", "seed")
)
IMAGES = 12


def make_record(
    perturbation: str = "drop", level: float | None = 0.5, seed: int | None = 0, **changes: Any
) -> ResultRecord:
    clean = perturbation == "none"
    cell: dict[str, Any] = {
        "model": "vit_b16",
        "weights": "pretrained:augreg",
        "dataset": "digits",
        "split": "test",
        "fingerprint": "f0",
        "limit": None,
        "label_space": "digits",
        "num_classes": 10,
        "view": "crop=224",
        "support": None,
        "perturbation": perturbation,
        "level": None if clean else level,
        "probe": "head",
        "seeds": {"perturb": None if clean else seed, "support_perturb": None, "probe": None},
        "precision": "fp32",
        "components": {
            role: {"use": use, "version": 1, "params": {}}
            for role, use in (
                ("model", "timm"),
                ("dataset", "digits"),
                ("perturbation", perturbation),
                ("probe", "head"),
            )
        },
    }
    for path, value in changes.items():
        *above, last = path.split("__")
        place = cell
        for name in above:
            place = place[name]
        place[last] = value
    for component in cell["components"].values():
        component.setdefault("fingerprint", digest(component)[:16])
    return ResultRecord(key=digest(cell), cell=cell)


def make_outcomes(record: ResultRecord) -> Outcomes:
    level = record.cell["level"] or 0.0
    correct = np.arange(IMAGES) < round(IMAGES * (1 - level))
    return Outcomes(
        positions=np.arange(IMAGES),
        variants=({},),
        columns={"correct": correct[None], "information_loss": np.full((1, IMAGES), level)},
    )


@dataclass
class Recording:
    """A summary that says what it was given."""

    seen: list[tuple[list[tuple[str, float | None, int | None]], str | None]]

    def compute(self, group: Sequence[SummaryInput], clean: SummaryInput | None) -> list[Measurement]:
        points = [
            (i.record.cell["perturbation"], i.record.cell["level"], i.record.cell["seeds"]["perturb"]) for i in group
        ]
        self.seen.append((points, None if clean is None else clean.record.cell["perturbation"]))
        return [Measurement(metric="cells", value=float(len(group)), n=len(group))]


def groups(
    records: Sequence[ResultRecord], **entry: Any
) -> tuple[list[tuple[list[tuple[str, float | None, int | None]], str | None]], list[SummaryRecord]]:
    recording = Recording(seen=[])
    made = SummaryEntry(**({"name": "seen", "target": "a:b", "summary": "what was seen"} | entry))
    return recording.seen, summarise(records, make_outcomes, [made], build=lambda _: recording)


SWEEP = [make_record(level=level, seed=seed) for level in (0.25, 0.5) for seed in (0, 1)]
CLEAN = make_record("none")


# --- grouping --------------------------------------------------------------------------------------------------


def test_levels_and_seeds_of_one_sweep_are_one_group_with_its_clean_record() -> None:
    seen, (summary,) = groups([*SWEEP, CLEAN])
    assert seen == [([("drop", 0.25, 0), ("drop", 0.25, 1), ("drop", 0.5, 0), ("drop", 0.5, 1)], "none")]
    assert summary.summary == "seen"
    assert summary.records == (CLEAN.key, *(record.key for record in SWEEP))
    assert summary.group["perturbation"] == "drop"
    assert summary.group["seeds"] == {"support_perturb": None, "probe": None}
    assert {"model", "dataset", "split", "view", "probe", "support", "weights", "components"} <= set(summary.group)
    assert "level" not in summary.group


def test_an_axis_that_is_not_consumed_separates() -> None:
    seen, summaries = groups([*SWEEP, CLEAN], consumes=("level",))
    assert sorted([seed for _, _, seed in points] for points, _ in seen) == [[0, 0], [1, 1]]
    assert [summary.group["seeds"]["perturb"] for summary in summaries] == [0, 1]  # type: ignore[index, call-overload]
    other = [make_record("blur", level=level) for level in (0.25, 0.5)]
    seen, summaries = groups([*SWEEP, *other, CLEAN], consumes=("level", "seed", "perturbation"))
    ((points, _),) = seen
    assert {name for name, _, _ in points} == {"drop", "blur"}
    assert "perturbation" not in summaries[0].group
    assert "perturbation" not in summaries[0].group["components"]  # type: ignore[operator]


DIFFERENCES: list[dict[str, Any]] = [
    {"components__model__params": {"arch": "other"}},
    {"components__probe__version": 2},
    {"weights": "random:x:0"},
    {"fingerprint": "f1"},
    {"split": "train"},
    {"limit": 100},
    {"view": "crop=192"},
    {"precision": "bf16"},
    {"seeds__probe": 7},
    {"seeds__support_perturb": 7},
    {"support": {"perturbation": "none", "level": None, "split": "train"}},
]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda d: next(iter(d)))
def test_every_other_axis_keeps_groups_and_clean_records_apart(difference: dict[str, Any]) -> None:
    elsewhere = [make_record(level=level, **copy.deepcopy(difference)) for level in (0.25, 0.5)]
    seen, _ = groups([*SWEEP, *elsewhere, CLEAN])
    assert len(seen) == 1
    assert len(seen[0][0]) == len(SWEEP)
    seen, summaries = groups([*SWEEP, *elsewhere, CLEAN, make_record("none", **copy.deepcopy(difference))])
    assert len(seen) == len(summaries) == 2
    assert summaries[0].group != summaries[1].group


def test_one_component_under_two_names_is_one_group() -> None:
    aliased = [make_record(level=0.75, perturbation="drop", components__perturbation__use="drop")]
    aliased[0].cell["perturbation"] = "patchdrop_preset"  # type: ignore[index]
    seen, (summary,) = groups([*SWEEP, *aliased, CLEAN])
    assert len(seen[0][0]) == len(SWEEP) + 1
    assert summary.group["perturbation"] in ("drop", "patchdrop_preset")


def test_a_component_that_tells_its_fingerprint_is_known_by_it() -> None:
    """So that a folder that moved, whose place stands among the parameters, stays the same dataset."""
    here = {"use": "folder", "version": 1, "params": {"root": "/a"}, "fingerprint": "same"}
    there = here | {"params": {"root": "/b"}}
    clean = make_record("none", components__dataset=here)
    sweep = [make_record(level=level, components__dataset=there) for level in (0.25, 0.5)]
    assert len(groups([clean, *sweep])[1]) == 1


# --- what is passed over ---------------------------------------------------------------------------------------


def test_min_cells_counts_levels_not_seeds() -> None:
    one_level = [make_record(level=0.5, seed=seed) for seed in (0, 1, 2)]
    assert groups([*one_level, CLEAN])[1] == []
    assert len(groups([*one_level, CLEAN], min_cells=1)[1]) == 1
    assert len(groups([*one_level, make_record(level=0.75), CLEAN])[1]) == 1


def test_a_missing_clean_record_passes_the_group_over_only_where_it_is_required() -> None:
    assert groups(SWEEP)[1] == []
    seen, summaries = groups(SWEEP, requires_clean=False)
    assert seen[0][1] is None
    assert len(summaries[0].records) == len(SWEEP)


def test_clean_records_are_no_sweep_of_their_own_and_rows_without_numbers_count_nowhere() -> None:
    assert groups([CLEAN], min_cells=1)[1] == []
    refused = [ResultRecord(key=record.key, cell=record.cell, not_applicable="no head") for record in (*SWEEP, CLEAN)]
    assert groups(refused, requires_clean=False)[1] == []


def test_a_duplicate_key_counts_once() -> None:
    seen, _ = groups([*SWEEP, *SWEEP, CLEAN, CLEAN])
    assert len(seen[0][0]) == len(SWEEP)


# --- summaries of others ---------------------------------------------------------------------------------------


@dataclass
class Failing:
    """A summary with a bug."""

    def compute(self, group: Sequence[SummaryInput], clean: SummaryInput | None) -> list[Measurement]:
        return [1 / 0]  # type: ignore[list-item]


@dataclass(frozen=True, kw_only=True)
class ThresholdParams:
    threshold: float = param(0.25, help="of accuracy")


class NoCompute:
    """Not a summary."""


def test_a_summary_that_fails_is_named_with_its_group() -> None:
    entry = SummaryEntry(name="faulty", target="a:b", summary="fails")
    with pytest.raises(PluginError, match=r"faulty.*vit_b16.*ZeroDivisionError"):
        summarise([*SWEEP, CLEAN], make_outcomes, [entry], build=lambda _: Failing())


def test_a_target_is_built_with_its_default_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    built: list[float] = []

    class Threshold(Recording):
        def __init__(self, threshold: float) -> None:
            super().__init__(seen=[])
            built.append(threshold)

    module = types.ModuleType("a_plugin_of_somebody")
    module.Threshold = Threshold  # type: ignore[attr-defined]
    module.NoCompute = NoCompute  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = SummaryEntry(name="t", target="a_plugin_of_somebody:Threshold", summary="t", params=ThresholdParams)
    assert len(summarise([*SWEEP, CLEAN], make_outcomes, [entry])) == 1
    assert built == [0.25]
    entry = SummaryEntry(name="t", target="a_plugin_of_somebody:NoCompute", summary="t")
    with pytest.raises(PluginError, match=r"NoCompute without compute"):
        summarise([], make_outcomes, [entry])
    entry = SummaryEntry(name="t", target="no_such_module_anywhere:X", summary="t")
    with pytest.raises(PluginError, match="no_such_module_anywhere"):
        summarise([], make_outcomes, [entry])


# --- the whole way ---------------------------------------------------------------------------------------------


def test_from_an_output_folder_to_retention_and_back(tmp_path: Path) -> None:
    ids = [f"{i}.png" for i in range(IMAGES)]
    with RecordStore(tmp_path) as store:
        for record in (*SWEEP, CLEAN):
            outcomes = make_outcomes(record)
            losses = outcomes.columns["information_loss"][0]
            kept = Outcomes(
                positions=outcomes.positions,
                variants=outcomes.variants,
                columns={"correct": outcomes.columns["correct"]},
            )
            write_outcomes(tmp_path, record.key, kept, ids, realised={"information_loss": losses})
            store.append(record)
        records = store.records()

    def load(record: ResultRecord) -> Outcomes:
        return read_outcomes(tmp_path, record.key).with_realised

    summaries = summarise(records, load, [RETENTION])
    (summary,) = summaries
    (area,) = [m for m in summary.measurements if m.metric == "retention_area"]
    assert area.value == pytest.approx((0.25 * (1 + 0.75) / 2 + 0.25 * (0.75 + 0.5) / 2) / 0.5)
    assert area.dims == {"axis": "information_loss"}
    write_summaries(tmp_path, summaries)
    assert load_summaries(tmp_path) == load_summaries(tmp_path / "summaries.jsonl")
    (read,) = load_summaries(tmp_path)
    assert (read.summary, read.version, read.records) == ("retention", 1, summary.records)
    assert read.measurements == summary.measurements
    assert read.group == json.loads(json.dumps(summary.group))


def test_deriving_again_gives_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = [*SWEEP, CLEAN]
    records += [make_record(level=record.cell["level"], seed=3, weights="random:x:0") for record in SWEEP[::2]]
    records.append(make_record("none", weights="random:x:0"))
    contents = set()
    for order in range(3):
        random.Random(order).shuffle(records)
        write_summaries(tmp_path, summarise(records, make_outcomes, [RETENTION]))
        contents.add((tmp_path / "summaries.jsonl").read_bytes())
    (content,) = contents
    assert content.count(b"\n") == 2
    assert list(json.loads(content.splitlines()[0])) == [
        "schema",
        "summary",
        "version",
        "group",
        "records",
        "measurements",
    ]


def test_the_file_is_replaced_whole_and_refuses_what_is_not_finite(tmp_path: Path) -> None:
    good = SummaryRecord(summary="s", version=1, group={}, records=("k",), measurements=())
    write_summaries(tmp_path, [good, good])
    write_summaries(tmp_path, [good])
    assert load_summaries(tmp_path) == [good]
    bad = SummaryRecord(
        summary="s", version=1, group={}, records=(), measurements=(Measurement(metric="m", value=float("nan"), n=1),)
    )
    with pytest.raises(RecordsError, match="metric m"):
        write_summaries(tmp_path, [bad])
    assert load_summaries(tmp_path) == [good]


def test_reading_tells_what_is_wrong_where(tmp_path: Path) -> None:
    assert load_summaries(tmp_path) == []
    with pytest.raises(RecordsError, match="cannot read"):
        load_summaries(tmp_path / "missing.jsonl")
    file = tmp_path / "summaries.jsonl"
    for content, message in (
        ("{}\n", "schema None"),
        ("[]\n", "is not a summary"),
        ('{"schema":1,"summary":"s"}\n', "is not a summary"),
        ('{"schema":2}\n', "schema 2"),
        ("{\n", "is not a summary"),
    ):
        file.write_text(content)
        with pytest.raises(RecordsError, match=f"summaries.jsonl:1.*{message}"):
            load_summaries(tmp_path)
