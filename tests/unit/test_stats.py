"""Intervals, areas and crossings against SciPy, closed forms, every resample there is, and simulated coverage."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from harness.errors import ParameterError
from harness.stats import (
    Clustering,
    Interval,
    area_under_curve,
    bootstrap_class_mean,
    bootstrap_mean,
    bootstrap_statistic,
    chance_corrected,
    first_fall,
    resampled_cluster_means,
    resampled_means,
    t_interval,
    wilson,
)

ACCURACIES = np.random.default_rng(0).beta(2, 1, size=300)
LEVELS = np.random.default_rng(1).random((4, 200)) ** np.array([[0.5], [1.0], [2.0], [4.0]])


def test_an_interval_is_a_frozen_value() -> None:
    interval = Interval(0.1, 0.2, "wilson95")
    assert interval == Interval(low=0.1, high=0.2, method="wilson95")
    with pytest.raises(dataclasses.FrozenInstanceError):
        interval.low = 0.0


# --- Wilson ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99, 0.999])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (81, 100), (40850, 50000)])
def test_wilson_equals_scipy(successes: int, n: int, confidence: float) -> None:
    interval = wilson(successes, n, confidence=confidence)
    expected = reference.binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@settings(deadline=None)
@given(data=st.data(), n=st.integers(1, 10**6), confidence=st.floats(0.01, 0.999))
def test_wilson_holds_the_proportion_and_mirrors(data: st.DataObject, n: int, confidence: float) -> None:
    successes = data.draw(st.integers(0, n))
    interval = wilson(successes, n, confidence=confidence)
    mirrored = wilson(n - successes, n, confidence=confidence)
    assert 0 <= interval.low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= interval.high <= 1
    assert (interval.low, interval.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-12)
    wider = wilson(successes, n, confidence=(1 + confidence) / 2)
    assert wider.low <= interval.low
    assert wider.high >= interval.high


def test_wilson_ends_are_exact_at_none_and_all() -> None:
    for n in range(1, 200):
        for confidence in (0.9, 0.95, 0.99):
            assert wilson(0, n, confidence=confidence).low == 0.0
            assert wilson(n, n, confidence=confidence).high == 1.0


def test_wilson_covers_as_it_says() -> None:
    # Exact coverage: the binomial mass of the counts whose interval holds p, averaged over p.
    n = 50
    intervals = [wilson(k, n) for k in range(n + 1)]
    coverages = []
    for p in np.linspace(0.05, 0.95, 181):
        mass = reference.binom.pmf(np.arange(n + 1), n, p)
        coverages.append(sum(m for m, i in zip(mass, intervals, strict=True) if i.low <= p <= i.high))
    assert np.mean(coverages) == pytest.approx(0.95, abs=0.005)
    assert min(coverages) > 0.90


def test_methods_carry_their_confidence() -> None:
    assert wilson(1, 2).method == "wilson95"
    assert wilson(1, 2, confidence=0.999).method == "wilson99.9"
    assert bootstrap_mean(ACCURACIES, confidence=0.9, resamples=10).method == "bootstrap90"
    assert bootstrap_statistic(LEVELS, lambda means: means[:, 0], resamples=10).method == "bootstrap95"
    assert t_interval(ACCURACIES, confidence=0.99).method == "t99"
    assert t_interval(ACCURACIES).method == "t95"


# --- bootstrap -------------------------------------------------------------------------------------------------


def test_bootstrap_mean_agrees_with_scipy() -> None:
    ours = bootstrap_mean(ACCURACIES, resamples=20000)
    theirs = reference.bootstrap(
        (ACCURACIES,), np.mean, n_resamples=20000, method="percentile", batch=500, rng=np.random.default_rng(5)
    ).confidence_interval
    # Ends of 20000 resamples scatter by about 2 % of the width.
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)


def test_bootstrap_mean_agrees_with_the_normal_approximation() -> None:
    interval = bootstrap_mean(ACCURACIES, resamples=20000)
    half = 1.959964 * ACCURACIES.std() / math.sqrt(ACCURACIES.size)
    assert (interval.low, interval.high) == pytest.approx(
        (ACCURACIES.mean() - half, ACCURACIES.mean() + half), abs=0.06 * half
    )


@pytest.mark.parametrize("n", [3, 200, 2**18 - 1, 2**18 + 1])
def test_bootstrap_equals_a_plain_loop(n: int) -> None:
    # The same draws, image by image, whatever the chunks: resampled means by indexing instead of counting.
    values = np.random.default_rng(n).random((2, n))
    resamples = 7
    seen = []
    bootstrap_statistic(values, lambda means: seen.append(means) or means[:, 0], resamples=resamples, seed=3)
    generator = np.random.Generator(np.random.Philox(3))
    expected = [values[:, generator.integers(n, size=n)].mean(axis=1) for _ in range(resamples)]
    np.testing.assert_allclose(seen[0], expected, rtol=1e-12)


def test_seeds_are_averaged_within_each_image_first() -> None:
    values = np.random.default_rng(0).random((5, 80))
    assert bootstrap_mean(values) == bootstrap_mean(values.mean(axis=0))
    # Five copies of one seed hold no more information than one: no narrower, unlike 400 images pooled.
    copies = np.repeat(values[:1], 5, axis=0)
    once, pooled = bootstrap_mean(values[0]), bootstrap_mean(copies.ravel())
    copied = bootstrap_mean(copies)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert (pooled.high - pooled.low) / (once.high - once.low) == pytest.approx(1 / math.sqrt(5), abs=0.05)


@pytest.mark.parametrize(("law", "mean"), [("beta", 2 / 3), ("bernoulli", 0.7)])
def test_bootstrap_covers_as_it_says(law: str, mean: float) -> None:
    generator = np.random.default_rng(0)
    trials, covered = 1000, 0
    for trial in range(trials):
        values = generator.beta(2, 1, size=100) if law == "beta" else generator.random(100) < mean
        interval = bootstrap_mean(values, resamples=300, seed=trial)
        covered += interval.low <= mean <= interval.high
    # Three standard deviations of the simulation, and one point below: the percentile bootstrap is a little narrow.
    assert 0.95 - 0.01 - 3 * 0.0069 < covered / trials < 0.95 + 3 * 0.0069


def test_pairing_cancels_what_the_levels_share() -> None:
    shared = np.random.default_rng(0).random(500)
    levels = np.stack([shared, shared + 0.1])
    difference = bootstrap_statistic(levels, lambda means: means[:, 1] - means[:, 0])
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1), abs=1e-12)
    single = bootstrap_mean(levels[1])
    assert single.high - single.low > 0.04


def test_a_ratio_of_means_agrees_with_scipy() -> None:
    ours = bootstrap_statistic(LEVELS[:2], lambda means: means[:, 1] / means[:, 0], resamples=20000)
    theirs = reference.bootstrap(
        (LEVELS[0], LEVELS[1]),
        lambda clean, dropped, axis=-1: dropped.mean(axis=axis) / clean.mean(axis=axis),
        paired=True,
        n_resamples=20000,
        method="percentile",
        batch=500,
        rng=np.random.default_rng(5),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)


def test_the_area_under_a_retention_curve_can_be_bootstrapped() -> None:
    losses = [0.0, 0.2, 0.5, 0.9]

    def area(means: np.ndarray) -> np.ndarray:
        return np.array([area_under_curve(losses, row / row[0]) for row in means])

    interval = bootstrap_statistic(LEVELS, area, resamples=500)
    assert interval.low < area(LEVELS.mean(axis=1)[np.newaxis])[0] < interval.high


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=20),
    shift=st.floats(-10, 10),
    scale=st.floats(0.1, 10),
    seed=st.integers(0, 2**64),
)
def test_bootstrap_moves_and_scales_with_the_values(values: list[float], shift: float, scale: float, seed: int) -> None:
    interval = bootstrap_mean(values, resamples=50, seed=seed)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    moved = bootstrap_mean(np.array(values) * scale + shift, resamples=50, seed=seed)
    assert (moved.low, moved.high) == pytest.approx(
        (interval.low * scale + shift, interval.high * scale + shift), abs=1e-6
    )


def test_bootstrap_is_deterministic_and_leaves_global_states_alone() -> None:
    before = np.random.get_state()  # noqa: NPY002 - the global state is what is tested
    first = bootstrap_mean(ACCURACIES)
    np.random.seed(3)  # noqa: NPY002
    assert bootstrap_mean(ACCURACIES) == first
    np.random.set_state(before)  # noqa: NPY002
    assert bootstrap_mean(ACCURACIES, seed=1) != first


@pytest.mark.parametrize(("seed", "low", "high"), [(0, 0.35911875, 0.389565625), (1, 0.358125, 0.391375)])
def test_bootstrap_is_pinned(seed: int, low: float, high: float) -> None:
    # Recorded intervals must not change with a version of NumPy. Eighths make every sum exact.
    interval = bootstrap_mean(np.arange(1000) % 7 / 8, resamples=500, seed=seed)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


def test_equal_values_give_an_interval_without_width() -> None:
    for values in ([1.0] * 50, [0.25]):
        interval = bootstrap_mean(values)
        assert interval.low == interval.high == values[0]


def test_memory_does_not_grow_with_the_resamples() -> None:
    values = np.random.default_rng(0).random(50_000)
    peaks = []
    for resamples in (20, 200):
        tracemalloc.start()
        bootstrap_mean(values, resamples=resamples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2
    assert peaks[1] < 16 * 2**20


# --- groups of images that are no independent units -------------------------------------------------------------


def clustering(groups: Sequence[int], *values: Sequence[float], weights: Sequence[int] | None = None) -> Clustering:
    return Clustering(
        groups=np.array(groups),
        rows=tuple(range(len(values))),
        values=np.array(values, dtype=np.float64),
        weights=tuple(weights or [1] * len(values)),
    )


def every_resample(clusterings: Sequence[Clustering]) -> Counter[tuple[Fraction | None, ...]]:
    """The means of each row in every resample that there is: groups of each clustering, and images if there are two."""
    n = len(clusterings[0].groups)
    names = [sorted(set(each.groups.tolist())) for each in clusterings]
    crossed = len(clusterings) > 1
    draws = [list(itertools.product(mine, repeat=len(mine))) for mine in names]
    images = list(itertools.product(range(n), repeat=n)) if crossed else [tuple(range(n))]
    found: Counter[tuple[Fraction | None, ...]] = Counter()
    for drawn in itertools.product(images, *draws):
        means = []
        for row in clusterings[0].rows:
            total, count = Fraction(0), 0
            for each, groups in zip(clusterings, drawn[1:], strict=True):
                for image in drawn[0]:
                    times = groups.count(each.groups[image]) * each.weights[row]
                    total += times * Fraction(each.values[row, image])
                    count += times
            means.append(total / count if count else None)
        found[tuple(means)] += 1
    return found


@pytest.mark.parametrize(
    "clusterings",
    [
        [clustering([4, 9], [1, 0], [0, 1])],
        [clustering([1, 0, 1, 2], [1, 0, 1, 1], [0.5, 0.25, 0, 1])],
        [clustering([5, 5, 5], [1, 0, 1])],
        [clustering([0, 1, 1], [1, 0, 1], [1, 1, 0]), clustering([0, 0, 1], [1, 0, 1], [0, 0, 1])],
        [clustering([0, 1], [1, 0], [1, 1]), clustering([0, 0], [1, 0], [0, 1], weights=[1, 3])],
    ],
)
def test_groups_are_drawn_as_often_as_among_all_resamples_that_there_are(clusterings: list[Clustering]) -> None:
    resamples = 20_000
    means = resampled_cluster_means(clusterings, resamples=resamples)
    drawn = Counter(
        tuple(None if math.isnan(mean) else Fraction(mean).limit_denominator(1000) for mean in row)
        for row in means.tolist()
    )
    expected = every_resample(clusterings)
    assert set(drawn) <= set(expected)
    whole = sum(expected.values())
    for outcome, count in expected.items():
        share = count / whole
        assert drawn[outcome] / resamples == pytest.approx(share, abs=5 * math.sqrt(share / resamples) + 1e-4)


def test_groups_of_one_image_are_the_images_bit_for_bit() -> None:
    alone = resampled_cluster_means([clustering(range(200), *LEVELS)])
    np.testing.assert_array_equal(alone, resampled_means(LEVELS))


def test_names_of_groups_do_not_matter_and_rows_may_be_missing() -> None:
    groups = np.arange(200) % 7
    named = resampled_cluster_means([clustering(groups, *LEVELS)])
    np.testing.assert_array_equal(named, resampled_cluster_means([clustering(3 * groups + 5, *LEVELS)]))
    part = dataclasses.replace(clustering(groups, *LEVELS[[0, 3]]), rows=(0, 3))
    found = resampled_cluster_means([part])
    np.testing.assert_array_equal(found[:, [0, 3]], named[:, [0, 3]])
    assert np.isnan(found[:, [1, 2]]).all()


def test_the_spread_over_groups_is_that_of_their_means() -> None:
    values = np.random.default_rng(2).random((1, 400))
    groups = np.arange(400) // 20
    spread = resampled_cluster_means([clustering(groups, *values)], resamples=20_000).std()
    assert spread == pytest.approx(values.reshape(20, 20).mean(axis=1).std() / math.sqrt(20), rel=0.03)


def test_seeds_that_group_in_other_ways_spread_as_their_parts_do() -> None:
    generator = np.random.default_rng(3)
    seeds, num_groups, n = 4, 30, 600
    fates = generator.standard_normal((seeds, num_groups))
    groups = generator.integers(0, num_groups, (seeds, n))
    # What the masks alone decide averages over all groups of all seeds.
    masks = [clustering(groups[s], fates[s][groups[s]]) for s in range(seeds)]
    spread = resampled_cluster_means(masks).std()
    assert spread == pytest.approx(fates.std() / math.sqrt(seeds * num_groups), rel=0.15)
    # What the images alone decide is common to the seeds: 2 (1 + 1 / S) - 1 times its variance, an overstatement.
    images = generator.standard_normal(n)
    spread = resampled_cluster_means([clustering(groups[s], images) for s in range(seeds)]).std()
    assert spread == pytest.approx(images.std() / math.sqrt(n) * math.sqrt(1 + 2 / seeds), rel=0.15)


# --- where a curve falls ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    heights=st.lists(st.integers(0, 8), min_size=2, max_size=6),
    target=st.integers(0, 8),
    steps=st.lists(st.integers(1, 4), min_size=6, max_size=6),
)
def test_the_first_fall_is_where_a_walk_along_the_curve_first_meets_the_target(
    heights: list[int], target: int, steps: list[int]
) -> None:
    x = [sum(steps[:place]) for place in range(len(heights))]
    fine = np.linspace(x[0], x[-1], 840 * (x[-1] - x[0]) + 1)  # holds every point that is a whole height
    walked = np.interp(fine, x, heights)
    (found,) = first_fall(x, np.array([heights], dtype=float), np.array([float(target)])).tolist()
    below = np.flatnonzero(walked <= target + 1e-9)
    if heights[0] < target:
        assert found == -math.inf
    elif not len(below):
        assert found == math.inf
    else:
        assert found == pytest.approx(fine[below[0]])


def test_lines_fall_each_to_its_own_target() -> None:
    heights = np.array([[1.0, 0.5, 0.0], [1.0, 1.0, 0.0], [0.2, 0.6, 0.0], [1.0, 0.5, 0.0]])
    found = first_fall([0.0, 1.0, 3.0], heights, np.array([0.75, 0.5, 0.4, np.nan]))
    np.testing.assert_array_equal(found, [0.5, 2.0, -np.inf, np.nan])


# --- Student's t -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=20), confidence=st.floats(0.5, 0.999))
def test_t_interval_equals_scipy(values: list[float], confidence: float) -> None:
    interval = t_interval(values, confidence)
    mean, half = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    quantile = reference.t.ppf((1 + confidence) / 2, len(values) - 1)
    assert (interval.low, interval.high) == pytest.approx((mean - quantile * half, mean + quantile * half), abs=1e-6)


def test_t_interval_of_a_table() -> None:
    # t(0.975, 4) = 2.776 in every table; these values have mean 3 and standard error sqrt(0.5).
    interval = t_interval([1, 2, 3, 4, 5])
    assert interval.low == pytest.approx(3 - 2.7764451 * math.sqrt(0.5), abs=1e-6)
    assert interval.high == pytest.approx(3 + 2.7764451 * math.sqrt(0.5), abs=1e-6)


# --- areas and chance --------------------------------------------------------------------------------------------


def test_area_of_known_curves() -> None:
    assert area_under_curve([0, 1], [1, 0]) == 0.5
    assert area_under_curve([0.0, 0.1, 0.9], [0.7, 0.7, 0.7]) == pytest.approx(0.7)
    assert area_under_curve([2, 3, 6], [0, 2, 2]) == (1 + 6) / 4
    x = np.linspace(0, math.pi, 2001)
    assert area_under_curve(x, np.sin(x)) == pytest.approx(2 / math.pi, abs=1e-6)


points = st.lists(
    st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=20, unique_by=lambda p: p[0]
)


@settings(deadline=None)
@given(points=points)
def test_area_equals_numpy_and_lies_between_the_heights(points: list[tuple[float, float]]) -> None:
    x, y = map(np.array, zip(*sorted(points), strict=True))
    if x[-1] - x[0] < 1e-6:
        return
    area = area_under_curve(x, y)
    assert area == pytest.approx(np.trapezoid(y, x) / (x[-1] - x[0]), rel=1e-9, abs=1e-6)
    assert y.min() - 1e-6 <= area <= y.max() + 1e-6


@settings(deadline=None)
@given(points=points, split=st.floats(0.1, 0.9))
def test_a_further_point_on_the_line_changes_nothing(points: list[tuple[float, float]], split: float) -> None:
    (x0, y0), (x1, y1), *_ = sorted(points)
    middle = x0 + split * (x1 - x0)
    if x1 - x0 < 1e-3:
        return
    coarse = area_under_curve([x0, x1], [y0, y1])
    fine = area_under_curve([x0, middle, x1], [y0, y0 + (y1 - y0) * (middle - x0) / (x1 - x0), y1])
    assert fine == pytest.approx(coarse, abs=1e-6)


def test_chance_correction_of_known_values() -> None:
    assert chance_corrected(0.817, clean=0.817, chance=0.001) == 1
    assert chance_corrected(0.1, clean=0.9, chance=0.1) == 0
    assert chance_corrected(0.05, clean=0.9, chance=0.1) < 0
    assert chance_corrected(0.3, clean=0.5, chance=0.1) == pytest.approx(0.5)


# --- mistakes ------------------------------------------------------------------------------------------------------


def ratio(means: np.ndarray) -> np.ndarray:
    return means[:, 1] / means[:, 0]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: wilson(0, 0), "at least one image"),
        (lambda: wilson(-1, 5), "successes=-1 must lie in [0, 5]"),
        (lambda: wilson(6, 5), "successes=6 must lie in [0, 5]"),
        (lambda: wilson(1, 5, confidence=95), "confidence must lie between 0 and 1, not 95"),
        (lambda: wilson(1, 5, confidence=float("nan")), "confidence must lie between 0 and 1"),
        (lambda: bootstrap_mean([]), "not empty, but have shape (0,)"),
        (lambda: bootstrap_mean(np.zeros((2, 0))), "not empty, but have shape (2, 0)"),
        (lambda: bootstrap_mean(np.zeros((2, 3, 4))), "1-dimensional or 2-dimensional"),
        (lambda: bootstrap_mean([0.5, float("nan")]), "1 of 2 values are not finite"),
        (lambda: bootstrap_mean([0.5, 1.0], resamples=1), "at least 2 resamples, not 1"),
        (lambda: bootstrap_mean([0.5, 1.0], seed=-1), "seed must not be negative"),
        (lambda: bootstrap_mean([0.5, 1.0], confidence=0), "confidence must lie between 0 and 1, not 0"),
        (lambda: bootstrap_statistic([0.5, 1.0], ratio), "2-dimensional"),
        (lambda: bootstrap_statistic(LEVELS, lambda means: means), "must be (2000,), not (2000, 4)"),
        (lambda: bootstrap_statistic([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]], ratio), "is not finite in"),
        (lambda: t_interval([0.5]), "one value has no spread"),
        (lambda: t_interval([[0.5, 1.0]]), "1-dimensional"),
        (lambda: t_interval([0.5, float("inf")]), "not finite"),
        (lambda: t_interval([0.5, 1.0], confidence=1), "confidence must lie between 0 and 1, not 1"),
        (lambda: area_under_curve([0, 1], [1]), "2 x and 1 y values"),
        (lambda: area_under_curve([0], [1]), "at least two points, not 1"),
        (lambda: area_under_curve([0, 0.5, 0.5, 1], [1, 1, 1, 1]), "0.5 is followed by 0.5"),
        (lambda: area_under_curve([0, 1, 0.5], [1, 1, 1]), "1 is followed by 0.5"),
        (lambda: area_under_curve([0, float("nan")], [1, 1]), "finite"),
        (lambda: area_under_curve([0, 1], [1, float("inf")]), "finite"),
        (lambda: chance_corrected(0.1, clean=0.1, chance=0.1), "not above chance"),
        (lambda: chance_corrected(0.1, clean=0.05, chance=0.1), "not above chance"),
        (lambda: chance_corrected(0.1, clean=float("nan"), chance=0.1), "not above chance"),
    ],
)
def test_mistakes_say_what_is_wrong(call: object, said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        call()
    assert said in str(caught.value)


# --- the mean of class accuracies ------------------------------------------------------------------------------

COUNTS = [(3, 8), (8, 8), (0, 5), (20, 50), (7, 9), (1, 2)]
counts = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted).map(tuple), min_size=1, max_size=12)


def class_mean(pairs: Sequence[tuple[int, int]], **options: float) -> Interval:
    correct, images = zip(*pairs, strict=True)
    return bootstrap_class_mean(correct, images, **options)


def test_the_class_bootstrap_equals_images_drawn_one_by_one() -> None:
    """n - 1 of each class's n images, with replacement, and the mean of the classes' accuracies."""
    rng = np.random.default_rng(5)
    outcomes = [np.repeat([1.0, 0.0], [k, n - k]) for k, n in COUNTS]
    means = [np.mean([rng.choice(values, len(values) - 1).mean() for values in outcomes]) for _ in range(4000)]
    low, high = np.quantile(means, [0.025, 0.975])
    found = class_mean(COUNTS, resamples=20_000)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)
    assert found.method == "bootstrap95"


def test_the_class_bootstrap_has_the_unbiased_spread_of_a_stratified_mean() -> None:
    """The textbook variance: the mean over classes of p (1 - p) / (n - 1), over the number of classes."""
    pairs = [(3, 8), (5, 6), (2, 7)] * 40
    spread = math.sqrt(sum(k / n * (1 - k / n) / (n - 1) for k, n in pairs)) / len(pairs)
    found = class_mean(pairs, resamples=20_000)
    mean = np.mean([k / n for k, n in pairs])
    assert (found.low, found.high) == pytest.approx((mean - 1.96 * spread, mean + 1.96 * spread), abs=0.05 * spread)


def test_classes_of_one_image_are_drawn_together() -> None:
    found = class_mean([(1, 1)] * 60 + [(0, 1)] * 40, resamples=20_000)
    low, high = reference.binom.ppf([0.025, 0.975], 100, 0.6) / 100
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.011)


@settings(deadline=None, max_examples=40)
@given(pairs=counts)
def test_the_class_bootstrap_holds_the_mean_and_knows_no_order(pairs: list[tuple[int, int]]) -> None:
    filled = [(k, n) for k, n in pairs if n]
    if not filled:
        with pytest.raises(ParameterError, match="one above 0"):
            class_mean(pairs)
        return
    found = class_mean(pairs)
    assert found.low - 1e-12 <= np.mean([k / n for k, n in filled]) <= found.high + 1e-12
    assert found.low >= -1e-12
    assert found.high <= 1 + 1e-12
    assert class_mean(pairs[::-1]) == class_mean(filled) == found


def test_the_class_bootstrap_covers_the_true_mean_also_over_few_images_a_class() -> None:
    rng = np.random.default_rng(8)
    truth, images = rng.uniform(0.3, 0.9, 40), rng.integers(1, 5, 40)
    covered = 0
    for _ in range(300):
        found = bootstrap_class_mean(rng.binomial(images, truth), images, resamples=400)
        covered += found.low <= truth.mean() <= found.high
    assert 0.92 <= covered / 300 <= 0.995


def test_the_class_bootstrap_follows_seed_and_confidence() -> None:
    assert class_mean(COUNTS) == class_mean(COUNTS, seed=0)
    assert class_mean(COUNTS) != class_mean(COUNTS, seed=1)
    narrow = class_mean(COUNTS, confidence=0.5)
    assert class_mean(COUNTS).low < narrow.low < narrow.high < class_mean(COUNTS).high
    assert narrow.method == "bootstrap50"
    assert class_mean([(4, 4), (0, 3), (1, 1)]) == Interval(2 / 3, 2 / 3, "bootstrap95")


@pytest.mark.parametrize("pairs", [[(3, 2)], [(-1, 2)], [(0.5, 2)], [(0, 0)], [(1, math.nan)], []])
def test_counts_of_classes_that_make_no_sense_are_refused(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(ParameterError):
        bootstrap_class_mean([k for k, _ in pairs], [n for _, n in pairs])
