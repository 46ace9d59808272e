"""The summary ``mce`` on the published files: AlexNet's own answers give 100, and all but the whole set is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from harness.protocols import Outcomes, Summary, SummaryInput
from harness.report.summary_tables import summary_tables
from harness.stats import bootstrap_statistic
from harness.summaries import summarise
from harness.types import JSONScalar, Measurement, ResultRecord, digest
from harness_corruptions import mce_files, plugin
from harness_corruptions.alexnet import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS
from harness_corruptions.imagenet_c_folders import PUBLISHED_IMAGES
from harness_corruptions.mce import BENCHMARK_CORRUPTIONS
from harness_corruptions.mce_files import MCE

FEW = 10
"""As many images as the published set has in most tests."""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mce_files, "PUBLISHED_IMAGES", FEW)


def first(wrong: int, of: int = FEW) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The first ``wrong`` of ``of`` images are answered wrongly."""
    return np.arange(of) >= wrong


def cell(
    dataset: str,
    params: Mapping[str, Any],
    correct: Any,
    *,
    labels: Sequence[int] | None = None,
    baselines: Mapping[str, SummaryInput] | None = None,
    perturbation: str = "none",
    model: str = "vit",
    version: int = 1,
    **changes: Any,
) -> SummaryInput:
    """An answer about a dataset, of which (N,) images were got right."""
    right = np.asarray(correct, dtype=bool)[None]
    asked: dict[str, Any] = {
        "model": model,
        "weights": "pretrained:x",
        "dataset": dataset,
        "split": "test",
        "fingerprint": digest(dict(params))[:16],
        "limit": None,
        "view": "crop=224",
        "label_space": "imagenet1k",
        "num_classes": 1000,
        "support": None,
        "perturbation": perturbation,
        "level": None,
        "probe": "head",
        "seeds": {"perturb": None, "support_perturb": None, "probe": None},
        "precision": "fp32",
        **changes,
        "components": {
            "model": {"use": model, "version": 1, "params": {}},
            "dataset": {"use": dataset, "version": version, "params": dict(params)},
            "perturbation": {"use": perturbation, "version": 1, "params": {}},
            "probe": {"use": "head", "version": 1, "params": {}},
        },
    }
    for component in asked["components"].values():
        component["fingerprint"] = digest(component)[:16]
    columns: dict[str, Any] = {"correct": right}
    if labels is not None:
        columns["label"] = np.asarray(labels, np.int32)[None]
    outcomes = Outcomes(positions=np.arange(right.shape[1]), variants=({},), columns=columns)
    return SummaryInput(
        record=ResultRecord(key=digest(asked), cell=asked), outcomes=outcomes, baselines=baselines or {}
    )


def on_files(corruption: str, severity: int, correct: Any, *, root: str = "/c", **changes: Any) -> SummaryInput:
    on_error = changes.pop("on_error", "fail")
    params = {"root": root, "corruption": corruption, "severity": severity, "on_error": on_error}
    return cell("imagenet_c", params, correct, **changes)


def validation(correct: Any, root: str = "/val", **changes: Any) -> SummaryInput:
    changes.setdefault("view", "resize=256,crop=224")
    return cell("folder", {"root": root}, correct, **changes)


def whole(wrong: int = 4, of: int = FEW, **changes: Any) -> list[SummaryInput]:
    """The 75 cells, with as many wrong answers in each."""
    return [on_files(name, s, first(wrong, of), **changes) for name in BENCHMARK_CORRUPTIONS for s in range(1, 6)]


def compute(group: Sequence[SummaryInput]) -> list[Measurement]:
    return MCE().compute(group, None)


def only(rows: Iterable[Measurement], metric: str, **dims: JSONScalar) -> Measurement:
    (found,) = [row for row in rows if row.metric == metric and dims.items() <= row.dims.items()]
    return found


def metrics(rows: Iterable[Measurement]) -> set[str]:
    return {row.metric for row in rows}


NORMALISED = {"ce", "mce", "relative_mce"}
MEAN_OF_INVERSES = sum(1 / (sum(row) / 5) for row in ALEXNET_ERRORS.values()) / 15

# --- the whole set ---------------------------------------------------------------------------------------------


def test_alexnets_answers_about_all_files_give_100() -> None:
    cells = [
        on_files(name, severity, np.random.default_rng(severity).permutation(first(round(error * 50_000), 50_000)))
        for name, row in ALEXNET_ERRORS.items()
        for severity, error in enumerate(row, start=1)
    ]
    rows = compute([*cells, validation(first(round(ALEXNET_CLEAN_ERROR * 50_000), 50_000))])
    for metric in ("mce", "relative_mce"):
        found = only(rows, metric)
        assert found.value == pytest.approx(100, abs=1e-9)
        assert found.dims == {"source": "files"}
        assert (found.n, found.unit, found.higher_is_better) == (PUBLISHED_IMAGES, "percent", False)
    assert len([row for row in rows if row.metric == "ce"]) == 15
    assert all(row.value == pytest.approx(100) for row in rows if row.metric == "ce")
    assert only(rows, "mean_corruption_error").value == pytest.approx(0.788993, abs=1e-6)
    # Fifty thousand images leave little to chance.
    mean = only(rows, "mce")
    assert mean.low is not None
    assert 99.7 < mean.low < 100


@pytest.mark.usefixtures("few")
def test_errors_of_one_height_by_hand() -> None:
    rows = compute([*whole(4), validation(first(1))])
    assert only(rows, "mce").value == pytest.approx(100 * 0.4 * MEAN_OF_INVERSES)
    assert only(rows, "ce", corruption="contrast").value == pytest.approx(100 * 0.4 / 0.853204)
    relative = sum(100 * (0.4 - 0.1) / (sum(row) / 5 - 0.43478) for row in ALEXNET_ERRORS.values()) / 15
    assert only(rows, "relative_mce").value == pytest.approx(relative)
    assert only(rows, "mean_corruption_error").value == pytest.approx(0.4)
    assert {row.dims["source"] for row in rows} == {"files"}
    assert not [row for row in rows if "alexnet_refused" in row.dims]


@pytest.mark.usefixtures("few")
def test_intervals_take_alexnet_as_given_and_images_as_drawn() -> None:
    generator = np.random.default_rng(0)
    right = generator.random((15, 5, FEW)) > 0.5
    cells = [on_files(name, s + 1, right[c, s]) for c, name in enumerate(BENCHMARK_CORRUPTIONS) for s in range(5)]
    found = only(compute(cells), "mce")
    alexnet = np.array([sum(row) / 5 for row in ALEXNET_ERRORS.values()])
    expected = bootstrap_statistic((~right).mean(axis=1), lambda means: 100 * (means / alexnet).mean(axis=1))
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


@pytest.mark.usefixtures("few")
def test_extras_are_told_un_normalised_only() -> None:
    extras = [on_files("spatter", severity, first(9)) for severity in range(1, 6)]
    rows = compute([*whole(4), *extras])
    assert only(rows, "corruption_error", corruption="spatter").value == pytest.approx(0.9)
    assert "spatter" not in {row.dims.get("corruption") for row in rows if row.metric == "ce"}
    assert only(rows, "mce").value == only(compute(whole(4)), "mce").value


@pytest.mark.usefixtures("few")
def test_what_is_incomplete_has_no_mean() -> None:
    rows = compute([item for item in whole() if item.record.cell["components"]["dataset"]["params"]["severity"] < 5])
    assert rows == []
    rows = compute(whole()[5:])
    assert metrics(rows) == {"ce", "corruption_error"}
    assert len(rows) == 2 * 14


# --- relative mCE ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "others",
    [
        [],
        [validation(first(1), limit=5)],
        [validation(first(1, FEW - 1))],
        [validation(first(1), label_space="imagenet21k")],
        [validation(first(1), label_space=None)],
        [validation(first(1), num_classes=100)],
        [validation(first(1)), validation(first(2), "/elsewhere")],
        [validation(first(1), perturbation="drop")],
    ],
    ids=["none", "limit", "fewer", "space", "no space", "classes", "two", "perturbed"],
)
def test_relative_mce_needs_the_one_answer_about_the_whole_validation_set(others: list[SummaryInput]) -> None:
    rows = compute([*whole(), *others])
    assert metrics(rows) == {"ce", "mce", "mean_corruption_error", "corruption_error"}


# --- where AlexNet is refused ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"of": 9}, "9 of 10 images"),
        ({"limit": 10}, "limit 10"),
        ({"of": 5, "limit": 5}, "5 of 10 images; limit 5"),
        ({"label_space": "imagenet100"}, "label space imagenet100"),
        ({"label_space": None, "num_classes": 10}, "label space None; 10 of 1000 classes"),
        ({"view": "crop=192"}, "view crop=192 instead of crop=224"),
    ],
)
def test_anything_but_the_whole_set_is_refused_and_says_why(changes: dict[str, Any], reason: str) -> None:
    rows = compute([*whole(**changes), validation(first(1))])
    assert metrics(rows) == {"mean_corruption_error", "corruption_error"}
    assert {row.dims["alexnet_refused"] for row in rows} == {reason}


@pytest.mark.usefixtures("few")
def test_a_set_with_one_cell_of_fewer_images_has_no_mce() -> None:
    cells = [*whole()[:-1], on_files("jpeg_compression", 5, first(4, 9))]
    rows = compute(cells)
    assert metrics(rows) == {"ce", "corruption_error"}
    assert "jpeg_compression" not in {row.dims["corruption"] for row in rows}


@pytest.mark.usefixtures("few")
def test_halves_of_a_limit_and_of_the_whole_make_no_whole() -> None:
    assert metrics(compute([*whole()[:40], *whole(limit=10)[40:]])) == {"ce", "corruption_error"}


@pytest.mark.usefixtures("few")
def test_two_sets_of_files_for_one_corruption_are_refused() -> None:
    again = on_files("fog", 2, first(5), root="/copy")
    rows = compute([*whole(), again])
    assert metrics(rows) == {"corruption_error"}
    assert {row.dims["alexnet_refused"] for row in rows} == {"two sets of files for fog@2"}
    assert "fog" not in {row.dims["corruption"] for row in rows}


@pytest.mark.usefixtures("few")
def test_the_archives_may_lie_in_several_places() -> None:
    cells = whole()[:35] + whole(root="/disk2")[35:]
    assert only(compute(cells), "mce").value == only(compute(whole()), "mce").value


def test_subsets_of_one_size_with_other_images_are_told_apart() -> None:
    rows = compute([*whole(4, labels=[0] * FEW), *whole(6, labels=[1] * FEW, root="/other")])
    found = [row for row in rows if row.metric == "mean_corruption_error"]
    assert [row.value for row in sorted(found, key=lambda row: row.value)] == pytest.approx([0.4, 0.6])
    assert len({str(row.dims["images"]) for row in found}) == 2


@pytest.mark.usefixtures("few")
def test_newer_files_readers_supersede_older_ones_and_tolerant_ones_say_so() -> None:
    assert only(compute([*whole(9), *whole(4, version=2)]), "mean_corruption_error").value == pytest.approx(0.4)
    rows = compute([*whole(4), *whole(6, on_error="skip")])
    means = {row.dims.get("on_error"): row.value for row in rows if row.metric == "mean_corruption_error"}
    assert means == {None: pytest.approx(0.4), "skip": pytest.approx(0.6)}


@pytest.mark.usefixtures("few")
def test_files_that_were_perturbed_once_more_and_other_datasets_count_nowhere() -> None:
    assert compute(whole(perturbation="drop")) == []
    params = {"root": "/c", "corruption": "fog", "severity": 1}
    assert compute([cell("imagenet_c_bar", params, first(4))] * 5) == []
    assert compute([dataclasses.replace(item, outcomes=None) for item in whole()]) == []
    assert isinstance(MCE(), Summary)


# --- baselines -------------------------------------------------------------------------------------------------


def beside(cells: Sequence[SummaryInput], others: Sequence[SummaryInput]) -> list[SummaryInput]:
    return [
        dataclasses.replace(mine, baselines={"resnet50": theirs}) for mine, theirs in zip(cells, others, strict=True)
    ]


@pytest.mark.usefixtures("few")
def test_a_baseline_on_the_files_has_its_own_rows() -> None:
    cells = beside([*whole(4), validation(first(1))], [*whole(8, model="r"), validation(first(2), model="r")])
    rows = compute(cells)
    assert metrics(rows) >= NORMALISED
    assert only(rows, "mce_vs_resnet50").value == pytest.approx(50)
    assert only(rows, "relative_mce_vs_resnet50").value == pytest.approx(50)
    assert only(rows, "mce").value == pytest.approx(100 * 0.4 * MEAN_OF_INVERSES)


@pytest.mark.usefixtures("few")
def test_a_baseline_needs_no_whole_set() -> None:
    """Nor is a subset read against clean images that are not its own."""
    cells = beside([*whole(2, 5), validation(first(1))], [*whole(4, 5, model="r"), validation(first(2), model="r")])
    rows = compute(cells)
    assert only(rows, "mce_vs_resnet50").value == pytest.approx(50)
    assert only(rows, "mce_vs_resnet50").dims["alexnet_refused"] == "5 of 10 images"
    assert not metrics(rows) & {*NORMALISED, "relative_mce_vs_resnet50"}


# --- through the core ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("of", "said"), [(FEW, "head source=files"), (9, "alexnet_refused=9 of 10 images")])
def test_the_core_groups_datasets_and_the_table_has_a_line_per_model(of: int, said: str) -> None:
    cells = [
        *whole(4, of),
        validation(first(1, of)),
        *whole(6, of, model="cnn"),
        validation(first(2, of), model="cnn"),
    ]
    cells.append(on_files("fog", 1, first(3), perturbation="drop"))
    outcomes = {item.record.key: item.outcomes for item in cells}
    entries = [entry for entry in plugin.harness_register_summaries() if entry.name == "mce"]
    summaries = summarise([item.record for item in cells], lambda record: outcomes[record.key], entries)
    assert [summary.group["model"] for summary in summaries] == ["cnn", "vit"]
    assert {len(summary.records) for summary in summaries} == {76}
    for records in ([item.record for item in cells], []):
        main, *lists = summary_tables(summaries, records)
        assert main.title == "mce"
        assert {row[0] for row in main.rows} == {"vit", "cnn"}
        assert all(said in row[2] for row in main.rows)
        assert {len(table.rows) for table in lists} == {15}
        assert {table.header[0] for table in lists} == {"corruption"}
    if of == FEW:
        assert main.header[3:] == ("mce", "relative_mce", "mean_corruption_error")
