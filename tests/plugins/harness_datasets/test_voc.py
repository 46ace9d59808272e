"""The dataset ``voc`` on a tiny copy of its layout: palette indices, lists, labels, views and refusals."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

from harness.errors import DataError, ParameterError
from harness.params import coerce
from harness.protocols import Dataset
from harness.testing import Subject, run_checks
from harness.types import View
from harness_datasets.segmentation import VocParams, harness_register_datasets
from harness_datasets.voc_folder import CLASSES, VocFolder

WHOLE = View(crop=12)
NAMES = {"train": ("2007_000032", "2007_000039", "2008_000001"), "val": ("2007_000033", "2007_000042")}


def palette_mask(numbers):
    """A mask as the tar holds it: mode P with VOC's colours, so that a conversion to grey or RGB changes it."""
    image = Image.fromarray(np.asarray(numbers, np.uint8), "P")
    image.putpalette([value for index in range(256) for value in (index * 7 % 256, index * 3 % 256, 255 - index)])
    return image


def numbers_of(name, size=(16, 20)):
    """A mask (height, width) of two classes, a border of void around the larger one, and background."""
    generator = np.random.default_rng(list(name.encode()))
    first, second = generator.choice(np.arange(1, 21), 2, replace=False)
    numbers = np.zeros(size, np.uint8)
    numbers[2:14, 3:12] = 255
    numbers[3:13, 4:11] = first
    numbers[5:9, 14:17] = second
    return numbers


@pytest.fixture
def voc(tmp_path):
    """The folder VOC2012 in a VOCdevkit, with lists of train, val and both."""
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    for split, names in {**NAMES, "trainval": NAMES["train"] + NAMES["val"]}.items():
        (base / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (16, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(base / "JPEGImages" / f"{name}.jpg", quality=95)
            palette_mask(numbers_of(name)).save(base / "SegmentationClass" / f"{name}.png")
    return base


def open_voc(root, **given):
    return VocFolder(root=str(root), **given)


def mask_path(base, name):
    return base / "SegmentationClass" / f"{name}.png"


def test_splits_classes_and_roles(voc):
    data = open_voc(voc)
    assert isinstance(data, Dataset)
    assert data.info.classes == CLASSES
    assert len(CLASSES) == 20
    assert data.info.label_space == "voc"
    assert data.info.splits == ("train", "val", "trainval")
    assert (data.info.support_split, data.info.query_split, data.info.whole_split) == ("train", "val", "val")
    assert list(data.index("val").ids) == list(NAMES["val"])
    assert set(data.index("trainval").ids) == {*NAMES["train"], *NAMES["val"]}
    whole = open_voc(voc, query="trainval")
    assert (whole.info.support_split, whole.info.query_split) == (None, "trainval")


@pytest.mark.parametrize("above", [0, 1, 2])
def test_the_root_may_be_a_folder_above(voc, above):
    root = (voc, voc.parent, voc.parent.parent)[above]
    data = open_voc(root)
    assert data.info.fingerprint == open_voc(voc).info.fingerprint
    assert len(data.load("val", [0, 1], WHOLE)) == 2


def test_regions_are_palette_indices_and_masks_what_is_an_object(voc):
    batch = open_voc(voc).load("val", [1, 0], WHOLE)
    for row, name in enumerate(("2007_000042", "2007_000033")):
        expected = numbers_of(name)[2:14, 4:16]
        assert batch.ids[row] == name
        assert batch.regions.dtype == torch.uint8
        assert np.array_equal(batch.regions[row], expected)
        assert np.array_equal(batch.masks[row], (expected > 0) & (expected < 255))


def test_the_label_is_the_class_of_the_largest_region_of_the_whole_mask(voc):
    data = open_voc(voc)
    index = data.index("train")
    expected = []
    for name in index.ids:
        counts = {number: int((numbers_of(name) == number).sum()) for number in range(1, 21)}
        expected.append(max(counts, key=counts.get) - 1)
    assert index.labels.tolist() == expected
    assert index.labels.dtype == np.int64
    assert data.load("train", [2, 0], View(crop=4)).labels.tolist() == [expected[2], expected[0]]


def test_an_index_decodes_no_image(voc):
    for path in (voc / "JPEGImages").iterdir():
        path.write_bytes(b"no image at all")
    assert len(open_voc(voc).index("trainval")) == 5


@pytest.mark.parametrize(
    "view",
    [
        View(resize=24, crop=20),
        View(resize=11, crop=9, interpolation="bicubic"),
        View(resize=15, crop=15, mode="squash"),
        View(crop=13),
    ],
)
def test_masks_go_through_the_view_as_torchvision_resizes_them_by_the_nearest(voc, view):
    batch = open_voc(voc).load("val", [0, 1], view)
    for row, name in enumerate(NAMES["val"]):
        mask = Image.fromarray(numbers_of(name))
        if view.resize is not None:
            size = [view.resize, view.resize] if view.mode == "squash" else view.resize
            mask = functional.resize(mask, size, InterpolationMode.NEAREST)
        expected = np.asarray(functional.center_crop(mask, view.crop))
        assert np.array_equal(batch.regions[row], expected)


def test_a_mask_stays_on_its_object(voc):
    """An image that is white where its mask has a class: after the view they still agree but for blurred edges."""
    for name in NAMES["val"]:
        numbers = np.kron(numbers_of(name), np.ones((8, 8), np.uint8))
        Image.fromarray(np.where((numbers > 0) & (numbers < 255), 255, 0).astype(np.uint8)).convert("RGB").save(
            voc / "JPEGImages" / f"{name}.jpg", quality=100
        )
        palette_mask(numbers).save(mask_path(voc, name))
    batch = open_voc(voc).load("val", [0, 1], View(resize=90, crop=80))
    bright = batch.images.mean(dim=1) > 0.5
    assert (bright == batch.masks).float().mean() > 0.98


def test_other_folders_of_masks(voc):
    shutil.copytree(voc / "SegmentationClass", voc / "SegmentationClassAug")
    first = mask_path(voc, "2007_000033").with_name("2007_000033.png")
    palette_mask(np.full((16, 20), 9)).save(voc / "SegmentationClassAug" / first.name)
    data = open_voc(voc, masks="SegmentationClassAug")
    assert data.index("val").labels[0] == 8
    assert data.info.fingerprint != open_voc(voc).info.fingerprint


def test_the_fingerprint_is_that_of_the_contents(voc, tmp_path):
    before = open_voc(voc).info.fingerprint
    shutil.copytree(voc, tmp_path / "moved")
    assert open_voc(tmp_path / "moved").info.fingerprint == before
    numbers = numbers_of("2007_000033")
    numbers[0, 0] = 3
    palette_mask(numbers).save(mask_path(voc, "2007_000033"))
    assert open_voc(voc).info.fingerprint != before


def test_it_can_be_pickled(voc):
    data = open_voc(voc)
    again = pickle.loads(pickle.dumps(data))
    assert again.info == data.info
    assert torch.equal(again.load("val", [0], WHOLE).regions, data.load("val", [0], WHOLE).regions)


def test_the_contract(voc):
    (entry,) = (entry for entry in harness_register_datasets() if entry.name == "voc")
    params = {"root": str(voc)}
    subject = Subject(
        entry=entry, make=lambda: VocFolder(**params), params=params, plugin="harness_datasets.segmentation"
    )
    assert {c.check: c.message for c in run_checks(subject) if c.status == "failed"} == {}


# --- refusals --------------------------------------------------------------------------------------------------


def refusal(root, **given):
    with pytest.raises(DataError) as caught:
        open_voc(root, **given)
    assert caught.value.hint
    return caught.value.message


def test_folders_that_are_no_voc(voc, tmp_path):
    assert "there is no such folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no folder JPEGImages" in refusal(tmp_path / "empty")
    assert "there is no such folder, of segmentation masks" in refusal(voc, masks="SegmentationClas")
    shutil.rmtree(voc / "ImageSets")
    assert "none of the lists train.txt, val.txt, trainval.txt" in refusal(voc)


def test_files_that_are_not_there_are_named(voc):
    mask_path(voc, "2007_000042").unlink()
    assert "these are not there: 2007_000042.png" in refusal(voc)
    palette_mask(numbers_of("2007_000042")).save(mask_path(voc, "2007_000042"))
    for name in NAMES["train"]:
        (voc / "JPEGImages" / f"{name}.jpg").unlink()
    found = refusal(voc)
    assert "JPEGImages: of 3 files these are not there: 2007_000032.jpg, 2007_000039.jpg, 2008_000001.jpg" in found


def test_lists_in_doubt(voc):
    lists = voc / "ImageSets/Segmentation"
    (lists / "val.txt").write_text("2007_000033\n2007_000042\n2007_000033\n")
    assert "names 2007_000033 twice" in refusal(voc)
    (lists / "val.txt").write_text("\n")
    assert "names no images" in refusal(voc)
    (lists / "val.txt").unlink()
    with pytest.raises(ParameterError, match=r"query=val, but .* has lists of train, trainval only"):
        open_voc(voc)
    assert open_voc(voc, query="trainval").info.query_split == "trainval"


def test_unknown_splits_and_parameters(voc):
    with pytest.raises(DataError, match="no split 'vall'; there are train, val, trainval") as caught:
        open_voc(voc).index("vall")
    assert caught.value.hint == "did you mean val?"
    with pytest.raises(ParameterError, match="query"):
        open_voc(voc, query="test")
    with pytest.raises(IndexError, match="has 2 images"):
        open_voc(voc).load("val", [2], WHOLE)
    assert coerce(VocParams, {"root": "x"}, "voc").query == "val"


def test_masks_of_something_else_are_refused_by_name(voc):
    path = mask_path(voc, "2007_000042")
    numbers = numbers_of("2007_000042")
    numbers[0, 0] = 21
    palette_mask(numbers).save(path)
    with pytest.raises(DataError, match=r"2007_000042\.png: holds class number 21"):
        open_voc(voc).load("val", [1], WHOLE)
    palette_mask(np.zeros((16, 20))).save(path)
    with pytest.raises(DataError, match=r"2007_000042\.png: holds no class"):
        open_voc(voc).index("val")
    palette_mask(numbers_of("2007_000042")).convert("RGB").save(path)
    with pytest.raises(DataError, match="pixels of mode RGB, expected a palette or 8-bit grey"):
        open_voc(voc).load("val", [1], WHOLE)
    palette_mask(numbers_of("2007_000042")[:15]).save(path)
    with pytest.raises(DataError, match=r"20 x 15 pixels, but its image .*2007_000042\.jpg has 20 x 16"):
        open_voc(voc).load("val", [1], WHOLE)
    Image.fromarray(numbers_of("2007_000042")).save(path, format="JPEG")
    with pytest.raises(DataError, match="not a mask in any of the formats") as caught:
        open_voc(voc).load("val", [1], WHOLE)
    assert "JPEG" in caught.value.hint


@pytest.mark.parametrize(("content", "message"), [(b"", "the file is empty"), (b"<html>", "not an image")])
@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
def test_broken_files_are_named(voc, folder, content, message):
    (path,) = (path for path in (voc / folder).iterdir() if path.stem == "2007_000042")
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"2007_000042\.\w+: {message}"):
        open_voc(voc).load("val", [1], WHOLE)


def test_an_image_smaller_than_the_crop_is_refused(voc):
    with pytest.raises(DataError, match=r"2007_000033\.jpg: 20 x 16 pixels cannot fill"):
        open_voc(voc).load("val", [0], View(crop=17))
