"""A dataset's contact sheet: which images are chosen, and that it is those that are shown, split by split."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harness.errors import DataError
from harness.protocols import DatasetInfo, SplitIndex
from harness.report.dataset_sheets import DEFAULT_VIEW, dataset_sheet, split_row, spread_positions
from harness.report.sheets import OUTLINE
from harness.types import ImageBatch, View
from harness.views import to_batch

CLASSES = ("ant", "bee", "cow")


class Colours:
    """Images of one colour each, by split and class; a quarter of each is the object. Writes down what is loaded."""

    def __init__(self, sizes, *, masks=False, unreadable=(), skip=False):
        self._sizes = sizes
        self._masks, self._unreadable, self._skip = masks, unreadable, skip
        self.loaded: list[tuple[str, View]] = []

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo(
            name="colours",
            classes=CLASSES,
            label_space=None,
            splits=tuple(self._sizes),
            query_split=next(iter(self._sizes)),
            whole_split=next(iter(self._sizes)),
            support_split=None,
            fingerprint="f" * 64,
        )

    def index(self, split) -> SplitIndex:
        size = self._sizes[split]
        return SplitIndex(ids=[f"{split}/{i}" for i in range(size)], labels=np.sort(np.arange(size) % len(CLASSES)))

    def load(self, split, positions, view) -> ImageBatch:
        self.loaded.append((split, view))
        labels = self.index(split).labels
        kept = [position for position in positions if position not in self._unreadable]
        if len(kept) < len(positions) and not self._skip:
            raise DataError(f"{split}: an image is broken")
        pixels = np.empty((len(kept), 3, view.crop, view.crop), np.uint8)
        for slot, position in zip(pixels, kept, strict=True):
            slot[:] = np.array(self.colour(split, labels[position]), np.uint8)[:, None, None]
        masks = torch.zeros((len(kept), view.crop, view.crop), dtype=torch.bool)
        masks[:, : view.crop // 2, : view.crop // 2] = True
        return to_batch(
            pixels,
            labels=labels[kept],
            ids=[self.index(split).ids[position] for position in kept],
            positions=kept,
            masks=masks if self._masks else None,
        )

    def colour(self, split, label) -> tuple[int, int, int]:
        return 40 * (1 + list(self._sizes).index(split)), 60 * (1 + int(label)), 7


def pixels_of(picture, colour) -> np.ndarray:
    return (np.asarray(picture) == np.array(colour, np.uint8)).all(axis=2)


def test_a_sheet_has_a_row_for_every_split_in_their_order():
    dataset = Colours({"train": 30, "val": 9, "test": 2})
    picture = dataset_sheet(dataset, images=3)
    tops = []
    for split in ("train", "val"):
        rows = [np.flatnonzero(pixels_of(picture, dataset.colour(split, label)).any(axis=1)) for label in range(3)]
        assert len({row[0] for row in rows}) == 1
        tops.append(rows[0][0])
        for label in range(3):
            assert pixels_of(picture, dataset.colour(split, label)).sum() == 112**2
    assert pixels_of(picture, dataset.colour("test", 1)).sum() == 112**2
    assert not pixels_of(picture, dataset.colour("test", 2)).any()
    assert tops == sorted(tops)
    assert dataset.loaded == [(split, DEFAULT_VIEW) for split in ("train", "val", "test")]


def test_titles_name_split_and_size_and_captions_name_classes():
    dataset = Colours({"train": 1200, "one": 1})
    row = split_row(dataset, "train", view=DEFAULT_VIEW, images=7)
    assert row.title == "train: 1,200 images"
    assert [tile.caption for tile in row.tiles] == ["ant", "bee", "cow", "ant", "bee", "cow", row.tiles[6].caption]
    assert split_row(dataset, "one", view=DEFAULT_VIEW, images=7).title == "one: 1 image"
    for tile in row.tiles:
        colour = dataset.colour("train", CLASSES.index(tile.caption))
        np.testing.assert_allclose(tile.pixels, np.broadcast_to(np.array(colour)[:, None, None] / 255, (3, 112, 112)))


def test_images_come_under_the_view_that_was_asked_for():
    dataset = Colours({"train": 3})
    view = View(crop=28)
    picture = dataset_sheet(dataset, view=view)
    assert dataset.loaded == [("train", view)]
    assert split_row(dataset, "train", view=view, images=1).tiles[0].pixels.shape == (3, 28, 28)
    assert pixels_of(picture, dataset.colour("train", 0)).sum() == 112**2


def test_masks_are_outlined_and_the_heading_says_so():
    plain, masked = Colours({"train": 3}), Colours({"train": 3}, masks=True)
    assert not pixels_of(dataset_sheet(plain), OUTLINE).any()
    picture = dataset_sheet(masked)
    assert pixels_of(picture, OUTLINE).sum() == 3 * (56**2 - 52**2)
    assert picture.width > dataset_sheet(plain).width  # the sentence on outlines is wider than three tiles


def test_the_heading_calls_the_dataset_by_the_name_it_was_given():
    dataset = Colours({"train": 9})
    own, other = (np.asarray(dataset_sheet(dataset, name=name)) for name in (None, "COLOURS"))
    assert own.shape == other.shape
    assert (own[:60] != other[:60]).any()
    np.testing.assert_array_equal(own[60:], other[60:])


def test_a_split_without_images_is_a_title():
    row = split_row(Colours({"train": 3, "empty": 0}), "empty", view=DEFAULT_VIEW, images=4)
    assert (row.title, row.tiles) == ("empty: 0 images", ())


def test_a_broken_image_is_an_error_unless_the_dataset_leaves_it_out():
    with pytest.raises(DataError, match="an image is broken"):
        dataset_sheet(Colours({"train": 3}, unreadable=(1,)))
    row = split_row(Colours({"train": 3}, unreadable=(1,), skip=True), "train", view=DEFAULT_VIEW, images=4)
    assert [tile.caption for tile in row.tiles] == ["ant", "cow"]
    assert split_row(Colours({"x": 1}, unreadable=(0,), skip=True), "x", view=DEFAULT_VIEW, images=4).tiles == ()


@pytest.mark.parametrize("images", [1, 2, 3, 4, 7, 50, 100])
def test_one_of_each_class_comes_before_a_second_of_any(images):
    labels = np.repeat(np.arange(3), [40, 2, 8])
    index = SplitIndex(ids=[f"i{i}" for i in range(50)], labels=labels)
    positions = spread_positions(index, images)
    assert len(positions) == len(set(positions)) == min(images, 50)
    chosen = labels[positions].tolist()
    turns = [chosen[:place].count(label) for place, label in enumerate(chosen)]
    assert turns == sorted(turns)
    assert len(set(chosen[:3])) == min(images, 3)
    assert all(a < b for a, b, turn, after in zip(chosen, chosen[1:], turns, turns[1:], strict=False) if turn == after)


def test_a_class_sorted_folder_is_not_read_as_a_prefix():
    index = SplitIndex(ids=[f"i{i}" for i in range(1000)], labels=np.zeros(1000, np.int64))
    assert max(spread_positions(index, 12)) > 500


def test_cues_that_are_not_both_the_classs_stand_in_place_of_its_name():
    class Cued(Colours):
        def load(self, split, positions, view):
            batch = super().load(split, positions, view)
            cues = {"shape": batch.labels, "texture": torch.tensor([0, 2, -1])[: len(batch)]}
            return dataclasses.replace(batch, columns=cues)

    row = split_row(Cued({"query": 3}), "query", view=DEFAULT_VIEW, images=3)
    assert [tile.caption for tile in row.tiles] == ["ant", "shape 1, texture 2", "shape 2, no texture"]
