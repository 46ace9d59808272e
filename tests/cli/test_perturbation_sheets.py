"""``harness show`` of a perturbation: whose images its sheet shows, under which view, and what it is prepared with."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

TINTS = """
@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    blue: int = param(0, help="how blue the tint is", low=0, high=255)

@dataclass(frozen=True, slots=True, kw_only=True)
class Guided:
    guide: str = param("pocket", help="a model")
    other: str = param("mask", help="a model, or mask")

@dataclass(frozen=True, slots=True, kw_only=True)
class Needy:
    place: str = param(help="where it lies", locates=True)

@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    root: str = param(help="the folder", locates=True)

LEVEL = LevelSpec(name="share", values=(0.2, 0.4, 0.6), low=0.0, high=1.0)

@hookimpl
def harness_register_perturbations():
    yield PerturbationEntry(name="tint", target="tints_code:Tint", summary="s", params=Params, level=LEVEL,
                            stochastic=True)
    yield PerturbationEntry(name="flat", target="tints_code:Flat", summary="s")
    yield PerturbationEntry(name="guided", target="tints_code:Guided", summary="s", params=Guided,
                            model_params=("guide", "other"), model_words=("mask",))
    yield PerturbationEntry(name="relative", target="tints_code:Relative", summary="s")
    yield PerturbationEntry(name="attack", target="tints_code:Attack", summary="s", needs_target=True)
    yield PerturbationEntry(name="at_probe", target="tints_code:Attack", summary="s", needs_target=True,
                            target_param="aim", params=Aim)
    yield PerturbationEntry(name="inner", target="tints_code:Tint", summary="s", stage="feature", level=LEVEL)
    yield PerturbationEntry(name="needy", target="tints_code:Tint", summary="s", params=Needy)
    yield PerturbationEntry(name="costly", target="tints_code:Tint", summary="s", extra="ray")

@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    aim: str = param("probe", help="head or probe")

@hookimpl
def harness_register_models():
    for name, side in (("pocket", 24), ("desk", 48)):
        yield ModelEntry(name=name, target=f"tints_code:{name}", summary="s", label_space="tints",
                         capabilities=frozenset({Capability.LOGITS, Capability.GRADIENTS}), view=View(crop=side))
    yield ModelEntry(name="nameless", target="tints_code:nameless", summary="s", view=View(crop=48),
                     capabilities=frozenset({Capability.LOGITS, Capability.GRADIENTS}))
    yield ModelEntry(name="headless", target="tints_code:desk", summary="s", capabilities=frozenset(),
                     view=View(crop=48))

@hookimpl
def harness_register_datasets():
    yield DatasetEntry(name="plain", target="tints_code:Plain", summary="s", label_space="tints")
    yield DatasetEntry(name="strange", target="tints_code:strange", summary="s", label_space="other")
    yield DatasetEntry(name="placed", target="tints_code:placed", summary="s", params=Placed, label_space="tints")
"""

TINTS_CODE = """
import numpy as np
import torch
from harness.errors import CapabilityError
from harness.protocols import DatasetInfo, PerturbationInfo, SplitIndex
from harness.types import Capability, LevelSpec, ModelInfo, ModelOutputs, View, WeightsInfo
from harness.views import to_batch

CONTEXTS, BATCHES = [], []

class Flat:
    name, level = "flat", None

    @property
    def info(self):
        return PerturbationInfo(name=self.name, level=self.level)

    def prepare(self, context):
        CONTEXTS.append(context)

    def begin(self, batch):
        BATCHES.append(batch)

    def apply(self, batch, state, level):
        return batch.with_images(painted(batch, (9, 9, 9)))

def painted(batch, colour):
    paint = torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1) / 255
    return paint.expand(batch.images.shape).clone()

class Tint(Flat):
    name = "tint"
    level = LevelSpec(name="share", values=(0.2, 0.4, 0.6), low=0.0, high=1.0)

    def __init__(self, *, blue=0):
        self.blue = blue

    def apply(self, batch, state, level):
        return batch.with_images(painted(batch, (round(250 * level), CONTEXTS[-1].seed, self.blue)))

class Guided(Flat):
    def __init__(self, *, guide="pocket", other="mask"):
        pass

class Relative(Flat):
    def begin(self, batch):
        super().begin(batch)
        if CONTEXTS[-1].evaluated is None:
            raise CapabilityError("there is no model here", hint="give a number")

class Attack(Flat):
    def __init__(self, *, aim="head"):
        pass

    def apply(self, batch, state, level):
        images = batch.images.clone().requires_grad_()
        scores = CONTEXTS[-1].target(images)
        scores.gather(1, batch.labels[:, None]).sum().backward()
        return batch.with_images((images + images.grad.sign()).clamp(0, 1))

class Model:
    \"\"\"Scores are the mean red, green and blue.\"\"\"

    def __init__(self, name, side, weights, label_space="tints"):
        given = WeightsInfo(identity=weights.origin, origin=weights.origin)
        self.info = ModelInfo(
            name=name, family="f", weights=given, view=View(crop=side), mean=(0, 0, 0), std=(1, 1, 1),
            label_space=label_space, num_classes=3, num_blocks=1, embed_dim=3, heads=("head",),
            capabilities=frozenset({Capability.LOGITS, Capability.GRADIENTS}),
        )

    def outputs(self, images, want):
        return ModelOutputs(logits={"head": images.mean(dim=(2, 3))})

    def to(self, device):
        return self

def pocket(*, weights):
    return Model("pocket", 24, weights)

def desk(*, weights):
    return Model("desk", 48, weights)

def nameless(*, weights):
    return Model("nameless", 48, weights, label_space=None)

class Plain:
    \"\"\"Image i of a split is of one colour, (100 + i, its split, 5), and of class i % 3.\"\"\"

    def __init__(self, label_space="tints"):
        self.info = DatasetInfo(
            name="plain", classes=("red", "green", "blue"), label_space=label_space, splits=("train", "test"),
            query_split="test", whole_split="test", support_split="train", fingerprint="f" * 64,
        )

    def index(self, split):
        return SplitIndex(ids=[f"{split}/{i}" for i in range(70)], labels=np.arange(70) % 3)

    def load(self, split, positions, view):
        places = np.array(positions)
        pixels = np.empty((len(places), 3, view.crop, view.crop), np.uint8)
        pixels[:, 0] = 100 + places[:, None, None]
        pixels[:, 1], pixels[:, 2] = self.info.splits.index(split), 5
        ids = [f"{split}/{i}" for i in places]
        return to_batch(pixels, labels=places % 3, ids=ids, positions=places)

def strange():
    return Plain("other")

def placed(*, root):
    return Plain()
"""


@pytest.fixture
def tints(install):
    """The plugin; called, it gives the module of its doubles with what they wrote down."""
    install("tints", TINTS, tints_code=TINTS_CODE)
    return lambda: sys.modules["tints_code"]


@pytest.fixture
def photo(tmp_path):
    """A file of 300 x 240 pixels of one colour."""

    def make(name="photo.png", colour=(60, 70, 80)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 240), colour).save(path)
        return path

    return make


def pixels_of(path, colour) -> int:
    """How many pixels of the picture at ``path`` have that very colour."""
    with Image.open(path) as sheet:
        return int((np.asarray(sheet) == np.array(colour, np.uint8)).all(axis=2).sum())


def sheet_of(answer):
    assert answer.code == 0, answer.err
    return answer.out.splitlines()[-1].removeprefix("contact sheet: ")


# --- whose images ----------------------------------------------------------------------------------------------


def test_without_images_it_is_said_how_to_draw_and_nothing_is_drawn(harness, tints, tmp_path):
    for name in ("tint", "tint@0.5", "tint:blue=7@all"):
        answer = harness("show", name)
        assert answer.code == 0
        assert answer.out.splitlines()[-1] == "contact sheet: give --image FILE, or --dataset NAME --index N"
    assert not (tmp_path / "cache").exists()
    assert harness("show", "tint", "--no-sheet").out == harness("show", "tint").out.rpartition("\ncontact")[0]


def test_an_image_file_is_shown_clean_and_at_every_level_of_the_sweep(harness, tints, photo, tmp_path):
    path = sheet_of(harness("show", "perturbation", "tint", "--image", photo()))
    assert path == str(tmp_path / "cache" / "sheets" / "tint_photo.png")
    for colour in ((60, 70, 80), (50, 0, 0), (100, 0, 0), (150, 0, 0)):
        assert pixels_of(path, colour) == 224**2


def test_several_files_have_a_row_each(harness, tints, photo, tmp_path):
    files = [photo(f"{i}.png", (60 + i, 70, 80)) for i in range(3)]
    path = sheet_of(harness("show", "tint@0.2", *(part for file in files for part in ("--image", file))))
    assert [pixels_of(path, (60 + i, 70, 80)) for i in range(3)] == [224**2] * 3
    assert pixels_of(path, (50, 0, 0)) == 3 * 224**2
    assert tints().CONTEXTS[-1].num_images == 3


def test_a_file_is_known_by_its_content(harness, tints, photo):
    """Same pixels, same mask, wherever the file lies; two files of one name are two images."""
    files = [photo("a/x.png"), photo("b/x.png", (1, 2, 3)), photo("c/y.png")]
    sheet_of(harness("show", "tint", *(part for file in files for part in ("--image", file))))
    (first,), (second,), (third,) = (batch.ids for batch in tints().BATCHES)
    assert first == third != second


def test_images_of_a_dataset_are_shown_by_their_place_in_the_query_split(harness, tints, tmp_path):
    path = sheet_of(harness("show", "tint", "--dataset", "plain", "--index", "3,7,3"))
    assert path == str(tmp_path / "cache" / "sheets" / "tint_plain_3_7_3.png")
    assert [pixels_of(path, (100 + i, 1, 5)) for i in (3, 5, 7)] == [224**2, 0, 224**2]
    context = tints().CONTEXTS[-1]
    assert (context.dataset_fingerprint, context.num_classes, context.num_images) == ("f" * 64, 3, 70)
    assert [batch.ids for batch in tints().BATCHES] == [("test/3",), ("test/7",)]
    # What a universal attack is trained on: the support split, each call anew.
    for _ in range(2):
        assert [name for batch in context.support() for name in batch.ids] == [f"train/{i}" for i in range(70)]


def test_another_split_may_be_asked_for_and_the_first_image_is_the_default(harness, tints):
    path = sheet_of(harness("show", "tint", "-d", "plain", "--split", "train"))
    assert pixels_of(path, (100, 0, 5)) == 224**2


def test_a_place_of_the_dataset_is_given_as_to_run(harness, tints):
    assert pixels_of(sheet_of(harness("show", "tint", "-d", "placed", "--data", "x")), (100, 1, 5)) == 224**2
    lacking = harness("show", "tint", "-d", "placed")
    assert lacking.code == 2
    assert "--data DIR sets it" in lacking.err or "'root' is required" in lacking.err


# --- parameters, levels, seed and view -------------------------------------------------------------------------


def test_parameters_levels_and_seed_are_those_of_the_sheet(harness, tints, photo, tmp_path):
    path = tmp_path / "mine.png"
    answer = harness("show", "tint:blue=9@0.4,1", "--image", photo(), "--seed", "3", "--sheet", path)
    assert sheet_of(answer) == str(path)
    assert pixels_of(path, (100, 3, 9)) == pixels_of(path, (250, 3, 9)) == 224**2
    assert pixels_of(path, (50, 3, 9)) == 0
    assert not (tmp_path / "cache" / "sheets").exists()


def test_without_levels_the_clean_and_the_perturbed_image_are_shown(harness, tints, photo):
    path = sheet_of(harness("show", "flat", "--image", photo()))
    assert pixels_of(path, (60, 70, 80)) == pixels_of(path, (9, 9, 9)) == 224**2


@pytest.mark.parametrize(
    ("arguments", "side"),
    [
        (["tint"], 224),
        (["tint", "--view", "crop=40"], 40),
        (["tint", "--model", "desk"], 48),
        (["tint", "--model", "desk", "--view", "model"], 48),
        (["tint", "--model", "desk", "--view", "crop=40"], 40),
        (["guided"], 24),
        (["guided:guide=desk"], 48),
        (["guided:guide=pocket", "--model", "desk"], 48),
        (["guided", "--view", "crop=40"], 40),
    ],
)
def test_the_view_is_the_one_asked_for_else_the_models_else_that_of_the_model_of_the_map(
    harness, tints, arguments, side
):
    sheet_of(harness("show", *arguments, "--dataset", "plain"))
    assert tints().CONTEXTS[-1].view.crop == side
    assert tints().BATCHES[-1].images.shape == (1, 3, side, side)


def test_a_view_that_only_crops_is_made_to_resize_unless_it_was_asked_for(harness, tints, tmp_path):
    """So that the whole of a photograph is shown; half of this one is red, half blue."""
    half = np.zeros((200, 200, 3), np.uint8)
    half[:, :50, 0], half[:, 50:, 2] = 90, 90
    Image.fromarray(half).save(tmp_path / "half.png")
    for arguments, red in (([], True), (["--view", "model"], False)):
        path = sheet_of(harness("show", "flat", "--image", tmp_path / "half.png", "-m", "desk", *arguments))
        assert (pixels_of(path, (90, 0, 0)) > 0) == red
        assert tints().CONTEXTS[-1].view.resize == (48 if red else None)


# --- models ----------------------------------------------------------------------------------------------------


def test_models_that_parameters_name_are_built_and_injected_and_words_are_not(harness, tints):
    sheet_of(harness("show", "guided:guide=desk", "-d", "plain"))
    context = tints().CONTEXTS[-1]
    assert {name: model.info.name for name, model in context.models.items()} == {"guide": "desk"}
    assert context.evaluated is None
    assert context.cache_dir is None
    assert context.device.type == "cpu"


def test_the_evaluated_model_has_the_weights_asked_for(harness, tints):
    for arguments, origin in (([], "pretrained"), (["--weights", "random"], "random")):
        sheet_of(harness("show", "relative", "-d", "plain", "--model", "desk", *arguments))
        assert tints().CONTEXTS[-1].evaluated.info.weights.origin == origin


def test_what_is_relative_to_a_model_says_that_one_can_be_named(harness, tints):
    answer = harness("show", "relative", "-d", "plain")
    assert answer.code == 2
    assert "there is no model here" in answer.err
    assert "hint: give a number; or, if that is what is missing, name the evaluated model with --model" in answer.err


def test_an_attack_needs_a_model_with_a_head(harness, tints, tmp_path):
    answer = harness("show", "attack", "-d", "plain")
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == "contact sheet: give --model NAME: attack attacks its head"
    named = harness("show", "attack", "-d", "plain", "--sheet", tmp_path / "x.png")
    assert named.code == 2
    assert "give --model NAME" in named.err
    headless = harness("show", "attack", "-d", "plain", "--model", "headless")
    assert headless.code == 2
    assert "attack needs gradients and logits, which model headless does not have" in headless.err


def test_an_attack_aims_at_the_labels_of_a_dataset_that_shares_them_with_the_model(harness, tints):
    path = sheet_of(harness("show", "attack", "-d", "plain", "--index", "0,1,2", "--model", "desk"))
    assert [batch.labels.tolist() for batch in tints().BATCHES] == [[0], [1], [2]]
    # One step up the gradient of the mean of one channel: that channel is white now, on a tile of 4 x 48 pixels.
    for place, colour in enumerate(((255, 1, 5), (101, 255, 5), (102, 1, 255))):
        assert pixels_of(path, (100 + place, 1, 5)) == 192**2
        assert pixels_of(path, colour) == 192**2


def test_an_attack_on_images_without_such_labels_leads_away_from_what_the_model_sees(harness, tints, photo):
    sheet_of(harness("show", "attack", "-d", "strange", "--index", "0,1", "--model", "desk"))
    assert [batch.labels.tolist() for batch in tints().BATCHES] == [[0], [0]]
    for model in ("desk", "nameless"):
        sheet_of(harness("show", "attack", "--image", photo(colour=(1, 2, 9)), "--model", model))
        assert tints().BATCHES[-1].labels.tolist() == [2]
        assert tints().CONTEXTS[-1].num_classes == 3


# --- what changes no pixels, and mistakes ----------------------------------------------------------------------


def test_what_acts_inside_a_model_changes_no_pixels(harness, tints, photo, tmp_path):
    for arguments in ([], ["--image", photo()]):
        answer = harness("show", "inner", *arguments)
        assert answer.code == 0
        assert answer.out.splitlines()[-1].endswith("inner acts inside a model (stage feature) and changes no pixels")
    named = harness("show", "inner", "--image", photo(), "--sheet", tmp_path / "x.png")
    assert named.code == 2
    assert "changes no pixels" in named.err
    assert not (tmp_path / "x.png").exists()


def test_what_is_lacking_is_said_as_something_to_do(harness, tints, monkeypatch):
    monkeypatch.setattr("harness.catalog.missing_packages", lambda extra: ("ray",) if extra == "ray" else ())
    assert harness("show", "needy").out.splitlines()[-1] == "contact sheet: give needy:place=VALUE"
    assert "pip install 'vit-harness[ray]'" in harness("show", "costly").out.splitlines()[-1]


def test_json_has_a_sheet_only_where_its_file_is_named(harness, tints, photo, tmp_path):
    described = harness("show", "tint", "--json").json
    assert "sheet" not in described
    path = tmp_path / "mine.png"
    drawn = harness("show", "tint@0.2", "--image", photo(), "--json", "--sheet", path).json
    assert drawn == {**described, "sheet": str(path)}
    assert pixels_of(path, (50, 0, 0)) == 224**2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tint", "--image", "PHOTO", "--dataset", "plain"], "--image and --dataset were both given"),
        (["tint", "--index", "3"], "--index can have no effect without --dataset"),
        (["tint", "--image", "PHOTO", "--split", "test", "--data", "x"], "--data and --split can have no effect"),
        (["tint", "--seed", "3"], "--seed can have no effect without images"),
        (["tint", "--model", "desk", "--view", "ipvit"], "--view and --model can have no effect without images"),
        (["tint", "--image", "PHOTO", "--weights", "random"], "--weights can have no effect without --model"),
        (["tint", "--image", "PHOTO", "--view", "model"], "a contact sheet has no model"),
        (["tint", "--image", "PHOTO", "--view", "crop"], "cannot read 'crop'"),
        (["tint", "--image", "PHOTO", "--images", "3"], "tint is a perturbation; --images can be given for datasets"),
        (["tint", "--image", "PHOTO", "--no-sheet"], "--image can have no effect beside --no-sheet"),
        (["tint", "--image", "PHOTO", "--json"], "name it with --sheet FILE"),
        (["tint", "--sheet", "x.png"], "give --image FILE, or --dataset NAME --index N"),
        (["tint", "--image", "PHOTO", "--sheet", "x.jpg"], "let the file's name end in .png"),
        (["tint@0.5", "--json"], "they are for a contact sheet, and none is drawn"),
        (["tint@2"], "share must lie in [0, 1]"),
        (["tint:red=3"], "unknown parameter 'red'"),
        (["flat@0.5", "--image", "PHOTO"], "perturbation flat has no levels"),
        (["guided:guide=nobody", "--image", "PHOTO"], "no model named 'nobody'"),
        (["tint", "--image", "PHOTO", "--model", "nobody"], "no model named 'nobody'"),
        (["tint", "--dataset", "nothing"], "no dataset named 'nothing'"),
        (["tint", "--dataset", "plain", "--data", "x"], "takes no --data"),
        (["tint", "--dataset", "plain", "--index", "-1"], "places counted from 0"),
        (["tint", "--dataset", "plain", "--index", "1,"], "places counted from 0"),
        (["tint", "--dataset", "plain", "--index", ",".join(map(str, range(25)))], "a sheet has room for 24"),
        (["tint", *(["--image", "PHOTO"] * 25)], "a sheet has room for 24"),
        (["at_probe", "--dataset", "plain", "--model", "desk"], "aim it at the model's head"),
        (["desk", "--image", "PHOTO"], "desk is a model; --image can be given for perturbations and probes only"),
        (["plain", "--seed", "3", "--index", "4"], "--index and --seed can be given for perturbations and probes only"),
        (["plain@0.5"], "harness show plain"),
    ],
)
def test_mistakes_are_usage_errors_with_a_way_on(harness, tints, photo, tmp_path, monkeypatch, arguments, said):
    place = photo("photos/photo.png")
    monkeypatch.chdir(tmp_path)
    answer = harness("show", *(str(place) if word == "PHOTO" else word for word in arguments))
    assert answer.code == 2
    assert said in answer.err
    assert answer.out == ""
    assert list(tmp_path.rglob("*.png")) == [place]


def test_a_place_beyond_the_split_names_its_size(harness, tints, tmp_path):
    answer = harness("show", "tint", "-d", "plain", "--index", "3,70")
    assert answer.code == 2
    assert "--index 70: split test of plain has 70 images" in answer.err
    assert "0 to 69" in answer.err
    assert not list(tmp_path.rglob("*.png"))


def test_files_that_cannot_be_read_are_data_errors(harness, tints, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    for name, said in (
        ("nowhere.png", "there is no such file"),
        ("site", "this is a folder"),
        ("notes.png", "not an image in any of the formats"),
    ):
        answer = harness("show", "tint", "--image", tmp_path / name)
        assert answer.code == 4
        assert said in answer.err
        assert name in answer.err
    assert not (tmp_path / "cache" / "sheets").exists()


# --- with what the package brings ------------------------------------------------------------------------------


def test_a_sheet_shows_the_masks_that_a_run_would_use(harness, tmp_path):
    """Every pixel of the level's tile is the one that the perturbation gives the engine for that image and seed."""
    import torch

    from harness.catalog import build_catalog
    from harness.components import dataset_component, perturbation_component
    from harness.manager import build_manager
    from harness.protocols import PerturbationContext
    from harness.types import View

    path, view = tmp_path / "sheet.png", View(crop=168)
    harness(
        "show", "patchdrop_random:grid=7x7,mask_scope=batch@0.5", "--dataset", "shapes", "--index", "5", "--seed", "2",
        "--view", view.text, "--sheet", path,
    )  # fmt: skip
    catalog = build_catalog(build_manager())
    dataset = dataset_component(catalog, "shapes").dataset
    component = perturbation_component(catalog, "patchdrop_random:grid=7x7,mask_scope=batch@0.5")
    perturbation = component.build()
    perturbation.prepare(
        PerturbationContext(
            seed=2,
            view=view,
            device=torch.device("cpu"),
            dataset_fingerprint="any",
            num_classes=12,
            num_images=len(dataset.index("test")),
        )
    )
    batch = dataset.load("test", [4, 5], view)
    expected = (perturbation.apply(batch, perturbation.begin(batch), 0.5).images[1] * 255).round().byte().numpy()
    with Image.open(path) as sheet:
        shown = np.asarray(sheet)
    # The third tile, after the clean image and its object; tiles stand 8 pixels apart and 24 from the left edge.
    left = 24 + 2 * (168 + 8)
    column = shown[:, left : left + 168].transpose(2, 0, 1)
    tops = [y for y in range(column.shape[1] - 167) if (column[:, y : y + 168] == expected).all()]
    assert len(tops) == 1


def test_describing_alone_imports_nothing_heavy(tmp_path):
    code = (
        "import json, sys\n"
        "from harness.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    for words in (["patchdrop_random:grid=7x7@0.5"], ["patchdrop_random", "--dataset", "shapes", "--index", "x"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "show", "perturbation", *words], capture_output=True, text=True, check=False
        )
        modules = set(json.loads(done.stderr.splitlines()[-1]))
        assert "harness.cli.perturbation_sheets" in modules
        assert not modules & {"torch", "numpy", "PIL", "scipy", "matplotlib", "timm", "torchvision"}


def test_the_help_says_what_is_done_if_nothing_is_said(harness):
    from harness.report.perturbation_sheets import DEFAULT_VIEW

    assert DEFAULT_VIEW.text in " ".join(harness("show", "--help").out.split())
