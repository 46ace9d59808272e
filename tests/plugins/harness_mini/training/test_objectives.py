"""Objectives against their formulas in NumPy, and what they must leave alone: teachers, averages, random states."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch.nn import functional

from harness_mini.networks import build
from harness_mini.shapes_dataset import Shapes
from harness_mini.training import objectives
from harness_mini.training.lessons import CELLS, final_tokens, heads, load, whole, window, window_about_object
from harness_mini.training.objectives import Labels, SelfDistillation, SoftDistillation
from harness_mini.training.recipes import recipe_of

CPU = torch.device("cpu")
LARGE, SMALL = 2, 4


@pytest.fixture(scope="module")
def batch():
    return load(Shapes(images=144, train_images=144), "train", 0, 6)


def self_distillation(net, **changes):
    return SelfDistillation(net, dataclasses.replace(recipe_of("dino_mini"), **changes), CPU)


def moved(net, by=0.1, seed=0):
    """The network with every parameter off its place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(by * torch.randn(value.shape, generator=generator))
    return net


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("name", ["vit_mini", "patchconv_mini"])
def test_labels_cost_their_cross_entropy(batch, name, windows):
    net = build(name, seed=0)
    lesson = window_about_object(batch, 7, seed=0) if windows else whole(batch)
    found = Labels(net, recipe_of(name), CPU).loss(batch, windows=windows, step=0)
    (scores,) = heads(net, lesson)
    expected = -log_softmax(scores.detach().numpy(), axis=1)[np.arange(6), batch.labels].mean()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_labels_of_a_distilled_network_are_asked_of_both_heads(batch):
    net = moved(build("deit_mini", seed=0))
    found = Labels(net, recipe_of("deit_mini"), CPU).loss(batch, windows=False, step=0)
    losses = [functional.cross_entropy(scores, batch.labels).item() for scores in heads(net, whole(batch))]
    assert losses[0] != losses[1]
    assert found.item() == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_labels_teach_every_parameter(batch):
    net = moved(build("vit_mini", seed=0))
    Labels(net, recipe_of("vit_mini"), CPU).loss(batch, windows=True, step=0).backward()
    assert [name for name, value in net.named_parameters() if value.grad is None] == []


def test_windows_are_those_of_the_recipes_seed(batch):
    net = moved(build("vit_mini", seed=0))
    losses = {
        seed: Labels(net, dataclasses.replace(recipe_of("vit_mini"), seed=seed), CPU)
        .loss(batch, windows=True, step=0)
        .item()
        for seed in (0, 1)
    }
    for seed, loss in losses.items():
        (scores,) = heads(net, window_about_object(batch, 7, seed=seed))
        assert loss == pytest.approx(functional.cross_entropy(scores, batch.labels).item(), rel=1e-6)
    assert losses[0] != losses[1]


# --- soft distillation -------------------------------------------------------------------------------------------


@pytest.fixture
def taught():
    """A distilled network and a teacher that is as certain as a trained one."""
    net, teacher = moved(build("deit_mini", seed=0)), build("cnn_mini", seed=1)
    with torch.no_grad():
        teacher.fc.weight.mul_(20)
    return net, teacher


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_distillation_is_its_formula(batch, taught, windows, temperature):
    """Half cross-entropy of the class token, half T^2 KL(teacher_T || second token_T)."""
    net, teacher = taught
    recipe = dataclasses.replace(recipe_of("deit_mini"), temperature=temperature)
    objective = SoftDistillation(net, recipe, CPU, teacher)
    found = objective.loss(batch, windows=windows, step=0)
    lesson = window_about_object(batch, 7, seed=0) if windows else whole(batch)
    with torch.no_grad():
        by_class, by_second = (scores.double().numpy() for scores in heads(net, lesson))
        by_teacher = teacher.eval()(lesson.pixels).double().numpy()
    taught_to, learned = softmax(by_teacher / temperature, axis=1), softmax(by_second / temperature, axis=1)
    divergence = (taught_to * np.log(taught_to / learned)).sum(axis=1).mean()
    entropy = -log_softmax(by_class, axis=1)[np.arange(6), batch.labels].mean()
    assert divergence > 0.01
    assert found.item() == pytest.approx((entropy + temperature**2 * divergence) / 2, rel=1e-4)


def test_the_second_head_learns_from_the_teacher_and_the_first_from_the_labels(batch, taught):
    net, teacher = taught
    losses = {}
    for name, labels in (("true", batch.labels), ("wrong", (batch.labels + 1) % 12)):
        net.zero_grad()
        objective = SoftDistillation(net, recipe_of("deit_mini"), CPU, teacher)
        objective.loss(dataclasses.replace(batch, labels=labels), windows=False, step=0).backward()
        losses[name] = net.head.weight.grad.clone(), net.head_dist.weight.grad.clone()
    assert not torch.equal(losses["true"][0], losses["wrong"][0])
    assert torch.equal(losses["true"][1], losses["wrong"][1])


def test_the_teacher_learns_nothing_and_measures_no_batch(batch, taught):
    net, teacher = taught
    teacher.train()
    before = state_of(teacher)
    objective = SoftDistillation(net, recipe_of("deit_mini"), CPU, teacher)
    objective.loss(batch, windows=False, step=0).backward()
    assert not any(part.training for part in teacher.modules())
    assert all(value.grad is None for value in teacher.parameters())
    assert same(state_of(teacher), before)
    assert [name for name, value in net.named_parameters() if value.grad is None] == []


def test_a_teacher_is_no_part_of_a_checkpoint(taught):
    net, teacher = taught
    assert SoftDistillation(net, recipe_of("deit_mini"), CPU, teacher).module.state_dict() == {}


# --- self distillation -------------------------------------------------------------------------------------------


@pytest.fixture
def network():
    return moved(build("dino_mini", seed=0))


def test_self_distillation_teaches_the_network_and_not_its_average(batch, network):
    objective = self_distillation(network)
    loss = objective.loss(batch, windows=False, step=0)
    loss.backward()
    assert math.isfinite(loss.item())
    learning = [*network.named_parameters(), *objective.module["projection"].named_parameters()]
    assert [name for name, value in learning if value.grad is None or not value.grad.any()] == []
    for part in ("average", "average_projection", "centre"):
        assert all(value.grad is None and not value.requires_grad for value in objective.module[part].parameters())


def test_self_distillation_sees_no_labels_and_no_masks(batch, network):
    blind = dataclasses.replace(batch, labels=torch.zeros_like(batch.labels), masks=None)
    losses = [self_distillation(network).loss(images, windows=False, step=0).item() for images in (batch, blind)]
    assert losses[0] == losses[1]


def test_the_average_begins_as_the_network(network):
    objective = self_distillation(network)
    assert same(state_of(objective.module["average"]), state_of(network))
    assert same(state_of(objective.module["average_projection"]), state_of(objective.module["projection"]))


def recorded_views(monkeypatch, objective):
    """What each network of ``objective`` is shown while it is asked for a loss."""
    shown = []

    def spy(net, view):
        shown.append((net is objective.module["average"], view))
        return final_tokens(net, view)

    monkeypatch.setattr(objectives, "final_tokens", spy)
    return shown


def test_self_distillation_is_its_formula_over_pairs_of_different_windows(batch, network, monkeypatch):
    """Caron et al. (ICCV 2021), equation 3: each large window of the average with every other of the network."""
    objective = self_distillation(network)
    moved(objective.module["average"], seed=1)
    objective.module["centre"].value.normal_(std=0.05, generator=torch.Generator().manual_seed(2))
    centre = objective.module["centre"].value.double().numpy().copy()
    shown = recorded_views(monkeypatch, objective)
    found = objective.loss(batch, windows=False, step=0)
    of_average = [view for is_average, view in shown if is_average]
    of_network = [view for is_average, view in shown if not is_average]
    assert [len(view.pixels) for view in of_average] == [6] * LARGE
    assert [len(view.pixels) for view in of_network] == [6 * LARGE, 6 * SMALL]

    def scores(net, projection, view):
        tokens = final_tokens(net, view)[:, 0]
        with torch.no_grad():
            hidden = projection[:-1](tokens)
            cosines = functional.cosine_similarity(hidden[:, None], projection[-1].weight[None], dim=2)
        return cosines.double().numpy()

    with torch.no_grad():
        given = [scores(objective.module["average"], objective.module["average_projection"], v) for v in of_average]
        learned = np.concatenate([scores(network, objective.module["projection"], v) for v in of_network])
    learned = np.split(learned, LARGE + SMALL)
    losses = [
        -(softmax((target - centre) / 0.04, axis=1) * log_softmax(mine / 0.1, axis=1)).sum(axis=1).mean()
        for i, target in enumerate(given)
        for j, mine in enumerate(learned)
        if i != j
    ]
    assert len(losses) == LARGE * (LARGE + SMALL - 1)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-4)
    # The network's first windows are the average's, so that the pairs left out are those of one window with itself.
    for part, view in enumerate(of_average):
        assert torch.equal(of_network[0].pixels[6 * part : 6 * part + 6], view.pixels)
    expected = 0.9 * centre + 0.1 * np.concatenate(given).mean(axis=0)
    np.testing.assert_allclose(objective.module["centre"].value.numpy(), expected, atol=1e-5)


def test_windows_differ_by_place_size_and_colour_and_lie_inside(batch, network, monkeypatch):
    objective = self_distillation(network)
    shown = recorded_views(monkeypatch, objective)
    objective.loss(batch, windows=False, step=0)
    for is_average, view in shown:
        cells = view.pixels.shape[-1] // 4
        assert cells in ((10,) if is_average else (10, 7))
        assert view.corner.min() >= 0
        assert view.corner.max() <= CELLS - cells
        plain = window(batch, view.corner[:6], cells).pixels
        # Channels are mixed, so every pixel of one colour gets one other colour: an affine map of three numbers.
        for mine, original in zip(view.pixels[:6], plain, strict=True):
            assert not torch.equal(mine, original)
            known = torch.cat([original.flatten(1), torch.ones(1, cells * cells * 16)]).T
            rest = known @ torch.linalg.lstsq(known, mine.flatten(1).T).solution - mine.flatten(1).T
            assert rest.abs().max() < 1e-3
    corners = torch.cat([view.corner for is_average, view in shown if not is_average])
    assert len(corners.unique(dim=0)) > len(batch)


def test_a_loss_is_the_same_for_the_same_images_in_any_order(batch, network):
    order = [3, 1, 5, 0, 4, 2]
    mixed = dataclasses.replace(
        batch, images=batch.images[order], labels=batch.labels[order], masks=batch.masks[order],
        ids=tuple(batch.ids[i] for i in order), positions=batch.positions[order],
        columns={name: column[order] for name, column in batch.columns.items()},
    )  # fmt: skip
    losses = [self_distillation(network).loss(images, windows=False, step=0).item() for images in (batch, mixed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.75])
def test_the_average_follows_by_the_schedule(network, progress):
    objective = self_distillation(network)
    average, projection = objective.module["average"], objective.module["average_projection"]
    before = copy.deepcopy(average), copy.deepcopy(projection)
    moved(network, seed=3)
    moved(objective.module["projection"], seed=4)
    objective.after_step(progress)
    momentum = 1 - 0.01 * (math.cos(math.pi * progress) + 1) / 2
    for old, new, target in ((before[0], average, network), (before[1], projection, objective.module["projection"])):
        for a, b, c in zip(old.parameters(), new.parameters(), target.parameters(), strict=True):
            torch.testing.assert_close(b, momentum * a + (1 - momentum) * c)
            assert not torch.equal(a, b)


def test_the_average_stands_still_at_the_end(network):
    objective = self_distillation(network)
    before = state_of(objective.module)
    moved(network, seed=3)
    objective.after_step(1.0)
    assert same(state_of(objective.module), before)


def test_everything_but_the_network_is_part_of_a_checkpoint(batch, network):
    objective = self_distillation(network)
    moved(network, seed=3)
    objective.loss(batch, windows=False, step=0)
    objective.after_step(0.5)
    resumed = self_distillation(network)
    resumed.module.load_state_dict(objective.module.state_dict())
    losses = [each.loss(batch, windows=False, step=1).item() for each in (objective, resumed)]
    assert losses[0] == losses[1]


def test_prototypes_follow_the_seed(network):
    weights = [self_distillation(network, seed=seed).module["projection"][-1].weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- all ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "soft_distillation", "self_distillation"])
def test_the_global_random_state_is_neither_read_nor_moved(batch, kind):
    def loss():
        if kind == "labels":
            objective = Labels(build("vit_mini", seed=0), recipe_of("vit_mini"), CPU)
        elif kind == "soft_distillation":
            net, teacher = build("deit_mini", seed=0), build("cnn_mini", seed=0)
            objective = SoftDistillation(net, recipe_of("deit_mini"), CPU, teacher)
        else:
            objective = self_distillation(build("dino_mini", seed=0))
        value = objective.loss(batch, windows=True, step=0).item()
        objective.after_step(0.5)
        return value

    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # the global state is what must not be touched
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        found.append(loss())
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert found[0] == found[1]
