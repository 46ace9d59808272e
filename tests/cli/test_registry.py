"""``harness registry validate``: counts, every problem with its place, exit code 2."""

from __future__ import annotations

import re

import pytest

BAD = """\
models:
  vit_b16: {use: vit, params: {arch: a.b}}
  good: {use: vit, params: {arch: resnet18.tv_in1k}}
  nouse: {params: {arch: x}}
  badentry: {use: vitt}
  "Bad Name": {use: vit}
  badkey: {use: vit, parms: {}}
  incomplete: {use: vit}
perturbations:
  p1:
    use: patchdrop_random
    params:
      grid: 0
      gird: 7
suites:
  s1:
    models: [vit_b61, 'zzz*', 'vit_*']
    probes: ["fewshot:shotz=3", head]
  s2: {}
  occlusion-quick: {models: [good]}
defaults:
  probe: nope
  model: good
extra: 3
"""

EXPECTED = [
    (2, "models.vit_b16", "already at registry.yaml"),
    (4, "models.nouse", "key 'use' is missing"),
    (5, "models.badentry.use", "no model named 'vitt'"),
    (6, "models", "'Bad Name' is not a name"),
    (7, "models.badkey.parms", "unknown key 'parms'"),
    (13, "perturbations.p1.params.grid", "must lie in"),
    (14, "perturbations.p1.params.gird", "no parameter 'gird'"),
    (16, "suites.s1.models", "no model named 'vit_b61'"),
    (16, "suites.s1.models", "no model matches 'zzz*'"),
    (16, "suites.s1.probes", "unknown parameter 'shotz'"),
    (19, "suites.s2", "a suite names at least one of"),
    (20, "suites.occlusion-quick", "already at registry.yaml"),
    (22, "defaults.probe", "no probe named 'nope'"),
    (24, "extra", "unknown key 'extra'"),
]


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return path


def test_packaged_file_is_valid_and_counted(harness):
    answer = harness("registry", "validate", "--json")
    (packaged,) = answer.json
    assert answer.code == 0
    assert (packaged["file"], packaged["layer"], packaged["problems"]) == ("registry.yaml", "packaged", [])
    listed = [line for line in harness("list", "--json").json if str(line.get("source")).startswith("registry.yaml")]
    assert packaged["suites"] == sum(line["kind"] == "suite" for line in listed)
    assert packaged["presets"] == sum(line["kind"] != "suite" for line in listed)


def test_every_problem_is_found_with_its_line_and_key(harness, bad):
    answer = harness("registry", "validate", str(bad), "--json")
    assert answer.code == 2
    found = [problem["message"] for problem in answer.json[-1]["problems"]]
    assert len(found) == len(EXPECTED), found
    for message, (line, key, said) in zip(found, EXPECTED, strict=True):
        assert message.startswith(f"{bad}:{line}: {key}")
        assert said in message
    assert answer.json[0]["problems"] == []


def test_text_prints_counts_and_problems(harness, bad):
    answer = harness("registry", "validate", str(bad))
    assert answer.code == 2
    assert len(re.findall(rf"^{re.escape(str(bad))}:\d+: ", answer.out, re.MULTILINE)) == len(EXPECTED)
    (row,) = (line.split() for line in answer.out.splitlines() if line.startswith(f"{bad} "))
    assert row[1] == "user"
    assert row[-1] == str(len(EXPECTED))
    assert "did you mean grid?" in answer.out
    assert answer.err == ""


def test_first_problem_found_is_the_one_that_stops_a_run(harness, tmp_path):
    """What loading refuses, validating refuses: each broken part by itself."""
    parts = [
        "models:\n  vit_b16: {use: vit}\n",
        "models:\n  nouse: {params: {arch: x}}\n",
        "models:\n  'Bad Name': {use: vit}\n",
        "models:\n  badkey: {use: vit, parms: {}}\n",
        "perturbations:\n  p: {use: patchdrop_random, params: {gird: 7}}\n",
        "suites:\n  s2: {}\n",
        "extra: 3\n",
        "models: [\n",
        "",
        "models:\n  a: &x {use: vit}\n  b: *x\n",
    ]
    for text in parts:
        path = tmp_path / "part.yaml"
        path.write_text(text)
        loaded, validated = harness("list", "--registry", str(path)), harness("registry", "validate", str(path))
        assert loaded.code == validated.code == 2, text
        assert loaded.err.splitlines()[0].removeprefix("error: ") in validated.out


def test_good_overlay_is_counted(harness, tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(
        "models:\n  mine: {use: resnet, params: {arch: resnet18.tv_in1k}}\nsuites:\n  s: {models: [mine]}\n"
    )
    answer = harness("registry", "validate", str(path), "--json")
    assert answer.code == 0, answer.out
    assert (answer.json[1]["presets"], answer.json[1]["suites"]) == (1, 1)


def test_a_suite_may_leave_the_place_of_its_images_to_the_command(harness, tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text("suites:\n  s: {models: [resnet18], datasets: [folder]}\n")
    assert harness("registry", "validate", str(path)).code == 0
    path.write_text("suites:\n  s: {models: [resnet18], datasets: ['folder:label=none']}\n")
    assert harness("registry", "validate", str(path)).code == 2


def test_later_file_may_use_names_of_an_earlier_one(harness, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("models:\n  mine: {use: resnet, params: {arch: resnet18.tv_in1k}}\n")
    second.write_text("suites:\n  s: {models: [mine]}\n")
    assert harness("registry", "validate", str(first), str(second)).code == 0
    assert harness("registry", "validate", str(second)).code == 2


def test_file_of_a_plugin_is_checked_in_its_layer(harness, install, tmp_path):
    presets = tmp_path / "presets.yaml"
    presets.write_text("models:\n  mine: {used: vit}\n  yours: {uses: vit}\n")
    install(
        "presets",
        f"from pathlib import Path\n@hookimpl\ndef harness_registry_files():\n    yield Path({str(presets)!r})",
    )
    answer = harness("registry", "validate", "--json")
    assert answer.code == 2
    assert answer.json[1]["layer"] == "presets"
    assert len(answer.json[1]["problems"]) == 2


def test_file_that_is_not_there(harness, tmp_path):
    answer = harness("registry", "validate", str(tmp_path / "none.yaml"))
    assert answer.code == 2
    assert "cannot read this registry file" in answer.out
