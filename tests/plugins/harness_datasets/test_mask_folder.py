"""The dataset ``masks``: names matched, numbers read as they are, the kinds of masks, and refusals."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from harness.errors import DataError, ParameterError
from harness.params import coerce
from harness.testing import Subject, run_checks
from harness.types import View
from harness_datasets.mask_folder import MaskFolder
from harness_datasets.mask_views import read_mask
from harness_datasets.segmentation import MasksParams, harness_register_datasets

WHOLE = View(crop=16)
SIZE = (16, 20)


def mask(*numbers):
    """Rows of a mask (16, 20), each number a band of equal height, the first on top."""
    rows = np.array(numbers, np.uint8)[np.arange(SIZE[0]) * len(numbers) // SIZE[0]]
    return np.repeat(rows[:, None], SIZE[1], axis=1)


@pytest.fixture
def place(tmp_path):
    """``place(name=mask, ...)``: a folder of these images and masks."""

    def _place(given, *, root="root", images="images", masks="masks", ending=".png"):
        base = tmp_path / root
        for name, numbers in given.items():
            image_path, path = base / images / f"{name}.jpg", base / masks / f"{name}{ending}"
            for folder in (image_path.parent, path.parent):
                folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(list(name.encode())).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(image_path)
            Image.fromarray(numbers).save(path)
        return base

    return _place


THREE = {"b": mask(0, 2, 2, 255), "a": mask(0, 0, 0, 5), "deep/c": mask(0, 0, 0, 0)}
TWO = {"x": mask(0, 255), "y": mask(255, 0, 0, 0)}


def open_masks(root, **given):
    return MaskFolder(root=str(root), **given)


def numbers_in(batch):
    return [sorted(np.unique(regions).tolist()) for regions in batch.regions.numpy()]


def test_masks_of_classes(place):
    data = open_masks(place(THREE))
    assert data.info.classes == ("1", "2", "3", "4", "5", "nothing")
    assert data.info.label_space.startswith("classes:")
    assert data.info.splits == ("all",)
    assert (data.info.support_split, data.info.query_split, data.info.whole_split) == (None, "all", "all")
    index = data.index("all")
    assert list(index.ids) == ["a.jpg", "b.jpg", "deep/c.jpg"]
    assert index.labels.tolist() == [4, 1, 5]
    batch = data.load("all", [1, 2, 0], WHOLE)
    assert batch.ids == ("b.jpg", "deep/c.jpg", "a.jpg")
    assert batch.labels.tolist() == [1, 5, 4]
    assert np.array_equal(batch.regions[0], THREE["b"][:, 2:18])
    assert torch.equal(batch.masks, (batch.regions > 0) & (batch.regions < 255))


def test_masks_of_a_foreground(place):
    data = open_masks(place(TWO))
    assert data.info.classes == ("object",)
    assert data.index("all").labels.tolist() == [0, 0]
    batch = data.load("all", [0, 1], WHOLE)
    assert numbers_in(batch) == [[0, 1], [0, 1]]
    assert batch.masks.float().mean(dim=(1, 2)).tolist() == [0.5, 0.25]


def test_what_the_kind_makes_of_the_numbers(place):
    root = place(THREE)
    as_object = open_masks(root, kind="foreground").load("all", [0, 1, 2], WHOLE)
    assert numbers_in(as_object) == [[0, 1], [0, 1], [0]]  # 255 is of the object where no void is named
    with_void = open_masks(root, kind="foreground", void=255).load("all", [1], WHOLE)
    assert numbers_in(with_void) == [[0, 1, 255]]
    inverted = open_masks(place(TWO, root="inverted"), background=255)
    assert inverted.load("all", [0, 1], WHOLE).masks.float().mean(dim=(1, 2)).tolist() == [0.5, 0.75]
    other_void = open_masks(place({"x": mask(0, 1, 7), "y": mask(2, 0)}, root="seven"), void=7)
    assert other_void.info.classes == ("1", "2", "nothing")
    assert numbers_in(other_void.load("all", [0], WHOLE)) == [[0, 1, 255]]


def test_one_number_beside_void_is_a_class(place):
    data = open_masks(place({"x": mask(0, 1, 255), "y": mask(0, 1)}))
    assert data.info.classes == ("1", "nothing")
    assert numbers_in(data.load("all", [0], WHOLE)) == [[0, 1, 255]]


def test_the_number_of_classes_can_be_told_instead_of_read(place, monkeypatch):
    root = place(THREE)
    read = []

    def counting(path):
        read.append(path.name)
        return read_mask(path)

    monkeypatch.setattr("harness_datasets.mask_numbers.read_mask", counting)
    data = open_masks(root, kind="classes", classes=80)
    assert read == []
    assert len(data.info.classes) == 81
    assert data.index("all").labels.tolist() == [4, 1, 80]
    assert sorted(read) == ["a.png", "b.png", "c.png"]
    data.index("all")
    assert len(read) == 3


def test_folders_can_have_other_names(place, tmp_path):
    root = place(TWO, images="JPEGImages", masks="gt/fine")
    data = open_masks(root, images="JPEGImages", masks="gt/fine")
    assert len(data.index("all")) == 2
    elsewhere = open_masks(tmp_path, images=str(root / "JPEGImages"), masks=str(root / "gt/fine"))
    assert elsewhere.info.fingerprint == data.info.fingerprint


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".pgm"])
def test_formats_that_keep_numbers(place, ending):
    data = open_masks(place({"a": mask(0, 3, 200), "b": mask(9, 0)}, ending=ending))
    assert numbers_in(data.load("all", [0, 1], WHOLE)) == [[0, 3, 200], [0, 9]]


def test_palettes_and_single_bits_are_read_as_numbers(place, tmp_path):
    root = place(TWO)
    image = Image.fromarray(mask(0, 1, 2), "P")
    image.putpalette([255] * 768)
    image.save(root / "masks" / "x.png")
    assert numbers_in(open_masks(root, kind="classes").load("all", [0], WHOLE)) == [[0, 1, 2]]
    for name in TWO:
        Image.fromarray(mask(0, 255)).convert("1").save(root / "masks" / f"{name}.png")
    assert open_masks(root).load("all", [0], WHOLE).masks.float().mean() == 0.5


def test_the_fingerprint_is_that_of_images_and_masks(place):
    root = place(THREE)
    before = open_masks(root).info.fingerprint
    assert open_masks(place(THREE, root="copy")).info.fingerprint == before
    Image.fromarray(mask(0, 2, 2, 2)).save(root / "masks" / "b.png")
    changed = open_masks(root).info.fingerprint
    assert changed != before
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "images" / "b.jpg")
    assert open_masks(root).info.fingerprint not in (before, changed)


def test_it_can_be_pickled(place):
    data = open_masks(place(THREE))
    again = pickle.loads(pickle.dumps(data))
    assert again.info == data.info
    assert again.index("all").labels.tolist() == data.index("all").labels.tolist()


@pytest.mark.parametrize("given", [THREE, TWO])
def test_the_contract(place, given):
    (entry,) = (entry for entry in harness_register_datasets() if entry.name == "masks")
    params = {"root": str(place(given))}
    subject = Subject(
        entry=entry, make=lambda: MaskFolder(**params), params=params, plugin="harness_datasets.segmentation"
    )
    assert {c.check: c.message for c in run_checks(subject) if c.status == "failed"} == {}


# --- refusals --------------------------------------------------------------------------------------------------


def refusal(root, **given):
    with pytest.raises(DataError) as caught:
        open_masks(root, **given)
    assert caught.value.hint
    return caught.value.message


def test_images_and_masks_without_each_other_are_named(place):
    root = place(THREE)
    (root / "masks" / "b.png").unlink()
    assert "1 of 3 images have no mask in" in refusal(root)
    assert refusal(root).endswith("b.jpg")
    (root / "images" / "b.jpg").unlink()
    (root / "images" / "a.jpg").unlink()
    assert "1 of 2 masks have no image in" in refusal(root)
    assert refusal(root).endswith("a.png")


def test_folders_in_doubt(place, tmp_path):
    assert "there is no such folder" in refusal(tmp_path / "nowhere")
    root = place(TWO)
    assert "there is no such folder, of masks" in refusal(root, masks="annotations")
    (root / "masks" / "x.bmp").write_bytes(b"")
    assert "x.bmp and x.png differ in their endings only" in refusal(root)
    (root / "masks" / "x.bmp").unlink()
    (root / "bare").mkdir()
    assert "bare: no images" in refusal(root, images="bare")
    (root / "masks" / ".x.bmp").write_bytes(b"")
    (root / "masks" / "notes.txt").write_text("text")
    assert len(open_masks(root).index("all")) == 2


def test_masks_of_another_kind_than_said(place):
    root = place({"a": mask(0, 3), "b": mask(0, 9)})
    with pytest.raises(DataError, match=r"a\.png: holds the number 3; classes are numbered from 1 to 2"):
        open_masks(root, kind="classes", classes=2).load("all", [0], WHOLE)
    with pytest.raises(DataError, match=r"not one of 2 masks holds a class, only background 0 and void 255"):
        open_masks(place(TWO, root="bare"), kind="classes")
    with pytest.raises(DataError, match="holds the number 0; classes are numbered from 1 to 254, background is 3"):
        open_masks(root, kind="classes", background=3)


def test_a_foreground_that_turns_out_to_be_classes_is_refused(place, monkeypatch):
    monkeypatch.setattr("harness_datasets.mask_numbers._LOOKED_AT", 3)
    data = open_masks(place({f"{i}": mask(0, 4) for i in range(30)}))
    assert data.info.classes == ("object",)
    for path in (data._masks / name for name in data._splits["all"].masks):
        Image.fromarray(mask(0, 6)).save(path)
    with pytest.raises(
        DataError, match="holds the number 6; the 3 masks that were looked at hold none but 0 and 4"
    ) as e:
        data.load("all", [0], WHOLE)
    assert "kind=classes or kind=foreground" in e.value.hint


def test_parameters_that_contradict_each_other(place):
    root = place(TWO)
    with pytest.raises(ParameterError, match="background and void are both 255"):
        open_masks(root, background=255, void=255)
    with pytest.raises(ParameterError, match="classes=3 has no effect"):
        open_masks(root, kind="foreground", classes=3)
    with pytest.raises(ParameterError, match="classes=3 has no effect: the masks in"):
        open_masks(root, classes=3)
    with pytest.raises(ParameterError, match="kind"):
        coerce(MasksParams, {"root": "x", "kind": "edges"}, "masks")
    with pytest.raises(ParameterError, match="classes"):
        open_masks(root, classes=255)


def test_a_mask_of_another_size_than_its_image(place):
    root = place(TWO)
    Image.fromarray(mask(0, 255)[:, :19]).save(root / "masks" / "y.png")
    with pytest.raises(DataError, match=r"y\.png: 19 x 16 pixels, but its image .*y\.jpg has 20 x 16"):
        open_masks(root).load("all", [1], WHOLE)
    Image.fromarray(mask(0, 255).astype(np.uint16) * 257).save(root / "masks" / "y.png")
    with pytest.raises(DataError, match=r"y\.png: pixels of mode I;16"):
        open_masks(root)
