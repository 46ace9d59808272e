"""The command that holds predictions against the zoo: what it refuses, and what it says and writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from harness.errors import WeightsError
from harness_mini import reproduce
from harness_mini.reproduce import main, sentence
from harness_mini.study import frozen
from harness_mini.study.predictions import PREDICTIONS
from harness_mini.study.verdicts import of_architectures, of_checkpoints

BY_NAME = {prediction.name: prediction for prediction in PREDICTIONS}


def command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def invented(study, prediction):
    """A finding of invented numbers, as a measurement would give one."""
    if prediction.compares == "architectures":
        return of_architectures(prediction, ([0.5], [0.25]))
    return of_checkpoints(prediction, (np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 0.0, 0.0])))


@pytest.fixture
def measured(monkeypatch):
    """Names of the predictions that the command measured, with invented numbers."""
    names = []

    def measure(study, prediction):
        names.append(prediction.name)
        return invented(study, prediction)

    monkeypatch.setattr(reproduce, "MEASUREMENTS", dict.fromkeys(reproduce.MEASUREMENTS, measure))
    return names


def test_unknown_predictions_are_refused_before_any_is_measured(measured):
    done = command("--only", "shuffle,suffle")
    assert done.exit_code == 2
    assert "--only does not know suffle; it knows random_drop" in done.stderr
    assert measured == []


def test_what_changed_since_it_was_frozen_is_not_measured(measured, monkeypatch):
    monkeypatch.setattr(frozen, "drawn_digest", lambda: "0" * 64)
    done = command("--only", "shuffle")
    assert done.exit_code == WeightsError.exit_code
    assert "drawn_sha256 changed since the study was frozen" in done.stderr
    assert "hint:" in done.stderr
    assert measured == []


def test_missing_weights_end_the_command_without_a_traceback(package_weights):
    done = command("--only", "shuffle_without_positions")
    assert done.exit_code == WeightsError.exit_code
    assert "the package holds no trained weights" in done.stderr
    assert "Traceback" not in done.output


def test_a_place_for_results_that_are_not_written_is_refused(measured, tmp_path):
    assert command("--only", "token_cosine", "--out", tmp_path / "found.json").exit_code == 2
    assert measured == []


def test_the_packages_tables_are_not_replaced_by_ones_with_gaps(measured, monkeypatch):
    done = command()
    assert done.exit_code == WeightsError.exit_code
    assert "cnn_mini and vit_mini: fewer than 3 training seeds" in done.stderr
    assert measured == []


def test_some_predictions_are_printed_and_nothing_is_written(measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("--only", "token_cosine, random_drop")
    assert done.exit_code == 0, done.output
    assert measured == ["random_drop", "token_cosine"]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("not measured  random_drop: vit_mini 0.500, cnn_mini 0.250; needs three training seeds")
    assert lines[1].startswith(
        "opposite      token_cosine: deit_mini_shape 0.750, deit_mini 0.000, difference +0.750 ["
    )
    assert list(tmp_path.iterdir()) == []


def test_all_predictions_are_written_with_the_tables_beside_them(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "model_rows", lambda: [{"model": "vit_mini"}])
    monkeypatch.setattr(reproduce, "cue_rows", lambda study: [{"model": "cnn_mini"}])
    done = command("--out", tmp_path / "found.json")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert measured == [finding["name"] for finding in found["findings"]] == list(BY_NAME)
    assert (found["models"], found["cues"]) == ([{"model": "vit_mini"}], [{"model": "cnn_mini"}])
    assert found["frozen"] == json.loads(frozen.FILE.read_text("utf-8"))


def test_a_sentence_gives_both_sides_and_the_interval_where_there_is_one():
    random_drop = BY_NAME["random_drop"]
    few = of_architectures(random_drop, ([0.5], [0.25, 0.35]))
    assert sentence(random_drop, few) == (
        "vit_mini 0.500, cnn_mini 0.300; needs three training seeds of either side: --replicas"
    )
    many = of_architectures(random_drop, ([0.5, 0.5, 0.5], [0.24, 0.25, 0.26]))
    assert sentence(random_drop, many) == "vit_mini 0.500, cnn_mini 0.250, difference +0.250 [+0.225, +0.275]"
