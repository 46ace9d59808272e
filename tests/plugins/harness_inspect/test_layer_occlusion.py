"""Layer by occlusion: classifiers against least squares, correlations against SciPy, the draw, refusals, pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from harness.controls import FittedOnDuplicates, duplicated
from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.exhibits import Finding
from harness.features import extract
from harness.params import canonical, coerce
from harness.protocols import ProbeContext
from harness.retention import Retention
from harness.testing import SampleOptions, Subject, run_checks
from harness.testing.sample import sample_batch, take_images, take_outputs, tiny_model, without
from harness.types import BlockTokens, Capability, FeatureTable, Measurement, ModelOutputs, ResultRecord
from harness_inspect.layer_occlusion import LayerOcclusionParams, harness_register_probes
from harness_inspect.layer_occlusion_block import STD_FLOOR, fit_block
from harness_inspect.layer_occlusion_exhibit import PANELS, exhibit
from harness_inspect.layer_occlusion_probe import LayerOcclusionProbe
from harness_inspect.layer_occlusion_series import CONDITION, LEVEL, LOSS, series_of
from harness_inspect.pearson import less

CLASSES = 5
SHOTS, QUERIES = 8, 6
SUPPORT_START = 500


class Stages:
    """A network of three stages 4, 6 and 9 wide with ever smaller maps, as a CNN is: random projections of pixels."""

    WIDTHS, GRIDS = (4, 6, 9), ((8, 8), (4, 4), (2, 2))

    def __init__(self):
        info = tiny_model(classes=CLASSES).info
        card = without(info, frozenset(Capability) - {Capability.TOKENS})
        self.info = replace(card, num_blocks=3, embed_dim=9, prefix=(), attention_blocks=None)
        generator = torch.Generator().manual_seed(1)
        self.projections = [torch.randn(3, width, generator=generator) for width in self.WIDTHS]

    def outputs(self, images, want):
        def tokens(block):
            pooled = torch.nn.functional.adaptive_avg_pool2d(images, self.GRIDS[block])
            patches = (pooled.flatten(2).transpose(1, 2) @ self.projections[block]).tanh()
            return BlockTokens(prefix=patches[:, :0], patches=patches, grid=self.GRIDS[block])

        return ModelOutputs(
            tokens={block: tokens(block) for block in want.tokens},
            normed_tokens={block: tokens(block) for block in want.normed_tokens},
        )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model with its support images, and query images clean and dimmed."""

    model: object
    probe: LayerOcclusionProbe

    @property
    def spec(self):
        return self.probe.features(self.model.info)

    def ask(self, batch):
        return self.model.outputs(batch.images, self.probe.wants(self.model.info))

    def vectors(self, batch):
        return extract(self.ask(batch), self.spec, self.model.info).numpy()

    def support(self):
        batch = sample_batch([i % CLASSES for i in range(SHOTS * CLASSES)], side_px=32, start=SUPPORT_START)
        return FeatureTable(x=self.vectors(batch), y=batch.labels.numpy(), ids=batch.ids, spec=self.spec)

    def context(self, **changes):
        given = {"model": self.model.info, "network": self.model, "device": torch.device("cpu"), "seed": 0}
        names = [f"class {c}" for c in range(CLASSES)]
        return ProbeContext(classes=names, label_space=None, **{**given, **changes})

    def query(self):
        batch = sample_batch([i % CLASSES for i in range(QUERIES * CLASSES)], side_px=32)
        images = batch.images.clone()
        images[:, :, 8:24, 4:28] = 0
        # Several are of another class than they look, or all would be right.
        labels = torch.tensor([(c + (i % 4 == 0)) % CLASSES for i, c in enumerate(batch.labels.tolist())])
        batch = replace(batch, labels=labels)
        return batch, batch.with_images(images)

    def run(self, *, table=None, context=None, rows=None, start=None):
        clean, dimmed = self.query()
        if rows is not None:
            clean, dimmed = take_images(clean, rows), take_images(dimmed, rows)
        run = start or self.probe.fit(table or self.support(), context or self.context()).start()
        run.update(dimmed, self.ask(dimmed), self.ask(clean))
        return run


def trial(model=None, **params):
    return Trial(model=model or tiny_model(classes=CLASSES), probe=LayerOcclusionProbe(**params))


MODELS = {"transformer": (lambda: tiny_model(classes=CLASSES), (48, 48)), "stages": (Stages, Stages.WIDTHS)}


def parts(widths):
    ends = np.cumsum(widths).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def least_squares(x, y, queries, ridge_lambda):
    """Ridge as least squares with rows that pull every weight, but not the intercept, towards zero."""
    x, queries = x.astype(np.float64), queries.astype(np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0) + STD_FLOOR
    n, d = x.shape
    design = np.block([[(x - mean) / std, np.ones((n, 1))], [np.sqrt(ridge_lambda) * np.eye(d), np.zeros((d, 1))]])
    targets = np.full((n, CLASSES), -1.0)
    targets[np.arange(n), y] = 1
    solution = np.linalg.lstsq(design, np.vstack([targets, np.zeros((d, CLASSES))]), rcond=None)[0]
    return (queries - mean) / std @ solution[:-1] + solution[-1]


# --- what is measured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ridge", [1.0, 0.05])
def test_predictions_of_every_block_are_those_of_penalised_least_squares(name, ridge):
    make, widths = MODELS[name]
    case = trial(make(), ridge_per_dimension=ridge)
    clean, dimmed = case.query()
    support = case.support()
    outcomes = case.run().outcomes()
    assert [variant["block"] for variant in outcomes.variants] == list(range(len(widths)))
    labels = dimmed.labels.numpy()
    for row, (part, width) in enumerate(zip(parts(widths), widths, strict=True)):
        asked = (case.vectors(batch)[:, part] for batch in (dimmed, clean))
        perturbed, unperturbed = (
            least_squares(support.x[:, part], support.y, x, ridge * width).argmax(axis=1) for x in asked
        )
        np.testing.assert_array_equal(outcomes.columns["prediction"][row], perturbed)
        np.testing.assert_array_equal(outcomes.columns["correct"][row], perturbed == labels)
        np.testing.assert_array_equal(outcomes.columns["clean_correct"][row], unperturbed == labels)


@pytest.mark.parametrize("name", MODELS)
def test_correlations_and_floors_are_those_of_scipy_and_numpy_pair_by_pair(name):
    make, widths = MODELS[name]
    case = trial(make())
    clean, dimmed = (case.vectors(batch).astype(np.float64) for batch in case.query())
    support = case.support().x.astype(np.float64)
    columns = case.run().outcomes().columns
    for row, part in enumerate(parts(widths)):
        mean = support[:, part].mean(axis=0)
        for i, (u, v) in enumerate(zip(clean[:, part], dimmed[:, part], strict=True)):
            expected = {
                "correlation": pearsonr(u, v)[0],
                "correlation_centred": pearsonr(u - mean, v - mean)[0],
                "correlation_floor": np.corrcoef(v, support[:, part])[0, 1:].mean(),
                "correlation_centred_floor": np.corrcoef(v - mean, support[:, part] - mean)[0, 1:].mean(),
            }
            for metric, value in expected.items():
                assert columns[metric][row, i] == pytest.approx(value, abs=2e-6), (metric, row, i)


def test_measurements_are_reductions_of_the_outcomes():
    run = trial(Stages(), ridge_per_dimension=0.05).run()
    found, columns, n = run.result(), run.outcomes().columns, QUERIES * CLASSES
    record = ResultRecord(key="", cell={}, measurements=tuple(found))
    chance = 1 / CLASSES
    assert record.get("chance").value == chance
    assert (record.get("accuracy").value, record.get("accuracy").dims) == (columns["correct"][2].mean(), {})
    for block in range(3):
        accuracy, clean = columns["correct"][block].mean(), columns["clean_correct"][block].mean()
        assert record.get("accuracy_of_block", block=block).value == accuracy
        assert record.get("clean_accuracy_of_block", block=block).value == clean
        retention = record.get("retention_chance_corrected", block=block)
        assert retention.value == pytest.approx((accuracy - chance) / (clean - chance))
        assert retention.low < retention.value < retention.high
        for metric in ("correlation", "correlation_centred", "correlation_floor", "correlation_centred_floor"):
            row = record.get(metric, block=block)
            assert row.value == pytest.approx(columns[metric][block].mean(dtype=np.float64))
            assert row.low < row.value < row.high
            assert (row.n, row.interval) == (n, "bootstrap95")
    gain = columns["correlation_centred"][2].astype(float) - columns["correlation_centred"][0]
    assert record.get("depth_gain").value == pytest.approx(gain.mean())
    assert not [row for row in found if row.metric == "undefined"]


def test_unperturbed_images_lose_nothing():
    case = trial()
    clean, _ = case.query()
    run = case.probe.fit(case.support(), case.context()).start()
    run.update(clean, case.ask(clean), case.ask(clean))
    for row in run.result():
        if row.metric in ("correlation", "correlation_centred", "retention_chance_corrected"):
            assert row.value == pytest.approx(1, abs=1e-6)
        if row.metric in ("depth_gain", "correlation_centred_floor"):
            assert row.value == pytest.approx(0, abs=0.1)


def test_retention_is_left_out_where_the_clean_accuracy_is_no_better_than_chance():
    case = trial()
    clean, dimmed = case.query()
    batches = [replace(batch, labels=(batch.labels + 2) % CLASSES) for batch in (clean, dimmed)]
    run = case.probe.fit(case.support(), case.context()).start()
    run.update(batches[1], case.ask(dimmed), case.ask(clean))
    metrics = {row.metric for row in run.result()}
    assert "retention_chance_corrected" not in metrics
    assert "accuracy_of_block" in metrics


def test_images_whose_features_are_constant_are_left_out_and_counted():
    case = trial(Stages())
    clean, dimmed = case.query()
    outputs = case.ask(dimmed)
    given = outputs.normed_tokens[1]
    patches = given.patches.clone()
    patches[:4] = 0.7
    outputs = replace(outputs, normed_tokens={**outputs.normed_tokens, 1: replace(given, patches=patches)})
    run = case.probe.fit(case.support(), case.context()).start()
    run.update(dimmed, outputs, case.ask(clean))
    record = ResultRecord(key="", cell={}, measurements=tuple(run.result()))
    (row,) = [m for m in record.measurements if m.metric == "undefined"]
    assert (row.value, row.dims) == (4, {"block": 1})
    others = case.run().outcomes().columns["correlation"][:, 4:]
    for block, n in ((0, 30), (1, 26), (2, 30)):
        assert record.get("correlation", block=block).n == n
    assert record.get("correlation", block=1).value == pytest.approx(others[1].mean(), abs=1e-6)
    assert np.isnan(run.outcomes().columns["correlation_floor"][1, :4]).all()


def test_a_block_in_which_every_image_is_constant_has_no_correlation_but_an_accuracy():
    case = trial(Stages())
    case.model.projections[0] = torch.zeros(3, 4)
    metrics = {(row.metric, row.dims.get("block")) for row in case.run().result()}
    assert ("undefined", 0) in metrics
    assert ("accuracy_of_block", 0) in metrics
    assert ("correlation", 0) not in metrics
    assert ("correlation", 1) in metrics


def test_what_all_images_share_leaves_rounding_alone_and_that_is_no_vector():
    x = np.tile(np.random.default_rng(0).normal(size=9).astype(np.float32), (4, 1)).astype(np.float64)
    x[3] += np.float64(1e-9) * np.arange(9)
    np.testing.assert_array_equal(less(x, x.mean(axis=0)), 0)
    x[3, 0] += 0.1
    assert (less(x, x[:3].mean(axis=0))[3] != 0).any()


# --- what it must not depend on --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(6, 30),
    width=st.integers(2, 20),
    copies=st.integers(2, 5),
    ridge=st.floats(0.01, 10),
)
def test_saying_everything_several_times_changes_nothing(seed, n, width, copies, ridge):
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(n, width)), np.arange(n) % 3
    targets = np.where(y[:, None] == np.arange(3), 1.0, -1.0)
    queries, clean = generator.normal(size=(2, 12, width))
    ids, asked = [f"s{i}" for i in range(n)], [f"q{i}" for i in range(12)]
    plain = fit_block(x, targets, ids, part=slice(0, width), ridge_per_dimension=ridge)
    wide = fit_block(np.tile(x, copies), targets, ids, part=slice(0, copies * width), ridge_per_dimension=ridge)
    scores, again = (
        (torch.from_numpy(q) - block.mean) @ block.weight + block.bias
        for block, q in ((plain, queries), (wide, np.tile(queries, copies)))
    )
    np.testing.assert_allclose(again.numpy(), scores.numpy(), atol=1e-8)
    expected = plain.reference.correlations(queries, clean, asked)
    for name, values in wide.reference.correlations(np.tile(queries, copies), np.tile(clean, copies), asked).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-9)


def test_features_that_are_duplicated_as_a_control_give_the_same_numbers():
    case = trial(Stages())
    want = case.probe.wants(case.model.info)
    batch = sample_batch([i % CLASSES for i in range(SHOTS * CLASSES)], side_px=32, start=SUPPORT_START)
    x = extract(duplicated(case.ask(batch), want), case.spec, case.model.info).numpy()
    fitted = FittedOnDuplicates(case.probe.fit(replace(case.support(), x=x), case.context()), want)
    plain, wide = case.run(), case.run(start=fitted.start())
    for expected, found in zip(plain.result(), wide.result(), strict=True):
        assert found.value == pytest.approx(expected.value, abs=1e-6), expected.metric


def test_batches_order_and_merging_do_not_matter_to_a_bit():
    case = trial(Stages())
    whole = case.run()
    fitted = case.probe.fit(case.support(), case.context())
    order = np.random.default_rng(0).permutation(QUERIES * CLASSES).tolist()
    left, right = case.run(rows=order[:7], start=fitted.start()), case.run(rows=order[7:20], start=fitted.start())
    case.run(rows=order[20:], start=right)
    right.merge(left)
    resumed = fitted.start()
    resumed.load_state_dict(right.state_dict())
    expected = whole.outcomes().columns
    for name, column in resumed.outcomes().columns.items():
        np.testing.assert_allclose(column, expected[name], atol=1e-6)
    assert resumed.result() == right.result()


def test_the_contract_kit_passes():
    (entry,) = harness_register_probes()
    sample = SampleOptions(classes=5, support_per_class=6)
    subject = Subject(entry=entry, make=LayerOcclusionProbe, plugin="harness_inspect.layer_occlusion", sample=sample)
    quick = {"facts_agree", "signature_agrees", "descriptor_is_light", "needs_refused", "needs_complete"}
    only = quick | {"support_selection", "labels_do_not_leak", "merge_equals_one_stream", "exhibit_complete"}
    outcomes = run_checks(subject, only=only)
    assert {outcome.check for outcome in outcomes} == only
    assert {outcome.status for outcome in outcomes} == {"passed"}, [o.message for o in outcomes]


# --- the draw of support images --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(labels=st.lists(st.integers(0, 6), max_size=60), shots=st.integers(1, 9), seed=st.integers(0, 50))
def test_every_class_gives_its_shots_or_all_it_has(labels, shots, seed):
    labels = np.array(labels, np.int64)
    chosen = LayerOcclusionProbe(shots=shots).select_support(labels, seed)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
        assert (labels[chosen] == label).sum() == min(shots, size)
    more = LayerOcclusionProbe(shots=shots + 2).select_support(labels, seed)
    assert set(chosen.tolist()) <= set(more.tolist())
    renamed = LayerOcclusionProbe(shots=shots).select_support((labels * 3 + 1) % 7, seed)
    np.testing.assert_array_equal(chosen, renamed)


def test_seeds_draw_other_images_and_every_image_has_its_turn():
    labels = np.repeat([0, 1], 50)
    draws = [LayerOcclusionProbe(shots=10).select_support(labels, seed) for seed in range(200)]
    assert len({tuple(draw) for draw in draws}) == 200
    counts = np.bincount(np.concatenate(draws), minlength=100)
    # Binomial of 200 trials at 1/5: mean 40, deviation 5.7.
    assert 15 < counts.min() <= counts.max() < 65
    assert abs(counts[:50].mean() - 40) < 1e-9


# --- blocks, tokens, refusals ----------------------------------------------------------------------------------


def test_blocks_are_counted_from_either_end_and_read_in_order():
    case = trial(Stages(), blocks=(-1, 0))
    assert case.spec.blocks == (0, 2)
    chosen, whole = case.run().outcomes(), trial(Stages()).run().outcomes()
    assert [variant["block"] for variant in chosen.variants] == [0, 2]
    for name, column in chosen.columns.items():
        np.testing.assert_array_equal(column, whole.columns[name][[0, 2]])


def test_one_block_has_no_depth_gain():
    metrics = {row.metric for row in trial(blocks=(-1,)).run().result()}
    assert "depth_gain" not in metrics
    assert "accuracy" in metrics


def test_the_class_token_is_read_and_the_norm_can_be_left_out():
    case = trial(tokens="cls", norm=False)
    clean, _ = case.query()
    tokens = case.ask(clean).tokens
    expected = np.concatenate([tokens[block].prefix[:, 0].numpy() for block in (0, 1)], axis=1)
    np.testing.assert_array_equal(case.vectors(clean), expected)
    normed = trial(tokens="cls").ask(clean)
    assert sorted(normed.normed_tokens) == [0, 1]
    assert not normed.tokens
    assert case.run().result()


@pytest.mark.parametrize(
    ("params", "missing", "match"),
    [
        ({}, Capability.TOKENS, "gives no tokens"),
        ({"tokens": "cls"}, Capability.CLASS_TOKEN, "no token named 'cls'"),
        ({"blocks": (0, 2)}, None, "block 2 was asked of a model with 2 blocks"),
        ({"blocks": (0, -2)}, None, "name one block"),
    ],
)
def test_what_a_model_cannot_give_is_refused_before_any_pass(params, missing, match):
    card = tiny_model().info if missing is None else without(tiny_model().info, frozenset({missing}))
    probe = LayerOcclusionProbe(**params)
    for ask in (probe.wants, probe.features):
        with pytest.raises(CapabilityError, match=match):
            ask(card)


@pytest.mark.parametrize(
    "params",
    [{"blocks": ()}, {"shots": 0}, {"ridge_per_dimension": 0}, {"tokens": "dist"}, {"blocks": "some"}, {"norm": 2}],
)
def test_parameters_that_make_no_sense_are_refused(params):
    with pytest.raises(ParameterError):
        LayerOcclusionProbe(**params)


def test_without_the_network_equal_widths_are_taken_for_granted_and_others_refused():
    case = trial()
    assert case.run(context=case.context(network=None)).result() == case.run().result()
    stages = trial(Stages())
    with pytest.raises(CapabilityError, match="must ask the model how wide"):
        stages.probe.fit(stages.support(), stages.context(network=None))


def test_tables_that_are_not_its_own_are_refused():
    case = trial()
    table = case.support()
    fit = case.probe.fit
    with pytest.raises(HarnessError, match="support features of its own spec"):
        fit(replace(table, spec=replace(table.spec, norm=False)), case.context())
    with pytest.raises(HarnessError, match="support features of its own spec"):
        fit(None, case.context())
    with pytest.raises(HarnessError, match=r"95 numbers are not those of blocks \[48, 48\] wide"):
        fit(replace(table, x=table.x[:, 1:]), case.context())
    with pytest.raises(DataError, match="support split is empty"):
        fit(FeatureTable(x=table.x[:0], y=table.y[:0], ids=[], spec=table.spec), case.context())
    with pytest.raises(DataError, match="reach from 0 to 5, the dataset has 5 classes"):
        fit(replace(table, y=np.where(table.y == 4, 5, table.y)), case.context())
    spoilt = table.x.copy()
    spoilt[3, 50] = np.nan
    with pytest.raises(DataError, match="NaN or infinite features of block 1"):
        fit(replace(table, x=spoilt), case.context())


def test_query_images_that_cannot_be_asked_about_are_refused():
    case = trial()
    table = case.support()
    kept = np.flatnonzero(table.y != 1)
    few = FeatureTable(x=table.x[kept], y=table.y[kept], ids=[table.ids[i] for i in kept], spec=table.spec)
    with pytest.raises(DataError, match=r"class 1 \(label 1\), which has no support images"):
        case.run(table=few)
    clean, dimmed = case.query()
    start = case.probe.fit(table, case.context()).start
    with pytest.raises(HarnessError, match="no outputs of theirs"):
        start().update(dimmed, case.ask(dimmed), None)
    broken = case.ask(dimmed)
    broken.normed_tokens[0].patches[2] = torch.inf
    with pytest.raises(DataError, match="NaN or infinite"):
        start().update(dimmed, broken, case.ask(clean))


def test_classes_without_support_images_are_never_predicted_and_do_not_lower_chance():
    case = trial()
    table = case.support()
    kept = np.flatnonzero(table.y < 3)
    few = FeatureTable(x=table.x[kept], y=table.y[kept], ids=[table.ids[i] for i in kept], spec=table.spec)
    clean, _ = case.query()
    rows = np.flatnonzero(clean.labels.numpy() < 3).tolist()
    run = case.run(table=few, rows=rows)
    assert set(np.unique(run.outcomes().columns["prediction"])) <= {0, 1, 2}
    (chance,) = [row.value for row in run.result() if row.metric == "chance"]
    assert chance == pytest.approx(1 / 3)


def test_outputs_in_half_precision_are_read():
    case = trial()
    clean, dimmed = case.query()

    def halved(outputs):
        tokens = {
            block: BlockTokens(prefix=t.prefix.bfloat16(), patches=t.patches.bfloat16(), grid=t.grid)
            for block, t in outputs.normed_tokens.items()
        }
        return replace(outputs, normed_tokens=tokens)

    run = case.probe.fit(case.support(), case.context()).start()
    run.update(dimmed, halved(case.ask(dimmed)), halved(case.ask(clean)))
    expected = case.run().outcomes().columns["correlation"]
    np.testing.assert_allclose(run.outcomes().columns["correlation"], expected, atol=0.05)
    assert take_outputs(halved(case.ask(clean)), [0]).normed_tokens[0].patches.dtype == torch.bfloat16


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    params = coerce(entry.params, {"blocks": "0+-1", "shots": "3", "norm": "false", "tokens": "cls"}, "layer_occlusion")
    probe = LayerOcclusionProbe(
        tokens=params.tokens, norm=params.norm, blocks=params.blocks, shots=params.shots,
        ridge_per_dimension=params.ridge_per_dimension,
    )  # fmt: skip
    info = probe.info
    assert info.params == canonical(params)
    assert LayerOcclusionProbe().info.params == canonical(LayerOcclusionParams())
    assert (info.name, info.version, info.learns, info.compares) == (entry.name, entry.version, True, True)
    assert (entry.learns, entry.compares, entry.stochastic, entry.headline) == (True, True, True, info.headline)


# --- pictures --------------------------------------------------------------------------------------------------


def finding(model, condition, *, level=None, loss=None, blocks=3, retention=True):
    """A finding in which every number says block and loss: accuracy 0.1 block + loss."""
    strength = loss or 0.0
    rows = [Measurement(metric="accuracy", value=0.5, n=9), Measurement(metric="chance", value=0.2, n=9)]
    for block in range(blocks):
        said = {"accuracy_of_block": 0.1 * block + strength, "retention_chance_corrected": 1 - strength}
        said |= {"clean_accuracy_of_block": 0.9, "correlation": 0.8, "correlation_floor": 0.7}
        said |= {"correlation_centred": -0.3, "correlation_centred_floor": 0.01}
        if not retention:
            said.pop("retention_chance_corrected")
        rows += [
            Measurement(metric=name, value=value, low=value - 0.01, high=value + 0.01, n=9, dims={"block": block})
            for name, value in said.items()
        ]
    if loss is not None:
        rows.append(Measurement(metric="information_loss", value=loss, n=9))
    cell = {"model": model, "perturbation": condition.partition("@")[0].partition(":")[0], "level": level}
    record = ResultRecord(key=f"{model} {condition}", cell=cell, measurements=tuple(rows))
    return Finding(record=record, model=model, condition=condition, level=level)


def sweep(model, name="drop", levels=(0.75, 0.25, 0.5), *, losses=True, **given):
    clean = finding(model, "none", **given)
    return [clean, *(finding(model, f"{name}@{x:g}", level=x, loss=x if losses else None, **given) for x in levels)]


def drawn(made):
    """Every picture as pixels: nothing warns, and it is of a size that can be looked at."""
    for figure in made.pictures.values():
        figure.savefig(io.BytesIO(), format="png", dpi=60)
        width, height = figure.get_size_inches()
        assert 2 < height < 20
        assert 4 < width < 20
    return made.pictures


def texts(figure):
    found = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label)]
    return [*found, *(label.get_text() for axes in figure.axes for label in axes.get_xticklabels())]


def test_findings_are_ordered_by_loss_behind_the_clean_one():
    (series,) = series_of([*sweep("a")])
    assert (series.model, series.perturbation, series.axis) == ("a", "drop", LOSS)
    assert [f.level for f in series.findings] == [None, 0.25, 0.5, 0.75]
    np.testing.assert_allclose(series.values("accuracy_of_block"), [[0, 0.25, 0.5, 0.75], [0.1, 0.35, 0.6, 0.85],
                                                                    [0.2, 0.45, 0.7, 0.95]])  # fmt: skip
    assert series.nearest(None).level == 0.5
    assert series.nearest(0.7).level == 0.75


def test_perturbations_without_levels_share_a_series_of_their_model_unless_taken_apart():
    found = [finding("a", "none"), finding("a", "corner:which=left", loss=0.25), finding("a", "lesion:block=3")]
    (shared,) = series_of(found)
    assert (shared.axis, len(shared.findings)) == (CONDITION, 3)
    apart = series_of(found, apart=True)
    assert [(s.perturbation, s.axis, len(s.findings)) for s in apart] == [
        ("corner:which=left", LOSS, 2), ("lesion:block=3", CONDITION, 2)
    ]  # fmt: skip
    (noise,) = series_of(sweep("a", "noise", (1, 2, 3), losses=False))
    assert noise.axis == LEVEL


@pytest.mark.parametrize("blocks", [1, 2, 24])
def test_one_model_has_one_picture_of_maps_with_every_number(blocks):
    made = exhibit(sweep("a", blocks=blocks))
    (figure,) = drawn(made).values()
    assert set(made.pictures) == {""}
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left").splitlines()[0] for axes in maps] == [
        text.splitlines()[0] for text in PANELS.values()
    ]
    np.testing.assert_allclose(
        np.ma.filled(maps[0].images[0].get_array(), np.nan),
        np.round([[0.1 * block + loss for loss in (0, 0.25, 0.5, 0.75)] for block in range(blocks)], 2),
    )
    assert "chance 0.2" in maps[0].get_title(loc="left")
    printed = [text.get_text() for text in maps[0].texts]
    assert len(printed) == 4 * blocks
    assert printed[1] == "0.25"
    # The first block at the bottom.
    assert maps[0].get_ylim()[0] < maps[0].get_ylim()[1]


def test_maps_with_many_cells_have_no_numbers():
    (figure,) = drawn(exhibit(sweep("a", levels=[i / 10 for i in range(1, 10)], blocks=24))).values()
    assert not [text for axes in figure.axes for text in axes.texts]


def test_numbers_that_are_not_there_are_left_open():
    (figure,) = drawn(exhibit(sweep("a", retention=False))).values()
    retention = [axes for axes in figure.axes if axes.images][1]
    assert {text.get_text() for text in retention.texts} == {"-"}
    assert np.ma.getmaskarray(retention.images[0].get_array()).all()


def test_several_models_are_compared_and_each_has_its_maps():
    found = [f for model in ("vit", "cnn") for f in (*sweep(model), *sweep(model, "noise", (1, 2), losses=False)[1:])]
    pictures = drawn(exhibit(found))
    assert set(pictures) == {
        "", "compared-noise", "vit-drop", "vit-noise", "cnn-drop", "cnn-noise"
    }  # fmt: skip
    above = pictures[""].axes[0]
    solid = next(line for line in above.lines if len(line.get_xdata()) == 4 and line.get_linestyle() == "-")
    np.testing.assert_allclose(solid.get_xdata(), [0, 25, 50, 75])
    np.testing.assert_allclose(solid.get_ydata(), [0.2, 0.45, 0.7, 0.95])
    assert "at 50 % information loss" in [axes.get_title(loc="left") for axes in pictures[""].axes]
    # Nothing says at which level clean images lie.
    noisy = pictures["compared-noise"].axes[0]
    assert max(len(line.get_xdata()) for line in noisy.lines) == 2


def test_perturbations_of_an_only_model_are_compared_with_each_other():
    found = [*sweep("a"), *sweep("a", "shuffle", (0.1, 0.9))[1:], finding("a", "corner", loss=0.25)]
    pictures = drawn(exhibit(found))
    assert set(pictures) == {"", "a-drop", "a-shuffle", "a-corner"}


def test_clean_images_alone_show_accuracy_over_depth():
    pictures = drawn(exhibit([finding(model, "none", blocks=b) for model, b in (("a", 4), ("b", 12), ("c", 1))]))
    assert set(pictures) == {"", "a-none", "b-none", "c-none"}


def test_pictures_of_a_perturbation_without_clean_images_level_or_loss():
    pictures = drawn(exhibit([finding(model, "lesion:block=3") for model in ("a", "b")]))
    assert set(pictures) == {"", "a-lesion:block=3", "b-lesion:block=3"}
    solid = next(line for line in pictures[""].axes[0].lines if line.get_linestyle() == "-" and len(line.get_xdata()))
    assert list(solid.get_xdata()) == [1]
    assert "lesion:block=3" in texts(pictures["a-lesion:block=3"])


def test_the_table_holds_every_number_of_every_finding():
    found = [f for model in ("vit", "cnn") for f in sweep(model)]
    table = exhibit(found).tables[""]
    rows = {tuple(row[:2]) + tuple(row[4:6]): row for row in table.rows}
    assert len(rows) == len(table.rows) == 2 * 4 * 3 * 7
    assert rows["cnn", "drop@0.5", 2, "accuracy_of_block"] == [
        "cnn", "drop@0.5", 0.5, 0.5, 2, "accuracy_of_block", 0.7, pytest.approx(0.69), pytest.approx(0.71), 9
    ]  # fmt: skip


# --- with the rest of the harness ------------------------------------------------------------------------------


def test_a_sweep_sums_up_by_block():
    from harness.protocols import SummaryInput

    case = trial(Stages())
    clean, _ = case.query()
    run = case.probe.fit(case.support(), case.context()).start()
    run.update(clean, case.ask(clean), case.ask(clean))
    dimmed = case.run()

    def given(level, outcomes):
        cell = {"level": level, "num_classes": CLASSES, "seeds": {"perturb": 0}}
        return SummaryInput(record=ResultRecord(key=str(level), cell=cell), outcomes=outcomes)

    rows = Retention().compute([given(0.5, dimmed.outcomes())], given(None, run.outcomes()))
    kept = {row.dims["block"]: row.value for row in rows if row.metric == "retention_chance_corrected"}
    record = ResultRecord(key="", cell={}, measurements=tuple(dimmed.result()))
    assert kept == {b: pytest.approx(record.get("retention_chance_corrected", block=b).value) for b in range(3)}
