"""Retention and its areas: by hand, against a slow loop, over seeds, heads and shots, and where undefined."""

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
from harness.retention import Retention
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
) -> SummaryInput:
    """A cell whose probe got ``correct`` (V, N) or (N,) right at ``level``."""
    right = np.atleast_2d(np.asarray(correct, dtype=bool))
    columns: dict[str, Any] = {"correct": right}
    if loss is not None:
        columns["information_loss"] = np.broadcast_to(np.asarray(loss, np.float32), right.shape)
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


def value(measurements: Sequence[Measurement], metric: str, **dims: JSONScalar) -> float:
    (found,) = [m for m in measurements if m.metric == metric and dims.items() <= m.dims.items()]
    return found.value


def first(count: int, of: int = 10) -> list[int]:
    """``count`` right answers of ``of``."""
    return [1] * count + [0] * (of - count)


# --- by hand ---------------------------------------------------------------------------------------------------


def test_the_worked_example() -> None:
    """Clean .8; .6 at loss .25, .2 at loss .75: trapezoids .175 + .2 over .75, chance .1."""
    group = [cell_input(0.3, first(6), loss=0.25), cell_input(0.7, first(2), loss=0.75)]
    found = compute(group, clean_input(first(8)))
    assert value(found, "retention", level=0.3) == pytest.approx(0.75)
    assert value(found, "retention", level=0.7) == pytest.approx(0.25)
    assert value(found, "information_loss", level=0.3) == 0.25
    area = (0.25 * (0.8 + 0.6) / 2 + 0.5 * (0.6 + 0.2) / 2) / 0.75
    assert value(found, "accuracy_area", axis="information_loss") == pytest.approx(area)
    assert value(found, "retention_area", axis="information_loss") == pytest.approx(area / 0.8)
    assert value(found, "retention_area_chance_corrected") == pytest.approx((area - 0.1) / 0.7)
    assert {m.n for m in found} == {10}
    assert [m.metric for m in found] == [
        "information_loss",
        "retention",
        "information_loss",
        "retention",
        "accuracy_area",
        "retention_area",
        "retention_area_chance_corrected",
    ]


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
    assert [m.metric for m in found] == ["retention"]


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
        cell_input(level, np.ones((4, 6)), loss=level, variants=shots, seed=seed)
        for level in (0.25, 0.5)
        for seed in (0, 1)
    ]
    found = compute(group, clean_input(np.ones((4, 6)), variants=shots))
    rows = [(m.metric, tuple(sorted(m.dims.items()))) for m in found]
    assert len(rows) == len(set(rows)) == 2 * (2 * 2 + 3)


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
    assert [m.metric for m in found] == ["information_loss", "accuracy_area"]


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
    for measurement in found:
        if measurement.low is not None and measurement.high is not None:
            assert measurement.low <= measurement.high


def test_intervals_are_those_of_a_loop_over_resamples() -> None:
    generator = np.random.default_rng(0)
    correct = generator.random((3, 60)) < np.array([[0.9], [0.6], [0.3]])
    group = [cell_input(0.5, correct[1], loss=0.5), cell_input(0.9, correct[2], loss=0.9)]
    found = compute(group, clean_input(correct[0]))

    def areas(means: Any) -> Any:
        heights = [list(zip((0.0, 0.5, np.float64(np.float32(0.9))), row, strict=True)) for row in means]
        return np.array(
            [float(sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(h))) for h in heights]
        ) / np.float64(np.float32(0.9))

    statistics = {
        "accuracy_area": areas,
        "retention_area": lambda means: areas(means) / means[:, 0],
        "retention_area_chance_corrected": lambda means: (areas(means) - 0.1) / (means[:, 0] - 0.1),
    }
    for metric, statistic in statistics.items():
        (measurement,) = [m for m in found if m.metric == metric]
        expected = bootstrap_statistic(correct, statistic)
        assert measurement.low == pytest.approx(expected.low, abs=1e-12)
        assert measurement.high == pytest.approx(expected.high, abs=1e-12)
        assert measurement.interval == expected.method
        assert expected.low < measurement.value < expected.high
