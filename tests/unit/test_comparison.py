"""Comparisons over folders of records made by hand: which questions, which refusals, which numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

import harness
from harness.comparison import Comparison, compare
from harness.control_log import note_controls
from harness.errors import RecordsError, UsageError
from harness.outcome_files import outcome_path, write_outcomes
from harness.paired import holm, mcnemar, paired_t, permutation_test
from harness.protocols import Outcomes
from harness.records import RecordStore
from harness.report.comparisons import comparison_tables
from harness.types import Measurement, ResultRecord, digest

IMAGES = 60
IDS = [f"image_{place}" for place in range(IMAGES)]
PARAMS: dict[str, Any] = {
    "head": {"head": None},
    "fewshot": {"features": "pooled", "shots": [1, 5]},
    "drop": {"grid": 7},
}


def right(count: int, *, start: int = 0, images: int = IMAGES) -> np.ndarray:
    """The answers of a model that has ``count`` images right, from the one at ``start`` on, wrapping around."""
    return np.isin(np.arange(images), (start + np.arange(count)) % images)


def make_record(model: str, *, perturbation: str = "none", seed: int | None = None, **changes: Any) -> ResultRecord:
    """A record of ``model``; ``changes`` replace parts of its cell, ``probe__params`` those of a component."""
    versions = {role: changes.pop(f"{role}_version", 1) for role in ("dataset", "perturbation", "probe")}
    params = {role: changes.pop(f"{role}_params", None) for role in ("dataset", "perturbation", "probe")}
    cell: dict[str, Any] = {
        "model": model, "weights": f"pretrained:{model}", "dataset": "digits", "split": "test", "fingerprint": "f0",
        "limit": None, "label_space": "digits", "num_classes": 10, "view": "crop=224", "support": None,
        "perturbation": perturbation, "level": None if perturbation == "none" else 0.5, "probe": "head",
        "seeds": {"perturb": seed, "support_perturb": None, "probe": None}, "precision": "fp32", **changes,
    }  # fmt: skip
    cell["components"] = {
        role: {
            "use": cell[role],
            "version": versions.get(role, 1),
            "params": params.get(role) or PARAMS.get(cell[role], {}),
        }
        for role in ("model", "dataset", "perturbation", "probe")
    }
    for component in cell["components"].values():
        component["fingerprint"] = digest(component)[:16]
    return ResultRecord(key=digest(cell), cell=cell)


def write(
    folder: Path,
    record: ResultRecord,
    columns: Mapping[str, np.ndarray] | np.ndarray,
    *,
    variants: Sequence[Mapping[str, Any]] = ({},),
    episodes: np.ndarray | None = None,
    positions: np.ndarray | None = None,
    ids: Sequence[str] = IDS,
    realised: Mapping[str, np.ndarray] | None = None,
) -> ResultRecord:
    """Append ``record`` to the folder, with ``columns`` ((N,) or (V, N)) as its outcomes."""
    named = columns if isinstance(columns, Mapping) else {"correct": columns}
    arrays = {name: np.atleast_2d(values) for name, values in named.items()}
    count = next(iter(arrays.values())).shape[1]
    outcomes = Outcomes(
        positions=np.arange(count) if positions is None else positions,
        variants=tuple(variants),
        columns=arrays,
        episodes=episodes,
    )
    write_outcomes(folder, record.key, outcomes, ids, realised=realised)
    with RecordStore(folder) as store:
        store.append(record)
    return record


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def small(folder: Path, **given: Any) -> Comparison:
    """Three models on the clean images: 54, 52 and 10 of 60 right."""
    for model, answers in (("weak", right(10)), ("good", right(54)), ("fair", right(52, start=4))):
        write(folder, make_record(model, **given), answers)
    return compare(folder)


# --- numbers ---------------------------------------------------------------------------------------------------


def test_single_outcomes_are_compared_by_mcnemar_and_holm(runs):
    (question,) = small(runs).questions
    assert [(found.name, found.value) for found in question.contenders] == [
        ("good", 54 / 60), ("fair", 52 / 60), ("weak", 10 / 60),
    ]  # fmt: skip
    assert (question.test, question.n, question.units, question.metric) == ("mcnemar", 60, "images", "accuracy")
    ps = [mcnemar(right(54), right(52, start=4)), mcnemar(right(54), right(10)), mcnemar(right(52, start=4), right(10))]
    assert [(pair.first, pair.second) for pair in question.pairs] == [
        ("good", "fair"),
        ("good", "weak"),
        ("fair", "weak"),
    ]
    assert [pair.p for pair in question.pairs] == ps
    assert [pair.p_adjusted for pair in question.pairs] == holm(ps)
    assert [found.letters for found in question.contenders] == ["a", "a", "b"]
    # good alone has images 0-3, fair alone 54 and 55.
    pair = question.pair("fair", "good")
    assert (pair.difference, pair.discordance) == pytest.approx((2 / 60, 6 / 60))
    assert pair.low < 0 < pair.high
    # Connor: z of 1 - 0.05 / 3 / 2 is 2.3940, so (2.3940 sqrt(0.1) + 0.8416 sqrt(0.1 - 1 / 900))**2 * 900.
    assert pair.needed == int(np.ceil((2.39398 * 0.1**0.5 + 0.841621 * (0.1 - 1 / 900) ** 0.5) ** 2 * 900))
    assert not pair.separable
    low, high = scipy_stats.binomtest(54, 60).proportion_ci(method="wilson")
    assert (question.contenders[0].low, question.contenders[0].high) == pytest.approx((low, high))


def test_seeds_of_perturbation_and_probe_are_averaged_within_each_image(runs):
    generator = np.random.default_rng(0)
    values = {model: generator.random((3, 2, IMAGES)) < chance for model, chance in (("good", 0.8), ("fair", 0.5))}
    for model, answers in values.items():
        for seed in range(3):
            write(
                runs,
                make_record(model, perturbation="drop", seed=seed, probe="fewshot"),
                answers[seed],
                variants=[{"shots": 5, "seed": 0}, {"shots": 5, "seed": 1}],
            )
    (question,) = compare(runs).questions
    a, b = (answers.mean(axis=(0, 1)) for answers in values.values())
    assert (question.test, question.dims, question.n) == ("permutation", {"shots": 5}, IMAGES)
    assert question.pairs[0].p == pytest.approx(permutation_test(a, b))
    assert question.pairs[0].difference == pytest.approx((a - b).mean())
    assert question.pairs[0].discordance == pytest.approx(((a - b) ** 2).mean())
    assert [found.value for found in question.contenders] == pytest.approx([a.mean(), b.mean()])
    assert len(question.contenders[0].keys) == 3


def test_rows_of_a_probe_are_questions_of_their_own(runs):
    for model, count in (("good", 50), ("fair", 40)):
        answers = np.stack([right(count), right(count + 5)])
        write(runs, make_record(model), answers, variants=[{"shots": 1}, {"shots": 5}])
    assert [(question.dims, question.contenders[0].value) for question in compare(runs).questions] == [
        ({"shots": 1}, 50 / 60),
        ({"shots": 5}, 55 / 60),
    ]


def test_episodes_are_compared_by_a_paired_t_test_over_those_that_both_have(runs):
    generator = np.random.default_rng(0)
    base = generator.random(30) / 2
    episodes = {"good": base + 0.1 + generator.normal(0, 0.05, 30), "fair": base + generator.normal(0, 0.05, 30)}
    episodes["fair"][7] = np.nan
    for model, accuracies in episodes.items():
        write(runs, make_record(model, probe="episodes"), right(30), episodes=accuracies[None])
    (question,) = compare(runs).questions
    kept = np.arange(30) != 7
    a, b = episodes["good"][kept], episodes["fair"][kept]
    assert (question.test, question.units, question.n, question.dropped) == ("paired_t", "episodes", 29, 1)
    assert question.pairs[0].p == pytest.approx(paired_t(a, b))
    expected = scipy_stats.ttest_rel(a, b).confidence_interval()
    assert (question.pairs[0].low, question.pairs[0].high) == pytest.approx((expected.low, expected.high))
    assert "29 episodes" in repr(compare(runs))


def test_episodes_of_other_images_are_not_compared(runs):
    for model, positions in (("good", np.arange(30)), ("fair", np.arange(1, 31))):
        write(runs, make_record(model), right(20, images=30), episodes=np.ones((1, 9)), positions=positions)
    with pytest.raises(UsageError, match="episodes were drawn from images that not all contenders have answered"):
        compare(runs)


def test_images_that_not_all_have_answered_are_left_out_and_counted(runs):
    write(runs, make_record("good"), right(50, images=58), positions=np.delete(np.arange(60), [3, 59]))
    write(runs, make_record("fair"), right(40, images=59), positions=np.delete(np.arange(60), [5]))
    comparison = compare(runs)
    (question,) = comparison.questions
    assert (question.n, question.dropped) == (57, 3)
    # Of the 58 images of good, the first 50 are right; position 5 is one of them.
    assert question.contenders[0].value == 49 / 57
    assert "57 images" in repr(comparison)
    assert "3 images that not all have are left out" in repr(comparison)


def test_images_that_share_masks_are_one_unit(runs):
    groups = np.repeat(np.arange(6), 10).astype(np.float32)
    a, b = right(50), right(40)
    for model, answers in (("good", a), ("fair", b)):
        write(runs, make_record(model, perturbation="drop", seed=0), answers, realised={"mask_group": groups})
    (question,) = compare(runs).questions
    assert (question.test, question.units, question.groups) == ("permutation", "groups", 6)
    assert question.pairs[0].p == permutation_test(a, b, groups=groups) == 1.0  # one group of six tells them apart
    assert question.pairs[0].needed is None
    assert mcnemar(a, b) < 0.01
    assert "images share masks in 6 groups" in repr(compare(runs))


def test_groups_of_several_seeds_that_overlap_become_one(runs):
    for model, count in (("good", 50), ("fair", 40)):
        for seed in range(2):
            groups = ((np.arange(IMAGES) + 5 * seed) // 10).astype(np.float32)
            record = make_record(model, perturbation="drop", seed=seed)
            write(runs, record, right(count), realised={"mask_group": groups})
    (question,) = compare(runs).questions
    assert (question.groups, question.pairs[0].p, question.pairs[0].low) == (1, 1.0, None)
    assert "one group says nothing" in repr(compare(runs))


# --- metric ----------------------------------------------------------------------------------------------------


def test_other_columns_are_compared_by_name_and_the_better_one_comes_first(runs):
    generator = np.random.default_rng(0)
    found = {model: generator.random(IMAGES) * scale for model, scale in (("good", 0.5), ("bad", 3.0))}
    measured = (Measurement(metric="nll", value=1.0, n=60, unit="nats", higher_is_better=False),)
    for model, nll in found.items():
        record = dataclasses.replace(make_record(model), measurements=measured)
        columns = {"correct": right(30), "correct_top5": right(40), "nll": nll, "prediction": np.arange(IMAGES)}
        write(runs, record, columns)
    (question,) = compare(runs, metric="nll").questions
    assert [found.name for found in question.contenders] == ["good", "bad"]
    assert (question.test, question.unit, question.higher_is_better) == ("permutation", "nats", False)
    assert question.pairs[0].difference < 0
    assert compare(runs, metric="top5").questions[0].metric == "correct_top5"
    assert compare(runs, metric="top5").questions[0].test == "mcnemar"
    with pytest.raises(UsageError, match=r"no column 'speed'; there are correct, correct_top5, nll \(probe head\)"):
        compare(runs, metric="speed")
    with pytest.raises(UsageError, match="prediction holds whole numbers"):
        compare(runs, metric="prediction")


def test_a_probe_without_the_metric_is_left_out_and_named(runs):
    for model, count in (("good", 50), ("fair", 40)):
        write(runs, make_record(model), right(count))
        write(runs, make_record(model, probe="retrieval"), {"average_precision": np.linspace(0, 1, IMAGES)})
    comparison = compare(runs, metric="correct")
    assert [question.probe for question in comparison.questions] == ["head"]
    assert comparison.notes == (
        "left out: outcomes have no column 'correct'; there are average_precision (probe retrieval)",
    )
    by_default = {question.probe: question.metric for question in compare(runs).questions}
    assert by_default == {"head": "accuracy", "retrieval": "average_precision"}


def test_heads_of_a_distilled_model(runs):
    write(runs, make_record("plain"), right(30))
    heads = np.stack([right(45), right(40)])
    write(runs, make_record("distilled"), heads, variants=[{"head": "average"}, {"head": "cls"}])
    (question,) = compare(runs).questions
    assert [found.name for found in question.contenders] == ["distilled", "plain"]
    assert question.contenders[0].value == 45 / 60
    assert question.notes == ("distilled by its default head, average, of average, cls",)
    (question,) = compare(runs, all_heads=True).questions
    assert [found.name for found in question.contenders] == ["distilled average", "distilled cls", "plain"]
    assert question.notes == ()


# --- family and letters ----------------------------------------------------------------------------------------


def test_the_family_is_one_question_or_everything(runs):
    for perturbation in ("none", "drop"):
        for model, answers in (("good", right(50)), ("fair", right(42)), ("weak", right(40))):
            write(runs, make_record(model, perturbation=perturbation), answers)
    ps = [pair.p for question in compare(runs).questions for pair in question.pairs]
    assert [q.p_adjusted for question in compare(runs).questions for q in question.pairs] == holm(ps[:3]) + holm(ps[3:])
    whole = compare(runs, family="all")
    assert [pair.p_adjusted for question in whole.questions for pair in question.pairs] == holm(ps)
    assert "all 6 pairs of all tables" in repr(whole)
    assert "the 3 pairs of each perturbation" in repr(compare(runs))
    needed = [found.questions[0].pairs[2].needed for found in (compare(runs), whole)]
    assert needed[0] < needed[1]


def test_alpha_decides_on_letters(runs):
    small(runs)
    p = compare(runs).questions[0].pair("good", "fair").p_adjusted
    assert [found.letters for found in compare(runs, alpha=p).questions[0].contenders] == ["a", "b", "c"]
    assert [found.letters for found in compare(runs, alpha=1e-9).questions[0].contenders] == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"alpha": 0.0}, "alpha must lie between 0 and 1"),
        ({"family": "pair"}, "no family 'pair'"),
        ({"allow": ["limit"]}, "limit may not differ"),
        ({"allow": ["perturbation"]}, "perturbation may not differ"),
        ({"allow": "veiw"}, "did you mean view"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(runs, given, said):
    small(runs)
    with pytest.raises(UsageError) as caught:
        compare(runs, **given)
    assert said in str(caught.value)


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "changes", "said"),
    [
        (
            "view",
            {"view": "crop=56"},
            ("view: crop=224 for good in a\n        crop=56 for fair in b\n", "--allow view"),
        ),
        (
            "limit",
            {"limit": 30},
            ("limit: all images for good in a\n         30 images for fair in b\n", "same --limit"),
        ),
        ("split", {"split": "val"}, ("split: test for good in a\n         val for fair in b\n", "same --split")),
        (
            "images",
            {"fingerprint": "f1"},
            (
                "images: fingerprint f0 for good in a",
                " fingerprint f1 for fair",
                "the content of the dataset has changed",
            ),
        ),
        (
            "precision",
            {"precision": "bf16"},
            ("precision: fp32 for good in a\n", " bf16 for fair in b\n", "--allow precision"),
        ),
        ("probe", {"probe_version": 2}, ("probe: head", "version 2) for fair in b", "version 1) for good in a")),
        ("probe", {"probe_params": {"head": "cls"}}, ("probe: head:head=None", " head:head=cls")),
        ("dataset", {"dataset_params": {"x": 1}}, ("dataset: digits:x=None", " digits:x=1")),
    ],
)
def test_what_is_not_comparable_is_refused_saying_why(tmp_path, axis, changes, said):
    write(tmp_path / "a", make_record("good"), right(50))
    write(tmp_path / "b", make_record("fair", **changes), right(40))
    with pytest.raises(UsageError) as caught:
        compare(tmp_path / "a", tmp_path / "b")
    text = str(caught.value)
    assert text.startswith("not comparable: these models were asked head on digits under none in different ways\n")
    assert [line.split(":")[0] for line in text.splitlines()[1:] if line[2] != " "] == [f"  {axis}", "  hint"]
    for part in (f"\n  {axis}: ", *said):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"perturbation_params": {"grid": 14}}, " drop:grid=14 (entry drop, version 1) for fair in b"),
        ({"perturbation_version": 2}, "version 2) for fair in b"),
        ({"seed": 1}, " perturbation 1 for fair in b"),
        ({"seeds": {"perturb": 0, "support_perturb": None, "probe": 3}}, " perturbation 0; probe 3 for fair in b"),
    ],
)
def test_other_perturbations_and_seeds_of_one_name_are_refused(tmp_path, changes, said):
    write(tmp_path / "a", make_record("good", perturbation="drop", seed=0), right(50))
    write(tmp_path / "b", make_record("fair", perturbation="drop", **{"seed": 0, **changes}), right(40))
    with pytest.raises(UsageError) as caught:
        compare(tmp_path / "a", tmp_path / "b")
    assert said in str(caught.value)


def test_every_axis_and_everybody_concerned_is_named_once(tmp_path):
    for model in ("good", "fair"):
        for perturbation in ("none", "drop"):
            write(tmp_path / "a", make_record(model, perturbation=perturbation), right(40))
    for perturbation in ("none", "drop"):
        write(tmp_path / "b", make_record("other", perturbation=perturbation, limit=30, view="crop=56"), right(40))
    with pytest.raises(UsageError) as caught:
        compare(tmp_path / "a", tmp_path / "b")
    text = str(caught.value)
    assert "head on digits under none, head on digits under drop@0.5 in different ways" in text
    assert "  limit: 30 images for other in b\n         all images for good in a, fair in a\n" in text
    assert "  view: crop=56 for other in b\n        crop=224 for good in a, fair in a\n" in text


@pytest.mark.parametrize(
    ("axis", "changes", "told"),
    [
        ("view", {"view": "crop=56"}, "allowed to differ: view (crop=224: good; crop=56: fair)"),
        ("precision", {"precision": "bf16"}, "allowed to differ: precision (fp32: good; bf16: fair)"),
        ("seeds", {"seed": 1}, "allowed to differ: seeds (perturbation 0: good; perturbation 1: fair)"),
    ],
)
def test_what_may_differ_is_let_pass_on_request_and_stands_below_the_table(tmp_path, axis, changes, told):
    write(tmp_path / "a", make_record("good", perturbation="drop", seed=0), right(50))
    write(tmp_path / "b", make_record("fair", **{"perturbation": "drop", "seed": 0, **changes}), right(40))
    comparison = compare(tmp_path / "a", tmp_path / "b", allow=[axis])
    (question,) = comparison.questions
    assert [found.name for found in question.contenders] == ["good", "fair"]
    assert set(question.differing) == {axis}
    assert told in comparison_tables(comparison)[0].notes
    with pytest.raises(UsageError, match="not comparable"):
        compare(
            tmp_path / "a", tmp_path / "b", allow=[other for other in ("view", "precision", "seeds") if other != axis]
        )


def test_one_model_in_two_ways_that_are_allowed_is_two_contenders(runs):
    for features, count in (("pooled", 40), ("ensemble4", 50)):
        params = {"features": features, "shots": [5]}
        write(runs, make_record("vit", probe="fewshot", probe_params=params), right(count))
    with pytest.raises(UsageError, match="all records in runs are of one model, vit"):
        compare(runs)
    (question,) = compare(runs, allow="features").questions
    assert [found.name for found in question.contenders] == ["vit features=ensemble4", "vit features=pooled"]
    assert question.probe == "fewshot"


def test_variants_of_a_probe_that_all_models_have_are_no_mistake(runs):
    for model, count in (("good", 50), ("fair", 40)):
        for shots in ([1], [5]):
            record = make_record(model, probe="fewshot", probe_params={"features": "pooled", "shots": shots})
            write(runs, record, right(count + shots[0]), variants=[{"shots": shots[0]}])
    write(runs, make_record("good", probe="fewshot", probe_params={"features": "pooled", "shots": [10]}), right(60))
    comparison = compare(runs)
    assert [question.probe for question in comparison.questions] == ["fewshot:shots=1", "fewshot:shots=5"]
    assert comparison.notes == ("left out: only good answered fewshot:shots=10 on digits under none",)


def test_two_names_of_one_component_are_one_question(runs):
    record = make_record("fair")
    renamed = {**record.cell, "probe": "my_head"}
    write(runs, make_record("good"), right(50))
    write(runs, dataclasses.replace(record, key=digest(renamed), cell=renamed), right(40))
    assert len(compare(runs).questions) == 1


def test_runs_that_only_agree_within_themselves_are_told_apart(tmp_path):
    for run, limit in (("a", None), ("b", 30)):
        for model, count in (("good", 25), ("fair", 20)):
            write(tmp_path / run, make_record(model, limit=limit), right(count, images=30))
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert [question.limit for question in comparison.questions] == [None, 30]
    assert comparison.notes == (
        "not compared across runs, head on digits under none: limit all images in a and 30 images in b",
    )
    titles = [table.title for table in comparison_tables(comparison)]
    assert titles[0].endswith("digits/test, whole split")
    assert "limit 30" in titles[2]


# --- contenders ------------------------------------------------------------------------------------------------


def test_records_of_one_model_from_several_runs_that_differ_are_named_after_them(tmp_path):
    for run, count in (("a", 50), ("b", 40)):
        record = dataclasses.replace(
            make_record("vit"), measurements=(Measurement(metric="top1", value=count / 60, n=60),)
        )
        write(tmp_path / run, record, right(count))
    (question,) = compare(tmp_path / "a", tmp_path / "b").questions
    assert [(found.name, found.run) for found in question.contenders] == [("vit (a)", "a"), ("vit (b)", "b")]


def test_equal_records_count_once(tmp_path):
    for run in ("a", "b"):
        write(tmp_path / run, make_record("good"), right(50))
    write(tmp_path / "b", make_record("fair"), right(40))
    (question,) = compare(tmp_path / "a", tmp_path / "b", tmp_path / "a").questions
    assert [(found.name, found.run) for found in question.contenders] == [("good", "a"), ("fair", "b")]


def test_untrained_models_are_marked(runs):
    write(runs, make_record("good"), right(50))
    write(runs, make_record("good", weights="random:good:0"), right(5))
    (question,) = compare(runs).questions
    assert [found.untrained for found in question.contenders] == [False, True]
    assert question.contenders[1].name.endswith("(untrained)")


def test_what_has_no_numbers_and_controls_are_left_out(runs):
    small(runs)
    write(runs, make_record("good", control="shuffled_labels"), right(6))
    with RecordStore(runs) as store:
        store.append(dataclasses.replace(make_record("headless"), not_applicable="no head"))
        twin = make_record("good", weights="random:good:0")
        note_controls(store.folder, asked=[make_record("good").key], controls=[twin.key])
        # Whatever command came last.
        store.write_plan({})
    write(runs, twin, right(7))
    (question,) = compare(runs).questions
    assert [found.name for found in question.contenders] == ["good", "fair", "weak"]


# --- nothing to compare, damage --------------------------------------------------------------------------------


def test_nothing_to_compare_is_said(tmp_path):
    with pytest.raises(UsageError, match="name one or more output folders"):
        compare()
    write(tmp_path / "one", make_record("good"), right(50))
    with pytest.raises(UsageError, match="all records in one are of one model, good"):
        compare(tmp_path / "one")
    write(tmp_path / "one", make_record("fair", perturbation="drop"), right(50))
    with pytest.raises(UsageError, match="no two of good, fair in one were asked the same question"):
        compare(tmp_path / "one")
    with RecordStore(tmp_path / "empty"):
        pass
    with pytest.raises(UsageError, match="empty holds no numbers"):
        compare(tmp_path / "empty")
    with pytest.raises(RecordsError, match="there is no"):
        compare(tmp_path / "nowhere")


def test_missing_and_damaged_outcomes_are_reported(runs):
    small(runs)
    path = outcome_path(runs, make_record("fair").key)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordsError, match="cannot be read"):
        compare(runs)
    path.unlink()
    with pytest.raises(RecordsError, match=r"the outcomes of record .* are missing"):
        compare(runs)


def test_other_images_under_the_same_positions_are_reported(runs):
    write(runs, make_record("good"), right(50))
    write(runs, make_record("fair"), right(40), ids=[*IDS[:9], "other", *IDS[10:]])
    with pytest.raises(RecordsError, match="position 9 is image 'other'"):
        compare(runs)


# --- what comes out --------------------------------------------------------------------------------------------


def test_rows_and_dict_hold_every_pair(runs):
    comparison = small(runs)
    rows = comparison.to_rows()
    assert [(row["first"], row["second"]) for row in rows] == [("good", "fair"), ("good", "weak"), ("fair", "weak")]
    assert rows[0]["probe"] == "head"
    assert rows[0]["n"] == IMAGES
    (question,) = comparison.as_dict()["questions"]
    assert [contender["letters"] for contender in question["contenders"]] == ["a", "a", "b"]
    assert len(question["pairs"]) == 3
    with pytest.raises(KeyError, match="contenders are good, fair, weak"):
        comparison.questions[0].pair("good", "best")


def test_tables(runs):
    contenders, pairs = comparison_tables(small(runs))
    assert contenders.title == "accuracy (%) of head on digits/test"
    assert contenders.rows[0] == ("good", "a", "90.0 [79.9, 95.3]", "", "")
    assert [row[:2] for row in contenders.rows] == [("good", "a"), ("fair", "a"), ("weak", "b")]
    # The pair is good - fair; the row of fair says how far it is behind, so that the ends change sides.
    pair = compare(runs).questions[0].pair("good", "fair")
    assert contenders.rows[1][3] == f"-3.3 [{-100 * pair.high:.1f}, {-100 * pair.low:.1f}]"
    assert contenders.rows[2][4] == "<0.001"
    assert contenders.notes == (
        "60 images; view crop=224",
        "p: McNemar's exact test; adjusted by Holm over the 3 pairs",
        "models that share a letter are not separable: p above 0.05; [low, high]: bootstrap95, wilson95",
    )
    assert [row[0] for row in pairs.rows] == ["good - fair"]
    assert "at alpha 0.05 / 3 pairs" in pairs.notes[0]
    every = comparison_tables(compare(runs), pairs=True)[1]
    assert [row[0] for row in every.rows] == ["good - fair", "good - weak", "fair - weak"]
    assert every.header[2:4] == ("p", "adjusted p")


def test_a_sweep_is_one_table_with_a_block_for_each_level(runs):
    for level in (0.25, 0.5):
        for model, count in (("good", 50), ("fair", 20)):
            write(runs, make_record(model, perturbation="drop", level=level), right(count))
    (table,) = comparison_tables(compare(runs))
    assert [row[0] for row in table.rows] == ["drop@0.25", "  good", "  fair", "drop@0.5", "  good", "  fair"]


def test_no_table_loses_a_question(runs):
    """Views, seeds and supports that tell questions of one name apart stand in titles or rows."""
    for model, count in (("good", 50), ("fair", 20)):
        for view in ("crop=224", "crop=56"):
            for probe_seed in (0, 1):
                seeds = {"perturb": None, "support_perturb": None, "probe": probe_seed}
                write(runs, make_record(model, view=view, seeds=seeds), right(count))
    titles = [table.title for table in comparison_tables(compare(runs))]
    assert len(set(titles)) == len(titles) == 4
    assert all("crop=" in title and "probe " in title for title in titles)


def test_a_result_of_run_is_taken(tmp_path):
    result = harness.run(
        model=["vit_mini", "cnn_mini"], dataset="shapes", probe="head", limit=24,
        options=harness.RunOptions(cache_dir=None),
    )  # fmt: skip
    comparison = harness.compare(result)
    (question,) = comparison.questions
    values = {record.cell["model"]: record.get("top1").value for record in result.records}
    assert {found.name: found.value for found in question.contenders} == pytest.approx(values)
    assert question.n == result.records[0].get("top1").n == 24
    assert isinstance(comparison, harness.Comparison)
