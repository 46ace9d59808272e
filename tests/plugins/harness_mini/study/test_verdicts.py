"""Verdicts from intervals, and intervals against SciPy and against differences that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.errors import DataError, ParameterError
from harness.stats import bootstrap_mean
from harness_mini.study.predictions import PREDICTIONS
from harness_mini.study.shape_bias import ShapeBias
from harness_mini.study.verdicts import (
    of_architectures,
    of_biases,
    of_checkpoints,
    of_unpaired,
    unpaired_bootstrap,
    verdict,
    welch_interval,
)

BY_NAME = {prediction.name: prediction for prediction in PREDICTIONS}
GREATER, LESS = BY_NAME["shape_bias_stylized_vit"], BY_NAME["token_cosine"]
OF_ARCHITECTURES, UNPAIRED = BY_NAME["random_drop"], BY_NAME["attack_stylized_vit"]


@pytest.mark.parametrize(
    ("low", "high", "greater", "less"),
    [
        (0.1, 0.2, "reproduced", "opposite"),
        (-0.2, -0.1, "opposite", "reproduced"),
        (-0.1, 0.1, "undecided", "undecided"),
        (0.0, 0.1, "undecided", "undecided"),
        (-0.1, 0.0, "undecided", "undecided"),
        (0.0, 0.0, "undecided", "undecided"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side_of_zero(low, high, greater, less):
    assert verdict(low, high, "greater") == greater
    assert verdict(low, high, "less") == less


# --- architectures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(3, 3), (3, 5), (10, 4)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_welchs_interval_is_scipys(sizes, confidence):
    random = np.random.default_rng(sum(sizes))
    first, second = random.normal(0.8, 0.01, sizes[0]), random.normal(0.7, 0.05, sizes[1])
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(confidence)
    found = welch_interval(first.tolist(), second.tolist(), confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.method == f"welch{100 * confidence:.0f}"


def test_runs_that_are_all_alike_decide_nothing():
    with pytest.raises(DataError, match="do not differ"):
        welch_interval([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
    found = of_architectures(OF_ARCHITECTURES, ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25]))
    assert (found.verdict, found.low, found.difference) == ("undecided", None, 0.25)
    assert "do not differ" in found.note


def test_welchs_interval_holds_the_true_difference_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        found = welch_interval(random.normal(0.3, 1, 3).tolist(), random.normal(0, 2, 3).tolist())
        held += found.low <= 0.3 <= found.high
    assert 0.93 < held / 1000 < 0.98


def test_architectures_are_compared_over_seeds():
    first, second = [0.81, 0.83, 0.82], [0.70, 0.69, 0.74, 0.71]
    found, interval = of_architectures(OF_ARCHITECTURES, (first, second)), welch_interval(first, second)
    assert (found.first, found.second) == pytest.approx((0.82, 0.71))
    assert found.difference == pytest.approx(0.11)
    assert (found.low, found.high, found.interval) == (interval.low, interval.high, "welch95")
    assert (found.name, found.n, found.verdict, found.note) == ("random_drop", 3, "reproduced", "")
    assert of_architectures(OF_ARCHITECTURES, (second, first)).verdict == "opposite"


@pytest.mark.parametrize("sides", [([0.9], [0.1]), ([0.9] * 3, [0.1] * 2), ([0.9] * 2, [0.1] * 3)])
def test_fewer_than_three_seeds_of_either_side_decide_nothing(sides):
    found = of_architectures(OF_ARCHITECTURES, sides)
    assert found.verdict == "not measured"
    assert (found.low, found.high, found.interval) == (None, None, "none")
    assert found.n == min(map(len, sides))
    assert (found.first, found.second, found.difference) == pytest.approx((0.9, 0.1, 0.8))
    assert "--replicas" in found.note


# --- checkpoints -------------------------------------------------------------------------------------------------


def test_checkpoints_are_compared_image_by_image():
    random = np.random.default_rng(0)
    hard = random.normal(size=400)
    first, second = hard + 0.1 + 0.01 * random.normal(size=400), hard
    found, interval = of_checkpoints(GREATER, (first, second)), bootstrap_mean(first - second)
    assert (found.low, found.high, found.interval) == (interval.low, interval.high, "bootstrap95")
    assert (found.first, found.second) == pytest.approx((first.mean(), second.mean()))
    assert found.difference == pytest.approx(0.1, abs=0.005)
    # What both share cancels: without pairs the same values decide nothing.
    assert (found.verdict, found.n) == ("reproduced", 400)
    assert of_unpaired(GREATER, first, second).verdict == "undecided"
    assert of_checkpoints(GREATER, (second, first)).verdict == "opposite"
    assert of_checkpoints(LESS, (second, first)).verdict == "reproduced"


def drawn_bias(random, by_shape, by_texture, n=1800):
    kinds = random.choice(3, size=n, p=[by_shape, by_texture, 1 - by_shape - by_texture])
    return ShapeBias(by_shape=(kinds == 0).astype(float), by_texture=(kinds == 1).astype(float))


def test_the_interval_of_two_biases_holds_the_true_difference():
    random = np.random.default_rng(0)
    truth = 0.5 / 0.7 - 0.3 / 0.8
    found = [of_biases(GREATER, drawn_bias(random, 0.5, 0.2), drawn_bias(random, 0.3, 0.5)) for _ in range(20)]
    assert sum(finding.low <= truth <= finding.high for finding in found) >= 17
    for finding in found:
        assert finding.difference == pytest.approx(finding.first - finding.second)
        assert finding.low < finding.difference < finding.high
        assert (finding.n, finding.interval, finding.verdict) == (1800, "bootstrap95", "reproduced")


def test_the_interval_of_two_biases_is_as_wide_as_the_delta_method_says():
    random = np.random.default_rng(1)
    found = of_biases(GREATER, drawn_bias(random, 0.5, 0.2), drawn_bias(random, 0.3, 0.5))
    variance = sum(p * (1 - p) / n for p, n in ((0.5 / 0.7, 0.7 * 1800), (0.3 / 0.8, 0.8 * 1800)))
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.1)


def test_biases_of_the_same_images_are_resampled_together():
    bias = drawn_bias(np.random.default_rng(2), 0.5, 0.2)
    found = of_biases(GREATER, bias, bias)
    assert (found.difference, found.low, found.high, found.verdict) == (0, 0, 0, "undecided")


def test_means_of_different_images_are_compared_apart():
    random = np.random.default_rng(0)
    first, second = (random.uniform(size=500) < 0.4).astype(float), (random.uniform(size=300) < 0.6).astype(float)
    found = of_unpaired(UNPAIRED, first, second)
    spread = math.sqrt(first.var() / 500 + second.var() / 300)
    centre = first.mean() - second.mean()
    assert found.low == pytest.approx(centre - 1.96 * spread, abs=0.2 * spread)
    assert found.high == pytest.approx(centre + 1.96 * spread, abs=0.2 * spread)
    assert (found.difference, found.n, found.verdict) == (pytest.approx(centre), 300, "reproduced")
    assert unpaired_bootstrap(first, second) == unpaired_bootstrap(first, second)
    assert unpaired_bootstrap(first, second, seed=1) != unpaired_bootstrap(first, second)


# --- no numbers --------------------------------------------------------------------------------------------------

NOTHING = ShapeBias(by_shape=np.zeros(9), by_texture=np.zeros(9))
SOMETHING = ShapeBias(by_shape=np.ones(9), by_texture=np.zeros(9))
SHAPE_BIAS = BY_NAME["shape_bias"]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: of_biases(GREATER, NOTHING, SOMETHING), "vit_mini_sin"),
        (lambda: of_biases(GREATER, SOMETHING, NOTHING), "vit_mini"),
        (lambda: of_architectures(SHAPE_BIAS, ([0.5, 0.6, 0.7], [0.5, NOTHING.value, 0.7])), "cnn_mini"),
        (lambda: of_architectures(SHAPE_BIAS, ([NOTHING.value], [0.5])), "vit_mini"),
        (lambda: of_unpaired(UNPAIRED, np.zeros(0), np.ones(3)), "vit_mini_sin on stylized"),
        (lambda: of_unpaired(UNPAIRED, np.ones(3), np.zeros(0)), "vit_mini on test"),
    ],
)
def test_a_side_that_has_no_number_is_an_error_that_names_it(make, name):
    with pytest.raises(DataError, match=rf"is no number for {name}\n") as raised:
        make()
    assert "is it trained?" in raised.value.hint


def test_a_bias_of_too_few_decisions_to_resample_is_an_error():
    few = ShapeBias(by_shape=np.eye(9)[0], by_texture=np.zeros(9))
    with pytest.raises(ParameterError, match="not finite in"):
        of_biases(GREATER, few, SOMETHING)
