"""Every prediction has a measurement that runs to its end, on the models and the images that it names."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import harness
from harness_mini.cards import weights_file
from harness_mini.models import build_model
from harness_mini.shapes_dataset import Shapes
from harness_mini.study import findings, laboratory, measures
from harness_mini.study.findings import MEASUREMENTS
from harness_mini.study.measures import Images, attacked, correct, corrupted, decisions, jaccard, shuffled, token_cosine
from harness_mini.study.predictions import PREDICTIONS
from harness_mini.zoo import entries

ASKED, CONFLICTS, FEW_SHOT = 24, 132, 100
BY_NAME = {prediction.name: prediction for prediction in PREDICTIONS}
ARCHITECTURES = [p.name for p in PREDICTIONS if p.compares == "architectures"]
CHECKPOINTS = [p.name for p in PREDICTIONS if p.compares == "checkpoints"]


@pytest.fixture(scope="module")
def found(study):
    """``found(name)``: what came of a prediction, with three seeds of either architecture."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = MEASUREMENTS[name](study, BY_NAME[name])
        return made[name]

    return get


@pytest.fixture(scope="module")
def found_of_one_seed(study_of_one_seed):
    """The same with the package's own seed alone."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = MEASUREMENTS[name](study_of_one_seed, BY_NAME[name])
        return made[name]

    return get


def finite(*values):
    return all(isinstance(value, float) and math.isfinite(value) for value in values)


# --- all of them -------------------------------------------------------------------------------------------------


def test_every_prediction_has_a_measurement_and_every_measurement_a_prediction():
    assert list(MEASUREMENTS) == list(BY_NAME)
    assert len(PREDICTIONS) == len(BY_NAME)


def test_predictions_name_models_of_the_zoo_or_say_what_they_ask_of_one():
    known = {entry.name for entry in entries()}
    for name in ARCHITECTURES:
        assert {BY_NAME[name].first, BY_NAME[name].second} <= known
    for prediction in PREDICTIONS:
        assert prediction.first != prediction.second
        assert any(name in f"{prediction.first} {prediction.second} {prediction.quantity}" for name in known)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_measured_over_three_seeds(found, name):
    finding = found(name)
    assert (finding.name, finding.n, finding.interval, finding.note) == (name, 3, "welch95", "")
    assert finite(finding.first, finding.second, finding.difference, finding.low, finding.high)
    assert finding.low <= finding.difference <= finding.high
    assert finding.difference == pytest.approx(finding.first - finding.second)
    assert finding.verdict in ("reproduced", "opposite", "undecided")
    assert -1 <= finding.first <= 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_seed_of_each_architecture_measures_no_architecture(found_of_one_seed, name):
    finding = found_of_one_seed(name)
    assert (finding.name, finding.n, finding.interval) == (name, 1, "none")
    assert (finding.low, finding.high) == (None, None)
    assert finite(finding.first, finding.second, finding.difference)
    assert finding.verdict == "not measured"
    assert "--replicas" in finding.note


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_are_measured_over_images(found, name):
    finding = found(name)
    expected = CONFLICTS if name.startswith("shape_bias") else FEW_SHOT if name == "ensemble" else ASKED
    assert (finding.name, finding.interval) == (name, "bootstrap95")
    # Of an attack on different images those are counted that were right without it.
    assert 0 < finding.n < ASKED if name == "attack_stylized_vit" else finding.n == expected
    assert finite(finding.first, finding.second, finding.difference, finding.low, finding.high)
    assert finding.low <= finding.difference <= finding.high
    assert finding.difference == pytest.approx(finding.first - finding.second)
    assert finding.verdict in ("reproduced", "opposite", "undecided")
    assert -1 <= finding.first <= 1


def test_the_networks_of_these_tests_tell_images_apart(study):
    """Else nothing that is done to an image would show in any accuracy."""
    for name in ("vit_mini", "vit_mini_nopos", "vit_mini_sin", "cnn_mini", "deit_mini_shape"):
        assert len(set(decisions(study.model(name), study.test))) >= 5
    drops = [decisions(study.model("cnn_mini"), study.test, study.drops[level]).tolist() for level in (0.1, 0.5, 0.9)]
    assert len({tuple(row) for row in drops}) == 3


# --- which models and which images -------------------------------------------------------------------------------


def sides(finding):
    return finding.first, finding.second


def test_random_drop_is_what_the_harness_itself_measures(found_of_one_seed, untrained_zoo):
    """The engine's grid over the same images, levels and seed: the same mean top-1."""
    for name, value in zip(("vit_mini", "cnn_mini"), sides(found_of_one_seed("random_drop")), strict=True):
        result = harness.run(
            model=name,
            weights=str(weights_file(name, untrained_zoo)),
            dataset=Shapes(images=ASKED),
            perturb="patchdrop_random@" + ",".join(map(str, laboratory.LEVELS)),
            probe="head",
            seeds=[0],
            options=harness.RunOptions(device="cpu", workers=0, cache_dir=None),
        )
        dropped = [record.get("top1").value for record in result.records if record.cell["level"]]
        assert len(dropped) == 9
        assert value == pytest.approx(np.mean(dropped), abs=1e-9)


def test_without_positions_nothing_is_lost_to_shuffled_patches(study, found):
    finding = found("shuffle_without_positions")
    assert finding.first == correct(study.model("vit_mini_nopos"), study.test).mean()
    assert finding.second == correct(study.model("vit_mini"), study.test, shuffled(14)).mean()


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("shuffle", lambda study, model: correct(model, study.test, shuffled(4))),
        (
            "attack",
            lambda study, model: correct(model, study.test, attacked(model, eps=1 / 255, step=0.5 / 255, steps=5)),
        ),
        (
            "corruption",
            lambda study, model: np.mean(
                [correct(model, study.test, corrupted(each)) for each in measures.CORRUPTIONS], axis=0
            ),
        ),
    ],
)
def test_architectures_are_asked_what_the_prediction_says(study, found_of_one_seed, name, measure):
    for model, value in zip(("vit_mini", "cnn_mini"), sides(found_of_one_seed(name)), strict=True):
        assert value == pytest.approx(measure(study, study.model(model)).mean())


def test_architectures_are_means_over_seeds(study, found):
    for name, value in zip(("vit_mini", "cnn_mini"), sides(found("shuffle")), strict=True):
        each = [correct(study.model(name, seed), study.test, shuffled(4)).mean() for seed in (0, 1, 2)]
        assert value == pytest.approx(np.mean(each))


def test_feature_correlation_is_of_clean_and_half_occluded_images(study, found_of_one_seed):
    for name, value in zip(("vit_mini", "cnn_mini"), sides(found_of_one_seed("feature_correlation")), strict=True):
        model = study.model(name)
        clean, half = (measures.pooled(model, study.test, change) for change in (None, study.drops[0.5]))
        rows = zip(clean - clean.mean(0), half - clean.mean(0), strict=True)
        assert value == pytest.approx(np.mean([np.corrcoef(a, b)[0, 1] for a, b in rows]))


def test_biases_are_those_of_the_models_and_heads_that_are_named(study, found, found_of_one_seed):
    stylized = {name: study.bias(name).value for name in ("vit_mini", "vit_mini_sin", "cnn_mini", "cnn_mini_sin")}
    assert sides(found("shape_bias_stylized_vit")) == (stylized["vit_mini_sin"], stylized["vit_mini"])
    assert sides(found("shape_bias_stylized_cnn")) == (stylized["cnn_mini_sin"], stylized["cnn_mini"])
    heads = {head: study.bias("deit_mini_shape", head=head).value for head in ("shape", "cls")}
    assert sides(found("shape_bias_shape_token")) == (heads["shape"], heads["cls"])
    for name, value in zip(("vit_mini", "cnn_mini"), sides(found_of_one_seed("shape_bias")), strict=True):
        assert value == study.bias(name).value


def test_tokens_and_segmentations_are_those_of_the_models_that_are_named(study, found):
    def segmented(name, mass, token="cls", **which):
        return jaccard(study.model(name, **which), study.test, mass=mass, token=token).mean()

    assert sides(found("token_cosine")) == pytest.approx(
        [token_cosine(study.model(name), study.test).mean() for name in ("deit_mini_shape", "deit_mini")]
    )
    assert sides(found("segmentation_shape_token")) == pytest.approx(
        [segmented("deit_mini_shape", 0.9, "shape"), segmented("vit_mini", 0.9)]
    )
    assert sides(found("segmentation_self_distilled")) == pytest.approx(
        [segmented("dino_mini", 0.6), segmented("vit_mini", 0.6)]
    )
    assert sides(found("segmentation_trained")) == pytest.approx(
        [segmented("vit_mini", 0.9), segmented("vit_mini", 0.9, untrained=True)]
    )


def test_stylized_models_are_attacked_on_stylized_images_that_are_right(study, found):
    finding, kept = found("attack_stylized_vit"), []
    for name, images, value in (
        ("vit_mini_sin", study.stylized, finding.first),
        ("vit_mini", study.test, finding.second),
    ):
        model = study.model(name)
        right = correct(model, images) == 1
        under_attack = correct(model, images, attacked(model, eps=1 / 255, step=0.5 / 255, steps=5))
        assert value == pytest.approx(under_attack[right].mean())
        kept.append(right.sum())
    assert finding.n == min(kept)


def test_corruption_of_a_stylized_model_is_of_natural_images(study, found):
    for name, value in zip(("vit_mini_sin", "vit_mini"), sides(found("corruption_stylized_vit")), strict=True):
        each = [correct(study.model(name), study.test, corrupted(kind)).mean() for kind in measures.CORRUPTIONS]
        assert value == pytest.approx(np.mean(each))


def test_few_shot_features_are_the_last_four_class_tokens_or_the_last(study, found):

    novel = findings.NovelShapes()
    support, query = (
        Images(dataset=novel, split=split, count=FEW_SHOT) for split in ("novel_both_train", "novel_both")
    )
    for blocks, value in (((2, 3, 4, 5), found("ensemble").first), ((5,), found("ensemble").second)):
        tables = [
            part
            for images in (support, query)
            for part in (measures.class_tokens(study.model("vit_mini"), images, blocks), measures.labels(images))
        ]
        assert value == pytest.approx(measures.few_shot(*tables, shots=5, draws=10).mean())


# --- what is dropped ---------------------------------------------------------------------------------------------


def black_cells(images):
    return (images == 0).all(dim=1).view(-1, 14, 4, 14, 4).all(dim=4).all(dim=2).flatten(1)


@pytest.fixture(scope="module")
def batch(study):
    return next(iter(study.test.batches()))


def test_the_salient_drop_holds_half_of_the_attention_and_the_background_as_many_cells(study, batch, changes):
    name = "salient_against_background"
    asked = changes(MEASUREMENTS[name], study, BY_NAME[name])
    assert [(model, images) for model, images, _ in asked] == [("vit_mini", study.test)] * 2
    salient, background = (black_cells(change(batch)) for _, _, change in asked)
    saliency = study.saliency(batch).double()
    for row, most, fewest in zip(saliency, salient, background, strict=True):
        ordered = row.sort(descending=True).values
        count = int(most.sum())
        assert ordered[:count].sum() >= 0.5 * row.sum() > ordered[: count - 1].sum()
        assert row[most].min() >= row[~most].max()
        assert fewest.sum() == count
        assert row[fewest].max() <= row[~fewest].min()


def test_architectures_lose_the_same_salient_cells(study, batch, changes):
    asked = changes(MEASUREMENTS["salient_drop"], study, BY_NAME["salient_drop"])
    assert [model for model, _, _ in asked] == ["vit_mini"] * 3 + ["cnn_mini"] * 3
    wanted = measures.most(study.saliency(batch), 0.5)
    assert all(torch.equal(black_cells(change(batch)), wanted) for _, _, change in asked)


def test_half_of_the_object_is_dropped_or_as_much_of_the_background(study, batch, changes):
    name = "mask_against_background"
    asked = changes(MEASUREMENTS[name], study, BY_NAME[name])
    objects, background = (black_cells(change(batch)) for _, _, change in asked)
    for mask, on, off in zip(batch.masks, objects, background, strict=True):
        share = torch.stack(
            [mask[y : y + 4, x : x + 4].float().mean() for y in range(0, 56, 4) for x in range(0, 56, 4)]
        )
        assert (share[on] > 0.5).all()
        assert (share[off] == 0).all()
        # As many on either side: half of the object, or of the background where that is smaller.
        assert on.sum() == off.sum() == min(int((share > 0.5).sum()), int((share == 0).sum())) // 2
    assert objects.any(dim=1).all()
    assert len({tuple(row.tolist()) for row in objects}) == len(batch)


def test_the_zoo_of_these_tests_is_not_the_one_that_ships(study, untrained_zoo):
    state = load_file(weights_file("vit_mini"))
    assert weights_file("vit_mini").parent == untrained_zoo
    assert all(torch.equal(study.model("vit_mini").net.state_dict()[key], value) for key, value in state.items())
    assert build_model.__module__ == "harness_mini.models"
