"""The generated datasets: labels and columns of every split, parameters, fingerprints, errors and the contract."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from harness.catalog import build_catalog
from harness.errors import DataError, ParameterError
from harness.manager import build_manager
from harness.params import coerce
from harness.protocols import Dataset
from harness.testing import check_named
from harness.types import View
from harness_mini import shapes as descriptors
from harness_mini import shapes_dataset
from harness_mini.generator.outlines import CLASS_OUTLINES, NEUTRAL_OUTLINES, NOVEL_OUTLINES
from harness_mini.generator.scenes import draw
from harness_mini.generator.textures import CLASS_TEXTURES, NOVEL_TEXTURES, STYLE_TEXTURES
from harness_mini.shapes_dataset import NONE, NovelShapes, Shapes

VIEW = View(crop=56)
TINY = View(crop=8)
"""Enough to read labels and columns."""
BOTH, STYLIZED = ("train", "val", "test"), ("stylized_train", "stylized_val", "stylized")
SPLITS = (*BOTH, "cue_conflict", *STYLIZED, "shape_only", "texture_only")
NEW = ("both", "shapes", "textures")


@cache
def shapes() -> Shapes:
    return Shapes()


@cache
def novel(new="both") -> NovelShapes:
    return NovelShapes(new=new)


@cache
def columns(split: str) -> dict[str, np.ndarray]:
    """Label, shape, texture and conflict of a split of 2,400 images."""
    batch = shapes().load(split, range(2400), TINY)
    return {"label": batch.labels.numpy()} | {name: column.numpy() for name, column in batch.columns.items()}


# --- what the splits say -------------------------------------------------------------------------------------------


def test_the_facts_are_pinned():
    """A change here changes every record on this dataset."""
    info = shapes().info
    assert isinstance(shapes(), Dataset)
    assert info.splits == SPLITS
    assert (info.query_split, info.whole_split, info.support_split) == ("test", "test", "train")
    assert (info.name, info.label_space, len(info.classes)) == ("shapes", "shapes", 12)
    assert info.classes[4] == "heart in bricks"
    assert info.fingerprint == "e6eecb2a91caa73ec77d8b4cd261afb598ccc26ffea9e0ca7b3af35bda6ce58a"
    assert {split: len(shapes().index(split)) for split in SPLITS} == {
        split: 96_000 if split in ("train", "stylized_train") else 2400 for split in SPLITS
    }
    assert shapes().index("cue_conflict").ids[13] == "cue_conflict/000013"


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced_in_every_stretch(split):
    labels = shapes().index(split).labels
    assert (np.bincount(labels, minlength=12) == len(labels) // 12).all()
    for start in (0, 17, len(labels) - 240):
        assert (np.bincount(labels[start : start + 240], minlength=12) == 20).all()
    assert np.array_equal(columns(split)["label"], labels[:2400])


@pytest.mark.parametrize("split", BOTH)
def test_both_cues_tell_the_class(split):
    found = columns(split)
    assert np.array_equal(found["shape"], found["label"])
    assert np.array_equal(found["texture"], found["label"])
    assert not found["conflict"].any()


def test_cue_conflict_shows_every_pair():
    found = columns("cue_conflict")
    assert np.array_equal(found["label"], found["shape"])
    assert np.array_equal(found["conflict"], (found["shape"] != found["texture"]).astype(int))
    assert (found["conflict"] == 0).sum() == 204
    pairs = np.bincount(found["shape"] * 12 + found["texture"], minlength=144)
    assert set(pairs) == {16, 17}
    assert (np.bincount((found["shape"] * 12 + found["texture"])[:144], minlength=144) == 1).all()


@pytest.mark.parametrize("split", STYLIZED)
def test_stylized_images_have_a_shape_and_a_style_of_no_class(split):
    found = columns(split)
    assert np.array_equal(found["shape"], found["label"])
    assert (found["texture"] == NONE).all()
    assert not found["conflict"].any()


def test_one_cue_alone():
    shape, texture = columns("shape_only"), columns("texture_only")
    assert np.array_equal(shape["shape"], shape["label"])
    assert (shape["texture"] == NONE).all()
    assert np.array_equal(texture["texture"], texture["label"])
    assert (texture["shape"] == NONE).all()
    assert not shape["conflict"].any()
    assert not texture["conflict"].any()


@pytest.mark.parametrize("split", STYLIZED)
def test_the_style_says_nothing_of_the_class(split):
    ids = shapes().index(split).ids[:2400]
    scenes = draw(0, ids, styles=10, clutter_outlines=5, irregular=True)
    table = np.bincount(shapes().index(split).labels[:2400] * 10 + scenes.style, minlength=120).reshape(12, 10)
    assert stats.chi2_contingency(table).pvalue > 0.001
    assert table.min() > 0


def test_class_style_and_novel_names_are_apart():
    assert not {*CLASS_TEXTURES} & {*STYLE_TEXTURES, *NOVEL_TEXTURES}
    assert not {*STYLE_TEXTURES} & {*NOVEL_TEXTURES}
    assert not {*CLASS_OUTLINES} & {*NOVEL_OUTLINES, *NEUTRAL_OUTLINES}


@pytest.mark.parametrize("new", NEW)
def test_novel_classes_are_new_in_what_they_say(new):
    dataset = novel(new)
    info = dataset.info
    named_shapes, named_textures = zip(*(name.split(" in ") for name in info.classes), strict=True)
    known = len({*named_shapes} & {*CLASS_OUTLINES}), len({*named_textures} & {*CLASS_TEXTURES})
    assert known == {"both": (0, 0), "shapes": (0, 10), "textures": (10, 0)}[new]
    assert len({*named_shapes}) == len({*named_textures}) == 10
    assert not {*named_shapes} & {*NEUTRAL_OUTLINES}
    assert not {*named_textures} & {*STYLE_TEXTURES}
    assert not {*info.classes} & {*shapes().info.classes}
    support, query = f"novel_{new}_train", f"novel_{new}"
    assert (info.splits, info.support_split, info.query_split) == ((support, query), support, query)
    assert (len(dataset.index(support)), len(dataset.index(query))) == (4000, 1000)
    batch = dataset.load(query, range(1000), TINY)
    assert np.array_equal(batch.labels, dataset.index(query).labels)
    assert batch.labels.tolist() == list(range(10)) * 100
    assert torch.equal(batch.columns["shape"], batch.labels)
    assert torch.equal(batch.columns["texture"], batch.labels)
    assert not batch.columns["conflict"].any()


def test_no_novel_pair_is_a_class_in_other_clothes():
    """Known textures on new shapes come by another class's turn, so that no label is carried over by its number."""
    assert not any(
        CLASS_TEXTURES.index(name.split(" in ")[1]) == i for i, name in enumerate(novel("shapes").info.classes)
    )


# --- parameters and errors -----------------------------------------------------------------------------------------


def test_ids_are_unique_over_the_dataset():
    ids = [name for split in SPLITS for name in shapes().index(split).ids]
    ids += [name for new in NEW for split in novel(new).info.splits for name in novel(new).index(split).ids]
    assert len(set(ids)) == len(ids) == 2 * 96_000 + 7 * 2400 + 3 * 5000


def test_the_fingerprint_tells_what_the_images_follow_from(monkeypatch):
    fingerprints = [
        Shapes(**parameters).info.fingerprint
        for parameters in ({}, {"seed": 1}, {"images": 144}, {"train_images": 144}, {"texture_contrast": 0.5})
    ]
    fingerprints += [NovelShapes(new=new).info.fingerprint for new in NEW]
    fingerprints += [NovelShapes(seed=1).info.fingerprint, NovelShapes(images=20).info.fingerprint]
    assert len(set(fingerprints)) == len(fingerprints) == 10
    for query in ("val", "cue_conflict", "stylized", "texture_only"):
        assert Shapes(query=query).info.fingerprint == shapes().info.fingerprint
    monkeypatch.setattr(shapes_dataset, "GENERATOR_VERSION", shapes_dataset.GENERATOR_VERSION + 1)
    assert Shapes().info.fingerprint != shapes().info.fingerprint


@pytest.mark.parametrize(
    ("query", "support"),
    [
        ("test", "train"),
        ("val", "train"),
        ("cue_conflict", "train"),
        ("stylized", "stylized_train"),
        ("stylized_val", "stylized_train"),
        ("shape_only", "train"),
        ("texture_only", "train"),
    ],
)
def test_probes_learn_from_the_kind_of_images_they_are_asked_about(query, support):
    info = Shapes(query=query).info
    assert (info.query_split, info.whole_split, info.support_split) == (query, query, support)
    assert info.splits == SPLITS


def test_descriptors_agree_with_the_datasets():
    entries = {entry.name: entry for entry in descriptors.harness_register_datasets()}
    made = {"shapes": shapes(), "shapes_novel": novel()}
    assert entries.keys() == made.keys()
    for name, entry in entries.items():
        module, _, target = entry.target.partition(":")
        assert (module, getattr(shapes_dataset, target)) == (shapes_dataset.__name__, type(made[name]))
        assert entry.label_space == made[name].info.label_space
        defaults = dataclasses.asdict(coerce(entry.params, {}, name))
        assert type(made[name])(**defaults).info == made[name].info


def test_a_wrong_split_is_answered_with_a_near_one():
    for call in (lambda: shapes().index("cue_conflct"), lambda: shapes().load("cue_conflct", [0], VIEW)):
        with pytest.raises(DataError, match="shapes: no split 'cue_conflct'; there are train, val, test") as caught:
            call()
        assert "cue_conflict" in caught.value.hint
    with pytest.raises(DataError, match="no split 'test'"):
        novel().index("test")


@pytest.mark.parametrize("positions", [[-1], [2400], [0, 2400], np.array([3, -2])])
def test_positions_outside_the_split_are_refused(positions):
    with pytest.raises(IndexError, match="outside split 'test' of 2400 images"):
        shapes().load("test", positions, VIEW)


# --- contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shapes", "shapes:query=stylized", "shapes_novel", "shapes_novel:new=textures"])
def test_they_keep_the_contract(name):
    catalog = build_catalog(build_manager(discover=False, extra=[descriptors]))
    outcomes = check_named(catalog, "dataset", name)
    assert {o.check: o.message for o in outcomes if o.status == "failed"} == {}
    assert sum(o.status == "passed" for o in outcomes) >= 10


def test_the_installed_plugin_offers_them():
    catalog = build_catalog(build_manager())
    assert {"shapes", "shapes_novel"} <= {offer.entry.name for offer in build_manager().entries("dataset")}
    assert catalog.resolve("dataset", "shapes").entry.target == "harness_mini.shapes_dataset:Shapes"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("from harness_mini.shapes_dataset import Shapes; d = Shapes(); d.info, d.index('test')", "torch, sklearn"),
        ("import harness_mini.shapes as s; list(s.harness_register_datasets())", "torch, numpy, PIL"),
    ],
)
def test_planning_needs_no_torch_and_the_descriptors_no_numpy(code, heavy):
    code = f"import sys; {code}; print([m for m in '{heavy}'.split(', ') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "where"),
    [({"texture_contrast": 5}, "texture_contrast"), ({"query": "train"}, "query"), ({"images": 1}, "images")],
)
def test_parameters_are_checked_when_it_is_made_from_python_too(given, where):
    with pytest.raises(ParameterError, match=where):
        Shapes(**given)


def test_novel_parameters_are_checked_too():
    with pytest.raises(ParameterError, match="new"):
        NovelShapes(new="nothing")
