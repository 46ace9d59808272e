"""The few-shot probe on real digits: accuracy, controls, equivariance, merging and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.params import canonical, coerce, identity
from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeRun
from harness.types import FeatureSpec, FeatureTable, ModelOutputs, OutputSpec
from harness_probes.fewshot import FewShotParams, harness_register_probes
from harness_probes.fewshot_probe import FewShotProbe
from harness_probes.ridge import fit_ridge

POOLED = FeatureSpec(pooled=True)
SUPPORT = 1000


@pytest.fixture(scope="module")
def digits():
    """Pixels of 1000 support and 797 query digits, as if they were pooled features of a model."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int64)
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


def test_it_keeps_the_contracts(card, digits):
    probe = FewShotProbe()
    fitted = fit(probe, *digits[:2], card())
    assert isinstance(probe, Probe)
    assert isinstance(fitted, FittedProbe)
    assert isinstance(fitted.start(), ProbeRun)
    assert (probe.features(card()), probe.wants(card())) == (POOLED, OutputSpec(pooled=True))


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    params = coerce(entry.params, {"shots": "1+5", "seeds": 2}, "fewshot")
    probe = FewShotProbe(shots=params.shots, seeds=params.seeds, ridge_lambda=params.ridge_lambda)
    assert probe.info.params == canonical(params)
    assert canonical(params) == {
        "features": "pooled",
        "shots": [1, 5],
        "seeds": 2,
        "ridge_lambda": 1024.0,
        "validation_images": 10,
    }
    # What a record's key holds: no more than before there was a choice of the penalty.
    assert identity(params) == {"shots": [1, 5], "seeds": 2}
    assert identity(coerce(entry.params, {"ridge_lambda": "1024"}, "fewshot")) == {}
    assert identity(coerce(entry.params, {"ridge_lambda": "auto"}, "fewshot")) == {"ridge_lambda": "auto"}
    assert (probe.info.name, probe.info.version, probe.info.learns) == (entry.name, entry.version, entry.learns)
    assert FewShotProbe().info.params == canonical(FewShotParams())


def test_accuracies_equal_a_slow_evaluation_with_scikit_learn(card, batch, digits):
    x, y, queries, truth = digits
    rows = ask(fit(FewShotProbe(shots=(1, 10), seeds=2), x, y, card(), seed=3), batch, queries, truth).result()
    for shots in (1, 10):
        accuracies = []
        for seed in (3, 4):
            generator = np.random.default_rng(seed)
            chosen = np.concatenate([generator.permutation(np.flatnonzero(y == c))[:shots] for c in range(10)])
            mean, std = x[chosen].astype(float).mean(0), x[chosen].astype(float).std(0) + 1e-5
            z, q = ((part - mean) / std for part in (x[chosen], queries))
            z, q = (np.hstack([part, np.full((len(part), 1), 100.0)]) for part in (z, q))
            model = Ridge(alpha=1024.0, fit_intercept=False, solver="svd").fit(z, 2 * np.eye(10)[y[chosen]] - 1)
            accuracies.append((model.predict(q).argmax(1) == truth).mean())
            assert find(rows, "accuracy_per_seed", shots=shots, seed=seed).value == accuracies[-1]
        assert find(rows, "accuracy", shots=shots).value == pytest.approx(np.mean(accuracies), abs=1e-12)
        spread = find(rows, "accuracy_seed_std", shots=shots)
        assert spread.value == pytest.approx(np.std(accuracies, ddof=1), abs=1e-12)
        assert spread.n == 2


def test_real_digits_are_learnt_from_few_shots(card, batch, digits):
    x, y, queries, truth = digits
    rows = ask(fit(FewShotProbe(), x, y, card()), batch, queries, truth).result()
    by_shots = {k: find(rows, "accuracy", shots=k) for k in (1, 5, 10, 25)}
    values = [row.value for row in by_shots.values()]
    assert values == sorted(values)
    assert values[0] > 0.4
    # The protocol notes give 90.9 % for pixels of digits at 25 shots.
    assert 0.88 < values[-1] < 0.94
    for row in by_shots.values():
        assert row.low < row.value < row.high
        assert (row.interval, row.n) == ("bootstrap95", len(truth))


def test_shuffled_labels_stay_at_chance(card, batch, digits):
    x, y, queries, truth = digits
    values = []
    for seed in range(20):
        shuffled = np.random.default_rng(seed).permutation(y)
        rows = ask(fit(FewShotProbe(shots=(10,), seeds=1), x, shuffled, card()), batch, queries, truth).result()
        values.append(find(rows, "accuracy", shots=10).value)
    assert abs(np.mean(values) - 0.1) < 0.03


def test_features_that_say_nothing_give_the_first_class_and_exactly_chance(card, batch):
    x = np.tile(np.random.default_rng(0).normal(size=64).astype(np.float32), (100, 1))
    y = np.arange(100) % 10
    run = ask(fit(FewShotProbe(shots=(1, 3, 5), seeds=3), x, y, card()), batch, x, y, size=7)
    assert not run.outcomes().columns["prediction"].any()
    assert {row.value for row in run.result() if row.metric != "accuracy_seed_std"} == {0.1}


def test_renaming_the_classes_renames_the_predictions(card, batch, digits):
    x, y, queries, truth = digits
    names = np.random.default_rng(1).permutation(10)
    probe = FewShotProbe(shots=(1, 5), seeds=2)
    positions = probe.select_support(y, 0)
    plain = ask(probe.fit(table(x, y, positions), context(card())), batch, queries, truth)
    renamed = ask(probe.fit(table(x, names[y], positions), context(card())), batch, queries, names[truth])
    assert renamed.result() == plain.result()
    np.testing.assert_array_equal(
        renamed.outcomes().columns["prediction"], names[plain.outcomes().columns["prediction"]]
    )


def test_batching_merging_and_resuming_change_nothing(card, batch, digits):
    x, y, queries, truth = digits
    queries, truth = queries[:150], truth[:150]
    fitted = fit(FewShotProbe(shots=(1, 5), seeds=2), x, y, card())
    whole = ask(fitted, batch, queries, truth, size=150)
    order = np.random.default_rng(2).permutation(150)
    left = ask(fitted, batch, queries, truth, size=7, rows=order[:60])
    right = ask(fitted, batch, queries, truth, size=1, rows=order[90:])
    resumed = fitted.start()
    resumed.load_state_dict(load(save(left.state_dict())))
    ask(fitted, batch, queries, truth, size=13, rows=order[60:90], run=resumed)
    resumed.merge(right)
    assert resumed.result() == whole.result()
    assert resumed.outcomes().variants == tuple({"shots": k, "seed": s} for k in (1, 5) for s in (0, 1))
    for name, column in whole.outcomes().columns.items():
        np.testing.assert_array_equal(resumed.outcomes().columns[name], column)


def test_fitting_uses_only_the_support_it_selected(card, digits):
    x, y, queries, _ = digits
    probe = FewShotProbe(shots=(1, 5), seeds=2)
    positions = probe.select_support(y, 0)
    spoilt = np.full_like(x, np.nan)
    spoilt[positions] = x[positions]
    outputs = ModelOutputs(pooled=torch.from_numpy(queries))
    scores = [probe.fit(table(part, y, positions), context(card())).all_scores(outputs) for part in (x, spoilt)]
    assert torch.equal(*scores)


def test_a_fitted_probe_does_not_change_with_its_support(card, digits):
    x, y, queries, _ = digits
    probe = FewShotProbe(shots=(5,), seeds=1)
    support = table(x, y, probe.select_support(y, 0))
    fitted, outputs = probe.fit(support, context(card())), ModelOutputs(pooled=torch.from_numpy(queries))
    before = fitted.all_scores(outputs)
    support.x[...] = 0
    assert torch.equal(fitted.all_scores(outputs), before)


def test_one_probe_serves_two_datasets_and_two_seeds(card, digits):
    x, y, queries, _ = digits
    outputs = ModelOutputs(pooled=torch.from_numpy(queries))
    settings = [(np.arange(600), 0), (np.arange(400, 1000), 0), (np.arange(600), 1)]
    shared = FewShotProbe(shots=(1, 5), seeds=2)
    selected = [shared.select_support(y[part], seed) for part, seed in settings]
    for (part, seed), positions in zip(settings, selected, strict=True):
        alone = FewShotProbe(shots=(1, 5), seeds=2)
        fitted = shared.fit(table(x[part], y[part], positions), context(card(), seed=seed))
        wanted = fit(alone, x[part], y[part], card(), seed=seed)
        assert torch.equal(fitted.all_scores(outputs), wanted.all_scores(outputs))
        assert fitted.variants == wanted.variants


def test_scores_are_those_of_most_shots_and_first_seed_and_differentiable(card, digits):
    x, y, queries, _ = digits
    fitted = fit(FewShotProbe(shots=(1, 5), seeds=3), x, y, card(), seed=4)
    pooled = torch.from_numpy(queries[:6]).requires_grad_()
    scores = fitted.scores(ModelOutputs(pooled=pooled))
    every = fitted.all_scores(ModelOutputs(pooled=pooled))
    assert (scores.shape, scores.dtype, every.shape) == ((6, 10), torch.float32, (6, 6, 10))
    chosen = fitted.variants.index({"shots": 5, "seed": 4})
    torch.testing.assert_close(scores, every[:, chosen].float())
    scores[:, 3].sum().backward()
    gradient = pooled.grad.clone()
    step = torch.zeros_like(pooled)
    step[:, 20] = 0.5
    moved = fitted.scores(ModelOutputs(pooled=(pooled + step).detach()))
    torch.testing.assert_close((moved - scores)[:, 3], 0.5 * gradient[:, 20], rtol=1e-3, atol=1e-5)


def test_copies_on_a_device_made_while_measuring_still_serve_gradients(card, digits):
    fitted = fit(FewShotProbe(shots=(1,), seeds=1), *digits[:2], card())
    meta = ModelOutputs(pooled=torch.zeros(2, 64, device="meta"))
    with torch.inference_mode():
        fitted.all_scores(meta)
    pooled = torch.zeros(2, 64, device="meta", requires_grad=True)
    fitted.scores(ModelOutputs(pooled=pooled)).sum().backward()
    assert pooled.grad is not None


def test_rows_that_were_not_selected_are_refused(card, digits):
    x, y, _, _ = digits
    probe = FewShotProbe(shots=(1, 5), seeds=2)
    positions = probe.select_support(y, 0)
    with pytest.raises(HarnessError, match="not those selected with seed 1"):
        probe.fit(table(x, y, positions), context(card(), seed=1))
    with pytest.raises(HarnessError, match="not those selected"):
        probe.fit(table(x, y, positions[:-1]), context(card()))
    with pytest.raises(HarnessError, match="not those selected"):
        probe.fit(table(x, y, positions[::-1]), context(card()))
    with pytest.raises(HarnessError, match="not those selected"):
        FewShotProbe(shots=(1, 5), seeds=2).fit(table(x, y, positions), context(card()))
    with pytest.raises(HarnessError, match="its own spec"):
        probe.fit(None, context(card()))


def test_labels_that_are_not_the_classes_are_refused(card, digits):
    x, y, _, _ = digits
    probe = FewShotProbe(shots=(1,), seeds=1)
    support = table(x, y, probe.select_support(y, 0))
    with pytest.raises(DataError, match="reach from 0 to 9, the dataset has 9"):
        probe.fit(support, context(card(), classes=9))


def test_classes_without_any_support_are_never_predicted_and_never_asked_about(card, batch, digits):
    x, y, queries, truth = digits
    probe = FewShotProbe(shots=(1, 5), seeds=1)
    odd, even = y % 2 == 1, truth % 2 == 0
    fitted = fit(probe, x[odd], y[odd], card())
    run = ask(fitted, batch, queries[~even], truth[~even])
    assert set(np.unique(run.outcomes().columns["prediction"])) == {1, 3, 5, 7, 9}
    # The same classes renamed to 0..4 give the same accuracy: the classes left out play no part.
    renamed = ask(fit(probe, x[odd], y[odd] // 2, card()), batch, queries[~even], truth[~even] // 2)
    assert find(run.result(), "accuracy", shots=5).value == find(renamed.result(), "accuracy", shots=5).value
    scores = fitted.scores(ModelOutputs(pooled=torch.from_numpy(queries[:4])))
    assert scores.shape == (4, 10)
    assert (scores.argsort(dim=1)[:, :5] % 2 == 0).all()
    with pytest.raises(DataError, match=r"is of class digit \d .*no support images"):
        ask(fitted, batch, queries[even], truth[even])


def test_features_that_are_not_finite_are_refused(card, batch, digits):
    x, y, queries, truth = digits
    probe = FewShotProbe(shots=(1,), seeds=1)
    positions = probe.select_support(y, 0)
    spoilt = x.copy()
    spoilt[positions[3], 5] = np.inf
    with pytest.raises(DataError, match=f"1 of 10 support images, such as train-{positions[3]}"):
        probe.fit(table(spoilt, y, positions), context(card()))
    queries = queries.copy()
    queries[2, 0] = np.nan
    with pytest.raises(DataError, match="image-2"):
        ask(fit(probe, x, y, card()), batch, queries, truth)


@pytest.mark.parametrize("shots", [(), (5, 1), (1, 1, 5)])
def test_shots_must_rise(shots):
    with pytest.raises(ParameterError, match="rise"):
        FewShotProbe(shots=shots)


def test_refusals_before_any_image_is_decoded(card, digits):
    with pytest.raises(CapabilityError, match="no pooled"):
        FewShotProbe().wants(card(pooled=False))
    with pytest.raises(ParameterError, match="negative"):
        FewShotProbe().select_support(digits[1], -1)
    with pytest.raises(DataError, match="class 9 has 1"):
        FewShotProbe(shots=(2,)).select_support(np.array([0, 0, 9]), 0)


def chosen_by_hand(x, y, shots, seeds, penalties=tuple(2.0**e for e in range(-10, 21))):
    """The penalty by fitting every classifier anew, and the positions of the images it was chosen on."""
    draws = {}
    # All classes of a seed come from one generator, hence in order.
    for seed in seeds:
        generator = np.random.default_rng(seed)
        draws[seed] = [generator.permutation(np.flatnonzero(y == c)) for c in range(10)]
    probe = FewShotProbe(shots=shots, seeds=len(seeds), ridge_lambda="auto")
    taken = np.unique([row[: max(shots)] for rows in draws.values() for row in rows])
    validation = np.setdiff1d(probe.select_support(y, seeds[0]), taken)
    chosen = {}
    for k in shots:
        hits = []
        for ridge_lambda in penalties:
            total = 0
            for seed in seeds:
                mine = np.concatenate([row[:k] for row in draws[seed]])
                linear = fit_ridge(x[mine], y[mine], num_classes=10, ridge_lambda=ridge_lambda)
                scores = x[validation].astype(float) @ linear.weight + linear.bias
                total += int((scores.argmax(1) == y[validation]).sum())
            hits.append(total)
        chosen[k] = max(p for p, h in zip(penalties, hits, strict=True) if h == max(hits))
    return chosen, validation


def test_auto_chooses_the_penalty_of_each_number_of_shots_on_further_support_images(card, batch, digits):
    x, y, queries, truth = digits
    chosen, validation = chosen_by_hand(x, y, (2, 8), (5, 6))
    np.testing.assert_array_equal(np.bincount(y[validation]), np.full(10, 10))
    probe = FewShotProbe(shots=(2, 8), seeds=2, ridge_lambda="auto")
    rows = ask(fit(probe, x, y, card(), seed=5), batch, queries, truth).result()
    for k in (2, 8):
        said = find(rows, "ridge_lambda", shots=k)
        assert (said.value, said.n, said.unit, said.higher_is_better) == (chosen[k], 100, "", None)
        fixed = FewShotProbe(shots=(2, 8), seeds=2, ridge_lambda=chosen[k])
        given = ask(fit(fixed, x, y, card(), seed=5), batch, queries, truth).result()
        assert find(given, "accuracy", shots=k) == find(rows, "accuracy", shots=k)
    assert chosen[2] != 1024


def test_auto_never_sees_the_images_asked_about(card, batch, digits):
    x, y, queries, truth = digits
    fitted = fit(FewShotProbe(shots=(5,), ridge_lambda="auto"), x, y, card())
    honest = ask(fitted, batch, queries, truth)
    lied = ask(fitted, batch, queries, np.roll(truth, 1))
    np.testing.assert_array_equal(honest.outcomes().columns["prediction"], lied.outcomes().columns["prediction"])
    assert find(honest.result(), "ridge_lambda", shots=5) == find(lied.result(), "ridge_lambda", shots=5)


def test_the_number_of_validation_images_is_a_parameter_of_auto_alone(digits):
    _, y, _, _ = digits
    few, many = (
        FewShotProbe(shots=(1,), seeds=1, ridge_lambda="auto", validation_images=v).select_support(y, 0)
        for v in (3, 20)
    )
    assert (len(few), len(many)) == (40, 210)
    with pytest.raises(ParameterError, match="validation_images=3 says nothing with ridge_lambda=1024"):
        FewShotProbe(validation_images=3)
    with pytest.raises(DataError, match="all shots"):
        FewShotProbe(shots=(60,), seeds=4, ridge_lambda="auto").select_support(np.repeat(np.arange(3), 61), 0)


def test_features_said_four_times_change_the_published_probe_but_hardly_the_chosen_penalty(card, batch, digits):
    x, y, queries, truth = digits

    def accuracy(copies, **given):
        probe = FewShotProbe(shots=(25,), **given)
        fitted = fit(probe, np.tile(x, copies), y, card())
        rows = ask(fitted, batch, np.tile(queries, copies), truth).result()
        return find(rows, "accuracy", shots=25).value, rows

    published, repeated = accuracy(1)[0], accuracy(4)[0]
    assert 0.005 < repeated - published < 0.03
    (auto, rows), (auto_repeated, rows_repeated) = (accuracy(copies, ridge_lambda="auto") for copies in (1, 4))
    assert abs(auto_repeated - auto) < 0.002
    assert find(rows_repeated, "ridge_lambda", shots=25).value == 4 * find(rows, "ridge_lambda", shots=25).value
