"""``harness run``: results on stdout, everything else on stderr, and an exit code that says how it went."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine_doubles import models, plugin

from harness import manager
from harness.cli import main
from harness.discovery import FoundPlugin
from harness.records import load_records

TINY = ("run", "-m", "tiny", "-d", "tints", "--device", "cpu", "-b", "8", "-j", "0")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def harness(capsys, monkeypatch, tmp_path):
    """Run the command in this process, with the doubles as the only installed plugin and ``tmp_path`` as its folder."""
    found = FoundPlugin(name="doubles", load=lambda: plugin, distribution="doubles", version="1")
    monkeypatch.setattr(manager, "installed_plugins", lambda: ([found], []))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        text = capsys.readouterr()
        return Answer(code=ended.value.code, out=text.out, err=text.err)

    return call


# --- results


def test_tables_go_to_stdout_and_the_rest_to_stderr(harness, tmp_path):
    answer = harness(*TINY, "--probe", "toy_head", "-p", "none", "-p", "dimmed@0.25,0.5")
    assert answer.code == 0
    assert answer.out.startswith("tiny: accuracy (%) of toy_head on tints/query\n")
    assert "dimmed@0.5" in answer.out
    assert "retention" in answer.out
    assert answer.err.splitlines() == [
        "tiny: loading (embedded weights)",
        "3 records (0 already there); 33 images decoded, 15 forward passes over 99 images; in runs",
        "curves: runs/artifacts/curves.csv and 1 picture",
    ]
    assert len(load_records(tmp_path / "runs")) == 3


def test_the_same_command_again_says_that_nothing_was_done(harness):
    first = harness(*TINY, "--probe", "toy_head")
    again = harness(*TINY, "--probe", "toy_head")
    assert again.out == first.out
    assert again.err == ("1 records (1 already there); 0 images decoded, 0 forward passes over 0 images; in runs\n")


def test_json_is_a_record_a_line_and_nothing_else(harness, tmp_path):
    answer = harness(*TINY, "--probe", "toy_head,pixels", "-p", "none,dimmed@0.5", "--json", "-o", "here")
    assert answer.code == 0
    assert len(answer.records) == 4
    for raw, stored in zip(answer.records, load_records(tmp_path / "here"), strict=True):
        assert set(raw) == {"schema", "key", "cell", "measurements", "environment"}
        assert raw == json.loads(json.dumps(stored.as_dict()))
    assert answer.err


def test_quiet_is_quiet(harness):
    answer = harness(*TINY, "--probe", "toy_head", "-q")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out


def test_untrained_weights_are_marked(harness):
    answer = harness(*TINY, "--probe", "toy_head", "--weights", "random:3")
    assert "tiny (untrained): accuracy" in answer.out
    assert "random weights" in answer.err
    assert models.built == ["tiny:0:random"]


def test_reasons_stand_in_a_table_of_their_own(harness):
    answer = harness("run", "-m", "tiny,elsew*", "-d", "tints", "--probe", "toy_head", "--device", "cpu")
    assert answer.code == 0
    assert "\nnot applicable\n" in answer.out
    assert "imagenet1k" in answer.out


# --- exit codes


def test_some_cell_failed(harness):
    answer = harness("run", "-m", "tiny,unbuildable", "-d", "tints", "--probe", "pixels", "--device", "cpu")
    assert answer.code == 1
    assert "failed: unbuildable / tints/query / none / pixels: RuntimeError: this architecture" in answer.err
    assert answer.err.count("Traceback") == 1
    assert "Traceback" not in answer.out
    assert "tiny: pixels on tints/query (hash)" in answer.out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--shard", "3/2"), "--shard takes I/N with 1 <= I <= N, such as 1/4, not '3/2'"),
        (("--shard", "0/2"), "--shard takes I/N"),
        (("--shard", "half"), "--shard takes I/N"),
        (("--seed", "a,b"), "--seed takes whole numbers"),
        (("--seed", "-1"), "seeds must be whole numbers from 0 up"),
        (("-b", "0"), "--batch-size takes a whole number from 1 up, or auto, not '0'"),
        (("-b", "many"), "--batch-size takes a whole number"),
        (("--checkpoint-every", "x"), "--checkpoint-every takes a whole number"),
        (("-j", "-1"), "workers must be a whole number from 0 up"),
        (("--limit", "all"), "limit must be a number of images"),
        (("--device", "abacus"), "device 'abacus' cannot be used"),
        (("--view", "big"), "view"),
        (("-p", "dimmed@2"), "share must lie in [0, 1]"),
        (("-p", "dimed"), "did you mean dimmed"),
        (("--split", "test"), "no split 'test'"),
        (("--suite", "none"), "no suite named 'none'"),
        (("--precision", "fp8"), "fp8"),
        (("--probe", "toy_head", "-m", "elsewhere"), "imagenet1k"),
    ],
)
def test_a_mistake_is_a_sentence_and_never_a_traceback(harness, given, words, tmp_path):
    answer = harness(*TINY, "--probe", "pixels", *given)
    assert answer.code in (2, 4)
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert not list(tmp_path.glob("runs/records*")) or load_records(tmp_path / "runs") == []


def test_missing_weights_are_code_4(harness):
    answer = harness("run", "-m", "weightless,tiny", "-d", "tints", "--probe", "pixels", "--device", "cpu")
    assert answer.code == 4
    assert answer.err.splitlines()[-2:] == [
        "error: the weights of weightless are not cached and the hub does not answer",
        "  hint: harness fetch",
    ]
    assert models.built == []


def test_a_locked_folder_is_code_2_and_names_its_owner(harness, tmp_path):
    from harness.records import RecordStore

    with RecordStore(tmp_path / "runs"):
        answer = harness(*TINY, "--probe", "pixels")
    assert answer.code == 2
    assert str(os.getpid()) in answer.err


def test_fail_fast(harness):
    answer = harness("run", "-m", "unbuildable,tiny", "-d", "tints", "--probe", "pixels", "--fail-fast")
    assert (answer.code, answer.out) == (1, "")


# --- pictures

SWEEP = (*TINY, "--probe", "toy_head", "-p", "dimmed@0.25,0.5")


def test_a_picture_is_drawn_beside_the_tables(harness, tmp_path):
    answer = harness(*SWEEP, "--plot", "curves.png")
    assert answer.code == 0
    assert answer.out == harness(*SWEEP).out
    assert answer.err.splitlines()[-1] == "picture: curves.png"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_what_was_recorded(harness, tmp_path, monkeypatch):
    from harness.report import artifacts, curves

    figures = []
    draw = curves.draw_curves
    monkeypatch.setattr(artifacts, "write_artifacts", lambda *given: None)
    monkeypatch.setattr(curves, "draw_curves", lambda *given: figures.append(draw(*given)) or figures[-1])
    answer = harness(*SWEEP, "-p", "speckled@0.1,0.3", "--json", "--plot", "curves.svg")
    assert answer.code == 0
    by_cell = {
        (raw["cell"]["perturbation"], raw["cell"]["level"]): 100 * raw["measurements"][0]["value"]
        for raw in answer.records
    }
    (dimmed, speckled) = figures[0].axes
    assert dimmed.lines[0].get_xydata().tolist() == [
        [0, pytest.approx(by_cell["none", None])],
        [25, pytest.approx(by_cell["dimmed", 0.25])],
        [50, pytest.approx(by_cell["dimmed", 0.5])],
    ]
    assert speckled.lines[0].get_ydata().tolist() == [pytest.approx(by_cell["speckled", x]) for x in (0.1, 0.3)]
    assert speckled.get_xlabel() == "sigma"
    assert (tmp_path / "curves.svg").is_file()


def test_a_picture_may_lie_in_the_folder_that_the_run_makes(harness, tmp_path):
    answer = harness(*SWEEP, "-o", "new", "--plot", "new/curves.pdf", "-q")
    assert (answer.code, answer.err) == (0, "")
    assert (tmp_path / "new" / "curves.pdf").is_file()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--plot", "curves.jpg"), "must end in .png, .svg or .pdf"),
        (("--plot", "nowhere/curves.png"), "there is no folder nowhere"),
        (("--plot", "curves.png", "--dry-run"), "--dry-run runs nothing"),
        (("--plot", "curves.png", "--estimate"), "--estimate runs nothing"),
        (
            (
                "--plot",
                "curves.png",
                "-p",
                "holed,muffled,guided",
                "--probe",
                "centroid:shots=1,centroid:shots=2,pixels",
            ),
            "at most 12 panels, this one would need 16",
        ),
    ],
)
def test_what_is_wrong_with_a_picture_is_said_before_the_run(harness, tmp_path, given, words):
    answer = harness(*SWEEP, *given)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert models.built == []
    assert not (tmp_path / "runs").exists()


def test_a_picture_that_fails_costs_no_results(harness, tmp_path, monkeypatch):
    from harness.errors import UsageError
    from harness.report import curves

    def full(*given):
        raise UsageError("cannot write curves.png: No space left on device")

    monkeypatch.setattr(curves, "save_curves", full)
    answer = harness(*SWEEP, "--plot", "curves.png", "-q")
    assert answer.code == 1
    assert answer.err == "warning: no picture was drawn: cannot write curves.png: No space left on device\n"
    assert "retention" in answer.out
    assert len(load_records(tmp_path / "runs")) == 3


def test_without_a_number_there_is_no_picture(harness, tmp_path):
    answer = harness("run", "-m", "elsew*", "-d", "tints", "--probe", "toy_head", "--plot", "curves.png")
    assert answer.code == 1
    assert "not applicable" in answer.out
    assert "warning: no picture was drawn: there is nothing to draw" in answer.err
    assert not (tmp_path / "curves.png").exists()


# --- what a sweep leaves in its folder


def test_a_sweep_leaves_its_curves_in_the_folder(harness, tmp_path):
    answer = harness(*SWEEP, "-p", "speckled@0.1,0.3", "-o", "here", "--json")
    assert answer.err.splitlines()[-1] == "curves: here/artifacts/curves.csv and 1 picture"
    folder = tmp_path / "here" / "artifacts"
    assert sorted(path.name for path in folder.iterdir()) == ["curves-tints-toy_head.png", "curves.csv"]
    with (folder / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == [raw["key"] for raw in answer.records]
    assert [float(row["value"]) for row in rows] == [raw["measurements"][0]["value"] for raw in answer.records]
    assert [row["information_loss"] for row in rows] == ["0.0", "0.25", "0.5", "", ""]
    assert harness(*SWEEP, "-o", "here", "-q").err == ""


def test_without_a_sweep_no_curves_are_spoken_of(harness, tmp_path):
    answer = harness(*TINY, "--probe", "toy_head", "-p", "dimmed@0.25", "-p", "speckled@0.1")
    assert "curves" not in answer.err
    assert not (tmp_path / "runs" / "artifacts").exists()


def test_curves_that_cannot_be_written_cost_a_note(harness, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "artifacts").write_text("in the way")
    answer = harness(*SWEEP)
    assert answer.code == 0
    assert "retention" in answer.out
    assert "warning: the curves in runs/artifacts could not be written: cannot write" in answer.err
    assert "curves: " not in answer.err
    assert len(load_records(tmp_path / "runs")) == 3


def test_the_last_shard_leaves_the_curves_of_all(harness, tmp_path):
    for part in (1, 2, 3):
        harness(*SWEEP, "--shard", f"{part}/3")
    with (tmp_path / "runs" / "artifacts" / "curves.csv").open(newline="") as file:
        assert [row["level"] for row in csv.DictReader(file)] == ["", "0.25", "0.5"]


# --- plans, estimates, shards


def test_a_dry_run_writes_and_builds_nothing(harness, tmp_path):
    answer = harness(*TINY, "--probe", "pixels,centroid", "-p", "none,dimmed", "--dry-run")
    assert answer.code == 0
    assert "8 cells (0 already recorded)" in answer.out
    assert "1 passes to do" in answer.out
    assert "nothing was run" in answer.out
    assert models.built == []
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_knows_what_is_recorded(harness, tmp_path):
    (tmp_path / "runs").mkdir()
    assert "(0 already recorded)" in harness(*TINY, "--probe", "pixels", "-n").out
    harness(*TINY, "--probe", "pixels")
    answer = harness(*TINY, "--probe", "pixels,toy_head", "-n", "--json")
    raw = json.loads(answer.out)
    assert len(raw["cells"]) == 2
    assert raw["recorded"] == [raw["cells"][0]["key"]]


def test_shards_on_the_command_line(harness, tmp_path):
    grid = (*TINY, "--probe", "pixels", "-p", "none,dimmed", "--json")
    planned = [json.loads(harness(*grid, "-n", "--shard", f"{i}/2").out)["cells"] for i in (1, 2)]
    ran = [harness(*grid, "--shard", f"{i}/2").records for i in (1, 2)]
    assert [[cell["key"] for cell in part] for part in planned] == [[r["key"] for r in part] for part in ran]
    assert sorted(path.name for path in (tmp_path / "runs").glob("records*")) == [
        "records-1of2.jsonl",
        "records-2of2.jsonl",
    ]
    assert len(load_records(tmp_path / "runs")) == 4


def test_an_estimate(harness, tmp_path):
    answer = harness(*TINY, "--probe", "pixels,centroid", "-p", "none,dimmed@0.5", "--estimate")
    assert answer.code == 0
    assert answer.out.startswith("tiny on tints/query: 33 images x 2 forwards at ")
    assert answer.out.splitlines()[-1].startswith("about ")
    raw = json.loads(harness(*TINY, "--probe", "pixels", "-p", "none,dimmed@0.5", "--estimate", "--json").out)
    assert 0 < raw["seconds"] < 60
    assert raw["passes"][0]["images"] == 33
    assert not (tmp_path / "runs").exists()


def test_an_estimate_is_of_what_is_left(harness):
    grid = (*TINY, "--probe", "pixels", "-p", "none,dimmed@0.25,0.5")
    whole, half = (json.loads(harness(*grid, "--estimate", "--json", *shard).out) for shard in ((), ("--shard", "1/3")))
    assert (whole["passes"][0]["forwards_per_image"], half["passes"][0]["forwards_per_image"]) == (3, 1)
    harness(*grid)
    assert json.loads(harness(*grid, "--estimate", "--json").out)["passes"] == []


def test_seeds_limits_views_and_precision_reach_the_records(harness):
    answer = harness(
        *TINY, "--probe", "centroid", "-p", "speckled@0.1", "--seed", "1,2", "--seed", "3", "--limit", "9",
        "--view", "crop=12", "--precision", "bf16", "--probe-seed", "4", "--support-perturb", "holed@0.5",
        "--support-seed", "5", "--json",
    )  # fmt: skip
    cells = [record["cell"] for record in answer.records]
    assert [cell["seeds"] for cell in cells] == [
        {"perturb": seed, "support_perturb": 5, "probe": 4} for seed in (1, 2, 3)
    ]
    assert {(cell["limit"], cell["view"], cell["precision"]) for cell in cells} == {(9, "crop=12", "bf16")}
    assert cells[0]["support"] == {"perturbation": "holed", "level": 0.5, "split": "support"}


def test_the_cache_is_used_unless_told_otherwise(harness, own_cache, tmp_path):
    harness(*TINY, "--probe", "centroid", "--no-cache", "-o", "one")
    assert not (own_cache / "features").exists()
    harness(*TINY, "--probe", "centroid", "-o", "two")
    assert len(list((own_cache / "features").iterdir())) == 1
    harness(*TINY, "--probe", "centroid", "-o", "three", "--cache-dir", "elsewhere")
    assert len(list((tmp_path / "elsewhere" / "features").iterdir())) == 1


# --- as a process


def harness_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        "from harness.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(sorted({'torch', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_a_dry_run_imports_neither_torch_nor_timm_nor_matplotlib(tmp_path):
    found = harness_process(
        "run", "-m", "vit_b16,resnet50", "-p", "patchdrop_random@all", "--probe", "fewshot", "-d", "digits",
        "--weights", "random", "--dry-run", cwd=tmp_path,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stderr.strip() == "[]"
    assert "cells (0 already recorded)" in found.stdout


def test_refusals_come_before_torch(tmp_path):
    found = harness_process("run", "-m", "vit_b16", "--probe", "head", "-d", "digits", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1] == "[]"
    assert "model vit_b16 was trained on the labels of imagenet1k" in found.stderr
    assert "hint: use a probe that learns the classes from support images, such as fewshot" in found.stderr
