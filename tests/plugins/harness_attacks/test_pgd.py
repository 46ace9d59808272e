"""PGD: equal to torchattacks from the same start, to FGSM in one step, to closed forms, and within its budget."""

from __future__ import annotations

import pytest
import torch
import torchattacks

import harness
from harness.errors import CapabilityError, HarnessError, ParameterError
from harness_attacks.fgsm import FGSM
from harness_attacks.pgd import PGD, pgd
from harness_attacks.projections import ball_around, random_points

NETWORKS = ("conv", "vit")
EPS, STEP, STEPS = 8 / 255, 2 / 255, 7


def linear(side=32):
    weights = 0.003 * torch.randn(2, 3 * side * side, generator=torch.Generator().manual_seed(3))
    return (lambda images: images.flatten(1) @ weights.T), (weights[1] - weights[0]).view(3, side, side)


def norm_of(change, norm):
    flat = change.double().flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("targeted", [False, True])
def test_from_the_image_it_equals_torchattacks(network, targeted, networks, pictures):
    net, batch = networks[network], pictures()
    theirs = torchattacks.PGD(net, eps=EPS, alpha=STEP, steps=STEPS, random_start=False)
    labels = batch.labels
    if targeted:
        theirs.set_mode_targeted_by_label(quiet=True)
        labels = (labels + 3) % 10
    expected = theirs(batch.images, labels)
    found = pgd(net, batch.images, labels, eps=EPS, step=STEP, steps=STEPS, targeted=targeted).images
    assert (found - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("network", NETWORKS)
def test_from_the_same_random_start_it_equals_torchattacks(network, networks, pictures):
    net, batch = networks[network], pictures()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        expected = torchattacks.PGD(net, eps=EPS, alpha=STEP, steps=STEPS)(batch.images, batch.labels)
        torch.manual_seed(1)
        start = (batch.images + torch.empty_like(batch.images).uniform_(-EPS, EPS)).clamp(0, 1)
    found = pgd(net, batch.images, batch.labels, eps=EPS, step=STEP, steps=STEPS, start=start).images
    assert (found - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("random_start", [False, True])
def test_l2_equals_torchattacks(network, random_start, networks, pictures):
    net, batch = networks[network], pictures()
    images, eps, step = batch.images, 1.0, 0.3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = torchattacks.PGDL2(net, eps=eps, alpha=step, steps=STEPS, random_start=random_start)
        expected = theirs(images, batch.labels)
        torch.manual_seed(1)
        change = torch.empty_like(images).normal_()
        radius = torch.zeros(len(images), 1, 1, 1).uniform_(0, 1) * eps
        start = (images + change * radius / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    given = start if random_start else None
    found = pgd(net, images, batch.labels, eps=eps, step=step, steps=STEPS, start=given, norm="l2").images
    assert (found - expected).abs().max() <= 1e-6


def test_the_plugin_starts_from_keyed_random_points_and_steps_half_the_budget(networks, pictures, ready, applied):
    net, batch = networks["conv"], pictures()
    start = random_points(batch.images, EPS, "linf", seed=5, stream="attack.pgd.0", ids=batch.ids)
    expected = pgd(net, batch.images, batch.labels, eps=EPS, step=EPS / 2, steps=5, start=start).images
    assert torch.equal(applied(ready(PGD(), net, seed=5), batch, 8.0).images, expected)
    assert not torch.equal(applied(ready(PGD(), net, seed=6), batch, 8.0).images, expected)
    other = applied(ready(PGD(steps=3, step_255=1.0), net, seed=5), batch, 8.0).images
    again = pgd(net, batch.images, batch.labels, eps=EPS, step=1 / 255, steps=3, start=start).images
    assert torch.equal(other, again)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("level", [0.5, 1.0, 4.0, 37.0])
def test_one_step_of_the_whole_budget_is_fgsm(network, norm, level, networks, pictures, ready, applied):
    net, batch = networks[network], pictures()
    one = PGD(steps=1, step_255=level, random_start=False, norm=norm)
    expected = applied(ready(FGSM(norm=norm), net), batch, level).images
    assert torch.equal(applied(ready(one, net), batch, level).images, expected)


@pytest.mark.parametrize("random_start", [False, True])
def test_on_a_linear_target_it_finds_the_linf_optimum(random_start, pictures, ready, applied):
    target, direction = linear()
    batch = pictures(labels=[0] * 6)
    attack = ready(PGD(random_start=random_start), target)
    expected = (batch.images + EPS * direction.sign()).clamp(0, 1)
    assert (applied(attack, batch, 8.0).images - expected).abs().max() <= 1e-6


@pytest.mark.parametrize(("random_start", "tolerance"), [(False, 1e-6), (True, 1e-5)])
def test_on_a_linear_target_it_finds_the_l2_optimum_where_nothing_is_clipped(
    random_start, tolerance, pictures, ready, applied
):
    target, direction = linear()
    batch = pictures(labels=[0] * 6)
    batch = batch.with_images(0.25 + 0.5 * batch.images)
    attack = ready(PGD(norm="l2", random_start=random_start, steps=40), target)
    expected = batch.images + 128 / 255 * direction / direction.norm()
    assert (applied(attack, batch, 128.0).images - expected).abs().max() <= tolerance


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("level", [0.5, 1.0, 8.0, 200.0])
@pytest.mark.parametrize("quantise", [False, True])
def test_the_budget_and_the_range_hold(norm, level, quantise, networks, pictures, ready, applied):
    net, batch = networks["conv"], pictures()
    found = applied(ready(PGD(norm=norm, quantise=quantise, restarts=2, select="any"), net), batch, level).images
    change = found.double() - batch.images.double()
    assert found.min() >= 0
    assert found.max() <= 1
    assert norm_of(change, norm).max() <= level / 255 + 1e-6
    if quantise:
        assert (change * 255 - (change * 255).round()).abs().max() <= 1e-4
        rounded = (found * 255).round() / 255
        assert norm_of(rounded.double() - batch.images.double(), norm).max() <= level / 255 + 1e-6


def test_quantising_cuts_what_it_would_otherwise_return(networks, pictures, ready, applied):
    net, batch = networks["conv"], pictures()
    free = (applied(ready(PGD(), net), batch, 4.0).images - batch.images) * 255
    cut = (applied(ready(PGD(quantise=True), net), batch, 4.0).images - batch.images) * 255
    assert (cut.round() - (free.sign() * (free.abs() + 1e-3).floor())).abs().max() == 0
    assert cut.abs().max() == pytest.approx(4, abs=1e-4)


def test_an_image_does_not_depend_on_its_companions(networks, pictures, ready, applied):
    net, batch = networks["vit"], pictures()
    whole = applied(ready(PGD(norm="l2"), net), batch, 128.0).images
    for row in range(3):
        part = pictures(row + 1)
        alone = part.with_images(part.images)
        found = applied(ready(PGD(norm="l2"), net), alone, 128.0).images
        assert (found[row] - whole[row]).abs().max() <= 1e-5


def test_a_flat_target_leaves_the_start_as_it_is(pictures):
    def flat(images):
        return 0 * images.flatten(1)[:, :10]

    batch = pictures()
    for norm in ("linf", "l2"):
        found = pgd(flat, batch.images, batch.labels, eps=EPS, step=STEP, steps=3, norm=norm)
        assert (found.images - batch.images).abs().max() <= 1e-7
        assert found.zero_gradient.tolist() == [1.0] * 6


def test_confident_targets_still_have_a_direction(pictures):
    """Gradients around 1e-25, whose squares are no float32 numbers."""
    target, direction = linear()
    batch = pictures(labels=[0] * 6)
    images = 0.25 + 0.5 * batch.images

    def confident(x):
        return target(x) + torch.tensor([57.0, 0.0])

    for norm, eps in (("linf", EPS), ("l2", 0.5)):
        found = pgd(confident, images, batch.labels, eps=eps, step=eps, steps=1, norm=norm).images
        assert norm_of(found - images, norm).tolist() == pytest.approx([eps] * 6, rel=1e-4)
        assert ((found - images).flatten(1) @ direction.flatten() > 0).all()


def test_zeros_are_counted_in_the_first_gradient():
    """Half of the pixels can be seen at first, and those that are moved down then cannot."""
    target, _ = linear()
    images = torch.full((2, 3, 32, 32), 0.501)
    images[:, :, :, :16] = 0.499
    found = pgd(lambda x: target((x - 0.5).relu()), images, torch.tensor([0, 0]), eps=EPS, step=STEP, steps=3)
    assert found.zero_gradient.tolist() == [0.5, 0.5]


def test_the_images_start_and_labels_given_stay_as_they_are(networks, pictures):
    batch = pictures()
    batch = batch.with_images(batch.images.contiguous(memory_format=torch.channels_last))
    start = batch.images.clone()
    ball_around(batch.images, EPS, "linf").step(start, torch.ones_like(start), 1 / 255)
    before = batch.images.clone(), start.clone(), batch.labels.clone()
    for select, stops in (("last", False), ("any", False), ("any", True)):
        given = {"eps": EPS, "step": STEP, "steps": 2, "start": start, "select": select, "early_stop": stops}
        pgd(networks["conv"], batch.images, batch.labels, **given)
    for now, then in zip((batch.images, start, batch.labels), before, strict=True):
        assert torch.equal(now, then)


def test_what_makes_no_sense_is_refused(networks, pictures):
    batch = pictures()
    with pytest.raises(ParameterError, match="early_stop=true needs select=any"):
        PGD(early_stop=True)
    with pytest.raises(ParameterError, match="early_stop=true needs select=any"):
        pgd(networks["conv"], batch.images, batch.labels, eps=EPS, step=STEP, steps=1, early_stop=True)
    with pytest.raises(ParameterError, match="random_start=false"):
        PGD(restarts=2, random_start=False)
    with pytest.raises(ParameterError, match="steps"):
        PGD(steps=0)


def test_a_target_without_a_gradient_is_refused(networks, pictures):
    batch = pictures()
    for target in (lambda images: networks["conv"](images.detach()), lambda images: torch.ones(6, 10).requires_grad_()):
        with pytest.raises(CapabilityError, match="no gradient"):
            pgd(target, batch.images, batch.labels, eps=EPS, step=STEP, steps=1)


def test_numbers_that_are_not_finite_are_no_images(networks, pictures):
    batch = pictures()
    black = batch.images.clone()
    black[2] = 0.0
    labels = networks["conv"](black.sqrt()).argmax(dim=1)
    targets = {
        "scores": lambda images: networks["conv"](images) + torch.tensor([float("nan")] + [0.0] * 9),
        "gradients": lambda images: networks["conv"](images.sqrt()),
    }
    for target in targets.values():
        for select, stops in (("last", False), ("any", False), ("any", True)):
            with pytest.raises(HarnessError, match="NaN or infinite"):
                pgd(target, black, labels, eps=EPS, step=STEP, steps=2, select=select, early_stop=stops)


def test_the_last_point_is_judged_by_finite_scores_or_not_at_all(networks, pictures):
    batch = pictures(scores=networks["conv"])

    def worn_out(images):
        scores = networks["conv"](images)
        return scores if torch.equal(images, batch.images) else scores * torch.inf

    given = {"eps": EPS, "step": STEP, "steps": 1}
    pgd(worn_out, batch.images, batch.labels, **given)
    with pytest.raises(HarnessError, match="NaN or infinite"):
        pgd(worn_out, batch.images, batch.labels, select="any", **given)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pgd:early_stop=true@2", "early_stop=true needs select=any"),
        ("pgd:restarts=2:random_start=false@2", "would climb from the same point"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused_in_planning(text, words):
    with pytest.raises(ParameterError, match=words):
        harness.plan(model="vit_mini", dataset="shapes", probe="head", perturb=text)
