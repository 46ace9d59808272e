"""The study's laboratory: which weights stand for which seed, and the harness's own PatchDrop at every level."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from harness import rng
from harness.errors import WeightsError
from harness_mini.cards import card_file, read_card, weights_file, write_card
from harness_mini.networks import build
from harness_mini.shapes_dataset import Shapes
from harness_mini.study import laboratory
from harness_mini.study.laboratory import LEVELS, Study
from harness_mini.study.measures import attention_maps, decisions, labels
from harness_mini.study.predictions import PREDICTIONS


@pytest.fixture
def batch(study):
    return next(iter(study.test.batches()))


def holds(model, state):
    return all(torch.equal(model.net.state_dict()[key], value) for key, value in state.items())


def test_the_first_seed_ships_and_the_others_are_replicas(study, untrained_zoo, replicas):
    assert study.seeds("vit_mini") == study.seeds("cnn_mini") == [0, 1, 2]
    assert study.seeds("deit_mini") == [0]
    assert holds(study.model("vit_mini"), load_file(weights_file("vit_mini", untrained_zoo)))
    for seed in (1, 2):
        assert holds(study.model("vit_mini", seed), load_file(weights_file(f"vit_mini.seed{seed}", replicas)))


def test_untrained_is_a_network_as_it_is_initialised(study):
    model = study.model("vit_mini", untrained=True)
    assert holds(model, build("vit_mini", seed=0).state_dict())
    assert model.info.weights.untrained


def test_a_replica_that_is_not_there_is_asked_for(study, study_of_one_seed, replicas):
    assert study_of_one_seed.seeds("vit_mini") == [0]
    for asked, name in ((study_of_one_seed, "vit_mini"), (study, "deit_mini")):
        with pytest.raises(WeightsError, match=f"{name}: no weights of training seed 1") as raised:
            asked.model(name, 1)
        assert "--replicas" in raised.value.hint


def test_a_replica_of_another_recipe_is_refused(untrained_zoo, replicas, tmp_path):
    for file in (weights_file, card_file):
        file("cnn_mini.seed1", tmp_path).write_bytes(file("cnn_mini.seed1", replicas).read_bytes())
    card = read_card("cnn_mini.seed1", tmp_path)
    write_card("cnn_mini.seed1", {**card, "recipe_sha256": "0" * 64}, tmp_path)
    with pytest.raises(WeightsError, match="another recipe") as raised:
        Study(tmp_path).seeds("cnn_mini")
    assert "--again" in raised.value.hint


@pytest.mark.parametrize("fault", ["its card", "the shipped card"])
def test_a_replica_that_is_another_file_than_was_measured_is_refused(fault, untrained_zoo, replicas, tmp_path):
    for file in (weights_file, card_file):
        file("cnn_mini.seed1", tmp_path).write_bytes(file("cnn_mini.seed1", replicas).read_bytes())
    if fault == "its card":
        weights_file("cnn_mini.seed1", tmp_path).write_bytes(weights_file("cnn_mini.seed2", replicas).read_bytes())
        expected = "is not the file that its card speaks of"
    else:
        main = read_card("cnn_mini", untrained_zoo)
        write_card("cnn_mini", {**main, "other_seeds": [{"seed": 1, "sha256": "0" * 64}]}, untrained_zoo)
        expected = "whose accuracy stands in the card of cnn_mini"
    try:
        with pytest.raises(WeightsError, match=expected):
            Study(tmp_path).seeds("cnn_mini")
    finally:
        if fault != "its card":
            write_card("cnn_mini", main, untrained_zoo)


def test_seeds_that_are_partly_there_are_the_ones_counted(study, replicas, tmp_path, untrained_zoo):
    state = load_file(weights_file("cnn_mini.seed2", replicas))
    for file in (weights_file, card_file):
        file("cnn_mini.seed2", tmp_path).write_bytes(file("cnn_mini.seed2", replicas).read_bytes())
    partly = Study(tmp_path)
    assert (partly.seeds("cnn_mini"), partly.seeds("vit_mini")) == ([0, 2], [0])
    assert holds(partly.model("cnn_mini", 2), state)


def test_a_model_is_built_once(study):
    assert study.model("cnn_mini") is study.model("cnn_mini")
    assert study.model("cnn_mini") is not study.model("cnn_mini", 1)


def test_values_of_every_seed_are_averaged_over_images_alone(study):
    prediction = next(p for p in PREDICTIONS if p.name == "random_drop")

    def measure(model):
        return decisions(model, study.test)

    found = study.per_seed(measure, prediction)
    for name, values in zip(("vit_mini", "cnn_mini"), found, strict=True):
        assert values == [decisions(study.model(name, seed), study.test).mean() for seed in (0, 1, 2)]


def test_drops_are_the_harnesss_own_at_every_level(study, batch):
    assert tuple(study.drops) == LEVELS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    lost = []
    for level, count in zip(LEVELS, (19, 39, 58, 78, 98, 117, 137, 156, 176), strict=True):
        black = (study.drops[level](batch) == 0).all(dim=1)
        cells = black.view(-1, 14, 4, 14, 4).all(dim=4).all(dim=2).flatten(1)
        lost.append(cells)
        assert torch.equal(cells, torch.from_numpy(rng.ranks(0, "patchdrop", batch.ids, 196) < count))
        kept = ~cells.view(-1, 14, 14).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
        assert torch.equal(study.drops[level](batch) * kept, batch.images * kept)
    assert all(not (fewer & ~more).any() for fewer, more in pairwise(lost))


def test_saliency_is_the_mean_head_of_the_self_distilled_network(study, batch):
    maps = attention_maps(study.model("dino_mini"), batch.images)
    torch.testing.assert_close(study.saliency(batch), maps.mean(dim=1))
    torch.testing.assert_close(study.saliency(batch).sum(dim=1), torch.ones(len(batch)))


def test_biases_are_asked_of_the_head_and_the_contrast(study):
    found = {
        (head, contrast): study.bias("deit_mini_shape", head=head, contrast=contrast)
        for head in ("cls", "shape")
        for contrast in (1.0, 0.25)
    }
    for (head, contrast), bias in found.items():
        images = laboratory.conflict_images(contrast)
        decided = decisions(study.model("deit_mini_shape"), images, head=head)
        conflict = labels(images, "conflict") == 1
        assert bias.by_shape.tolist() == (decided == labels(images, "shape"))[conflict].tolist()
    assert len({tuple(bias.by_shape) for bias in found.values()}) > 1


def test_the_study_asks_about_natural_and_stylized_images(study):
    assert (study.test.split, study.stylized.split) == ("test", "stylized")
    assert study.test.dataset.info.fingerprint == Shapes().info.fingerprint
