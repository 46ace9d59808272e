"""Paired tests against enumeration, scipy, published tables, and simulated errors of the first and second kind."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from harness.errors import ParameterError
from harness.paired import holm, images_needed, mcnemar, paired_bootstrap, paired_t, permutation_test
from harness.stats import bootstrap_mean

DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])
"""Height of a crossed less that of a self-fertilised maize plant of a pair, eighths of an inch (Fisher 1935)."""

SLEEP = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
"""Hours of sleep gained by ten patients under two drugs (Student 1908)."""


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong answers of two models with these counts."""
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def by_enumeration(difference: np.ndarray) -> float:
    """The share of all sign patterns whose sum is at least as far from zero."""
    sums = np.array([sum(s * d for s, d in zip(signs, difference, strict=True)) for signs in SIGNS[len(difference)]])
    return float((np.abs(sums) >= abs(difference.sum()) - 1e-9).mean())


SIGNS = {n: list(product([-1, 1], repeat=n)) for n in range(1, 13)}


# --- McNemar ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(0, 40), st.integers(0, 40), st.integers(1, 20))
def test_mcnemar_is_the_binomial_test_of_the_discordant_images(both, only_a, only_b, neither):
    a, b = outcomes(both, only_a, only_b, neither)
    expected = scipy_stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_mcnemar_of_published_tables():
    # Approval of the prime minister (Agresti, Categorical Data Analysis, table 10.1): z = -4.17, P = 0.00003.
    assert mcnemar(*outcomes(794, 150, 86, 570)) == pytest.approx(3.7e-5, rel=0.1)
    # Ten discordant pairs, one of them the other way: 2 (1 + 10) / 2**10.
    assert mcnemar(*outcomes(3, 9, 1, 7)) == 22 / 1024


def test_mcnemar_takes_no_fractions():
    with pytest.raises(ParameterError, match="permutation_test takes fractions"):
        mcnemar([0.5, 1.0], [0.0, 1.0])


# --- permutation -----------------------------------------------------------------------------------------------


def test_permutation_is_fishers_of_darwins_plants():
    """835 + 28 of the 32768 patterns reach the observed total on one side (Fisher, The Design of Experiments, 21)."""
    assert permutation_test(DARWIN / 8, np.zeros(15)) == 2 * 863 / 32768


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.integers(1, 10), elements=st.floats(-1, 1).map(lambda value: round(value, 3))))
def test_permutation_of_few_images_is_the_enumeration(difference):
    assert permutation_test(difference, np.zeros(len(difference))) == pytest.approx(by_enumeration(difference))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(17, 60), st.integers(0, 60))
def test_permutation_of_single_outcomes_is_mcnemar(both, only_a, only_b):
    a, b = outcomes(both, only_a, only_b, 5)
    assert permutation_test(a, b) == pytest.approx(max(1e-12, mcnemar(a, b)), abs=1e-11)


@pytest.mark.parametrize("seeds", [(2, 2), (2, 3), (3, 3), (5, 4)])
def test_permutation_of_averages_over_seeds_is_exact(seeds, monkeypatch):
    """Through the characteristic function, held against the same test by enumeration of twelve images."""
    generator = np.random.default_rng(sum(seeds))
    a, b = (generator.random((count, 12)) < chance for count, chance in zip(seeds, (0.8, 0.3), strict=True))
    monkeypatch.setattr("harness.paired._ENUMERATED", 0)
    assert permutation_test(a, b) == pytest.approx(by_enumeration(a.mean(axis=0) - b.mean(axis=0)), abs=1e-11)


def test_permutation_at_random_is_near_the_exact_one_and_the_same_each_time(monkeypatch):
    generator = np.random.default_rng(1)
    a, b = generator.random(12) + 0.2, generator.random(12)
    exact = by_enumeration(a - b)
    monkeypatch.setattr("harness.paired._ENUMERATED", 0)
    drawn = permutation_test(a, b, draws=20_000)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert drawn != exact
    assert drawn == permutation_test(a, b, draws=20_000)
    assert drawn != permutation_test(a, b, draws=20_000, seed=1)


def test_a_drawn_p_value_is_never_zero():
    values = np.random.default_rng(0).random(40)
    assert permutation_test(values + 1, np.zeros(40), draws=99) == 1 / 100


def test_overwhelming_evidence_has_the_smallest_p_value_that_is_given():
    assert permutation_test(np.ones((2, 500)), np.zeros((2, 500))) == 1e-12


def test_no_difference_is_no_evidence():
    assert permutation_test([0.5, 0.2], [0.2, 0.5]) == 1.0
    assert permutation_test(np.ones(50), np.ones(50)) == 1.0
    # Averages of the same answers, summed in different orders.
    seeds = np.array([[0.1, 0.7], [0.2, 0.1], [0.3, 0.2]])
    assert permutation_test(seeds, seeds[::-1]) == 1.0


def test_images_of_a_group_are_swapped_together():
    generator = np.random.default_rng(3)
    groups = np.repeat(np.arange(8), 5)
    difference = np.round(generator.normal(size=8).repeat(5) + 0.1 * generator.normal(size=40), 3)
    sums = np.array([difference[groups == group].sum() for group in range(8)])
    order = generator.permutation(40)
    found = permutation_test(difference[order], np.zeros(40), groups=groups[order])
    assert found == pytest.approx(by_enumeration(sums))
    assert permutation_test(difference, np.zeros(40), groups=np.zeros(40)) == 1.0


# --- bootstrap -------------------------------------------------------------------------------------------------


def test_the_bootstrap_of_counts_is_that_of_images():
    generator = np.random.default_rng(0)
    a, b = generator.random((3, 400)) < 0.7, generator.random((2, 400)) < 0.6
    difference = a.mean(axis=0) - b.mean(axis=0)
    found, slow = paired_bootstrap(a, b, resamples=20_000), bootstrap_mean(difference, resamples=20_000)
    assert found.method == slow.method == "bootstrap95"
    assert (found.low, found.high) == pytest.approx((slow.low, slow.high), abs=0.003)
    half = 1.96 * difference.std() / 20
    assert (found.low, found.high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.004)


def test_the_bootstrap_of_distinct_differences_is_that_of_their_mean():
    a, b = np.random.default_rng(0).random((2, 50))
    assert paired_bootstrap(a, b, confidence=0.9) == bootstrap_mean(a - b, confidence=0.9)


def test_what_both_share_cancels():
    """Two models that are right on almost the same images differ by less than either varies."""
    generator = np.random.default_rng(0)
    a = generator.random(1000) < 0.5
    b = a.copy()
    b[:20] = False
    paired = paired_bootstrap(a, b)
    assert paired.low > 0
    assert paired.high - paired.low < 0.015


def test_groups_widen_the_interval():
    groups = np.repeat(np.arange(20), 10)
    difference = np.where(np.random.default_rng(0).random(20) < 0.6, 1.0, 0.0).repeat(10)
    apart, together = (
        paired_bootstrap(difference, 0 * difference),
        paired_bootstrap(difference, 0 * difference, groups=groups),
    )
    assert together.high - together.low > 2.5 * (apart.high - apart.low)
    with pytest.raises(ParameterError, match="one group has no spread"):
        paired_bootstrap(difference, 0 * difference, groups=np.zeros(200))


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        hard = generator.random(300)
        a = generator.random((2, 300)) < np.clip(hard + 0.05, 0, 1)
        b = generator.random((2, 300)) < hard
        interval = paired_bootstrap(a, b, resamples=500, seed=trial)
        covered += interval.low <= 0.05 - 0.05**2 / 2 <= interval.high
    assert 0.91 < covered / 300 < 0.98


# --- t, Holm, power --------------------------------------------------------------------------------------------


def test_paired_t_of_students_patients():
    assert paired_t(*SLEEP) == pytest.approx(0.002833, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**31))
def test_paired_t_is_scipys(count, seed):
    a, b = np.random.default_rng(seed).random((2, count))
    assert paired_t(a, b) == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue, rel=1e-9)


def test_paired_t_without_spread():
    assert paired_t([0.5, 0.6], [0.5, 0.6]) == 1.0
    assert paired_t([0.5, 0.75], [0.25, 0.5]) == 0.0
    with pytest.raises(ParameterError, match="at least two"):
        paired_t([0.5], [0.4])


def test_holm_by_hand():
    # In order: 5 x 0.002 = 0.01, 4 x 0.01 = 0.04, 3 x 0.012 = 0.036 (raised to 0.04), 2 x 0.5 = 1, 0.9 (raised to 1).
    assert holm([0.5, 0.01, 0.9, 0.002, 0.012]) == pytest.approx([1.0, 0.04, 1.0, 0.01, 0.04])
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_stepping_down_rejects(p_values, alpha):
    rejected = set()
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] * (len(p_values) - step) > alpha:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def test_images_needed_by_connors_formula():
    """z = 1.959964 and 0.841621, discordance 0.2, difference 0.1: (0.876522 + 0.366854)**2 / 0.01 = 154.6."""
    assert images_needed(0.1, 0.2) == 155
    assert images_needed(-0.1, 0.2) == 155
    assert images_needed(0.1, 0.2, power=0.9) == 206
    assert images_needed(0.0, 0.2) is None


@pytest.mark.parametrize(("only_a", "only_b"), [(0.12, 0.06), (0.30, 0.22)])
def test_so_many_images_give_the_power_and_half_of_them_do_not(only_a, only_b):
    """Simulated with the exact test, which is a little weaker than the formula's normal one."""
    needed = images_needed(only_a - only_b, only_a + only_b)
    assert needed is not None
    generator = np.random.default_rng(0)
    power = []
    for n in (needed, needed // 2):
        drawn = generator.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=600)
        power.append(np.mean([mcnemar(*outcomes(0, int(x), int(y), int(z))) <= 0.05 for x, y, z in drawn]))
    assert 0.73 < power[0] < 0.85
    assert power[1] < 0.58


def test_false_positives_stay_below_the_level():
    """Equal models, whose images differ in how hard they are: each test is wrong in at most 5 % of 600 trials."""
    generator = np.random.default_rng(7)
    wrong = {"mcnemar": 0, "permutation": 0, "t": 0}
    for _ in range(600):
        hard = generator.random(80)
        a, b = (generator.random((3, 80)) < hard for _ in range(2))
        wrong["mcnemar"] += mcnemar(a[0], b[0]) <= 0.05
        wrong["permutation"] += permutation_test(a, b) <= 0.05
        episodes = generator.normal(0.7, 0.1, size=40)
        wrong["t"] += (
            paired_t(episodes + generator.normal(0, 0.05, 40), episodes + generator.normal(0, 0.05, 40)) <= 0.05
        )
    # 0.05 + 2.5 standard deviations of 600 trials is 0.072; the exact tests are conservative, not empty.
    assert all(0.005 < count / 600 < 0.072 for count in wrong.values()), wrong


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [mcnemar, paired_bootstrap, permutation_test, paired_t])
def test_results_on_different_images_are_refused(function):
    with pytest.raises(ParameterError, match="the images that both have answered"):
        function([1.0, 0.0], [1.0, 0.0, 1.0])
    with pytest.raises(ParameterError, match="same images"):
        function([], [])
    with pytest.raises(ParameterError, match="1 values are not finite"):
        function([1.0, math.nan], [1.0, 0.0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: holm([0.5, 1.5]), "p-values lie in"),
        (lambda: images_needed(0.2, 0.01), "cannot come from a discordance"),
        (lambda: images_needed(0.1, 0.2, power=1.0), "between 0 and 1"),
        (lambda: images_needed(0.1, 0.2, alpha=0.0), "between 0 and 1"),
        (lambda: permutation_test([1.0], [0.0], draws=0), "draws=0"),
        (lambda: permutation_test([1.0, 1.0], [0.0, 0.0], groups=[1]), "groups must be"),
        (lambda: paired_bootstrap(np.ones(9), np.zeros(9), resamples=1), "resamples=1"),
        (lambda: paired_bootstrap(np.ones(9), np.zeros(9), confidence=1.0), "confidence=1.0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(call, said):
    with pytest.raises(ParameterError, match=said):
        call()
