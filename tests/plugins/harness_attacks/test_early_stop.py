"""Which point counts: ``any`` and restarts against a loop over single images, and early stopping against going on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from harness_attacks.pgd import PGD, pgd
from harness_attacks.projections import random_points

SIDE, CLASSES, N = 4, 4, 6
EPS_255 = st.sampled_from([2.0, 8.0, 24.0, 60.0])


def tiny_net(seed):
    """A two-layer network in float64, in which batches of other sizes round alike to far below float32."""
    generator = np.random.default_rng(seed)
    first = torch.from_numpy(generator.normal(0, 0.8, (3 * SIDE * SIDE, 16)))
    second = torch.from_numpy(generator.normal(0, 1.0, (16, CLASSES)))
    return lambda images: ((images.double().flatten(1) - 0.5) @ first).tanh() @ second


def batch_for(net, pictures, seed, wrong):
    """Images with the net's own labels, but for the first ``wrong``, which it misses from the outset."""
    batch = pictures(N, side=SIDE, scores=net)
    labels = batch.labels.clone()
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    return type(batch)(
        images=batch.images, labels=labels, ids=tuple(f"{seed}/{i}" for i in range(N)), positions=batch.positions
    )


def slow_pgd(net, image, label, starts, *, eps, step, steps, norm, select):
    """One image after the other as it is documented: its result, whether that is missed, and the first restart's."""

    def missed(point):
        return int(net(point[None]).argmax()) != label

    def loss(point):
        return float(functional.cross_entropy(net(point[None]), torch.tensor([label])))

    climbs = []
    for start in starts:
        points = [start]
        for _ in range(steps):
            leaf = points[-1].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(functional.cross_entropy(net(leaf[None]), torch.tensor([label])), leaf)
            if norm == "linf":
                change = (points[-1] + step * gradient.sign() - image).clamp(-eps, eps)
            else:
                change = points[-1] + step * gradient / gradient.norm() - image
                change = change * min(1.0, eps / float(change.norm()))
            points.append((image + change).clamp(0, 1))
        climbs.append(points)
    if select == "any":
        for point in [image, *(point for points in climbs for point in points)]:
            if missed(point):
                return point, True, any(missed(point) for point in [image, *climbs[0]])
        return max((points[-1] for points in climbs), key=loss), False, False
    last = max((points[-1] for points in climbs), key=lambda point: (missed(point), loss(point)))
    return last, missed(last), missed(climbs[0][-1])


@given(
    seed=st.integers(0, 10**6),
    wrong=st.integers(0, 3),
    level=EPS_255,
    steps=st.integers(1, 4),
    restarts=st.integers(1, 3),
    random_start=st.booleans(),
    norm=st.sampled_from(["linf", "l2"]),
    select=st.sampled_from(["last", "any"]),
)
@settings(deadline=None, max_examples=80)
def test_every_image_keeps_the_point_that_is_documented(
    pictures, ready, applied, seed, wrong, level, steps, restarts, random_start, norm, select
):
    restarts = restarts if random_start else 1
    net = tiny_net(seed)
    batch, eps = batch_for(net, pictures, seed, wrong), level / 255
    attack = PGD(norm=norm, steps=steps, random_start=random_start, restarts=restarts, select=select)
    found = applied(ready(attack, net, seed=seed), batch, level)
    starts = [batch.images]
    if random_start:
        starts = [
            random_points(batch.images, eps, norm, seed=seed, stream=f"attack.pgd.{restart}", ids=batch.ids)
            for restart in range(restarts)
        ]
    for row in range(N):
        point, success, first = slow_pgd(
            net,
            batch.images[row],
            int(batch.labels[row]),
            [start[row] for start in starts],
            eps=eps,
            step=eps / 2,
            steps=steps,
            norm=norm,
            select=select,
        )
        assert (found.images[row] - point).abs().max() <= 1e-5
        if select == "any" or restarts > 1:
            assert found.realised["attack_success"][row] == success
        if restarts > 1:
            assert found.realised["first_restart_success"][row] == first
    assert found.realised["gradient_steps"].tolist() == [steps * restarts] * N


@given(
    seed=st.integers(0, 10**6),
    wrong=st.integers(0, N),
    level=EPS_255,
    steps=st.integers(1, 6),
    restarts=st.integers(1, 3),
    random_start=st.booleans(),
    norm=st.sampled_from(["linf", "l2"]),
    goal=st.sampled_from(["untargeted", "next", "random", "least_likely"]),
    loss=st.sampled_from(["cross_entropy", "margin"]),
)
@settings(deadline=None, max_examples=80)
def test_stopping_early_changes_no_result(
    pictures, ready, applied, counted, seed, wrong, level, steps, restarts, random_start, norm, goal, loss
):
    restarts = restarts if random_start else 1
    net = tiny_net(seed)
    batch = batch_for(net, pictures, seed, wrong)
    results, asked = [], []
    for stops in (False, True):
        target = counted(net)
        attack = PGD(
            norm=norm,
            steps=steps,
            random_start=random_start,
            restarts=restarts,
            select="any",
            goal=goal,
            loss=loss,
            early_stop=stops,
        )
        results.append(applied(ready(attack, target, seed=seed), batch, level))
        asked.append(target.images)
    on, stopped = results
    assert torch.equal(on.realised["attack_success"], stopped.realised["attack_success"])
    assert (on.images - stopped.images).abs().max() <= 1e-6
    if restarts > 1:
        assert torch.equal(on.realised["first_restart_success"], stopped.realised["first_restart_success"])
    succeeded = stopped.realised["attack_success"].bool()
    taken = stopped.realised["gradient_steps"]
    assert (taken[~succeeded] == steps * restarts).all()
    # What succeeds no sooner than on the very last point saves nothing.
    assert asked[1] < asked[0] if (taken < steps * restarts).any() else asked[1] == asked[0]
    if goal == "untargeted":
        assert (taken[:wrong] == 0).all()
        assert torch.equal(stopped.images[:wrong], batch.images[:wrong])
        assert (net(stopped.images).argmax(dim=1) != batch.labels).tolist() == succeeded.tolist()


@pytest.mark.parametrize(
    ("given", "differentiable", "plain"),
    [
        ({}, 5, 0),
        ({"random_start": False}, 5, 0),
        ({"restarts": 3}, 15, 3),
        ({"random_start": False, "select": "any"}, 5, 1),
        ({"select": "any"}, 5, 2),
        ({"select": "any", "restarts": 2}, 10, 3),
    ],
)
def test_judging_costs_one_forward_pass_a_climb(given, differentiable, plain, pictures, ready, applied, counted):
    target = counted(tiny_net(0))
    applied(ready(PGD(**given), target), pictures(N, side=SIDE, labels=[0] * N), 8.0)
    assert (target.differentiable, target.plain) == (differentiable, plain)


def test_levels_share_the_judgement_of_the_unperturbed_images(pictures, ready, counted):
    target, batch = counted(tiny_net(0)), pictures(N, side=SIDE, labels=[0] * N)
    attack = ready(PGD(select="any"), target)
    state = attack.begin(batch)
    for level in (0.0, 2.0, 4.0):
        attack.apply(batch, state, level)
    assert (target.differentiable, target.plain) == (10, 3)


def test_images_that_are_missed_from_the_outset_cost_no_gradient(pictures, counted):
    target = counted(tiny_net(0))
    batch = batch_for(target, pictures, 0, N)
    before = target.differentiable
    found = pgd(
        target,
        batch.images,
        batch.labels,
        eps=0.1,
        step=0.05,
        steps=5,
        start=batch.images,
        select="any",
        early_stop=True,
    )
    assert target.differentiable == before
    assert torch.equal(found.images, batch.images)
    assert found.gradient_steps.tolist() == [0] * N
    assert found.succeeded.tolist() == [True] * N
