"""Every family of convolutional networks against the authors' own modules, and the contract kit on each."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))

from reduced_cnn import (
    CAPABILITIES,
    CASES,
    CLASSES,
    MEAN,
    STD,
    bare,
    build,
    built,
    card,
    entered_by,
    normalised,
    pixels,
    random_network,
    subject,
    watched,
)

from harness.backbones.convnets import FAMILIES, staged_model, transformed_input
from harness.backbones.resnet import ResNetModel
from harness.errors import CapabilityError
from harness.protocols import Model, SupportsIntervention
from harness.testing import run_checks
from harness.types import Capability, ModelInfo, OutputSpec, View, WeightsInfo

LOGITS = OutputSpec(logits=True)
IDS = ("a", "b", "c")
TIMM = [name for name, case in CASES.items() if case.taps]
REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "weights" / "squeezenet1_1_in1k"


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def close(found, expected, tolerance=1e-5):
    """To ``tolerance`` of the largest magnitude: stages of random networks differ by orders of magnitude."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found / scale, expected / scale, rtol=tolerance, atol=tolerance)


def logits(name, images):
    return built(name).outputs(images, LOGITS).logits["head"]


def everything(name):
    blocks = frozenset(range(len(CASES[name].ends)))
    return OutputSpec(logits=True, pooled=True, tokens=blocks, normed_tokens=blocks)


def as_map(tokens):
    return tokens.patches.transpose(1, 2).unflatten(2, tokens.grid)


def patches_of(x):
    return torch.stack([x[:, :, row, column] for row in range(x.shape[2]) for column in range(x.shape[3])], dim=1)


# --- the contract ----------------------------------------------------------------------------------------------


def test_keeps_the_whole_contract(name):
    with torch.enable_grad():
        outcomes = run_checks(subject(name))
    assert [o.message for o in outcomes if o.status == "failed"] == []
    assert {o.check for o in outcomes if o.status == "skipped"} == {"descriptor_is_light"}


def test_every_class_is_tried():
    assert {type(built(name).net) for name in CASES} == set(FAMILIES)


def test_the_card_says_what_the_network_is(name):
    case, model = CASES[name], built(name)
    assert isinstance(model, Model)
    assert isinstance(model, SupportsIntervention)
    info = model.info
    assert (info.num_blocks, (info.embed_dim, info.pooled_dim)) == (len(case.ends), case.widths)
    assert (info.prefix, info.heads, info.num_classes, info.label_space) == ((), ("head",), CLASSES, "sample")
    assert info.capabilities == CAPABILITIES


@pytest.mark.parametrize("name", TIMM)
def test_a_network_without_classes_gives_no_logits(name):
    net = random_network(CASES[name])
    net.reset_classifier(0)
    headless = staged_model(net, card(name))
    assert headless.info.capabilities == CAPABILITIES - {Capability.LOGITS}
    assert (headless.info.num_classes, headless.info.label_space, headless.info.heads) == (None, None, ())
    want, images = OutputSpec(pooled=True), pixels(name)
    assert torch.equal(headless.outputs(images, want).pooled, built(name).outputs(images, want).pooled)
    with pytest.raises(CapabilityError, match="gives no logits"):
        headless.outputs(images, LOGITS)


def test_another_class_is_refused():
    with pytest.raises(CapabilityError, match="how a VisionTransformer is cut") as caught:
        staged_model(timm.create_model("test_vit"), card("resnet"))
    assert "ConvNeXt" in str(caught.value.hint)
    assert isinstance(built("resnet"), ResNetModel)


# --- the same numbers as the authors' modules ------------------------------------------------------------------


def test_logits_and_pooled_are_those_of_the_bare_network(name):
    case, images = CASES[name], pixels(name)
    expected = bare(name)(normalised(images))
    told_apart = expected.std(dim=0).max() / expected.abs().max()
    assert told_apart > 1e-3, "every image gives the same logits, so the test shows nothing"
    outputs = built(name).outputs(images, OutputSpec(logits=True, pooled=True))
    close(outputs.logits["head"], expected)
    if case.classifier is None:
        return
    layer = bare(name).get_submodule(case.classifier)
    close(outputs.pooled, watched(bare(name), {"pooled": case.classifier}, images, entering=True)["pooled"])
    close(functional.linear(outputs.pooled, layer.weight, layer.bias), outputs.logits["head"])


@pytest.mark.parametrize("name", TIMM)
def test_pooled_is_timms_pre_logits(name):
    net, images = bare(name), pixels(name)
    expected = net.forward_head(net.forward_features(normalised(images)), pre_logits=True)
    close(built(name).outputs(images, OutputSpec(pooled=True)).pooled, expected)


def test_tokens_are_the_maps_that_leave_the_stages(name):
    case, images = CASES[name], pixels(name)
    names = dict(enumerate(case.ends)) | ({"norm": case.norm} if case.norm else {})
    expected = watched(bare(name), names, images)
    outputs = built(name).outputs(images, everything(name))
    for block in range(len(case.ends)):
        found = outputs.tokens[block]
        assert found.grid == tuple(expected[block].shape[2:])
        assert found.prefix.shape == (3, 0, expected[block].shape[1])
        close(found.patches, patches_of(expected[block]))
        normed = outputs.normed_tokens[block]
        if case.norm and block == len(case.ends) - 1:
            close(normed.patches, patches_of(expected["norm"]))
            assert not torch.equal(normed.patches, found.patches)
        else:
            assert torch.equal(normed.patches, found.patches)


@pytest.mark.parametrize("name", TIMM)
def test_tokens_are_timms_intermediates(name):
    case, images = CASES[name], pixels(name)
    expected = bare(name).forward_intermediates(
        normalised(images), indices=sorted(case.taps.values()), intermediates_only=True
    )
    outputs = built(name).outputs(images, OutputSpec(tokens=frozenset(case.taps)))
    for block, x in zip(sorted(case.taps), expected, strict=True):
        close(as_map(outputs.tokens[block]), x)


def test_the_normed_tokens_of_densenet_are_timms_last_intermediate():
    images = pixels("densenet")
    expected = bare("densenet").forward_intermediates(normalised(images), indices=[4], intermediates_only=True)
    outputs = built("densenet").outputs(images, OutputSpec(normed_tokens=frozenset({3})))
    close(as_map(outputs.normed_tokens[3]), expected[0])


@pytest.mark.parametrize(
    "name",
    [
        "resnet",
        "densenet",
        "inception_v3",
        "regnety",
        "regnet_preact",
        "regnetz",
        "efficientnet",
        "mobilenetv2",
        "convnext_norm_first",
        "googlenet",
    ],
)
def test_pooled_is_the_mean_of_the_normed_tokens_where_that_is_the_architecture(name):
    last = len(CASES[name].ends) - 1
    outputs = built(name).outputs(pixels(name), everything(name))
    close(outputs.pooled, outputs.normed_tokens[last].patches.mean(dim=1))


def test_convnext_normalises_behind_the_pooling():
    outputs = built("convnext").outputs(pixels("convnext"), everything("convnext"))
    mean, norm = outputs.tokens[3].patches.mean(dim=1), bare("convnext").head.norm
    close(outputs.pooled, functional.layer_norm(mean, mean.shape[1:], norm.weight, norm.bias, norm.eps))


def test_the_classifier_of_squeezenet_reads_the_map():
    for name in ("squeezenet1_0", "squeezenet1_1"):
        images = pixels(name)
        outputs = built(name).outputs(images, everything(name))
        close(outputs.pooled, outputs.tokens[2].patches.mean(dim=1))
        convolution = bare(name).classifier[1]
        places = functional.linear(outputs.tokens[2].patches, convolution.weight[:, :, 0, 0], convolution.bias)
        close(outputs.logits["head"], places.relu().mean(dim=1))
        # So the pooled vector gives the logits by no linear layer.
        through = functional.linear(outputs.pooled, convolution.weight[:, :, 0, 0], convolution.bias)
        assert (through - outputs.logits["head"]).abs().max() > 1e-2


def test_gradients_are_those_of_the_bare_network_and_reach_no_parameter(name):
    with torch.enable_grad():
        ours, theirs = (pixels(name).requires_grad_() for _ in range(2))
        logits(name, ours)[:, 3].sum().backward()
        bare(name)(normalised(theirs))[:, 3].sum().backward()
    close(ours.grad, theirs.grad, 1e-4)
    assert all(p.grad is None and not p.requires_grad for p in built(name).net.parameters())


def test_images_are_independent(name):
    images = pixels(name, 4)
    parts = torch.cat([logits(name, part) for part in (images[:1], images[1:])])
    # Processors choose other kernels for one image than for four: float32 sums of a deep network differ by some 1e-5.
    torch.testing.assert_close(parts, logits(name, images), atol=1e-4, rtol=1e-4)


def test_logits_stay_float32_under_autocast(name):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = logits(name, pixels(name))
    assert found.dtype == torch.float32
    assert not torch.equal(found, logits(name, pixels(name)))


# --- one call --------------------------------------------------------------------------------------------------


def test_each_stage_is_run_once_and_none_too_many(name):
    case, model, calls = CASES[name], built(name), []
    hooks = [
        model.net.get_submodule(end).register_forward_hook(lambda *_, i=i: calls.append(i))
        for i, end in enumerate(case.ends)
    ]
    try:
        model.outputs(pixels(name), everything(name))
        assert calls == list(range(len(case.ends)))
        calls.clear()
        model.outputs(pixels(name), OutputSpec(tokens=frozenset({0}), normed_tokens=frozenset({1})))
        assert calls == [0, 1]
    finally:
        for hook in hooks:
            hook.remove()


def test_parts_of_one_call_are_those_of_separate_calls(name):
    model, images, want = built(name), pixels(name), everything(name)
    whole = model.outputs(images, want)
    for block in want.tokens:
        one = frozenset({block})
        tokens = model.outputs(images, OutputSpec(tokens=one))
        assert (tokens.logits, tokens.pooled, tokens.normed_tokens) == ({}, None, {})
        assert torch.equal(tokens.tokens[block].patches, whole.tokens[block].patches)
        normed = model.outputs(images, OutputSpec(normed_tokens=one))
        assert torch.equal(normed.normed_tokens[block].patches, whole.normed_tokens[block].patches)
    assert torch.equal(model.outputs(images, LOGITS).logits["head"], whole.logits["head"])
    assert torch.equal(model.outputs(images, OutputSpec(pooled=True)).pooled, whole.pooled)


# --- interventions ---------------------------------------------------------------------------------------------


def modules_entered(name):
    """Which of the authors' modules a site stands in front of."""
    case = CASES[name]
    return {**{f"stage:{i}": start for i, start in enumerate(case.starts)}, "pool": case.pool}


def test_changing_nothing_changes_nothing(name):
    images, seen = pixels(name), {}
    clean = logits(name, images)
    expected = watched(bare(name), modules_entered(name), images, entering=True)
    for site in modules_entered(name):

        def look(tokens, site=site):
            seen[site] = tokens
            return tokens

        with built(name).intervene(site, look, ids=IDS):
            close(logits(name, images), clean)
        assert (seen[site].grid, seen[site].ids) == (tuple(expected[site].shape[2:]), IDS)
        close(seen[site].patches, patches_of(expected[site]))
    assert torch.equal(logits(name, images), clean)


def test_zero_and_a_changed_half_are_running_the_bare_network_on_them(name):
    images = pixels(name)
    clean = logits(name, images)

    def half(x):
        columns = torch.arange(x.shape[3]) >= x.shape[3] // 2
        return 2 * x * columns

    def half_of_tokens(tokens):
        columns = torch.arange(tokens.patches.shape[1]) % tokens.grid[1] >= tokens.grid[1] // 2
        return replace(tokens, patches=2 * tokens.patches * columns.view(1, -1, 1))

    for site, module in modules_entered(name).items():
        with built(name).intervene(site, half_of_tokens, ids=IDS):
            found = logits(name, images)
        close(found, entered_by(bare(name), module, half, images))
        assert not torch.equal(found, clean)
        with built(name).intervene(site, lambda t: replace(t, patches=torch.zeros_like(t.patches)), ids=IDS):
            found = built(name).outputs(images, OutputSpec(logits=True, pooled=True))
        close(found.logits["head"], entered_by(bare(name), module, torch.zeros_like, images))
        # Nothing of the image is left.
        close(found.pooled, found.pooled[:1].expand(3, -1))


def test_places_cannot_be_dropped(name):
    def drop(tokens):
        return replace(tokens, patches=tokens.patches[:, :2], kept=torch.arange(2).expand(3, -1))

    with pytest.raises(CapabilityError, match="every patch"), built(name).intervene("stage:1", drop, ids=IDS):
        logits(name, pixels(name))
    outside = f"stage:{len(CASES[name].ends)}"
    with pytest.raises(CapabilityError, match="no site"), built(name).intervene(outside, drop, ids=IDS):
        pass


# --- what is special to one family -----------------------------------------------------------------------------


def test_the_first_layer_of_googlenet_sees_what_torchvision_shows_it():
    images = pixels("googlenet_transforming")
    plain, transforming = built("googlenet"), built("googlenet_transforming")
    assert (plain.info.mean, plain.info.std) == (MEAN, STD)
    assert transforming.info.mean == pytest.approx((0.5, 0.5, 0.5), abs=1e-9)
    assert transforming.info.std == pytest.approx((0.5, 0.5, 0.5), abs=1e-9)
    seen = []
    hook = transforming.net.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    transforming.outputs(images, LOGITS)
    hook.remove()
    close(seen[0], images * 2 - 1)
    close(seen[0], watched(bare("googlenet_transforming"), {"seen": "conv1"}, images, entering=True)["seen"])
    assert transforming.net.transform_input, "the network is left as it was"


def test_another_card_of_googlenet_is_turned_as_the_network_would():
    other = replace(card("googlenet"), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    net = bare("googlenet_transforming")
    turned = transformed_input(net, other)
    images = pixels("googlenet")
    entering = torchvision.transforms.v2.functional.normalize(images, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    found = torchvision.transforms.v2.functional.normalize(images, list(turned.mean), list(turned.std))
    close(found, net._transform_input(entering))
    assert transformed_input(bare("googlenet"), other) is other


def test_auxiliary_classifiers_are_not_run():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        google = torchvision.models.GoogLeNet(num_classes=CLASSES, aux_logits=True, init_weights=False).eval()
        inception = timm.create_model("inception_v3", num_classes=CLASSES, aux_logits=True).eval()
    # timm's runs its own in eval mode, too, for which it needs the full size.
    for net, side, auxiliary in ((google, 64, google.aux1), (inception, 299, inception.AuxLogits)):
        images, calls = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)), []
        auxiliary.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model = staged_model(net, replace(card("googlenet"), view=View(crop=side)))
        found = model.outputs(images, LOGITS).logits["head"]
        assert calls == []
        given = net(normalised(images))
        close(found, given[0] if isinstance(given, tuple) else given)


def test_the_same_seed_builds_the_same_network():
    first, again, other = (build("vgg", seed).net.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


# --- full sizes ------------------------------------------------------------------------------------------------

FULL = {
    "resnet50": (timm.create_model, 224, [256, 512, 1024, 2048], 2048, [56, 28, 14, 7]),
    "wide_resnet50_2": (timm.create_model, 224, [256, 512, 1024, 2048], 2048, [56, 28, 14, 7]),
    "resnext50_32x4d": (timm.create_model, 224, [256, 512, 1024, 2048], 2048, [56, 28, 14, 7]),
    "vgg16": (timm.create_model, 224, [64, 128, 256, 512, 512], 4096, [112, 56, 28, 14, 7]),
    "vgg19_bn": (timm.create_model, 224, [64, 128, 256, 512, 512], 4096, [112, 56, 28, 14, 7]),
    "densenet121": (timm.create_model, 224, [256, 512, 1024, 1024], 1024, [56, 28, 14, 7]),
    "densenet161": (timm.create_model, 224, [384, 768, 2112, 2208], 2208, [56, 28, 14, 7]),
    "inception_v3": (timm.create_model, 299, [64, 192, 288, 768, 2048], 2048, [147, 71, 35, 17, 8]),
    "regnety_040": (timm.create_model, 224, [128, 192, 512, 1088], 1088, [56, 28, 14, 7]),
    "efficientnet_b0": (
        timm.create_model, 224, [16, 24, 40, 80, 112, 192, 320, 1280], 1280, [112, 56, 28, 14, 14, 7, 7, 7],
    ),
    "mobilenetv2_100": (
        timm.create_model, 224, [16, 24, 32, 64, 96, 160, 320, 1280], 1280, [112, 56, 28, 14, 14, 7, 7, 7],
    ),
    "mobilenetv3_large_100": (
        timm.create_model, 224, [16, 24, 40, 80, 112, 160, 960], 1280, [112, 56, 28, 14, 14, 7, 7],
    ),
    "convnext_tiny": (timm.create_model, 224, [96, 192, 384, 768], 768, [56, 28, 14, 7]),
    "alexnet": (torchvision.models.get_model, 224, [64, 192, 384, 256, 256], 4096, [27, 13, 13, 13, 6]),
    "squeezenet1_0": (torchvision.models.get_model, 224, [256, 512, 512], 512, [54, 27, 13]),
    "squeezenet1_1": (torchvision.models.get_model, 224, [128, 256, 512], 512, [55, 27, 13]),
    "googlenet": (torchvision.models.get_model, 224, [480, 832, 1024], 1024, [28, 14, 7]),
}  # fmt: skip
"""How each is made, its side, and, as its paper has them, the width of each stage, of pooled, and side of each map."""


@pytest.mark.parametrize("arch", FULL)
def test_full_sizes_have_the_papers_widths_and_grids(arch):
    make, side, widths, pooled, grids = FULL[arch]
    with torch.device("meta"):
        net = make(arch, **({"init_weights": False, "aux_logits": False} if arch == "googlenet" else {}))
        model = staged_model(net, replace(card("resnet"), view=View(crop=side)))
        blocks = frozenset(range(model.info.num_blocks))
        outputs = model.outputs(torch.empty(1, 3, side, side), OutputSpec(logits=True, pooled=True, tokens=blocks))
    assert [outputs.tokens[i].patches.shape[2] for i in sorted(blocks)] == widths
    assert [outputs.tokens[i].grid for i in sorted(blocks)] == [(cells, cells) for cells in grids]
    assert tuple(outputs.pooled.shape) == (1, pooled) == (1, model.info.pooled_dim)
    assert tuple(outputs.logits["head"].shape) == (1, 1000)
    assert model.info.embed_dim == widths[-1]


# --- real weights ----------------------------------------------------------------------------------------------


def test_squeezenet_reproduces_a_known_vector():
    if not REAL.is_dir():
        pytest.skip("the real weights of SqueezeNet 1.1 are not here")
    with np.load(REAL / "squeezenet1_1.npz") as state, np.load(REAL / "test_vector_0.npz") as vector:
        net = torchvision.models.squeezenet1_1()
        net.load_state_dict({name: torch.from_numpy(state[name]) for name in state})
        given, expected = torch.from_numpy(vector["input"]), torch.from_numpy(vector["output"])
    info = ModelInfo(
        name="squeezenet1_1",
        family="cnn",
        weights=WeightsInfo(origin="checkpoint", identity="sha256:0"),
        view=View(resize=256, crop=224),
        mean=MEAN,
        std=STD,
        label_space="imagenet1k",
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    model = staged_model(net, info)
    # The vector's input is normalised already.
    found = model.outputs(given * std + mean, LOGITS).logits["head"]
    assert (found - expected).abs().max() < 1e-3
