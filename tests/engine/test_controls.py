"""Negative controls: which cells get them, what they fit and ask, and where their numbers are shown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from engine_doubles.data import CountingDataset
from engine_doubles.models import CLASSES, TinyModel
from engine_doubles.probes import CentroidProbe

from harness.control_cells import CONTROLS, COPIES, PERMUTATIONS
from harness.control_log import control_only
from harness.controls import FittedOnShuffles, duplicated, shuffled
from harness.errors import CapabilityError
from harness.report.controls import control_tables
from harness.report.tables import record_tables
from harness.types import BlockTokens, FeatureSpec, FeatureTable, Measurement, ModelOutputs, OutputSpec

LEARNER = {"model": "tiny", "dataset": "tints", "probe": "centroid"}


def owners(plan):
    """The cells that have controls, with the names of these."""
    return {key: set(found) for key, found in plan.controls.items()}


def test_every_asked_cell_of_a_learning_probe_gets_all_four(plan):
    controlled = plan(**LEARNER, perturb="dimmed@0.5", controls=True)
    assert owners(controlled) == {cell.key: set(CONTROLS) for cell in controlled.asked}
    assert [cell.key for cell in controlled.asked] == [cell.key for cell in plan(**LEARNER, perturb="dimmed@0.5").cells]
    assert len(controlled.cells) == len(controlled.asked) * (1 + len(CONTROLS))


def test_a_probe_that_does_not_learn_has_the_random_twin_alone(plan):
    controlled = plan(model="tiny", dataset="tints", probe="toy_head", controls=True)
    assert list(owners(controlled).values()) == [{"random_weights"}]


def test_a_model_of_the_callers_own_and_untrained_weights_have_no_twin(plan, dataset):
    from harness.weights import WeightsChoice

    own = plan(model=TinyModel(), dataset=dataset, probe=CentroidProbe(), controls=True)
    untrained = plan(**LEARNER, weights=WeightsChoice(origin="random"), controls=True)
    for controlled in (own, untrained):
        assert all("random_weights" not in names for names in owners(controlled).values())


def test_nothing_aims_at_a_probe_with_shuffled_labels(plan):
    controlled = plan(**LEARNER, perturb="signstep:aim=probe@0.1", controls=True)
    assert all("shuffled_labels" not in names for names in owners(controlled).values())


def test_a_perturbation_that_pixel_statistics_cannot_take_leaves_that_control_out(plan):
    controlled = plan(**LEARNER, perturb="signstep:aim=head@0.1", controls=True)
    assert all("pixel_statistics" not in names for names in owners(controlled).values())


def test_the_pixel_baseline_asked_for_by_name_is_no_mere_control(plan):
    controlled = plan(
        model=["tiny", "pixel_statistics"], dataset="tints", probe="centroid", controls=True, view="crop=16"
    )
    (tiny, pixels) = controlled.asked
    assert controlled.controls[tiny.key]["pixel_statistics"] == pixels.key
    assert pixels.key not in controlled.control_keys
    assert set(controlled.controls[pixels.key]) == {"shuffled_labels", "duplicated_features"}


def test_a_control_is_told_apart_in_key_and_record(plan):
    controlled = plan(**LEARNER, controls=True)
    by_control = {cell.as_dict().get("control"): cell for cell in controlled.cells if cell.model.name == "tiny"}
    assert set(by_control) == {None, "shuffled_labels", "duplicated_features"}
    assert len({cell.key for cell in controlled.cells}) == len(controlled.cells)


def test_controls_share_every_forward_pass_over_the_images_asked_about(run):
    plain, controlled = TinyModel(), TinyModel()
    run(model=plain, dataset=CountingDataset(), probe=CentroidProbe(), out="a")
    data = CountingDataset()
    run(model=controlled, dataset=data, probe=CentroidProbe(), controls=True, out="b")
    query = sum(split == data.info.query_split for split, _ in data.loaded)
    # Once for the model with all its controls on the probe, and once for the bare pixels.
    assert query == 2 * len(data.index(data.info.query_split))
    # Shuffled labels choose other support images than true ones do, so more of those are seen, and nothing else.
    extra = sum(controlled.metric_calls) - sum(plain.metric_calls)
    assert 0 < extra <= len(data.index("support"))


def test_shuffled_labels_are_those_of_the_split_in_an_order_of_their_own():
    labels = np.repeat(np.arange(5), 7)
    orders = [shuffled(labels, p, 0) for p in range(PERMUTATIONS)]
    for order in orders:
        assert np.array_equal(np.bincount(order), np.bincount(labels))
    assert len({order.tobytes() for order in orders}) == PERMUTATIONS
    assert np.array_equal(orders[3], shuffled(labels, 3, 0))
    assert not np.array_equal(orders[3], shuffled(labels, 3, 1))
    agreement = np.mean([order == labels for order in orders])
    assert abs(agreement - 0.2) < 0.08


def test_the_shuffled_control_is_the_probe_fitted_anew_on_every_permutation(run, dataset):
    model, probe = TinyModel(), CentroidProbe(shots=3)
    result = run(model=model, dataset=dataset, probe=probe, controls=True)
    record = next(r for r in result.records if r.cell.get("control") == "shuffled_labels")
    found = record.get("accuracy", shots=3)

    def features(split):
        data = CountingDataset()
        batch = data.load(split, range(len(data.index(split))), model.info.view)
        return model.outputs(batch.images, OutputSpec(pooled=True)).pooled.double().numpy(), batch.labels.numpy()

    x, y = features(dataset.info.support_split)
    queries, truth = features(dataset.info.query_split)
    accuracies = []
    for p in range(PERMUTATIONS):
        order = shuffled(y, p, 0)
        chosen = CentroidProbe(shots=3).select_support(order, 0)
        means = np.stack([x[chosen][order[chosen] == c].astype(np.float32).mean(axis=0) for c in range(len(CLASSES))])
        distance = ((queries[:, None] - means) ** 2).sum(axis=2)
        accuracies.append(float((distance.argmin(axis=1) == truth).mean()))
    assert found.value == pytest.approx(np.mean(accuracies))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(accuracies, [0.025, 0.975])))
    assert (found.n, found.interval) == (PERMUTATIONS, "permutations95")
    assert found.low <= 1 / 3 <= found.high


def test_duplicated_features_reach_fit_and_question_alike(run, dataset):
    probe = CentroidProbe(shots=2)
    result = run(model=TinyModel(), dataset=dataset, probe=probe, controls=True)
    widths = sorted({x.shape[1] for _, x in probe.fits})
    assert widths[:2] == [12, 12 * COPIES]
    wide = next(x for _, x in probe.fits if x.shape[1] == 12 * COPIES)
    assert np.array_equal(wide, np.tile(wide[:, :12], COPIES))
    mine = [r for r in result.records if r.cell["model"] == "tiny" and r.cell.get("control") != "shuffled_labels"]
    # Distances to class means all grow by the same factor: no decision changes.
    assert len({r.get("accuracy", shots=2).value for r in mine}) == 1


def test_only_what_is_wanted_is_duplicated_and_logits_never():
    tokens = BlockTokens(prefix=torch.ones(2, 1, 3), patches=torch.ones(2, 4, 3), grid=(2, 2))
    outputs = ModelOutputs(
        logits={"head": torch.ones(2, 5)},
        pooled=torch.arange(6.0).view(2, 3),
        tokens={0: tokens},
        normed_tokens={1: tokens},
    )
    spec = FeatureSpec(pooled=True, blocks=(1,), mean_patch="last")
    found = duplicated(outputs, spec.outputs(2))
    assert found.pooled.tolist() == [[0, 1, 2] * COPIES, [3, 4, 5] * COPIES]
    assert found.normed_tokens[1].patches.shape == (2, 4, 3 * COPIES)
    assert found.normed_tokens[1].prefix.shape == (2, 1, 3 * COPIES)
    assert not found.tokens
    assert found.logits["head"].shape == (2, 5)
    assert duplicated(outputs, OutputSpec(logits=True)).pooled is None


def test_a_controlled_run_does_nothing_the_second_time(run, numbers):
    first = run(**LEARNER, controls=True)
    again = run(**LEARNER, controls=True)
    assert again.counters.forward_passes == again.counters.decoded_images == 0
    assert numbers(first) == numbers(again)
    assert again.controls == first.controls


def test_a_control_does_not_depend_on_batches(run, numbers):
    assert numbers(run(**LEARNER, controls=True, out="a")) == numbers(
        run(**LEARNER, controls=True, out="b", batch_size=5)
    )


def test_the_state_of_a_control_goes_on_where_it_was(dataset):
    model, generator = TinyModel(), np.random.default_rng(0)
    batch = dataset.load("query", range(12), model.info.view)
    outputs = model.outputs(batch.images, OutputSpec(pooled=True))
    fits = [
        CentroidProbe().fit(
            FeatureTable(
                x=generator.normal(size=(6, 12)).astype(np.float32),
                y=np.repeat(np.arange(3), 2),
                ids=list("abcdef"),
                spec=FeatureSpec(pooled=True),
            ),
            None,
        )
        for _ in range(3)
    ]
    fitted = FittedOnShuffles(fits)
    whole = fitted.start()
    whole.update(batch, outputs, None)
    resumed = fitted.start()
    resumed.load_state_dict(whole.state_dict())
    assert resumed.result() == whole.result()
    assert [v["permutation"] for v in whole.outcomes().variants] == [0, 1, 2]
    alone = fits[1].start()
    alone.update(batch, outputs, None)
    assert np.array_equal(whole.outcomes().columns["correct"][1], alone.outcomes().columns["correct"][0])
    with pytest.raises(TypeError, match="shuffled labels"):
        whole.merge(alone)


def test_a_control_that_cannot_be_is_no_failure(run, dataset):
    class Needy(CentroidProbe):
        """Refuses models without classes, and says so nowhere in advance."""

        def wants(self, model):
            if model.num_classes is None:
                raise CapabilityError(f"{model.name} has no classes")
            return super().wants(model)

    result = run(model=TinyModel(), dataset=dataset, probe=Needy(), controls=True)
    assert not result.failures
    pixels = next(r for r in result.records if r.cell["model"] == "pixel_statistics")
    assert pixels.not_applicable is not None
    (table,) = control_tables(result.records, result.controls, result.headlines)
    assert table.rows[0][-1] == "-"


def test_tables_show_each_number_once_and_its_controls_beside_it(run):
    result = run(**LEARNER, perturb=["none", "dimmed@0.5"], controls=True)
    (main,) = record_tables(result.asked, result.headlines)
    assert [row[0] for row in main.rows] == ["none", "dimmed@0.5"]
    (beside,) = control_tables(result.records, result.controls, result.headlines)
    assert beside.header[3:] == (
        "accuracy",
        "random weights",
        "shuffled labels",
        "duplicated features",
        "pixel statistics",
    )
    assert [row[:2] for row in beside.rows] == [("tiny", "none"), ("tiny", "dimmed@0.5")]
    assert [row[3] for row in beside.rows] == [row[-1] for row in main.rows]
    for record in result.asked:
        for name, key in result.controls[record.key].items():
            value = next(r for r in result.records if r.key == key).get("accuracy", shots=2).value
            row = beside.rows[0 if record.cell["perturbation"] == "none" else 1]
            shown = row[beside.header.index(name.replace("_", " "))]
            assert shown.startswith(f"{100 * value:.1f}")
    assert any(f"{PERMUTATIONS} times" in note for note in beside.notes)
    assert "chance: 33.3 %" in beside.notes
    assert "control" in repr(result)


def test_no_summary_is_made_of_shuffled_labels_or_shown_of_a_twin(run):
    result = run(**LEARNER, perturb="dimmed@all", controls=True)
    assert {summary.group["model"] for summary in result.summaries} == {"tiny"}
    assert all(not str(s.group["weights"]).startswith("random:") for s in result.summaries)
    assert len(result.summaries) == 1


def test_a_plan_shows_controls_as_such(plan):
    from harness.report.plans import plan_tables

    cells = plan_tables(plan(**LEARNER, controls=True))[0]
    assert [row[-1] for row in cells.rows] == [
        "",
        "control: random weights",
        "control: shuffled labels",
        "control: duplicated features",
        "control",
    ]


def test_a_plan_without_controls_says_nothing_of_them(plan):
    without = plan(**LEARNER)
    assert without.asked == without.cells
    assert not without.controls
    assert "controls" not in without.as_dict()
    assert "control" not in without.cells[0].as_dict()


def test_a_folder_remembers_its_controls_whatever_command_came_last(run):
    first = run(**LEARNER, controls=True)
    run(**{**LEARNER, "probe": "pixels"})
    assert control_only(first.path) == first.control_keys
    run(model="pixel_statistics", dataset="tints", probe="centroid", view="crop=16")
    assert len(control_only(first.path)) == len(first.control_keys) - 1


def test_the_chance_that_is_shown_is_that_of_the_row(run):
    result = run(**LEARNER, controls=True)
    (record,) = result.asked
    rows = (
        Measurement(metric="accuracy", value=0.5, n=9, dims={"ways": 2}, counted="episodes"),
        Measurement(metric="accuracy", value=0.5, n=9, dims={"sampler": "meta_dataset"}, counted="episodes"),
    )
    for changed, chance in ((rows[:1], ["chance: 50.0 %"]), (rows[1:], [])):
        records = [dataclasses.replace(r, measurements=changed) if r is record else r for r in result.records]
        (table,) = control_tables(records, result.controls, result.headlines)
        assert [note for note in table.notes if note.startswith("chance")] == chance
