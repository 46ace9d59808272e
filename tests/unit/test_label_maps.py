"""Label maps: timm's index files, published facts of the 16 categories, and slow loops over probabilities."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ParameterError
from harness.label_maps import LabelMap, find_label_map, mapped_from

INFO = Path(find_spec("timm").submodule_search_locations[0], "data", "_info")
PAIRS = LabelMap(name="pairs", source="six", target="three", source_classes=6, groups=((4,), (0, 2, 5), (1, 3)))


def imagenet_to(target: str) -> LabelMap:
    found = find_label_map("imagenet1k", target)
    assert found is not None
    return found


def lines(name: str) -> list[str]:
    return (INFO / name).read_text().split()


def random_logits(n: int, classes: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


# --- which maps there are --------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["imagenet1k", "digits", "imagenet16"])
def test_equal_spaces_are_mapped_by_the_identity(space):
    found = find_label_map(space, space)
    assert (found.source, found.target, found.is_identity, found.num_classes(7)) == (space, space, True, 7)
    scores = random_logits(2, 7)
    assert found.apply(scores) is scores


@pytest.mark.parametrize(
    ("model_space", "dataset_space"),
    [
        ("imagenet1k", "digits"),
        ("imagenet_a", "imagenet1k"),
        ("imagenet16", "imagenet_a"),
        ("digits", "imagenet16"),
        ("imagenet1k", None),
        (None, "imagenet16"),
        (None, None),
    ],
)
def test_other_spaces_have_no_map(model_space, dataset_space):
    assert find_label_map(model_space, dataset_space) is None


def test_the_maps_of_an_imagenet_head_are_known_by_name():
    assert mapped_from("imagenet1k") == ("imagenet16", "imagenet_a", "imagenet_r")
    assert mapped_from("digits") == mapped_from(None) == ()
    for target in mapped_from("imagenet1k"):
        found = imagenet_to(target)
        assert (found.name, found.source, found.target) == (f"imagenet1k_to_{target}", "imagenet1k", target)
        assert (found.is_identity, found.source_classes) == (False, 1000)


def test_planning_imports_nothing_heavy_for_it():
    code = (
        "import sys, harness.label_maps as maps\n"
        "assert maps.find_label_map('imagenet1k', 'imagenet_a') is not None\n"
        "print(sorted({'torch', 'numpy', 'timm'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


# --- ImageNet's subsets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["imagenet_a", "imagenet_r"])
def test_a_subset_is_timms_in_the_order_of_the_wnids(target):
    members = [index for (index,) in imagenet_to(target).groups]
    assert members == [int(text) for text in lines(f"{target}_indices.txt")]
    wnids = lines("imagenet_synsets.txt")
    assert [wnids[index] for index in members] == sorted(lines(f"{target}_synsets.txt"))
    assert imagenet_to(target).num_classes(1000) == 200


@pytest.mark.parametrize("target", ["imagenet_a", "imagenet_r"])
def test_a_subset_keeps_its_logits_so_that_the_softmax_runs_over_them_alone(target):
    logits, found = random_logits(3, 1000), imagenet_to(target)
    scores = found.apply(logits)
    for row, mapped in zip(logits.tolist(), scores.softmax(dim=1).tolist(), strict=True):
        chosen = [math.exp(row[int(text)]) for text in lines(f"{target}_indices.txt")]
        assert mapped == pytest.approx([value / sum(chosen) for value in chosen], rel=1e-5)


def test_a_subset_in_half_precision_stays_as_it_is():
    logits = random_logits(2, 1000).to(torch.bfloat16)
    assert torch.equal(imagenet_to("imagenet_a").apply(logits)[:, 0], logits[:, 6])


# --- the 16 categories -----------------------------------------------------------------------------------------


def test_the_16_categories_are_the_published_ones():
    found = imagenet_to("imagenet16")
    sizes = dict(zip(found.classes, map(len, found.groups), strict=True))
    assert list(sizes) == sorted(sizes)
    assert sizes == {
        "airplane": 1, "bear": 4, "bicycle": 2, "bird": 49, "boat": 5, "bottle": 7, "car": 3, "cat": 6, "chair": 4,
        "clock": 3, "dog": 109, "elephant": 2, "keyboard": 2, "knife": 1, "oven": 1, "truck": 8,
    }  # fmt: skip
    members = [index for group in found.groups for index in group]
    assert len(members) == len(set(members)) == 207


def test_members_are_what_their_category_says():
    wnids = lines("imagenet_synsets.txt")
    lemmas = dict(line.split("\t", 1) for line in (INFO / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    found = imagenet_to("imagenet16")
    names = {
        category: [lemmas[wnids[index]] for index in group]
        for category, group in zip(found.classes, found.groups, strict=True)
    }
    for category, word in (
        ("airplane", "airliner"), ("bear", "bear"), ("bicycle", "bicycle"), ("chair", "chair"), ("clock", "clock"),
        ("elephant", "elephant"), ("knife", "cleaver"), ("oven", "rotisserie"), ("keyboard", "keyboard"),
    ):  # fmt: skip
        assert any(word in name for name in names[category]), (category, names[category])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), scale=st.floats(0.1, 30))
def test_a_category_scores_the_logarithm_of_its_members_mean_probability(seed, scale):
    logits = scale * random_logits(2, 6, seed)
    scores = PAIRS.apply(logits)
    for row, mapped in zip(logits.double().tolist(), scores.tolist(), strict=True):
        weights = [math.exp(value - max(row)) for value in row]
        means = [sum(weights[i] for i in group) / len(group) / sum(weights) for group in PAIRS.groups]
        assert [math.exp(value) for value in mapped] == pytest.approx(means, rel=1e-4, abs=1e-12)


def test_the_mean_and_not_the_sum_decides():
    found = imagenet_to("imagenet16")
    probabilities = torch.full((1, 1000), 1e-9)
    probabilities[0, list(found.groups[found.classes.index("dog")])] = 0.005
    probabilities[0, 499] = 0.1
    assert found.classes[int(found.apply(probabilities.log()).argmax())] == "knife"


def test_scores_far_below_all_others_stay_finite():
    logits = torch.zeros(1, 6)
    logits[0, 4] = 1e4
    scores = PAIRS.apply(logits.requires_grad_())
    assert scores[0].tolist() == pytest.approx([0.0, -1e4, -1e4])
    scores.sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("found", [PAIRS, dataclasses.replace(PAIRS, groups=((5,), (0,), (3,)))])
def test_scores_are_differentiable(found):
    assert torch.autograd.gradcheck(found.apply, random_logits(3, 6).double().requires_grad_())


def test_half_precision_is_widened_before_probabilities_are_averaged():
    logits = random_logits(4, 6).to(torch.bfloat16)
    assert PAIRS.apply(logits).dtype == torch.float32
    assert torch.equal(PAIRS.apply(logits), PAIRS.apply(logits.float()))


def test_maps_serve_gradients_after_inference():
    with torch.inference_mode():
        PAIRS.apply(torch.zeros(1, 6))
    PAIRS.apply(torch.zeros(1, 6, requires_grad=True)).sum().backward()


# --- mistakes --------------------------------------------------------------------------------------------------


def test_another_number_of_classes_is_refused():
    with pytest.raises(ParameterError, match="expected scores of the 1000 classes of imagenet1k, found 999") as caught:
        imagenet_to("imagenet_a").apply(torch.zeros(1, 999))
    assert caught.value.hint


@pytest.mark.parametrize(
    "changed",
    [
        {"groups": ((0,), ())},
        {"groups": ((0,), (0, 1))},
        {"groups": ((6,),)},
        {"groups": ((-1,),)},
        {"groups": None},
        {"source_classes": None},
        {"classes": ("a", "b")},
    ],
)
def test_maps_that_make_no_sense_cannot_be_made(changed):
    with pytest.raises(ParameterError, match="label map pairs"):
        dataclasses.replace(PAIRS, **changed)
