"""Registry files: what they may say, where each mistake is, and how layers are laid over each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import HarnessError, RegistryError
from harness.registry import Claim, Defaults, Registry, load_registry
from harness.types import Capability, View

ENTRIES = {
    "model": {"vit": Claim(owner="an entry of plugin timm_vit", plugin="timm_vit", core=True, name="vit")},
    "probe": {
        "head": Claim(owner="an entry of plugin head", plugin="head", core=True, name="head"),
        "top1": Claim(owner="an entry of plugin head", plugin="head", core=True, name="head"),
        "theirs": Claim(owner="an entry of plugin other", plugin="other", core=False, name="theirs"),
    },
}


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def load(*files: Path, **options: object) -> Registry:
    return load_registry(files, entries=ENTRIES, **options)


def test_a_file_of_every_section_reads(write) -> None:
    registry = load(
        write(
            """
models:
  big:
    use: timm_vit:vit
    params: {arch: a.b, drop: 0.5, layers: [1, 2], deep: true}
    aliases: [large, huge]
    summary: a big one
    view: {resize: 256, crop: 224, interpolation: bicubic, mode: squash}
    label_space: imagenet21k
    capabilities: [logits, pooled]
  named_view: {use: vit, view: ipvit}
  spelt_view: {use: vit, view: "crop=96"}
perturbations:
  drop_7: {use: drop, params: {grid: 7x7}}
probes:
  "no": {use: head, aliases: second}
datasets:
  mine: {use: folder, params: {root: images}}
suites:
  all:
    models: ["vit_*", "vit:arch=a.b"]
    datasets: mine
    perturbations: [none, "drop@0.25,0.5"]
    support_perturbations: none
    probes: [head, "fewshot:shots=1+5"]
    seeds: [0, 1]
    view: ipvit
    limit: 100
    summary: everything
  part: {models: vit, limit: 0.1}
defaults:
  model: big
  perturbation: drop_7@all
  view: {crop: 96}
  batch_size: 32
  seeds: 3
"""
        )
    )
    big = registry.presets["model"]["big"]
    assert (big.use, big.summary, big.aliases, big.layer) == ("timm_vit:vit", "a big one", ("large", "huge"), "user")
    assert big.params == {"arch": "a.b", "drop": 0.5, "layers": [1, 2], "deep": True}
    assert big.view == View(resize=256, crop=224, interpolation="bicubic", mode="squash")
    assert (big.label_space, big.capabilities) == ("imagenet21k", {Capability.LOGITS, Capability.POOLED})
    assert str(big.source).endswith("mine.yaml:3")
    assert str(big.param_sources["arch"]).endswith("mine.yaml:5")
    assert registry.presets["model"]["named_view"].view == View(resize=256, crop=224)
    assert registry.presets["model"]["spelt_view"].view == View(crop=96)
    assert registry.presets["probe"]["no"].aliases == ("second",)
    suite = registry.suites["all"]
    assert (suite.models, suite.datasets) == (("vit_*", "vit:arch=a.b"), ("mine",))
    assert (suite.perturbations, suite.support_perturbations) == (("none", "drop@0.25,0.5"), ("none",))
    assert (suite.seeds, suite.view, suite.limit) == ((0, 1), "ipvit", 100)
    assert registry.suites["part"].limit == 0.1
    assert registry.defaults == Defaults(
        model="big", perturbation="drop_7@all", view="crop=96", batch_size=32, seeds=(3,)
    )


def test_the_packaged_file_is_always_there_and_its_defaults_are_those_of_the_type() -> None:
    registry = load_registry()
    assert registry.presets["model"]["vit_b16"].layer == "packaged"
    assert "occlusion-quick" in registry.suites
    assert registry.defaults == Defaults()


PRESET = "models:\n  m:\n    use: vit\n"


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("- a\n", ":1: ", "expected a mapping (key: value), found a list"),
        ("just text\n", ":1: ", "expected a mapping"),
        ("model: {}\n", ":1: model: ", "unknown key 'model'\n  hint: did you mean models?"),
        ("models:\n", ":1: models: ", "expected a mapping (key: value), found nothing"),
        ("models: []\n", ":1: models: ", "found a list"),
        ("models:\n  m: vit\n", ":2: models.m: ", "expected a mapping"),
        ("models:\n  m: {}\n", ":2: models.m: ", "key 'use' is missing"),
        ("models:\n  M: {use: vit}\n", ":2: models: ", "'M' is not a name"),
        ("models:\n  no: {use: vit}\n", ":2: models: ", "found no, which YAML reads as a truth value"),
        ("models:\n  224: {use: vit}\n", ":2: models: ", "which YAML reads as a number"),
        ('models:\n  "224": {use: vit}\n', ":2: models: ", "would be taken for a level"),
        ("models:\n  1e3: {use: vit}\n", ":2: models: ", "would be taken for a level"),
        (
            "models:\n  m: {use: vit}\n  n: {use: vit}\n  m: {use: vit}\n",
            ":4: models: ",
            "'m' is given twice, first in line 2",
        ),
        ("models: {}\nmodels: {}\n", ":2: ", "'models' is given twice"),
        (PRESET + "    uses: x\n", ":4: models.m.uses: ", "unknown key 'uses'\n  hint: did you mean use?"),
        (PRESET + "    params: [arch]\n", ":4: models.m.params: ", "found a list"),
        (PRESET + "    params: {a: 1, a: 2}\n", ":4: models.m.params: ", "'a' is given twice"),
        (
            PRESET + "    params:\n      a: {b: 1}\n",
            ":5: models.m.params.a: ",
            "expected a single value, found a mapping",
        ),
        (
            PRESET + "    params:\n      a: [[1]]\n",
            ":5: models.m.params.a[0]: ",
            "expected a single value, found a list",
        ),
        (PRESET + "    params: {a: 010}\n", ":4: models.m.params.a: ", "010 is not a decimal integer"),
        (PRESET + "    aliases: [yes]\n", ":4: models.m.aliases[0]: ", "YAML reads as a truth value"),
        (PRESET + "    aliases: [A]\n", ":4: models.m.aliases[0]: ", "'A' is not a name"),
        (PRESET + "    aliases: [a, a]\n", ":4: models.m.aliases[1]: ", "given twice"),
        (PRESET + "    aliases: m\n", ":2: models.m: ", "alias 'm' is its own name"),
        (PRESET + "    summary: [x]\n", ":4: models.m.summary: ", "expected text"),
        (PRESET + "    override: 'true'\n", ":4: models.m.override: ", "expected true or false, found 'true'"),
        (PRESET + "    view: 224\n", ":4: models.m.view: ", "which YAML reads as a number"),
        (PRESET + "    view: ipvitt\n", ":4: models.m.view: ", "cannot read 'ipvitt'"),
        (PRESET + "    view: {resize: 256}\n", ":4: models.m.view: ", "key 'crop' is missing"),
        (PRESET + "    view: {crop: 224, resize: 100}\n", ":4: models.m.view: ", "resize=100 is smaller than crop=224"),
        (PRESET + "    view:\n      crop: big\n", ":5: models.m.view.crop: ", "expected an integer"),
        (PRESET + "    view: {crop: 8, interpolation: box}\n", ":4: models.m.view: ", "must be one of bilinear"),
        (PRESET + "    view: {crop: 8, mean: 0.5}\n", ":4: models.m.view.mean: ", "unknown key"),
        (
            PRESET + "    capabilities: [logit]\n",
            ":4: models.m.capabilities[0]: ",
            "unknown capability 'logit'\n  hint: did you mean logits",
        ),
        (PRESET + "    label_space: null\n", ":4: models.m.label_space: ", "expected the name of a label space"),
        ("models:\n  m: {use: vit@3}\n", ":2: models.m.use: ", "expected the name of an entry"),
        ("models:\n  m: {use: 'vit:arch=x'}\n", ":2: models.m.use: ", "parameters go under params"),
        ("probes:\n  m: {use: head, view: ipvit}\n", ":2: probes.m.view: ", "unknown key 'view'"),
        ("suites:\n  s: {}\n", ":2: suites.s: ", "a suite names at least one of"),
        ("suites:\n  s: {models: []}\n", ":2: suites.s.models: ", "an empty list"),
        ("suites:\n  s: {models: [A]}\n", ":2: suites.s.models[0]: ", "'A' is not a name"),
        (
            "suites:\n  s: {models: [vit@3]}\n",
            ":2: suites.s.models[0]: ",
            "only perturbations and datasets have levels",
        ),
        ("suites:\n  s: {model: [vit]}\n", ":2: suites.s.model: ", "did you mean models"),
        ("suites:\n  s:\n    perturbations: [a@b]\n", ":3: suites.s.perturbations[0]: ", "level 'b' is not a number"),
        ("suites:\n  s: {models: vit, limit: 0}\n", ":2: suites.s.limit: ", "at least 1"),
        ("suites:\n  s: {models: vit, limit: 1.5}\n", ":2: suites.s.limit: ", "expected an integer"),
        ("suites:\n  s: {models: vit, seeds: [1, 1]}\n", ":2: suites.s.seeds: ", "different"),
        ("suites:\n  s: {models: vit, seeds: [1e3]}\n", ":2: suites.s.seeds[0]: ", "expected an integer"),
        ("suites:\n  s: {models: vit, seeds: [true]}\n", ":2: suites.s.seeds[0]: ", "expected an integer"),
        ("defaults: {modle: vit}\n", ":1: defaults.modle: ", "did you mean model"),
        ("defaults:\n  model: vit*\n", ":2: defaults.model: ", "a pattern was given"),
        ("defaults:\n  probe: head@1\n", ":2: defaults.probe: ", "only perturbations and datasets have levels"),
        ("defaults:\n  precision: fp64\n", ":2: defaults.precision: ", "choose one of fp32, bf16, fp16"),
        ("defaults:\n  batch_size: many\n", ":2: defaults.batch_size: ", "expected an integer"),
        ("defaults:\n  batch_size: 0\n", ":2: defaults.batch_size: ", "at least 1"),
        ("defaults:\n  seeds: []\n", ":2: defaults.seeds: ", "one or more"),
        (
            "models:\n  a: {use: vit, aliases: [x]}\n  b: {use: vit, aliases: [x]}\n",
            ":3: models.b: ",
            "alias 'x' is already at",
        ),
        ("models:\n  a: {use: vit, aliases: [b]}\n  b: {use: vit}\n", ":3: models.b: ", "model 'b' is already at"),
        ("models:\n  a: {use: vit}\n  b: {use: vit, aliases: [a]}\n", ":3: models.b: ", "alias 'a' is already at"),
        (
            "models:\n  a: {use: vit, aliases: [vit_b16]}\n",
            ":2: models.a: ",
            "alias 'vit_b16' is already at registry.yaml:",
        ),
        ("models:\n  vit_b16: {use: vit}\n", ":2: models.vit_b16: ", "add override: true"),
        ("models:\n  vit: {use: vit}\n", ":2: models.vit: ", "is already an entry of plugin timm_vit"),
        ("probes:\n  theirs: {use: head}\n", ":2: probes.theirs: ", "is already an entry of plugin other"),
        (
            "probes:\n  top1: {use: head, override: true}\n",
            ":2: probes.top1: ",
            "'top1' is an alias of head; override head itself",
        ),
        ("models:\n  vit_b61: {use: vit, override: true}\n", ":2: models.vit_b61: ", "did you mean vit_b16"),
        ("suites:\n  occlusion-quick: {models: vit}\n", ":2: suites.occlusion-quick: ", "add override: true"),
        (
            "suites:\n  fresh: {models: vit, override: true}\n",
            ":2: suites.fresh: ",
            "no earlier file or plugin has a suite",
        ),
    ],
)
def test_a_mistake_is_told_with_file_line_and_key_path(write, text: str, place: str, problem: str) -> None:
    path = write(text)
    with pytest.raises(RegistryError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}{place}")
    assert problem in str(caught.value)
    assert caught.value.exit_code == 2


def test_files_that_cannot_be_read_are_named(tmp_path: Path, write) -> None:
    with pytest.raises(RegistryError, match=r"absent\.yaml: cannot read this registry file: No such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(RegistryError, match="cannot read this registry file"):
        load(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RegistryError, match="must be UTF-8"):
        load(binary)
    assert load(write("\ufeff" + PRESET)).presets["model"]["m"].use == "vit"


# --- layers ------------------------------------------------------------------------------------------------------


def test_override_replaces_and_hands_on_the_aliases(write) -> None:
    first = write("models:\n  a: {use: vit, aliases: [x], summary: first}\n", "1.yaml")
    second = write("models:\n  a: {use: vit, aliases: [y], summary: second, override: true}\n", "2.yaml")
    preset = load(first, second).presets["model"]["a"]
    assert (preset.summary, preset.aliases) == ("second", ("y", "x"))
    with pytest.raises(RegistryError, match=r"2\.yaml:2: models\.a: override: true, but no earlier file"):
        load(second, first)


def test_override_of_an_entry_and_of_a_packaged_name(write) -> None:
    path = write(
        "models:\n  vit: {use: vit, params: {arch: z.z}, override: true}\n  vit_b16: {use: vit, override: true}\n"
        "suites:\n  occlusion-quick: {models: vit, override: true}\n"
    )
    registry = load(path)
    assert registry.presets["model"]["vit"].params == {"arch": "z.z"}
    assert registry.presets["model"]["vit_b16"].layer == "user"
    assert registry.suites["occlusion-quick"].models == ("vit",)


def test_later_defaults_replace_earlier_ones_key_by_key(write) -> None:
    first = write("defaults: {model: a, probe: head}\n", "1.yaml")
    second = write("defaults: {model: b}\n", "2.yaml")
    defaults = load(first, second).defaults
    assert (defaults.model, defaults.probe, defaults.dataset) == ("b", "head", "shapes_novel")


def test_a_broken_plugin_file_leaves_out_that_plugin_alone(write) -> None:
    good = write("models:\n  good: {use: vit}\n", "good.yaml")
    half = write("models:\n  half: {use: vit}\n", "half.yaml")
    bad = write("models:\n  bad: {usee: vit}\n", "bad.yaml")
    reported: list[tuple[str, HarnessError]] = []
    files = [("p", half), ("p", bad), ("q", good)]
    registry = load(plugin_files=files, on_plugin_error=lambda plugin, error: reported.append((plugin, error)))
    assert {"good"} == registry.presets["model"].keys() & {"good", "half", "bad"}
    assert registry.presets["model"]["good"].layer == "q"
    assert [plugin for plugin, _ in reported] == ["p"]
    assert "bad.yaml:2: models.bad.usee" in reported[0][1].message
    with pytest.raises(RegistryError, match="usee"):
        load(plugin_files=files)


def test_two_plugins_with_one_name_leave_it_contested_until_the_user_decides(write) -> None:
    text = "models:\n  twin: {use: vit}\nsuites:\n  two: {models: vit}\n"
    files = [(plugin, write(text, f"{plugin}.yaml")) for plugin in ("p", "q")]
    registry = load(plugin_files=files)
    assert "twin" not in registry.presets["model"]
    assert [preset.layer for preset in registry.contested["model"]["twin"]] == ["p", "q"]
    assert ("two" in registry.suites, len(registry.contested_suites["two"])) == (False, 2)
    mine = write("models:\n  twin: {use: vit, override: true}\nsuites:\n  two: {models: vit, override: true}\n")
    registry = load(mine, plugin_files=files)
    assert registry.presets["model"]["twin"].layer == "user"
    assert registry.suites["two"].layer == "user"
    assert not registry.contested["model"]
    assert not registry.contested_suites


def test_a_plugin_cannot_take_a_packaged_name_or_set_defaults(write) -> None:
    for text, problem in (
        ("models:\n  vit_b16: {use: vit}\n", "already at registry.yaml"),
        ("probes:\n  head: {use: head}\n", "already an entry of plugin head"),
        ("defaults: {model: mine}\n", "cannot set defaults"),
    ):
        with pytest.raises(RegistryError, match=problem):
            load(plugin_files=[("p", write(text))])
    registry = load(plugin_files=[("p", write("models:\n  vit_b16: {use: vit, override: true}\n"))])
    assert registry.presets["model"]["vit_b16"].layer == "p"


def test_every_preset_is_checked_and_a_failed_check_stops_its_layer(write) -> None:
    checked: list[str] = []

    def check(preset) -> None:
        checked.append(preset.name)
        if preset.name == "wrong":
            raise RegistryError("wrong parameters")

    load(write(PRESET), check=check)
    assert {"m", "vit_b16"} <= set(checked)
    with pytest.raises(RegistryError, match="wrong parameters"):
        load(write("models:\n  wrong: {use: vit}\n"), check=check)
    reported = []
    files = [("p", write("models:\n  fine: {use: vit}\n  wrong: {use: vit}\n"))]
    registry = load(plugin_files=files, check=check, on_plugin_error=lambda *args: reported.append(args))
    assert "fine" not in registry.presets["model"]
    assert len(reported) == 1
