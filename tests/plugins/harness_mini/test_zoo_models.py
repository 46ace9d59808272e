"""The zoo as Models: promises of the contract kit, and weights that are those of their cards."""

from __future__ import annotations

import functools
import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import harness
from harness.catalog import build_catalog
from harness.components import model_component
from harness.errors import WeightsError
from harness.manager import build_manager
from harness.state_dicts import load_strict, read_state_dict
from harness.stats import wilson
from harness.testing import check_named
from harness.types import Capability, OutputSpec
from harness.weights import WeightsChoice, parse_weights
from harness_mini import cards, zoo
from harness_mini.cards import read_card, shipped_digest, weights_file, write_card
from harness_mini.models import build_model
from harness_mini.networks import NETWORKS, build
from harness_mini.shapes_dataset import Shapes
from harness_mini.study.measures import Images, jaccard
from harness_mini.training.lessons import accuracy, heads, load, whole
from harness_mini.training.recipes import digest, recipe_of

NAMES = tuple(NETWORKS)
CLASSIFIERS = tuple(name for name in NAMES if name != "dino_mini")
CHECKED_IMAGES = 1200


@functools.cache
def catalog():
    return build_catalog(build_manager())


def entry_of(name):
    (entry,) = (entry for entry in zoo.entries() if entry.name == name)
    return entry


def put(name, folder, seed=7):
    """Untrained weights with a card in ``folder``, as if they shipped; the network and the file."""
    net, file = build(name, seed=seed), weights_file(name, folder)
    save_file(
        {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}, file
    )
    write_card(name, {"name": name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}, folder)
    return file


def pixels(n=2):
    return torch.rand(n, 3, 56, 56, generator=torch.Generator().manual_seed(0))


# --- what any weights promise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_model_keeps_the_promises_of_the_contract_kit(name):
    outcomes = check_named(catalog(), "model", name)
    assert {outcome.check: outcome.message for outcome in outcomes if outcome.status != "passed"} == {}


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_what_the_model_is(name):
    info, entry = build_model(name, weights=WeightsChoice(origin="random")).info, entry_of(name)
    assert (info.name, info.view, info.label_space) == (name, entry.view, entry.label_space)
    assert info.capabilities == entry.capabilities
    assert info.family == NETWORKS[name].family
    assert entry.tags == ("mini", "embedded")
    assert entry.tag_param is None
    assert info.num_classes == (None if name == "dino_mini" else len(Shapes().info.classes))
    assert (info.label_space == Shapes().info.label_space) == (Capability.LOGITS in info.capabilities)
    assert catalog().resolve("model", name).entry == entry


def test_heads_and_prefix_tokens_are_those_of_each_family():
    found = {name: build_model(name, weights=WeightsChoice(origin="random")).info for name in NAMES}
    assert {name: info.heads for name, info in found.items() if info.heads != ("head",)} == {
        "deit_mini": ("average", "cls", "dist"),
        "deit_mini_shape": ("average", "cls", "shape"),
        "dino_mini": (),
    }
    assert {name: info.prefix for name, info in found.items() if info.prefix != ("cls",)} == {
        "deit_mini": ("cls", "dist"),
        "deit_mini_shape": ("cls", "shape"),
        "cnn_mini": (),
        "cnn_mini_sin": (),
        "patchconv_mini_multi": (),
    }


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_model_gives_what_its_network_was_trained_to_give(name):
    """Training reads networks through lessons, the harness through its wrappers: the same numbers of one image."""
    batch = load(Shapes(), "test", 0, 4)
    with torch.no_grad():
        expected = heads(build(name, seed=3).eval(), whole(batch))
    found = build_model(name, weights=WeightsChoice(origin="random", seed=3)).outputs(
        batch.images, OutputSpec(logits=True)
    )
    own = [scores for head, scores in found.logits.items() if head != "average"]
    assert len(own) == len(expected)
    for mine, scores in zip(own, expected, strict=True):
        torch.testing.assert_close(mine, scores, rtol=1e-4, atol=1e-5)


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = {name: build(name, seed=0).state_dict() for name in NAMES}
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    for name, state in first.items():
        again, other = build(name, seed=0).state_dict(), build(name, seed=1).state_dict()
        assert all(torch.equal(value, again[key]) for key, value in state.items())
        assert any(not torch.equal(value, other[key]) for key, value in state.items())


# --- weights that ship, of any content ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_mini", "deit_mini_shape", "dino_mini", "cnn_mini", "patchconv_mini_multi"])
def test_a_model_takes_its_weights_from_the_package(name, package_weights):
    file = put(name, package_weights)
    model = build_model(name, weights=WeightsChoice())
    for key, value in load_file(file).items():
        assert torch.equal(model.net.state_dict()[key], value.float() if value.is_floating_point() else value)
    assert (model.info.weights.origin, model.info.weights.source) == ("embedded", entry_of(name).embedded_name)
    assert model.info.weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_key_of_a_record_holds_the_digest_of_the_weights(package_weights):
    def identity(name="vit_mini"):
        planned = model_component(build_catalog(build_manager()), name, WeightsChoice()).weights.identity
        assert build_model(name, weights=WeightsChoice()).info.weights.identity == planned
        return planned

    found = []
    for seed in (7, 8):
        sha256 = hashlib.sha256(put("vit_mini", package_weights, seed).read_bytes()).hexdigest()
        assert identity() == f"embedded:vit_mini:1:{sha256[:16]}"
        found.append(identity())
    assert found[0] != found[1]


def test_a_changed_byte_is_refused(package_weights):
    file = put("vit_mini", package_weights)
    build_model("vit_mini", weights=WeightsChoice())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=f"has the digest {hashlib.sha256(content).hexdigest()[:16]}") as raised:
        build_model("vit_mini", weights=WeightsChoice())
    assert shipped_digest("vit_mini")[:16] in raised.value.message
    assert raised.value.hint == "reinstall vit-harness"


@pytest.mark.parametrize("lost", ["both", "card", "weights"])
def test_a_package_without_weights_says_how_to_get_some(package_weights, lost):
    if lost != "both":
        file = put("vit_mini", package_weights)
        (file if lost == "weights" else cards.card_file("vit_mini")).unlink()
    missing = "there is no card" if lost == "card" else "the package holds no trained weights"
    with pytest.raises(WeightsError, match=missing) as raised:
        build_model("vit_mini", weights=WeightsChoice())
    assert "python -m harness_mini.train vit_mini --out" in raised.value.hint
    assert build_model("vit_mini", weights=WeightsChoice(origin="random")).info.weights.untrained


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"sha256": 3}'])
def test_a_broken_card_is_no_digest_and_says_where_it_is(package_weights, content):
    path = cards.card_file("vit_mini")
    path.write_text(content)
    assert shipped_digest("vit_mini") is None
    assert entry_of("vit_mini").embedded_name == "vit_mini:1"
    with pytest.raises(WeightsError, match=r"vit_mini\.json"):
        read_card("vit_mini")


def test_a_lost_card_says_how_to_make_one(package_weights):
    with pytest.raises(WeightsError, match="there is no card") as raised:
        read_card("vit_mini")
    assert "harness_mini.train vit_mini" in raised.value.hint


def test_a_card_is_read_as_it_was_written(tmp_path):
    card = {"sha256": "0" * 64, "accuracy": None, "other_seeds": [], "name": "größer"}
    assert (
        json.loads(write_card("vit_mini", card, tmp_path).read_text("utf-8")) == read_card("vit_mini", tmp_path) == card
    )
    assert [file.name for file in tmp_path.iterdir()] == ["vit_mini.json"]


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_checkpoint_takes_the_place_of_what_ships(tmp_path, package_weights, ending):
    path, net = tmp_path / f"mine{ending}", build("deit_mini", seed=9)
    if ending == ".pt":
        torch.save(net.state_dict(), path)
    else:
        save_file(net.state_dict(), path)
    model = build_model("deit_mini", weights=parse_weights(str(path)))
    assert all(torch.equal(model.net.state_dict()[key], value) for key, value in net.state_dict().items())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.info.weights.identity == f"sha256:{sha256}"
    assert (model.info.weights.origin, model.info.weights.sha256) == ("checkpoint", sha256)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(build("cnn_mini", seed=0).state_dict(), path)
    with pytest.raises(WeightsError, match="do not fit VisionTransformer"):
        build_model("vit_mini", weights=parse_weights(str(path)))


def test_random_weights_are_those_of_the_seed():
    for seed in (0, 4):
        model = build_model("vit_mini", weights=parse_weights(f"random:{seed}"))
        expected = build("vit_mini", seed=seed).state_dict()
        assert all(torch.equal(model.net.state_dict()[key], value) for key, value in expected.items())
        assert model.info.weights.identity.startswith(f"random:vit_mini:{seed}:torch-")
        assert model.info.weights.sha256 is None


def test_a_run_measures_what_weights_said(tmp_path, package_weights):
    path = tmp_path / "mine.safetensors"
    save_file(build("cnn_mini", seed=9).state_dict(), path)
    put("cnn_mini", package_weights)
    options = harness.RunOptions(device="cpu", workers=0, cache_dir=None)
    found = {}
    for weights in ("pretrained", "random", str(path)):
        result = harness.run(
            model="cnn_mini", dataset="shapes", probe="head", perturb="none", weights=weights, limit=24, options=options
        )
        (record,) = result.records
        found[weights] = record.cell["weights"].partition(":")[0], record.environment["weights_sha256"]
    assert found == {
        "pretrained": ("embedded", shipped_digest("cnn_mini")),
        "random": ("random", None),
        str(path): ("sha256", hashlib.sha256(path.read_bytes()).hexdigest()),
    }


# --- the weights that do ship ------------------------------------------------------------------------------------


def own_split(name):
    return "stylized" if recipe_of(name).split == "stylized_train" else "test"


@functools.cache
def first_images(split):
    return load(Shapes(), split, 0, CHECKED_IMAGES)


@functools.cache
def shipped_network(name):
    net = build(name, seed=0)
    load_strict(net, read_state_dict(weights_file(name)), source=name)
    return net.eval()


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_are_those_of_their_card_and_recipe(name):
    card, file = read_card(name), weights_file(name)
    assert (card["name"], card["seed"]) == (name, recipe_of(name).seed)
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["recipe"] == recipe_of(name).as_dict()
    assert card["recipe_sha256"] == digest(recipe_of(name))
    assert card["data_fingerprint"] == Shapes().info.fingerprint
    state = load_file(file)
    assert {value.dtype for value in state.values()} <= {torch.float16, torch.int64}
    assert card["parameters"] == sum(value.numel() for value in build(name, seed=0).parameters())
    assert all(torch.isfinite(value).all() for value in state.values())
    assert entry_of(name).embedded_sha256 == card["sha256"]
    model = build_model(name, weights=WeightsChoice())
    assert model.info.weights.identity == f"embedded:{name}:1:{card['sha256'][:16]}"


def test_shipped_weights_are_no_more_than_fifteen_megabytes_and_nothing_else():
    files = [file for file in cards.WEIGHTS.iterdir() if file.name != ".gitkeep"]
    assert sum(file.stat().st_size for file in files) <= 15e6
    assert {file.name for file in files} == {f"{name}.{end}" for name in NAMES for end in ("json", "safetensors")}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_card_measured_every_head_on_every_image_it_had_to(name):
    card = read_card(name)["accuracy"]
    assert set(card) == {own_split(name), "test"}
    second = NETWORKS[name].second_token
    wanted = {"cls", second, "average"} if NETWORKS[name].family == "deit" else {"head"}
    for split, by_head in card.items():
        assert set(by_head) == wanted
        for found in by_head.values():
            total = len(Shapes().index(split))
            interval = wilson(round(found["value"] * total), total)
            assert (found["n"], found["low"], found["high"]) == (total, interval.low, interval.high)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if "sin" not in name and name != "vit_mini_nopos"])
def test_classifiers_of_natural_images_know_nearly_all_of_them(name):
    for found in read_card(name)["accuracy"]["test"].values():
        assert found["value"] >= 0.95


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_first_images_are_known_as_often_as_the_card_says(name):
    """Half of the card's images, through the harness's own wrapper: the two Wilson intervals overlap."""
    model, split = build_model(name, weights=WeightsChoice()), own_split(name)
    batch = first_images(split)
    with torch.inference_mode():
        parts = [model.outputs(part, OutputSpec(logits=True)).logits for part in batch.images.split(200)]
    for head in model.info.heads:
        count = int((torch.cat([part[head] for part in parts]).argmax(1) == batch.labels).sum())
        card, found = read_card(name)["accuracy"][split][head], wilson(count, CHECKED_IMAGES)
        assert found.low <= card["high"]
        assert card["low"] <= found.high


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_image_is_known_as_the_card_says(name):
    """Two images are left to other machines' rounding."""
    for split, by_head in read_card(name)["accuracy"].items():
        counts = accuracy(shipped_network(name), Shapes(), split, device="cpu")
        assert len(counts) == len(by_head)
        for count, found in zip(counts, by_head.values(), strict=True):
            assert abs(count - found["value"] * found["n"]) <= 2


@pytest.mark.parametrize("name", ["deit_mini", "deit_mini_shape"])
def test_a_teacher_that_ships_agrees_with_the_label_as_often_as_its_pupils_card_says(name):
    card, teacher = read_card(name)["teacher_agrees_with_label"], recipe_of(name).teacher
    batch = first_images(recipe_of(name).split)
    with torch.inference_mode():
        scores = torch.cat([shipped_network(teacher)(pixels) for pixels in whole(batch).pixels.split(200)])
    found = wilson(int((scores.argmax(1) == batch.labels).sum()), CHECKED_IMAGES)
    assert card["n"] == 2400
    assert found.low <= card["high"]
    assert card["low"] <= found.high


def test_self_distilled_attention_finds_objects_better_than_untrained_attention():
    asked = Images(dataset=Shapes(), split="test", count=240)
    trained, untrained = (
        jaccard(build_model("dino_mini", weights=parse_weights(weights)), asked, mass=0.6).mean()
        for weights in ("pretrained", "random")
    )
    assert trained > untrained + 0.1


def test_a_broken_card_is_named(package_weights):
    put("vit_mini", package_weights)
    cards.card_file("vit_mini", package_weights).write_text("{")
    with pytest.raises(WeightsError, match=r"cannot read the card .*vit_mini\.json"):
        build_model("vit_mini", weights=parse_weights("pretrained"))


def test_the_card_of_another_model_is_refused(package_weights):
    put("vit_mini_sin", package_weights)
    for file in (cards.weights_file, cards.card_file):
        file("vit_mini", package_weights).write_bytes(file("vit_mini_sin", package_weights).read_bytes())
    with pytest.raises(WeightsError, match="its card is that of vit_mini_sin"):
        build_model("vit_mini", weights=parse_weights("pretrained"))
