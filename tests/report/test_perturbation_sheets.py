"""A perturbation's contact sheet: which tiles a row has and in what order, and that their pixels are the very ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.protocols import PerturbationInfo
from harness.report.perturbation_sheets import heat_map, perturbation_row, perturbation_sheet
from harness.report.sheets import OUTLINE
from harness.types import LevelSpec
from harness.views import to_batch

SHARE = LevelSpec(name="share", values=(0.0, 0.5, 1.0), low=0.0, high=1.0)
DARKEST, BRIGHTEST = (68, 1, 84), (253, 231, 37)
"""The ends of viridis as published (van der Walt and Smith, 2015)."""


class Dimmed:
    """Images times 1 - level; writes down the sizes of the batches it began."""

    def __init__(self, level=SHARE, loss=True):
        self.info = PerturbationInfo(name="dimmed", level=level)
        self._loss = loss
        self.began = []

    def prepare(self, context):
        raise AssertionError("a sheet is drawn of what has been prepared")

    def begin(self, batch):
        self.began.append(batch.ids)
        return {"state of": batch.ids}

    def apply(self, batch, state, level):
        assert state == {"state of": batch.ids}
        kept = 0.25 if level is None else 1 - level
        realised = {"information_loss": torch.full((len(batch),), (1 - kept) / 3, dtype=torch.float64)}
        return batch.with_images(batch.images * kept, **(realised if self._loss else {}))


class Guided(Dimmed):
    """One that goes by a map, which the state names the image of."""

    def maps(self, state):
        (name,) = state["state of"]
        return {"saliency": MAPS[name][None], "second_map": torch.zeros(1, 3, 1)}


MAPS = {"id0": torch.tensor([[0.0, 1.0], [2.0, 4.0]]), "id1": torch.tensor([[8.0, 0.0], [0.0, 0.0]])}


def batch_of(count=2, side=12, masks=None):
    pixels = np.random.default_rng(5).integers(0, 256, (count, 3, side, side)).astype(np.uint8)
    ids = [f"id{i}" for i in range(count)]
    return to_batch(pixels, labels=[0] * count, ids=ids, positions=range(count), masks=masks)


def test_the_clean_image_comes_first_and_then_every_level_with_its_realised_loss():
    row = perturbation_row(Dimmed(), batch_of(1), levels=(0.0, 0.5, 1.0), title="photo.jpg")
    assert row.title == "photo.jpg"
    captions = [tile.caption for tile in row.tiles]
    assert captions == ["clean", "share 0, loss 0.0 %", "share 0.5, loss 16.7 %", "share 1, loss 33.3 %"]


def test_levels_are_those_asked_for_and_a_loss_is_told_only_where_it_is_recorded():
    row = perturbation_row(Dimmed(loss=False), batch_of(1), levels=(0.125,))
    assert [tile.caption for tile in row.tiles] == ["clean", "share 0.125"]


def test_without_levels_there_is_one_perturbed_tile():
    plain, told = (perturbation_row(Dimmed(None, loss=loss), batch_of(1), levels=(None,)) for loss in (False, True))
    assert [tile.caption for tile in plain.tiles] == ["clean", "perturbed"]
    assert [tile.caption for tile in told.tiles] == ["clean", "perturbed, loss 25.0 %"]


@pytest.mark.parametrize(("side", "shown"), [(8, 168), (56, 168), (96, 192), (112, 224), (160, 160), (224, 224)])
def test_tiles_hold_the_pixels_magnified_by_a_whole_factor(side, shown):
    batch = batch_of(1, side)
    row = perturbation_row(Dimmed(), batch, levels=(0.5,))
    for tile, pixels in zip(row.tiles, (batch.images[0], batch.images[0] / 2), strict=True):
        assert tile.pixels.shape == (3, shown, shown)
        step = shown // side
        np.testing.assert_array_equal(tile.pixels, np.kron(pixels.numpy(), np.ones((step, step), np.float32)))


def test_maps_stand_between_the_clean_image_and_the_levels_each_image_with_its_own():
    batch = batch_of(2, side=8)
    for place, image in enumerate(one_by_one(batch)):
        row = perturbation_row(Guided(), image, levels=(0.5,))
        captions = [tile.caption for tile in row.tiles]
        assert captions == ["clean", "saliency", "second map", "share 0.5, loss 16.7 %"]
        values = MAPS[f"id{place}"].numpy()
        brightest = (row.tiles[1].pixels == np.array(BRIGHTEST, np.uint8)[:, None, None]).all(axis=0)
        expected = np.kron(values == values.max(), np.ones((84, 84), bool))
        np.testing.assert_array_equal(brightest, expected)
        assert (row.tiles[2].pixels == np.array(DARKEST, np.uint8)[:, None, None]).all()


def one_by_one(batch):
    for row in range(len(batch)):
        yield dataclasses.replace(
            batch,
            images=batch.images[row : row + 1],
            labels=batch.labels[row : row + 1],
            ids=batch.ids[row : row + 1],
            positions=batch.positions[row : row + 1],
        )


def test_an_image_with_a_mask_is_shown_with_the_outline_of_its_object_and_without():
    mask = torch.zeros(1, 200, 200, dtype=torch.bool)
    mask[0, 50:150, 120:] = True
    batch = batch_of(1, 200, masks=mask)
    row = perturbation_row(Dimmed(), batch, levels=(1.0,))
    assert [tile.caption for tile in row.tiles][:2] == ["clean", "object"]
    outlined = (row.tiles[1].pixels * 255 == np.array(OUTLINE)[:, None, None]).all(axis=0)
    # A rectangle's outline of 2 pixels is what is left of it without the rectangle that is 2 smaller to every side.
    expected = np.zeros((200, 200), bool)
    expected[50:150, 120:] = True
    expected[52:148, 122:198] = False
    np.testing.assert_array_equal(outlined, expected)
    clean = batch.images[0].numpy()
    np.testing.assert_array_equal(row.tiles[0].pixels, clean)
    np.testing.assert_array_equal(row.tiles[1].pixels[:, ~expected], clean[:, ~expected])
    assert all(tile.mask is None for tile in row.tiles)


def test_a_sheet_has_a_row_for_every_image_and_each_is_begun_alone():
    reds = np.array([[200, 0, 0], [0, 160, 0]], np.uint8)[:, :, None, None]
    batch = to_batch(np.tile(reds, (1, 1, 56, 56)), labels=[0, 0], ids=["a", "b"], positions=[0, 1])
    dimmed = Dimmed()
    sheet = np.asarray(perturbation_sheet(dimmed, batch, levels=(0.0, 0.5), titles=("one", "two"), heading="dimmed"))
    assert dimmed.began == [("a",), ("b",)]
    tops = []
    for colour, dim in (((200, 0, 0), (100, 0, 0)), ((0, 160, 0), (0, 80, 0))):
        bright, dark = ((sheet == np.array(one, np.uint8)).all(axis=2) for one in (colour, dim))
        assert (bright.sum(), dark.sum()) == (2 * 168**2, 168**2)
        tops.append(np.flatnonzero(bright.any(axis=1))[0])
        assert tops[-1] == np.flatnonzero(dark.any(axis=1))[0]
    assert tops[1] - tops[0] > 168


def test_a_title_is_needed_for_every_image():
    with pytest.raises(ValueError, match="zip"):
        perturbation_sheet(Dimmed(), batch_of(2), levels=(0.5,), titles=("one",))


# --- heat maps -------------------------------------------------------------------------------------------------


def test_zero_is_the_darkest_and_the_largest_value_the_brightest_colour():
    colours = heat_map(np.array([[0.0, 1.0, 2.0]]), (1, 3))
    assert tuple(colours[:, 0, 0]) == DARKEST
    assert tuple(colours[:, 0, 2]) == BRIGHTEST
    assert tuple(colours[:, 0, 1]) == (33, 145, 140)  # viridis at a half


def test_a_map_of_zeros_is_dark():
    assert (heat_map(np.zeros((2, 2), np.float32), (4, 4)).reshape(3, -1).T == DARKEST).all()


def test_a_map_is_as_bright_as_it_is_in_shares_of_its_largest_value():
    values = np.random.default_rng(0).random((5, 5))
    np.testing.assert_array_equal(heat_map(values, (20, 20)), heat_map(values * 1e-6, (20, 20)))
    np.testing.assert_array_equal(heat_map(values, (20, 20)), heat_map(values.astype(np.float32), (20, 20)))


@given(
    values=arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(0, 9)),
    size=st.tuples(st.integers(6, 17), st.integers(6, 17)),
)
@settings(max_examples=40, deadline=None)
def test_every_pixel_has_the_colour_of_the_cell_it_lies_in(values, size):
    colours = heat_map(values, size)
    assert colours.shape == (3, *size)
    assert colours.dtype == np.uint8
    cells = heat_map(values, values.shape)
    for y in range(size[0]):
        for x in range(size[1]):
            cell = (y * values.shape[0] // size[0], x * values.shape[1] // size[1])
            np.testing.assert_array_equal(colours[:, y, x], cells[:, cell[0], cell[1]])


def test_lightness_rises_with_the_value():
    ramp = heat_map(np.linspace(0, 1, 64)[None], (1, 64))[:, 0].astype(float)
    lightness = np.array([0.2126, 0.7152, 0.0722]) @ ramp
    assert (np.diff(lightness) > 0).all()
