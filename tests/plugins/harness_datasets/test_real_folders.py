"""The dataset ``folder`` on real sets, where they are at hand."""

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from harness.errors import DataError
from harness.types import NAMED_VIEWS, View
from harness_datasets.image_folder import ImageFolder

DATA = Path(__file__).parents[4] / "shared" / "data"


def real(name):
    if not (DATA / name).exists():
        pytest.skip(f"../shared/data/{name} is missing")
    return DATA / name


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_photographs_with_imagenet_labels():
    root = real("imagenet_photos")
    data = ImageFolder(root=str(root))
    assert data.info.label_space == "imagenet1k"
    listed = {row["file"]: int(row["class_index"]) for row in rows(root / "labels.csv")}
    index = data.index("all")
    assert dict(zip(index.ids, index.labels.tolist(), strict=True)) == listed
    view = NAMED_VIEWS["ipvit"]
    batch = data.load("all", [7, 0], view)
    # ToTensor divides by 255; v2's ToDtype multiplies by 1 / 255, which differs in the last bit.
    pipeline = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    for pixels, name in zip(batch.images, batch.ids, strict=True):
        with Image.open(root / name) as image:
            assert torch.equal(pixels, pipeline(image.convert("RGB")))


def test_cifar10_reads_the_same_from_its_csv_and_its_folders():
    root = real("cifar10_jpeg")
    listed, folders = ImageFolder(root=str(root)), ImageFolder(root=str(root), labels="folders")
    assert folders.info == listed.info
    assert (listed.info.support_split, listed.info.query_split) == ("train", "test")
    assert listed.info.classes[0] == "airplane"
    assert np.bincount(listed.index("test").labels).tolist() == [30] * 10
    for split in ("train", "test"):
        assert list(folders.index(split).ids) == list(listed.index(split).ids)
    batch = listed.load("test", range(0, 300, 30), View(crop=32))
    assert batch.labels.tolist() == list(range(10))
    assert ImageFolder(root=str(root), label_space="cifar10").info.label_space == "cifar10"


def test_cue_conflict_stimuli_by_shape_or_by_texture():
    root = real("cue_conflict")
    shapes = ImageFolder(root=str(root / "stimuli"))
    assert len(shapes.info.classes) == 16
    assert np.bincount(shapes.index("all").labels).tolist() == [6] * 16
    textures = ImageFolder(root=str(root), label_column="texture_category")
    listed = {row["file"]: row["texture_category"] for row in rows(root / "labels.csv")}
    index = textures.index("all")
    assert {name: textures.info.classes[label] for name, label in zip(index.ids, index.labels, strict=True)} == listed
    assert textures.load("all", [0], NAMED_VIEWS["imagenet_c"]).images.shape == (1, 3, 224, 224)
    with pytest.raises(DataError, match="none of the class columns") as caught:
        ImageFolder(root=str(root))
    assert "label_column=NAME" in caught.value.hint


def test_omniglot_by_alphabet_or_by_character(tmp_path):
    with zipfile.ZipFile(real("omniglot") / "images_background_small1.zip") as archive:
        archive.extractall(tmp_path)
    root = tmp_path / "images_background_small1"
    alphabets = ImageFolder(root=str(root))
    assert "Balinese" in alphabets.info.classes
    assert len(alphabets.info.classes) == 5
    characters = ImageFolder(root=str(root), class_depth=2)
    assert "Balinese/character01" in characters.info.classes
    assert set(np.bincount(characters.index("all").labels)) == {20}
    assert set(np.bincount(characters.index("support").labels)) == {10}
    images = characters.load("query", [0, 5], View(resize=105, crop=105)).images
    assert set(images.unique().tolist()) == {0.0, 1.0}
    assert len(images) == 2


def test_detection_folders_are_no_classes():
    with pytest.raises(DataError, match="no column 'file'; the columns are image") as caught:
        ImageFolder(root=str(real("coco_seg")), labels="index.csv")
    assert caught.value.hint
