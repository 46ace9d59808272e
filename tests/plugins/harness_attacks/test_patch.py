"""The adversarial patch: its outline and places, what it is trained to, and what it does to trained models."""

from __future__ import annotations

import math

import pytest
import torch

import harness
from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.loader import split_batch, take
from harness.testing.kit import SampleOptions, Subject, run_checks
from harness_attacks import patch as module
from harness_attacks.patch import AdversarialPatch
from harness_attacks.patch_placement import Outline, Placement, lay, outline, places, under
from harness_attacks.plugin import harness_register_perturbations

QUICK = {"train_images": 40, "epochs": 2}


@pytest.fixture(scope="session")
def supporting(pictures):
    """A source of support images, ``n`` of each class in ``labels``, in batches of ``at_once``."""

    def make(n=40, *, at_once=16, labels=None, side=32):
        batch = pictures(n, labels=labels, side=side)

        def support(limit=None):
            yield from split_batch(take(batch, slice(0, limit)), at_once)

        return support

    return make


# --- outline, places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(56, 56), (30, 44), (224, 224)])
@pytest.mark.parametrize("area", [0.05, 0.15, 0.25])
def test_the_area_is_met_to_half_a_pixel_of_its_side(size, area):
    square, disk = outline("square", area, size), outline("disk", area, size)
    side = math.sqrt(area * size[0] * size[1])
    assert square.mask.all()
    assert square.rows == square.columns == round(side)
    assert abs(square.count - side**2) <= side + 0.25
    assert abs(disk.count - side**2) <= side


def test_a_disk_is_every_pixel_whose_centre_is_near_enough():
    disk = outline("disk", 0.2, (25, 25))
    radius = math.sqrt(125 / math.pi)
    slow = [
        [math.hypot(i + 0.5 - disk.rows / 2, j + 0.5 - disk.columns / 2) <= radius for j in range(disk.columns)]
        for i in range(disk.rows)
    ]
    assert disk.mask.tolist() == slow


@pytest.mark.parametrize("shape", ["square", "disk"])
def test_an_outline_never_leaves_the_image_nor_vanishes(shape):
    wide = outline(shape, 0.9, (10, 90))
    assert (wide.rows, wide.columns <= 90) == (10, True)
    assert outline(shape, 1e-9, (10, 90)).count == 1
    assert outline("square", 1.0, (12, 12)).count == 144


def test_random_places_are_all_places_and_none_beyond():
    shape = Outline(mask=torch.ones(3, 2, dtype=torch.bool))
    found = places("random", shape, (5, 5), seed=0, stream="s", ids=[str(i) for i in range(600)])
    pairs = {(int(top), int(left)) for top, left in zip(found.top, found.left, strict=True)}
    assert pairs == {(top, left) for top in range(3) for left in range(4)}


def test_fixed_places():
    shape = Outline(mask=torch.ones(3, 2, dtype=torch.bool))
    for where, corner in {"centre": (1, 2), "corner": (0, 0)}.items():
        found = places(where, shape, (5, 6), seed=0, stream="s", ids=["a", "b"])
        assert (found.top.tolist(), found.left.tolist()) == ([corner[0]] * 2, [corner[1]] * 2)


def test_laying_a_patch_and_reading_what_is_under_it_against_a_slow_loop():
    torch.manual_seed(0)
    images, patch = torch.rand(3, 3, 9, 7), torch.rand(3, 4, 4)
    shape = outline("disk", 0.2, (9, 7))
    shape = Outline(mask=torch.nn.functional.pad(shape.mask, (0, 4 - shape.columns, 0, 4 - shape.rows)))
    there = Placement(top=torch.tensor([0, 5, 2]), left=torch.tensor([3, 1, 0]))
    expected = images.clone()
    for n in range(3):
        for i in range(4):
            for j in range(4):
                if shape.mask[i, j]:
                    expected[n, :, int(there.top[n]) + i, int(there.left[n]) + j] = patch[:, i, j]
    assert torch.equal(lay(patch, shape, images, there), expected)
    read = under(images, shape, there)
    assert torch.equal(read[1], images[1, :, 5:9, 1:5])
    assert torch.equal(read[2], images[2, :, 2:6, 0:4])


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goal", ["least_likely", "random", "next"])
def test_goals_that_differ_by_image_are_refused(goal):
    with pytest.raises(ParameterError, match=f"goal={goal} differs by image") as caught:
        AdversarialPatch(goal=goal)
    assert "target_class=3" in caught.value.hint


@pytest.mark.parametrize(
    "given", [{"shape": "star"}, {"placement": "left"}, {"epochs": 0}, {"step": 2}, {"train_images": 0}, {"loss": "x"}]
)
def test_wrong_values_are_refused_by_name(given):
    with pytest.raises(ParameterError, match=next(iter(given))):
        AdversarialPatch(**given)


def test_it_needs_support_images_a_target_and_a_class_that_there_is(ready, networks, supporting):
    with pytest.raises(CapabilityError, match="no support split"):
        ready(AdversarialPatch(), networks["conv"])
    with pytest.raises(HarnessError, match="needs a target"):
        ready(AdversarialPatch(), None, support=supporting())
    with pytest.raises(ParameterError, match="target_class=10, but there are 10 classes"):
        ready(AdversarialPatch(target_class=10), networks["conv"], support=supporting())
    with pytest.raises(ParameterError, match="fp16"):
        ready(AdversarialPatch(precision="fp16"), networks["conv"], support=supporting())


def test_images_of_another_size_than_those_it_was_trained_on_are_refused(
    ready, networks, supporting, pictures, applied
):
    def scores(images):
        return images.mean(dim=(2, 3))

    patch = ready(AdversarialPatch(**QUICK), scores, support=supporting(labels=[0, 1, 2, 0] * 10))
    with pytest.raises(DataError, match="32x32 pixels, these have 24x24"):
        applied(patch, pictures(2, side=24), 0.25)
    with pytest.raises(DataError, match="found none"):
        applied(ready(AdversarialPatch(), networks["conv"], support=lambda limit=None: iter(())), pictures(2), 0.25)
    for level in (None, 1.5):
        with pytest.raises(ParameterError, match="area"):
            applied(patch, pictures(2), level)


def test_scores_that_are_not_finite_are_an_error(ready, supporting, pictures, applied):
    patch = ready(
        AdversarialPatch(**QUICK), lambda x: x.sum(dim=(2, 3)) * torch.inf, support=supporting(labels=[0] * 40)
    )
    with pytest.raises(HarnessError, match="NaN or infinite"):
        applied(patch, pictures(2), 0.25)


# --- what it does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["square", "disk"])
def test_only_the_patch_changes_and_its_area_is_recorded_exactly(ready, networks, supporting, pictures, applied, shape):
    attack = ready(AdversarialPatch(shape=shape, **QUICK), networks["conv"], support=supporting())
    batch = pictures(6)
    for level in (0.05, 0.25):
        changed = applied(attack, batch, level)
        expected = outline(shape, level, (32, 32))
        there = places("random", expected, (32, 32), seed=0, stream="attack.patch", ids=batch.ids)
        assert torch.equal(changed.images, lay(attack.patch(level), expected, batch.images, there))
        differing = (changed.images != batch.images).any(dim=1).sum(dim=(1, 2))
        # A trained pixel may happen to be that of the image below it.
        assert ((differing <= expected.count) & (differing > 0.9 * expected.count)).all()
        assert changed.realised["information_loss"].tolist() == [expected.count / 1024] * 6
        assert changed.realised["information_loss"].dtype == torch.float64


def test_no_area_changes_nothing_and_trains_nothing(ready, supporting, pictures, applied):
    asked = []
    attack = ready(AdversarialPatch(), lambda images: asked.append(1), support=supporting())
    batch = pictures(3)
    clean = applied(attack, batch, 0.0)
    assert torch.equal(clean.images, batch.images)
    assert clean.realised["information_loss"].tolist() == [0.0] * 3
    assert asked == []
    with pytest.raises(ParameterError, match="no pixels"):
        attack.patch(0)


def test_places_depend_on_id_and_seed_alone_and_are_not_those_of_training(
    ready, networks, supporting, pictures, applied, monkeypatch
):
    streams = []

    def watched(placement, shape, size, *, seed, stream, ids):
        streams.append(stream)
        return places(placement, shape, size, seed=seed, stream=stream, ids=ids)

    monkeypatch.setattr(module, "places", watched)
    attack = ready(AdversarialPatch(**QUICK), networks["conv"], support=supporting())
    batch = pictures(6)
    whole = applied(attack, batch, 0.15).images
    assert streams == ["attack.patch.train.0"] * 2 + ["attack.patch.train.1"] * 2 + ["attack.patch"]
    for row in range(6):
        assert torch.equal(applied(attack, take(batch, slice(row, row + 1)), 0.15).images, whole[row : row + 1])
    assert (
        len({tuple(torch.nonzero((a != b).any(dim=0))[0].tolist()) for a, b in zip(whole, batch.images, strict=True)})
        > 3
    )


def test_every_epoch_takes_all_support_images_in_an_order_of_its_own(ready, networks, supporting, monkeypatch):
    """Support images come sorted by class; so taken, the last class would have the last word."""
    orders = {}

    def watched(placement, shape, size, *, seed, stream, ids):
        orders.setdefault(stream, []).extend(ids)
        return places(placement, shape, size, seed=seed, stream=stream, ids=ids)

    monkeypatch.setattr(module, "places", watched)
    support = supporting()
    ready(AdversarialPatch(**QUICK), networks["conv"], support=support).patch(0.15)
    given = [name for batch in support() for name in batch.ids]
    assert len({tuple(order) for order in (given, *orders.values())}) == 3
    assert [sorted(order) for order in orders.values()] == [sorted(given)] * 2


def test_the_same_seed_gives_the_same_patch_whatever_the_batch_size_of_the_run(ready, networks, supporting):
    def trained(seed=0, at_once=16):
        attack = ready(AdversarialPatch(**QUICK), networks["conv"], seed=seed, support=supporting(at_once=at_once))
        return attack.patch(0.15)

    first = trained()
    assert first.shape == (3, 12, 12)
    assert torch.equal(first, trained(at_once=7))
    assert not torch.equal(first, trained(seed=1))
    assert first.min() >= 0
    assert first.max() <= 1


def test_each_area_has_a_patch_of_its_own_trained_once(ready, networks, supporting, pictures, applied, counted):
    target = counted(networks["conv"])
    attack = ready(AdversarialPatch(**QUICK), target, support=supporting())
    applied(attack, pictures(2), 0.05)
    once = target.images
    assert once == 2 * 40
    applied(attack, pictures(3), 0.05)
    assert target.images == once
    applied(attack, pictures(3), 0.25)
    assert target.images == 2 * once
    assert (attack.patch(0.05).shape, attack.patch(0.25).shape) == ((3, 7, 7), (3, 16, 16))


@pytest.mark.parametrize(("target_class", "sign"), [(1, 1), (None, -1)])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_on_a_linear_model_the_patch_is_the_sign_of_the_weights_under_it(ready, supporting, target_class, sign, loss):
    torch.manual_seed(3)
    weight = torch.randn(2, 3, 32, 32)

    def scores(images):
        return 0.01 * torch.einsum("nchw,kchw->nk", images, weight)

    given = {"target_class": target_class, "placement": "centre", "epochs": 6, "train_images": 64, "loss": loss}
    # All images are of class 1: away from it is where its weights are the smaller ones.
    attack = ready(AdversarialPatch(**given), scores, support=supporting(64, labels=[1] * 64))
    towards = (weight[1] - weight[0])[:, 8:24, 8:24]
    assert torch.equal(attack.patch(0.25), (sign * towards > 0).float())


def test_steps_follow_the_mean_over_places(ready, supporting):
    """With places drawn anew, the gradient of a linear model is the mean of the weights that come to lie under it."""
    torch.manual_seed(3)
    weight = torch.randn(2, 3, 32, 32)

    def scores(images):
        return 0.01 * torch.einsum("nchw,kchw->nk", images, weight)

    support = supporting(32, labels=[1] * 32)
    attack = ready(AdversarialPatch(target_class=1, epochs=1, train_images=32, loss="margin"), scores, support=support)
    (ids,) = [tuple(name for batch in support() for name in batch.ids)]
    shape = outline("square", 0.25, (32, 32))
    there = places("random", shape, (32, 32), seed=0, stream="attack.patch.train.0", ids=ids)
    mean = under((weight[1] - weight[0]).expand(32, 3, 32, 32), shape, there).mean(dim=0)
    sure = mean.abs() > 1e-4
    assert torch.allclose(attack.patch(0.25)[sure], (0.5 + 0.05 * mean.sign())[sure])


def test_memory_that_runs_out_means_fewer_images_at_once_and_the_same_patch(ready, networks, supporting):
    seen = []

    def tight(images):
        seen.append(len(images))
        if len(images) > 10:
            raise torch.OutOfMemoryError("too many")
        return networks["conv"](images)

    whole = ready(AdversarialPatch(**QUICK), networks["conv"], support=supporting()).patch(0.15)
    parts = ready(AdversarialPatch(**QUICK), tight, support=supporting()).patch(0.15)
    assert seen[:3] == [32, 16, 8]
    assert max(seen[3:]) == 8
    # Sums in another order: a pixel whose gradient is nearly zero may step the other way.
    assert ((whole - parts).abs() < 1e-6).float().mean() > 0.98

    def never(images):
        raise torch.OutOfMemoryError("too many")

    with pytest.raises(torch.OutOfMemoryError):
        ready(AdversarialPatch(**QUICK), never, support=supporting()).patch(0.15)


def test_images_made_in_inference_mode_can_be_attacked(ready, networks, supporting, pictures, applied):
    with torch.inference_mode():
        attack = ready(AdversarialPatch(**QUICK), networks["vit"], support=supporting())
        changed = applied(attack, pictures(2), 0.15)
    assert changed.images.isfinite().all()


def test_it_keeps_every_promise_of_perturbations():
    subject = Subject(
        entry=next(entry for entry in harness_register_perturbations() if entry.name == "adversarial_patch"),
        make=lambda: AdversarialPatch(train_images=6, epochs=2),
        sample=SampleOptions(side_px=32),
    )
    assert {check.check: check.message for check in run_checks(subject) if check.status == "failed"} == {}


class NoisePatch(AdversarialPatch):
    """The same places, with noise instead of what was trained."""

    def patch(self, level):
        shape = outline("square", level, (56, 56))
        return torch.rand(3, shape.rows, shape.columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", ["vit_mini", "cnn_mini"])
def test_a_trained_patch_fools_a_trained_model_where_noise_of_its_size_and_places_does_not(model):
    def accuracy(kind):
        attack = kind(train_images=32, epochs=5, step=0.1)
        result = harness.run(model=model, dataset="shapes", probe="head", perturb=(attack, [0.15]), limit=40)
        assert not result.failures
        (record,) = [record for record in result.records if record.cell["level"]]
        return record.get("top1").value

    assert accuracy(AdversarialPatch) < accuracy(NoisePatch) - 0.2
