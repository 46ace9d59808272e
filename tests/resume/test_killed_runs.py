"""Runs killed by SIGKILL at chosen and at random moments end, started again, with the records of one left alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.checkpoints import load_all

# 61 images in batches of 8 are 8 batches; each model first sees its support images in 2 batches, then 7 forwards per
# batch: one clean (level 0 and the clean pass are one), three levels of two seeds. The first save is after batch 1.
MOMENTS = [
    # before any checkpoint
    pytest.param("in_forward", 2, False, id="while support features are extracted"),
    pytest.param("before_rename:.writing.", 1, False, id="before support features are in place"),
    pytest.param("in_checkpoint", 1, False, id="half way through writing the first checkpoint"),
    # after a checkpoint
    pytest.param("in_forward", 2 + 7 * 1 + 4, True, id="in the second batch"),
    pytest.param("in_forward", 2 + 7 * 7 + 6, True, id="in the last batch"),
    pytest.param("in_checkpoint", 4, True, id="half way through replacing a checkpoint"),
    pytest.param("before_rename:.safetensors", 5, True, id="before a checkpoint is in place"),
    pytest.param("before_rename:.parquet", 3, True, id="before outcomes are in place"),
    pytest.param("before_record", 4, True, id="between outcomes and their record"),
    pytest.param("in_record", 5, True, id="half way through a record"),
    pytest.param("after_record", 1, True, id="after the first record, its checkpoint still there"),
    pytest.param("after_record", 16, True, id="after the last record of the first model, its checkpoint still there"),
    pytest.param("before_checkpoint_removal", 1, True, id="between the last record and the removal of its checkpoint"),
    pytest.param("in_forward", 2 + 56 + 2 + 7 * 3 + 2, True, id="in a batch of the second model"),
    pytest.param("before_rename:summaries", 1, True, id="before the summaries are in place"),
]


def lines_without_environment(out: Path) -> list[str]:
    """The lines of records.jsonl as they are on disk, byte by byte, up to the environment block that ends them."""
    lines = []
    for line in (out / "records.jsonl").read_text(encoding="ascii").splitlines():
        head, separator, tail = line.partition(',"environment":')
        assert separator
        assert json.loads(tail[:-1])["device"] == "cpu"
        lines.append(head)
    return lines


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_results(out: Path, expected: Path) -> None:
    assert lines_without_environment(out) == lines_without_environment(expected)
    assert (out / "summaries.jsonl").read_bytes() == (expected / "summaries.jsonl").read_bytes()
    assert (out / "plan.json").read_bytes() == (expected / "plan.json").read_bytes()
    # The same names, so also: no temporary file, no checkpoint left.
    assert files(out) == files(expected)
    for path in sorted((expected / "outcomes").iterdir()):
        ours, theirs = pq.read_table(out / "outcomes" / path.name), pq.read_table(path)
        assert ours.equals(theirs, check_metadata=True)


def assert_nothing_left_behind(out: Path, cache: Path) -> None:
    assert not any((out / "checkpoints").glob("*"))
    assert not any((out / "checkpoints").glob(".*"))
    assert not [name for name in files(out) if ".tmp" in name]
    assert not [path.name for path in (cache / "features").iterdir() if path.name.startswith(".")]


def test_the_uninterrupted_run_is_worth_comparing_with(uninterrupted: Any) -> None:
    # 2 models x 2 probes x (the clean pass, levels 0 to 0.75 of two seeds)
    assert len(lines_without_environment(uninterrupted.out)) == 2 * 2 * 9
    assert uninterrupted.answer["forward_images"] == 2 * (16 + 61 * 7)
    assert len((uninterrupted.out / "summaries.jsonl").read_text().splitlines()) == 4
    accuracies = {
        row["value"]
        for line in (uninterrupted.out / "records.jsonl").read_text().splitlines()
        for row in json.loads(line)["measurements"]
        if row["metric"] in ("top1", "accuracy")
    }
    assert len(accuracies) > 10
    assert_nothing_left_behind(uninterrupted.out, uninterrupted.out.with_name("out-cache"))


@pytest.mark.parametrize(("moment", "count", "after_checkpoint"), MOMENTS)
def test_a_killed_run_ends_with_the_same_records(
    run: Any, uninterrupted: Any, tmp_path: Path, moment: str, count: int, after_checkpoint: bool
) -> None:
    out = tmp_path / "out"
    killed = run(out, moment=moment, count=count)
    assert killed.killed, killed.stderr
    before = set(files(out))
    saved = load_all(out)
    assert saved.damaged == ()
    recorded = (out / "records.jsonl").read_bytes().count(b"\n")
    assert bool(saved.checkpoints or recorded) == after_checkpoint
    if moment.startswith("after_record") or moment == "before_checkpoint_removal":
        assert recorded
        assert saved.checkpoints
    resumed = run(out, batch_size="auto", checkpoint_every="auto")
    assert_same_results(out, uninterrupted.out)
    assert_nothing_left_behind(out, tmp_path / "out-cache")
    assert resumed.answer["reused"] == recorded
    assert "damaged" not in resumed.stderr
    whole = uninterrupted.answer["forward_images"]
    if after_checkpoint:
        assert resumed.answer["forward_images"] < whole
    else:
        assert resumed.answer["forward_images"] <= whole
    assert before  # the killed run had begun to write


@pytest.mark.parametrize("number", range(4))
def test_a_run_killed_at_any_time_ends_with_the_same_records(
    run: Any, uninterrupted: Any, tmp_path: Path, number: int
) -> None:
    """Again and again, until one comes through: every start gets further, however often it is killed."""
    out = tmp_path / "out"
    times = random.Random(number)
    kills = 0
    while kills < 6:
        ended = run(
            out,
            kill_after_s=times.uniform(0.05, 1.2) * uninterrupted.answer["seconds"],
            batch_size=8 if kills == 0 else "auto",
        )
        if not ended.killed:
            break
        kills += 1
    run(out, batch_size="auto")
    assert_same_results(out, uninterrupted.out)
    assert_nothing_left_behind(out, tmp_path / "out-cache")
    assert run(out).answer["forward_images"] == 0
