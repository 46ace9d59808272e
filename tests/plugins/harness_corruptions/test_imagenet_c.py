"""The published files of ImageNet-C: layouts, ids that pair, pixels left alone, and refusals."""

from __future__ import annotations

import os
import shutil
from dataclasses import fields
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from harness.errors import DataError, ParameterError
from harness.params import coerce, identity
from harness.protocols import Dataset
from harness.testing import Subject, run_checks
from harness.types import View
from harness_corruptions import imagenet_c_folders
from harness_corruptions.imagenet_c import ImageNetC
from harness_corruptions.imagenet_c_folders import GROUPS
from harness_corruptions.imagenet_c_parameters import Corruption, ImageNetCParams
from harness_corruptions.plugin import BENCHMARK, EXTRA, harness_register_datasets

VIEW = View.parse("imagenet_c")
WNIDS = {"n01440764": 0, "n01443537": 1, "n02123045": 281, "n15075141": 999}
PER_CLASS = 2
CELLS = (("fog", 1), ("fog", 3), ("frost", 3), ("gaussian_noise", 3))


def write(path, *, side=224):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list("/".join(path.parts[-4:]).encode())
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((side, side)).save(path, format="JPEG", quality=85)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Three corruptions of eight photographs, laid out as they are published."""
    root = tmp_path_factory.mktemp("imagenet-c")
    for corruption, severity in CELLS:
        for wnid in WNIDS:
            for number in range(PER_CLASS):
                write(root / corruption / str(severity) / wnid / f"ILSVRC2012_val_{number:08d}.JPEG")
    return root


@pytest.fixture
def copied(published, tmp_path):
    """One cell that may be broken, and its root."""
    shutil.copytree(published / "fog" / "3", tmp_path / "root" / "fog" / "3")
    return tmp_path / "root"


def opened(root, corruption="fog", severity=3, **given):
    return ImageNetC(root=str(root), corruption=corruption, severity=severity, **given)


def refusal(root, *args, **given):
    with pytest.raises(DataError) as caught:
        opened(root, *args, **given)
    return caught.value


def test_classes_are_imagenets_thousand_and_labels_their_indices(published):
    data = opened(published)
    assert isinstance(data, Dataset)
    info = data.info
    assert (info.name, info.label_space, len(info.classes)) == ("imagenet_c", "imagenet1k", 1000)
    assert (info.splits, info.query_split, info.whole_split, info.support_split) == (("test",), "test", "test", None)
    assert info.view == VIEW
    index = data.index("test")
    assert index.labels.dtype == np.int64
    assert index.labels.tolist() == [label for label in WNIDS.values() for _ in range(PER_CLASS)]
    assert [info.classes[label] for label in index.labels] == [name.partition("/")[0] for name in index.ids]
    assert len(data.notes) == 1
    assert "8 images of 4 classes" in data.notes[0]


def test_a_photograph_has_one_id_under_every_corruption_and_severity(published):
    listed = [list(opened(published, *cell).index("test").ids) for cell in CELLS]
    assert listed[0][0] == "n01440764/ILSVRC2012_val_00000000.JPEG"
    assert all(ids == listed[0] for ids in listed)


def test_pixels_are_those_of_the_file(published):
    data = opened(published)
    batch = data.load("test", [5, 0], VIEW)
    assert batch.ids == tuple(data.index("test").ids[i] for i in (5, 0))
    assert batch.labels.tolist() == [281, 0]
    for image, name in zip(batch.images, batch.ids, strict=True):
        expected = np.asarray(Image.open(published / "fog" / "3" / name))
        assert (image == torch.from_numpy(expected.copy()).permute(2, 0, 1).float() / 255).all()


def test_a_larger_file_loses_its_margin_and_nothing_else(copied):
    write(copied / "fog" / "3" / "n01440764" / "ILSVRC2012_val_00000000.JPEG", side=256)
    batch = opened(copied).load("test", [0], VIEW)
    expected = np.asarray(Image.open(copied / "fog" / "3" / batch.ids[0]))[16:240, 16:240]
    assert (batch.images[0] == torch.from_numpy(expected.copy()).permute(2, 0, 1).float() / 255).all()


@pytest.mark.parametrize("text", ["ipvit", "resize=224,crop=224", "resize=248,crop=224,interpolation=bicubic"])
def test_a_view_that_resizes_is_refused(published, text):
    with pytest.raises(DataError, match="classic error with ImageNet-C") as caught:
        opened(published).load("test", [0], View.parse(text))
    assert "--view imagenet_c" in caught.value.hint


def test_an_image_smaller_than_the_crop_is_named(copied):
    write(copied / "fog" / "3" / "n01440764" / "ILSVRC2012_val_00000000.JPEG", side=64)
    for on_error in ("fail", "skip"):
        with pytest.raises(DataError, match=r"n01440764.ILSVRC2012_val_00000000.JPEG: 64 x 64 pixels") as caught:
            opened(copied, on_error=on_error).load("test", [0], VIEW)
        assert "resize" not in caught.value.hint


def test_a_broken_image_is_named_or_left_out(copied):
    (copied / "fog" / "3" / "n01443537" / "ILSVRC2012_val_00000000.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"n01443537.ILSVRC2012_val_00000000.JPEG") as caught:
        opened(copied).load("test", [1, 2, 3], VIEW)
    assert "on_error=skip" in caught.value.hint
    batch = opened(copied, on_error="skip").load("test", [1, 2, 3], VIEW)
    assert batch.positions.tolist() == [1, 3]


def test_a_file_that_is_gone_is_never_skipped(copied):
    data = opened(copied, on_error="skip")
    (copied / "fog" / "3" / "n01440764" / "ILSVRC2012_val_00000000.JPEG").unlink()
    with pytest.raises(DataError, match="no such file"):
        data.load("test", [0], VIEW)


def test_positions_and_splits_that_are_not_there(published):
    data = opened(published)
    for position in (-1, 8):
        with pytest.raises(IndexError):
            data.load("test", [position], VIEW)
    with pytest.raises(DataError, match="no split 'val'"):
        data.index("val")


def test_folders_of_the_archives_may_lie_around(published, tmp_path):
    shutil.copytree(published / "fog", tmp_path / "weather" / "fog")
    shutil.copytree(published / "gaussian_noise", tmp_path / "noise" / "gaussian_noise")
    assert opened(tmp_path).info.fingerprint == opened(published).info.fingerprint
    assert "fog, gaussian_noise" in refusal(tmp_path, "snow").message
    shutil.copytree(published / "fog", tmp_path / "fog")
    assert "fog lies there twice, also in weather" in refusal(tmp_path).message


def test_the_fingerprint_knows_names_content_corruption_and_severity_but_not_the_place(published, tmp_path):
    first = opened(published).info.fingerprint
    assert len(first) == 64
    shutil.copytree(published, tmp_path / "a")
    assert opened(tmp_path / "a").info.fingerprint == first
    images = tmp_path / "a" / "fog" / "3" / "n15075141"
    (images / "ILSVRC2012_val_00000000.JPEG").rename(images / "other.JPEG")
    renamed = opened(tmp_path / "a").info.fingerprint
    write(images / "other.JPEG", side=225)
    rewritten = opened(tmp_path / "a").info.fingerprint
    shutil.copytree(published / "fog" / "3", tmp_path / "b" / "frost" / "1")
    moved = opened(tmp_path / "b", "frost", 1).info.fingerprint
    assert len({first, renamed, rewritten, moved, opened(published, "fog", 1).info.fingerprint}) == 5


def test_only_a_sample_is_opened_and_no_file_is_asked_for_its_size(tmp_path, monkeypatch):
    folder = tmp_path / "fog" / "3" / "n01440764"
    folder.mkdir(parents=True)
    for number in range(200):
        (folder / f"{number:03d}.JPEG").touch()
    asked = []
    plain = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: asked.append(path) or plain(path, **more))
    opened_files = []
    path_open = imagenet_c_folders.Path.open
    monkeypatch.setattr(
        imagenet_c_folders.Path,
        "open",
        lambda path, *how, **more: opened_files.append(path.name) or path_open(path, *how, **more),
    )
    opened(tmp_path)
    assert len([name for name in opened_files if name.endswith(".JPEG")]) == 32
    assert not [path for path in asked if str(path).endswith(".JPEG")]


# --- refusals --------------------------------------------------------------------------------------------------


def test_a_root_that_is_not_there_or_a_file(tmp_path):
    assert "there is no such folder" in refusal(tmp_path / "gone").message
    (tmp_path / "blur.tar").touch()
    error = refusal(tmp_path / "blur.tar")
    assert "a file, but a folder" in error.message
    assert "unpack" in error.hint


@pytest.mark.parametrize("inside", ["fog", "fog/3", "fog/3/n01440764"])
def test_a_root_that_lies_too_deep_is_told_where_to_go(published, inside):
    error = refusal(published / inside)
    assert "too deep" in error.message
    assert error.hint == f"give --data {published}"


def test_a_root_that_lies_too_high_is_told_where_to_go(published):
    error = refusal(published.parent)
    assert "too high" in error.message
    assert error.hint == f"give --data {published}"


def test_archives_one_level_down_are_found_too(published, tmp_path):
    shutil.copytree(published / "fog", tmp_path / "ImageNet-C" / "weather" / "fog")
    assert refusal(tmp_path).hint == f"give --data {tmp_path / 'ImageNet-C'}"


def test_a_folder_of_something_else(tmp_path):
    assert "found no folders" in refusal(tmp_path).message
    (tmp_path / "cats").mkdir()
    assert "found cats" in refusal(tmp_path).message


def test_a_corruption_that_is_missing_names_those_found_and_its_archive(published):
    error = refusal(published, "saturate")
    assert "no corruption saturate; there are fog, frost, gaussian_noise" in error.message
    assert "extra.tar" in error.hint


def test_a_severity_that_is_missing_names_those_found(published):
    assert "no severity 2; there are 1, 3" in refusal(published, "fog", 2).message


def test_empty_folders(copied):
    (copied / "fog" / "4").mkdir()
    assert "no class folders" in refusal(copied, "fog", 4).message
    shutil.rmtree(copied / "fog" / "3" / "n01443537")
    (copied / "fog" / "3" / "n01443537").mkdir()
    assert "no JPEG files in class folders (1): n01443537" in refusal(copied).message


def test_class_folders_that_are_no_imagenet_classes(copied):
    (copied / "fog" / "3" / "n00000001").mkdir()
    error = refusal(copied)
    assert "n00000001 of 5 class folders are not among ImageNet-1k's 1000 ids" in error.message


def test_other_files_are_left_out_and_told(copied):
    (copied / "fog" / "3" / "n01440764" / "readme.txt").touch()
    (copied / "fog" / "3" / "n01440764" / ".hidden.JPEG").touch()
    (copied / "fog" / "3" / "list.txt").touch()
    data = opened(copied)
    assert len(data.index("test")) == 8
    assert data.notes[0] == "left out, not JPEG files (1): n01440764/readme.txt"


@pytest.mark.parametrize(
    ("given", "told"),
    [({"corruption": "rain"}, "corruption"), ({"severity": 0}, "severity"), ({"on_error": "ask"}, "on_error")],
)
def test_parameters_are_checked(published, given, told):
    with pytest.raises(ParameterError, match=told):
        opened(published, **{"corruption": "fog", "severity": 3, **given})


# --- the entry -------------------------------------------------------------------------------------------------


def test_the_entry_offers_what_the_class_takes():
    (entry,) = harness_register_datasets()
    assert entry.params is ImageNetCParams
    names = [name for name, _, _ in (*BENCHMARK, *EXTRA)]
    assert list(get_args(Corruption)) == names
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(names)
    assert {f.name for f in fields(ImageNetCParams)} == {"root", "corruption", "severity", "on_error"}
    assert entry.level_param in {f.name for f in fields(ImageNetCParams)}
    params = coerce(ImageNetCParams, {"root": "x", "corruption": "fog", "severity": "3"}, "imagenet_c")
    assert identity(params) == {"corruption": "fog", "severity": 3}


def test_the_contract_of_datasets_holds(published):
    (entry,) = harness_register_datasets()
    params = {"root": str(published), "corruption": "fog", "severity": 3}
    outcomes = run_checks(Subject(entry=entry, make=lambda: ImageNetC(**params), params=params))
    assert {o.check: o.message for o in outcomes if o.status == "failed"} == {}
    assert "passed" in {o.status for o in outcomes if o.check == "stored_images_not_resized"}
