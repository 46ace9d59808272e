"""Attacks on embedded trained networks through the engine: accuracy falls with the budget, success is what is said."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest

import harness

LIMIT = 16
LEVELS = (0.0, 1.0, 4.0, 8.0)
TOLERANCE = 1 / LIMIT


@cache
def records(model, perturbation):
    """By level; at level 0, where the engine reuses the clean pass, of the unperturbed images."""
    text = f"{perturbation}@{','.join(map(str, LEVELS))}"
    result = harness.run(model=model, perturb=text, probe="head", dataset="shapes", limit=LIMIT)
    assert not result.failures
    found = {record.cell["level"]: record for record in result.records if record.cell["perturbation"] != "none"}
    return [found[level] for level in LEVELS]


def values(model, perturbation, metric="top1"):
    return [record.get(metric).value for record in records(model, perturbation)[metric != "top1" :]]


@pytest.mark.parametrize("model", ["vit_mini", "cnn_mini"])
def test_a_larger_budget_leaves_no_higher_accuracy(model):
    found = values(model, "pgd")
    assert found[0] >= 0.9
    assert found[-1] <= 0.1
    for smaller, larger in pairwise(found):
        assert larger <= smaller + TOLERANCE


def test_any_iterate_is_at_least_as_strong_as_the_last_and_what_it_claims_is_so():
    name = "pgd:select=any,early_stop=true"
    last, anywhere = values("cnn_mini", "pgd"), values("cnn_mini", name)
    assert all(a <= b + TOLERANCE for a, b in zip(anywhere, last, strict=True))
    assert values("cnn_mini", name, "attack_success") == pytest.approx([1 - a for a in anywhere[1:]])
    steps = values("cnn_mini", name, "gradient_steps")
    assert sorted(steps, reverse=True) == steps
    assert steps[0] > 4
    assert steps[-1] < 2


def test_more_steps_are_stronger_than_one():
    one, five, momentum = (values("cnn_mini", name) for name in ("fgsm", "pgd", "mifgsm"))
    for strong in (five, momentum):
        assert all(s <= w + TOLERANCE for w, s in zip(one, strong, strict=True))
        assert sum(strong) < sum(one)


def test_a_probe_can_be_aimed_at():
    given = {"model": "cnn_mini", "probe": "fewshot:shots=5", "dataset": "shapes", "limit": LIMIT}
    aimed, aside = (harness.run(perturb="pgd@0,8", attack_target=target, **given) for target in ("probe", "head"))
    assert not aimed.failures
    fallen = {}
    for name, result in {"probe": aimed, "head": aside}.items():
        found = {record.cell["level"]: record.get("accuracy", shots=5).value for record in result.records}
        fallen[name] = found[0] - found[8]
    assert fallen["probe"] >= 0.5
    assert fallen["probe"] >= fallen["head"]
