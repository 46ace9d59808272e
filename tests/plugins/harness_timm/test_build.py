"""Building: seeds, files, strictness, names, and the card."""

import csv
import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from torchvision.transforms.v2.functional import normalize

from harness.backbones.positions import ablate_positions, resample_positions
from harness.errors import CapabilityError, ParameterError, WeightsError
from harness.hub import hub_cache_dir, timm_repository
from harness.types import OutputSpec, View
from harness.weights import WeightsChoice, parse_weights
from harness_timm import builders, deit
from harness_timm.build import view_of

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT.parent / "shared" / "data"
TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
SMALL = "test_vit.r160_in1k"
LOGITS = OutputSpec(logits=True)


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def put_into_hub_cache(tag, state):
    repo = hub_cache_dir() / f"models--timm--{tag}"
    file = repo / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    save_file({name: value.half() if value.is_floating_point() else value for name, value in state.items()}, file)
    return file


# --- random weights --------------------------------------------------------------------------------------------


def test_random_weights_are_those_of_their_seed():
    first, again, other = (
        builders.build_vit(arch=SMALL, weights=parse_weights(w)) for w in ("random:3", "random:3", "random:4")
    )
    assert same(first.net.state_dict(), again.net.state_dict())
    assert not same(first.net.state_dict(), other.net.state_dict())
    torch.manual_seed(3)
    assert same(first.net.state_dict(), timm.create_model(SMALL).state_dict())
    version = importlib.metadata.version("timm")
    assert first.info.weights.identity.startswith(f"random:{SMALL}:3:torch-")
    assert first.info.weights.identity.endswith(f"timm-{version}")
    assert first.info.weights.untrained


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    builders.build_resnet(arch="test_resnet.r160_in1k", weights=parse_weights("random:5"))
    assert torch.equal(torch.rand(3), expected)


# --- files -----------------------------------------------------------------------------------------------------


def test_pretrained_weights_come_from_the_hub_cache_without_a_network():
    source = timm.create_model(SMALL)
    file = put_into_hub_cache(SMALL, source.state_dict())
    model = builders.build_vit(arch=SMALL, weights=WeightsChoice())
    assert same(model.net.state_dict(), {name: value.half().float() for name, value in source.state_dict().items()})
    assert model.info.weights.identity == f"pretrained:{SMALL}"
    assert model.info.weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert all(value.dtype == torch.float32 for value in model.net.state_dict().values())


def test_without_cache_and_network_it_stops(monkeypatch):
    with pytest.raises(WeightsError, match="not in the local cache") as caught:
        builders.build_resnet(arch="resnet50.a1_in1k", weights=WeightsChoice())
    assert caught.value.exit_code == 4
    assert "--weights random" in str(caught.value)


def test_names_that_need_not_be_on_both_sides_are_left_alone(tmp_path):
    state = timm.create_model(SMALL).state_dict()
    del state["head.weight"], state["head.bias"]
    torch.save({**state, "projection.weight": torch.zeros(2)}, tmp_path / "trunk.pth")
    file = str(tmp_path / "trunk.pth")
    model = builders.build_vit(arch=SMALL, weights=parse_weights(file, allow_missing=["head.*", "projection.*"]))
    assert torch.equal(model.net.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    with pytest.raises(WeightsError, match=r"missing: head\.weight, head\.bias; 1 unexpected: projection\.weight"):
        builders.build_vit(arch=SMALL, weights=parse_weights(file))


def headless(tmp_path, **options):
    state = {name: v for name, v in timm.create_model(SMALL).state_dict().items() if not name.startswith("head.")}
    torch.save(state, tmp_path / "headless.pth")
    return parse_weights(str(tmp_path / "headless.pth"), **options)


def test_a_head_that_nobody_trained_gives_no_scores(tmp_path):
    model = builders.build_vit(arch=SMALL, weights=headless(tmp_path, allow_missing=["head.*"]))
    assert model.info.weights.initial == ("head.weight", "head.bias")
    assert not model.info.weights.untrained
    assert "logits" not in model.info.capabilities
    assert model.outputs(torch.rand(1, 3, 160, 160), OutputSpec(pooled=True)).pooled.shape == (1, 64)
    with pytest.raises(CapabilityError, match=r"head\.weight, head\.bias were not in its weights"):
        model.outputs(torch.rand(1, 3, 160, 160), LOGITS)


def test_a_trunk_that_lacks_a_part_is_untrained(tmp_path):
    state = timm.create_model(SMALL).state_dict()
    del state["blocks.0.norm1.weight"]
    torch.save(state, tmp_path / "part.pth")
    model = builders.build_vit(
        arch=SMALL, weights=parse_weights(str(tmp_path / "part.pth"), allow_missing=["blocks.0.*"])
    )
    assert model.info.weights.untrained
    assert "logits" in model.info.capabilities


def test_a_run_says_what_was_not_in_the_weights(tmp_path):
    import harness
    import harness.progress

    notes = []

    class Progress(harness.progress.NoProgress):
        def note(self, text):
            notes.append(text)

    weights = headless(tmp_path, allow_missing=["head.*"])
    common = {"model": f"vit:arch={SMALL}", "weights": weights, "dataset": "digits", "limit": 20}
    result = harness.run(probe="knn:k=1,features=pooled,per_class=2", progress=Progress(), **common)
    (record,) = result.records
    assert record.environment["initial_weights"] == ["head.weight", "head.bias"]
    assert not record.untrained
    assert any("not in its weights, so at initial values: head.weight, head.bias" in note for note in notes)


def test_a_checkpoint_is_identified_by_its_contents(tmp_path):
    state = timm.create_model("test_resnet.r160_in1k").state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "mine.pth")
    model = builders.build_resnet(arch="test_resnet.r160_in1k", weights=parse_weights(str(tmp_path / "mine.pth")))
    digest = hashlib.sha256((tmp_path / "mine.pth").read_bytes()).hexdigest()
    assert model.info.weights.identity == f"sha256:{digest}"
    assert model.info.weights.origin == "checkpoint"
    assert same(model.net.state_dict(), state)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(timm.create_model("test_resnet.r160_in1k").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"missing: cls_token.*unexpected: conv1"):
        builders.build_vit(arch=SMALL, weights=parse_weights(str(tmp_path / "resnet.pth")))
    state = timm.create_model(SMALL).state_dict()
    del state["norm.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"1 missing: norm\.bias"):
        builders.build_vit(arch=SMALL, weights=parse_weights(str(tmp_path / "part.pth")))


def test_position_embeddings_of_another_size_are_not_resampled_silently(tmp_path):
    torch.save(timm.create_model(SMALL, img_size=192).state_dict(), tmp_path / "larger.pth")
    with pytest.raises(WeightsError, match=r"pos_embed \(1, 145, 64\) instead of \(1, 101, 64\)"):
        builders.build_vit(arch=SMALL, weights=parse_weights(str(tmp_path / "larger.pth")))


def test_the_original_names_of_deit3_are_understood(tmp_path):
    arch = "deit3_small_patch16_224.fb_in1k"
    state = timm.create_model(arch).state_dict()
    renamed = {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for name, v in state.items()}
    assert "blocks.0.gamma_1" in renamed
    torch.save({"model": renamed}, tmp_path / "deit3.pth")
    model = deit.build(arch=arch, weights=parse_weights(str(tmp_path / "deit3.pth")))
    assert same(model.net.state_dict(), state)
    net = timm.create_model(arch).eval()
    net.load_state_dict(state)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = net(normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        found = model.outputs(images, LOGITS).logits["head"]
        with model.intervene("pos_embed", lambda tokens: tokens, ids=("a",)):  # no position for the class token here
            through = model.outputs(images, LOGITS).logits["head"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(through, expected, rtol=1e-5, atol=1e-5)


# --- another input size ----------------------------------------------------------------------------------------


def larger(tmp_path, **params):
    """The small network with weights of its own size, asked for at 192 px."""
    torch.save(timm.create_model(SMALL).state_dict(), tmp_path / "own.pth")
    return builders.build_vit(arch=SMALL, weights=parse_weights(str(tmp_path / "own.pth")), input=192, **params)


@pytest.mark.parametrize("how", ["bicubic", "bilinear_corner"])
def test_position_embeddings_are_resampled_for_the_size_that_was_asked_for(tmp_path, how):
    model = larger(tmp_path, posemb_interp=how)
    own = torch.load(tmp_path / "own.pth", weights_only=True)["pos_embed"]
    assert torch.equal(model.net.pos_embed, resample_positions(own, 1, (12, 12), how))
    assert model.info.view == View(resize=202, crop=192, interpolation="bicubic")
    tokens = model.outputs(torch.rand(1, 3, 192, 192), OutputSpec(tokens=frozenset({0}))).tokens[0]
    assert tokens.grid == (12, 12)


def test_at_its_own_size_nothing_is_resampled(tmp_path):
    torch.save(timm.create_model(SMALL).state_dict(), tmp_path / "own.pth")
    weights = parse_weights(str(tmp_path / "own.pth"))
    plain, asked = (
        builders.build_vit(arch=SMALL, weights=weights),
        builders.build_vit(arch=SMALL, weights=weights, input=160),
    )
    assert same(plain.net.state_dict(), asked.net.state_dict())
    assert plain.info == asked.info


def test_sizes_that_patches_do_not_fill_are_refused():
    with pytest.raises(ParameterError, match=r"xcit_nano.*img_size.*225"):
        builders.build_xcit(arch="xcit_nano_12_p16_224.fb_in1k", weights=parse_weights("random"), input=225)


@pytest.mark.parametrize(
    ("build", "params", "says"),
    [
        (builders.build_vit, {"arch": TINY, "input": 225}, "do not fill an input of 225 px.*input=224"),
        (deit.build, {"arch": "deit_tiny_patch16_224.fb_in1k", "patch": 300}, "patch of 300 px is larger"),
    ],
)
def test_patches_and_input_must_suit_each_other(build, params, says):
    with pytest.raises(ParameterError, match=f"(?s){says}"):
        build(**params, weights=parse_weights("random"))


def test_a_convolutional_network_takes_any_size():
    model = builders.build_resnet(arch="test_resnet.r160_in1k", weights=parse_weights("random"), input=96)
    assert (model.info.input_size, model.info.view.resize) == (96, 101)
    tokens = model.outputs(torch.rand(1, 3, 96, 96), OutputSpec(tokens=frozenset({3}))).tokens[3]
    assert tokens.grid == (3, 3)


# --- positions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["zero", "shuffle", "mean"])
def test_ablated_positions_are_those_of_the_weights(tmp_path, how):
    torch.save(timm.create_model(SMALL).state_dict(), tmp_path / "own.pth")
    weights = parse_weights(str(tmp_path / "own.pth"))
    own = torch.load(tmp_path / "own.pth", weights_only=True)["pos_embed"]
    model = builders.build_vit(arch=SMALL, weights=weights, positions=how, positions_seed=7)
    assert torch.equal(model.net.pos_embed, ablate_positions(own, 1, how, seed=7))
    assert not torch.equal(model.net.pos_embed, own)


def shuffled(images, blocks, generator):
    """Images cut into blocks x blocks squares, which change places."""
    side = images.shape[-1] // blocks
    cut = images.unfold(2, side, side).unfold(3, side, side).flatten(2, 3)
    cut = cut[:, :, torch.randperm(blocks * blocks, generator=generator)]
    rows = cut.unflatten(2, (blocks, blocks)).permute(0, 1, 2, 4, 3, 5)
    return rows.reshape(images.shape)


@pytest.mark.parametrize("params", [{"pos_embed": False}, {"positions": "zero"}, {"positions": "mean"}])
def test_without_positions_blocks_of_whole_patches_may_change_places(params):
    """Protocols, section 3: 2x2, 7x7 and 14x14 blocks permute the patches of 16 px, 4x4, 8x8 and 16x16 cut them."""
    model = deit.build(arch="deit_tiny_patch16_224.fb_in1k", weights=parse_weights("random:1"), **params)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 224, 224, generator=generator)
    with torch.no_grad():
        plain = model.outputs(images, LOGITS).logits["head"]
        moved = {
            blocks: (model.outputs(shuffled(images, blocks, generator), LOGITS).logits["head"] - plain).abs().max()
            for blocks in (2, 7, 14, 4, 8, 16)
        }
    assert max(moved[blocks] for blocks in (2, 7, 14)) < 1e-5
    assert min(moved[blocks] for blocks in (4, 8, 16)) > 1e-3


def test_with_positions_no_block_may_change_places():
    model = deit.build(arch="deit_tiny_patch16_224.fb_in1k", weights=parse_weights("random:1"))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 224, 224, generator=generator)
    with torch.no_grad():
        plain = model.outputs(images, LOGITS).logits["head"]
        for blocks in (2, 7, 14):
            found = model.outputs(shuffled(images, blocks, generator), LOGITS).logits["head"]
            assert (found - plain).abs().max() > 1e-4


def test_a_network_without_position_embeddings_has_none_to_ablate():
    with pytest.raises(CapabilityError, match="no position embedding of its patches"):
        deit.build(
            arch="deit_tiny_patch16_224.fb_in1k", weights=parse_weights("random"), pos_embed=False, positions="zero"
        )


def test_weights_that_were_trained_without_positions_load_strictly(tmp_path):
    arch = "deit_tiny_patch16_224.fb_in1k"
    state = timm.create_model(arch, pos_embed="none").state_dict()
    assert "pos_embed" not in state
    torch.save({"model": state}, tmp_path / "nopos.pth")
    weights = parse_weights(str(tmp_path / "nopos.pth"))
    model = deit.build(arch=arch, weights=weights, pos_embed=False)
    assert same(model.net.state_dict(), state)
    with pytest.raises(WeightsError, match="missing: pos_embed"):
        deit.build(arch=arch, weights=weights)


@pytest.mark.parametrize(("patch", "cells"), [(22, 10), (28, 8), (32, 7), (38, 5)])
def test_patches_of_other_sizes_fill_as_much_of_the_image_as_they_can(patch, cells):
    model = deit.build(arch="deit_tiny_patch16_224.fb_in1k", weights=parse_weights("random"), patch=patch)
    tokens = model.outputs(torch.rand(1, 3, 224, 224), OutputSpec(tokens=frozenset({11}))).tokens[11]
    assert tokens.grid == (cells, cells)
    assert model.info.patch_size == patch


def test_a_second_token_has_the_name_it_is_given():
    arch = "deit_tiny_distilled_patch16_224.fb_in1k"
    model = deit.build(arch=arch, weights=parse_weights("random"), second_token="shape")
    assert (model.info.prefix, model.info.heads) == (("cls", "shape"), ("average", "cls", "shape"))


# --- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("vit_tiny_patch16_244.augreg_in21k", "vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224", TINY),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1", TINY),
        ("", "architecture"),
    ],
)
def test_unknown_names_get_suggestions(arch, says):
    with pytest.raises(ParameterError) as caught:
        builders.build_vit(arch=arch, weights=parse_weights("random"))
    assert says in str(caught.value)


def test_networks_of_another_family_are_refused():
    for build, arch in (
        (builders.build_vit, "test_resnet.r160_in1k"),
        (builders.build_vit, "deit_tiny_distilled_patch16_224.fb_in1k"),
        (builders.build_resnet, SMALL),
        (deit.build, "test_efficientnet.r160_in1k"),
    ):
        with pytest.raises(CapabilityError, match="does not wrap"):
            build(arch=arch, weights=parse_weights("random"))


@pytest.mark.parametrize("module", ["vision_transformer", "deit", "resnet"])
def test_the_hub_repository_of_a_tag_is_the_one_that_timm_names(module):
    tags = timm.list_models(module=module, pretrained=True, include_tags=True)
    named = {tag: timm.get_pretrained_cfg(tag).hf_hub_id for tag in tags if "." in tag}
    assert len(named) > 10
    wrong = {tag: repo for tag, repo in named.items() if repo is not None and repo != timm_repository(tag)}
    assert wrong == {}


# --- the card --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch",
    [
        TINY,
        "deit_base_patch16_384.fb_in1k",
        "resnet18.tv_in1k",
        "resnet50.a1_in1k",
        "vit_base_patch16_clip_384.openai_ft_in1k",
    ],
)
def test_the_view_is_timms_own_evaluation_pipeline(arch):
    config = timm.get_pretrained_cfg(arch)
    steps = create_transform(**resolve_data_config(pretrained_cfg=config.to_dict())).transforms
    view = view_of(arch, config)
    size = steps[0].size
    assert (size if isinstance(size, int) else size[0]) == view.resize
    assert (view.mode == "squash") == (not isinstance(size, int))
    assert steps[0].interpolation.value == view.interpolation
    assert tuple(steps[1].size) == (view.crop, view.crop)


def test_views_that_cannot_be_said_are_refused():
    config = timm.get_pretrained_cfg(TINY)
    config.crop_mode = "border"
    with pytest.raises(CapabilityError, match="border"):
        view_of(TINY, config)


def test_the_card_of_a_headless_backbone():
    model = builders.build_vit(arch="vit_tiny_patch16_224.augreg_in21k", weights=parse_weights("random"))
    assert (model.info.label_space, model.info.num_classes) == (None, 21843)
    assert model.info.view == View(resize=248, crop=224, interpolation="bicubic")
    small = builders.build_dino(arch="vit_small_patch16_224.dino", weights=parse_weights("random"))
    assert (small.info.heads, small.info.num_classes, small.info.label_space) == ((), None, None)
    assert small.info.mean == (0.485, 0.456, 0.406)
    with pytest.raises(CapabilityError, match="gives no logits"):
        small.outputs(torch.rand(1, 3, 224, 224), LOGITS)


# --- real weights ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_file():
    file = DATA / "weights" / "vit_tiny_patch16_224_in1k" / f"{TINY}.fp16.safetensors"
    if not file.is_file():
        pytest.skip("the real weights of ViT-Ti are not here")
    return file


def test_real_weights_give_timms_logits(real_file):
    model = builders.build_vit(arch=TINY, weights=parse_weights(str(real_file)))
    net = timm.create_model(TINY).eval()
    net.load_state_dict({name: value.float() for name, value in load_file(real_file).items()})
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        found = model.outputs(images, LOGITS).logits["head"]
        torch.testing.assert_close(found, net(images * 2 - 1), rtol=1e-5, atol=1e-4)
    assert found.isfinite().all()


def test_real_weights_know_real_photographs(real_file):
    folder = DATA / "imagenet_photos"
    if not folder.is_dir():
        pytest.skip("the labelled photographs are not here")
    with (folder / "labels.csv").open(newline="") as file:
        chosen = list(csv.DictReader(file))[:30]
    model = builders.build_vit(arch=TINY, weights=parse_weights(str(real_file)))
    view, correct = model.info.view, 0
    for row in chosen:
        with Image.open(folder / row["file"]) as image:
            square = image.convert("RGB").resize((view.resize, view.resize), Image.Resampling.BICUBIC)
        start = (view.resize - view.crop) // 2
        cut = np.array(square)[start : start + view.crop, start : start + view.crop]
        pixels = torch.from_numpy(cut.copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            correct += int(model.outputs(pixels, LOGITS).logits["head"].argmax()) == int(row["class_index"])
    assert correct / len(chosen) > 0.7
