"""Class names into labels, ImageNet's ids against published constants."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.imagenet_classes import imagenet_wnids
from harness_datasets.classes import name_classes, number_classes


def test_a_few_imagenet_ids_keep_their_true_indices():
    found = name_classes({"n15075141", "n02123045"}, label_space=None, where="here")
    assert found.label_space == "imagenet1k"
    assert found.names == imagenet_wnids()
    assert found.labels()["n02123045"] == 281
    assert found.labels()["n15075141"] == 999


@pytest.mark.parametrize("space", ["imagenet_a", "imagenet_r"])
def test_a_subset_of_imagenet_is_numbered_by_its_200_sorted_ids(space):
    published = (Path(find_spec("timm").submodule_search_locations[0]) / f"data/_info/{space}_synsets.txt").read_text()
    wnids = sorted(published.split())
    found = name_classes({wnids[150], wnids[3]}, label_space=space, where="here")
    assert (found.label_space, found.names) == (space, tuple(wnids))
    assert (found.labels()[wnids[3]], found.labels()[wnids[150]]) == (3, 150)
    assert number_classes({199}, {}, label_space=space, where="here") == found


def test_the_16_categories_are_numbered_alphabetically_however_few_there_are():
    found = name_classes({"truck", "bear"}, label_space="imagenet16", where="here")
    assert (found.label_space, len(found.names), found.names) == ("imagenet16", 16, tuple(sorted(found.names)))
    assert (found.labels()["bear"], found.labels()["truck"]) == (1, 15)
    # Without the label space they are names like any others.
    assert name_classes({"truck", "bear"}, label_space=None, where="here").names == ("bear", "truck")


def test_class_indices_of_imagenet_are_none_of_its_subsets():
    with pytest.raises(DataError, match="reach from 6 to 988; expected 0 to 199") as caught:
        number_classes({6, 988}, {}, label_space="imagenet_a", where="here")
    assert "no indices of imagenet1k" in caught.value.hint


def test_own_classes_are_sorted_and_name_their_label_space_by_content():
    one = name_classes({"dog", "cat"}, label_space=None, where="here")
    assert one.names == ("cat", "dog")
    assert one.label_space.startswith("classes:")
    assert len(one.label_space) == len("classes:") + 12
    assert name_classes(["cat", "dog"], label_space=None, where="there") == one
    assert name_classes(["cat", "dogs"], label_space=None, where="there").label_space != one.label_space
    assert name_classes(["catdog", ""], label_space=None, where="there").label_space != one.label_space
    assert name_classes({"dog", "cat"}, label_space="pets", where="here").label_space == "pets"


def test_own_numbers_imagenet_ids_in_sorted_order():
    found = name_classes({"n15075141", "n02123045"}, label_space="own", where="here")
    assert found.names == ("n02123045", "n15075141")
    assert found.label_space.startswith("classes:")


@pytest.mark.parametrize(
    ("names", "label_space", "message"),
    [
        ({"n02123045", "images"}, None, "found images beside n02123045"),
        ({"cat", "dog"}, "imagenet1k", "expected ImageNet ids as class names, found cat, dog"),
        ({"n02123045", "n00000001"}, None, "n00000001 of 2 class names are not among"),
        ({"cat"}, None, "only one class, cat"),
        ({"n01440764", "n01498041"}, "imagenet_a", "n01440764 of 2 class names are not among imagenet_a's 200"),
        ({"dog", "horse"}, "imagenet16", "horse of 2 class names are not among imagenet16's 16"),
    ],
)
def test_names_in_doubt_are_refused(names, label_space, message):
    with pytest.raises(DataError, match=message) as caught:
        name_classes(names, label_space=label_space, where="here")
    assert caught.value.message.startswith("here: ")
    assert caught.value.hint


def test_numbers_name_themselves_unless_named():
    found = number_classes({0, 3}, {3: "horse"}, label_space=None, where="here")
    assert found.names == ("0", "1", "2", "horse")
    assert number_classes({7}, {7: "cock"}, label_space="imagenet1k", where="here").names == imagenet_wnids()
    assert number_classes({1}, {}, label_space="cifar10", where="here").label_space == "cifar10"


@pytest.mark.parametrize(("indices", "label_space"), [({1, 1000}, "imagenet1k"), ({-1, 3}, None), ({10**9}, None)])
def test_numbers_outside_the_label_space_are_refused(indices, label_space):
    with pytest.raises(DataError, match="class indices reach from"):
        number_classes(indices, {}, label_space=label_space, where="here")
