"""``harness show``: what is printed of every kind of name, and names that are unclear."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.types import KINDS


def test_everything_that_is_listed_can_be_shown(harness):
    for line in harness("list", "--json").json:
        shown = harness("show", line["kind"], line["name"], "--json")
        assert shown.code == 0, shown.err
        assert shown.json["kind"] == line["kind"]
        assert shown.json["name"] == line["name"]
        text = harness("show", line["kind"], line["name"])
        assert text.code == 0
        assert text.out.startswith(f"{line['kind']} ")


def test_model_preset(harness):
    found = harness("show", "vit_b16", "--json").json
    assert found["weights"]["tag"] == "vit_base_patch16_224.augreg_in21k_ft_in1k"
    assert found["weights"]["identity"] == f"pretrained:{found['weights']['tag']}"
    assert found["weights"]["cached"] is None
    assert found["facts"]["view"] == "resize=248,crop=224,interpolation=bicubic"
    assert found["facts"]["label_space"] == "imagenet1k"
    assert found["source"].startswith("registry.yaml:")
    out = harness("show", "vit_b16").out
    for part in (
        "entry vit",
        "timm_vit (vit-harness ",
        "harness_timm.build:build_vit",
        found["source"],
        found["weights"]["identity"],
        "class_token",
        "harness fetch vit_b16",
        "architecture.tag",
    ):
        assert part in out


def test_preset_source_is_the_line_of_its_name(harness):
    source = harness("show", "resnet50", "--json").json["source"]
    line = int(source.rpartition(":")[2])
    registry = (Path(__file__).parents[2] / "registry.yaml").read_text().splitlines()
    assert registry[line - 1].strip() == "resnet50:"


def test_cached_weights_are_found(harness, tmp_path):
    tag = "resnet18.tv_in1k"
    repo = tmp_path / "hub" / f"models--timm--{tag}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "snapshots" / "abc" / "model.safetensors").write_bytes(b"x")
    assert harness("show", "resnet18", "--json").json["weights"]["cached"].endswith("abc/model.safetensors")


PLUGIN = """
@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    grid: tuple[int, int] = param((3, 4), help="how fine", unit="cells", low=1, high=9)
    shots: tuple[int, ...] = param((1, 5), help="how many")
    mode: str | None = param(None, help="which one")
    place: str = param(help="where it lies", locates=True)

@hookimpl
def harness_register_perturbations():
    yield PerturbationEntry(
        name="leafy", target="leaf.code:Leaf", summary="leaves in front", aliases=("leaves",), params=Params,
        tags=("green",), extra="ray", stochastic=True,
        level=LevelSpec(name="cover", values=(0.0, 0.25), low=0.0, high=0.5, unit="of the image", identity=0.0),
    )

@hookimpl
def harness_register_models():
    yield ModelEntry(
        name="own_weights", target="leaf.code:Model", summary="embedded", version=3, capabilities=frozenset(),
        view=View(crop=8),
    )
    yield ModelEntry(name="head", target="leaf.code:Model", summary="a model called like a probe",
                     capabilities=frozenset(), view=View(crop=8))
"""


def test_parameters_levels_and_facts_of_an_entry(harness, install):
    install("leaf", PLUGIN)
    found = harness("show", "leaves", "--json").json
    assert found["name"] == "leafy"
    assert [row["name"] for row in found["parameters"]] == ["grid", "shots", "mode", "place"]
    assert found["levels"]["values"] == [0.0, 0.25]
    out = harness("show", "leafy").out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "3x4" in rows["grid"]
    assert "1 <= grid <= 9" in rows["grid"]
    assert "cells" in rows["grid"]
    assert "how fine" in rows["grid"]
    assert "1+5" in rows["shots"]
    assert " none " in rows["mode"]
    assert "required" in rows["place"]
    assert "cover (of the image) from 0 to 0.5; @all is 0, 0.25; 0 changes nothing" in rows["levels"]
    assert "leaf (leaf-dist 1.5)" in rows["plugin"]
    assert "leaves" in rows["aliases"]
    assert "[ray]" in rows["extra"]


def test_embedded_weights_have_their_identity(harness, install):
    install("leaf", PLUGIN)
    found = harness("show", "own_weights", "--json").json
    assert found["weights"] == {"tag": None, "identity": "embedded:own_weights:3", "cached": None}
    assert "embedded:own_weights:3" in harness("show", "own_weights").out


def test_identity_is_the_one_that_records_hold(harness, install):
    from harness.catalog import build_catalog
    from harness.components import model_component
    from harness.manager import build_manager
    from harness.weights import WeightsChoice

    install("leaf", PLUGIN)
    catalog = build_catalog(build_manager())
    for name in ("own_weights", "vit_b16"):
        component = model_component(catalog, name, WeightsChoice())
        assert harness("show", "model", name, "--json").json["weights"]["identity"] == component.weights.identity


def test_entry_whose_tag_is_yet_to_be_given_has_no_weights(harness):
    assert harness("show", "vit", "--json").json["weights"] is None


def test_name_of_several_kinds_needs_the_kind(harness, install):
    install("leaf", PLUGIN)
    answer = harness("show", "head")
    assert answer.code == 2
    assert "'head' is a model and a probe" in answer.err
    assert harness("show", "probe", "head", "--json").json["kind"] == "probe"
    assert harness("show", "models", "head", "--json").json["kind"] == "model"


def test_plugin_gives_way_to_what_is_called_like_it(harness, install):
    install(
        "twin",
        '@hookimpl\ndef harness_register_probes():\n    yield ProbeEntry(name="twin", target="a:b", summary="s")',
    )
    assert harness("show", "twin", "--json").json["kind"] == "probe"
    assert harness("show", "plugin", "twin", "--json").json["entries"] == {"probe": ["twin"]}
    assert harness("show", "patchdrop", "--json").json["kind"] == "plugin"


def test_suite_contents(harness, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        "suites:\n  two:\n    models: [vit_b16, 'deit_*']\n    perturbations: ['patchdrop_random@0.5']\n"
        "    probes: [head]\n    seeds: [0, 7]\n    limit: 12\n    view: ipvit\n    summary: a grid\n"
    )
    found = harness("show", "two", "--registry", str(overlay), "--json").json
    assert found["models"] == ["vit_b16", "deit_*"]
    assert (found["seeds"], found["limit"], found["view"]) == ([0, 7], 12, "ipvit")
    assert found["source"] == f"{overlay}:2"
    out = harness("show", "suite", "two", "--registry", str(overlay)).out
    for part in ("vit_b16, deit_*", "patchdrop_random@0.5", "0, 7", "harness run --suite two"):
        assert part in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vit_b61"], "did you mean vit_b16"),
        (["probe", "fewshots"], "did you mean fewshot?"),
        (["suite", "occlusion-quik"], "did you mean occlusion-quick"),
        (["plugin", "timm_vti"], "did you mean timm_vit"),
        (["modles", "vit_b16"], "did you mean models?"),
        (["model", "vit_b16", "vit_s16"], "show takes one name"),
        (["patchdrop_random@0.5"], "harness show patchdrop_random"),
        (["fewshot:shots=1"], "harness show fewshot"),
    ],
)
def test_mistakes_are_usage_errors_with_a_way_on(harness, arguments, said):
    answer = harness("show", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert answer.out == ""


def test_name_of_a_failed_plugin_says_whose_it_is(harness, install):
    install(
        "broken",
        """
        @hookimpl
        def harness_register_probes():
            yield ProbeEntry(name="lost", target="a:b", summary="s")
            1 / 0
        """,
    )
    answer = harness("show", "lost")
    assert answer.code == 3
    assert "broken-dist 1.5" in answer.err
    unknown = harness("show", "never_heard_of")
    assert unknown.code == 2
    assert "plugin broken (broken-dist 1.5)" in unknown.err


def test_name_that_two_plugins_give_is_ambiguous_until_qualified(harness, install):
    for plugin in ("one", "two"):
        install(
            plugin,
            '@hookimpl\ndef harness_register_probes():\n    yield ProbeEntry(name="both", target="a:b", summary="s")',
        )
    answer = harness("show", "both")
    assert answer.code == 3
    assert "one:both" in answer.err
    assert harness("show", "two:both", "--json").json["plugin"] == "two"


def test_preset_whose_entry_is_missing_says_so(harness, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("models:\n  orphan: {use: vti}\n")
    answer = harness("show", "orphan", "--registry", str(overlay))
    assert answer.code == 2
    assert f"{overlay}:2: models.orphan.use: no model named 'vti'" in answer.err


def test_every_kind_has_something_to_show(harness):
    kinds = {line["kind"] for line in harness("list", "--json").json}
    assert kinds == {*KINDS, "suite", "plugin"}
