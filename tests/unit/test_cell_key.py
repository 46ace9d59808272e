"""The key of a cell: pinned for fixed inputs, changed by all that can change a number, and by nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pytest

from harness.params import canonical, coerce, identity, param
from harness.types import KEY_VERSION, Cell, DatasetRef, ResolvedRef, Seeds, View, WeightsInfo

MODEL = ResolvedRef(kind="model", name="vit_b16", use="timm_vit", identity={"arch": "vit_base_patch16_224"})
DIGITS = ResolvedRef(kind="dataset", name="digits", use="digits")
NONE = ResolvedRef(kind="perturbation", name="none", use="none")
DROP = ResolvedRef(kind="perturbation", name="patchdrop_random", use="patchdrop", identity={"grid": [7, 7]})
HEAD = ResolvedRef(kind="probe", name="head", use="head")
FEWSHOT = ResolvedRef(kind="probe", name="fewshot", use="fewshot", version=2, identity={"shots": [1, 5]})

CLEAN = Cell(
    model=MODEL,
    weights=WeightsInfo(origin="pretrained", identity="pretrained:augreg_in21k"),
    dataset=DatasetRef(ref=DIGITS, split="test", fingerprint="f0f0", label_space="digits", num_classes=10),
    view=View(resize=256, crop=224, interpolation="bicubic"),
    perturbation=NONE,
    level=None,
    probe=HEAD,
    seeds=Seeds(),
)
DROPPED = dataclasses.replace(
    CLEAN,
    perturbation=DROP,
    level=0.5,
    probe=FEWSHOT,
    seeds=Seeds(perturb=3, support_perturb=4, probe=5),
    support=DROP,
    support_level=0.25,
    support_split="train",
    precision="bf16",
)

# A changed digest means that every record ever written is orphaned: bump KEY_VERSION and say so in the changelog.
GOLDEN = {
    "clean": "2853355260aa2ce479295f9b89850ec548b729e603d53c051e39313005f5d059",
    "dropped": "5df2829f06bc40f09556a8c02037dcd78c382b08b252a7fa2e11219174d00e98",
}


@pytest.mark.parametrize(("name", "cell"), [("clean", CLEAN), ("dropped", DROPPED)])
def test_the_key_of_a_cell_is_pinned(name: str, cell: Cell) -> None:
    assert cell.key == GOLDEN[name]


def test_the_key_is_the_digest_of_this_text() -> None:
    text = (
        '{"dataset":{"fingerprint":"f0f0","limit":null,"params":{},"split":"test","use":"digits","version":1},'
        '"key_version":1,"level":null,'
        '"model":{"params":{"arch":"vit_base_patch16_224"},"use":"timm_vit","version":1},'
        '"perturbation":{"params":{},"use":"none","version":1},"precision":"fp32",'
        '"probe":{"params":{},"use":"head","version":1},'
        '"seeds":{"perturb":null,"probe":null,"support_perturb":null},"support":null,"support_level":null,'
        '"support_split":null,"view":"resize=256,crop=224,interpolation=bicubic","weights":"pretrained:augreg_in21k"}'
    )
    assert KEY_VERSION == 1
    assert CLEAN.key == hashlib.sha256(text.encode()).hexdigest()


def other(ref: ResolvedRef, **changes: Any) -> ResolvedRef:
    return dataclasses.replace(ref, **changes)


CHANGES: dict[str, dict[str, Any]] = {
    "model's entry": {"model": other(MODEL, use="timm_deit")},
    "model's parameter": {"model": other(MODEL, identity={"arch": "vit_small_patch16_224"})},
    "model's version": {"model": other(MODEL, version=2)},
    "weights": {"weights": WeightsInfo(origin="random", identity="random:vit:0")},
    "dataset's entry": {"dataset": dataclasses.replace(DROPPED.dataset, ref=other(DIGITS, use="folder"))},
    "dataset's content": {"dataset": dataclasses.replace(DROPPED.dataset, fingerprint="f0f1")},
    "split": {"dataset": dataclasses.replace(DROPPED.dataset, split="train")},
    "limit": {"dataset": dataclasses.replace(DROPPED.dataset, limit=100)},
    "view": {"view": View(resize=248, crop=224, interpolation="bicubic")},
    "perturbation": {"perturbation": other(DROP, use="patchdrop_salient")},
    "perturbation's parameter": {"perturbation": other(DROP, identity={"grid": [14, 14]})},
    "perturbation's version": {"perturbation": other(DROP, version=2)},
    "injected model": {"perturbation": other(DROP, injected={"saliency": (MODEL, "pretrained:dino")})},
    "level": {"level": 0.75},
    "support": {"support": NONE},
    "support level": {"support_level": 0.5},
    "support split": {"support_split": "train_half"},
    "probe": {"probe": HEAD},
    "probe's version": {"probe": other(FEWSHOT, version=3)},
    "perturbation's seed": {"seeds": Seeds(perturb=0, support_perturb=4, probe=5)},
    "support perturbation's seed": {"seeds": Seeds(perturb=3, support_perturb=0, probe=5)},
    "probe's seed": {"seeds": Seeds(perturb=3, support_perturb=4, probe=0)},
    "precision": {"precision": "fp32"},
}


@pytest.mark.parametrize("axis", CHANGES)
def test_every_axis_changes_the_key(axis: str) -> None:
    assert dataclasses.replace(DROPPED, **CHANGES[axis]).key != DROPPED.key


def test_no_two_changes_give_one_key() -> None:
    keys = {dataclasses.replace(DROPPED, **change).key for change in CHANGES.values()}
    assert len(keys) == len(CHANGES)


def test_an_injected_model_counts_with_its_weights() -> None:
    cells = [
        dataclasses.replace(DROPPED, perturbation=other(DROP, injected={"saliency": (MODEL, weights)}))
        for weights in ("pretrained:dino", "random:vit:0")
    ]
    assert cells[0].key != cells[1].key


@pytest.mark.parametrize(
    "change",
    [
        {"model": other(MODEL, name="vit_base")},
        {"model": other(MODEL, params={"arch": "vit_base_patch16_224", "cache": "elsewhere"})},
        {"perturbation": other(DROP, name="drop7")},
        {"weights": dataclasses.replace(DROPPED.weights, source="a hub", sha256="ab")},
        {"dataset": dataclasses.replace(DROPPED.dataset, label_space=None)},
    ],
    ids=["preset name", "complete parameters", "alias", "where weights came from", "label space"],
)
def test_names_and_places_do_not_change_the_key(change: dict[str, Any]) -> None:
    assert dataclasses.replace(DROPPED, **change).key == DROPPED.key


def test_the_key_knows_no_device_batch_size_or_worker() -> None:
    assert set(DROPPED.key_parts) == {
        "key_version",
        "model",
        "weights",
        "dataset",
        "view",
        "perturbation",
        "level",
        "support",
        "support_level",
        "support_split",
        "probe",
        "seeds",
        "precision",
    }
    assert not {"device", "batch_size", "workers"} & set(json.dumps(DROPPED.key_parts).replace('"', " ").split())


def test_one_and_one_point_zero_are_one_level() -> None:
    assert dataclasses.replace(DROPPED, level=1).key == dataclasses.replace(DROPPED, level=1.0).key
    whole = other(DROP, identity={"grid": (7.0, 7)})
    assert dataclasses.replace(DROPPED, perturbation=whole).key == DROPPED.key
    assert dataclasses.replace(DROPPED, level=True).key != dataclasses.replace(DROPPED, level=1).key


@dataclass(frozen=True, kw_only=True)
class Noise:
    sigma: float = param(0.5, introduced=0.1, help="standard deviation")
    clip: bool = param(True, help="whether to clip")
    root: str = param(".", help="where", locates=True)


def noisy(given: dict[str, Any]) -> str:
    params = coerce(Noise, given, "noise")
    ref = ResolvedRef(
        kind="perturbation", name="noise", use="noise", params=canonical(params), identity=identity(params)
    )
    return dataclasses.replace(DROPPED, perturbation=ref).key


def test_naming_a_default_or_moving_a_folder_makes_no_new_key() -> None:
    assert noisy({}) == noisy({"sigma": 0.5}) == noisy({"sigma": "0.50"}) == noisy({"clip": True, "root": "/data"})
    assert noisy({"sigma": 0.25}) != noisy({})
    assert noisy({"clip": False}) != noisy({})


def test_a_default_is_left_out_by_what_it_was_when_introduced() -> None:
    assert identity(coerce(Noise, {"sigma": 0.1}, "noise")) == {}
    assert identity(coerce(Noise, {}, "noise")) == {"sigma": 0.5}
