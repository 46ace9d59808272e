"""``harness show``: what is printed of every kind of name, and names that are unclear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.types import KINDS


def show_all(harness, wanted):
    lines = [line for line in harness("list", "--json").json if wanted(line["kind"])]
    for line in lines:
        shown = harness("show", line["kind"], line["name"], "--json")
        assert shown.code == 0, shown.err
        assert shown.json["kind"] == line["kind"]
        assert shown.json["name"] == line["name"]
        text = harness("show", line["kind"], line["name"])
        assert text.code == 0
        assert text.out.startswith(f"{line['kind']} ")
    return len(lines)


def test_everything_that_is_listed_can_be_shown(harness):
    assert show_all(harness, lambda kind: kind != "model") > 90


@pytest.mark.slow
def test_every_model_that_is_listed_can_be_shown(harness):
    assert show_all(harness, lambda kind: kind == "model") > 140


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
        "harness_timm.builders:build_vit",
        found["source"],
        found["weights"]["identity"],
        "class_token",
        "harness fetch vit_b16",
        "architecture.tag",
    ):
        assert part in out


def test_the_network_of_a_model_is_counted(harness):
    found = harness("show", "model", "deit_t_distilled", "--json").json
    assert found["parameters"] == 5_910_800
    assert found["macs"] == pytest.approx(1.27e9, rel=0.02)
    assert (found["input"], found["patch_size"], found["blocks"]) == (224, 16, 12)
    assert found["tokens"] == {"prefix": ["cls", "dist"], "grid": [14, 14], "patches": 196}
    assert (found["heads"], found["num_classes"]) == (["average", "cls", "dist"], 1000)
    assert found["attention_blocks"] == "every block"
    assert (found["licence"], found["published_top1"]) == ("apache-2.0", 74.5)
    assert "attention" in found["capabilities"]
    out = harness("show", "deit_t_distilled").out
    for part in (
        "5,910,800 (5.9 M)",
        "cls, dist + 196 patches (14x14)",
        "74.5 % on ImageNet-1k",
        "apache-2.0",
        "224 px",
    ):
        assert part in out


def test_parameters_change_the_network_that_is_shown(harness):
    found = harness("show", "model", "vit_ti16:input=384,posemb_interp=bilinear_corner", "--json").json
    assert (found["input"], found["tokens"]["grid"]) == (384, [24, 24])
    assert found["published_top1"] is None
    given = {row["name"]: row["given"] for row in found["params"] if "given" in row}
    assert given == {"input": 384, "posemb_interp": "bilinear_corner"}
    out = harness("show", "vit_ti16:input=384").out
    (line,) = (line for line in out.splitlines() if line.startswith("input  ") and "integer" in line)
    assert "384" in line


def test_a_model_of_timm_is_shown_by_its_tag(harness):
    found = harness("show", "timm:resnet18.tv_in1k", "--json").json
    assert (found["name"], found["parameters"]) == ("timm:resnet18.tv_in1k", 11_689_512)
    assert found["weights"]["tag"] == "resnet18.tv_in1k"


def test_a_model_that_does_not_exist_is_an_error(harness):
    answer = harness("show", "timm:resnet81.tv_in1k")
    assert answer.code == 2
    assert "timm has no architecture 'resnet81'" in answer.err
    assert answer.out == ""


def test_a_model_without_published_weights_says_so(harness):
    assert harness("show", "patchconvnet_l60", "--json").json["weights"] is None
    assert "none were published; --weights PATH or --weights random" in harness("show", "patchconvnet_l60").out


def test_an_address_that_only_a_person_can_open_says_so(harness):
    weights = harness("show", "resnet50_augmix", "--json").json["weights"]
    assert weights["cached"] is None
    assert "does not name a file of weights" in weights["problem"]
    assert "--weights PATH" in harness("show", "resnet50_augmix").out


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
    assert [row["name"] for row in found["params"]] == ["place", "grid", "shots", "mode"]
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
    assert found["weights"] == {"tag": None, "identity": "embedded:own_weights:3", "cached": None, "sha256": None}
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
        (["patchdrop_random@0.5", "--no-sheet"], "harness show patchdrop_random"),
        (["retention@0.5"], "harness show retention"),
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


# --- contact sheets --------------------------------------------------------------------------------------------

HUES = """
@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    red: int = param(200, help="how red the images are", low=0, high=255)
    size: int = param(5, help="images of a split", low=1)

@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    root: str = param(help="the folder", locates=True)

@dataclass(frozen=True, slots=True, kw_only=True)
class Needy:
    root: str = param(help="the folder", locates=True)
    variant: str = param(help="which")

@hookimpl
def harness_register_datasets():
    yield DatasetEntry(name="hues", target="hues_code:Hues", summary="plain images", params=Params, aliases=("tints",))
    yield DatasetEntry(name="placed", target="hues_code:placed", summary="in a folder", params=Placed)
    yield DatasetEntry(name="needy", target="hues_code:placed", summary="of a variant", params=Needy)
    yield DatasetEntry(name="broken", target="hues_code:broken", summary="unreadable")
    yield DatasetEntry(name="costly", target="hues_code:broken", summary="needs an extra", extra="ray")
"""

HUES_CODE = """
import numpy as np
from harness.errors import DataError
from harness.protocols import DatasetInfo, SplitIndex
from harness.views import to_batch

class Hues:
    def __init__(self, *, red=200, size=5):
        self.red, self.size = red, size
        self.info = DatasetInfo(
            name="hues", classes=("ant", "bee"), label_space=None, splits=("train", "test"), query_split="test",
            whole_split="test", support_split="train", fingerprint="0" * 64,
        )

    def index(self, split):
        return SplitIndex(ids=[f"{split}/{i}" for i in range(self.size)], labels=np.arange(self.size) % 2)

    def load(self, split, positions, view):
        pixels = np.empty((len(positions), 3, view.crop, view.crop), np.uint8)
        pixels[:] = np.array([self.red, 40 * (1 + self.info.splits.index(split)), 7], np.uint8)[:, None, None]
        ids = [f"{split}/{i}" for i in positions]
        return to_batch(pixels, labels=self.index(split).labels[list(positions)], ids=ids, positions=positions)

def placed(*, root, variant=""):
    return Hues(red=len(root))

class Broken(Hues):
    def load(self, split, positions, view):
        raise DataError("photo.jpg: cannot be decoded")

def broken():
    return Broken()
"""


@pytest.fixture
def hues(install):
    install("hues", HUES, hues_code=HUES_CODE)


def tiles_shown(path, red, split=0):
    """How many tiles of 112 px the sheet at ``path`` shows of one split of ``hues``."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    return (pixels == np.array([red, 40 * (1 + split), 7], np.uint8)).all(axis=2).sum() / 112**2


def test_a_dataset_is_drawn_into_the_cache(harness, hues, tmp_path):
    answer = harness("show", "dataset", "hues")
    path = tmp_path / "cache" / "sheets" / "hues.png"
    assert answer.code == 0
    assert answer.err == ""
    assert answer.out.splitlines()[-1] == f"contact sheet: {path}"
    assert answer.out.startswith("dataset")
    assert tiles_shown(path, 200, split=0) == tiles_shown(path, 200, split=1) == 5
    assert [file.name for file in path.parent.iterdir()] == ["hues.png"]


def test_options_of_a_sheet(harness, hues, tmp_path):
    path = tmp_path / "mine.PNG"
    answer = harness("show", "hues", "--sheet", path, "--images", "2", "--view", "crop=56")
    assert answer.out.splitlines()[-1] == f"contact sheet: {path}"
    assert tiles_shown(path, 200) == 2
    assert not (tmp_path / "cache" / "sheets").exists()


def test_a_sheet_takes_the_place_of_an_older_one(harness, hues, tmp_path):
    path = tmp_path / "mine.png"
    for red in (10, 20):
        assert harness("show", f"hues:red={red}", "--sheet", path).code == 0
    assert tiles_shown(path, 10) == 0
    assert tiles_shown(path, 20) == 5


def test_parameters_are_those_of_the_sheet(harness, hues, tmp_path):
    plain, answer = harness("show", "hues", "--no-sheet"), harness("show", "tints:red=90,size=2")
    path = tmp_path / "cache" / "sheets" / "tints_red=90_size=2.png"
    assert answer.out == f"{plain.out}\ncontact sheet: {path}\n"
    assert tiles_shown(path, 90) == 2


def test_no_sheet_opens_nothing(harness, hues):
    answer = harness("show", "broken", "--no-sheet")
    assert answer.code == 0
    assert "contact sheet" not in answer.out


def test_json_has_a_sheet_only_where_its_file_is_named(harness, hues, tmp_path):
    described = harness("show", "hues", "--json").json
    assert "sheet" not in described
    assert not (tmp_path / "cache" / "sheets").exists()
    path = tmp_path / "mine.png"
    drawn = harness("show", "hues", "--json", "--sheet", path).json
    assert drawn == {**described, "sheet": str(path)}
    assert tiles_shown(path, 200) == 5


def test_a_place_is_given_as_to_run(harness, hues, tmp_path):
    for name, lacking in (
        ("placed", "give --data DIR"),
        ("needy", "give needy:variant=VALUE and --data DIR"),
        ("needy:variant=x", "give --data DIR"),
    ):
        answer = harness("show", name)
        assert answer.code == 0
        assert answer.out.splitlines()[-1] == f"contact sheet: {lacking}"
        assert not (tmp_path / "cache").exists()
    for arguments in (["placed", "--data", "abc"], ["needy:variant=x", "--data", "abc"], ["placed:root=abc"]):
        path = harness("show", *arguments).out.splitlines()[-1].removeprefix("contact sheet: ")
        assert tiles_shown(path, len("abc")) == 5


def test_a_preset_may_give_the_place(harness, hues, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("datasets:\n  mine: {use: placed, params: {root: abcd}}\n")
    assert harness("show", "mine", "--registry", overlay).code == 0
    assert tiles_shown(tmp_path / "cache" / "sheets" / "mine.png", len("abcd")) == 5


def test_an_extra_that_is_missing_is_no_reason_not_to_describe(harness, hues, monkeypatch):
    monkeypatch.setattr("harness.catalog.missing_packages", lambda extra: ("ray",) if extra == "ray" else ())
    answer = harness("show", "costly")
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == "contact sheet: pip install 'vit-harness[ray]' brings what it needs"


def test_a_broken_image_is_a_data_error_after_the_description(harness, hues, tmp_path):
    answer = harness("show", "broken")
    assert answer.code == 4
    assert "photo.jpg: cannot be decoded" in answer.err
    assert "unreadable" in answer.out
    assert "contact sheet" not in answer.out
    assert not (tmp_path / "cache" / "sheets" / "broken.png").exists()


def test_digits_have_a_sheet(harness, tmp_path):
    path = tmp_path / "digits.png"
    assert harness("show", "dataset", "digits", "--sheet", path, "--view", "crop=8").code == 0
    with Image.open(path) as sheet:
        assert sheet.width > 12 * 112


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vit_b16", "--sheet", "x.png"], "vit_b16 is a model; --sheet can be given for datasets and perturbations"),
        (["suite", "occlusion-quick", "--no-sheet"], "is a suite; --no-sheet"),
        (["plugin", "patchdrop", "--data", "x", "--images", "3"], "--data and --images"),
        (["hues", "--sheet", "x.jpg"], "let the file's name end in .png"),
        (["hues", "--sheet", "nowhere/x.png"], "there is no folder nowhere"),
        (["hues", "--sheet", "x.png", "--no-sheet"], "--sheet can have no effect beside --no-sheet"),
        (["hues", "--no-sheet", "--view", "ipvit"], "--view can have no effect beside --no-sheet"),
        (["hues", "--json", "--images", "3"], "name it with --sheet FILE"),
        (["hues", "--view", "model"], "a contact sheet has no model"),
        (["hues", "--view", "crop"], "cannot read 'crop'"),
        (["hues", "--images", "0"], "1<=x<=100"),
        (["hues", "--images", "101"], "1<=x<=100"),
        (["hues", "--data", "x"], "dataset hues takes no --data"),
        (["hues", "--image", "x.png", "--seed", "3"], "hues is a dataset; --image and --seed can be given for perturb"),
        (["hues:blue=3"], "unknown parameter 'blue'"),
        (["hues:red=300"], "red"),
        (["hues@0.5"], "harness show hues"),
        (["hues:red=3", "--json"], "they are for a contact sheet, and none is drawn"),
        (["hues:red=3", "--no-sheet"], "they are for a contact sheet, and none is drawn"),
        (["placed", "--sheet", "x.png"], "give --data DIR"),
        (["placed:root=x", "--data", "x"], "given twice"),
    ],
)
def test_mistakes_about_sheets_are_usage_errors_with_a_way_on(harness, hues, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    answer = harness("show", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert answer.out == ""
    assert not list(tmp_path.rglob("*.png"))


def test_a_file_that_cannot_be_written_is_a_usage_error(harness, hues, tmp_path, monkeypatch):
    def refused(self, path, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image.Image, "save", refused)
    answer = harness("show", "hues", "--sheet", tmp_path / "x.png")
    assert answer.code == 2
    assert f"cannot write {tmp_path / 'x.png'}: Permission denied" in answer.err
    assert not list(tmp_path.glob("*x.png*"))


def test_the_help_says_what_is_done_if_nothing_is_said(harness):
    from harness.report.dataset_sheets import DEFAULT_IMAGES, DEFAULT_VIEW

    words = " ".join(harness("show", "--help").out.split())
    assert f"{DEFAULT_VIEW.text} if not given" in words
    assert f"{DEFAULT_IMAGES} if not given" in words
