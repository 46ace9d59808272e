"""``--allow-missing``: weights that do not agree with the model in every name, loaded because somebody said so."""

from __future__ import annotations

import argparse
import hashlib

import pytest
import torch

import harness as package
from harness.errors import UsageError, WeightsError
from harness.weights import WeightsChoice
from harness_mini.cards import weights_file

GRID = ("-d", "shapes", "--probe", "fewshot:shots=1", "-L", "24", "--no-cache", "-q", "--json")


def shipped(name):
    from safetensors.torch import load_file

    return load_file(weights_file(name))


@pytest.fixture(scope="module")
def full_checkpoint(tmp_path_factory):
    """What the training script of self-distillation would have saved of ``dino_mini``."""
    path = tmp_path_factory.mktemp("full") / "checkpoint.pth"
    teacher = {f"backbone.{name}": value for name, value in shipped("dino_mini").items()}
    teacher |= {"head.mlp.0.weight": torch.ones(8, 4), "head.last_layer.weight_v": torch.ones(9, 8)}
    student = {f"module.{name}": torch.zeros_like(value) for name, value in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, path)
    return path


def measurements(answer):
    assert answer.code == 0, answer.err
    return [(m["metric"], m["value"]) for m in answer.json["measurements"]]


def test_a_full_checkpoint_gives_the_numbers_of_its_backbone(harness, full_checkpoint, tmp_path):
    run = ("run", "-m", "dino_mini", *GRID)
    strict = harness(*run, "--weights", full_checkpoint, "-o", tmp_path / "strict")
    assert strict.code == 4
    assert "2 unexpected: head.mlp.0.weight, head.last_layer.weight_v" in strict.err
    assert "--allow-missing 'head.*'" in strict.err
    loose = harness(*run, "--weights", full_checkpoint, "--allow-missing", "head.*", "-o", tmp_path / "loose")
    plain = harness(*run, "-o", tmp_path / "plain")
    assert measurements(loose) == measurements(plain)
    identity = loose.json["cell"]["weights"]
    digest = hashlib.sha256(full_checkpoint.read_bytes()).hexdigest()
    assert identity.startswith(f"sha256:{digest};allow-missing=head.*;initial=0:torch-")


def test_a_slip_of_the_pen_is_no_permission(harness, full_checkpoint, tmp_path):
    arguments = ("--weights", full_checkpoint, "--allow-missing", "head.*", "--allow-missing", "haed.*")
    answer = harness("run", "-m", "dino_mini", *GRID, *arguments, "-o", tmp_path)
    assert answer.code == 4
    assert "'haed.*' matches no name" in answer.err
    assert "did you mean head" in answer.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-m", "vit_mini", "--weights", "random"), "nothing is loaded"),
        (("-m", "vit_mini"), "come with its plugin"),
        (("-m", "vit_b16", "--allow-missing", "a,b"), "once for each"),
    ],
)
def test_where_it_can_have_no_effect_it_is_an_error(harness, tmp_path, arguments, says):
    answer = harness("run", *arguments, *GRID, "--allow-missing", "head.*", "-o", tmp_path, "--dry-run")
    assert answer.code == 2
    assert says in answer.err


def test_what_a_file_lacks_keeps_the_initial_values_of_seed_zero(tmp_path):
    from safetensors.torch import save_file

    from harness_mini.models import build_model

    state = shipped("vit_mini")
    heads = [name for name in state if name.startswith("head.")]
    assert heads
    path = tmp_path / "headless.safetensors"
    save_file({name: value for name, value in state.items() if name not in heads}, path)
    with pytest.raises(WeightsError, match=f"{len(heads)} missing: head"):
        build_model("vit_mini", weights=WeightsChoice(origin="checkpoint", path=path))
    choice = WeightsChoice(origin="checkpoint", path=path, allow_missing=("head.*",))
    found = build_model("vit_mini", weights=choice).net.state_dict()
    initial = build_model("vit_mini", weights=WeightsChoice(origin="random", seed=0)).net.state_dict()
    for name, value in found.items():
        expected = initial[name] if name in heads else state[name].to(value.dtype)
        assert torch.equal(value, expected), name


def test_the_same_from_python(full_checkpoint):
    asked = {"model": "dino_mini", "dataset": "shapes", "probe": "fewshot:shots=1", "limit": 24}
    plan = package.plan(**asked, weights=str(full_checkpoint), allow_missing=["head.*"])
    assert ";allow-missing=head.*;" in plan.cells[0].as_dict()["weights"]
    choice = WeightsChoice(origin="checkpoint", path=full_checkpoint, allow_missing=("head.*",))
    assert package.plan(**asked, weights=choice).cells[0].key == plan.cells[0].key
    both = package.plan(**asked, weights=choice, allow_missing=["norm.*"])
    assert ";allow-missing=head.*,norm.*;" in both.cells[0].as_dict()["weights"]
    assert package.plan(**asked, weights=str(full_checkpoint)).cells[0].key != plan.cells[0].key
    with pytest.raises(UsageError, match="nothing is loaded"):
        package.plan(**asked, weights="random", allow_missing=["head.*"])


def test_a_contact_sheet_takes_it_with_a_model_only(harness):
    answer = harness("show", "perturbation", "patchdrop_random", "-d", "shapes", "--allow-missing", "head.*")
    assert answer.code == 2
    assert "--allow-missing can have no effect without --model" in answer.err
