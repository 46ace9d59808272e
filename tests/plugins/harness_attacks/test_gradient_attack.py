"""What the gradient attacks share: levels, modes, precision, goals, errors, and what they record."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.errors import HarnessError, ParameterError
from harness.protocols import Perturbation
from harness.testing.sample import tiny_model
from harness.types import OutputSpec
from harness_attacks.fgsm import FGSM
from harness_attacks.losses import has_succeeded
from harness_attacks.mifgsm import MIFGSM
from harness_attacks.objective import Objective
from harness_attacks.parameters import EPS_255, GradientParams
from harness_attacks.pgd import PGD
from harness_attacks.plugin import harness_register_perturbations

ATTACKS = {"fgsm": FGSM, "pgd": PGD, "mifgsm": MIFGSM}
every_attack = pytest.mark.parametrize("make", ATTACKS.values(), ids=ATTACKS)


@every_attack
def test_it_is_what_its_entry_says(make):
    attack = make()
    (entry,) = [entry for entry in harness_register_perturbations() if entry.target.endswith(f":{make.__name__}")]
    info = attack.info
    assert isinstance(attack, Perturbation)
    assert (info.name, info.level, info.stochastic) == (entry.name, EPS_255, entry.stochastic)
    assert (info.needs_target, info.keyed) == (True, False)
    assert info.params == dataclasses.asdict(entry.params())
    assert info.stream == ("attack.pgd" if entry.name == "pgd" else None)


@every_attack
def test_level_0_returns_the_images_without_asking_the_target(make, networks, pictures, ready, applied, counted):
    target, batch = counted(networks["conv"]), pictures()
    found = applied(ready(make(), target), batch, 0.0)
    assert torch.equal(found.images, batch.images)
    assert target.images == 0
    assert {name: column.tolist() for name, column in found.realised.items()} == {
        "zero_gradient": [0.0] * 6,
        "gradient_steps": [0.0] * 6,
    }


@every_attack
def test_levels_beyond_the_range_of_a_pixel_are_for_l2_alone(make, networks, pictures, ready, applied):
    batch = pictures()
    with pytest.raises(ParameterError, match=r"\[0, 255\] for norm=linf"):
        applied(ready(make(), networks["conv"]), batch, 256.0)
    applied(ready(make(norm="l2"), networks["conv"]), batch, 256.0)
    for level in (-1.0, 1e6):
        with pytest.raises(ParameterError, match="eps_255"):
            applied(ready(make(norm="l2"), networks["conv"]), batch, level)
    with pytest.raises(ParameterError, match="needs an eps_255"):
        applied(ready(make(), networks["conv"]), batch, None)


@every_attack
@pytest.mark.parametrize("given", [{}, {"goal": "next"}, {"loss": "margin"}])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_mode_of_the_caller_and_the_order_of_pixels_do_not_matter(
    make, given, order, networks, pictures, ready, applied
):
    batch = pictures()
    expected = applied(ready(make(**given), networks["vit"]), batch, 4.0).images
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            images = batch.images.clone(memory_format=order)
            inside = dataclasses.replace(batch, images=images, labels=batch.labels.clone())
            found = applied(ready(make(**given), networks["vit"]), inside, 4.0).images
        assert torch.equal(found, expected)
        assert not found.requires_grad
        assert not found.is_inference()
        assert found.is_contiguous()


@every_attack
def test_weights_get_no_gradient_and_stay_what_they_are(make, pictures, ready, applied):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 8 * 8, 10)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batch = pictures()
    result = applied(ready(make(), net), batch, 4.0).images
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training
    assert batch.images.grad is None
    assert result.grad_fn is None


@every_attack
def test_random_goals_are_those_of_the_seed_only_where_it_draws(make, networks, pictures, ready):
    batch = pictures()
    goals = [ready(make(goal="random"), networks["conv"], seed=seed).begin(batch).labels for seed in range(8)]
    assert all((found != batch.labels).all() for found in goals)
    assert (len({tuple(found.tolist()) for found in goals}) > 1) == make().info.stochastic


def test_attacks_share_their_random_goals(networks, pictures, ready):
    batch = pictures()
    goals = [ready(make(goal="random"), networks["conv"]).begin(batch).labels.tolist() for make in ATTACKS.values()]
    assert goals[0] == goals[1] == goals[2]


@every_attack
@pytest.mark.parametrize("goal", ["next", "least_likely", "random"])
def test_a_goal_is_reached_more_often_than_by_chance(make, goal, networks, pictures, ready, applied):
    batch = pictures(24)
    attack = ready(make(goal=goal, norm="linf"), networks["conv"])
    state = attack.begin(batch)
    found = attack.apply(batch, state, 16.0).images
    before = functional.cross_entropy(networks["conv"](batch.images), state.labels, reduction="none")
    after = functional.cross_entropy(networks["conv"](found), state.labels, reduction="none")
    assert (after < before).all()


@every_attack
def test_bf16_points_nearly_the_same_way(make, networks, pictures, ready, applied):
    batch = pictures()
    for net in networks.values():
        found = [
            applied(ready(make(precision=precision, norm="l2"), net), batch, 64.0).images - batch.images
            for precision in ("fp32", "bf16")
        ]
        assert found[1].dtype == torch.float32
        assert functional.cosine_similarity(*(change.flatten(1) for change in found)).min() > 0.95
        assert not torch.equal(*found)


@every_attack
def test_fp16_is_not_for_the_cpu(make, networks, ready):
    with pytest.raises(ParameterError, match="precision=fp16 is for accelerators"):
        ready(make(precision="fp16"), networks["conv"])


@every_attack
def test_numbers_that_are_finite_only_at_first_are_found_out(make, networks, pictures, ready, applied):
    def worn_out(images):
        scores = networks["conv"](images)
        return scores if torch.equal(images, batch.images) else scores * torch.nan

    batch = pictures()
    attack = ready(make() if make is FGSM else make(steps=3), worn_out)
    if make is FGSM:
        applied(attack, batch, 4.0)
    else:
        with pytest.raises(HarnessError, match="NaN or infinite"):
            applied(attack, batch, 4.0)


def test_a_gradient_can_be_had_in_inference_mode(networks, pictures):
    batch = pictures()
    objective = Objective(scores=networks["vit"])
    expected = objective.climb(batch.images, batch.labels).gradient()
    with torch.inference_mode():
        assert torch.equal(objective.climb(batch.images, batch.labels).gradient(), expected)


def test_small_gradients_survive_fp16():
    weights, labels = torch.randn(10, 48, generator=torch.Generator().manual_seed(0)) * 0.01, torch.zeros(2).long()
    images = torch.full((2, 3, 4, 4), 0.5)

    def confident(images):
        return functional.linear(images.flatten(1), weights) + torch.tensor([17.0] + [0.0] * 9)

    exact, half = (
        Objective(scores=confident, precision=precision).climb(images, labels).gradient()
        for precision in ("fp32", "fp16")
    )
    assert exact.abs().max() < 6e-8  # fp16's smallest number
    assert functional.cosine_similarity(exact.flatten(1), half.flatten(1)).min() > 0.99


def test_targets_may_view_the_memory_of_the_pixels(pictures, ready, applied):
    weights = torch.randn(3072, 10, generator=torch.Generator().manual_seed(0))
    batch = pictures()
    views = applied(ready(PGD(), lambda images: images.view(len(images), -1) @ weights), batch, 4.0).images
    assert torch.equal(views, applied(ready(PGD(), lambda images: images.flatten(1) @ weights), batch, 4.0).images)

    def broken(images):
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        applied(ready(PGD(), broken), batch, 4.0)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "head of tiny"),
        ({"attack_target": "probe"}, "probe of tiny"),
        ({"source": "vit_mini"}, "head of vit_mini"),
    ],
)
@every_attack
def test_numbers_that_are_not_finite_name_the_target(make, given, named, pictures, ready, applied):
    model = tiny_model(classes=10, side_px=32, patch_px=8, label_space="shapes")

    def overflowing(images):
        return model.outputs(images, OutputSpec(logits=True)).logits["head"] * torch.inf

    with pytest.raises(HarnessError, match=f"of the {named} are NaN or infinite at precision=fp32"):
        applied(ready(make(**given), overflowing, evaluated=model), pictures(), 4.0)


@every_attack
def test_without_a_target_there_is_nothing_to_attack(make, ready, pictures):
    with pytest.raises(HarnessError, match="needs a target"):
        ready(make(), None)
    with pytest.raises(RuntimeError, match="before prepare"):
        make().begin(pictures())


@every_attack
def test_the_share_of_zero_gradients_is_counted(make, networks, pictures, ready, applied):
    def half_blind(images):
        seen = images.clone()
        seen[:, :, :, :16] = 0.5
        return networks["vit"](seen)

    found = applied(ready(make(), half_blind), pictures(), 4.0)
    assert found.realised["zero_gradient"].tolist() == [0.5] * 6
    assert found.realised["zero_gradient"].dtype == torch.float64


def test_the_share_is_that_of_the_first_restart(pictures, ready, applied):
    """Which pixels of a grey image can be seen depends on the start."""
    weights = 0.003 * torch.randn(2, 3072, generator=torch.Generator().manual_seed(3))
    grey = pictures(2, labels=[0, 0])
    grey = grey.with_images(torch.full_like(grey.images, 0.5))
    shares = [
        applied(ready(PGD(restarts=restarts), lambda x: (x - 0.5).relu().flatten(1) @ weights.T), grey, 4.0)
        for restarts in (1, 3)
    ]
    one, several = (found.realised["zero_gradient"] for found in shares)
    assert torch.equal(one, several)
    assert ((one > 0.4) & (one < 0.6)).all()


@pytest.mark.parametrize("goal", ["untargeted", "next"])
@pytest.mark.parametrize("given", [{"select": "any"}, {"restarts": 3}, {"select": "any", "early_stop": True}])
def test_success_is_recorded_where_it_is_known(goal, given, networks, pictures, ready):
    net = networks["conv"]
    batch = pictures(16, scores=net)
    attack = ready(PGD(goal=goal, steps=2, **given), net)
    state = attack.begin(batch)
    rates = []
    for level in (0.0, 0.5, 1.0, 2.0, 8.0):
        found = attack.apply(batch, state, level)
        expected = has_succeeded(net(found.images), state.labels, goal != "untargeted")
        assert found.realised["attack_success"].tolist() == expected.double().tolist()
        assert ("first_restart_success" in found.realised) == ("restarts" in given)
        rates.append(float(expected.double().mean()))
    assert rates[0] == 0
    assert rates[-1] > 0


def test_success_is_not_claimed_of_what_was_cut_afterwards_or_never_asked(networks, pictures, ready, applied):
    for given in ({}, {"select": "any", "quantise": True}):
        found = applied(ready(PGD(**given), networks["conv"]), pictures(), 4.0)
        assert set(found.realised) == {"zero_gradient", "gradient_steps"}


def test_realised_columns_are_the_same_at_every_level(networks, pictures, ready):
    batch = pictures()
    for given in ({}, {"select": "any"}, {"restarts": 2}, {"select": "any", "restarts": 2, "early_stop": True}):
        attack = ready(PGD(**given), networks["conv"])
        state = attack.begin(batch)
        names = {tuple(attack.apply(batch, state, level).realised) for level in EPS_255.values}
        assert len(names) == 1


def test_the_parameters_of_targets_come_first_and_are_shared():
    shared = [field.name for field in dataclasses.fields(GradientParams)]
    for entry in harness_register_perturbations():
        if entry.level is EPS_255:
            assert [field.name for field in dataclasses.fields(entry.params)][: len(shared)] == shared
