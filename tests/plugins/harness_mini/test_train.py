"""Training: a killed run ends bit for bit where a whole one does, and what is published is what was measured."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from harness.errors import WeightsError
from harness.stats import wilson
from harness_mini import train as training
from harness_mini.cards import card_file, read_card, weights_file
from harness_mini.networks import build
from harness_mini.shapes_dataset import Shapes
from harness_mini.train import Session, main, publish, teacher_of, train
from harness_mini.training import recipes
from harness_mini.training.lessons import load, whole
from harness_mini.training.recipes import digest, recipe_of

CPU = torch.device("cpu")
TINY = {"window_images": 12, "whole_images": 12, "batch_size": 6}
"""Two steps on windows and two on whole images."""
STEPS = 4
IMAGES = 48
KINDS = {"labels": "vit_mini", "soft_distillation": "deit_mini", "self_distillation": "dino_mini"}


@pytest.fixture(scope="module")
def dataset():
    return Shapes(images=IMAGES, train_images=IMAGES)


@pytest.fixture
def small(monkeypatch, dataset):
    """Accuracies are those of few images, and a teacher is asked about 200."""
    monkeypatch.setattr(training, "Shapes", lambda: dataset)
    monkeypatch.setattr(training, "_agreement", functools.partial(training._agreement, images=200))


@pytest.fixture
def tiny_recipes(monkeypatch, small):
    tiny = {name: dataclasses.replace(recipe, **TINY) for name, recipe in recipes.RECIPES.items()}
    monkeypatch.setattr(recipes, "RECIPES", tiny)
    return tiny


def tiny(name, **changes):
    return dataclasses.replace(recipe_of(name), **TINY, **changes)


def session(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    return Session(out=folder, device=CPU, **changes)


def with_teacher(folder):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(build("cnn_mini", seed=5).state_dict(), weights_file("cnn_mini", folder))
    return folder


def trained(name, folder, dataset, **changes):
    return train(name, tiny(name), session(with_teacher(folder), **changes), dataset)


def checkpoint(name, folder):
    return torch.load(folder / f"{name}.seed0.checkpoint.pt", weights_only=True)


def assert_same(first, second, where="state"):
    """Bit for bit the same tensors and values at the same places."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}.{i}")
    else:
        assert first == second, where


class Killed(Exception):
    """What stands for a kill in the middle of a step."""


class Breaking:
    """The dataset until it has been asked for ``batches``; then the process is gone."""

    def __init__(self, dataset, batches):
        self._dataset, self._left = dataset, batches

    def index(self, split):
        return self._dataset.index(split)

    def load(self, *wanted):
        if not self._left:
            raise Killed
        self._left -= 1
        return self._dataset.load(*wanted)


# --- one training ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory, dataset):
    """``in_one_go(name)``: a trained network and the last state of its training."""

    @functools.cache
    def get(name):
        folder = tmp_path_factory.mktemp(name)
        return trained(name, folder, dataset), checkpoint(name, folder)

    return get


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", [*KINDS.values(), "cnn_mini"])
def test_an_interrupted_training_ends_bit_for_bit_as_a_whole_one(in_one_go, dataset, tmp_path, name, steps):
    net, last = in_one_go(name)
    assert trained(name, tmp_path, dataset, stop_after=steps) is None
    assert checkpoint(name, tmp_path)["step"] == steps
    resumed = trained(name, tmp_path, dataset)
    assert_same(dict(resumed.state_dict()), dict(net.state_dict()))
    assert_same(checkpoint(name, tmp_path), last)


@pytest.mark.parametrize("name", KINDS.values())
def test_a_killed_training_goes_on_from_its_last_checkpoint(in_one_go, dataset, tmp_path, name):
    net, last = in_one_go(name)
    with_teacher(tmp_path)
    with pytest.raises(Killed):
        train(name, tiny(name), session(tmp_path, checkpoint_every=2), Breaking(dataset, 3))
    assert checkpoint(name, tmp_path)["step"] == 2
    resumed = train(name, tiny(name), session(tmp_path), Breaking(dataset, 2))
    assert_same(dict(resumed.state_dict()), dict(net.state_dict()))
    assert_same(checkpoint(name, tmp_path), last)


def test_a_finished_training_is_not_done_again(in_one_go, dataset, tmp_path):
    net, _ = in_one_go("vit_mini")
    trained("vit_mini", tmp_path, dataset)
    again = train("vit_mini", tiny("vit_mini"), session(tmp_path), Breaking(dataset, 0))
    assert_same(dict(again.state_dict()), dict(net.state_dict()))


@pytest.mark.parametrize("name", KINDS.values())
def test_training_moves_the_network_and_leaves_it_ready_for_use(in_one_go, name):
    net, last = in_one_go(name)
    first = build(name, seed=0).state_dict()
    still = [key for key, value in net.state_dict().items() if torch.equal(value, first[key])]
    assert still == []
    assert not any(part.training for part in net.modules())
    assert last["step"] == STEPS


def test_what_self_distillation_gives_is_the_average(in_one_go):
    net, last = in_one_go("dino_mini")
    for key, value in net.state_dict().items():
        assert torch.equal(value, last["objective"][f"average.{key}"])
        assert not torch.equal(value, last["net"][key])


def test_images_are_walked_once_windows_first(dataset, tmp_path, monkeypatch):
    asked, shown = [], []

    class Noting(Breaking):
        def load(self, split, positions, view):
            asked.append((split, list(positions)))
            return super().load(split, positions, view)

    class Watching(training.Labels):
        def loss(self, batch, *, windows, step):
            shown.append((step, windows))
            return super().loss(batch, windows=windows, step=step)

    monkeypatch.setattr(training, "Labels", Watching)
    train("vit_mini", tiny("vit_mini"), session(tmp_path), Noting(dataset, STEPS))
    assert asked == [("train", list(range(6 * step, 6 * step + 6))) for step in range(STEPS)]
    assert shown == [(0, True), (1, True), (2, False), (3, False)]


def test_learning_rates_rise_and_fall_to_zero(dataset, tmp_path, monkeypatch):
    rates = []

    class Watched(training._Run):
        def step(self, loss, progress):
            value = super().step(loss, progress)
            rates.append([group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups])
            return value

    monkeypatch.setattr(training, "_Run", Watched)
    train("vit_mini", tiny("vit_mini", warm_up=0.4), session(tmp_path), dataset)
    # By hand: 0.25 / 0.4, then half a cosine over the other 0.6.
    factors = [0.625, *(0.5 + 0.5 * np.cos(np.pi * (progress - 0.4) / 0.6) for progress in (0.5, 0.75, 1))]
    np.testing.assert_allclose(rates, np.outer(factors, [2e-3, 2e-3, 4e-3]), atol=1e-12)


def test_matrices_inside_the_blocks_go_to_muon_and_only_matrices_decay(dataset, tmp_path, monkeypatch):
    made = []

    class Watched(training._Run):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(training, "_Run", Watched)
    train("vit_mini", tiny("vit_mini"), session(tmp_path, stop_after=1), dataset)
    (run,) = made
    names = {id(value): name for name, value in run.net.named_parameters()}
    groups = [
        ({names[id(value)] for value in group["params"]}, group["weight_decay"])
        for optimiser in run.optimisers
        for group in optimiser.param_groups
    ]
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    inner = {f"blocks.{block}.{layer}.weight" for block in range(6) for layer in layers}
    outer = {"cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight"}
    assert groups == [(outer, 0.05), (set(names.values()) - inner - outer, 0.0), (inner, 0.05)]


@pytest.mark.parametrize("name", KINDS.values())
def test_training_leaves_the_global_random_states_alone(dataset, tmp_path, name):
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = trained(name, tmp_path / "a", dataset)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    torch.manual_seed(2)
    second = trained(name, tmp_path / "b", dataset)
    assert_same(dict(first.state_dict()), dict(second.state_dict()))


def test_a_checkpoint_of_another_recipe_is_refused(dataset, tmp_path):
    trained("vit_mini", tmp_path, dataset, stop_after=1)
    with pytest.raises(WeightsError, match="belongs to another recipe") as raised:
        train("vit_mini", tiny("vit_mini", weight_decay=0.1), session(tmp_path), dataset)
    assert "delete it" in raised.value.hint
    assert "--out" in raised.value.hint


# --- teachers ----------------------------------------------------------------------------------------------------


def test_a_missing_teacher_is_one_clear_error(dataset, tmp_path, package_weights):
    with pytest.raises(WeightsError, match="the teacher cnn_mini has no weights") as raised:
        train("deit_mini", tiny("deit_mini"), session(tmp_path), dataset)
    assert str(tmp_path) in raised.value.message
    assert "harness_mini.train cnn_mini" in raised.value.hint


def test_a_teacher_is_taken_from_the_session_before_the_package(tmp_path, package_weights):
    for seed, folder in ((7, package_weights), (8, tmp_path)):
        net = build("cnn_mini", seed=seed)
        save_file(net.state_dict(), weights_file("cnn_mini", folder))
        assert_same(dict(teacher_of("cnn_mini", tmp_path).state_dict()), dict(net.state_dict()))
    assert not teacher_of("cnn_mini", tmp_path).training


# --- what is kept ------------------------------------------------------------------------------------------------


def count_right(name, file, dataset, head, split="test"):
    """Images of ``split`` that weights in a file get right, by timm's own forward pass."""
    net = build(name, seed=0)
    net.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in file.items()})
    lesson = whole(load(dataset, split, 0, IMAGES))
    with torch.no_grad():
        return int((head(net.eval(), lesson.pixels).argmax(1) == lesson.labels).sum())


def forward(net, pixels):
    return net(pixels)


def halved(net):
    state = dict(net.state_dict())
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def knowing(dataset, *, largest):
    """A network that gets every image of test right, by weights of its head up to ``largest``."""
    net, lesson = build("cnn_mini", seed=3).eval(), whole(load(dataset, "test", 0, IMAGES))
    with torch.no_grad():
        features = net.forward_head(net.forward_features(lesson.pixels), pre_logits=True).double()
        mean = features.mean(dim=0)
        wanted = torch.nn.functional.one_hot(lesson.labels, 12).double() - 1 / 12
        weight = torch.linalg.lstsq(features - mean, wanted, driver="gelsd").solution.T
        weight = weight / weight.abs().max() * largest
        net.fc.weight.copy_(weight)
        net.fc.bias.copy_(-(weight @ mean))
    return net


def test_what_is_published_is_half_as_precise_and_measured_so(dataset, small, tmp_path):
    # Numbers too small for half precision: the rounded network guesses.
    recipe, net = tiny("cnn_mini"), knowing(dataset, largest=1e-8)
    card = publish("cnn_mini", net, recipe, session(tmp_path), seconds=12.4)
    assert card == read_card("cnn_mini", tmp_path)
    file = weights_file("cnn_mini", tmp_path)
    state = load_file(file)
    assert {value.dtype for key, value in state.items() if "num_batches" not in key} == {torch.float16}
    assert_same(state, halved(net))
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["recipe_sha256"] == digest(recipe)
    assert card["recipe"] == recipe.as_dict()
    assert card["data_fingerprint"] == dataset.info.fingerprint
    assert (card["name"], card["seed"], card["seconds"], card["other_seeds"]) == ("cnn_mini", 0, 12, [])
    assert card["parameters"] == sum(value.numel() for value in net.parameters())
    right = count_right("cnn_mini", state, dataset, forward)
    assert right == IMAGES / 12
    assert count_right("cnn_mini", net.state_dict(), dataset, forward) == IMAGES
    interval = wilson(right, IMAGES)
    expected = {
        "value": right / IMAGES,
        "low": interval.low,
        "high": interval.high,
        "interval": "wilson95",
        "n": IMAGES,
    }
    assert card["accuracy"] == {"test": {"head": expected}}


def test_a_stylized_network_is_measured_on_both_kinds_of_images(dataset, small, tmp_path):
    net = knowing(dataset, largest=100.0)
    card = publish("cnn_mini_sin", net, tiny("cnn_mini_sin"), session(tmp_path), seconds=0)
    assert list(card["accuracy"]) == ["stylized", "test"]
    state = load_file(weights_file("cnn_mini_sin", tmp_path))
    for split, of_heads in card["accuracy"].items():
        assert of_heads["head"]["value"] * IMAGES == count_right("cnn_mini_sin", state, dataset, forward, split)
    assert card["accuracy"]["stylized"] != card["accuracy"]["test"]


@pytest.mark.parametrize(("name", "second"), [("deit_mini", "dist"), ("deit_mini_shape", "shape")])
def test_a_distilled_network_is_measured_head_by_head_and_its_teacher_with_it(
    dataset, small, tmp_path, tell_apart, name, second
):
    teacher = tell_apart(build(recipe_of(name).teacher, seed=5))
    save_file(teacher.state_dict(), weights_file(recipe_of(name).teacher, tmp_path))
    card = publish(name, tell_apart(build(name, seed=3)), tiny(name), session(tmp_path), seconds=0)
    state = load_file(weights_file(name, tmp_path))
    by_head = {
        "cls": lambda net, pixels: net.head(net.forward_features(pixels)[:, 0]),
        second: lambda net, pixels: net.head_dist(net.forward_features(pixels)[:, 1]),
        "average": forward,
    }
    found = card["accuracy"]["test"]
    assert list(found) == list(by_head)
    for head, scores in by_head.items():
        assert found[head]["value"] * IMAGES == count_right(name, state, dataset, scores)
    assert found["cls"] != found[second]
    lesson = whole(load(dataset, "train", 0, 200))
    with torch.no_grad():
        agreed = int((teacher(lesson.pixels).argmax(1) == lesson.labels).sum())
    assert card["teacher_agrees_with_label"]["value"] == agreed / 200
    assert card["teacher_agrees_with_label"]["n"] == 200


def test_a_network_without_a_head_has_no_accuracy(small, tmp_path):
    card = publish("dino_mini", build("dino_mini", seed=3), tiny("dino_mini"), session(tmp_path), seconds=0)
    assert card["accuracy"] is None


def test_another_seed_is_entered_in_the_first_ones_card(small, tmp_path):
    def published(seed):
        net = build("cnn_mini", seed=seed)
        return publish("cnn_mini", net, tiny("cnn_mini", seed=seed), session(tmp_path), seconds=0)

    first, second, third = published(0), published(2), published(1)
    assert read_card("cnn_mini.seed2", tmp_path) == second
    assert "other_seeds" not in second
    card = read_card("cnn_mini", tmp_path)
    assert card == {**first, "other_seeds": card["other_seeds"]}
    entries = [{key: other[key] for key in ("seed", "sha256", "accuracy")} for other in (third, second)]
    assert card["other_seeds"] == entries
    published(2)
    assert read_card("cnn_mini", tmp_path)["other_seeds"] == entries
    files = {name: weights_file(name, tmp_path) for name in ("cnn_mini", "cnn_mini.seed1", "cnn_mini.seed2")}
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files.values()}) == 3


def test_a_seed_of_another_recipe_is_not_entered(small, tmp_path):
    publish("cnn_mini", build("cnn_mini", seed=0), tiny("cnn_mini"), session(tmp_path), seconds=0)
    other = tiny("cnn_mini", seed=1, weight_decay=0.1)
    with pytest.raises(WeightsError, match="seed 1 was trained by another recipe than seed 0"):
        publish("cnn_mini", build("cnn_mini", seed=1), other, session(tmp_path), seconds=0)
    assert read_card("cnn_mini", tmp_path)["other_seeds"] == []


def test_a_seed_trained_before_the_first_keeps_its_own_card(small, tmp_path):
    publish("cnn_mini", build("cnn_mini", seed=1), tiny("cnn_mini", seed=1), session(tmp_path), seconds=0)
    assert card_file("cnn_mini.seed1", tmp_path).is_file()
    assert not card_file("cnn_mini", tmp_path).exists()


# --- the command -------------------------------------------------------------------------------------------------


def command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_trains_publishes_and_clears_up(tiny_recipes, dataset, tmp_path):
    out = tmp_path / "new" / "zoo"
    done = command("vit_mini", "--out", out, "--device", "cpu")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    card = read_card("vit_mini", out)
    assert answer == {
        "name": "vit_mini", "file": str(weights_file("vit_mini", out)), "accuracy": card["accuracy"],
    }  # fmt: skip
    assert sorted(file.name for file in out.iterdir()) == ["vit_mini.json", "vit_mini.safetensors"]
    expected = train("vit_mini", tiny_recipes["vit_mini"], session(tmp_path / "again"), dataset)
    assert_same(load_file(weights_file("vit_mini", out)), halved(expected))


def test_weights_that_are_there_are_not_trained_again_unless_asked(tiny_recipes, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        training, "train", lambda name, recipe, session: calls.append(name) or build(name, seed=len(calls))
    )
    for arguments, times in (((), 1), ((), 1), (("--again",), 2), (("--seed", 1), 3), (("--seed", 1), 3)):
        done = command("cnn_mini", "--out", tmp_path, "--device", "cpu", *arguments)
        assert done.exit_code == 0, done.output
        assert len(calls) == times
        assert ("is there already; --again" in done.stderr) == (done.stdout == "")
    assert [other["seed"] for other in read_card("cnn_mini", tmp_path)["other_seeds"]] == [1]


def test_weights_whose_measuring_was_killed_get_their_card(tiny_recipes, tmp_path, monkeypatch):
    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "_measured", killed)
        assert isinstance(command("cnn_mini", "--out", tmp_path, "--device", "cpu").exception, Killed)
    file = weights_file("cnn_mini", tmp_path)
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    assert command("cnn_mini", "--out", tmp_path, "--device", "cpu").exit_code == 0
    assert read_card("cnn_mini", tmp_path)["sha256"] == before == hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_unknown_name_is_told_before_anything_is_trained(tiny_recipes, tmp_path):
    done = command("cnn_mini", "cnn_minni", "--out", tmp_path, "--device", "cpu")
    assert done.exit_code == 2
    assert "no recipe named 'cnn_minni'" in done.stderr
    assert "cnn_mini" in done.stderr.split("hint:")[1]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_teacher_ends_the_command_without_a_traceback(tiny_recipes, tmp_path, package_weights):
    done = command("deit_mini", "--out", tmp_path / "zoo", "--device", "cpu")
    assert done.exit_code == WeightsError.exit_code
    assert done.stderr.count("error: the teacher cnn_mini has no weights") == 1
    assert "Traceback" not in done.output


def test_an_unknown_device_is_a_usage_error(tiny_recipes, tmp_path):
    done = command("cnn_mini", "--out", tmp_path, "--device", "abacus")
    assert done.exit_code == 2
    assert "--device takes auto, cpu, cuda or cuda:N, not 'abacus'" in done.stderr
