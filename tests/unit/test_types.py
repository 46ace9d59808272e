"""The values between floors: what they refuse, how keys are made, and that records read back."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import CapabilityError, HarnessError, ParameterError
from harness.types import (
    INTERPOLATIONS,
    NAMED_VIEWS,
    BlockTokens,
    Capability,
    Cell,
    DatasetRef,
    FeatureSpec,
    FeatureTable,
    Ids,
    ImageBatch,
    LevelSpec,
    Measurement,
    ModelInfo,
    OutputSpec,
    ResolvedRef,
    ResultRecord,
    Seeds,
    View,
    WeightsInfo,
    canonical_json,
    digest,
)

# --- ids ---------------------------------------------------------------------------------------------------------


@given(names=st.lists(st.text(max_size=6), max_size=6))
def test_ids_are_a_sequence_of_their_texts(names: list[str]) -> None:
    names = [name.encode("utf-8", "ignore").decode() for name in names]
    ids = Ids(names)
    assert list(ids) == names
    assert len(ids) == len(names)
    assert [ids[place] for place in range(-len(names), len(names))] == names + names
    assert list(ids[1:]) == names[1:]
    for place in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            ids[place]


# --- views -------------------------------------------------------------------------------------------------------

VIEWS = st.builds(
    lambda crop, more, interpolation, mode: View(
        crop=crop, resize=None if more is None else crop + more, interpolation=interpolation, mode=mode
    ),
    st.integers(1, 500),
    st.none() | st.integers(0, 100),
    st.sampled_from(INTERPOLATIONS),
    st.sampled_from(["shorter", "squash"]),
)


@given(view=VIEWS)
def test_the_text_of_a_view_reads_back(view: View) -> None:
    again = View.parse(view.text)
    assert again.text == view.text
    if view.resize is not None:  # without a resize, interpolation and mode mean nothing and are not spelt
        assert again == view


@pytest.mark.parametrize("name", NAMED_VIEWS)
def test_named_views_read(name: str) -> None:
    assert View.parse(name) is NAMED_VIEWS[name]


@pytest.mark.parametrize(
    "text",
    ["", "ipvitt", "crop", "crop=", "crop=big", "resize=256", "crop=0", "crop=224,resize=100", "crop=8,mean=1",
     "crop=8,mode=x", "crop=8,interpolation=lanczos", "crop=none", "crop=2.5"],
)  # fmt: skip
def test_what_is_no_view_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="view:"):
        View.parse(text)


# --- keys --------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def plain(value):
    """``value`` with whole floats as integers, by a walk of its own."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value == int(value) else value


@given(value=JSON)
def test_canonical_json_is_json_of_the_same_value(value) -> None:
    text = canonical_json(value)
    assert json.loads(text) == plain(value)
    assert canonical_json(json.loads(text)) == text


def test_canonical_json_has_one_spelling_per_value() -> None:
    assert canonical_json({"b": 1, "a": 2.0}) == canonical_json({"a": 2, "b": 1.0}) == '{"a":2,"b":1}'
    assert canonical_json((1, 2)) == canonical_json([1.0, 2.0])
    assert canonical_json(True) != canonical_json(1)
    assert canonical_json(-0.0) == canonical_json(0)
    assert digest("é") == digest("\u00e9") != digest("e")
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


REF = ResolvedRef(kind="probe", name="p", use="fewshot", params={"k": 1, "root": "/a"}, identity={"k": 1})


def test_only_what_can_change_a_number_enters_a_fingerprint() -> None:
    same = dataclasses.replace(REF, name="q", params={"k": 1, "root": "/b"})
    assert same.fingerprint == REF.fingerprint
    model = ResolvedRef(kind="model", name="m", use="vit", identity={"arch": "a"})
    others = [
        dataclasses.replace(REF, use="head"),
        dataclasses.replace(REF, version=2),
        dataclasses.replace(REF, identity={"k": 2}),
        dataclasses.replace(REF, injected={"saliency": (model, "pretrained:a")}),
        dataclasses.replace(REF, injected={"saliency": (model, "random:a:0")}),
    ]
    assert len({ref.fingerprint for ref in (REF, *others)}) == 1 + len(others)


def cell(**changes: object) -> Cell:
    ref = dataclasses.replace
    base = Cell(
        model=ref(REF, kind="model", use="vit"),
        weights=WeightsInfo(origin="pretrained", identity="pretrained:a"),
        dataset=DatasetRef(
            ref=ref(REF, kind="dataset"), split="test", fingerprint="f", label_space="digits", num_classes=10
        ),
        view=View(crop=8),
        perturbation=ref(REF, kind="perturbation", use="drop"),
        level=0.5,
        probe=REF,
        seeds=Seeds(perturb=0),
    )
    return dataclasses.replace(base, **changes)


def test_every_part_of_a_cell_that_matters_changes_its_key() -> None:
    base = cell()
    others = [
        cell(model=dataclasses.replace(REF, use="deit")),
        cell(weights=WeightsInfo(origin="random", identity="random:a:0")),
        cell(dataset=dataclasses.replace(base.dataset, fingerprint="g")),
        cell(dataset=dataclasses.replace(base.dataset, limit=10)),
        cell(dataset=dataclasses.replace(base.dataset, split="train")),
        cell(view=View(crop=9)),
        cell(perturbation=dataclasses.replace(base.perturbation, use="swap")),
        cell(level=0.25),
        cell(level=None),
        cell(support=REF),
        cell(support=REF, support_level=0.5),
        cell(support_split="train"),
        cell(probe=dataclasses.replace(REF, version=2)),
        cell(seeds=Seeds(perturb=1)),
        cell(seeds=Seeds(probe=0)),
        cell(precision="bf16"),
    ]
    assert len({one.key for one in (base, *others)}) == 1 + len(others)
    assert cell(level=1).key == cell(level=1.0).key
    assert cell(not_applicable="no head").key == base.key


# --- records -----------------------------------------------------------------------------------------------------


def record() -> ResultRecord:
    rows = (
        Measurement(metric="accuracy", value=0.5, n=10, dims={"shots": 1}, low=0.2, high=0.8, interval="wilson95"),
        Measurement(metric="accuracy", value=0.75, n=10, dims={"shots": 5}),
    )
    return ResultRecord(key=cell().key, cell=cell().as_dict(), measurements=rows, environment={"device": "cpu"})


def test_a_record_reads_back_through_json() -> None:
    one = record()
    text = json.dumps(one.as_dict(), allow_nan=False)
    again = ResultRecord.from_dict(json.loads(text))
    assert json.loads(json.dumps(again.as_dict())) == json.loads(text)
    assert again.measurements == one.measurements
    skipped = dataclasses.replace(one, not_applicable="no head", measurements=())
    assert ResultRecord.from_dict(skipped.as_dict()).not_applicable == "no head"


def test_a_record_of_another_schema_is_refused() -> None:
    with pytest.raises(HarnessError, match="schema 99"):
        ResultRecord.from_dict({**record().as_dict(), "schema": 99})


def test_one_measurement_is_found_by_metric_and_dims() -> None:
    assert record().get("accuracy", shots=5).value == 0.75
    with pytest.raises(KeyError, match="2 measurements match"):
        record().get("accuracy")
    with pytest.raises(KeyError, match="0 measurements match"):
        record().get("accuracy", shots=2)


def test_results_of_random_weights_are_marked() -> None:
    assert not record().untrained
    random = cell(weights=WeightsInfo(origin="random", identity="random:a:0"))
    assert random.weights.untrained
    assert ResultRecord(key="k", cell=random.as_dict()).untrained


# --- what values refuse ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"values": ()}, "empty"),
        ({"values": (0.0, 2.0)}, "leaves"),
        ({"values": (0.5, 0.0)}, "rise strictly"),
        ({"values": (0.5, 0.5)}, "rise strictly"),
    ],
)
def test_a_sweep_must_rise_within_its_range(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ParameterError, match=problem):
        LevelSpec(name="ratio", low=0.0, high=1.0, **values)


def test_a_level_is_checked_against_its_range() -> None:
    level = LevelSpec(name="ratio", values=(0.5,), low=0.0, high=1.0)
    assert level.check(1, "here") == 1.0
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ParameterError, match="here: ratio must lie in"):
            level.check(value, "here")


def test_an_axis_of_whole_numbers_takes_no_others() -> None:
    level = LevelSpec(name="severity", values=(1, 2), low=1, high=5, whole=True)
    assert level.check(3.0, "here") == 3
    with pytest.raises(ParameterError, match=r"here: severity must be a whole number, not 2\.5"):
        level.check(2.5, "here")


def model_info(**changes: object) -> ModelInfo:
    values: dict[str, object] = {
        "name": "m", "family": "f", "view": View(crop=8), "weights": WeightsInfo(origin="random", identity="r"),
        "mean": (0.5,) * 3, "std": (0.5,) * 3, "label_space": "digits", "num_classes": 10,
        "num_blocks": 2, "embed_dim": 4, "heads": ("head",), "capabilities": frozenset({Capability.LOGITS}),
    }  # fmt: skip
    return ModelInfo(**{**values, **changes})


ATTENDS = {"capabilities": frozenset({Capability.LOGITS, Capability.ATTENTION})}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"heads": ()}, "heads"),
        ({"capabilities": frozenset()}, "heads"),
        ({"num_classes": None}, "num_classes"),
        ({"capabilities": frozenset({Capability.LOGITS, Capability.CLASS_TOKEN})}, "class token"),
        ({"attention_blocks": (0,)}, "attention_blocks"),
        ({"attention_blocks": (), **ATTENDS}, "attention_blocks"),
        ({"attention_blocks": (1, 2), **ATTENDS}, "its 2 blocks"),
        ({"attention_blocks": (-1,), **ATTENDS}, "its 2 blocks"),
    ],
)
def test_a_model_must_not_contradict_its_claims(changes: dict[str, object], problem: str) -> None:
    assert model_info().input_size == 8
    with pytest.raises(ParameterError, match=problem):
        model_info(**changes)


def test_wants_join() -> None:
    one, two = OutputSpec(logits=True, tokens=frozenset({1})), OutputSpec(pooled=True, tokens=frozenset({2}))
    both = one | two
    assert both == OutputSpec(logits=True, pooled=True, tokens=frozenset({1, 2}))
    assert one | one == one
    assert one | two == two | one


def test_feature_specs_name_something_and_resolve_blocks_from_the_end() -> None:
    for empty in ({}, {"blocks": (1,)}, {"prefix": ("cls",)}):
        with pytest.raises(ParameterError, match="feature spec"):
            FeatureSpec(**empty)
    spec = FeatureSpec(blocks=(0, -1), prefix=("cls",))
    assert spec.resolve_blocks(12) == (0, 11)
    assert spec.outputs(12) == OutputSpec(normed_tokens=frozenset({0, 11}))
    assert dataclasses.replace(spec, norm=False).outputs(12) == OutputSpec(tokens=frozenset({0, 11}))
    assert FeatureSpec(pooled=True).outputs(12) == OutputSpec(pooled=True)
    for block in (2, -3):
        with pytest.raises(CapabilityError, match=f"block {block} was asked of a model with 2 blocks"):
            FeatureSpec(blocks=(block,), mean_patch="last").resolve_blocks(2)


def test_tokens_must_fill_their_grid() -> None:
    prefix, patches = torch.zeros(2, 1, 4), torch.zeros(2, 6, 4)
    assert BlockTokens(prefix=prefix, patches=patches, grid=(2, 3)).grid == (2, 3)
    with pytest.raises(ParameterError, match="do not fill a grid"):
        BlockTokens(prefix=prefix, patches=patches, grid=(2, 2))


def batch(**changes: object) -> ImageBatch:
    values: dict[str, object] = {
        "images": torch.zeros(2, 3, 4, 4), "labels": torch.zeros(2), "ids": ("a", "b"), "positions": np.arange(2)
    }  # fmt: skip
    return ImageBatch(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images": torch.zeros(2, 4, 4)}, "N, 3, H, W"),
        ({"images": torch.zeros(2, 1, 4, 4)}, "N, 3, H, W"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}, "float32"),
        ({"labels": torch.zeros(3)}, "3 labels"),
        ({"ids": ("a",)}, "a batch of 1 ids holds 2 images"),
        ({"masks": torch.zeros(1, 4, 4, dtype=torch.bool)}, "1 masks"),
        ({"columns": {"shape": torch.zeros(1)}}, "1 shape"),
        ({"realised": {"loss": torch.zeros(3)}}, "3 loss"),
    ],
)
def test_a_batch_must_agree_in_length_and_layout(changes: dict[str, object], problem: str) -> None:
    assert len(batch()) == 2
    with pytest.raises(ParameterError, match=problem):
        batch(**changes)


def test_other_pixels_keep_labels_and_add_what_was_realised() -> None:
    one = batch(realised={"first": torch.tensor([1.0, 2.0])})
    two = one.with_images(torch.ones(2, 3, 4, 4), loss=torch.tensor([0.5, 0.25]))
    assert two.ids == one.ids
    assert set(two.realised) == {"first", "loss"}
    assert set(one.realised) == {"first"}
    assert float(one.images.sum()) == 0


def test_a_feature_table_must_agree_in_length() -> None:
    spec = FeatureSpec(pooled=True)
    assert len(FeatureTable(x=np.zeros((2, 3), np.float32), y=np.zeros(2, np.int64), ids=["a", "b"], spec=spec)) == 2
    with pytest.raises(ParameterError, match="feature table"):
        FeatureTable(x=np.zeros((2, 3), np.float32), y=np.zeros(1, np.int64), ids=["a", "b"], spec=spec)


def test_values_are_frozen_and_travel_between_processes() -> None:
    for value in (View(crop=8), REF, cell(), record(), LevelSpec(name="r", values=(1.0,), low=0, high=1), model_info()):
        assert pickle.loads(pickle.dumps(value)) == value
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            value.name = "other"
