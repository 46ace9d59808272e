"""Training by mini-batches against plain loops of torch.optim and autograd."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from harness import rng
from harness.errors import DataError
from harness_probes import sgd
from harness_probes.held_out import LinearProblem
from harness_probes.recipes import RECIPES
from harness_probes.sgd import Heads, evaluate, initial_heads, train

N, D, C = 50, 6, 4
ROWS = np.arange(3, N, 2)


@pytest.fixture
def problem() -> LinearProblem:
    generator = np.random.default_rng(0)
    y = generator.integers(0, C, N)
    x = generator.normal(size=(N, D)) + 0.7 * generator.normal(size=(C, D))[y]
    return LinearProblem(features=x.astype(np.float32), labels=y, rows=ROWS, num_classes=C, seed=5)


def small(name: str, **changes):
    return dataclasses.replace(RECIPES[name], **{"epochs": 4, "batch_size": 10, **changes})


def trained(problem, recipe, *, xavier=False) -> list[Heads]:
    heads = initial_heads(recipe, width=D, order=np.arange(C), xavier=xavier, seed=problem.seed)
    return [epoch.copy() for epoch in train(problem, problem.rows, recipe, heads)]


def by_hand(problem, recipe, rate: float, start: Heads) -> list[nn.Linear]:
    """The recipe as anyone would write it in PyTorch; only the order of the images is taken from the seed."""
    head = nn.Linear(D, C)
    with torch.no_grad():
        head.weight.copy_(start.weight[0].T)
        head.bias.copy_(start.bias[0])
    if recipe.scaled:
        rate = rate * recipe.batch_size / 256
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9, weight_decay=0)
    else:
        optimiser = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=recipe.weight_decay)
    n, size = len(problem.rows), recipe.batch_size
    starts = range(0, n - size + 1 if recipe.drop_last else n, size)
    horizon = {"epoch": recipe.epochs, "step": recipe.epochs * len(starts), "none": None}[recipe.decay]
    scheduler = None if horizon is None else torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, horizon)
    after = []
    for epoch in range(recipe.epochs):
        order = rng.permutations(problem.seed, "linear.order", [f"epoch {epoch}"], n)[0]
        for first in starts:
            rows = problem.rows[order[first : first + size]]
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(
                head(torch.from_numpy(problem.features[rows])), torch.from_numpy(problem.labels[rows])
            )
            loss.backward()
            optimiser.step()
            if recipe.decay == "step":
                scheduler.step()
        if recipe.decay == "epoch":
            scheduler.step()
        copy = nn.Linear(D, C)
        copy.load_state_dict(head.state_dict())
        after.append(copy)
    return after


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dino", {"learning_rates": (3.0,)}),
        ("dinov2", {"learning_rates": (0.1, 3.0)}),
        ("ipvit", {"learning_rates": (0.02,), "weight_decay": 0.5}),
        ("ipvit", {"learning_rates": (0.02,), "drop_last": False}),
    ],
)
def test_training_equals_a_plain_loop_of_torch_optim(problem, name, changes):
    recipe = small(name, **changes)
    start = initial_heads(recipe, width=D, order=np.arange(C), xavier=False, seed=problem.seed)
    found = trained(problem, recipe)
    assert len(found) == recipe.epochs
    for place, rate in enumerate(recipe.learning_rates):
        for epoch, wanted in zip(found, by_hand(problem, recipe, rate, start), strict=True):
            torch.testing.assert_close(epoch.weight[place], wanted.weight.detach().T, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(epoch.bias[place], wanted.bias.detach(), rtol=1e-4, atol=1e-5)
    moved = found[-1].weight - start.weight
    assert moved.abs().amax(dim=(1, 2)).min() > 0.01


@pytest.mark.parametrize("name", RECIPES)
def test_many_learning_rates_at_once_equal_each_alone(problem, name):
    rates = (0.01, 0.1, 1.0)
    together = trained(problem, small(name, learning_rates=rates))[-1]
    for place, rate in enumerate(rates):
        alone = trained(problem, small(name, learning_rates=(rate,)))[-1]
        torch.testing.assert_close(together.weight[place], alone.weight[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.bias[place], alone.bias[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together.weight[0], together.weight[2], atol=1e-3)


def test_an_epoch_sees_every_row_once_in_an_order_of_its_own(problem, monkeypatch):
    seen = []
    read = sgd._read

    def spy(problem, rows, heads):
        seen.append(rows.copy())
        return read(problem, rows, heads)

    monkeypatch.setattr(sgd, "_read", spy)
    trained(problem, small("dino", epochs=2))
    assert [len(rows) for rows in seen] == [10, 10, 4] * 2
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch), ROWS)
    assert set(seen[0].tolist()) != set(seen[3].tolist())


def test_the_seed_alone_decides_the_draw(problem):
    recipe = small("dino", learning_rates=(1.0,))
    first, again = trained(problem, recipe)[-1], trained(problem, recipe)[-1]
    other = trained(dataclasses.replace(problem, seed=6), recipe)[-1]
    assert torch.equal(first.weight, again.weight)
    assert not torch.allclose(first.weight, other.weight, atol=1e-3)


def test_initial_weights_have_the_published_spread():
    for name, std in (("dino", 0.01), ("dinov2", 0.01), ("ipvit", 0.02)):
        heads = initial_heads(RECIPES[name], width=400, order=np.arange(50), xavier=False, seed=0)
        assert heads.weight.shape == (len(RECIPES[name].learning_rates), 400, 50)
        # 20,000 draws: the relative error of a standard deviation is 1 / sqrt(2 n) = 0.5 %.
        assert float(heads.weight[0].std()) == pytest.approx(std, rel=0.025)
        assert torch.equal(heads.weight[0], heads.weight[-1])
        assert not heads.bias.any()
    xavier = initial_heads(RECIPES["ipvit"], width=400, order=np.arange(50), xavier=True, seed=0).weight
    bound = np.sqrt(6 / 450)
    assert float(xavier.abs().max()) <= bound * (1 + 1e-6)
    assert float(xavier.std()) == pytest.approx(bound / np.sqrt(3), rel=0.025)
    assert abs(float(xavier.mean())) < 5 * bound / np.sqrt(3 * 20_000)


def test_a_class_gets_the_initial_weights_of_its_place_in_the_order():
    plain, other = (
        initial_heads(RECIPES["dino"], width=D, order=np.array(order), xavier=False, seed=0).weight[0]
        for order in ([0, 1, 2], [2, 0, 1])
    )
    assert torch.equal(other, plain[:, [2, 0, 1]])


def test_evaluation_equals_torch_on_the_whole(problem, monkeypatch):
    monkeypatch.setattr(sgd, "_SCORES_AT_ONCE", 2 * C * 7)
    heads = trained(problem, small("dinov2", learning_rates=(0.1, 5.0)))[-1]
    hits, losses = evaluate(heads, problem, ROWS)
    x, y = torch.from_numpy(problem.features[ROWS]), torch.from_numpy(problem.labels[ROWS])
    for place in range(2):
        scores = x @ heads.weight[place] + heads.bias[place]
        assert hits[place] == int((scores.argmax(1) == y).sum())
        assert losses[place] == pytest.approx(float(nn.functional.cross_entropy(scores, y)), abs=1e-6)


def test_too_few_images_for_one_batch_are_refused_where_incomplete_ones_are_left_out(problem):
    with pytest.raises(DataError, match="24 support images do not fill one batch of 256") as caught:
        trained(problem, RECIPES["ipvit"])
    assert "batch_size=24" in caught.value.hint
    trained(problem, small("ipvit", batch_size=24))


def test_a_batch_larger_than_the_support_set_is_the_support_set(problem):
    large, exact = (trained(problem, small("dino", batch_size=size))[-1] for size in (256, 24))
    assert torch.equal(large.weight, exact.weight)
