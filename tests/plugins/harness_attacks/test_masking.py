"""Gradient masking: each sign by hand, raised and not raised, what may be compared, and a masked model end to end."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from torch import nn

import harness
from harness.errors import ParameterError
from harness.paired import mcnemar
from harness.protocols import Outcomes, Summary, SummaryInput
from harness.stats import wilson
from harness.summaries import summarise
from harness.types import OutputSpec, ResultRecord, View, digest
from harness.weights import WeightsChoice
from harness_attacks.masking import GradientMasking
from harness_attacks.masking_attacks import attack_of
from harness_attacks.masking_cells import cells_of
from harness_attacks.parameters import GradientParams, MIFGSMParams, PatchParams, PGDParams
from harness_attacks.plugin import harness_register_summaries
from harness_attacks.torchattacks_table import TORCHATTACKS
from harness_mini.models import build_model

(ENTRY,) = harness_register_summaries()
N = 100
SCHEMAS = {"fgsm": GradientParams, "pgd": PGDParams, "mifgsm": MIFGSMParams, "adversarial_patch": PatchParams}


def defaults(use: str) -> dict[str, Any]:
    schema = SCHEMAS.get(use)
    if library := TORCHATTACKS.get(use.removeprefix("torchattacks:")) if ":" in use else None:
        schema = library.params()
    return {} if schema is None else {item.name: item.default for item in fields(schema)}


def record(use: str, level: float | None, *, seed: int | None = 0, probe: str = "head", **params: Any) -> ResultRecord:
    perturbation: dict[str, Any] = {"use": use, "version": 1, "params": {**defaults(use), **params}}
    perturbation["fingerprint"] = digest(perturbation)[:16]
    cell = {
        "model": "m",
        "weights": "embedded:m",
        "dataset": "d",
        "split": "test",
        "fingerprint": "f",
        "limit": None,
        "label_space": "d",
        "num_classes": 4,
        "view": "crop=56",
        "support": None,
        "perturbation": use,
        "level": level,
        "probe": probe,
        "seeds": {"perturb": seed, "support_perturb": None, "probe": None},
        "precision": "fp32",
        "components": {
            "model": {"use": "m", "version": 1, "params": {}, "fingerprint": "m"},
            "dataset": {"use": "d", "version": 1, "params": {}, "fingerprint": "d"},
            "perturbation": perturbation,
            "probe": {"use": probe, "version": 1, "params": {}, "fingerprint": probe},
        },
    }
    return ResultRecord(key=digest(cell), cell=cell)


def right(count: int, *, of: int = N, start: int = 0) -> np.ndarray:
    """(of,) bool: images ``start`` to ``start + count`` are right."""
    places = np.arange(of)
    return (places >= start) & (places < start + count)


def given(
    use: str,
    level: float | None,
    correct: Any,
    *,
    seed: int | None = 0,
    probe: str = "head",
    variants: tuple[dict[str, Any], ...] = ({},),
    positions: Any = None,
    zero_gradient: Any = None,
    attack_success: Any = None,
    first_restart_success: Any = None,
    **params: Any,
) -> SummaryInput:
    answers = np.atleast_2d(np.asarray(right(correct) if isinstance(correct, int) else correct))
    columns: dict[str, Any] = {"correct": answers}
    realised = {
        "zero_gradient": zero_gradient,
        "attack_success": attack_success,
        "first_restart_success": first_restart_success,
    }
    for name, values in realised.items():
        if values is not None:
            columns[name] = np.broadcast_to(np.asarray(values, np.float32), answers.shape)
    places = np.arange(answers.shape[1]) if positions is None else np.asarray(positions)
    return SummaryInput(
        record=record(use, level, seed=seed, probe=probe, **params),
        outcomes=Outcomes(positions=places, variants=variants, columns=columns),
    )


def compute(*inputs: SummaryInput, clean: SummaryInput | None = None, **params: Any):
    return GradientMasking(**params).compute(inputs, clean)


def rows(measurements, metric, **dims):
    return [m for m in measurements if m.metric == metric and dims.items() <= m.dims.items()]


def only(measurements, metric, **dims):
    (found,) = rows(measurements, metric, **dims)
    return found


def raised(measurements):
    """The names of the flags that are up, after checking the counts against the flags."""
    flags = rows(measurements, "masking_flag")
    for count in rows(measurements, "masking_flags"):
        mine = [flag for flag in flags if count.dims.items() <= flag.dims.items()]
        assert (count.value, count.n) == (sum(flag.value for flag in mine), len(mine))
        assert count.counted == "checks"
    return sorted(str(flag.dims["flag"]) for flag in flags if flag.value)


# --- attacks ---------------------------------------------------------------------------------------------------


def test_an_attack_is_named_by_what_differs_from_its_defaults():
    attack = attack_of(record("pgd", 4.0, steps=20, restarts=5))
    assert (attack.label, attack.but_for_steps, attack.steps) == ("pgd:steps=20:restarts=5", "pgd:restarts=5", 20)
    assert attack_of(record("fgsm", 4.0)).label == "fgsm"
    assert attack_of(record("torchattacks:apgd", 4.0, norm="L2")).label == "torchattacks:apgd:norm=L2"


@pytest.mark.parametrize(
    "other",
    [
        record("patchdrop_random", 0.5),
        record("adversarial_patch", 0.25),
        record("pgd", None),
        record("torchattacks:cw", None),
        record("torchattacks:unheard_of", 4.0),
        record("none", None),
    ],
)
def test_what_is_no_attack_with_an_eps_is_passed_over(other):
    assert attack_of(other) is None
    assert compute(SummaryInput(record=other, outcomes=given("pgd", 1.0, 3).outcomes)) == []


def test_aims_are_spelled_alike_for_the_library_and_for_ours():
    ours = attack_of(record("pgd", 4.0)).aim
    assert attack_of(record("torchattacks:pgd", 4.0)).aim == ours
    assert attack_of(record("torchattacks:apgd", 4.0)).aim == ours
    assert attack_of(record("torchattacks:apgd", 4.0, loss="dlr")).aim != ours
    assert attack_of(record("torchattacks:pgdl2", 4.0)).aim == attack_of(record("pgd", 4.0, norm="l2")).aim != ours


def test_a_record_older_than_a_parameter_had_its_default():
    old = record("pgd", 4.0)
    del old.cell["components"]["perturbation"]["params"]["quantise"]
    assert attack_of(old).aim == attack_of(record("pgd", 4.0)).aim


@pytest.mark.parametrize(
    ("use", "params", "reaches"),
    [
        ("pgd", {}, True),
        ("pgd", {"steps": 1}, False),
        ("pgd", {"steps": 16, "step_255": 0.5}, True),
        ("pgd", {"steps": 15, "step_255": 0.5}, False),
        ("mifgsm", {}, True),
        ("mifgsm", {"step_255": 0.1}, False),
        ("fgsm", {}, True),
        ("torchattacks:pgd", {}, True),
        ("torchattacks:pgd", {"steps": 3}, False),
        ("torchattacks:bim", {"steps": 0}, True),
        ("torchattacks:bim", {"steps": 0, "alpha_255": 0.5}, False),
        ("torchattacks:apgd", {"steps": 1}, True),
    ],
)
def test_steps_shorter_than_the_budget_do_not_reach(use, params, reaches):
    assert attack_of(record(use, 8.0, **params)).reaches(8.0) == reaches


# --- zero gradients --------------------------------------------------------------------------------------------


def test_zero_gradients_by_hand():
    shares = np.where(np.arange(N) < 30, 0.5, 0.0)
    found = compute(given("fgsm", 4.0, 50, zero_gradient=shares), given("fgsm", 8.0, 50, zero_gradient=shares / 2))
    share = only(found, "zero_gradient_share", level=4.0)
    assert share.value == pytest.approx(0.15)
    assert (share.dims, share.n, share.interval) == ({"attack": "fgsm", "level": 4.0}, N, "bootstrap95")
    assert share.low < 0.15 < share.high
    assert raised(found) == ["zero_gradient"]
    assert only(found, "masking_flag", level=4.0, flag="zero_gradient").value == 1
    assert only(found, "masking_flag", level=8.0, flag="zero_gradient").value == 0
    assert raised(compute(given("fgsm", 4.0, 50, zero_gradient=shares), zero_gradient=0.2)) == []


def test_zero_gradients_are_averaged_over_seeds_and_speak_of_any_target_and_goal():
    inputs = [given("pgd", 4.0, 50, seed=seed, zero_gradient=0.3 * seed, goal="next", probe="knn") for seed in (0, 1)]
    found = compute(*inputs)
    assert only(found, "zero_gradient_share").value == pytest.approx(0.15)
    assert {m.metric for m in found} == {"zero_gradient_share", "masking_flag", "masking_flags"}


def test_level_zero_has_no_gradients_to_speak_of():
    assert compute(given("fgsm", 0.0, 50, zero_gradient=1.0)) == []


# --- restarts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("extra", "flags"), [(5, []), (6, ["restart_gain"])])
def test_what_restarts_gain_by_hand(extra, flags):
    found = compute(
        given("pgd", 4.0, 40, attack_success=right(60 + extra), first_restart_success=right(60), restarts=5)
    )
    gain = only(found, "restart_gain")
    assert gain.value == pytest.approx(extra / N)
    assert gain.dims == {"attack": "pgd:restarts=5", "level": 4.0}
    assert raised(found) == flags


def test_one_start_tells_nothing_of_restarts():
    assert rows(compute(given("pgd", 4.0, 40, attack_success=right(60))), "restart_gain") == []


# --- FGSM and PGD ----------------------------------------------------------------------------------------------


def test_pgd_that_is_weaker_than_fgsm_raises_a_flag():
    found = compute(given("fgsm", 4.0, 30), given("pgd", 4.0, 50))
    row = only(found, "fgsm_minus_pgd")
    assert row.value == pytest.approx(-0.2)
    assert row.dims == {"attack": "pgd", "against": "fgsm", "level": 4.0}
    assert row.low < -0.2 < row.high < 0
    assert raised(found) == ["pgd_weaker"]


def test_pgd_that_is_as_strong_or_weaker_by_chance_raises_none():
    assert raised(compute(given("fgsm", 4.0, 50), given("pgd", 4.0, 30))) == []
    few = compute(given("fgsm", 4.0, 30), given("pgd", 4.0, 35))
    assert mcnemar(right(30), right(35)) > 0.05
    assert only(few, "fgsm_minus_pgd").value == pytest.approx(-0.05)
    assert raised(few) == []


def test_the_family_of_comparisons_is_held_to_alpha_together():
    """Seven more images right: p = 2 / 2**7 = 0.0156 alone, 0.0625 as one of four."""
    pair = (given("fgsm", 1.0, 30), given("pgd", 1.0, 37))
    others = [given(use, eps, 30) for use in ("fgsm", "pgd") for eps in (2.0, 4.0, 8.0)]
    assert raised(compute(*pair)) == ["pgd_weaker"]
    assert raised(compute(*pair, *others)) == []
    assert "pgd_weaker" in raised(compute(*pair, *others, alpha=0.07))


@pytest.mark.parametrize(
    "other",
    [
        {"norm": "l2"},
        {"goal": "next"},
        {"attack_target": "probe"},
        {"source": "cnn"},
        {"loss": "margin"},
        {"precision": "bf16"},
        {"quantise": True},
        {"steps": 3, "step_255": 1.0},
    ],
    ids=lambda other: next(iter(other)),
)
def test_attacks_of_different_aim_and_pgd_that_does_not_reach_are_not_compared(other):
    assert rows(compute(given("fgsm", 4.0, 30), given("pgd", 4.0, 50, **other)), "fgsm_minus_pgd") == []
    assert rows(compute(given("fgsm", 4.0, 30), given("pgd", 8.0, 50)), "fgsm_minus_pgd") == []


def test_equal_aims_of_whatever_kind_are_compared():
    for aim in ({"norm": "l2"}, {"loss": "margin"}, {"attack_target": "probe", "probe": "knn"}):
        found = compute(given("fgsm", 4.0, 30, **aim), given("pgd", 4.0, 50, **aim))
        assert only(found, "fgsm_minus_pgd").value == pytest.approx(-0.2)
    assert raised(compute(given("torchattacks:fgsm", 4.0, 30), given("torchattacks:bim", 4.0, 50))) == ["pgd_weaker"]


@pytest.mark.parametrize("aim", [{"goal": "next"}, {"source": "cnn"}, {"probe": "knn"}])
def test_accuracy_says_nothing_where_it_was_not_what_the_attack_lowered(aim):
    inputs = [
        given(use, eps, count, **aim) for use, eps, count in (("fgsm", 4.0, 30), ("pgd", 4.0, 50), ("pgd", 40.0, 60))
    ]
    assert compute(*inputs) == []


# --- along eps and steps ---------------------------------------------------------------------------------------


def test_the_largest_rise_with_eps_by_hand():
    found = compute(*(given("pgd", eps, count) for eps, count in ((1.0, 60), (2.0, 40), (4.0, 62), (8.0, 10))))
    row = only(found, "rise_with_eps")
    assert row.value == pytest.approx(0.22)
    assert row.dims == {"attack": "pgd", "from_level": 2.0, "level": 4.0}
    assert raised(found) == ["rise_with_eps"]
    falling = compute(*(given("pgd", eps, count) for eps, count in ((1.0, 60), (2.0, 40), (4.0, 42), (8.0, 10))))
    assert only(falling, "rise_with_eps").value == pytest.approx(0.02)
    assert raised(falling) == []


def test_the_clean_image_is_where_eps_begins():
    found = compute(given("pgd", 1.0, 90), clean=given("none", None, 70, seed=None))
    assert only(found, "rise_with_eps").dims == {"attack": "pgd", "from_level": 0.0, "level": 1.0}
    assert raised(found) == ["rise_with_eps"]
    assert rows(compute(given("pgd", 1.0, 90)), "rise_with_eps") == []


def test_one_step_may_overshoot():
    found = compute(given("fgsm", 4.0, 30), given("fgsm", 8.0, 60))
    assert only(found, "rise_with_eps").value == pytest.approx(0.3)
    assert raised(found) == []


def test_budgets_that_steps_do_not_reach_are_no_part_of_the_curve():
    inputs = [given("pgd", eps, count, step_255=1.0) for eps, count in ((1.0, 60), (4.0, 40), (8.0, 70))]
    assert only(compute(*inputs), "rise_with_eps").dims["level"] == 4.0


def test_a_rise_with_steps_by_hand():
    counts = {5: 40, 10: 30, 20: 50}
    found = compute(*(given("pgd", 4.0, count, steps=steps, restarts=2) for steps, count in counts.items()))
    row = only(found, "rise_with_steps")
    assert row.value == pytest.approx(0.2)
    assert row.dims == {"attack": "pgd:restarts=2", "level": 4.0, "from_steps": 10, "steps": 20}
    assert raised(found) == ["rise_with_steps"]
    assert raised(compute(*(given("pgd", 4.0, 50 - steps, steps=steps) for steps in counts))) == []


@pytest.mark.parametrize("other", [{"restarts": 3}, {"loss": "margin"}, {"step_255": 1.0}])
def test_attacks_that_differ_in_more_than_their_steps_are_not_compared(other):
    assert rows(compute(given("pgd", 4.0, 30), given("pgd", 4.0, 60, steps=20, **other)), "rise_with_steps") == []
    assert rows(compute(given("pgd", 4.0, 30), given("pgd", 2.0, 60, steps=20)), "rise_with_steps") == []


# --- large eps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "flags"), [(33, []), (34, ["floor_at_large_eps"]), (0, [])])
def test_what_is_left_at_large_eps_by_hand(count, flags):
    """Chance is 1/4; Wilson's interval of 34 of 100 begins above it, that of 33 does not."""
    assert wilson(33, N).low < 0.25 < wilson(34, N).low
    found = compute(given("pgd", 8.0, 90), given("pgd", 32.0, count))
    row = only(found, "floor_at_large_eps")
    assert (row.value, row.low, row.interval) == (count / N, wilson(count, N).low, "wilson95")
    assert row.dims == {"attack": "pgd", "level": 32.0}
    assert raised(found) == flags


def test_the_largest_eps_counts_if_it_is_large_in_l_inf_and_searched():
    two = [given("pgd", eps, 90) for eps in (40.0, 64.0)]
    assert only(compute(*two), "floor_at_large_eps").dims["level"] == 64.0
    for other in (
        given("pgd", 31.0, 90),
        given("fgsm", 64.0, 90),
        given("pgd", 64.0, 90, norm="l2"),
        given("pgd", 64.0, 90, step_255=1.0),
        given("torchattacks:square", 64.0, 90),
    ):
        assert rows(compute(other), "floor_at_large_eps") == []
    assert raised(compute(given("pgd", 16.0, 90), large_eps=16.0)) == ["floor_at_large_eps"]


# --- black boxes -----------------------------------------------------------------------------------------------


def test_a_black_box_stronger_than_the_strongest_gradients_raises_a_flag():
    white = [given("pgd", 4.0, right(50)), given("fgsm", 4.0, right(50, start=10))]
    found = compute(*white, given("torchattacks:square", 4.0, right(20, start=10)))
    row = only(found, "black_box_minus_white_box")
    assert row.value == pytest.approx(-0.2)  # 40 images withstand both
    assert row.dims == {"attack": "torchattacks:square", "level": 4.0}
    assert raised(found) == ["black_box_stronger"]
    weaker = compute(*white, given("torchattacks:square", 4.0, 90))
    assert only(weaker, "black_box_minus_white_box").value == pytest.approx(0.5)
    assert raised(weaker) == []


def test_steps_that_cannot_reach_the_budget_raise_a_flag_at_that_budget_alone():
    found = compute(*(given("pgd", level, 50, steps=5, step_255=0.5) for level in (1.0, 2.0, 8.0)))
    flags = [m for m in found if m.dims.get("flag") == "steps_too_short" and "level" in m.dims]
    assert [(m.dims["level"], m.value) for m in flags] == [(8.0, 1.0)]
    assert only(found, "steps_reach_eps", level=8.0).value == 0
    assert "steps_too_short" not in raised(compute(given("pgd", 8.0, 50)))


def test_an_attack_crafted_on_the_evaluated_network_itself_is_no_black_box():
    itself = given("pgd", 4.0, 20, source="m", steps=20)
    assert "black_box_stronger" not in raised(compute(given("pgd", 4.0, 50), itself))


def test_zero_gradients_of_another_network_are_not_filed_under_the_evaluated_one():
    shares = np.full(N, 0.5)
    found = compute(given("pgd", 4.0, 50), given("pgd", 4.0, 60, source="cnn", zero_gradient=shares))
    assert not [row for row in found if row.metric == "zero_gradient_share"]
    own = compute(given("pgd", 4.0, 50), given("pgd", 4.0, 60, source="m", zero_gradient=shares))
    assert [row for row in own if row.metric == "zero_gradient_share"]


def test_a_transfer_attack_is_a_black_box_too_and_needs_no_equal_loss():
    transfer = given("mifgsm", 4.0, 20, source="cnn", loss="margin")
    assert raised(compute(given("pgd", 4.0, 50), transfer)) == ["black_box_stronger"]
    aimed_elsewhere = given("torchattacks:square", 4.0, 20, probe="knn")
    on_the_probe = given("pgd", 4.0, 50, probe="knn", attack_target="probe")
    assert raised(compute(on_the_probe, aimed_elsewhere)) == ["black_box_stronger"]


@pytest.mark.parametrize(
    "rival",
    [
        given("pgd", 8.0, 50),
        given("pgd", 4.0, 50, norm="l2"),
        given("pgd", 4.0, 50, quantise=True),
        given("pgd", 4.0, 50, goal="next"),
        given("torchattacks:autoattack", 4.0, 50),
        given("torchattacks:spsa", 4.0, 50),
    ],
)
def test_what_is_no_white_box_of_the_same_budget_is_no_rival(rival):
    square = given("torchattacks:square", 4.0, 20)
    assert rows(compute(rival, square), "black_box_minus_white_box") == []


# --- rows, seeds, images ---------------------------------------------------------------------------------------


def test_seeds_are_averaged_within_each_image():
    fgsm = given("fgsm", 4.0, 50, seed=None)
    pgd = [given("pgd", 4.0, right(40, start=20 * seed), seed=seed) for seed in (0, 1)]
    found = compute(fgsm, *pgd)
    row = only(found, "fgsm_minus_pgd")
    assert (row.value, row.n) == (pytest.approx(0.1), N)
    slow = right(50).astype(float) - (right(40).astype(float) + right(40, start=20)) / 2
    assert row.value == pytest.approx(slow.mean())
    floor = compute(*(given("pgd", 64.0, right(40, start=20 * seed), seed=seed) for seed in (0, 1)))
    assert only(floor, "floor_at_large_eps").interval == "bootstrap95"


def test_comparisons_are_over_the_images_that_both_have():
    fgsm = given("fgsm", 4.0, right(30, of=60), positions=range(60))
    pgd = given("pgd", 4.0, right(20, of=60), positions=range(30, 90))
    row = only(compute(fgsm, pgd), "fgsm_minus_pgd")
    assert (row.value, row.n) == (pytest.approx((0 - 20) / 30), 30)
    apart = given("pgd", 4.0, right(20, of=60), positions=range(100, 160))
    assert rows(compute(fgsm, apart), "fgsm_minus_pgd") == []


def test_every_row_of_an_attacked_probe_is_judged_and_of_a_head_the_first():
    shots = tuple({"shots": k, "seed": seed} for k in (1, 5) for seed in (0, 1))
    fgsm, pgd = np.stack([right(30)] * 4), np.stack([right(40), right(60), right(20), right(20)])
    aim = {"attack_target": "probe", "probe": "fewshot", "variants": shots}
    found = compute(given("fgsm", 4.0, fgsm, **aim), given("pgd", 4.0, pgd, **aim))
    assert {m.dims["shots"]: round(m.value, 6) for m in rows(found, "fgsm_minus_pgd")} == {1: -0.2, 5: 0.1}
    heads = ({"head": "average"}, {"head": "cls"})
    both = np.stack([right(30), right(90)])
    found = compute(*(given(use, 4.0, both, variants=heads) for use in ("fgsm", "pgd")))
    assert [m.dims["head"] for m in rows(found, "fgsm_minus_pgd")] == ["average"]


def test_probes_that_do_not_classify_have_realised_quantities_only():
    item = given("pgd", 64.0, 90, zero_gradient=0.5)
    columns = {name: column for name, column in item.outcomes.columns.items() if name != "correct"}
    bare = SummaryInput(
        record=item.record, outcomes=Outcomes(positions=item.outcomes.positions, variants=({},), columns=columns)
    )
    assert raised(compute(bare)) == ["zero_gradient"]
    assert compute(SummaryInput(record=item.record, outcomes=None)) == []


def test_attacks_of_one_label_are_told_apart():
    old = given("pgd", 4.0, 90, zero_gradient=0.0)
    old.record.cell["components"]["perturbation"]["fingerprint"] = "abcdef0123"
    labels = {cell.attack.label for cell in cells_of([old, given("pgd", 4.0, 30)])}
    assert len(labels) == 2
    assert "pgd (abcdef)" in labels


def test_thresholds_are_checked():
    assert isinstance(GradientMasking(), Summary)
    with pytest.raises(ParameterError, match="alpha"):
        GradientMasking(alpha=0)


# --- the whole way ---------------------------------------------------------------------------------------------


def test_the_driver_brings_all_attacks_of_a_model_together_whatever_their_name_level_and_seed():
    items = [
        given("none", None, 95, seed=None),
        given("patchdrop_random", 0.5, 50),
        given("fgsm", 4.0, 30, seed=None),
        *(given("pgd", 4.0, 50, seed=seed) for seed in (0, 1)),
        given("pgd", 64.0, 40),
    ]
    by_key = {item.record.key: item.outcomes for item in items}
    (summary,) = summarise([item.record for item in items], lambda r: by_key[r.key], [ENTRY])
    assert summary.summary == "gradient_masking"
    assert raised(summary.measurements) == ["floor_at_large_eps", "pgd_weaker"]
    plain = [item for item in items if item.record.cell["perturbation"] in ("none", "patchdrop_random")]
    assert summarise([item.record for item in plain], lambda r: by_key[r.key], [ENTRY]) == []


class Masked(nn.Module):
    """A classifier whose scores are rounded, so that no gradient leads anywhere."""

    def __init__(self, model):
        super().__init__()
        self._model = model

    def forward(self, images):
        scores = self._model.outputs(images, OutputSpec(logits=True)).logits["head"]
        return (scores * 4).round() / 4


def test_a_model_of_masked_gradients_is_found_out_and_an_honest_one_is_not():
    honest = build_model("vit_mini", weights=WeightsChoice(origin="pretrained"))
    plain = {"name": "masked", "view": View(crop=56), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    masked = harness.wrap(Masked(honest), label_space="shapes", **plain)
    attacks = ["fgsm@8", "pgd:steps=2@8,32", "torchattacks:Square:n_queries=10@32"]
    result = harness.run(model=["vit_mini", masked], dataset="shapes", probe="head", perturb=attacks, limit=18)
    assert not result.failures
    found = {s.group["model"]: s.measurements for s in result.summaries if s.summary == "gradient_masking"}
    assert raised(found["vit_mini"]) == []
    assert set(raised(found["masked"])) == {"black_box_stronger", "floor_at_large_eps", "zero_gradient"}
    for row in rows(found["masked"], "zero_gradient_share"):
        assert row.value == 1
    # Few as 10 queries are, they are worth more than no gradient at all.
    assert only(found["masked"], "black_box_minus_white_box").value < -0.3
