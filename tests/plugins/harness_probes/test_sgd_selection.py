"""Which heads are kept: the last, the best on the held-out images, or those of every epoch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from harness.errors import DataError, ParameterError
from harness_probes import sgd_selection
from harness_probes.held_out import LinearProblem, is_held_out
from harness_probes.linear import LinearParams
from harness_probes.sgd import initial_heads, train
from harness_probes.sgd_selection import solve_sgd

N, D, C = 90, 8, 3
RATES = (0.01, 0.3, 40.0)


@pytest.fixture
def problem() -> LinearProblem:
    generator = np.random.default_rng(1)
    y = generator.integers(0, C, N)
    x = generator.normal(size=(N, D)) + 0.8 * generator.normal(size=(C, D))[y]
    return LinearProblem(features=x.astype(np.float32), labels=y, rows=np.arange(10, N), num_classes=C, seed=3)


def params(**given) -> LinearParams:
    return LinearParams(**{"solver": "sgd", "epochs": 5, "batch_size": 16, **given})


def epochs_of(problem, rows, given: LinearParams):
    recipe = dataclasses.replace(
        given.published, epochs=5, batch_size=16, learning_rates=given.learning_rates or given.published.learning_rates
    )
    seen = problem.labels[problem.rows].tolist()
    order = np.argsort(np.argsort([seen.index(c) for c in range(C)]))
    heads = initial_heads(recipe, width=D, order=order, xavier=False, seed=problem.seed)
    return [epoch.copy() for epoch in train(problem, rows, recipe, heads)]


def test_last_keeps_the_last_epoch_of_every_learning_rate(problem, card):
    given = params(learning_rates=RATES)
    solution = solve_sgd(problem, given, card())
    heads = epochs_of(problem, problem.rows, given)[-1]
    assert [dims for dims, _ in solution.classifiers] == [{"lr": rate, "seed": 3} for rate in RATES]
    for place, (_, linear) in enumerate(solution.classifiers):
        np.testing.assert_array_equal(linear.weight, heads.weight[place].double().numpy())
        np.testing.assert_array_equal(linear.bias, heads.bias[place].double().numpy())
    assert (solution.scored, solution.extra) == (0, ())
    ((dims, _),) = solve_sgd(problem, params(), card()).classifiers
    assert dims == {"seed": 3}


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_best_val_keeps_the_best_epoch_and_rate_on_the_held_out_part(problem, card, share):
    given = params(selection="best_val", learning_rates=RATES, validation=share)
    out = is_held_out(problem.labels[problem.rows], share, problem.seed)
    training, held_out = problem.rows[~out], problem.rows[out]
    x, y = torch.from_numpy(problem.features[held_out]), torch.from_numpy(problem.labels[held_out])
    ranking = []
    heads = epochs_of(problem, training, given)
    for epoch, of_epoch in enumerate(heads, start=1):
        for place in range(len(RATES)):
            scores = (x @ of_epoch.weight[place] + of_epoch.bias[place]).double()
            hits = int((scores.argmax(1) == y).sum())
            ranking.append((-hits, float(cross_entropy(scores, y)), epoch, place))
    _, _, epoch, place = min(ranking)
    assert len({hits for hits, *_ in ranking}) > 2
    solution = solve_sgd(problem, given, card())
    ((dims, linear),) = solution.classifiers
    assert dims == {"seed": 3}
    np.testing.assert_array_equal(linear.weight, heads[epoch - 1].weight[place].double().numpy())
    said = {row.metric: row for row in solution.extra}
    assert {metric: row.value for metric, row in said.items()} == {"learning_rate": RATES[place], "epoch": epoch}
    assert all(row.n == len(held_out) and row.higher_is_better is None for row in said.values())


def test_best_test_keeps_every_epoch_and_speaks_with_the_last(problem, card):
    given = params(selection="best_test", compat=True)
    solution = solve_sgd(problem, given, card())
    assert [dims for dims, _ in solution.classifiers] == [{"epoch": e, "seed": 3} for e in range(1, 6)]
    assert solution.scored == 4
    heads = epochs_of(problem, problem.rows, given)
    for (_, linear), of_epoch in zip(solution.classifiers, heads, strict=True):
        np.testing.assert_array_equal(linear.weight, of_epoch.weight[0].double().numpy())


def test_best_test_with_several_rates_names_both(problem, card):
    solution = solve_sgd(problem, params(selection="best_test", compat=True, learning_rates=(0.1, 1.0)), card())
    assert len(solution.classifiers) == 10
    assert solution.classifiers[solution.scored][0] == {"lr": 0.1, "epoch": 5, "seed": 3}


def test_overrides_replace_the_constants_of_the_recipe_and_nothing_else():
    recipe = sgd_selection._recipe(params(recipe="dinov2", learning_rates=(0.5,)))
    assert recipe == dataclasses.replace(
        params(recipe="dinov2").published, epochs=5, batch_size=16, learning_rates=(0.5,)
    )
    untouched = LinearParams(solver="sgd", recipe="ipvit")
    assert sgd_selection._recipe(untouched) == untouched.published


def test_ipvit_starts_from_xavier_for_models_without_patches_alone(problem, card, monkeypatch):
    asked = []
    initial = sgd_selection.initial_heads
    monkeypatch.setattr(
        sgd_selection,
        "initial_heads",
        lambda *a, xavier, **kw: asked.append(xavier) or initial(*a, xavier=xavier, **kw),
    )
    transformer = dataclasses.replace(card(), patch_size=8)
    for recipe in ("ipvit", "dino"):
        for model in (card(), transformer):
            solve_sgd(problem, params(recipe=recipe, epochs=1), model)
    assert asked == [True, False, False, False]


def test_rates_that_overflow_are_an_error_where_they_would_be_reported(problem, card):
    with pytest.raises(ParameterError, match=r"overflow at learning rate 1e\+41") as caught:
        solve_sgd(problem, params(learning_rates=(0.1, 1e41)), card())
    assert "lower learning_rates" in caught.value.hint
    with pytest.raises(ParameterError, match="overflow"):
        solve_sgd(problem, params(learning_rates=(1e41,), selection="best_val"), card())
    solution = solve_sgd(problem, params(learning_rates=(0.1, 1e41), selection="best_val"), card())
    assert {row.metric: row.value for row in solution.extra}["learning_rate"] == 0.1


def test_nothing_to_hold_out_says_what_to_do(problem, card):
    rows = np.array([np.flatnonzero(problem.labels == c)[0] for c in range(C)])
    with pytest.raises(DataError, match="held out") as caught:
        solve_sgd(dataclasses.replace(problem, rows=np.sort(rows)), params(selection="best_val"), card())
    assert caught.value.hint.startswith("use selection=last")
