"""mCE as pure functions, and the summary ``corruption_error``: by hand, against slow loops, and through a whole run."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import harness
from harness.baseline_log import read_baselines
from harness.entries import PerturbationEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.protocols import Outcomes, Summary, SummaryInput
from harness.stats import bootstrap_statistic
from harness.types import JSONScalar, Measurement, ResultRecord
from harness_corruptions import plugin
from harness_corruptions.alexnet import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS
from harness_corruptions.corruption import Corruption
from harness_corruptions.corruption_error import CorruptionError
from harness_corruptions.mce import BENCHMARK_CORRUPTIONS, mce, relative_mce

EXTRAS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
FLAT = dict.fromkeys(BENCHMARK_CORRUPTIONS, (0.5,) * 5)

# --- pure functions --------------------------------------------------------------------------------------------


def test_alexnet_itself_has_exactly_100() -> None:
    assert mce(ALEXNET_ERRORS) == 100
    assert relative_mce(ALEXNET_ERRORS, ALEXNET_CLEAN_ERROR) == 100


def test_half_of_every_error_is_half_of_mce() -> None:
    half = {name: [error / 2 for error in row] for name, row in ALEXNET_ERRORS.items()}
    assert mce(half) == pytest.approx(50)
    # 50 of 100 from the errors, and as much excess over a clean error that is halved, too.
    assert relative_mce(half, ALEXNET_CLEAN_ERROR / 2) == pytest.approx(50)


def test_a_model_that_is_always_wrong_by_hand() -> None:
    """100 / mean error of AlexNet per corruption, from the published row means."""
    row_means = (
        *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816),
        *(0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
    )
    wrong = {name: [1.0] * 5 for name in BENCHMARK_CORRUPTIONS}
    assert mce(wrong) == pytest.approx(sum(100 / mean for mean in row_means) / 15)
    assert mce(wrong) == pytest.approx(129.35, abs=0.01)
    relative = sum(100 * (1 - 0.4) / (mean - 0.43478) for mean in row_means) / 15
    assert relative_mce(wrong, 0.4) == pytest.approx(relative)


def test_severities_are_summed_before_they_are_divided() -> None:
    """Errors .1 .1 .1 .1 .6 over .6 .1 .1 .1 .1: the ratio of the sums is 1, the mean of ratios (1/6 + 3 + 6) / 5."""
    errors = dict.fromkeys(BENCHMARK_CORRUPTIONS, (0.1, 0.1, 0.1, 0.1, 0.6))
    baseline = dict.fromkeys(BENCHMARK_CORRUPTIONS, (0.6, 0.1, 0.1, 0.1, 0.1))
    assert mce(errors, baseline) == pytest.approx(100)


def test_corruptions_are_divided_before_they_are_averaged() -> None:
    """One corruption twice as bad as the baseline's .5, one at a tenth of it, 13 alike: (2 + .1 + 13) / 15."""
    errors = {**FLAT, "snow": (1.0,) * 5, "fog": (0.05,) * 5}
    assert mce(errors, FLAT) == pytest.approx(100 * 15.1 / 15)
    # Excess over .2 clean: (.8 + -.15 + 13 * .3) over .3 each, i.e. over .5 - .2.
    assert relative_mce(errors, 0.2, FLAT, 0.2) == pytest.approx(100 * (0.8 - 0.15 + 13 * 0.3) / 0.3 / 15)
    unlike = {**FLAT, "snow": (0.25,) * 5}
    assert mce(FLAT, unlike) == pytest.approx(100 * (2 + 14) / 15)


def test_extras_have_no_place_in_it() -> None:
    more = {**ALEXNET_ERRORS, **dict.fromkeys(EXTRAS, (0.9,) * 5)}
    assert mce(more) == 100
    assert mce(ALEXNET_ERRORS, more) == 100


def test_what_is_missing_is_refused() -> None:
    without = {name: row for name, row in FLAT.items() if name != "frost"}
    for call in (lambda: mce(without, FLAT), lambda: mce(FLAT, without), lambda: relative_mce(without, 0.1, FLAT, 0.1)):
        with pytest.raises(ParameterError, match="mean over 15 corruptions"):
            call()
    with pytest.raises(ParameterError, match="fog: 4 errors"):
        mce({**FLAT, "fog": (0.5,) * 4}, FLAT)


def test_no_division_by_a_baseline_that_loses_nothing() -> None:
    with pytest.raises(ParameterError, match="cannot be divided by"):
        mce(FLAT, {**FLAT, "fog": (0.0,) * 5})
    for clean in (0.5, 0.6):
        with pytest.raises(ParameterError, match="cannot be divided by"):
            relative_mce(FLAT, 0.1, FLAT, clean)


# --- synthetic cells -------------------------------------------------------------------------------------------

PARAMS = {"variant": "imagecorruptions", "implementation": "native", "lengths": "scaled", "quantise": True}


def given(
    corruption: str,
    level: float | None,
    correct: Any,
    *,
    seed: int | None = 0,
    positions: Sequence[int] | None = None,
    variants: tuple[Mapping[str, JSONScalar], ...] = ({},),
    baselines: Mapping[str, SummaryInput] | None = None,
    version: int = 1,
    use: str | None = None,
    **params: Any,
) -> SummaryInput:
    """A cell whose probe got ``correct`` (V, N) or (N,) right under a corruption at a severity."""
    right = np.atleast_2d(np.asarray(correct, dtype=bool))
    declared = {} if corruption == "none" else {**PARAMS, **params}
    if corruption == "frost":
        declared.setdefault("textures", "generated")
    component = {"use": use or corruption, "version": version, "params": declared}
    record = ResultRecord(
        key=f"{corruption}{level}{seed}{sorted(declared.items())}",
        cell={"level": level, "seeds": {"perturb": seed}, "components": {"perturbation": component}},
    )
    places = np.arange(right.shape[1]) if positions is None else np.asarray(positions, np.int64)
    outcomes = Outcomes(positions=places, variants=variants, columns={"correct": right})
    return SummaryInput(record=record, outcomes=outcomes, baselines=baselines or {})


def first(wrong: int, of: int = 10) -> list[bool]:
    """The first ``wrong`` of ``of`` images are answered wrongly."""
    return [place >= wrong for place in range(of)]


def sweep(
    wrong: Mapping[str, Sequence[int]], baseline: Mapping[str, Sequence[int]] | None = None, **changes: Any
) -> list[SummaryInput]:
    """Cells at severities 1 to 5 with as many wrong answers of ten as told, by corruption."""
    return [
        given(
            name,
            severity,
            first(count),
            baselines=None
            if baseline is None
            else {"base": given(name, severity, first(baseline[name][severity - 1]))},
            **changes,
        )
        for name, counts in wrong.items()
        for severity, count in enumerate(counts, start=1)
    ]


def clean(wrong: int, baseline: int | None = None) -> SummaryInput:
    beside = None if baseline is None else {"base": given("none", None, first(baseline), seed=None)}
    return given("none", None, first(wrong), seed=None, baselines=beside)


def compute(cells: Sequence[SummaryInput], base: SummaryInput | None = None) -> list[Measurement]:
    return CorruptionError().compute(cells, base)


def only(rows: Iterable[Measurement], metric: str, **dims: JSONScalar) -> Measurement:
    (found,) = [row for row in rows if row.metric == metric and dims.items() <= row.dims.items()]
    return found


def metrics(rows: Iterable[Measurement]) -> set[str]:
    return {row.metric for row in rows}


COUNTS = {name: [1 + place % 3, 2, 3, 4, 5] for place, name in enumerate(BENCHMARK_CORRUPTIONS)}
BASE = {name: [2, 4, 6, 8, 10] for name in BENCHMARK_CORRUPTIONS}
NATIVE = {"variant": "imagecorruptions", "implementation": "native"}

# --- by hand ---------------------------------------------------------------------------------------------------


def test_the_worked_example() -> None:
    """Of ten images 1|2|3, 2, 3, 4, 5 are wrong, of the baseline 2, 4, 6, 8, 10: 15|16|17 to 30; clean 1 and 3."""
    rows = compute(sweep(COUNTS, BASE), clean(1, 3))
    assert only(rows, "corruption_error", corruption="gaussian_noise").value == pytest.approx(15 / 50)
    assert only(rows, "corruption_error", corruption="impulse_noise").value == pytest.approx(17 / 50)
    assert only(rows, "mean_corruption_error").value == pytest.approx(16 / 50)
    assert only(rows, "corruption_error_vs_base", corruption="shot_noise").value == pytest.approx(100 * 16 / 30)
    assert only(rows, "mce_vs_base").value == pytest.approx(100 * 16 / 30)
    # Excess over clean: 10|11|12 of ten images five times, over 15.
    assert only(rows, "relative_mce_vs_base").value == pytest.approx(100 * 11 / 15)
    assert {row.metric: row.unit for row in rows} == {
        "corruption_error": "fraction",
        "mean_corruption_error": "fraction",
        "corruption_error_vs_base": "percent",
        "mce_vs_base": "percent",
        "relative_mce_vs_base": "percent",
    }
    for row in rows:
        assert row.dims == ({"corruption": row.dims["corruption"]} if "corruption" in row.dims else {}) | NATIVE
        assert (row.n, row.higher_is_better) == (10, False)


def test_a_baseline_read_against_itself_is_exactly_100() -> None:
    rows = compute(sweep(COUNTS, COUNTS), clean(1, 1))
    own = [row for row in rows if "_vs_" in row.metric]
    assert len(own) == 2 + 15
    assert {row.value for row in own} == {100.0}
    wrong = {name: [10] * 5 for name in COUNTS}
    own = [row for row in compute(sweep(wrong, wrong), clean(0, 0)) if "_vs_" in row.metric]
    assert {(row.value, row.low, row.high) for row in own} == {(100.0, 100.0, 100.0)}


def test_a_ratio_that_some_resample_cannot_have_has_no_interval() -> None:
    """The one image that the baseline has wrong under fog is left out of a third of the resamples."""
    rows = compute(sweep(COUNTS, {**BASE, "fog": [1, 0, 0, 0, 0]}))
    found = only(rows, "corruption_error_vs_base", corruption="fog")
    assert (found.value, found.low, found.interval) == (pytest.approx(1500), None, None)
    assert only(rows, "corruption_error_vs_base", corruption="snow").interval == "bootstrap95"
    assert only(rows, "mce_vs_base").interval is None
    assert only(rows, "mean_corruption_error").interval == "bootstrap95"


def test_without_a_baseline_there_is_no_mce_whatever_alexnet_had() -> None:
    rows = compute(sweep(COUNTS), clean(1))
    assert metrics(rows) == {"corruption_error", "mean_corruption_error"}


def test_without_clean_cells_there_is_no_relative_mce() -> None:
    for base in (None, clean(1)):
        rows = compute(sweep(COUNTS, BASE), base)
        assert metrics(rows) >= {"mce_vs_base", "mean_corruption_error"}
        assert "relative_mce_vs_base" not in metrics(rows)


def test_extras_are_told_and_have_no_place_in_means() -> None:
    extras = {name: [10] * 5 for name in EXTRAS}
    rows, without = (compute(sweep({**COUNTS, **more}, {**BASE, **more})) for more in (extras, {}))
    for metric in ("mean_corruption_error", "mce_vs_base"):
        assert only(rows, metric).value == only(without, metric).value
    assert only(rows, "corruption_error", corruption="saturate").value == 1
    assert only(rows, "corruption_error_vs_base", corruption="spatter").value == 100


def test_what_is_incomplete_has_no_mean() -> None:
    fewer = {name: counts for name, counts in COUNTS.items() if name != "jpeg_compression"}
    rows = compute(sweep(fewer, BASE), clean(1, 3))
    assert metrics(rows) == {"corruption_error", "corruption_error_vs_base"}
    assert len([row for row in rows if row.metric == "corruption_error"]) == 14
    shorter = [cell for cell in sweep(COUNTS, BASE) if cell.record.key[:4] != "fog2"]
    rows = compute(shorter, clean(1, 3))
    assert "fog" not in {row.dims["corruption"] for row in rows}
    assert metrics(rows) == {"corruption_error", "corruption_error_vs_base"}


def test_a_baseline_that_missed_a_cell_is_read_against_the_cells_it_has() -> None:
    """Seed 1 was run without it: its answers count in the error, not in the ratio."""
    cells = sweep(COUNTS, BASE)
    cells += sweep({name: [10] * 5 for name in COUNTS}, seed=1)
    rows = compute(cells, clean(1, 3))
    assert only(rows, "mean_corruption_error").value == pytest.approx((16 + 50) / 100)
    assert only(rows, "mce_vs_base").value == pytest.approx(100 * 16 / 30)
    assert only(rows, "relative_mce_vs_base").value == pytest.approx(100 * 11 / 15)
    rows = compute(
        [c if c.record.key[:4] != "fog2" else dataclasses.replace(c, baselines={}) for c in sweep(COUNTS, BASE)]
    )
    assert "mce_vs_base" not in metrics(rows)
    assert "mean_corruption_error" in metrics(rows)


def test_a_denominator_that_is_not_positive_leaves_the_ratio_out() -> None:
    rows = compute(sweep(COUNTS, {**BASE, "fog": [0] * 5}), clean(1, 3))
    assert "mce_vs_base" not in metrics(rows)
    assert {row.dims["corruption"] for row in rows if row.metric == "corruption_error_vs_base"} == {*COUNTS} - {"fog"}
    rows = compute(sweep(COUNTS, {**BASE, "fog": [3] * 5}), clean(1, 3))
    assert metrics(rows) >= {"mce_vs_base"}
    assert "relative_mce_vs_base" not in metrics(rows)


def test_several_baselines_each_have_their_rows() -> None:
    cells = sweep(COUNTS, BASE)
    cells = [
        dataclasses.replace(cell, baselines={**cell.baselines, "other": dataclasses.replace(cell, baselines={})})
        for cell in cells
    ]
    rows = compute(cells)
    assert only(rows, "mce_vs_other").value == 100
    assert only(rows, "mce_vs_base").value == pytest.approx(100 * 16 / 30)


# --- seeds, rows and images ------------------------------------------------------------------------------------


def test_seeds_are_averaged_within_each_image_before_images_are_resampled() -> None:
    """Two seeds that fail on opposite halves: every image is half wrong, so resamples do not differ."""
    left, right = first(5), first(5)[::-1]
    cells = [given("fog", s, answers, seed=seed) for s in range(1, 6) for seed, answers in enumerate((left, right))]
    row = only(compute(cells), "corruption_error", corruption="fog")
    assert (row.value, row.low, row.high, row.n) == (0.5, 0.5, 0.5, 10)
    one = only(compute([given("fog", s, left) for s in range(1, 6)]), "corruption_error")
    assert one.low is not None
    assert one.low < 0.4


def test_each_row_of_the_probe_has_its_own_numbers_and_its_seeds_are_averaged() -> None:
    variants = tuple({"shots": shots, "seed": seed} for shots in (1, 5) for seed in (0, 1))
    answers = [first(8), first(6), first(2), first(1)]
    rows = compute([given("fog", s, answers, variants=variants) for s in range(1, 6)])
    assert {row.dims["shots"]: row.value for row in rows} == {1: pytest.approx(0.7), 5: pytest.approx(0.15)}


def test_only_images_that_every_cell_and_the_baseline_answered_count() -> None:
    cells = sweep(COUNTS, BASE)
    place = next(i for i, cell in enumerate(cells) if cell.record.key.startswith("snow3"))
    short = given("snow", 3, first(6)[:9], positions=range(9))
    cells[place] = dataclasses.replace(cells[place], baselines={"base": short})
    rows = compute(cells)
    assert {row.n for row in rows} == {9}
    # The last image was right for the model always, for the baseline wrong at severity 5 alone.
    assert only(rows, "mean_corruption_error").value == pytest.approx(16 / 45)
    assert only(rows, "corruption_error_vs_base", corruption="fog").value == pytest.approx(100 * 15 / 29)


def test_intervals_equal_a_paired_bootstrap_over_images() -> None:
    generator = np.random.default_rng(3)
    right = generator.random((2, 15, 5, 60)) > np.linspace(0.4, 0.7, 15)[None, :, None, None]
    cells = [
        given(name, s + 1, right[0, c, s], baselines={"base": given(name, s + 1, right[1, c, s])})
        for c, name in enumerate(BENCHMARK_CORRUPTIONS)
        for s in range(5)
    ]
    clean_right = generator.random((2, 60)) > 0.1
    beside = given("none", None, clean_right[1], seed=None)
    rows = compute(cells, given("none", None, clean_right[0], seed=None, baselines={"base": beside}))
    # The model's fifteen, the baseline's, and both on clean images.
    errors = np.concatenate([(~right).mean(axis=2).reshape(30, 60), ~clean_right])
    for metric, statistic in (
        ("mean_corruption_error", lambda m: m[:, :15].mean(axis=1)),
        ("mce_vs_base", lambda m: 100 * (m[:, :15] / m[:, 15:30]).mean(axis=1)),
        ("relative_mce_vs_base", lambda m: 100 * ((m[:, :15] - m[:, 30:31]) / (m[:, 15:30] - m[:, 31:])).mean(axis=1)),
    ):
        expected, found = bootstrap_statistic(errors, statistic), only(rows, metric)
        assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
        assert found.interval == expected.method


# --- what is never mixed ---------------------------------------------------------------------------------------

OTHERWISE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"implementation": "imagecorruptions"}, {"variant": "imagecorruptions", "implementation": "imagecorruptions"}),
    ({"variant": "imagenet_c"}, {"variant": "imagenet_c", "implementation": "native"}),
    ({"lengths": "fixed"}, {**NATIVE, "lengths": "fixed"}),
    ({"quantise": False}, {**NATIVE, "quantise": False}),
]


@pytest.mark.parametrize(("params", "dims"), OTHERWISE, ids=lambda given: next(iter(given)))
def test_two_definitions_in_one_folder_are_two_rows(params: dict[str, Any], dims: dict[str, Any]) -> None:
    worse = {name: [count + 1 for count in counts[:4]] + [5] for name, counts in COUNTS.items()}
    rows = compute([*sweep(COUNTS, BASE), *sweep(worse, BASE, **params)], clean(1, 3))
    found = {tuple(row.dims.items()): row.value for row in rows if row.metric == "mce_vs_base"}
    assert found == {
        tuple(NATIVE.items()): pytest.approx(100 * 16 / 30),
        tuple(dims.items()): pytest.approx(100 * 20 / 30),
    }


def test_halves_of_two_definitions_make_no_whole() -> None:
    names = list(COUNTS)
    halves = [
        *sweep({name: COUNTS[name] for name in names[:8]}, BASE),
        *sweep({name: COUNTS[name] for name in names[8:]}, BASE, implementation="imagecorruptions"),
    ]
    assert metrics(compute(halves, clean(1, 3))) == {"corruption_error", "corruption_error_vs_base"}
    severities = [
        *(cell for cell in sweep({"fog": COUNTS["fog"]}) if cell.record.cell["level"] < 3),
        *(cell for cell in sweep({"fog": COUNTS["fog"]}, variant="imagenet_c") if cell.record.cell["level"] >= 3),
    ]
    assert compute(severities) == []


def test_two_frosts_share_the_other_corruptions_and_are_never_mixed() -> None:
    photographs = sweep({"frost": [10] * 5}, textures="package")
    rows = compute([*sweep(COUNTS), *photographs])
    means = {row.dims.get("textures"): row.value for row in rows if row.metric == "mean_corruption_error"}
    assert means == {None: pytest.approx(16 / 50), "package": pytest.approx((16 * 15 - 17 + 50) / 15 / 50)}
    told = [(row.metric, tuple(sorted(row.dims.items()))) for row in rows]
    assert len(told) == len(set(told)) == 2 + 16
    alone = compute([*(c for c in sweep(COUNTS) if c.record.key[:5] != "frost"), *photographs])
    assert only(alone, "mean_corruption_error").dims["textures"] == "package"
    assert "textures" not in only(alone, "corruption_error", corruption="fog").dims


def test_records_of_an_older_version_are_superseded() -> None:
    old = sweep({"fog": [10] * 5})
    new = sweep({"fog": COUNTS["fog"]}, version=2)
    assert only(compute([*old, *new]), "corruption_error").value == pytest.approx(15 / 50)


def test_perturbations_that_are_no_corruptions_of_ours_count_nowhere() -> None:
    strangers = [given("drop", 0.5, first(5)), given("contrast", None, first(5))]
    stranger = given("contrast", 1, first(5), use="contrast")
    stranger.record.cell["components"]["perturbation"]["params"].clear()
    assert compute([*strangers, *(stranger for _ in range(5))]) == []
    named_by_plugin = [given("fog", s, first(5), use="corruptions:fog") for s in range(1, 6)]
    assert only(compute(named_by_plugin), "corruption_error", corruption="fog").value == 0.5


def test_probes_that_do_not_classify_have_no_numbers() -> None:
    cells = [dataclasses.replace(cell, outcomes=None) for cell in sweep(COUNTS)]
    assert compute(cells) == []
    assert isinstance(CorruptionError(), Summary)


# --- the whole way ---------------------------------------------------------------------------------------------


class Washed(Corruption):
    """A stand-in for every corruption: draws pixels towards grey, some corruptions more than others."""

    strength = 0.0

    def __init__(self, textures: str = "generated", **params: Any) -> None:
        super().__init__(**params)

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> None:
        return None

    def corrupt(self, images: Any, severity: int, draws: Any) -> Any:
        return 0.5 + (images - 0.5) * (1 - 0.19 * severity * self.strength)


class ToyPlugin:
    """The plugin's own descriptors, with the stand-in for a target."""

    harness_register_summaries = staticmethod(plugin.harness_register_summaries)

    @staticmethod
    @hookimpl
    def harness_register_perturbations() -> Iterator[PerturbationEntry]:
        for entry in plugin.harness_register_perturbations():
            yield dataclasses.replace(entry, target=f"toy_corruptions:{entry.name}")


@pytest.fixture
def toy_setup(monkeypatch: pytest.MonkeyPatch) -> harness.Setup:
    module = types.ModuleType("toy_corruptions")
    for place, entry in enumerate(plugin.harness_register_perturbations()):
        own = {"name": entry.name, "stochastic": entry.stochastic, "strength": 0.8 + place % 5 / 20}
        setattr(module, entry.name, type(entry.name, (Washed,), own))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return harness.Setup(block=["corruptions"], plugins=[("toy", ToyPlugin())])


def test_from_a_run_with_a_baseline_to_mce_and_its_table(toy_setup: harness.Setup) -> None:
    result = harness.run(
        model=["vit_mini", "cnn_mini"],
        baseline="cnn_mini",
        dataset="shapes",
        probe="head",
        perturb=["none", *(f"{name}@all" for name in BENCHMARK_CORRUPTIONS)],
        limit=12,
        options=harness.RunOptions(cache_dir=None),
        setup=toy_setup,
    )
    assert len(read_baselines(result.path)) == 2 * 76
    errors = {
        (record.cell["model"], record.cell["perturbation"], record.cell["level"]): 1 - record.get("top1").value
        for record in result.records
    }

    def total(model: str, corruption: str) -> float:
        return sum(errors[model, corruption, float(severity)] for severity in range(1, 6))

    summaries = {s.group["model"]: s for s in result.summaries if s.summary == "corruption_error"}
    assert set(summaries) == {"vit_mini", "cnn_mini"}
    for model, summary in summaries.items():
        ratios = [total(model, name) / total("cnn_mini", name) for name in BENCHMARK_CORRUPTIONS]
        excesses = [
            (total(model, name) - 5 * errors[model, "none", None])
            / (total("cnn_mini", name) - 5 * errors["cnn_mini", "none", None])
            for name in BENCHMARK_CORRUPTIONS
        ]
        rows = summary.measurements
        assert only(rows, "mce_vs_cnn_mini").value == pytest.approx(100 * sum(ratios) / 15)
        assert only(rows, "relative_mce_vs_cnn_mini").value == pytest.approx(100 * sum(excesses) / 15)
        mean = sum(total(model, name) for name in BENCHMARK_CORRUPTIONS) / 75
        assert only(rows, "mean_corruption_error").value == pytest.approx(mean)
    assert only(summaries["cnn_mini"].measurements, "mce_vs_cnn_mini").value == 100
    main, errors_of, ratios_of = result.tables()[-3:]
    assert main.title == "corruption_error"
    assert main.header[3:] == ("mce_vs_cnn_mini", "relative_mce_vs_cnn_mini", "mean_corruption_error")
    assert [row[0] for row in main.rows] == ["vit_mini", "cnn_mini"]
    assert main.rows[1][3].startswith("100.0")
    assert errors_of.title == "corruption_error (%) of head variant=imagecorruptions implementation=native"
    assert [row[0] for row in errors_of.rows] == list(BENCHMARK_CORRUPTIONS)
    assert ratios_of.title.startswith("corruption_error_vs_cnn_mini (%)")
    assert not [s for s in result.summaries if s.summary == "mce"]


def test_every_corruption_is_read_against_baselines_and_nothing_else_is_offered() -> None:
    entries = list(plugin.harness_register_perturbations())
    assert len(entries) == 19
    assert all(entry.baselined for entry in entries)
    summaries = {entry.name: entry for entry in plugin.harness_register_summaries()}
    assert set(summaries) == {"corruption_error", "mce"}
    assert all(entry.baselined and not entry.requires_clean for entry in summaries.values())
    assert summaries["mce"].consumes == ("dataset",)
    assert {entry.name: entry.baselined for entry in plugin.harness_register_datasets()} == {"imagenet_c": True}
