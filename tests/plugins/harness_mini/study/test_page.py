"""The README of the study says what was measured, and what was measured belongs to what was frozen."""

from __future__ import annotations

import json

import pytest

from harness.errors import DataError
from harness_mini.cards import read_card
from harness_mini.reproduce import FILE
from harness_mini.study import frozen, page
from harness_mini.study.laboratory import SEEDS
from harness_mini.study.predictions import PREDICTIONS
from harness_mini.study.verdicts import verdict

RESULTS = json.loads(FILE.read_text())


def test_the_readme_holds_the_tables_of_the_results():
    readme = page.README.read_text()
    assert page.rewritten(readme, RESULTS) == readme
    assert all(finding["verdict"] in readme for finding in RESULTS["findings"])


def test_other_results_would_change_the_readme():
    readme = page.README.read_text()
    changed = json.loads(json.dumps(RESULTS))
    changed["findings"][0]["first"] += 0.1
    assert page.rewritten(readme, changed) != readme


def test_a_readme_without_a_mark_is_refused():
    with pytest.raises(DataError, match="cues"):
        page.rewritten(page.README.read_text().replace("<!-- cues -->", ""), RESULTS)


def test_the_results_are_those_of_the_frozen_study():
    assert RESULTS["frozen"] == frozen.state()
    assert [finding["name"] for finding in RESULTS["findings"]] == [prediction.name for prediction in PREDICTIONS]


def test_verdicts_follow_from_the_intervals():
    for prediction, finding in zip(PREDICTIONS, RESULTS["findings"], strict=True):
        assert finding["verdict"] == verdict(finding["low"], finding["high"], prediction.direction)
        assert finding["low"] <= finding["difference"] <= finding["high"]
        if prediction.compares == "architectures":
            assert finding["n"] >= len(SEEDS)


def test_the_models_are_those_that_ship():
    for model in RESULTS["models"]:
        card = read_card(model["model"])
        accuracies = [entry["accuracy"] and entry["accuracy"][model["split"]] for entry in (card, *card["other_seeds"])]
        assert model["accuracy"] == accuracies
