"""``harness check``: kept and broken promises, what is left out, exit codes."""

from __future__ import annotations

import sys

import pytest

ENTRY = """
@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    shade: float = param(0.5, help="how dark", low=0, high=1)

@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    root: str = param(help="where")

@hookimpl
def harness_register_perturbations():
    yield PerturbationEntry(name="dusk", target="dusk_code:Dusk", summary="darker", params=Params)

@hookimpl
def harness_register_datasets():
    yield DatasetEntry(name="dusk_photos", target="dusk_code:Photos", summary="dark photos", params=Placed)

@hookimpl
def harness_register_probes():
    yield ProbeEntry(name="dusk_probe", target="dusk_code:Probe", summary="needs more", extra="ray")
"""

CODE = """
from dataclasses import replace
from harness.errors import DataError
from harness.protocols import PerturbationInfo

class Dusk:
    def __init__(self, *, shade):
        self.shade = shade
        self.info = PerturbationInfo(
            name="dusk", version=1, stage="image", stochastic=False, level=None, params={"shade": shade}
        )
    def prepare(self, context):
        pass
    def begin(self, batch):
        return None
    def apply(self, batch, state, level):
        return replace(batch, images=batch.images * self.shade * FACTOR)

class Photos:
    def __init__(self, *, root):
        raise DataError(f"{root}: there is no such folder")
"""


@pytest.fixture
def dusk(install):
    def write(factor: str = "1.0") -> None:
        install("dusk", ENTRY, dusk_code=CODE.replace("FACTOR", factor))

    return write


def test_component_that_keeps_its_promises(harness, dusk):
    dusk()
    answer = harness("check", "dusk", "--json")
    (found,) = answer.json
    assert answer.code == 0, answer.out
    assert found["kept"] is True
    assert (found["kind"], found["name"]) == ("perturbation", "dusk")
    assert {check["status"] for check in found["checks"]} == {"passed", "skipped"}
    assert answer.err == ""


def test_broken_promise_is_printed_with_its_evidence(harness, dusk):
    dusk("3.0")  # leaves [0, 1]
    answer = harness("check", "dusk:shade=0.9")
    assert answer.code == 3
    broken = [line for line in answer.out.splitlines() if line.startswith("BROKEN ")]
    assert any(
        "Perturbed images keep their shape, are float32 and finite, and lie in [0, 1]." in line for line in broken
    )
    assert "dusk: images_well_formed: " in answer.out
    (found,) = harness("check", "dusk:shade=0.9", "--json").json
    failed = [check["check"] for check in found["checks"] if check["status"] == "failed"]
    assert found["kept"] is False
    assert "images_well_formed" in failed
    assert len(failed) == len(broken)
    # The same component within its range keeps them: the parameter of the selector arrived.
    assert harness("check", "dusk:shade=0.3").code == 0


def test_data_that_are_not_there_are_not_the_fault_of_the_component(harness, tmp_path):
    answer = harness("check", f"folder:root={tmp_path / 'nowhere'}")
    assert answer.code == 4
    assert "no such folder" in answer.err


def test_everything_of_a_plugin(harness, dusk, monkeypatch):
    dusk()
    monkeypatch.setitem(sys.modules, "ray", None)
    answer = harness("check", "--plugin", "dusk", "--json")
    found = {one["name"]: one for one in answer.json}
    assert answer.code == 0
    assert found["dusk"]["kept"] is True
    assert found["dusk_photos"]["kept"] is None
    assert found["dusk_photos"]["left_out"].startswith("it takes root=; check dusk_photos:root=...")
    assert found["dusk_probe"]["left_out"] == "needs extra [ray]"
    text = harness("check", "--plugin", "dusk").out
    assert "dataset dusk_photos: not checked: it takes root=" in text


def test_one_broken_component_of_a_plugin_is_exit_code_three(harness, dusk):
    dusk("3.0")
    assert harness("check", "--plugin", "dusk").code == 3


def test_plugin_whose_models_need_a_name_points_to_its_presets(harness):
    (found,) = harness("check", "--plugin", "timm_vit", "--json").json
    assert "vit_b16" in found["left_out"]
    assert found["checks"] == []


def test_missing_extra_is_said_by_name(harness, dusk, monkeypatch):
    dusk()
    monkeypatch.setitem(sys.modules, "ray", None)
    answer = harness("check", "dusk_probe")
    assert answer.code == 3
    assert "pip install 'vit-harness[ray]'" in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "check takes one name"),
        (["none", "--plugin", "builtin"], "check takes one name"),
        (["nonee"], "did you mean none?"),
        (["none", "--kind", "probe"], "no probe named 'none'"),
        (["none", "--kind", "perturbtion"], "did you mean perturbations?"),
        (["--plugin", "timm_vti"], "did you mean timm_vit"),
        (["occlusion-quick"], "nothing is named 'occlusion-quick'"),
        (["patchdrop_random:gird=7"], "did you mean grid?"),
        (["folder"], "'root' is required"),
    ],
)
def test_mistakes_are_usage_errors(harness, arguments, said):
    answer = harness("check", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert answer.out == ""


def test_plugin_that_failed_cannot_be_checked(harness, install):
    install("broken", "raise RuntimeError('no')")
    answer = harness("check", "--plugin", "broken")
    assert answer.code == 3
    assert "plugin broken is failed: load: RuntimeError: no" in answer.err


def test_name_of_two_kinds_needs_its_kind(harness, install):
    install(
        "leaf",
        '@hookimpl\ndef harness_register_probes():\n    yield ProbeEntry(name="none", target="a:b", summary="s")',
    )
    answer = harness("check", "none")
    assert answer.code == 2
    assert "'none' is a perturbation and a probe" in answer.err
    assert harness("check", "none", "--kind", "perturbations", "--json").json[0]["kept"] is True


def test_progress_is_for_terminals_only(harness, monkeypatch):
    assert harness("check", "none").err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    err = harness("check", "none").err
    assert "perturbation none: 1 of " in err
    assert err.endswith("\x1b[2K")
