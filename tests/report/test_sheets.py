"""Contact sheets: every pixel of a tile is shown, outlines lie on the edges of masks, text stays in its place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from harness.errors import ParameterError, UsageError
from harness.report.sheets import LEGIBLE_PX, OUTLINE, SheetRow, Tile, contact_sheet, save_sheet, shortened

WHITE = (255, 255, 255)
RED, GREEN, BLUE, YELLOW = (200, 10, 20), (10, 200, 20), (20, 10, 200), (200, 200, 10)


def plain(colour, side=LEGIBLE_PX, **others) -> Tile:
    """A tile of one colour."""
    pixels = np.empty((3, side, side), np.uint8)
    pixels[:] = np.array(colour, np.uint8)[:, None, None]
    return Tile(pixels=pixels, **others)


def sheet_of(*tiles, title="title", **others) -> np.ndarray:
    return np.asarray(contact_sheet([SheetRow(title=title, tiles=tiles)], **others))


def where(sheet: np.ndarray, colour) -> np.ndarray:
    """(H, W) bool: which pixels of the sheet have this very colour."""
    return (sheet == np.array(colour, np.uint8)).all(axis=2)


def box(found: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of what was found."""
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]


def cut(sheet: np.ndarray, place) -> np.ndarray:
    left, top, width, height = place
    return sheet[top : top + height, left : left + width]


@pytest.mark.parametrize(
    ("side", "shown"), [(1, 112), (8, 112), (32, 128), (56, 112), (64, 128), (80, 80), (112, 112), (224, 224)]
)
def test_a_tile_shows_its_colour_magnified_by_a_whole_factor(side, shown):
    found = where(sheet_of(plain(RED, side)), RED)
    assert box(found)[2:] == (shown, shown)
    assert found.sum() == shown**2


def test_every_pixel_is_shown_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 100, (3, 14, 28)).astype(np.uint8)
    sheet = sheet_of(Tile(pixels=pixels), title="")
    place = box(sheet.max(axis=2) < 100)
    assert place[2:] == (112, 56)
    shown = cut(sheet, place)
    np.testing.assert_array_equal(shown[::4, ::4], pixels.transpose(1, 2, 0))
    np.testing.assert_array_equal(shown, shown[::4, ::4].repeat(4, axis=0).repeat(4, axis=1))


def test_floating_point_and_bytes_give_the_same_picture():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 9, 9)).astype(np.uint8)
    as_float = (pixels / 255).astype(np.float32)
    np.testing.assert_array_equal(sheet_of(Tile(pixels=pixels)), sheet_of(Tile(pixels=as_float)))


def test_the_paper_is_white_to_every_side():
    sheet = sheet_of(plain(RED), heading="heading")
    for edge in (sheet[:10], sheet[-10:], sheet[:, :10], sheet[:, -10:]):
        assert (edge == 255).all()


def test_a_white_tile_has_an_edge():
    sheet = sheet_of(plain(WHITE), title="")
    left, top, width, height = box(~where(sheet, WHITE))
    assert (width, height) == (114, 114)
    assert (sheet[top + 1 : top + 113, left + 1 : left + 113] == 255).all()


def test_rows_stand_below_each_other_and_tiles_side_by_side():
    sheet = np.asarray(
        contact_sheet(
            [
                SheetRow(title="one", tiles=(plain(RED), plain(GREEN))),
                SheetRow(title="none"),
                SheetRow(title="two", tiles=(plain(BLUE),)),
            ]
        )
    )
    red, green, blue = (box(where(sheet, colour)) for colour in (RED, GREEN, BLUE))
    assert red[1] == green[1]
    assert red[0] + red[2] < green[0]
    assert blue[0] == red[0]
    assert red[1] + red[3] < blue[1]


def test_a_row_too_long_for_one_line_goes_on_in_lines_of_equal_length():
    sheet = sheet_of(*(plain((i, 100, 200)) for i in range(14)))
    places = [box(where(sheet, (i, 100, 200))) for i in range(14)]
    tops = [place[1] for place in places]
    assert tops == [tops[0]] * 7 + [tops[7]] * 7
    assert [place[0] for place in places[:7]] == [place[0] for place in places[7:]]
    assert sheet.shape[1] < 1600


# --- outlines --------------------------------------------------------------------------------------------------


def ring(side: int) -> np.ndarray:
    """A disc with a hole, cut off at the left."""
    rows, columns = np.mgrid[:side, :side] / side
    distance = np.hypot(rows - 0.5, columns - 0.2)
    return (distance < 0.4) & (distance > 0.15)


def expected_outline(mask: np.ndarray) -> np.ndarray:
    """By the definition, pixel after pixel: in the mask, and two steps or fewer from a pixel that is not."""
    height, width = mask.shape
    steps = [(a, b) for a in range(-2, 3) for b in range(-2, 3) if abs(a) + abs(b) <= 2]
    found = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        for down, right in steps:
            there = (row + down, column + right)
            inside = 0 <= there[0] < height and 0 <= there[1] < width
            found[row, column] |= not inside or not mask[there]
    return found


@pytest.mark.parametrize("side", [28, 56, 112])
def test_the_outline_lies_on_the_edge_of_the_mask_and_nowhere_else(side):
    mask = ring(side)
    sheet = sheet_of(plain(RED, side, mask=mask))
    factor = 112 // side
    left, top, _, _ = box(where(sheet, RED))
    as_it_is = cut(sheet, (left, top, 112, 112))
    assert where(as_it_is, RED).all()
    below = top + 112 + int(np.flatnonzero(where(sheet, RED)[top + 112 :].any(axis=1))[0])
    outlined = cut(sheet, (left, below, 112, 112))
    expected = expected_outline(mask.repeat(factor, axis=0).repeat(factor, axis=1))
    np.testing.assert_array_equal(where(outlined, OUTLINE), expected)
    np.testing.assert_array_equal(where(outlined, RED), ~expected)
    assert where(sheet, OUTLINE).sum() == expected.sum()


def test_no_mask_and_an_empty_one_have_no_outline():
    assert not where(sheet_of(plain(RED)), OUTLINE).any()
    bare = sheet_of(plain(RED, mask=np.zeros((112, 112), bool)))
    assert not where(bare, OUTLINE).any()
    assert where(bare, RED).sum() == 2 * 112**2


def test_only_tiles_with_a_mask_are_repeated_each_below_itself():
    mask = np.ones((112, 112), bool)
    sheet = sheet_of(plain(RED), plain(GREEN, mask=mask), plain(BLUE))
    assert where(sheet, RED).sum() == where(sheet, BLUE).sum() == 112**2
    green = where(sheet, GREEN)
    assert green.sum() == 112**2 + 108**2
    assert box(green)[2] == 112
    assert where(sheet, OUTLINE).sum() == 112**2 - 108**2


def test_a_mask_leaves_its_tile_untouched():
    tile = plain(RED, mask=np.ones((112, 112), bool))
    sheet_of(tile)
    assert (tile.pixels == plain(RED).pixels).all()


# --- text ------------------------------------------------------------------------------------------------------


def test_a_caption_stands_below_its_tile_and_within_its_width():
    tiles = [plain(RED), plain(GREEN), plain(BLUE)]
    tiles[1] = plain(GREEN, caption="a very long name of a class, which nothing of this width can hold")
    tiles[2] = plain(BLUE, caption=".")
    sheet = sheet_of(*tiles)
    tiles[1] = plain(GREEN)
    place = box((sheet != sheet_of(*tiles)).any(axis=2))
    green = box(where(sheet, GREEN))
    assert green[0] <= place[0]
    assert place[0] + place[2] <= green[0] + green[2]
    assert place[2] > 80
    assert green[1] + green[3] < place[1]


def test_captions_and_titles_that_differ_look_different():
    pictures = [
        sheet_of(plain(RED, caption="cat")),
        sheet_of(plain(RED, caption="dog")),
        sheet_of(plain(RED, caption="cat"), title="other"),
        sheet_of(plain(RED, caption="cat"), heading="heading"),
    ]
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_text_is_cut_with_an_ellipsis_where_it_is_too_long():
    assert shortened("cat", 12, 100) == "cat"
    cut_text = shortened("a very long name of a class", 12, 100)
    assert cut_text.endswith("…")
    assert "a very long name of a class".startswith(cut_text[:-1])
    assert 4 < len(cut_text) < 25
    assert shortened("cat and dog", 12, 1) == ""
    assert shortened("two\nlines\tof it", 12, 200) == "two lines of it"


def test_a_long_title_widens_the_sheet_up_to_its_largest_width():
    narrow, wide = sheet_of(plain(RED), title="t"), sheet_of(plain(RED), title="a title of some length " * 2)
    assert narrow.shape[1] < wide.shape[1]
    endless = sheet_of(plain(RED), title="on\nand on " * 100)
    assert endless.shape[1] <= 1500
    assert (endless[:, -20:] == 255).all()


# --- what is refused -------------------------------------------------------------------------------------------


def test_a_sheet_has_rows():
    with pytest.raises(ParameterError, match="at least one row"):
        contact_sheet([])


@pytest.mark.parametrize(
    ("pixels", "mask", "said"),
    [
        (np.zeros((1, 8, 8), np.uint8), None, r"not \(1, 8, 8\) uint8"),
        (np.zeros((8, 8, 3), np.uint8), None, r"not \(8, 8, 3\)"),
        (np.zeros((3, 0, 8), np.uint8), None, r"not \(3, 0, 8\)"),
        (np.zeros((3, 8, 8), np.float64), None, "float64"),
        (np.full((3, 8, 8), 1.5, np.float32), None, r"found 1.5 to 1.5"),
        (np.full((3, 8, 8), np.nan, np.float32), None, "found nan"),
        (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 9), bool), r"not \(8, 9\) bool"),
        (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8), "uint8"),
    ],
)
def test_pixels_and_masks_of_another_shape_type_or_range_are_refused(pixels, mask, said):
    with pytest.raises(ParameterError, match=said):
        Tile(pixels=pixels, mask=mask)


# --- files -----------------------------------------------------------------------------------------------------


def test_a_saved_sheet_is_a_png_of_the_same_pixels(tmp_path):
    sheet = contact_sheet([SheetRow(title="one", tiles=(plain(RED),))])
    save_sheet(sheet, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(np.asarray(read), np.asarray(sheet))
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    def broken(self, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "sheet.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(UsageError, match="No space left on device"):
        save_sheet(contact_sheet([SheetRow(title="one")]), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
