"""Balls: bounds, nearest points, uniform starts and whole 255ths, against loops and distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from harness_attacks.projections import ball_around, mean_normalised, quantised, random_points, unit

IDS = tuple(f"{i}.png" for i in range(5))
NORMS = ("linf", "l2")
seeds = st.integers(0, 10**6)
budgets = st.sampled_from([0.5, 1.0, 2.5, 4.0, 16.0, 255.0])


def images_of(seed, n=5, side=4):
    levels = np.random.default_rng(seed).integers(0, 256, (n, 3, side, side))
    return torch.from_numpy(levels.astype(np.float32)) / 255


def sizes(change, norm):
    flat = change.double().flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)


def assert_held(point, images, eps, norm):
    assert point.min() >= 0
    assert point.max() <= 1
    assert sizes(point.double() - images.double(), norm).max() <= eps + 1e-6


@pytest.mark.parametrize("norm", NORMS)
@given(seed=seeds, budget=budgets, far=st.floats(0, 3))
@settings(deadline=None)
def test_projected_points_lie_in_the_ball_and_stay_there(norm, seed, budget, far):
    images, eps = images_of(seed), budget / 255
    ball = ball_around(images, eps, norm)
    point = images + far * torch.from_numpy(np.random.default_rng(seed + 1).normal(size=images.shape)).float()
    ball.project(point)
    assert_held(point, images, eps, norm)
    again = point.clone()
    ball.project(again)
    assert (again - point).abs().max() <= 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_points_are_projected_as_a_loop_does_it(norm):
    images, eps = images_of(3), 8 / 255
    point = images + 0.05 * torch.from_numpy(np.random.default_rng(4).normal(size=images.shape)).float()
    point[0] = images[0] + 1e-3
    expected = point.clone()
    for i, (image, moved) in enumerate(zip(images.double(), point.double(), strict=True)):
        change = moved - image
        if norm == "linf":
            change = torch.minimum(torch.maximum(change, torch.tensor(-eps)), torch.tensor(eps))
        else:
            change = change * min(1.0, eps / math.sqrt(float((change**2).sum())))
        expected[i] = torch.minimum(torch.maximum(image + change, torch.tensor(0.0)), torch.tensor(1.0)).float()
    ball_around(images, eps, norm).project(point)
    assert (point - expected).abs().max() <= 1e-7


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_has_the_size_asked_for_and_a_zero_direction_takes_none(norm):
    images, step = torch.full((3, 3, 4, 4), 0.5), 0.03
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=images.shape)).float()
    direction[1] = 0
    direction[2] *= 1e-30
    point = images.clone()
    ball_around(images, 0.1, norm).step(point, direction, step)
    assert torch.equal(point[1], images[1])
    assert sizes(point - images, norm).tolist() == pytest.approx([step, 0, step], rel=1e-5)
    along = ((point - images)[0] * direction[0]).sum()
    assert along > 0


def test_the_ball_of_some_images_is_theirs():
    images = images_of(1)
    for norm in NORMS:
        point = images + 0.5
        ball_around(images, 0.01, norm).project(point)
        for rows in (torch.tensor([True, False, False, True, False]), torch.tensor([0, 3])):
            some = images[rows] + 0.5
            ball_around(images, 0.01, norm).take(rows).project(some)
            assert torch.equal(some, point[rows])


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e-37, 1e30])
def test_directions_of_any_magnitude_are_normalised(scale):
    direction = scale * torch.tensor([3.0, -4.0, 0.0]).view(1, 3, 1, 1)
    assert unit(direction).flatten().tolist() == pytest.approx([0.6, -0.8, 0.0])
    assert mean_normalised(direction).flatten().tolist() == pytest.approx([9 / 7, -12 / 7, 0.0])


def test_zero_directions_stay_zero():
    zero = torch.zeros(2, 3, 2, 2)
    assert torch.equal(unit(zero), zero)
    assert torch.equal(mean_normalised(zero), zero)


@pytest.mark.parametrize("norm", NORMS)
@given(seed=seeds, budget=budgets)
@settings(deadline=None)
def test_random_points_lie_in_the_ball_and_are_keyed_by_image(norm, seed, budget):
    images, eps = images_of(seed), budget / 255
    points = random_points(images, eps, norm, seed=seed, stream="start", ids=IDS)
    assert_held(points, images, eps, norm)
    alone = random_points(images[3:4], eps, norm, seed=seed, stream="start", ids=IDS[3:4])
    assert torch.equal(alone[0], points[3])
    assert not torch.equal(points, random_points(images, eps, norm, seed=seed + 1, stream="start", ids=IDS))
    assert not torch.equal(points, random_points(images, eps, norm, seed=seed, stream="start.1", ids=IDS))


def test_random_points_are_uniform_in_the_ball():
    n, eps = 4000, 0.2
    ids = [str(i) for i in range(n)]
    grey = torch.full((n, 3, 2, 2), 0.5)
    changes = {
        norm: (random_points(grey, eps, norm, seed=0, stream="s", ids=ids).double() - 0.5).flatten(1) / eps
        for norm in NORMS
    }
    assert kstest(changes["linf"].flatten().numpy(), "uniform", (-1, 2)).pvalue > 1e-3
    # Equal volumes of a 12-dimensional ball are equally likely: the 12th power of the radius is uniform.
    assert kstest((changes["l2"].norm(dim=1) ** 12).numpy(), "uniform").pvalue > 1e-3
    # One coordinate of a uniform point of the ball has variance 1 / (d + 2), and mean 0.
    assert changes["l2"].mean().abs() < 4 * math.sqrt(1 / 14 / (12 * n))
    assert changes["l2"].pow(2).mean().item() == pytest.approx(1 / 14, rel=0.03)


@pytest.mark.parametrize("norm", NORMS)
@given(seed=seeds, budget=st.sampled_from([0.5, 0.9995, 1.0, 2.7, 3.9999, 4.0, 16.0, 128.0]))
@settings(deadline=None)
def test_quantised_changes_are_whole_255ths_within_the_budget_and_no_larger(norm, seed, budget):
    images, eps = images_of(seed), budget / 255
    point = random_points(images, eps, norm, seed=seed, stream="q", ids=IDS)
    corner = ball_around(images, eps, norm)
    corner.step(point[:2], torch.ones_like(point[:2]), 1.0)
    corner.project(point)
    found = quantised(point, images, eps, norm)
    assert_held(found, images, eps, norm)
    change = (found.double() - images.double()) * 255
    assert (change - change.round()).abs().max() <= 1e-4
    before = (point.double() - images.double()) * 255
    assert (change.abs() <= before.abs() + 2e-3).all()
    assert (change.abs() >= before.abs() - 1).all()
    assert (change.round() * before >= 0).all()
    # A file holds the result: rounding to 8 bits and back moves nothing.
    assert ((found * 255).round() / 255 - found).abs().max() <= 1e-6


def test_a_budget_of_whole_255ths_is_used_in_full_by_every_pixel_value():
    levels = torch.arange(256)
    images = (levels / 255).view(-1, 1, 1, 1).expand(-1, 3, 1, 1).contiguous()
    for budget in (1, 4, 8):
        ball = ball_around(images, budget / 255, "linf")
        for direction in (-1, 1):
            point = images.clone()
            ball.step(point, torch.full_like(point, direction), budget / 255)
            ball.project(point)
            expected = (levels + direction * budget).clamp(0, 255) - levels
            found = (quantised(point, images, budget / 255, "linf") - images).double() * 255
            assert (found - expected.view(-1, 1, 1, 1)).abs().max() <= 1e-4


def test_a_change_that_is_taken_for_a_whole_255th_does_not_leave_the_range():
    image = torch.full((1, 3, 1, 1), 1 - 3.9995 / 255)
    assert quantised(torch.ones_like(image), image, 4 / 255, "linf").max() <= 1
    assert quantised(torch.zeros_like(image), 1 - image, 4 / 255, "linf").min() >= 0
