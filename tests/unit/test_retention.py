"""Retention, its areas and half losses: by hand, against slow loops, over seeds, heads and shots, where undefined."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.protocols import Outcomes, Summary, SummaryInput
from harness.retention import Retention, _percentile_intervals
from harness.stats import bootstrap_statistic
from harness.types import JSONScalar, Measurement, ResultRecord


def cell_input(
    level: float | None,
    correct: Any,
    *,
    seed: int | None = 0,
    loss: float | Sequence[float] | None = None,
    positions: Sequence[int] | None = None,
    variants: tuple[Mapping[str, JSONScalar], ...] = ({},),
    num_classes: int = 10,
    labels: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
) -> SummaryInput:
    """A cell whose probe got ``correct`` (V, N) or (N,) right at ``level``; ``groups`` of images share masks."""
    right = np.atleast_2d(np.asarray(correct, dtype=bool))
    columns: dict[str, Any] = {"correct": right}
    if loss is not None:
        columns["information_loss"] = np.broadcast_to(np.asarray(loss, np.float32), right.shape)
    for name, known, dtype in (("label", labels, np.int32), ("mask_group", groups, np.float32)):
        if known is not None:
            columns[name] = np.broadcast_to(np.asarray(known, dtype), right.shape)
    record = ResultRecord(
        key=f"{level}-{seed}",
        cell={"level": level, "seeds": {"perturb": seed}, "num_classes": num_classes, "weights": "random:x:0"},
    )
    places = np.arange(right.shape[1]) if positions is None else np.asarray(positions, dtype=np.int64)
    return SummaryInput(record=record, outcomes=Outcomes(positions=places, variants=variants, columns=columns))


def clean_input(correct: Any, **kwargs: Any) -> SummaryInput:
    return cell_input(None, correct, seed=None, **kwargs)


def compute(group: Sequence[SummaryInput], clean: SummaryInput | None) -> list[Measurement]:
    return Retention().compute(group, clean)


def only(measurements: Sequence[Measurement], metric: str, **dims: JSONScalar) -> Measurement:
    (found,) = [m for m in measurements if m.metric == metric and dims.items() <= m.dims.items()]
    return found


def value(measurements: Sequence[Measurement], metric: str, **dims: JSONScalar) -> float:
    return only(measurements, metric, **dims).value


def width(measurement: Measurement) -> float:
    assert measurement.low is not None
    assert measurement.high is not None
    return measurement.high - measurement.low


def metrics(measurements: Sequence[Measurement]) -> set[str]:
    return {measurement.metric for measurement in measurements}


def first(count: int, of: int = 10) -> list[int]:
    """``count`` right answers of ``of``."""
    return [1] * count + [0] * (of - count)


# --- by hand ---------------------------------------------------------------------------------------------------


def test_the_worked_example() -> None:
    """Clean .8; .6 at loss .25, .2 at loss .75: trapezoids .175 + .2 over .75, chance .1."""
    group = [cell_input(0.3, first(6), loss=0.25), cell_input(0.7, first(2), loss=0.75)]
    found = compute(group, clean_input(first(8)))
    assert value(found, "accuracy", level=0.3) == pytest.approx(0.6)
    assert value(found, "retention", level=0.3) == pytest.approx(0.75)
    assert value(found, "retention", level=0.7) == pytest.approx(0.25)
    assert value(found, "information_loss", level=0.3) == 0.25
    area = (0.25 * (0.8 + 0.6) / 2 + 0.5 * (0.6 + 0.2) / 2) / 0.75
    assert value(found, "accuracy_area", axis="information_loss") == pytest.approx(area)
    assert value(found, "retention_area", axis="information_loss") == pytest.approx(area / 0.8)
    assert value(found, "retention_area_chance_corrected") == pytest.approx((area - 0.1) / 0.7)
    assert value(found, "retention_chance_corrected", level=0.3) == pytest.approx(0.5 / 0.7)
    assert value(found, "retention_chance_corrected", level=0.7) == pytest.approx(0.1 / 0.7)
    assert value(found, "half_accuracy_loss", axis="information_loss") == pytest.approx(0.5)  # .4 from .6 to .2
    half = 0.25 + 0.5 * (0.6 - 0.45) / 0.4
    assert value(found, "half_accuracy_loss_chance_corrected", axis="information_loss") == pytest.approx(half)
    assert {m.n for m in found} == {10}
    assert [m.metric for m in found] == [
        *("information_loss", "accuracy", "retention", "retention_chance_corrected") * 2,
        "accuracy_area",
        "retention_area",
        "retention_area_chance_corrected",
        "half_accuracy_loss",
        "half_accuracy_loss_chance_corrected",
    ]
    assert {m.unit for m in found} == {"fraction"}


def test_nothing_lost_is_one_and_all_lost_is_the_half_triangle() -> None:
    nothing = compute([cell_input(x, first(8), loss=x) for x in (0.5, 1.0)], clean_input(first(8)))
    for metric in ("retention_area", "retention_area_chance_corrected"):
        assert value(nothing, metric) == pytest.approx(1)
    falling = compute([cell_input(1.0, first(0), loss=1.0)], clean_input(first(8)))
    assert value(falling, "retention_area") == pytest.approx(0.5)


def test_the_identity_level_is_the_start_of_the_curve_if_it_was_run() -> None:
    sweep = [cell_input(0.0, first(8), loss=0.0), cell_input(1.0, first(4), loss=1.0)]
    assert value(compute(sweep, clean_input(first(8))), "accuracy_area") == pytest.approx(0.6)
    assert value(compute(sweep[1:], clean_input(first(8))), "accuracy_area") == pytest.approx(0.6)


def test_without_recorded_loss_the_curve_runs_over_the_levels_measured() -> None:
    group = [cell_input(level, first(8 - level)) for level in (1, 2, 4)]
    found = compute(group, clean_input(first(8)))
    area = (1 * 6.5 + 2 * 5.0) / 3 / 10
    assert value(found, "accuracy_area", axis="level") == pytest.approx(area)
    assert value(found, "retention_area", axis="level") == pytest.approx(area / 0.8)
    assert not [m for m in found if m.metric == "information_loss"]


def test_one_cell_without_recorded_loss_turns_the_whole_curve_to_levels() -> None:
    group = [cell_input(1.0, first(5), loss=0.5), cell_input(3.0, first(3))]
    assert value(compute(group, clean_input(first(8))), "accuracy_area", axis="level") == pytest.approx(0.4)


def test_levels_that_really_take_away_the_same_share_are_averaged() -> None:
    group = [cell_input(0.1, first(8), loss=0.5), cell_input(0.12, first(4), loss=0.5)]
    found = compute(group, clean_input(first(8)))
    assert value(found, "accuracy_area") == pytest.approx((0.8 + 0.6) / 2)
    assert value(found, "retention", level=0.12) == pytest.approx(0.5)


def test_a_curve_of_one_place_has_no_area() -> None:
    found = compute([cell_input(2.0, first(4))], clean_input(first(8)))
    assert [m.metric for m in found] == ["accuracy", "retention", "retention_chance_corrected"]


# --- where half is lost ----------------------------------------------------------------------------------------


def test_half_is_lost_at_the_first_crossing_of_a_curve_that_rises_again() -> None:
    shares = {0.2: 6, 0.4: 2, 0.6: 8, 0.8: 1}
    found = compute([cell_input(x, first(k), loss=x) for x, k in shares.items()], clean_input(first(8)))
    assert value(found, "half_accuracy_loss") == pytest.approx(0.3)


def test_a_point_at_exactly_half_is_where_half_is_lost() -> None:
    found = compute([cell_input(x, first(k), loss=x) for x, k in ((0.25, 4), (0.5, 4))], clean_input(first(8)))
    assert value(found, "half_accuracy_loss") == 0.25


def test_over_levels_the_half_loss_is_a_level() -> None:
    found = compute([cell_input(x, first(k)) for x, k in ((1, 6), (3, 2))], clean_input(first(8)))
    half = only(found, "half_accuracy_loss", axis="level")
    assert (half.value, half.unit) == (2.0, "level")


@pytest.mark.parametrize("shares", [{0.3: 8, 0.9: 5}, {0.3: 9, 0.9: 8}])
def test_a_curve_that_stays_above_half_has_no_half_loss(shares: dict[float, int]) -> None:
    group = [cell_input(x, first(k), loss=x) for x, k in shares.items()]
    found = compute(group, clean_input(first(8)))
    assert "half_accuracy_loss" not in metrics(found)
    assert "retention_area" in metrics(found)


def test_half_of_what_lies_above_chance_can_be_lost_before_half_of_all() -> None:
    """Clean .8 among two classes: .65 is half-way to chance, and half of the accuracy lies below chance."""
    found = compute([cell_input(0.6, first(5), loss=0.6)], clean_input(first(8), num_classes=2))
    assert value(found, "half_accuracy_loss_chance_corrected") == pytest.approx(float(np.float32(0.6)) / 2)
    assert "half_accuracy_loss" not in metrics(found)


def test_levels_that_start_below_half_do_not_say_where_it_was_lost() -> None:
    found = compute([cell_input(x, first(k)) for x, k in ((1, 3), (2, 6), (3, 1))], clean_input(first(8)))
    assert "half_accuracy_loss" not in metrics(found)


def test_draws_beyond_the_curve_leave_an_interval_its_ends_while_they_are_few() -> None:
    draws = np.arange(2000.0)
    few, many, unknown = draws.copy(), draws.copy(), draws.copy()
    few[-10:], many[-100:], unknown[0] = np.inf, np.inf, np.nan
    found = _percentile_intervals(np.stack([draws, few, many, unknown], axis=1))
    assert found[0] == pytest.approx((49.975, 1949.025))
    assert found[1] == (49.0, 1949.0)  # the 50th and the 1950th draw, whatever the last ten are
    assert found[2:] == [(None, None), (None, None)]


def test_a_half_loss_that_many_resamples_do_not_reach_has_no_interval() -> None:
    """.45 of .8 is left at the last level: just beyond half in a few more resamples than it is short of it."""
    right = np.zeros((3, 40), dtype=bool)
    right[0, :32] = right[1, :31] = right[2, :15] = True
    found = compute([cell_input(x, row, loss=x) for x, row in zip((0.4, 0.8), right[1:], strict=True)],
                    clean_input(right[0]))  # fmt: skip
    half = only(found, "half_accuracy_loss")
    assert 0.4 < half.value < 0.8
    assert (half.low, half.high, half.interval) == (None, None, None)
    assert only(found, "retention", level=0.8).interval == "bootstrap95"


# --- classes ---------------------------------------------------------------------------------------------------


def test_each_class_has_its_own_retention() -> None:
    labels = [3, 0, 3, 0, 3, 7]
    group = [
        cell_input(0.2, [1, 1, 1, 0, 0, 1], loss=0.2, labels=labels),
        cell_input(0.4, [0, 1, 1, 0, 0, 0], loss=0.4, labels=labels),
    ]
    found = compute(group, clean_input([1, 1, 1, 1, 0, 0], labels=labels))
    rows = {(m.dims["class"], m.dims["level"]): (m.value, m.n) for m in found if m.metric == "class_retention"}
    assert rows == {(0, 0.2): (0.5, 2), (0, 0.4): (0.5, 2), (3, 0.2): (1.0, 3), (3, 0.4): (0.5, 3)}  # 7: never right


def test_without_labels_there_are_no_classes() -> None:
    found = compute([cell_input(0.5, first(4), loss=0.5)], clean_input(first(8)))
    assert "class_retention" not in metrics(found)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_classes_equal_a_slow_loop_in_exact_arithmetic(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 9))
    labels = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    bits = st.lists(st.booleans(), min_size=n, max_size=n)
    clean, answers = data.draw(bits), {(level, seed): data.draw(bits) for level in (1, 2) for seed in (0, 1)}
    positions = sorted(data.draw(st.sets(st.integers(0, 30), min_size=n, max_size=n)))
    group = [cell_input(level, row, seed=seed, positions=positions) for (level, seed), row in answers.items()]
    # The clean cell alone has seen one image more, which counts nowhere.
    clean_cell = clean_input([*clean, True], labels=[*labels, 0], positions=[*positions, 99])
    rows = {
        (m.dims["class"], m.dims["level"]): (m.value, m.n)
        for m in compute(group, clean_cell)
        if m.metric == "class_retention"
    }
    expected = {}
    for label in set(labels):
        mine = [place for place in range(n) if labels[place] == label]
        base = sum(clean[place] for place in mine)
        for level in (1, 2):
            if base:
                left = Fraction(sum(answers[level, seed][place] for seed in (0, 1) for place in mine), 2 * base)
                expected[label, level] = (pytest.approx(float(left)), len(mine))
    assert rows == expected


def test_intervals_of_a_class_are_those_of_its_images_alone() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 90)
    correct = generator.random((3, 90)) < np.array([[0.9], [0.6], [0.3]])
    group = [cell_input(x, row, loss=x, labels=labels) for x, row in zip((0.5, 0.9), correct[1:], strict=True)]
    found = compute(group, clean_input(correct[0], labels=labels))
    for label in range(3):
        for row, level in ((1, 0.5), (2, 0.9)):
            measurement = only(found, "class_retention", level=level, **{"class": label})
            expected = bootstrap_statistic(
                correct[:, labels == label], lambda means, row=row: means[:, row] / means[:, 0]
            )
            assert measurement.low == pytest.approx(expected.low, abs=1e-12)
            assert measurement.high == pytest.approx(expected.high, abs=1e-12)
            assert measurement.interval == expected.method


# --- masks that groups of images share -------------------------------------------------------------------------


def grouped_sweep(groups: Sequence[int] | None, *, seed: int = 0) -> tuple[list[SummaryInput], SummaryInput]:
    """Three levels of 60 images, of which those of a group are all right or all wrong at each level."""
    generator = np.random.default_rng(seed)
    fates = generator.random((3, 6)) < np.array([[0.8], [0.5], [0.2]])
    correct = fates[:, np.arange(60) % 6]
    cells = [
        cell_input(x, row, loss=x, groups=groups, seed=seed) for x, row in zip((0.3, 0.6, 0.9), correct, strict=True)
    ]
    return cells, clean_input(np.arange(60) % 10 > 0, labels=np.arange(60) % 10 // 5)


def test_groups_are_resampled_whole_and_values_stay_what_they_were() -> None:
    alone = compute(*grouped_sweep(None))
    together = compute(*grouped_sweep(np.arange(60) % 6))
    assert [m.value for m in alone] == [m.value for m in together]
    for metric, dims in (("retention", {"level": 0.3}), ("accuracy_area", {})):
        narrow, wide = only(alone, metric, **dims), only(together, metric, **dims)
        # Ten images that stand and fall together: the square root of ten.
        assert width(wide) == pytest.approx(10**0.5 * width(narrow), rel=0.25)
        assert (wide.interval, wide.n) == ("bootstrap95", 60)


def test_groups_of_one_image_are_images() -> None:
    assert compute(*grouped_sweep(np.arange(60))) == compute(*grouped_sweep(None))


def test_one_group_gives_numbers_without_intervals() -> None:
    found = compute(*grouped_sweep([7] * 60))
    assert [m.value for m in found] == [m.value for m in compute(*grouped_sweep(None))]
    assert {m.interval for m in found} == {None}


def test_a_class_within_one_group_has_no_interval_where_others_have() -> None:
    cells, clean = grouped_sweep(np.arange(60) % 10)  # one class has the groups 0 to 4, the other 5 to 9
    only_zero = [replace_groups(cell, np.where(np.arange(60) % 10 < 5, 0, np.arange(60) % 10)) for cell in cells]
    intervals = {m.dims["class"]: m.interval for m in compute(only_zero, clean) if m.metric == "class_retention"}
    assert intervals == {0: None, 1: "bootstrap95"}
    assert only(compute(only_zero, clean), "retention", level=0.3).interval == "bootstrap95"


def replace_groups(item: SummaryInput, groups: Any) -> SummaryInput:
    assert item.outcomes is not None
    columns = {**item.outcomes.columns, "mask_group": np.asarray(groups, np.float32)[None]}
    return SummaryInput(
        record=item.record,
        outcomes=Outcomes(positions=item.outcomes.positions, variants=item.outcomes.variants, columns=columns),
    )


def test_seeds_with_groups_of_their_own_narrow_the_interval() -> None:
    generator = np.random.default_rng(5)
    clean = clean_input(np.ones(300), labels=np.arange(300) % 3)
    cells = []
    for seed in range(6):
        groups = generator.integers(0, 12, 300)
        cells += [cell_input(x, (generator.random(12) < 1 - x)[groups], loss=x, seed=seed, groups=groups)
                  for x in (0.25, 0.5)]  # fmt: skip
    one, six = (only(compute(part, clean), "retention", level=0.25) for part in (cells[:2], cells))
    assert width(six) / width(one) == pytest.approx(6**-0.5, rel=0.5)
    classes = [m for m in compute(cells, clean) if m.metric == "class_retention"]
    assert len(classes) == 6
    assert all(width(m) > 0 for m in classes)


def test_a_seed_with_one_group_says_nothing_of_the_spread() -> None:
    several, clean = grouped_sweep(np.arange(60) % 6)
    single, _ = grouped_sweep([1] * 60, seed=1)
    assert {m.interval for m in compute([*several, *single], clean)} == {None}


# --- seeds, rows, images ---------------------------------------------------------------------------------------


def test_seeds_are_averaged_within_each_image() -> None:
    group = [
        cell_input(0.5, [1, 0, 1, 0], seed=0, loss=[0.4] * 4),
        cell_input(0.5, [1, 1, 0, 0], seed=1, loss=[0.6] * 4),
    ]
    found = compute(group, clean_input([1, 1, 1, 1], num_classes=2))
    assert value(found, "retention") == 0.5
    assert value(found, "information_loss") == pytest.approx(0.5)
    (retention,) = [m for m in found if m.metric == "retention"]
    per_image = np.array([[1, 1, 1, 1], [1, 0.5, 0.5, 0]])
    expected = bootstrap_statistic(per_image, lambda means: means[:, 1] / means[:, 0])
    assert (retention.low, retention.high, retention.interval) == (expected.low, expected.high, expected.method)
    assert retention.n == 4


def test_each_head_and_each_number_of_shots_has_rows_of_its_own() -> None:
    heads = ({"head": "cls"}, {"head": "dist"})
    found = compute(
        [cell_input(0.5, [first(4), first(2)], loss=0.5, variants=heads)],
        clean_input([first(8), first(4)], variants=heads),
    )
    assert value(found, "accuracy_area", head="cls") == pytest.approx(0.6)
    assert value(found, "accuracy_area", head="dist") == pytest.approx(0.3)
    shots = tuple({"shots": shots, "seed": seed} for shots in (1, 5) for seed in (0, 1))
    found = compute(
        [cell_input(0.5, [first(0), first(2), first(4), first(8)], loss=0.5, variants=shots)],
        clean_input([first(2), first(2), first(6), first(6)], variants=shots),
    )
    assert value(found, "retention", shots=1) == pytest.approx(0.5)
    assert value(found, "retention", shots=5) == pytest.approx(1.0)
    assert all("seed" not in m.dims for m in found)


def test_rows_of_measurements_never_collide() -> None:
    shots = tuple({"shots": shots, "seed": seed} for shots in (1, 5) for seed in (0, 1))
    group = [
        cell_input(level, np.ones((4, 6)) * (level < 0.5), loss=level, variants=shots, seed=seed)
        for level in (0.25, 0.5)
        for seed in (0, 1)
    ]
    found = compute(group, clean_input(np.ones((4, 6)), variants=shots, labels=[0, 0, 1, 1, 2, 2]))
    rows = [(m.metric, tuple(sorted(m.dims.items()))) for m in found]
    assert len(rows) == len(set(rows)) == 2 * (4 * 2 + 5 + 3 * 2)


def test_only_images_that_every_cell_has_count_matched_by_position() -> None:
    group = [
        cell_input(0.5, [0, 0, 1], loss=[0.5, 0.4, 0.3], positions=[2, 5, 9]),
        cell_input(0.8, [1, 0, 0], loss=[0.8, 0.7, 0.9], positions=[1, 5, 9]),
    ]
    found = compute(group, clean_input([1, 1, 0, 1, 1], positions=[1, 2, 3, 5, 9]))
    assert {m.n for m in found} == {2}  # 5 and 9
    assert value(found, "retention", level=0.5) == 0.5
    assert value(found, "retention", level=0.8) == 0
    assert value(found, "information_loss", level=0.5) == pytest.approx(0.35)
    assert value(found, "information_loss", level=0.8) == pytest.approx(0.8)
    apart = [cell_input(0.5, [1], positions=[7], loss=0.5)]
    assert compute(apart, clean_input([1], positions=[8])) == []


# --- where it is undefined -------------------------------------------------------------------------------------


def test_without_clean_accuracy_there_is_no_retention_but_an_area() -> None:
    found = compute([cell_input(0.5, first(4), loss=0.5)], clean_input(first(0)))
    assert [m.metric for m in found] == ["information_loss", "accuracy", "accuracy_area"]


def test_at_chance_there_is_no_corrected_area() -> None:
    found = compute([cell_input(0.5, first(1), loss=0.5)], clean_input(first(1), num_classes=10))
    assert "retention_area" in {m.metric for m in found}
    assert "retention_area_chance_corrected" not in {m.metric for m in found}


def test_a_ratio_that_vanishes_in_some_resamples_has_a_value_without_interval() -> None:
    found = compute([cell_input(0.5, [1, 0, 0, 0], loss=0.5)], clean_input([1, 1, 0, 0], num_classes=10))
    by_name = {m.metric: m for m in found}
    retention = by_name["retention"]  # no image right in 1 of 16 resamples
    assert retention.value == 0.5
    assert (retention.low, retention.high, retention.interval) == (None, None, None)
    assert by_name["accuracy_area"].interval == "bootstrap95"
    assert all(np.isfinite(m.value) for m in found)


def test_cells_that_cannot_be_compared_are_left_out() -> None:
    clean = clean_input(first(8))
    cell = cell_input(0.5, first(4), loss=0.5)
    assert compute([cell], None) == []
    assert compute([], clean) == []
    assert compute([SummaryInput(record=cell.record, outcomes=None)], clean) == []
    assert compute([cell], SummaryInput(record=clean.record, outcomes=None)) == []
    scores = Outcomes(positions=np.arange(10), variants=({},), columns={"similarity": np.ones((1, 10))})
    assert compute([SummaryInput(record=cell.record, outcomes=scores)], clean) == []
    assert compute([cell_input(None, first(4), loss=0.5)], clean) == []
    assert compute([cell_input(0.5, first(4), loss=0.5, variants=({"head": "other"},))], clean) == []


def test_it_is_a_summary() -> None:
    assert isinstance(Retention(), Summary)


# --- against a slow loop ---------------------------------------------------------------------------------------


def slow_area(points: list[tuple[Fraction, Fraction]]) -> Fraction:
    ordered = sorted(points)
    total = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(ordered))
    return total / (ordered[-1][0] - ordered[0][0])


def slow_fall(points: Sequence[tuple[Any, Any]], target: Any) -> Any:
    """Where the line through ``points`` first comes down to ``target``, segment by segment."""
    for (left, high), (right, low) in itertools.pairwise(points):
        if high > target >= low:
            return left + (right - left) * (high - target) / (high - low)
    return None


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_it_equals_a_slow_loop_in_exact_arithmetic(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    seeds = data.draw(st.integers(1, 3))
    bits = st.lists(st.booleans(), min_size=n, max_size=n)
    clean = data.draw(bits)
    eighths = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True))
    answers = {(level, seed): data.draw(bits) for level in eighths for seed in range(seeds)}
    group = [
        cell_input(level / 10, correct, seed=seed, loss=level / 8, num_classes=4)
        for (level, seed), correct in answers.items()
    ]
    found = compute(group, clean_input(clean, num_classes=4))

    def accuracy(level: int) -> Fraction:
        return Fraction(sum(sum(answers[level, seed]) for seed in range(seeds)), n * seeds)

    clean_accuracy = Fraction(sum(clean), n)
    area = slow_area([(Fraction(0), clean_accuracy), *((Fraction(level, 8), accuracy(level)) for level in eighths)])
    assert value(found, "accuracy_area") == pytest.approx(float(area))
    if clean_accuracy > 0:
        assert value(found, "retention_area") == pytest.approx(float(area / clean_accuracy))
        for level in eighths:
            assert value(found, "retention", level=level / 10) == pytest.approx(float(accuracy(level) / clean_accuracy))
    if clean_accuracy > Fraction(1, 4):
        corrected = (area - Fraction(1, 4)) / (clean_accuracy - Fraction(1, 4))
        assert value(found, "retention_area_chance_corrected") == pytest.approx(float(corrected))
        for level in eighths:
            left = (accuracy(level) - Fraction(1, 4)) / (clean_accuracy - Fraction(1, 4))
            assert value(found, "retention_chance_corrected", level=level / 10) == pytest.approx(float(left))
    points = [(Fraction(0), clean_accuracy), *((Fraction(level, 8), accuracy(level)) for level in sorted(eighths))]
    for metric, floor in (("half_accuracy_loss", Fraction(0)), ("half_accuracy_loss_chance_corrected", Fraction(1, 4))):
        fall = slow_fall(points, (clean_accuracy + floor) / 2) if clean_accuracy > floor else None
        halves = [m.value for m in found if m.metric == metric]
        assert halves == ([] if fall is None else [pytest.approx(float(fall))])
    for measurement in found:
        if measurement.low is not None and measurement.high is not None:
            assert measurement.low <= measurement.high


def test_intervals_are_those_of_a_loop_over_resamples() -> None:
    generator = np.random.default_rng(0)
    correct = generator.random((3, 60)) < np.array([[0.9], [0.6], [0.1]])
    group = [cell_input(0.5, correct[1], loss=0.5), cell_input(0.9, correct[2], loss=0.9)]
    found = compute(group, clean_input(correct[0]))

    def areas(means: Any) -> Any:
        heights = [list(zip((0.0, 0.5, np.float64(np.float32(0.9))), row, strict=True)) for row in means]
        return np.array(
            [float(sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(h))) for h in heights]
        ) / np.float64(np.float32(0.9))

    def falls(means: Any, floor: float) -> Any:
        places = [0.0, 0.5, float(np.float32(0.9))]
        lines = [list(zip(places, map(float, row), strict=True)) for row in means]
        return [slow_fall(line, (line[0][1] + floor) / 2) for line in lines]

    statistics = {
        "accuracy_area": areas,
        "retention_area": lambda means: areas(means) / means[:, 0],
        "retention_area_chance_corrected": lambda means: (areas(means) - 0.1) / (means[:, 0] - 0.1),
        "half_accuracy_loss": lambda means: falls(means, 0.0),
        "half_accuracy_loss_chance_corrected": lambda means: falls(means, 0.1),
    }
    for metric, statistic in statistics.items():
        (measurement,) = [m for m in found if m.metric == metric]
        expected = bootstrap_statistic(correct, statistic)
        assert measurement.low == pytest.approx(expected.low, abs=1e-12)
        assert measurement.high == pytest.approx(expected.high, abs=1e-12)
        assert measurement.interval == expected.method
        assert expected.low < measurement.value < expected.high
