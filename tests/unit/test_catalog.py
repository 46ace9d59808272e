"""The catalog: names to entries, parameters and facts, and what is said of names that are not there."""

from __future__ import annotations

import functools
import importlib
import json
import math
import subprocess
import sys
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from harness.catalog import Catalog, build_catalog
from harness.components import perturbation_component
from harness.discovery import FoundPlugin
from harness.entries import DatasetEntry, ModelEntry, PerturbationEntry, ProbeEntry
from harness.errors import MissingDependencyError, ParameterError, PluginError, RegistryError, WeightsError
from harness.grammar import parse_selector
from harness.hookspecs import hookimpl
from harness.manager import build_manager
from harness.params import coerce, param
from harness.targets import EXTRAS
from harness.types import KINDS, Capability, LevelSpec, View

ROOT = Path(__file__).parents[2]
LEVEL = LevelSpec(name="ratio", values=(0.0, 0.25, 0.5), low=0.0, high=1.0, unit="of cells", identity=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetParams:
    arch: str = param(help="name and tag")
    width: int = param(8, help="channels", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropParams:
    grid: tuple[int, int] = param((14, 14), help="cells", low=1)
    near: float = param(1.0, help="distance")
    far: float = param(2.0, help="distance")

    def __post_init__(self) -> None:
        if self.near > self.far:
            raise ValueError(f"near={self.near} lies beyond far={self.far}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderParams:
    root: str = param(help="the folder", locates=True)
    split: str = param("test", help="which part")


class Plugin:
    @hookimpl
    def harness_register_models(self):
        return [
            ModelEntry(
                name="net",
                target="harness.clean:Clean",
                summary="a family of nets",
                aliases=("network",),
                params=NetParams,
                tag_param="arch",
                view=View(resize=256, crop=224),
                label_space="imagenet1k",
                capabilities=frozenset({Capability.LOGITS, Capability.POOLED}),
            )
        ]

    @hookimpl
    def harness_register_perturbations(self):
        yield PerturbationEntry(
            name="drop", target="a.b:C", summary="drop cells", params=DropParams, level=LEVEL, stochastic=True
        )
        yield PerturbationEntry(name="attack", target="a.b:C", summary="attack", extra="attacks", needs_target=True)

    @hookimpl
    def harness_register_probes(self):
        return [ProbeEntry(name="reader", target="harness.clean:Clean", summary="reads", aliases=("top_one",))]

    @hookimpl
    def harness_register_datasets(self):
        return [
            DatasetEntry(name="tree", target="a.b:C", summary="a folder", params=FolderParams, label_space="leaves")
        ]


PRESETS = """
models:
  net_a: {use: net, params: {arch: net.a}, aliases: [aa], summary: the first}
  net_b: {use: "mine:network", params: {arch: net.b}, view: ipvit, label_space: other}
  net_bare: {use: net, params: {arch: net.c}, capabilities: [pooled]}
  net_open: {use: net, params: {width: 16}}
  net_gone: {use: nett, params: {arch: x}}
  net_loop: {use: net_a}
perturbations:
  drop_7: {use: drop, params: {grid: 7x7}}
  drop_far: {use: drop, params: {near: 3}}
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    path = tmp_path / "mine.yaml"
    path.write_text(PRESETS)
    manager = build_manager(discover=False, extra=[("mine", Plugin())], strict=True)
    return build_catalog(manager, registry_files=[path])


# --- resolving ---------------------------------------------------------------------------------------------------


def test_a_preset_resolves_to_its_entry_with_all_parameters(catalog: Catalog) -> None:
    resolved = catalog.resolve("model", "net_a")
    assert (resolved.name, resolved.entry.name, resolved.plugin) == ("net_a", "net", "mine")
    assert resolved.arguments == {"arch": "net.a", "width": 8}
    assert resolved.params == NetParams(arch="net.a")
    assert resolved.ref.params == {"arch": "net.a", "width": 8}
    assert resolved.ref.identity == {"arch": "net.a"}
    assert (resolved.ref.name, resolved.ref.use, resolved.ref.version) == ("net_a", "net", 1)
    assert resolved.tag == "net.a"
    assert resolved.levels is None


def test_aliases_entries_and_presets_of_one_meaning_share_a_fingerprint(catalog: Catalog) -> None:
    texts = ("net_a", "aa", "mine:net_a", "user:net_a", "net:arch=net.a", "network:arch=net.a,width=8", "net_a:width=8")
    resolved = [catalog.resolve("model", text) for text in texts]
    assert len({one.ref.fingerprint for one in resolved}) == 1
    assert [one.ref.name for one in resolved] == ["net_a"] * 4 + ["net"] * 2 + ["net_a"]
    assert catalog.resolve("model", "net_a:width=9").ref.fingerprint != resolved[0].ref.fingerprint


def test_what_is_typed_goes_before_the_preset_and_overrides_before_both(catalog: Catalog) -> None:
    assert catalog.resolve("perturbation", "drop_7").arguments["grid"] == (7, 7)
    assert catalog.resolve("perturbation", "drop_7:grid=4x8").arguments["grid"] == (4, 8)
    resolved = catalog.resolve("perturbation", "drop_7:grid=4x8", overrides={"grid": (2, 3)})
    assert resolved.arguments["grid"] == (2, 3)
    assert resolved.ref.params["grid"] == [2, 3]


def test_where_data_lie_does_not_enter_the_identity(catalog: Catalog) -> None:
    one, two = (catalog.resolve("dataset", "tree", overrides={"root": root}) for root in ("/a", "/b"))
    assert one.arguments != two.arguments
    assert one.ref.fingerprint == two.ref.fingerprint
    assert one.label_space == "leaves"


def test_a_model_preset_refines_the_facts_of_its_entry(catalog: Catalog) -> None:
    facts = {name: catalog.resolve("model", name) for name in ("net_a", "net_b", "net_bare")}
    assert facts["net_a"].view == View(resize=256, crop=224)
    assert facts["net_a"].label_space == "imagenet1k"
    assert facts["net_b"].view == View.parse("ipvit")
    assert facts["net_b"].label_space == "other"
    assert facts["net_b"].capabilities == {Capability.LOGITS, Capability.POOLED}
    assert facts["net_bare"].capabilities == {Capability.POOLED}
    assert facts["net_bare"].label_space is None, "no logits, no labels of its own"


@pytest.mark.parametrize(
    ("text", "levels"),
    [("drop", None), ("drop@all", (0.0, 0.25, 0.5)), ("drop@0.1,1", (0.1, 1.0)), ("drop_7@0", (0.0,)), ("none", None)],
)
def test_levels_are_those_asked_for(catalog: Catalog, text: str, levels: tuple[float, ...] | None) -> None:
    assert catalog.resolve("perturbation", text).levels == levels


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("perturbation", "drop@1.5", "perturbation drop: ratio must lie in [0, 1], not 1.5"),
        ("perturbation", "none@1", "perturbation none has no levels\n  hint: leave out @1"),
        ("perturbation", "none@all", "perturbation none has no levels"),
        ("model", "net_a@1", "model net_a has no levels"),
        ("perturbation", "drop:grid=0", "perturbation drop: grid must lie in [1, inf], not 0"),
        ("perturbation", "drop:grdi=7", "perturbation drop: unknown parameter 'grdi'\n  hint: did you mean grid?"),
        ("perturbation", "drop:near=5", "perturbation drop: near=5.0 lies beyond far=2.0"),
        ("model", "net", "model net: parameter 'arch' is required"),
        ("model", "net_a:width=wide", "model net_a ("),
        ("perturbation", "drop_far", "mine.yaml:11): near=3.0 lies beyond far=2.0"),
        ("probe", "reader:k=1", "probe reader: unknown parameter 'k'"),
    ],
)
def test_parameters_and_levels_that_are_wrong_are_refused(catalog: Catalog, kind: str, text: str, problem: str) -> None:
    with pytest.raises(ParameterError) as caught:
        catalog.resolve(kind, text)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("models:\n  m:\n    use: net\n    params:\n      arch: 3\n", ":5: models.m.params.arch must be text, not 3"),
        (
            "models:\n  m:\n    use: net\n    params: {with: 3}\n",
            ":4: models.m.params.with: net has no parameter 'with'",
        ),
        (
            "models:\n  m:\n    use: network\n    params: {width: 0}\n",
            ":4: models.m.params.width must lie in [1, inf], not 0",
        ),
        ("probes:\n  m: {use: reader, params: {k: 1}}\n", ":2: probes.m.params.k: reader has no parameter 'k'"),
        ("models:\n  net: {use: net}\n", ":2: models.net: model 'net' is already an entry of plugin mine"),
        ("models:\n  m: {use: net, aliases: [network]}\n", ":2: models.m: alias 'network' is already an entry"),
    ],
)
def test_presets_of_the_user_are_held_against_the_entries_at_once(tmp_path: Path, yaml: str, problem: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml)
    with pytest.raises(RegistryError) as caught:
        build_catalog(build_manager(discover=False, extra=[("mine", Plugin())]), registry_files=[path])
    assert caught.value.message.startswith(f"{path}{problem}")


def test_a_preset_may_replace_an_entry_and_takes_its_aliases(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("models:\n  net: {use: net, params: {arch: net.z}, override: true}\n")
    catalog = build_catalog(build_manager(discover=False, extra=[("mine", Plugin())]), registry_files=[path])
    assert [catalog.resolve("model", text).tag for text in ("net", "network", "mine:net")] == ["net.z"] * 3
    assert catalog.names("model").count("net") == 1


# --- names that are not there ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "hint"),
    [
        ("model", "net_aa", "did you mean net_a"),
        ("probe", "top_on", "did you mean top_one"),
        ("probe", "drop", "'drop' is a perturbation"),
        ("model", "qqqq", "harness list models"),
        ("model", "other:net", "it comes from plugin mine"),
    ],
)
def test_an_unknown_name_is_told_with_what_may_be_meant(catalog: Catalog, kind: str, text: str, hint: str) -> None:
    with pytest.raises(RegistryError, match=f"no {kind} named '{text}'") as caught:
        catalog.resolve(kind, text)
    assert hint in str(caught.value.hint)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("net_gone", "mine.yaml:7: models.net_gone.use: no model named 'nett'"),
        ("net_loop", "mine.yaml:8: models.net_loop.use: 'net_a' is a preset"),
    ],
)
def test_a_preset_without_its_entry_is_listed_and_tells_its_place(catalog: Catalog, name: str, problem: str) -> None:
    (row,) = [row for row in catalog.rows("model") if row.name == name]
    assert row.problem is not None
    with pytest.raises(RegistryError) as caught:
        catalog.resolve("model", name)
    assert problem in caught.value.message


def test_installing_a_plugin_changes_no_packaged_preset_and_no_other_name() -> None:
    class Intruder:
        @hookimpl
        def harness_register_perturbations(self):
            for name in ("patchdrop_random", "patchdrop_random_7x7"):
                yield PerturbationEntry(name=name, target="a.b:C", summary="s")

    core, _ = packaged_manager()
    manager, _ = packaged_manager(("intruder", Intruder()))
    catalog = build_catalog(manager)
    for name in ("patchdrop_random", "patchdrop_random_7x7"):
        with pytest.raises(PluginError, match="ambiguous"):
            catalog.resolve("perturbation", name)
        assert catalog.resolve("perturbation", f"intruder:{name}").entry.target == "a.b:C"
    assert catalog.resolve("perturbation", "packaged:patchdrop_random_7x7").arguments["grid"] == (7, 7)
    assert catalog.resolve("perturbation", "patchdrop:patchdrop_random").arguments["grid"] == (14, 14)
    sevens = [build_catalog(one).resolve("perturbation", "packaged:patchdrop_random_7x7") for one in (core, manager)]
    assert sevens[0].entry == sevens[1].entry


@pytest.mark.parametrize("name", ["none", "clean"])
def test_the_clean_pass_cannot_be_taken_or_replaced(tmp_path: Path, name: str) -> None:
    class Intruder:
        @hookimpl
        def harness_register_perturbations(self):
            yield PerturbationEntry(name=name, target="a.b:C", summary="s")

    manager = build_manager(discover=False, extra=[("intruder", Intruder())])
    assert f"'{name}' belongs to the harness itself" in manager.failures[0].describe()
    assert build_catalog(manager).resolve("perturbation", name).entry.target == "harness.clean:Clean"
    path = tmp_path / "mine.yaml"
    path.write_text(f"perturbations:\n  {name}: {{use: none, override: true}}\n")
    with pytest.raises(RegistryError, match="cannot be replaced"):
        build_catalog(manager, registry_files=[path])


# --- lists -------------------------------------------------------------------------------------------------------


def test_rows_say_what_each_name_still_needs(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "attacks", ("absent_package",))
    rows = {row.name: row for kind in KINDS for row in catalog.rows(kind)}
    assert rows["net"].requires == ("arch",)
    assert rows["net_a"].requires == ()
    assert rows["net_open"].requires == ("arch",)
    assert (rows["net_a"].summary, rows["net_b"].summary) == ("the first", "a family of nets")
    assert (rows["net_a"].plugin, rows["net_a"].use, rows["net_b"].use) == ("mine", "net", "net")
    assert str(rows["net_a"].source).endswith("mine.yaml:3")
    assert rows["attack"].extra_missing == "attacks"
    assert rows["drop"].extra_missing is None
    assert catalog.names("perturbation") == sorted(catalog.names("perturbation"))


def test_globs_expand_to_names_that_can_be_used(catalog: Catalog) -> None:
    def expand(*texts: str) -> list[tuple[str, bool]]:
        return [(one.text, one.from_glob) for one in catalog.expand("model", texts)]

    assert expand("net_*") == [("net_a", True), ("net_b", True), ("net_bare", True)]
    assert expand("net_b", "net_[ab]", "net_b") == [("net_b", False), ("net_a", True)]
    assert expand("net*:arch=x")[0] == ("net:arch=x", True)
    assert [one.text for one in catalog.expand("perturbation", ["drop*@all"])] == [
        "drop@all",
        "drop_7@all",
        "drop_far@all",
    ]
    with pytest.raises(RegistryError, match=r"no model matches 'q\*'"):
        expand("q*")


def test_suites_and_defaults(catalog: Catalog) -> None:
    assert catalog.suite("occlusion-quick") is catalog.suites["occlusion-quick"]
    assert catalog.defaults.dataset == "shapes_novel"
    with pytest.raises(RegistryError, match="no suite named 'oclusion-quick'") as caught:
        catalog.suite("oclusion-quick")
    assert "did you mean occlusion-quick" in str(caught.value.hint)


def test_a_description_is_plain_json_and_complete(catalog: Catalog) -> None:
    shown = catalog.describe("model", "aa")
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert (shown["name"], shown["use"], shown["plugin"], shown["target"]) == (
        "net_a",
        "net",
        "mine",
        "harness.clean:Clean",
    )
    assert shown["facts"] == {
        "view": "resize=256,crop=224,interpolation=bilinear",
        "capabilities": ["logits", "pooled"],
        "label_space": "imagenet1k",
        "tag_param": "arch",
        "url_param": None,
        "sha256_param": None,
        "names_tags": False,
        "facts_vary": False,
        "timm_weights": False,
        "embedded_sha256": None,
        "learned": True,
    }
    arch, width = shown["params"]
    assert (arch["name"], arch["required"], arch["preset"]) == ("arch", True, "net.a")
    assert (width["default"], width["range"], "preset" in width) == (8, "1 <= width", False)
    shown = catalog.describe("perturbation", "drop")
    assert shown["levels"]["values"] == [0.0, 0.25, 0.5]
    assert shown["source"] is None


# --- building ----------------------------------------------------------------------------------------------------


def test_a_component_is_built_with_its_typed_parameters(catalog: Catalog, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_component.py").write_text(
        "class Drop:\n  def __init__(self, *, grid, near, far): self.grid = grid\n"
    )
    entry = PerturbationEntry(name="made", target="a_component:Drop", summary="s", params=DropParams)

    class Made:
        @hookimpl
        def harness_register_perturbations(self):
            return [entry]

    built = build_catalog(build_manager(discover=False, extra=[Made()]))
    component = built.instantiate(built.resolve("perturbation", "made:grid=3x4"))
    assert component.grid == (3, 4)
    assert built.load_target(entry) is type(component)
    del sys.modules["a_component"]


def test_a_model_is_not_built_without_weights(catalog: Catalog) -> None:
    with pytest.raises(TypeError, match="weights"):
        catalog.instantiate(catalog.resolve("model", "net_a"))


def test_a_component_of_a_missing_extra_says_what_to_install(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "attacks", ("absent_package",))
    with pytest.raises(MissingDependencyError, match="perturbation attack needs absent_package"):
        catalog.instantiate(catalog.resolve("perturbation", "attack"))


# --- the packaged registry ---------------------------------------------------------------------------------------


def packaged_manager(*extra: tuple[str, object]):
    """The plugins of the project file, whether or not the project is installed."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["harness.plugins"]
    if str(ROOT / "plugins") not in sys.path:
        sys.path.append(str(ROOT / "plugins"))
    manager = build_manager(discover=False, strict=True)
    for name, module in points.items():
        load = functools.partial(importlib.import_module, module)
        manager.add(FoundPlugin(name=name, load=load, distribution="vit-harness", core=True))
    for name, plugin in extra:
        manager.add(FoundPlugin(name=name, load=lambda plugin=plugin: plugin, distribution="other-dist"))
    return manager, points


def packaged_catalog() -> Catalog:
    return build_catalog(packaged_manager()[0])


MODELS = (
    *("vit_ti16", "vit_s16", "vit_b16", "vit_b32", "vit_l16", "dino_s16"),
    *("deit_t", "deit_s", "deit_b", "deit_t_distilled", "deit_s_distilled", "deit_b_distilled"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
)


def test_every_packaged_preset_resolves_against_the_real_entries() -> None:
    catalog = packaged_catalog()
    rows = [row for kind in KINDS for row in catalog.rows(kind) if row.source is not None]
    assert {row.name for row in rows if row.kind == "model"} >= set(MODELS)
    for row in rows:
        assert row.problem is None
        resolved = catalog.resolve(row.kind, row.name)
        assert resolved.params == coerce(resolved.entry.params, resolved.preset.params, "again")
    assert [catalog.resolve("probe", name).name for name in ("head", "top1", "fewshot")] == ["head", "head", "fewshot"]


def test_packaged_suites_and_defaults_resolve() -> None:
    catalog = packaged_catalog()
    axes = {"models": "model", "datasets": "dataset", "perturbations": "perturbation", "probes": "probe"}
    for suite in catalog.suites.values():
        for axis, kind in (*axes.items(), ("support_perturbations", "perturbation")):
            for item in catalog.expand(kind, getattr(suite, axis)):
                # Where the images of a folder lie is for the command to say.
                placed = kind == "dataset" and catalog.takes(kind, parse_selector(item.text), "root")
                catalog.resolve(kind, item.text, overrides={"root": "DIR"} if placed else {})
    for kind in axes.values():
        catalog.resolve(kind, getattr(catalog.defaults, kind))


def test_missing_weights_of_a_saliency_model_name_the_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(tag: str) -> None:
        raise WeightsError(f"pretrained weights {tag}: the hub cannot be reached", hint="--weights random")

    monkeypatch.setattr("harness.hub.require_reachable", unreachable)
    component = perturbation_component(packaged_catalog(), "patchdrop_salient:saliency=dino_s16")
    with pytest.raises(WeightsError, match="patchdrop_salient: saliency=dino_s16: pretrained weights") as caught:
        component.injected["saliency"].require_weights()
    assert "harness fetch dino_s16" in str(caught.value.hint)
    assert "--weights random" not in str(caught.value.hint)


def test_the_studies_of_the_paper_are_suites_of_every_drop_of_the_family() -> None:
    catalog = packaged_catalog()
    family = {row.name for row in catalog.rows("perturbation") if row.plugin == "patchdrop"}
    strict = {text.partition("@")[0].partition(":")[0] for text in catalog.suite("ipvit-occlusion").perturbations}
    assert strict - {"none"} <= family
    assert {name for name in family if not name.startswith("scandrop")} <= strict | {"patchdrop_random_7x7"}
    compat = " ".join(
        text
        for name in ("ipvit-occlusion-compat", "ipvit-lesion-compat", "ipvit-lesion-resnet-compat")
        for text in catalog.suite(name).perturbations
    )
    for quirk in ("mask_scope=batch", "border=visible", "head=1", "saliency_norm=classifier", "background_axis=kept",
                  "identity=allowed", "count=tokens", "draw=bernoulli"):  # fmt: skip
        assert quirk in compat
    assert catalog.suite("ipvit-occlusion-compat").seeds == (0, 1, 2, 3, 4)
    assert catalog.suite("ipvit-occlusion-compat").view == "ipvit"


@pytest.mark.slow
def test_packaged_views_and_tags_are_those_of_timm() -> None:
    import timm
    from timm.models import get_pretrained_cfg

    catalog = packaged_catalog()
    known = set(timm.list_pretrained())
    for name in MODELS:
        resolved = catalog.resolve("model", name)
        assert resolved.tag in known
        config = get_pretrained_cfg(resolved.tag)
        size = config.input_size[-1]
        expected = View(crop=size, resize=math.floor(size / config.crop_pct), interpolation=config.interpolation)
        assert (resolved.view, config.crop_mode) == (expected, "center"), name
        headless = Capability.LOGITS not in resolved.capabilities
        expected_head = (0, None) if headless else (1000, "imagenet1k")
        assert (config.num_classes, resolved.label_space) == expected_head, name


def test_the_list_path_imports_nothing_heavy(tmp_path: Path) -> None:
    """300 further presets are listed and resolved in a fresh process without torch, timm, numpy or rich."""
    overlay = tmp_path / "many.yaml"
    overlay.write_text("models:\n" + "".join(f"  m{n}: {{use: vit, params: {{arch: a.t{n}}}}}\n" for n in range(300)))
    code = f"""
import importlib, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "plugins")!r}]
from pathlib import Path
from harness.catalog import build_catalog
from harness.manager import build_manager
points = {packaged_manager()[1]!r}
plugins = [(name, importlib.import_module(module)) for name, module in points.items()]
manager = build_manager(discover=False, extra=plugins, strict=True)
catalog = build_catalog(manager, registry_files=[Path({str(overlay)!r})])
rows = [row for kind in ("model", "perturbation", "probe", "dataset", "summary") for row in catalog.rows(kind)]
assert len(rows) > 300, len(rows)
assert catalog.resolve("model", "m299").tag == "a.t299"
catalog.describe("model", "m0")
heavy = ["torch", "torchvision", "timm", "numpy", "rich", "sklearn", "scipy", "PIL", "faiss", "pyarrow", "matplotlib"]
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_every_parameter_of_an_entry_reaches_its_keyword_arguments(catalog: Catalog) -> None:
    resolved = catalog.resolve("perturbation", "drop")
    assert list(resolved.arguments) == [f.name for f in fields(DropParams)]
