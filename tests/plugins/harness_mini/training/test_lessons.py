"""Lessons against timm's own forward passes, and windows against crops and embeddings laid out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from harness.types import ImageBatch
from harness.weights import WeightsChoice
from harness_mini.models import build_model
from harness_mini.networks import build
from harness_mini.shapes_dataset import Shapes
from harness_mini.training.lessons import (
    CELLS,
    VIEW,
    Lesson,
    accuracy,
    final_tokens,
    heads,
    load,
    to_device,
    whole,
    window,
    window_about_object,
)

TRANSFORMERS = ("vit_mini", "vit_mini_nopos", "deit_mini", "dino_mini")


@pytest.fixture(scope="module")
def dataset():
    return Shapes(images=144, train_images=144)


@pytest.fixture(scope="module")
def batch(dataset):
    return load(dataset, "train", 0, 12)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def rows(batch, chosen):
    """The images at ``chosen``, as a batch of their own."""
    return ImageBatch(
        images=batch.images[chosen],
        labels=batch.labels[chosen],
        ids=tuple(batch.ids[i] for i in chosen),
        positions=batch.positions[chosen],
        masks=batch.masks[chosen],
    )


def of_boxes(*boxes, side=56):
    """A batch whose objects are the boxes (top, bottom, left, right) in pixels, None for no object."""
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for mask, box in zip(masks, boxes, strict=True):
        if box is not None:
            mask[box[0] : box[1], box[2] : box[3]] = True
    return ImageBatch(
        images=torch.zeros(len(boxes), 3, side, side),
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        ids=tuple(f"train/{i}" for i in range(len(boxes))),
        positions=np.arange(len(boxes)),
        masks=masks,
    )


def without_attention(name):
    """A transformer whose tokens stay as they are embedded, with embeddings that differ from place to place."""
    net = build(name, seed=0)
    net.blocks = nn.Sequential()
    if net.pos_embed is not None:
        net.pos_embed.normal_(generator=torch.Generator().manual_seed(0))
    return net


# --- whole images ------------------------------------------------------------------------------------------------


def test_pixels_are_normalised_as_the_models_card_says(batch):

    card = build_model("vit_mini", weights=WeightsChoice(origin="random")).info
    mean, std = (np.array(values)[:, None, None] for values in (card.mean, card.std))
    lesson = whole(batch)
    np.testing.assert_allclose(lesson.pixels, (batch.images.numpy() - mean) / std, atol=1e-6)
    assert torch.equal(lesson.labels, batch.labels)
    assert lesson.corner is None


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_tokens_of_whole_images_are_exactly_timms(batch, name):
    net, lesson = build(name, seed=3).eval(), whole(batch)
    assert torch.equal(final_tokens(net, lesson), net.forward_features(lesson.pixels))


@pytest.mark.parametrize("name", ["vit_mini", "vit_mini_nopos", "cnn_mini", "patchconv_mini", "patchconv_mini_multi"])
def test_the_one_head_is_the_networks_own_forward(batch, name):
    net, lesson = build(name, seed=3).eval(), whole(batch)
    (scores,) = heads(net, lesson)
    assert torch.equal(scores, net(lesson.pixels))
    assert scores.shape == (12, 12)


def test_a_distilled_network_gives_the_class_tokens_head_first(batch):
    net, lesson = build("deit_mini", seed=3).eval(), whole(batch)
    by_class, by_second = heads(net, lesson)
    tokens = net.forward_features(lesson.pixels)
    assert torch.equal(by_class, net.head(tokens[:, 0]))
    assert torch.equal(by_second, net.head_dist(tokens[:, 1]))
    assert not torch.equal(by_class, by_second)
    # timm's forward averages the two, and gives them apart, in this order, while it is trained with a teacher.
    torch.testing.assert_close((by_class + by_second) / 2, net(lesson.pixels))


def test_images_are_walked_from_the_start_and_again_from_there(dataset):
    ids = [name for start in (0, 100, 200) for name in load(dataset, "train", start, 100).ids]
    assert ids == [f"train/{i % 144:06d}" for i in range(300)]


def test_accuracy_counts_each_head_and_their_mean(dataset, tell_apart):
    net = tell_apart(build("deit_mini", seed=3))
    lesson = whole(dataset.load("test", range(144), VIEW))
    net.eval()
    by_class, by_second = heads(net, lesson)
    net.train()
    expected = [
        int((scores.argmax(1) == lesson.labels).sum()) for scores in (by_class, by_second, by_class + by_second)
    ]
    assert accuracy(net, dataset, "test", device="cpu") == expected
    assert len(set(expected)) == 3
    assert not net.training


def test_accuracy_of_one_head_is_one_number(dataset, tell_apart):
    net = tell_apart(build("cnn_mini", seed=3))
    lesson = whole(dataset.load("test", range(144), VIEW))
    expected = int((net(lesson.pixels).argmax(1) == lesson.labels).sum())
    assert accuracy(net, dataset, "test", device="cpu") == [expected]


# --- windows -----------------------------------------------------------------------------------------------------


def test_a_window_is_the_crop_at_its_corner(batch):
    corner = torch.tensor([[i % 8, (3 * i) % 8] for i in range(len(batch))])
    lesson = window(batch, corner, 7)
    assert lesson.pixels.shape == (12, 3, 28, 28)
    for pixels, image, (row, column) in zip(lesson.pixels, whole(batch).pixels, corner.tolist(), strict=True):
        assert torch.equal(pixels, image[:, 4 * row : 4 * row + 28, 4 * column : 4 * column + 28])
    assert torch.equal(lesson.corner, corner)
    assert torch.equal(lesson.labels, batch.labels)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("cells", [7, 10])
def test_patches_of_a_window_keep_the_embeddings_of_their_places(batch, name, cells):
    """Without attention a patch's token depends on its pixels and its place alone: those of the whole image."""
    net = without_attention(name)
    corner = torch.tensor([[i % (15 - cells), (2 * i) % (15 - cells)] for i in range(len(batch))])
    found = final_tokens(net, window(batch, corner, cells))
    everything = net.forward_features(whole(batch).pixels)
    prefix = net.num_prefix_tokens
    grid = everything[:, prefix:].unflatten(1, (CELLS, CELLS))
    for tokens, places, (row, column) in zip(found[:, prefix:], grid, corner.tolist(), strict=True):
        expected = places[row : row + cells, column : column + cells].flatten(0, 1)
        torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[:, :prefix], everything[:, :prefix])


def test_a_window_of_the_whole_image_is_the_whole_image(batch):
    net = build("deit_mini", seed=3).eval()
    net.pos_embed.normal_(generator=torch.Generator().manual_seed(0))
    corner = torch.zeros(len(batch), 2, dtype=torch.int64)
    torch.testing.assert_close(final_tokens(net, window(batch, corner, CELLS)), final_tokens(net, whole(batch)))


@pytest.mark.parametrize("cells", [7, 10])
@pytest.mark.parametrize("split", ["train", "stylized_train"])
def test_a_window_about_the_object_holds_its_middle_and_stays_inside(dataset, split, cells):
    images = load(dataset, split, 0, 144)
    lesson = window_about_object(images, cells, seed=0)
    assert lesson.corner.min() >= 0
    assert lesson.corner.max() <= CELLS - cells
    for mask, (row, column) in zip(images.masks.numpy(), lesson.corner.tolist(), strict=True):
        down, along = np.nonzero(mask)
        middle = (down.min() + down.max() + 1) / 8, (along.min() + along.max() + 1) / 8
        assert row <= middle[0] <= row + cells
        assert column <= middle[1] <= column + cells


def test_windows_lie_up_to_two_patches_off_the_middle_in_both_directions():
    images = of_boxes(*[(16, 40, 20, 44)] * 400)
    corner = window_about_object(images, 7, seed=0).corner
    # The middle lies at patches (7, 8), so that the corner would be (3.5, 4.5) without jitter.
    for axis, middle in ((0, 3.5), (1, 4.5)):
        off = corner[:, axis] - middle
        assert set(off.tolist()) == {-1.5, -0.5, 0.5, 1.5}
        assert off.abs().max() <= 2.5


def test_an_image_without_an_object_shows_a_window_about_its_own_middle():
    empty = window_about_object(of_boxes(*[None] * 50), 7, seed=0)
    centred = window_about_object(of_boxes(*[(0, 56, 0, 56)] * 50), 7, seed=0)
    assert torch.equal(empty.corner, centred.corner)


def test_where_a_window_lies_depends_on_the_image_and_the_seed_alone(batch):
    corner = window_about_object(batch, 7, seed=0).corner
    order = [7, 2, 11, 0, 5]
    among_others = window_about_object(rows(batch, order), 7, seed=0)
    assert torch.equal(among_others.corner, corner[order])
    assert torch.equal(among_others.pixels, window_about_object(batch, 7, seed=0).pixels[order])
    alone = torch.cat([window_about_object(rows(batch, [i]), 7, seed=0).corner for i in range(len(batch))])
    assert torch.equal(alone, corner)
    assert not torch.equal(window_about_object(batch, 7, seed=1).corner, corner)


def test_moving_a_lesson_moves_all_of_it(batch):
    for lesson in (whole(batch), window_about_object(batch, 7, seed=0)):
        moved = to_device(lesson, "meta")
        assert isinstance(moved, Lesson)
        assert {moved.pixels.device.type, moved.labels.device.type} == {"meta"}
        assert (moved.corner is None) == (lesson.corner is None)
        assert moved.corner is None or moved.corner.device.type == "meta"
