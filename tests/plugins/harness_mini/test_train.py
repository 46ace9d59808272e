"""Training: a killed run ends bit for bit where a whole one does, and what is published is what was measured."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from harness.errors import WeightsError
from harness.stats import wilson
from harness_mini import train as training
from harness_mini.cards import card_file, read_card, weights_file, write_card
from harness_mini.networks import build
from harness_mini.shapes_dataset import Shapes
from harness_mini.train import main, train
from harness_mini.training import publishing, recipes
from harness_mini.training.lessons import load, whole
from harness_mini.training.publishing import publish
from harness_mini.training.recipes import digest, recipe_of
from harness_mini.training.session import Session, Trained, noted_signals
from harness_mini.training.teachers import teacher_of

CPU = torch.device("cpu")
TINY = {"window_images": 12, "whole_images": 12, "batch_size": 6}
"""Two steps on windows and two on whole images."""
STEPS = 4
IMAGES = 144
KINDS = {"labels": "vit_mini", "soft_distillation": "deit_mini", "self_distillation": "dino_mini"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads add up the gradients of position embeddings in an order of their own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset():
    return Shapes(images=IMAGES, train_images=IMAGES)


@pytest.fixture
def small(monkeypatch, dataset):
    """Accuracies are those of few images, and a teacher is asked about 200."""
    for module in (training, publishing):
        monkeypatch.setattr(module, "Shapes", lambda: dataset)
    monkeypatch.setattr(publishing, "_agreement", functools.partial(publishing._agreement, images=200))


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


def with_teacher(folder, seed=5):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(build("cnn_mini", seed=seed).state_dict(), weights_file("cnn_mini", folder))
    return folder


def net_of(done):
    return None if done is None else done.net


def trained(name, folder, dataset, **changes):
    return net_of(train(name, tiny(name), session(with_teacher(folder), **changes), dataset))


def published(name, net, recipe, folder, *, seconds=0):
    sha256 = None if recipe.teacher is None else teacher_of(recipe.teacher, folder).sha256
    return publish(name, Trained(net=net, seconds=seconds, teacher_sha256=sha256), recipe, session(folder))


def checkpoint_file(name, folder):
    return folder / f"{name}.seed0.checkpoint.pt"


def checkpoint(name, folder):
    """What the next step depends on; how long the steps before it took is another matter."""
    state = torch.load(checkpoint_file(name, folder), weights_only=True)
    assert state.pop("seconds") >= 0
    return state


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


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
        self.info = dataset.info

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
    resumed = net_of(train(name, tiny(name), session(tmp_path), Breaking(dataset, 2)))
    assert_same(dict(resumed.state_dict()), dict(net.state_dict()))
    assert_same(checkpoint(name, tmp_path), last)


def test_a_finished_training_is_not_done_again(in_one_go, dataset, tmp_path):
    net, _ = in_one_go("vit_mini")
    trained("vit_mini", tmp_path, dataset)
    again = net_of(train("vit_mini", tiny("vit_mini"), session(tmp_path), Breaking(dataset, 0)))
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

    class Watched(training.Run):
        def step(self, loss, progress):
            value = super().step(loss, progress)
            rates.append([group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups])
            return value

    monkeypatch.setattr(training, "Run", Watched)
    train("vit_mini", tiny("vit_mini", warm_up=0.4), session(tmp_path), dataset)
    # By hand: 0.25 / 0.4, then half a cosine over the other 0.6.
    factors = [0.625, *(0.5 + 0.5 * np.cos(np.pi * (progress - 0.4) / 0.6) for progress in (0.5, 0.75, 1))]
    np.testing.assert_allclose(rates, np.outer(factors, [2e-3, 2e-3, 4e-3]), atol=1e-12)


def test_matrices_inside_the_blocks_go_to_muon_and_only_matrices_decay(dataset, tmp_path, monkeypatch):
    made = []

    class Watched(training.Run):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(training, "Run", Watched)
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


# --- checkpoints -------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_recipe_is_refused(dataset, tmp_path):
    trained("vit_mini", tmp_path, dataset, stop_after=1)
    with pytest.raises(WeightsError, match="belongs to another recipe\n") as raised:
        train("vit_mini", tiny("vit_mini", weight_decay=0.1), session(tmp_path), dataset)
    assert "delete it" in raised.value.hint
    assert "--out" in raised.value.hint


def test_a_checkpoint_of_other_data_or_another_teacher_is_refused(dataset, tmp_path):
    trained("deit_mini", tmp_path, dataset, stop_after=1)
    other = Shapes(images=IMAGES, train_images=IMAGES, seed=1)
    for seed, images, found in (
        (6, dataset, "teacher"),
        (5, other, "dataset"),
        (6, other, "dataset and another teach"),
    ):
        with_teacher(tmp_path, seed)
        with pytest.raises(WeightsError, match=f"belongs to another {found}"):
            train("deit_mini", tiny("deit_mini"), session(tmp_path), images)
    assert trained("deit_mini", tmp_path, dataset) is not None


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without(key):
    def change(file):
        state = torch.load(file, weights_only=True)
        del state[key]
        torch.save(state, file)

    return change


def of_another_network(file):
    torch.save({**torch.load(file, weights_only=True), "net": build("cnn_mini", seed=0).state_dict()}, file)


@pytest.mark.parametrize(
    "breaks",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"garbage" * 100),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({"step": 1}, file),
        lambda file: torch.save(Killed(), file),
        truncated,
        without("optimisers"),
        without("seconds"),
        of_another_network,
    ],
    ids=["empty", "garbage", "list", "other", "object", "truncated", "no_optimisers", "no_seconds", "another_network"],
)
def test_a_broken_checkpoint_is_one_clear_error(dataset, tiny_recipes, tmp_path, breaks):
    trained("vit_mini", tmp_path, dataset, stop_after=1)
    file = checkpoint_file("vit_mini", tmp_path)
    breaks(file)
    done = command("vit_mini", "--out", tmp_path, "--device", "cpu")
    assert done.exit_code == WeightsError.exit_code
    assert done.stderr.startswith(f"error: {file} is no whole checkpoint: ")
    assert done.stderr.endswith("\n  hint: delete it to train anew\n")
    assert len(done.stderr.splitlines()) == 2
    file.unlink()
    assert command("vit_mini", "--out", tmp_path, "--device", "cpu").exit_code == 0


class Clock:
    """Seconds that pass only while a batch is loaded, ``seconds`` for each."""

    def __init__(self, seconds):
        self.now, self._seconds = 100.0, seconds

    def __call__(self):
        return self.now

    def dataset(self, dataset, batches):
        clock = self

        class Slow(Breaking):
            def load(self, *wanted):
                clock.now += clock._seconds
                return super().load(*wanted)

        return Slow(dataset, batches)


@pytest.mark.parametrize(("seconds", "kept"), [(31, 3), (15, 2), (10, 3), (9, None)])
def test_checkpoints_are_made_by_time_too(dataset, tmp_path, seconds, kept):
    clock = Clock(seconds)
    with pytest.raises(Killed):
        train("vit_mini", tiny("vit_mini"), session(tmp_path, clock=clock), clock.dataset(dataset, 3))
    assert checkpoint_file("vit_mini", tmp_path).exists() == (kept is not None)
    assert kept is None or checkpoint("vit_mini", tmp_path)["step"] == kept


def test_seconds_are_those_of_every_session_and_the_second_says_where_it_goes_on(dataset, tmp_path, capsys):
    clock = Clock(7)
    given = session(tmp_path, clock=clock, stop_after=3)
    assert train("vit_mini", tiny("vit_mini"), given, clock.dataset(dataset, 3)) is None
    assert "going on" not in capsys.readouterr().err
    clock.now += 1000  # between the sessions
    done = train("vit_mini", tiny("vit_mini"), session(tmp_path, clock=clock), clock.dataset(dataset, 1))
    assert done.seconds == 28
    assert capsys.readouterr().err.startswith("vit_mini: going on from step 3 of 4\n")
    clock.now += 1000
    again = train("vit_mini", tiny("vit_mini"), session(tmp_path, clock=clock), clock.dataset(dataset, 0))
    assert again.seconds == 28


class Signalled(Breaking):
    """The dataset, in whose second batch the process gets a signal."""

    def __init__(self, dataset, number):
        super().__init__(dataset, 2)
        self._number = number

    def load(self, *wanted):
        if self._left == 1:
            os.kill(os.getpid(), self._number)
        return super().load(*wanted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_and_keeps_it(in_one_go, tiny_recipes, dataset, tmp_path, monkeypatch, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "Shapes", lambda: Signalled(dataset, number))
        done = command("vit_mini", "--out", tmp_path, "--device", "cpu")
    assert done.exit_code == 130
    assert "vit_mini: interrupted; step 2 of 4 is kept" in done.stderr
    assert "Aborted" not in done.output
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert checkpoint("vit_mini", tmp_path)["step"] == 2
    assert_same(dict(trained("vit_mini", tmp_path, dataset).state_dict()), dict(in_one_go("vit_mini")[0].state_dict()))


def test_an_interruption_outside_the_steps_ends_with_the_same_code(tiny_recipes, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "_measured", interrupted)
    done = command("cnn_mini", "--out", tmp_path, "--device", "cpu")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (130, "interrupted")


def test_the_second_signal_ends_at_once():
    with noted_signals() as noted:
        os.kill(os.getpid(), signal.SIGINT)
        assert noted.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_thread_trains_without_catching_signals():
    before, seen = signal.getsignal(signal.SIGINT), []

    def run():
        with noted_signals() as noted:
            seen.append((noted.is_set(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


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
        teacher = teacher_of("cnn_mini", tmp_path)
        assert_same(dict(teacher.net.state_dict()), dict(net.state_dict()))
        assert teacher.sha256 == sha256(weights_file("cnn_mini", folder))
    assert not teacher_of("cnn_mini", tmp_path).net.training


def test_a_teacher_is_held_against_the_card_beside_it(dataset, tmp_path, package_weights):
    for folder in (tmp_path, package_weights):
        file = weights_file("cnn_mini", with_teacher(folder))
        write_card("cnn_mini", {"sha256": sha256(file)}, folder)
        assert teacher_of("cnn_mini", tmp_path).sha256 == sha256(file)
        with_teacher(folder, seed=6)
        with pytest.raises(WeightsError, match="is not the file that its card speaks of") as raised:
            train("deit_mini", tiny("deit_mini"), session(tmp_path), dataset)
        assert str(file) in raised.value.message
        assert "harness_mini.train cnn_mini --again" in raised.value.hint
        file.unlink()


def test_a_teacher_that_was_replaced_meanwhile_is_not_put_on_the_card(dataset, small, tmp_path):
    done = train("deit_mini", tiny("deit_mini"), session(with_teacher(tmp_path)), dataset)
    with_teacher(tmp_path, seed=6)
    with pytest.raises(WeightsError, match="learned from another cnn_mini"):
        publish("deit_mini", done, tiny("deit_mini"), session(tmp_path))
    assert not weights_file("deit_mini", tmp_path).exists()


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
    """A network that gets nearly every image of test right, by weights of its head up to ``largest``."""
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
    card = published("cnn_mini", net, recipe, tmp_path, seconds=12.4)
    assert card == read_card("cnn_mini", tmp_path)
    file = weights_file("cnn_mini", tmp_path)
    state = load_file(file)
    assert {value.dtype for key, value in state.items() if "num_batches" not in key} == {torch.float16}
    assert_same(state, halved(net))
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["recipe_sha256"] == digest(recipe)
    assert card["recipe"] == recipe.as_dict()
    assert "teacher_sha256" not in card
    assert card["data_fingerprint"] == dataset.info.fingerprint
    assert (card["name"], card["seed"], card["seconds"], card["other_seeds"]) == ("cnn_mini", 0, 12, [])
    assert card["parameters"] == sum(value.numel() for value in net.parameters())
    right = count_right("cnn_mini", state, dataset, forward)
    assert right == IMAGES / 12
    assert count_right("cnn_mini", net.state_dict(), dataset, forward) > 0.9 * IMAGES
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
    card = published("cnn_mini_sin", net, tiny("cnn_mini_sin"), tmp_path)
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
    card = published(name, tell_apart(build(name, seed=3)), tiny(name), tmp_path)
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
    assert card["teacher_sha256"] == sha256(weights_file(recipe_of(name).teacher, tmp_path))


def test_a_network_without_a_head_has_no_accuracy(small, tmp_path):
    card = published("dino_mini", build("dino_mini", seed=3), tiny("dino_mini"), tmp_path)
    assert card["accuracy"] is None


def seed_published(seed, folder, **changes):
    return published("cnn_mini", build("cnn_mini", seed=seed), tiny("cnn_mini", seed=seed, **changes), folder)


def entries(*cards):
    return [{key: card[key] for key in ("seed", "sha256", "accuracy")} for card in cards]


def test_another_seed_is_entered_in_the_first_ones_card(small, tmp_path):
    first, second, third = (seed_published(seed, tmp_path) for seed in (0, 2, 1))
    assert read_card("cnn_mini.seed2", tmp_path) == second
    assert "other_seeds" not in second
    assert read_card("cnn_mini", tmp_path) == {**first, "other_seeds": entries(third, second)}
    seed_published(2, tmp_path)
    assert read_card("cnn_mini", tmp_path)["other_seeds"] == entries(third, second)
    files = {name: weights_file(name, tmp_path) for name in ("cnn_mini", "cnn_mini.seed1", "cnn_mini.seed2")}
    assert len({sha256(file) for file in files.values()}) == 3


def test_a_seed_of_another_recipe_is_not_entered(small, tmp_path):
    seed_published(0, tmp_path)
    with pytest.raises(WeightsError, match="seed 1 has another recipe than seed 0"):
        seed_published(1, tmp_path, weight_decay=0.1)
    assert read_card("cnn_mini", tmp_path)["other_seeds"] == []
    assert not weights_file("cnn_mini.seed1", tmp_path).exists()


def test_the_first_seed_collects_those_that_were_trained_before_it(small, tmp_path):
    third, second = seed_published(12, tmp_path), seed_published(2, tmp_path)
    assert card_file("cnn_mini.seed2", tmp_path).is_file()
    assert not card_file("cnn_mini", tmp_path).exists()
    seed_published(3, tmp_path, weight_decay=0.1)
    card_file("cnn_mini.seed4", tmp_path).write_text("{")
    write_card("cnn_mini.seed5", second, tmp_path)
    for _ in range(2):
        card = seed_published(0, tmp_path)
        assert card["other_seeds"] == entries(second, third)
        assert read_card("cnn_mini", tmp_path) == card


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
    expected = net_of(train("vit_mini", tiny_recipes["vit_mini"], session(tmp_path / "again"), dataset))
    assert_same(load_file(weights_file("vit_mini", out)), halved(expected))


def test_weights_that_are_there_are_not_trained_again_unless_asked(tiny_recipes, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        training,
        "train",
        lambda name, recipe, session: calls.append(name) or Trained(net=build(name, seed=len(calls)), seconds=0),
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
        patch.setattr(publishing, "_measured", killed)
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


@pytest.mark.parametrize("given", ["meta", "cuda:99", "nonsense", "cpu:x"])
def test_a_device_that_cannot_compute_is_a_usage_error_before_anything_starts(tiny_recipes, tmp_path, given):
    done = command("cnn_mini", "--out", tmp_path / "zoo", "--device", given)
    assert done.exit_code == 2
    assert "Usage:" in done.stderr
    assert given in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card and its driver")
def test_cuda_without_a_driver_is_a_usage_error(tiny_recipes, tmp_path):
    done = command("cnn_mini", "--out", tmp_path / "zoo", "--device", "cuda")
    assert done.exit_code == 2
    assert "Error: --device cuda: cannot compute there: " in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_recipe_or_of_another_card_are_not_taken_for_these(tiny_recipes, tmp_path, monkeypatch):
    arguments = ("cnn_mini", "--out", tmp_path, "--device", "cpu")
    assert command(*arguments).exit_code == 0
    file = weights_file("cnn_mini", tmp_path)

    def refused(fault, *others):
        before = sha256(file)
        done = command(*others, *arguments)
        assert done.exit_code == WeightsError.exit_code
        assert fault in done.stderr
        assert "--again" in done.stderr.split("hint:")[1]
        assert sha256(file) == before
        assert sorted(each.name for each in tmp_path.iterdir()) == ["cnn_mini.json", "cnn_mini.safetensors"]

    with monkeypatch.context() as patch:
        other = dataclasses.replace(tiny_recipes["cnn_mini"], weight_decay=0.1)
        patch.setattr(recipes, "RECIPES", {**tiny_recipes, "cnn_mini": other})
        refused("was trained by another recipe", "vit_mini")
        # Another seed would be entered in that card.
        refused("seed 1 has another recipe than seed 0", "--seed", 1)
    with_teacher(tmp_path)
    refused("is not the file that its card speaks of")
    card_file("cnn_mini", tmp_path).write_text("{}")
    refused("is no card")
    assert command(*arguments, "--again").exit_code == 0
    assert read_card("cnn_mini", tmp_path)["sha256"] == sha256(file)
