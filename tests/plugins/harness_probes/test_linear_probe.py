"""The linear probe on real digits: three solvers, seeds, draws, marked selection on test, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from sklearn.datasets import load_digits

from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeRun
from harness.testing import parametrize_contract
from harness.types import FeatureSpec, FeatureTable, ModelOutputs, OutputSpec
from harness_probes.linear_probe import LinearProbe
from harness_probes.shots import draw_shots

POOLED = FeatureSpec(pooled=True)
SUPPORT = 900
FAST = {
    "logistic": {"c": (0.01, 1.0)},
    "sgd": {"solver": "sgd", "epochs": 20, "learning_rates": (0.05,)},
    "best_val": {"solver": "sgd", "recipe": "dinov2"},
    "ridge": {"solver": "ridge"},
}
BEST_TEST = {"solver": "sgd", "epochs": 4, "learning_rates": (0.5,), "selection": "best_test", "compat": True}


@pytest.fixture(scope="module")
def digits():
    """Pixels of 900 support and 897 query digits, as if they were pooled features of a model."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 4).astype(np.float32), y[order].astype(np.int64)
    return x[:SUPPORT], y[:SUPPORT], x[SUPPORT:], y[SUPPORT:]


def table(x, y, positions) -> FeatureTable:
    return FeatureTable(x=x[positions], y=y[positions], ids=[f"train-{p}" for p in positions], spec=POOLED)


def context(model, *, seed: int = 0, classes: int = 10) -> ProbeContext:
    return ProbeContext(model=model, classes=[f"digit {c}" for c in range(classes)], label_space="digits", seed=seed)


def fit(probe, x, y, model, *, seed: int = 0):
    return probe.fit(table(x, y, probe.select_support(y, seed)), context(model, seed=seed))


def ask(fitted, batch, x, y, *, size: int = 100, rows=None, run=None):
    run = run or fitted.start()
    rows = np.arange(len(y)) if rows is None else np.asarray(rows)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        run.update(batch(y[part].tolist(), part), ModelOutputs(pooled=torch.from_numpy(x[part])), None)
    return run


def find(rows, metric, **dims):
    (row,) = [row for row in rows if row.metric == metric and dict(row.dims) == dims]
    return row


@pytest.mark.parametrize("name", FAST)
def test_every_solver_learns_real_digits_and_says_what_it_chose(card, batch, digits, name):
    x, y, queries, truth = digits
    probe = LinearProbe(**FAST[name])
    fitted = fit(probe, x, y, card())
    assert isinstance(probe, Probe)
    assert isinstance(fitted, FittedProbe)
    assert isinstance(fitted.start(), ProbeRun)
    assert (probe.features(card()), probe.wants(card())) == (POOLED, OutputSpec(pooled=True))
    rows = ask(fitted, batch, queries, truth).result()
    accuracy = find(rows, "accuracy")
    assert 0.9 < accuracy.value < 0.99
    assert (accuracy.interval, accuracy.n) == ("wilson95", len(truth))
    chosen = {
        "logistic": {"c", "c_not_converged", "solver_iterations"},
        "sgd": set(),
        "best_val": {"learning_rate", "epoch"},
    }
    said = {row.metric for row in rows} - {"accuracy", "accuracy_per_seed"}
    assert said == chosen.get(name, {"ridge_lambda"})


@pytest.mark.parametrize("name", FAST)
def test_shuffled_labels_stay_near_chance(card, batch, digits, name):
    x, y, queries, truth = digits
    values = []
    for seed in range(4):
        shuffled = np.random.default_rng(seed).permutation(y)
        rows = ask(fit(LinearProbe(**FAST[name]), x, shuffled, card()), batch, queries, truth).result()
        values.append(find(rows, "accuracy").value)
    assert abs(np.mean(values) - 0.1) < 0.05


def test_several_seeds_give_mean_spread_and_their_own_choices(card, batch, digits):
    x, y, queries, truth = digits
    probe = LinearProbe(c=(0.001, 0.01, 0.1), per_class=6, seeds=3)
    rows = ask(fit(probe, x, y, card(), seed=4), batch, queries, truth).result()
    own = [find(rows, "accuracy_per_seed", seed=s).value for s in (4, 5, 6)]
    assert len(set(own)) > 1
    assert find(rows, "accuracy").value == pytest.approx(np.mean(own), abs=1e-12)
    assert find(rows, "accuracy_seed_std").value == pytest.approx(np.std(own, ddof=1), abs=1e-12)
    for s in (4, 5, 6):
        alone = LinearProbe(c=(0.001, 0.01, 0.1), per_class=6)
        single = ask(fit(alone, x, y, card(), seed=s), batch, queries, truth).result()
        assert find(single, "accuracy").value == find(rows, "accuracy_per_seed", seed=s).value
        assert find(single, "c", seed=s) == find(rows, "c", seed=s)


def test_images_of_a_class_are_those_that_fewshot_draws(digits):
    _, y, _, _ = digits
    positions = LinearProbe(per_class=7, seeds=2).select_support(y, 3)
    np.testing.assert_array_equal(positions, draw_shots(y, shots=(7,), seeds=(3, 4)).positions)
    np.testing.assert_array_equal(LinearProbe().select_support(y, 3), np.arange(len(y)))


def test_each_seed_is_fitted_on_its_own_images_alone(card, digits):
    x, y, queries, _ = digits
    probe = LinearProbe(solver="ridge", ridge_lambda=1.0, per_class=3, seeds=2)
    fitted = fit(probe, x, y, card())
    outputs = ModelOutputs(pooled=torch.from_numpy(queries))
    for place, seed in enumerate((0, 1)):
        rows = np.sort(draw_shots(y, shots=(3,), seeds=(seed,)).positions)
        alone = LinearProbe(solver="ridge", ridge_lambda=1.0).fit(table(x, y, rows), context(card()))
        torch.testing.assert_close(
            fitted.all_scores(outputs)[:, place], alone.all_scores(outputs)[:, 0], rtol=0, atol=1e-8
        )


@pytest.mark.parametrize("name", FAST)
def test_nothing_is_chosen_by_the_images_asked_about(card, batch, digits, name):
    x, y, queries, truth = digits
    fitted = fit(LinearProbe(**FAST[name]), x, y, card())
    honest = ask(fitted, batch, queries, truth)
    lied = ask(fitted, batch, queries, np.roll(truth, 1))
    np.testing.assert_array_equal(honest.outcomes().columns["prediction"], lied.outcomes().columns["prediction"])
    assert fitted.start()._extra == lied._extra == honest._extra


def test_best_on_test_is_marked_and_stands_before_every_epoch(card, batch, digits):
    x, y, queries, truth = digits
    run = ask(fit(LinearProbe(**BEST_TEST, seeds=2), x, y, card()), batch, queries, truth)
    rows = run.result()
    accuracies = run.outcomes().columns["correct"].mean(axis=1).reshape(2, 4)
    assert len(np.unique(accuracies)) > 4
    marked = find(rows, "accuracy", selected_on="test")
    assert rows[0] == marked
    assert marked.value == pytest.approx(accuracies.max(axis=1).mean(), abs=1e-12)
    assert (marked.low, marked.high, marked.interval) == (None, None, None)
    for seed in (0, 1):
        best = find(rows, "accuracy_per_seed", selected_on="test", seed=seed)
        assert best.value == accuracies[seed].max()
        assert best.low is None
        assert find(rows, "epoch", selected_on="test", seed=seed).value == 1 + accuracies[seed].argmax()
    for epoch in range(1, 5):
        plain = find(rows, "accuracy", epoch=epoch)
        assert plain.value == pytest.approx(accuracies[:, epoch - 1].mean(), abs=1e-12)
        assert plain.low < plain.value < plain.high
    # No accuracy without dims: every row says of which epoch it is, or that it was selected on test.
    assert all(row.dims for row in rows)


def test_best_on_test_follows_the_images_asked_about_and_the_first_of_equals(card, batch, digits):
    x, y, queries, truth = digits
    fitted = fit(LinearProbe(**BEST_TEST), x, y, card())
    right = ask(fitted, batch, queries, truth).outcomes().columns["correct"]
    for epoch in range(4):
        rows = np.flatnonzero(right[epoch])[:60]
        result = ask(fitted, batch, queries, truth, rows=rows).result()
        first = int(right[:, rows].mean(axis=1).argmax())
        assert find(result, "accuracy", selected_on="test").value == 1.0
        assert find(result, "epoch", selected_on="test", seed=0).value == 1 + first


@pytest.mark.parametrize("given", [FAST["logistic"], BEST_TEST])
def test_batching_merging_and_resuming_change_nothing(card, batch, digits, given):
    x, y, queries, truth = digits
    queries, truth = queries[:150], truth[:150]
    fitted = fit(LinearProbe(**given), x, y, card())
    whole = ask(fitted, batch, queries, truth, size=150)
    order = np.random.default_rng(2).permutation(150)
    left = ask(fitted, batch, queries, truth, size=7, rows=order[:60])
    right = ask(fitted, batch, queries, truth, size=1, rows=order[60:])
    resumed = fitted.start()
    resumed.load_state_dict(load(save(left.state_dict())))
    resumed.merge(right)
    assert resumed.result() == whole.result()


@pytest.mark.parametrize("given", [*FAST.values(), BEST_TEST])
def test_scores_are_those_of_the_last_classifier_of_the_first_seed_and_differentiable(card, digits, given):
    x, y, queries, _ = digits
    fitted = fit(LinearProbe(**given, seeds=2), x, y, card())
    pooled = torch.from_numpy(queries[:6]).requires_grad_()
    outputs = ModelOutputs(pooled=pooled)
    scores = fitted.scores(outputs)
    place = fitted.variants.index({"epoch": 4, "seed": 0} if given is BEST_TEST else {"seed": 0})
    torch.testing.assert_close(scores, fitted.all_scores(outputs)[:, place].float())
    (gradient,) = torch.autograd.grad(scores[:, 3].sum(), pooled)
    assert gradient.abs().max() > 0


def test_classes_without_support_images_are_never_predicted(card, batch, digits):
    x, y, queries, truth = digits
    odd = y % 2 == 1
    for given in FAST.values():
        fitted = fit(LinearProbe(**given), x[odd], y[odd], card())
        run = ask(fitted, batch, queries[truth % 2 == 1], truth[truth % 2 == 1])
        assert set(np.unique(run.outcomes().columns["prediction"])) == {1, 3, 5, 7, 9}
        assert find(run.result(), "accuracy").value > 0.9


def test_names_of_classes_do_not_matter(card, batch, digits):
    x, y, queries, truth = digits
    names = np.random.default_rng(1).permutation(10)
    for given in FAST.values():
        plain, renamed = (
            ask(fit(LinearProbe(**given), x[:300], a[:300], card()), batch, queries, b).outcomes()
            for a, b in ((y, truth), (names[y], names[truth]))
        )
        same = names[plain.columns["prediction"]] == renamed.columns["prediction"]
        # Held-out parts, initial weights and batches are the same; sums over the classes may round otherwise.
        assert same.mean() > 0.998


def test_refusals_that_say_what_to_do(card, digits):
    x, y, _, _ = digits
    with pytest.raises(CapabilityError, match="no pooled"):
        LinearProbe().wants(card(pooled=False))
    with pytest.raises(ParameterError, match="negative"):
        LinearProbe().select_support(y, -1)
    with pytest.raises(DataError, match=r"linear: per_class=500 needs that many .* class 2 has \d+") as caught:
        LinearProbe(per_class=500).select_support(y, 0)
    assert caught.value.hint.startswith("linear:per_class=")
    with pytest.raises(DataError, match="all of class digit 3"):
        fit(LinearProbe(), x[y == 3], y[y == 3], card())
    probe = LinearProbe(per_class=5)
    positions = probe.select_support(y, 0)
    with pytest.raises(HarnessError, match="not those selected with seed 1"):
        probe.fit(table(x, y, positions), context(card(), seed=1))
    with pytest.raises(HarnessError, match="not those selected"):
        probe.fit(table(x, y, positions[1:]), context(card()))
    with pytest.raises(HarnessError, match="its own spec"):
        LinearProbe().fit(None, context(card()))
    spoilt = x.copy()
    spoilt[7, 3] = np.nan
    with pytest.raises(DataError, match="1 of 900 support images, such as train-7"):
        fit(LinearProbe(), spoilt, y, card())


@parametrize_contract("linear:solver=ridge")
def test_ridge_keeps_the_contract(check):
    check()


@parametrize_contract("linear:solver=sgd:epochs=3:selection=best_test:compat=true")
def test_selection_on_test_keeps_the_contract(check):
    check()
