"""The dataset ``folder``: layouts, divisions, fingerprints, decoding and refusals."""

import gc
import inspect
import os
import pickle
import shutil
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionFolder

from harness.errors import DataError, ParameterError
from harness.params import coerce, identity
from harness.protocols import Dataset
from harness.types import View
from harness.views import render
from harness_datasets import listing
from harness_datasets.folder import FolderParams, harness_register_datasets
from harness_datasets.image_folder import ImageFolder

VIEW = View(resize=12, crop=10)
PETS = ("cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png")


def open_folder(root, **given):
    return ImageFolder(root=str(root), **given)


def contents(dataset, split):
    index = dataset.index(split)
    return dict(zip(index.ids, index.labels.tolist(), strict=True))


def names_by_class(dataset, split):
    return {name: dataset.info.classes[label] for name, label in contents(dataset, split).items()}


# --- layouts ---------------------------------------------------------------------------------------------------


def test_class_folders(draw):
    data = open_folder(draw(*PETS))
    assert isinstance(data, Dataset)
    assert data.info.classes == ("cat", "dog")
    assert data.info.splits == ("all", "support", "query")
    assert (data.info.support_split, data.info.query_split, data.info.whole_split) == ("support", "query", "all")
    assert contents(data, "all") == {"cat/1.png": 0, "cat/2.png": 0, "cat/3.png": 0, "dog/1.png": 1, "dog/2.png": 1}
    assert data.index("all").labels.dtype == np.int64
    assert list(data.index("all").ids) == sorted(PETS)
    assert data.notes == ()


def test_the_division_is_disjoint_whole_and_by_class(draw):
    data = open_folder(draw(*PETS, "eel/only.png"))
    support, query = contents(data, "support"), contents(data, "query")
    assert not support.keys() & query.keys()
    assert support | query == contents(data, "all")
    assert sorted(support.values()) == [0, 0, 1]
    assert query["eel/only.png"] == 2
    assert data.index("query").ids[-1] == "eel/only.png"
    assert list(data.index("query").ids[:2]) == list(data.index("query").ids)[:2]


def test_the_share_of_the_support_can_be_chosen(draw):
    root = draw(*PETS)
    assert len(open_folder(root, support_fraction=1.0).index("query")) == 2
    none = open_folder(root, support_fraction=0)
    assert none.info.splits == ("all",)
    assert (none.info.support_split, none.info.query_split, none.info.whole_split) == (None, "all", "all")
    assert open_folder(draw("a/1.png", "b/1.png", root="single")).info.support_split is None


@pytest.mark.parametrize(
    ("splits", "support", "query"),
    [
        (("train", "val"), "train", "val"),
        (("train", "test"), "train", "test"),
        (("Train", "VALIDATION", "test"), "train", "validation"),
        (("val", "test"), None, "val"),
    ],
)
def test_split_folders(draw, splits, support, query):
    root = draw(*(f"{split}/{name}" for split in splits for name in PETS))
    data = open_folder(root)
    assert sorted(data.info.splits) == sorted(split.lower() for split in splits)
    assert (data.info.support_split, data.info.query_split) == (support, query)
    assert data.info.whole_split == data.info.query_split
    for split in splits:
        assert set(data.index(split.lower()).ids) == {f"{split}/{name}" for name in PETS}
    with pytest.raises(ParameterError, match=r"support_fraction=0\.3 has no effect"):
        open_folder(root, support_fraction=0.3)


def test_a_single_split_folder_is_divided_as_class_folders_are(draw):
    data = open_folder(draw(*(f"val/{name}" for name in PETS)))
    assert data.info.splits == ("val", "support", "query")
    assert (data.info.support_split, data.info.query_split, data.info.whole_split) == ("support", "query", "val")
    assert set(data.index("val").ids) == {f"val/{name}" for name in PETS}


def test_a_class_that_one_split_lacks_is_noted(draw):
    data = open_folder(draw("train/a/1.png", "train/b/1.png", "train/c/1.png", "test/a/1.png", "test/c/1.png"))
    assert data.info.classes == ("a", "b", "c")
    assert contents(data, "test") == {"test/a/1.png": 0, "test/c/1.png": 2}
    assert data.notes == ("split test has no images of 1 of 3 classes: b",)


def test_classes_called_like_splits(draw):
    data = open_folder(draw("train/1.png", "bus/1.png", "car/1.png"))
    assert data.info.classes == ("bus", "car", "train")


def test_agreement_with_torchvision(draw):
    root = draw(*PETS, "cat/deeper/9.JPG", "Ant/x.bmp", "Ant/z.WEBP", "ant/y.tiff")
    reference = TorchvisionFolder(str(root))
    data = open_folder(root)
    assert list(data.info.classes) == reference.classes
    assert contents(data, "all") == {os.path.relpath(path, root): label for path, label in reference.samples}


def test_deeper_class_names(draw):
    root = draw("Greek/alpha/1.png", "Greek/beta/1.png", "Latin/a/1.png", "Latin/a/deeper/2.png")
    assert open_folder(root).info.classes == ("Greek", "Latin")
    deep = open_folder(root, class_depth=2)
    assert deep.info.classes == ("Greek/alpha", "Greek/beta", "Latin/a")
    assert contents(deep, "all")["Latin/a/deeper/2.png"] == 2
    with pytest.raises(DataError, match="no class folders 4 levels down"):
        open_folder(root, class_depth=4)


def test_imagenet_ids_keep_their_true_indices(draw):
    """As ImageNet-A and -R: a subset of the classes, which must not be numbered from 0 (timm issue 2456)."""
    data = open_folder(draw("n15075141/a.png", "n02123045/b.png", "n01440764/c.png"))
    assert data.info.label_space == "imagenet1k"
    assert len(data.info.classes) == 1000
    assert contents(data, "all") == {"n01440764/c.png": 0, "n02123045/b.png": 281, "n15075141/a.png": 999}
    own = open_folder(draw("n15075141/a.png", "n02123045/b.png"), label_space="own")
    assert own.info.classes == ("n01440764", "n02123045", "n15075141")


def test_equal_classes_share_a_label_space(draw):
    one, two = (open_folder(draw(*PETS, root=root)) for root in ("one", "two"))
    other = open_folder(draw(*PETS, "eel/1.png", root="three"))
    assert one.info.label_space == two.info.label_space
    assert other.info.label_space != one.info.label_space


def test_what_is_left_out_is_noted(draw):
    root = draw(*PETS, "loose.png")
    for name in ("README.md", "cat/notes.txt", ".hidden.png", "cat/.DS_Store"):
        (root / name).write_text("text")
    (root / ".cache").mkdir()
    data = open_folder(root)
    assert len(data.index("all")) == len(PETS)
    assert data.notes == (
        "left out, not images (2): README.md, cat/notes.txt",
        "left out, images in no class folder (1): loose.png",
    )


def test_links_are_followed(draw, tmp_path):
    root, elsewhere = draw("cat/1.png"), draw("x/1.png", root="elsewhere")
    (root / "dog").symlink_to(elsewhere / "x")
    (root / "cat" / "linked.png").symlink_to(elsewhere / "x" / "1.png")
    assert set(open_folder(root).index("all").ids) == {"cat/1.png", "cat/linked.png", "dog/1.png"}


# --- refusals --------------------------------------------------------------------------------------------------


def refusal(root, **given):
    with pytest.raises(DataError) as caught:
        open_folder(root, **given)
    assert str(root) in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_roots_that_are_no_folders(tmp_path):
    assert "there is no such folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "images.zip").touch()
    assert "a file, but a folder" in refusal(tmp_path / "images.zip")
    (tmp_path / "empty").mkdir()
    assert "no images" in refusal(tmp_path / "empty")


def test_folders_without_classes(draw):
    assert "2 images but no class folders" in refusal(draw("1.png", "2.png", root="flat"))
    assert "hold no class folders" in refusal(draw("train/1.png", "test/1.png", root="unlabelled"))
    assert "only one class, images" in refusal(draw("images/1.png", root="single"))


def test_empty_classes_are_named(draw):
    root = draw(*PETS)
    for name in ("eel", "fox"):
        (root / name).mkdir()
    assert "no images in class folders (2): eel, fox" in refusal(root)


def test_splits_in_doubt(draw):
    root = draw("train/cat/1.png", "train/dog/1.png", "extra/cat/1.png", root="beside")
    assert "extra holds images beside the split folders train" in refusal(root)
    root = draw("train/cat/1.png", "train/dog/1.png", "test/1.png", root="flat_test")
    assert "test holds images beside" in refusal(root)
    root = draw("train/cat/1.png", "train/dog/1.png", root="empty_val")
    (root / "val").mkdir()
    assert "the split folder val is empty" in refusal(root)
    (root / "val").rmdir()
    (root / "annotations").mkdir()
    assert open_folder(root).info.whole_split == "train"
    root = draw("val/n01440764/1.png", "test/images/1.png", root="tiny")
    assert "found images beside n01440764" in refusal(root)


def test_links_that_lead_nowhere_or_in_circles(draw):
    root = draw(*PETS)
    (root / "cat" / "gone.png").symlink_to(root / "nothing.png")
    assert "gone.png: cannot be reached" in refusal(root)
    (root / "cat" / "gone.png").unlink()
    (root / "cat" / "again").symlink_to(root)
    assert "a link to a folder that holds it" in refusal(root)
    (root / "cat" / "again").unlink()
    (root / "cat" / "folder").mkdir()
    os.mkfifo(root / "cat" / "pipe.png")
    assert "called an image but no file" in refusal(root)


def test_names_that_are_not_utf8(draw):
    root = draw(*PETS)
    try:
        shutil.copy(root / PETS[0], os.fsencode(root) + b"/cat/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert r"caf\xe9.png" in refusal(root)


def test_unreadable_folders(draw, monkeypatch):
    root = draw(*PETS)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "dog: the folder cannot be read (Permission denied)" in refusal(root)


def test_parameters_without_effect(draw):
    root = draw(*PETS)
    with pytest.raises(ParameterError, match="label_column=label has no effect"):
        open_folder(root, label_column="label")
    (root / "labels.csv").write_text("file,label\ncat/1.png,a\ndog/1.png,b\n")
    with pytest.raises(ParameterError, match="class_depth=2 has no effect"):
        open_folder(root, class_depth=2)


def test_unknown_splits(draw):
    with pytest.raises(DataError, match="no split 'querry'; there are all, support, query") as caught:
        open_folder(draw(*PETS)).index("querry")
    assert caught.value.hint == "did you mean query?"


# --- decoding --------------------------------------------------------------------------------------------------


def test_images_come_in_the_order_asked(draw):
    root = draw(*PETS)
    data = open_folder(root)
    for split in data.info.splits:
        index = data.index(split)
        positions = [*reversed(range(len(index))), 0]
        batch = data.load(split, np.array(positions), VIEW)
        assert batch.positions.tolist() == positions
        assert batch.ids == tuple(index.ids[position] for position in positions)
        assert batch.labels.tolist() == index.labels[positions].tolist()
        for pixels, name in zip(batch.images.numpy(), batch.ids, strict=True):
            with Image.open(root / name) as image:
                np.testing.assert_array_equal(pixels, render(image, VIEW) / np.float32(255))
    assert len(data.load("all", [], VIEW)) == 0
    for position in (-1, 5):
        with pytest.raises(IndexError, match="has 5 images"):
            data.load("all", [position], VIEW)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "cannot be decoded"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("<html>"), "not an image"),
    ],
)
def test_unreadable_images_stop_or_are_left_out(draw, damage, message):
    root = draw(*PETS)
    damage(root / "cat" / "2.png")
    with pytest.raises(DataError, match=rf"cat/2\.png: .*{message}") as caught:
        open_folder(root).load("all", range(5), VIEW)
    assert "on_error=skip" in caught.value.hint
    batch = open_folder(root, on_error="skip").load("all", [1, 4, 0], VIEW)
    assert batch.positions.tolist() == [4, 0]
    assert batch.ids == ("dog/2.png", "cat/1.png")
    assert batch.labels.tolist() == [1, 0]
    assert len(batch.images) == 2
    assert len(open_folder(root, on_error="skip").load("all", [1], VIEW)) == 0


def test_an_image_smaller_than_the_crop_is_never_skipped(draw):
    data = open_folder(draw(*PETS), on_error="skip")
    with pytest.raises(DataError, match=r"cat/1\.png: 20 x 16 pixels cannot fill"):
        data.load("all", [0], View(crop=17))


def test_threads_and_copies_give_the_same(draw):
    data = open_folder(draw(*PETS))
    again = pickle.loads(pickle.dumps(data))
    assert again.info == data.info
    expected = data.load("query", [1, 0], VIEW).images
    assert (again.load("query", [1, 0], VIEW).images == expected).all()
    found = []
    threads = [threading.Thread(target=lambda: found.append(data.load("query", [1, 0], VIEW).images)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all((images == expected).all() for images in found)


# --- fingerprint -----------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_names_sizes_labels_and_contents(draw, tmp_path):
    root = draw(*PETS)
    base = open_folder(root).info.fingerprint
    shutil.copytree(root, tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere" / PETS[0], (0, 0))
    (tmp_path / "elsewhere" / "README").write_text("text")
    assert open_folder(tmp_path / "elsewhere").info.fingerprint == base
    assert open_folder(root, support_fraction=0.2).info.fingerprint == base

    def changed(name, change):
        copy = tmp_path / name
        shutil.copytree(root, copy)
        change(copy)
        return open_folder(copy).info.fingerprint

    def flip(copy):
        raw = bytearray((copy / PETS[0]).read_bytes())
        raw[-20] ^= 1
        (copy / PETS[0]).write_bytes(raw)

    found = {
        base,
        changed("renamed", lambda copy: (copy / PETS[0]).rename(copy / "cat" / "9.png")),
        changed("moved", lambda copy: (copy / PETS[2]).rename(copy / "dog" / "3.png")),
        changed("class", lambda copy: (copy / "dog").rename(copy / "wolf")),
        changed("longer", lambda copy: (copy / PETS[0]).write_bytes((copy / PETS[0]).read_bytes() + b"x")),
        changed("removed", lambda copy: (copy / PETS[0]).unlink()),
        changed("flipped", flip),
        open_folder(root, label_space="pets").info.fingerprint,
    }
    assert len(found) == 8


def test_only_a_sample_is_read(draw, monkeypatch):
    root = draw(*(f"{label}/{i}.png" for label in "ab" for i in range(40)), size=(4, 4))
    read = []
    real = listing._content_digest
    monkeypatch.setattr(
        listing, "_content_digest", lambda root, name, *rest: read.append(name) or real(root, name, *rest)
    )
    base = open_folder(root).info.fingerprint
    assert len(set(read)) == len(read) == 32
    first, read[:] = set(read), []
    unread = next(root / name for name in open_folder(root).index("all").ids if name not in first)
    unread.write_bytes(unread.read_bytes() + b"x")
    assert open_folder(root).info.fingerprint != base, "the size of an image that is not read does not matter"
    read[:] = []
    draw("b/more.png")
    open_folder(root)
    assert len(first ^ set(read)) <= 2, "one more image changed the sample"


def test_a_sampled_image_that_cannot_be_read(draw, monkeypatch):
    root = draw(*PETS)
    real = type(root).open

    def denied(path, *args, **kwargs):
        if path.name == "2.png":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(type(root), "open", denied)
    assert "2.png: cannot be read (Permission denied)" in refusal(root)
    # Leaving it out would make a lasting number of an image that may be there again tomorrow.
    with pytest.raises(DataError, match="no permission to read"):
        open_folder(root, on_error="skip").load("all", range(5), VIEW)


# --- weight ----------------------------------------------------------------------------------------------------


def test_the_index_is_small(tmp_path):
    count = 4000
    for label in range(4):
        folder = tmp_path / f"n{label:08d}"
        folder.mkdir()
        for i in range(count // 4):
            (folder / f"ILSVRC2012_val_{label * count + i:08d}.JPEG").touch()
    open_folder(tmp_path, label_space="own")
    gc.collect()
    tracemalloc.start()
    try:
        data = open_folder(tmp_path, label_space="own")
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data.index("all")) == count
    assert held / count < 100


def test_listing_imports_no_torch(draw):
    code = (
        "import sys; from harness_datasets.image_folder import ImageFolder as F; d = F(root=sys.argv[1]); d.info; "
        "d.index('all'); print([m for m in ('torch', 'timm', 'sklearn') if m in sys.modules])"
    )
    root = draw("n01440764/1.png")
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- descriptor ------------------------------------------------------------------------------------------------


def test_the_descriptor_agrees_with_the_target():
    (entry,) = harness_register_datasets()
    assert entry.target == f"{ImageFolder.__module__}:{ImageFolder.__name__}"
    signature = inspect.signature(ImageFolder).parameters
    assert {f.name: f.default for f in fields(FolderParams) if f.name != "root"} == {
        name: parameter.default for name, parameter in signature.items() if name != "root"
    }
    assert signature["root"].default is inspect.Parameter.empty


def test_moving_a_folder_makes_no_new_key():
    given = {"root": "/a", "labels": "x.csv", "label_column": "kind"}
    assert identity(coerce(FolderParams, given, "folder")) == {}
    given = {"root": "/a", "support_fraction": "0.2", "on_error": "skip", "label_space": "own", "class_depth": 2}
    assert identity(coerce(FolderParams, given, "folder")) == {
        key: value for key, value in (given | {"support_fraction": 0.2}).items() if key != "root"
    }
