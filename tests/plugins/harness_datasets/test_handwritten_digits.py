"""The digits against scikit-learn's own loader."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from harness.errors import DataError
from harness.protocols import Dataset
from harness.types import View
from harness_datasets import handwritten_digits
from harness_datasets.handwritten_digits import HandwrittenDigits

VIEW = View(resize=32, crop=28)


@pytest.fixture(scope="module")
def digits():
    return HandwrittenDigits()


def test_it_holds_scikit_learns_digits(digits):
    assert isinstance(digits, Dataset)
    reference = load_digits()
    seen = []
    for split in digits.info.splits:
        index = digits.index(split)
        batch = digits.load(split, range(len(index)), View(crop=8))
        for row, (name, label) in enumerate(zip(index.ids, index.labels, strict=True)):
            number = int(re.fullmatch(r"digit-(\d{4})", name)[1])
            seen.append(number)
            assert label == reference.target[number] == batch.labels[row]
            expected = [[round(value * 255 / 16) for value in line] for line in reference.images[number].tolist()]
            assert (batch.images[row] * 255).round().int().tolist() == [expected] * 3
    assert sorted(seen) == list(range(1797))


def test_the_splits_are_halves_of_each_class(digits):
    assert digits.info.splits == ("train", "test")
    assert (digits.info.support_split, digits.info.query_split, digits.info.whole_split) == ("train", "test", "test")
    train, test = (np.bincount(digits.index(split).labels, minlength=10) for split in ("train", "test"))
    assert ((train - test >= 0) & (train - test <= 1)).all()
    assert not set(digits.index("train").ids) & set(digits.index("test").ids)


def test_the_facts_are_pinned(digits):
    """A change here changes every record on this dataset: raise the entry's version with it."""
    assert digits.info.classes == tuple("0123456789")
    assert digits.info.label_space == "digits"
    assert digits.info.fingerprint == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert list(digits.index("test").ids[:6]) == [
        "digit-0000",
        "digit-0002",
        "digit-0006",
        "digit-0007",
        "digit-0008",
        "digit-0009",
    ]


def test_it_is_rendered_as_any_image_is(digits):
    number = int(digits.index("test").ids[5][-4:])
    grey = np.rint(load_digits().images[number] * 255 / 16).astype(np.uint8)
    image = Image.fromarray(grey).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR).crop((2, 2, 30, 30))
    expected = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    batch = digits.load("test", np.array([9, 5, 5]), VIEW)
    assert torch.equal(batch.images[1], expected)
    assert torch.equal(batch.images[2], expected)
    assert batch.positions.tolist() == [9, 5, 5]
    assert batch.ids[1] == digits.index("test").ids[5]


def test_what_cannot_be_meant_is_refused(digits):
    with pytest.raises(DataError, match="no split 'val'"):
        digits.index("val")
    with pytest.raises(DataError, match=r"digit-\d{4}: 8 x 8 pixels cannot fill"):
        digits.load("test", [0], View(crop=224))
    for position in (-1, 10_000):
        with pytest.raises(IndexError, match="position"):
            digits.load("test", [position], VIEW)


def test_a_scikit_learn_that_keeps_its_file_elsewhere(digits, monkeypatch, tmp_path):
    monkeypatch.setattr(handwritten_digits, "_data_file", lambda: tmp_path / "gone.csv.gz")
    assert HandwrittenDigits().info == digits.info


def test_a_damaged_file_is_told(monkeypatch, tmp_path):
    (tmp_path / "digits.csv.gz").write_bytes(b"not gzip")
    monkeypatch.setattr(handwritten_digits, "_data_file", lambda: tmp_path / "digits.csv.gz")
    with pytest.raises(DataError, match="cannot read the handwritten digits"):
        HandwrittenDigits()


def test_planning_imports_neither_torch_nor_scikit_learn():
    code = (
        "import sys; from harness_datasets.handwritten_digits import HandwrittenDigits as D; d = D(); "
        "d.info, d.index('test'); print([m for m in ('torch', 'sklearn', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_descriptors_import_no_numpy():
    code = (
        "import sys, harness_datasets.digits, harness_datasets.folder as f; list(f.harness_register_datasets()); "
        "print([m for m in ('torch', 'numpy', 'PIL', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
