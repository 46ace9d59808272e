"""``harness list``: kinds, filters, marks, broken plugins, JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.types import KINDS


def names(answer) -> list[str]:
    return [line["name"] for line in answer.json]


def test_every_name_of_the_packaged_registry_is_listed(harness):
    packaged = yaml.safe_load((Path(__file__).parents[2] / "registry.yaml").read_text())
    found = {(line["kind"], line["name"]) for line in harness("list", "--json").json}
    for section, kind in (("models", "model"), ("perturbations", "perturbation"), ("suites", "suite")):
        for name in packaged[section]:
            assert (kind, name) in found


def test_all_kinds_at_once_equal_each_kind_alone(harness):
    together = harness("list", "--json").json
    alone = []
    for kind in (*KINDS, "suite", "plugin"):
        alone += harness("list", kind, "--json").json
    assert together == alone
    assert {line["kind"] for line in together} == {*KINDS, "suite", "plugin"}


@pytest.mark.parametrize(
    ("singular", "plural"), [("model", "models"), ("summary", "summaries"), ("suite", "SUITES"), ("plugin", "plugins")]
)
def test_singular_plural_and_alias_mean_the_same(harness, singular, plural):
    assert harness("list", singular).out == harness("ls", plural).out != ""


def test_unknown_kind_suggests(harness):
    answer = harness("list", "modles")
    assert answer.code == 2
    assert "did you mean models?" in answer.err
    assert answer.out == ""
    assert "kinds are models, perturbations" in harness("list", "xyz").err


def test_filter_is_a_glob_or_a_part_of_a_name_or_alias(harness):
    assert names(harness("list", "models", "vit_?16", "--json")) == ["vit_b16", "vit_l16", "vit_s16"]
    parts = names(harness("list", "models", "50", "--json"))
    assert parts == [name for name in names(harness("list", "models", "--json")) if "50" in name] != []
    assert names(harness("list", "probes", "TOP1", "--json")) == ["head"]


def test_filter_without_kind_searches_them_all(harness):
    kinds = {line["kind"] for line in harness("list", "--json").json if "patchdrop" in line["name"]}
    assert kinds == {"perturbation", "plugin"}
    out = harness("list").out
    assert "models: " in out
    assert "plugins: " in out


def test_filter_that_matches_nothing_is_an_error(harness):
    answer = harness("list", "models", "vit_b61")
    assert answer.code == 2
    assert "did you mean vit_b16" in answer.err


def test_text_is_aligned_and_holds_every_name(harness):
    answer = harness("list", "models")
    lines = answer.out.splitlines()
    column = lines[0].index("summary")
    assert lines[0].startswith("name ")
    for line, entry in zip(lines[1:], harness("list", "models", "--json").json, strict=True):
        assert line[: column - 1].strip() == entry["name"]
        assert line[column:].startswith(entry["summary"])
    assert answer.err == ""


def test_required_parameters_are_marked(harness):
    (line,) = (line for line in harness("list", "datasets", "--json").json if line["name"] == "folder")
    assert line["requires"] == ["root"]
    (text,) = (text for text in harness("list", "datasets").out.splitlines() if text.startswith("folder"))
    assert "takes root=" in text


EXTRA = """
@hookimpl
def harness_register_probes():
    yield ProbeEntry(name="far_probe", target="far.code:P", summary="needs more", extra="ray", aliases=("fp",))
    yield ProbeEntry(name="near_probe", target="far.code:P", summary="needs nothing")
"""


def test_missing_extra_is_marked_and_an_installed_one_is_not(harness, install, monkeypatch):
    install("far", EXTRA)
    monkeypatch.setitem(sys.modules, "ray", None)
    lines = {line["name"]: line for line in harness("list", "probes", "probe", "--json").json}
    assert lines["near_probe"]["extra_missing"] is None
    assert lines["far_probe"]["extra_missing"] == "ray"
    assert "needs extra [ray]" in harness("list", "probes", "fp").out
    monkeypatch.setitem(sys.modules, "ray", sys)
    assert harness("list", "probes", "fp", "--json").json[0]["extra_missing"] is None


def test_preset_without_its_entry_stays_listed_with_its_problem(harness, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("models:\n  orphan: {use: nobody_has_this, summary: lost}\n")
    answer = harness("list", "models", "orphan", "--registry", str(overlay), "--json")
    assert answer.json[0]["problem"] == "no plugin offers model entry 'nobody_has_this'"
    assert answer.json[0]["source"] == f"{overlay}:2"
    assert "no plugin offers" in harness("list", "models", "orphan", "--registry", str(overlay)).out


def test_broken_plugin_is_one_line_on_stderr_and_takes_nothing_with_it(harness, install):
    before = harness("list", "--json")
    install("broken", "raise ImportError('no module of mine\\nand a second line')")
    answer = harness("list", "--json")
    assert answer.code == 0
    assert [line for line in answer.json if line["name"] != "broken"] == before.json
    (broken,) = (line for line in answer.json if line["name"] == "broken")
    assert broken["status"] == "failed"
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith("warning: plugin broken (broken-dist 1.5): load: ImportError")


def test_strict_plugins_makes_it_an_error(harness, install):
    install("broken", "raise ImportError('nothing')")
    answer = harness("list", "--strict-plugins")
    assert answer.code == 3
    assert answer.out == ""


def test_no_plugin_leaves_its_names_out(harness):
    assert "digits" not in names(harness("list", "datasets", "--no-plugin", "datasets_digits", "--json"))
    (row,) = harness("list", "plugins", "datasets_digits", "--no-plugin", "datasets_digits", "--json").json
    assert row["status"] == "blocked"


def test_overlay_of_three_hundred_presets_is_listed(tmp_path):
    """The benchmark's own file is a valid one; how long it takes is measured there."""
    bench = Path(__file__).parents[1] / "benchmarks" / "bench_list.py"
    done = subprocess.run(
        [sys.executable, str(bench), "--repeats", "1"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "300 presets" in done.stdout, done.stderr
    assert done.stderr == ""
