"""What a resumed run takes over from a checkpoint, what it does not, and what it says of it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from harness.checkpoints import checkpoint_path, load_all
from harness.errors import RecordsError
from harness.feature_cache import FeatureCache
from harness.records import RecordStore
from harness.run_folder import discard_abandoned, is_writer_gone, writer_tag

ONE = {"models": [1], "perturbations": ["patchdrop_random:grid=4@0.25,0.5"], "seeds": [0]}
"""One model; with the clean pass that the summary asks for, 3 forwards for each of 61 images; 16 support images."""

SUPPORT_BATCHES = 2
"""Of 8 images, before the walk begins."""


def numbers(out: Path) -> dict[str, str]:
    """Every record by key, without its environment."""
    found = {}
    for line in (out / "records.jsonl").read_text(encoding="ascii").splitlines():
        raw = json.loads(line)
        del raw["environment"]
        assert raw["key"] not in found
        found[raw["key"]] = json.dumps(raw)
    return found


def environments(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["environment"] for line in (out / "records.jsonl").read_text().splitlines()]


def checkpoints_left(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("*"))


def kill_in_batch(run: Any, out: Path, batch: int, **changes: Any) -> None:
    """Kill the run of one model in its given batch, counted from 1, between two forwards."""
    count = SUPPORT_BATCHES + 3 * (batch - 1) + 2
    ended = run(out, **{**ONE, "moment": "in_forward", "count": count, **changes})
    assert ended.killed, ended.stderr


def test_only_the_batches_since_the_checkpoint_are_lost(run: Any, tmp_path: Path) -> None:
    kill_in_batch(run, tmp_path / "out", 6, checkpoint_every=2)
    assert load_all(tmp_path / "out").checkpoints[0].offset == 4 * 8
    resumed = run(tmp_path / "out", batch_size="auto", **ONE).answer
    assert resumed["forward_images"] == (61 - 32) * 3
    assert resumed["decoded_images"] == 61 - 32
    assert resumed["cached_tables"] == 1


def test_the_batch_size_and_the_threads_are_those_of_the_checkpoint(run: Any, tmp_path: Path) -> None:
    kill_in_batch(run, tmp_path / "out", 4, threads=2)
    resumed = run(tmp_path / "out", batch_size="auto", threads=1, **ONE).answer
    assert resumed["forwards"] == [[8, 2]] * (4 * 3) + [[5, 2]] * 3
    assert resumed["threads_after"] == 1
    assert {(block["batch_size"], block["threads"]) for block in environments(tmp_path / "out")} == {(8, 2)}


def test_a_batch_size_halved_for_lack_of_memory_is_resumed_halved(run: Any, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", memory_images=4, **ONE)
    assert "out of memory" in whole.stderr
    ended = run(tmp_path / "out", memory_images=4, moment="before_rename:.safetensors", count=5, **ONE)
    assert ended.killed
    resumed = run(tmp_path / "out", batch_size="auto", **ONE).answer
    assert max(images for images, _ in resumed["forwards"]) == 4
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


def test_cells_asked_for_after_the_kill_start_anew_and_the_others_go_on(run: Any, tmp_path: Path) -> None:
    kill_in_batch(run, tmp_path / "out", 6, probes=["head"], count=3 * 5 + 2)
    more = {**ONE, "perturbations": ["patchdrop_random:grid=4@0.25,0.5,0.75"]}
    assert load_all(tmp_path / "out").checkpoints[0].offset == 40
    resumed = run(tmp_path / "out", batch_size="auto", **more).answer
    # The three old cells of the head go on; its new level and all of the few-shot probe see every image, and 16 more.
    assert resumed["forward_images"] == 3 * (61 - 40) + 4 * 61 + 16
    run(tmp_path / "whole", **more)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")
    assert (tmp_path / "out/summaries.jsonl").read_bytes() == (tmp_path / "whole/summaries.jsonl").read_bytes()
    assert checkpoints_left(tmp_path / "out") == []


def test_cells_no_longer_asked_for_keep_their_place(run: Any, tmp_path: Path) -> None:
    kill_in_batch(run, tmp_path / "out", 6)
    fewer = run(tmp_path / "out", batch_size="auto", **{**ONE, "probes": ["head"]}).answer
    assert fewer["forward_images"] == 3 * (61 - 40)
    assert len(checkpoints_left(tmp_path / "out")) == 1
    rest = run(tmp_path / "out", batch_size="auto", **ONE).answer
    assert rest["reused"] == 3
    assert rest["forward_images"] == 3 * (61 - 40)
    run(tmp_path / "whole", **ONE)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")
    assert checkpoints_left(tmp_path / "out") == []


def test_of_two_checkpoints_of_a_cell_the_later_counts(run: Any, tmp_path: Path) -> None:
    """A resumed walk of fewer cells saves under another name; killed before the first file went, it leaves both."""
    kill_in_batch(run, tmp_path / "out", 3)
    ended = run(tmp_path / "out", moment="before_checkpoint_drop", count=1, **{**ONE, "probes": ["head"]})
    assert ended.killed
    assert sorted(found.offset for found in load_all(tmp_path / "out").checkpoints) == [16, 24]
    resumed = run(tmp_path / "out", batch_size="auto", **ONE).answer
    assert resumed["forward_images"] == 3 * (61 - 24) + 3 * (61 - 16)
    run(tmp_path / "whole", **ONE)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")
    assert checkpoints_left(tmp_path / "out") == []


def test_a_checkpoint_of_other_images_is_left_alone(run: Any, tmp_path: Path) -> None:
    kill_in_batch(run, tmp_path / "out", 5)
    kept = checkpoints_left(tmp_path / "out")
    other = run(tmp_path / "out", **{**ONE, "images": 60}).answer
    assert other["forward_images"] == 16 + 3 * 60
    assert checkpoints_left(tmp_path / "out") == kept
    assert run(tmp_path / "out", **ONE).answer["forward_images"] == 3 * (61 - 32)
    assert checkpoints_left(tmp_path / "out") == []


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_a_damaged_checkpoint_is_reported_and_the_walk_starts_anew(run: Any, tmp_path: Path, damage: str) -> None:
    kill_in_batch(run, tmp_path / "out", 5)
    path = checkpoint_path(tmp_path / "out", load_all(tmp_path / "out").checkpoints[0].pass_id)
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-7], "foreign": b"no checkpoint" * 9, "empty": b""}[damage])
    resumed = run(tmp_path / "out", **ONE)
    assert resumed.stderr.count(str(path)) == 1
    assert "starts anew" in resumed.stderr
    assert resumed.answer["forward_images"] == 3 * 61
    run(tmp_path / "whole", **ONE)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")
    assert checkpoints_left(tmp_path / "out") == []


def test_an_interrupted_run_ends_with_130_keeps_its_records_and_can_go_on(run: Any, tmp_path: Path) -> None:
    per_model = SUPPORT_BATCHES + 3 * 8
    asked = {**ONE, "models": [1, 2]}
    ended = run(tmp_path / "out", check=False, interrupt_at=per_model + SUPPORT_BATCHES + 3 * 4 + 1, **asked)
    assert ended.status == 130
    assert "Traceback" not in ended.stderr
    assert len(numbers(tmp_path / "out")) == 6
    resumed = run(tmp_path / "out", batch_size="auto", **asked).answer
    assert resumed["reused"] == 6
    assert resumed["forward_images"] == 3 * (61 - 32)
    run(tmp_path / "whole", **asked)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


def test_a_second_writer_is_refused_and_told_by_whom(run: Any, tmp_path: Path) -> None:
    with RecordStore(tmp_path / "out"):
        ended = run(tmp_path / "out", check=False, **ONE)
    assert ended.status == 2
    assert f"process {os.getpid()} on {socket.gethostname()}" in ended.stderr
    assert run(tmp_path / "out", **ONE).answer["reused"] == 0


def test_a_second_writer_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with RecordStore(tmp_path / "out"), pytest.raises(RecordsError, match=str(os.getpid())):
        RecordStore(tmp_path / "out")


def test_what_a_living_process_writes_is_not_taken_for_a_leftover(run: Any, tmp_path: Path) -> None:
    """The writer's own process and another one of this host live; one that has ended does not."""
    host = writer_tag().rpartition(".")[0]
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert is_writer_gone(f".plan.json.{host}.{pid}")
    for alive in (writer_tag(), f"{host}.{os.getppid()}", f"elsewhere.{pid}", f"{host}.x", "", f"else-{host}.{pid}"):
        assert not is_writer_gone(alive)
    out, features = tmp_path / "out", tmp_path / "features"
    out.mkdir()
    (out / f".plan.json.{writer_tag()}.tmp").touch()
    (out / f".plan.json.{host}.{pid}.tmp").touch()
    discard_abandoned(out)
    assert [path.name for path in out.iterdir()] == [f".plan.json.{writer_tag()}.tmp"]
    mine = FeatureCache(features).writer("mine")
    (features / f".writing.{host}.{pid}-x7").mkdir()
    FeatureCache(features).writer("another").discard()
    assert [path.name.rpartition("-")[0] for path in features.iterdir()] == [f".writing.{writer_tag()}"]
    mine.discard()
