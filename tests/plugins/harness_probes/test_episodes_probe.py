"""The episodes probe: accuracies against an evaluation one episode at a time, counters, controls and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from harness.catalog import build_catalog
from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.manager import build_manager
from harness.params import canonical, coerce
from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeRun
from harness.stats import t_interval
from harness.testing import check_named
from harness.types import FeatureSpec, FeatureTable, ModelOutputs, OutputSpec
from harness_probes import episode_run
from harness_probes.episodes import EpisodesParams, harness_register_probes
from harness_probes.episodes_probe import EpisodesProbe

POOLED = FeatureSpec(pooled=True)
SUPPORT = 1000


@pytest.fixture(scope="module")
def digits():
    """Pixels of 1000 support and 797 query digits, as if they were pooled features of a model."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int64)
    return x[:SUPPORT], y[:SUPPORT], x[SUPPORT:], y[SUPPORT:]


def context(model, truth, *, positions=None, seed=0, classes=10) -> ProbeContext:
    return ProbeContext(
        model=model,
        classes=[f"digit {c}" for c in range(classes)],
        label_space="digits",
        seed=seed,
        query_positions=np.arange(len(truth)) if positions is None else positions,
        query_labels=truth,
    )


def table(x, y, positions) -> FeatureTable:
    return FeatureTable(x=x[positions], y=y[positions], ids=[f"train-{p}" for p in positions], spec=POOLED)


def fit(probe, data, model, **options):
    x, y, _, truth = data
    positions = probe.select_support(y, options.get("seed", 0))
    return probe.fit(table(x, y, positions), context(model, truth, **options))


def ask(fitted, batch, x, y, *, size=100, rows=None, run=None, positions=None):
    run = run or fitted.start()
    positions = np.arange(len(y)) if positions is None else positions
    rows = np.arange(len(y)) if rows is None else np.asarray(rows)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        run.update(batch(y[part].tolist(), positions[part]), ModelOutputs(pooled=torch.from_numpy(x[part])), None)
    return run


def find(run, metric):
    (row,) = [row for row in run.result() if row.metric == metric]
    return row


def test_it_keeps_the_contracts(card, digits):
    probe = EpisodesProbe(episodes=5)
    fitted = fit(probe, digits, card())
    assert isinstance(probe, Probe)
    assert isinstance(fitted, FittedProbe)
    assert isinstance(fitted.start(), ProbeRun)
    assert (probe.features(card()), probe.wants(card())) == (POOLED, OutputSpec(pooled=True))
    assert fitted.scores(ModelOutputs(pooled=torch.zeros(2, 64))) is None


@pytest.mark.parametrize(
    "selector",
    [
        "episodes:queries=3,episodes=40",
        "episodes:sampler=meta_dataset,head=logistic,episodes=20",
    ],
)
def test_it_passes_the_contract_kit(selector):
    outcomes = check_named(build_catalog(build_manager()), "probe", selector)
    assert {o.check: o.message for o in outcomes if o.status == "failed"} == {}


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    params = coerce(entry.params, {"head": "centroid", "metric": "cosine", "ways": "3"}, "episodes")
    probe = EpisodesProbe(head="centroid", metric="cosine", ways=3)
    assert probe.info.params == canonical(params)
    assert (probe.info.name, probe.info.version, probe.info.learns) == (entry.name, entry.version, entry.learns)
    assert EpisodesProbe().info.params == canonical(EpisodesParams())


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("head", ["logistic", "ridge", "euclidean", "cosine"])
def test_accuracies_equal_an_evaluation_one_episode_at_a_time(card, batch, digits, head, shots):
    x, y, queries, truth = digits
    options = {"head": "centroid", "metric": head} if head in ("euclidean", "cosine") else {"head": head}
    probe = EpisodesProbe(shots=shots, episodes=30, queries=7, **options)
    positions = probe.select_support(y, 3)
    fitted = probe.fit(table(x, y, positions), context(card(), truth, seed=3))
    run = ask(fitted, batch, queries, truth)
    episodes, accuracies = fitted.episodes, []
    for e in range(30):
        mine = slice(episodes.first[e], episodes.first[e + 1])
        rows = positions[episodes.rows[episodes.offsets[mine.start] : episodes.offsets[mine.stop]]]
        asked = episodes.asked_row[episodes.asked_episode == e]
        classes = np.unique(y[rows])
        s, q = x[rows].astype(float), queries[asked].astype(float)
        if head != "euclidean":
            s, q = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (s, q))
        if head == "logistic":
            predicted = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(s, y[rows]).predict(q)
        elif head == "ridge":
            design = np.column_stack([s, np.ones(len(s))])
            gram = design.T @ design + np.diag([1.0] * 64 + [0.0])
            weight = np.linalg.solve(gram, design.T @ np.where(y[rows][:, None] == classes, 1.0, -1.0))
            predicted = classes[(np.column_stack([q, np.ones(len(q))]) @ weight).argmax(axis=1)]
        else:
            means = np.stack([s[y[rows] == c].mean(axis=0) for c in classes])
            if head == "cosine":
                means /= np.linalg.norm(means, axis=1, keepdims=True)
            predicted = classes[((q[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)]
        accuracies.append(accuracy_score(truth[asked], predicted))
    np.testing.assert_allclose(run.outcomes().episodes, [accuracies], atol=1e-12)
    row, interval = find(run, "accuracy"), t_interval(accuracies)
    assert row.value == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert (row.n, row.interval, row.dims) == (30, "t95", {"ways": 5, "shots": shots})
    spread = find(run, "accuracy_episode_std")
    assert spread.value == pytest.approx(np.std(accuracies, ddof=1), abs=1e-12)
    assert (spread.n, spread.higher_is_better) == (30, None)
    classes = find(run, "episode_classes")
    assert (classes.value, classes.unit) == (10, "classes")
    # One shot of five digits by their pixels is far above chance, and five shots are better.
    assert row.value > (0.55 if shots == 1 else 0.75)


def test_images_know_how_often_they_were_asked_and_hit(card, batch, digits):
    *_, queries, truth = digits
    run = ask(fit(EpisodesProbe(episodes=20, queries=4), digits, card()), batch, queries, truth)
    outcomes = run.outcomes()
    asked, hits = outcomes.columns["asked"], outcomes.columns["hits"]
    assert (asked.dtype, hits.dtype) == (np.int32, np.int32)
    np.testing.assert_array_equal(outcomes.positions, np.arange(len(truth)))
    assert asked.sum() == 20 * 5 * 4
    assert ((hits >= 0) & (hits <= asked)).all()
    assert (asked == 0).any()
    # Every episode asks 20 questions, so the mean over episodes is that over questions.
    assert hits.sum() / asked.sum() == pytest.approx(find(run, "accuracy").value, abs=1e-12)
    assert outcomes.variants == ({"ways": 5, "shots": 1},)


@pytest.mark.parametrize("options", [{}, {"head": "logistic", "shots": 3}, {"sampler": "meta_dataset"}])
def test_batching_merging_and_resuming_change_nothing(card, batch, digits, options, monkeypatch):
    *_, queries, truth = digits
    fitted = fit(EpisodesProbe(episodes=40, **options), digits, card())
    whole = ask(fitted, batch, queries, truth, size=len(truth))
    order = np.random.default_rng(2).permutation(len(truth))
    left = ask(fitted, batch, queries, truth, size=7, rows=order[:250])
    monkeypatch.setattr(episode_run, "_ELEMENTS", 1)
    monkeypatch.setattr(episode_run, "_GATHERED", 1)
    right = ask(fitted, batch, queries, truth, size=1, rows=order[500:])
    resumed = fitted.start()
    resumed.load_state_dict(load(save(left.state_dict())))
    ask(fitted, batch, queries, truth, size=53, rows=order[250:500], run=resumed)
    resumed.merge(right)
    assert resumed.result() == whole.result()
    np.testing.assert_array_equal(resumed.outcomes().episodes, whole.outcomes().episodes)
    for name, column in whole.outcomes().columns.items():
        np.testing.assert_array_equal(resumed.outcomes().columns[name], column)


def test_a_part_of_the_images_gives_the_episodes_that_it_asks(card, batch, digits):
    *_, queries, truth = digits
    fitted = fit(EpisodesProbe(episodes=30, queries=1, ways=2), digits, card())
    asked = fitted.episodes.asked_episode[fitted.episodes.asked_row < 40]
    run = ask(fitted, batch, queries, truth, rows=np.arange(40))
    values = run.outcomes().episodes[0]
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(values)), np.unique(asked))
    assert find(run, "accuracy").n == len(np.unique(asked)) < 30
    assert find(run, "accuracy").value == np.nanmean(values)


def test_episodes_are_the_same_for_every_model_and_any_features(card, digits):
    x, y, _, truth = digits
    positions = np.sort(np.random.default_rng(0).choice(5000, len(truth), replace=False))
    one = fit(EpisodesProbe(episodes=25), digits, card(), positions=positions).episodes
    probe = EpisodesProbe(episodes=25, head="centroid")
    chosen = probe.select_support(y, 0)
    other_card = dataclasses.replace(card(), name="other", pooled_dim=16)
    blurred = FeatureTable(x=x[chosen][:, ::4] + 1, y=y[chosen], ids=[str(p) for p in chosen], spec=POOLED)
    other = probe.fit(blurred, context(other_card, truth, positions=positions)).episodes
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    seeded = fit(EpisodesProbe(episodes=25), digits, card(), positions=positions, seed=1).episodes
    assert not np.array_equal(seeded.labels, one.labels)


def test_positions_need_not_start_at_zero(card, batch, digits):
    *_, queries, truth = digits
    positions = 7 + 3 * np.arange(len(truth))
    probe = EpisodesProbe(episodes=20)
    plain = ask(fit(probe, digits, card()), batch, queries, truth)
    moved = ask(fit(probe, digits, card(), positions=positions), batch, queries, truth, positions=positions)
    assert moved.result() == plain.result()
    np.testing.assert_array_equal(moved.outcomes().positions, positions)


def test_images_that_fit_was_not_told_of_are_logged_as_never_asked(card, batch, digits):
    *_, queries, truth = digits
    fitted = fit(EpisodesProbe(episodes=20), digits, card(), positions=2 * np.arange(len(truth)))
    run = ask(fitted, batch, queries, truth, positions=2 * np.arange(len(truth)) + 1)
    assert not run.outcomes().columns["asked"].any()
    assert len(run.outcomes().positions) == len(truth)
    assert np.isnan(run.outcomes().episodes).all()
    with pytest.raises(DataError, match="not one query image"):
        run.result()


def test_renaming_the_classes_changes_nothing(card, batch, digits):
    x, y, queries, truth = digits
    names = np.random.default_rng(1).permutation(10)
    probe = EpisodesProbe(episodes=20)
    plain = ask(fit(probe, digits, card()), batch, queries, truth)
    renamed = (x, names[y], queries, names[truth])
    assert ask(fit(probe, renamed, card()), batch, queries, names[truth]).result() == plain.result()


@pytest.mark.parametrize("options", [{}, {"head": "logistic"}, {"head": "centroid"}, {"sampler": "meta_dataset"}])
def test_noise_stays_at_chance(card, batch, options):
    generator = np.random.default_rng(0)
    x, q = (generator.normal(size=(n, 32)).astype(np.float32) for n in (600, 600))
    y, truth = (generator.permutation(np.arange(600) % 6) for _ in range(2))
    run = ask(fit(EpisodesProbe(**options), (x, y, q, truth), card(), classes=6), batch, q, truth)
    row = find(run, "accuracy")
    # Ways are 5 or 6 in equal parts under the Meta-Dataset sampler.
    chance = (1 / 5 + 1 / 6) / 2 if "sampler" in options else 1 / 5
    assert abs(row.value - chance) < 0.02
    assert row.low < row.value < row.high


def test_features_that_say_nothing_give_the_first_class_and_exactly_chance(card, batch):
    x = np.tile(np.random.default_rng(0).normal(size=64).astype(np.float32), (200, 1))
    y = np.arange(200) % 10
    for options in (
        {},
        {"head": "logistic", "shots": 3},
        {"head": "centroid"},
        {"head": "centroid", "metric": "cosine"},
    ):
        run = ask(fit(EpisodesProbe(episodes=15, **options), (x, y, x, y), card()), batch, x, y, size=7)
        np.testing.assert_array_equal(run.outcomes().episodes, np.full((1, 15), 0.2))


def test_one_episode_has_no_interval(card, batch, digits):
    *_, queries, truth = digits
    run = ask(fit(EpisodesProbe(episodes=1), digits, card()), batch, queries, truth)
    row = find(run, "accuracy")
    assert (row.low, row.high, row.interval, row.n) == (None, None, None, 1)
    assert "accuracy_episode_std" not in [row.metric for row in run.result()]


def test_meta_dataset_rows_say_so(card, batch, digits):
    *_, queries, truth = digits
    run = ask(fit(EpisodesProbe(sampler="meta_dataset", episodes=20), digits, card()), batch, queries, truth)
    assert find(run, "accuracy").dims == {"sampler": "meta_dataset"}
    assert find(run, "accuracy").value > 0.6


def test_a_fitted_probe_does_not_change_with_its_support(card, batch, digits):
    x, y, queries, truth = digits
    probe = EpisodesProbe(episodes=20)
    support = table(x, y, probe.select_support(y, 0))
    fitted = probe.fit(support, context(card(), truth))
    before = ask(fitted, batch, queries, truth).result()
    support.x[...] = 0
    assert ask(fitted, batch, queries, truth).result() == before


def test_rows_that_were_not_selected_are_refused(card, digits):
    x, y, _, truth = digits
    probe = EpisodesProbe(episodes=20)
    positions = probe.select_support(y, 0)
    for rows, seed in ((positions, 1), (positions[:-1], 0), (positions[::-1], 0)):
        with pytest.raises(HarnessError, match=f"not those selected with seed {seed}"):
            probe.fit(table(x, y, rows), context(card(), truth, seed=seed))
    with pytest.raises(HarnessError, match="its own spec"):
        probe.fit(None, context(card(), truth))


def test_images_to_be_asked_about_must_be_known(card, digits):
    x, y, _, truth = digits
    probe = EpisodesProbe(episodes=20)
    support = table(x, y, probe.select_support(y, 0))
    with pytest.raises(HarnessError, match="not told which images"):
        probe.fit(support, dataclasses.replace(context(card(), truth), query_labels=None))
    with pytest.raises(HarnessError, match="not told which images"):
        probe.fit(support, dataclasses.replace(context(card(), truth), query_positions=None))


def test_too_few_queries_are_refused_with_what_to_do(card, digits):
    x, y, _, truth = digits
    probe = EpisodesProbe(episodes=20)
    few = np.sort(np.concatenate([np.flatnonzero(truth == c)[:9] for c in range(10)]))
    support = table(x, y, probe.select_support(y, 0))
    with pytest.raises(DataError, match="at least 15 query images are needed, but 0 of the 10") as error:
        probe.fit(support, context(card(), truth[few], positions=few))
    assert "raise --limit" in error.value.hint
    assert "episodes:queries=9" in error.value.hint


def test_labels_outside_the_classes_and_features_that_are_not_finite_are_refused(card, batch, digits):
    x, y, queries, truth = digits
    probe = EpisodesProbe(episodes=20)
    positions = probe.select_support(y, 0)
    with pytest.raises(DataError, match="reach from 0 to 9, the dataset has 9"):
        probe.fit(table(x, y, positions), context(card(), truth, classes=9))
    spoilt = x.copy()
    spoilt[positions[3], 5] = np.inf
    with pytest.raises(DataError, match=f"support images, such as train-{positions[3]}"):
        probe.fit(table(spoilt, y, positions), context(card(), truth))
    fitted = probe.fit(table(x, y, positions), context(card(), truth))
    queries = queries.copy()
    queries[4, 0] = np.nan
    with pytest.raises(DataError, match="image-4"):
        ask(fitted, batch, queries, truth)


def test_states_of_other_probes_are_refused(card, digits):
    fitted = fit(EpisodesProbe(episodes=20), digits, card())
    other = fit(EpisodesProbe(episodes=21), digits, card())
    with pytest.raises(HarnessError, match=r"a state of 20 episodes needs episode\.asked"):
        fitted.start().load_state_dict(other.start().state_dict())
    state = fitted.start().state_dict()
    with pytest.raises(HarnessError, match=r"needs episode\.hits"):
        fitted.start().load_state_dict({name: part for name, part in state.items() if name != "episode.hits"})
    with pytest.raises(TypeError, match="cannot merge"):
        fitted.start().merge(object())


def test_models_without_the_features_are_refused(card):
    with pytest.raises(CapabilityError):
        EpisodesProbe().wants(card(pooled=False))


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"sampler": "meta_dataset", "ways": 6}, "ways"),
        ({"sampler": "meta_dataset", "shots": 2}, "shots"),
        ({"sampler": "meta_dataset", "queries": 10}, "queries"),
        ({"head": "logistic", "ridge_lambda": 2.0}, "ridge_lambda"),
        ({"head": "centroid", "ridge_lambda": 2.0}, "ridge_lambda"),
        ({"head": "ridge", "metric": "cosine"}, "metric"),
        ({"head": "logistic", "metric": "cosine"}, "metric"),
    ],
)
def test_parameters_that_would_change_nothing_are_refused(params, name):
    with pytest.raises(ParameterError, match=f"{name}=.* would change nothing") as error:
        EpisodesProbe(**params)
    assert error.value.hint == f"leave {name} out"


@pytest.mark.parametrize("params", [{"ways": 1}, {"shots": 0}, {"queries": 0}, {"episodes": 0}, {"head": "svm"}])
def test_parameters_out_of_range_are_refused(params):
    with pytest.raises(ParameterError):
        EpisodesProbe(**params)
