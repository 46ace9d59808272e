"""One preset of every family at its full size: the whole contract kit, and the logits of the bare network."""

from functools import cache

import pytest
import timm
import torch
import torchvision
import torchvision.transforms.v2.functional as tv

from harness.catalog import build_catalog
from harness.manager import build_manager
from harness.testing import check_named
from harness.types import OutputSpec
from harness.weights import WeightsChoice

pytestmark = pytest.mark.slow

FAMILIES = (
    "vit_s16", "vit_r26_s32", "deit_t_distilled", "deit_t_nopos", "dino_s16", "dinov2_s14", "swin_t", "tnt_s",
    "cait_xxs24", "xcit_t12", "pit_t_distilled", "convit_t", "resnet50", "resnext50_32x4d", "vgg16_bn", "densenet121",
    "inception_v3", "regnety_040", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "convnext_t", "t2t_14",
    "t2t_t_14", "patchconvnet_s60", "patchconvnet_s60_multi", "resnet50_attnpool", "squeezenet1_1", "alexnet",
    "googlenet", "resnet20_cifar10", "timm:visformer_tiny.in1k",
)  # fmt: skip

OF_TIMM = tuple(
    name
    for name in FAMILIES
    if not name.startswith(("t2t", "patchconv", "squeeze", "alex", "google", "resnet20", "resnet50_attn"))
)


@cache
def catalog():
    return build_catalog(build_manager())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_contract_kit_finds_nothing(name):
    outcomes = check_named(catalog(), "model", name)
    assert {outcome.check: outcome.message for outcome in outcomes if outcome.status == "failed"} == {}
    assert sum(outcome.status == "passed" for outcome in outcomes) > 18


def built(name):
    """The model with random weights, every parameter moved off its initial value."""
    resolved = catalog().resolve("model", name)
    model = catalog().load_target(resolved.entry)(**resolved.arguments, weights=WeightsChoice(origin="random"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.net.state_dict().values():
            if value.is_floating_point() and value.ndim:
                value.add_(0.02 * (torch.rand(value.shape, generator=generator) - 0.5))
    return resolved, model


def images_for(info):
    return torch.rand(1, 3, info.input_size, info.input_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", OF_TIMM)
@torch.no_grad()
def test_logits_are_those_of_bare_timm(name):
    resolved, model = built(name)
    config = timm.get_pretrained_cfg(resolved.arguments["arch"])
    options = {"img_size": 224} if name.startswith("dinov2") else {"pos_embed": "none"} if "nopos" in name else {}
    net = timm.create_model(resolved.arguments["arch"], **options).eval()
    net.load_state_dict(model.net.state_dict())
    expected = net(tv.normalize(images_for(model.info), list(config.mean), list(config.std)))
    headless = not model.info.heads
    outputs = model.outputs(images_for(model.info), OutputSpec(logits=not headless, pooled=headless))
    found = outputs.pooled if headless else next(iter(outputs.logits.values()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["squeezenet1_1", "alexnet", "googlenet"])
@torch.no_grad()
def test_logits_are_those_of_bare_torchvision(name):
    _, model = built(name)
    options = {"transform_input": True, "aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, weights=None, **options).eval()
    net.load_state_dict(model.net.state_dict())
    normalised = tv.normalize(images_for(model.info), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected, found = net(normalised), model.outputs(images_for(model.info), OutputSpec(logits=True)).logits["head"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
