"""In-memory datasets: pixels, ids, fingerprints and refusals."""

import numpy as np
import pytest
import torch
from PIL import Image

from harness.errors import DataError
from harness.protocols import Dataset
from harness.tensor_dataset import TensorDataset
from harness.types import View
from harness.views import render

BYTES = np.random.default_rng(0).integers(0, 256, (6, 3, 10, 12), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 0, 2, 1])


def dataset(images=BYTES, labels=LABELS, **given):
    return TensorDataset(images, labels, **{"name": "mine", **given})


def test_it_is_a_dataset_with_the_splits_given():
    plain = dataset()
    assert isinstance(plain, Dataset)
    assert plain.info.splits == ("query",)
    assert plain.info.support_split is None
    assert plain.info.classes == ("0", "1", "2")
    assert plain.info.label_space is None
    both = dataset(support=(BYTES[:3], [0, 1, 2]), classes=["a", "b", "c"], label_space="letters")
    assert (both.info.query_split, both.info.whole_split, both.info.support_split) == ("query", "query", "support")
    assert both.info.classes == ("a", "b", "c")
    assert both.info.label_space == "letters"
    assert not set(both.index("query").ids) & set(both.index("support").ids)
    assert both.index("support").labels.tolist() == [0, 1, 2]
    assert list(both.index("query").ids)[:2] == ["query-000000", "query-000001"]


@pytest.mark.parametrize("as_tensor", [False, True])
def test_pixels_are_those_asked_in_the_order_asked(as_tensor):
    images = torch.from_numpy(BYTES) if as_tensor else BYTES
    batch = dataset(images, torch.from_numpy(LABELS) if as_tensor else LABELS).load("query", [4, 0], View(crop=10))
    expected = BYTES[[4, 0]][:, :, :, 1:11].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(batch.images.numpy(), expected)
    assert batch.labels.tolist() == [2, 0]
    assert batch.ids == ("query-000004", "query-000000")
    assert batch.positions.tolist() == [4, 0]


def test_8_bit_images_are_resized_as_files_are():
    view = View(resize=7, crop=5, interpolation="bicubic")
    found = dataset().load("query", [3], view).images[0].numpy()
    expected = render(Image.fromarray(np.ascontiguousarray(BYTES[3].transpose(1, 2, 0))), view)
    np.testing.assert_array_equal(found, expected.astype(np.float32) / np.float32(255))


def test_floating_point_images_are_exact_unless_resized():
    values = np.random.default_rng(1).random((2, 3, 9, 9), dtype=np.float32)
    data = dataset(values, [0, 1])
    np.testing.assert_array_equal(data.load("query", [0, 1], View(crop=9)).images.numpy(), values)
    resized = data.load("query", [0], View(resize=18, crop=18)).images[0]
    # Pillow's bilinear filter, enlarging, is the usual interpolation between pixel centres.
    expected = torch.nn.functional.interpolate(torch.from_numpy(values[:1]), size=18, mode="bilinear")[0]
    torch.testing.assert_close(resized, expected, atol=1e-6, rtol=0)


def test_later_changes_do_not_reach_in():
    images, labels = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    data = dataset(images, labels)
    images.fill_(1)
    labels.fill_(0)
    batch = data.load("query", [0, 1], View(crop=4))
    assert batch.images.max() == 0
    assert batch.labels.tolist() == [0, 1]
    batch.images.fill_(1)
    assert data.load("query", [0], View(crop=4)).images.max() == 0


def test_the_fingerprint_follows_the_content_only():
    support = (BYTES[:3], [0, 1, 2])
    base = dataset(support=support).info.fingerprint
    assert dataset(BYTES.copy(), torch.from_numpy(LABELS), support=support, name="other").info.fingerprint == base
    pixel = BYTES.copy()
    pixel[5, 2, 9, 11] ^= 1
    changed = [
        dataset(pixel, support=support),
        dataset(BYTES, np.roll(LABELS, 1), support=support),
        dataset(support=(BYTES[:3], [0, 2, 1])),
        dataset(),
        dataset(support=support, classes=["a", "b", "c"]),
        dataset(support=support, label_space="letters"),
        dataset(BYTES.reshape(6, 3, 12, 10), support=support),
        dataset((BYTES / 255).astype(np.float32), support=support),
    ]
    assert len({data.info.fingerprint for data in changed} | {base}) == len(changed) + 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": BYTES[0]}, r"\(N, 3, H, W\)"),
        ({"images": BYTES[:, :1]}, r"images\.repeat"),
        ({"images": BYTES.transpose(0, 2, 3, 1)}, r"images\.permute"),
        ({"images": BYTES[:0], "labels": []}, "no pixels"),
        ({"images": BYTES.astype(np.int32)}, "uint8 or floating point"),
        ({"images": BYTES.astype(np.float32)}, r"\[0, 1\]"),
        ({"images": np.full((6, 3, 2, 2), np.nan)}, r"\[0, 1\], found nan"),
        ({"images": np.full((6, 3, 2, 2), -0.01)}, "undo any mean"),
        ({"labels": LABELS[:5]}, "6 whole numbers"),
        ({"labels": LABELS.astype(float)}, "6 whole numbers"),
        ({"labels": LABELS - 1}, "label -1"),
        ({"classes": ["a", "b"]}, "label 2, but 2 classes"),
        ({"support": (BYTES[:1], [7]), "classes": ["a", "b", "c"]}, "label 7, but 3 classes"),
        ({"support": (BYTES[:1], [0, 1])}, "support: labels"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, message):
    with pytest.raises(DataError) as caught:
        dataset(**given)
    assert caught.match(message)


def test_the_rounding_of_an_undone_normalisation_is_clipped():
    values = np.array([-3e-8, 1 + 1e-7], dtype=np.float32).repeat(48).reshape(2, 3, 4, 4)
    found = dataset(values, [0, 1]).load("query", [0, 1], View(crop=4)).images
    assert found.min() == 0
    assert found.max() == 1


def test_bfloat16_tensors_are_read():
    values = torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16)
    assert dataset(values, [0]).load("query", [0], View(crop=2)).images.unique().tolist() == [0.5]


def test_unknown_splits_and_positions():
    data = dataset()
    with pytest.raises(DataError, match="no split 'querry'") as caught:
        data.index("querry")
    assert caught.value.hint == "did you mean query?"
    for position in (-1, 6):
        with pytest.raises(IndexError, match="6 images"):
            data.load("query", [position], View(crop=4))
    with pytest.raises(DataError, match="query-000002: 12 x 10 pixels"):
        data.load("query", [2], View(crop=11))
    assert len(data.load("query", [], View(crop=4))) == 0
