"""The dataset ``cue_conflict``: layouts, labels and columns, stimuli as they are stored, and refusals."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from harness.entries import DatasetEntry
from harness.errors import DataError
from harness.label_maps import find_label_map
from harness.params import coerce, identity
from harness.protocols import Dataset
from harness.types import View
from harness_datasets.cue_conflict import CueConflictParams, harness_register_datasets
from harness_datasets.cue_conflict_folder import CueConflictFolder

STIMULI = (
    "airplane/airplane1-bicycle2.png",
    "airplane/airplane1-airplane3.png",
    "cat/cat10-elephant1.png",
    "truck/truck2-airplane1.png",
)
VIEW = View(crop=224)


@pytest.fixture
def stimuli(draw):
    def _stimuli(*names, **options):
        return draw(*(names or STIMULI), size=(224, 224), **options)

    return _stimuli


def opened(root, **given):
    return CueConflictFolder(root=str(root), **given)


def contents(data):
    index = data.index("all")
    return {name: data.info.classes[label] for name, label in zip(index.ids, index.labels.tolist(), strict=True)}


def test_labels_are_the_shapes_in_the_order_of_the_label_space(stimuli):
    data = opened(stimuli())
    assert isinstance(data, Dataset)
    info = data.info
    assert info.classes == find_label_map("imagenet1k", "imagenet16").classes
    assert (info.label_space, info.splits, info.support_split) == ("imagenet16", ("all",), None)
    assert info.query_split == info.whole_split == "all"
    assert info.view == VIEW
    assert contents(data) == {
        "airplane/airplane1-airplane3.png": "airplane",
        "airplane/airplane1-bicycle2.png": "airplane",
        "cat/cat10-elephant1.png": "cat",
        "truck/truck2-airplane1.png": "truck",
    }
    assert data.notes[0].startswith("no images with the shape of 13 of the 16 classes: bear, bicycle, ")


def test_columns_say_the_cues(stimuli):
    data = opened(stimuli())
    batch = data.load("all", [3, 0, 1], VIEW)
    names = data.info.classes
    assert [names[i] for i in batch.columns["shape"].tolist()] == ["truck", "airplane", "airplane"]
    assert [names[i] for i in batch.columns["texture"].tolist()] == ["airplane", "airplane", "bicycle"]
    assert batch.columns["conflict"].tolist() == [1, 0, 1]
    assert torch.equal(batch.labels, batch.columns["shape"])
    assert batch.positions.tolist() == [3, 0, 1]
    assert {column.dtype for column in batch.columns.values()} == {torch.int64}


def test_pixels_are_those_of_the_file(stimuli):
    root = stimuli()
    data = opened(root)
    batch = data.load("all", [2], VIEW)
    pixels = np.asarray(Image.open(root / batch.ids[0]), dtype=np.float32) / 255
    assert np.array_equal(batch.images[0].numpy().transpose(1, 2, 0), pixels)
    small = data.load("all", [2], View(crop=64))
    assert torch.equal(small.images[0], batch.images[0][:, 80:144, 80:144])


@pytest.mark.parametrize("above", ["", "stimuli", "stimuli/style-transfer-preprocessed-512", "a/b/c"])
def test_class_folders_are_found_below_the_root(stimuli, above):
    root = stimuli(*(f"{above}/{name}".lstrip("/") for name in STIMULI), "published_decisions/readme.png")
    shutil.rmtree(root / "published_decisions")
    (root / "labels.csv").write_text("file,shape_category\n")
    data = opened(root)
    assert sorted(contents(data)) == sorted(STIMULI)
    direct = opened(root / above)
    assert direct.info.fingerprint == data.info.fingerprint
    assert direct.load("all", [0], VIEW).ids == data.load("all", [0], VIEW).ids


def test_other_image_files_and_published_prefixes(stimuli):
    root = stimuli("cat/cat1-dog2.webp", "dog/0012_s5n_dnn_0_dog_00_dog1-cat2.JPG", "dog/dog1-dog2.bmp")
    assert len(opened(root).index("all")) == 3


def test_the_fingerprint_follows_the_contents(stimuli, tmp_path):
    root = stimuli()
    first = opened(root).info.fingerprint
    assert opened(root).info.fingerprint == first
    (root / STIMULI[0]).rename(root / "airplane/airplane1-bear2.png")
    assert opened(root).info.fingerprint != first


def test_sets_of_another_size(draw):
    root = draw(*STIMULI, size=(96, 96))
    data = opened(root, side_px=96)
    assert data.info.view == View(crop=96)
    assert data.load("all", [0], data.info.view).images.shape == (1, 3, 96, 96)
    with pytest.raises(DataError, match="96 x 96 pixels, where stimuli are 224 x 224") as caught:
        opened(root).load("all", [0], VIEW)
    assert "side_px=96" in caught.value.hint


def test_stimuli_larger_than_the_view_are_not_cropped_in_silence(draw):
    root = draw(*STIMULI, size=(256, 224))
    with pytest.raises(DataError, match="256 x 224 pixels, where stimuli are 224 x 224") as caught:
        opened(root).load("all", [1], VIEW)
    assert str(root / "airplane/airplane1-bicycle2.png") in caught.value.message


def test_stimuli_are_not_resized(stimuli):
    with pytest.raises(DataError, match="would resize stimuli"):
        opened(stimuli()).load("all", [0], View(resize=256, crop=224))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((*STIMULI, "cat/IMG_2024.png"), r"cat/IMG_2024\.png: its name does not say what it shows"),
        ((*STIMULI, "cat/dog1-cat2.png"), "lies in the folder cat, but its name says that its shape is dog"),
        ((*STIMULI, "cat/cat1-catt2.png"), "its texture is 'catt', which is none of the 16 classes"),
        ((*STIMULI, "cat/x/cat10-elephant1.png"), "are one stimulus, cat10-elephant1"),
        ((*STIMULI, "house/house1-cat2.png"), "house of 4 class names are not among imagenet16's 16"),
        (("a/cat/cat1-dog1.png", "b/cat/cat1-dog2.png"), "several folders hold class folders: a, b"),
        (("cat1-dog1.png", "photos/1.png"), "no folder of a shape class; expected airplane, bear, bicycle"),
        (("train/cat/cat1-dog1.png", "train/dog/dog1-cat1.png"), None),
    ],
)
def test_layouts_that_leave_the_cues_in_doubt(stimuli, names, said):
    root = stimuli(*names)
    if said is None:  # one set below a folder of any name
        assert len(opened(root).index("all")) == 2
        return
    with pytest.raises(DataError, match=said) as caught:
        opened(root)
    assert str(root) in caught.value.message
    assert caught.value.hint


def test_roots_that_are_none(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        opened(tmp_path / "nowhere")
    (tmp_path / "stimuli.zip").write_text("x")
    with pytest.raises(DataError, match="a file, but a folder of stimuli is expected"):
        opened(tmp_path / "stimuli.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no folder of a shape class"):
        opened(tmp_path / "empty")


def test_a_broken_image_is_named(stimuli):
    root = stimuli()
    (root / STIMULI[2]).write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match="cat10-elephant1"):
        opened(root).load("all", [2], VIEW)


def test_splits_and_positions_that_are_not_there(stimuli):
    data = opened(stimuli())
    with pytest.raises(DataError, match="no split 'val'; there is all"):
        data.index("val")
    with pytest.raises(IndexError):
        data.load("all", [4], VIEW)
    assert data.load("all", [], VIEW).images.shape == (0, 3, 224, 224)


def test_the_entry_and_its_parameters():
    (entry,) = harness_register_datasets()
    assert isinstance(entry, DatasetEntry)
    assert (entry.name, entry.label_space, entry.offline) == ("cue_conflict", "imagenet16", False)
    params = coerce(CueConflictParams, {"root": "/x", "side_px": "96"}, "cue_conflict")
    assert identity(params) == {"side_px": 96}
    assert identity(CueConflictParams(root="/x")) == {}
