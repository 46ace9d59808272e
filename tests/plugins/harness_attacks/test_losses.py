"""Losses, goals and success, against loops over images and classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import CapabilityError, HarnessError
from harness.metrics import topk_correct
from harness_attacks.losses import attack_loss, goal_labels, has_succeeded

CASES = st.tuples(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 6))


def case(seed, n, classes):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.normal(0, 3, (n, classes))), torch.from_numpy(generator.integers(0, classes, n))


@given(CASES)
@settings(deadline=None)
def test_cross_entropy_is_that_of_the_definition(given_case):
    scores, labels = case(*given_case)
    expected = [
        math.log(sum(math.exp(s) for s in row)) - row[y]
        for row, y in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert attack_loss(scores, labels, "cross_entropy", False).tolist() == pytest.approx(expected)
    assert attack_loss(scores, labels, "cross_entropy", True).tolist() == pytest.approx([-e for e in expected])


@given(CASES)
@settings(deadline=None)
def test_the_margin_is_positive_where_the_attack_has_succeeded(given_case):
    scores, labels = case(*given_case)
    expected = [
        max(s for j, s in enumerate(row) if j != y) - row[y]
        for row, y in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert attack_loss(scores, labels, "margin", False).tolist() == pytest.approx(expected)
    assert attack_loss(scores, labels, "margin", True).tolist() == pytest.approx([-e for e in expected])
    assert has_succeeded(scores, labels, False).tolist() == [e > 0 for e in expected]
    assert has_succeeded(scores, labels, True).tolist() == [e < 0 for e in expected]


def test_losses_of_half_precision_scores_are_computed_in_float32():
    scores = torch.tensor([[10.0, 0.0]], dtype=torch.bfloat16)
    loss = attack_loss(scores, torch.tensor([0]), "cross_entropy", False)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-3)


def test_ties_are_missed_just_where_top1_misses_them():
    scores, labels = torch.tensor([[1.0, 1.0, 0.0]] * 3), torch.arange(3)
    assert (~has_succeeded(scores, labels, False)).tolist() == topk_correct(scores, labels, (1,))[0].tolist()


@given(CASES)
@settings(deadline=None)
def test_the_least_likely_class_is_the_lowest_that_is_not_the_label(given_case):
    scores, labels = case(*given_case)
    expected = [
        min((s, j) for j, s in enumerate(row) if j != y)[1]
        for row, y in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert goal_labels(scores, labels, "least_likely").tolist() == expected


def test_the_next_class_follows_the_label_and_the_first_the_last():
    assert goal_labels(torch.zeros(3, 3), torch.arange(3), "next").tolist() == [1, 2, 0]


def test_an_untargeted_attack_is_aimed_at_the_labels():
    labels = torch.tensor([2, 0])
    assert goal_labels(torch.zeros(2, 3), labels, "untargeted") is labels


def test_random_goals_are_every_other_class_alike():
    draws = torch.arange(400, dtype=torch.float64) / 400
    for label in range(5):
        found = goal_labels(torch.zeros(400, 5), torch.full((400,), label), "random", draws)
        counts = torch.bincount(found, minlength=5)
        assert counts.tolist() == [0 if j == label else 100 for j in range(5)]
    assert goal_labels(torch.zeros(1, 5), torch.tensor([2]), "random", torch.ones(1)).item() != 2


def test_what_cannot_be_aimed_at_is_refused():
    with pytest.raises(HarnessError, match="draw"):
        goal_labels(torch.zeros(1, 3), torch.tensor([0]), "random")
    for goal in ("least_likely", "random", "next"):
        with pytest.raises(CapabilityError, match="at least two classes"):
            goal_labels(torch.zeros(1, 1), torch.tensor([0]), goal, torch.zeros(1))
    with pytest.raises(CapabilityError, match="margin"):
        attack_loss(torch.zeros(1, 1), torch.tensor([0]), "margin", False)
