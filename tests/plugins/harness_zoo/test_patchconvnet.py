"""PatchConvNet as a plugin: published sizes, the authors' checkpoints, other input sizes, and the contract kit."""

import pytest
import torch

from harness.backbones.patchconvnet import PatchConvNet
from harness.errors import WeightsError
from harness.types import Capability, OutputSpec
from harness.weights import WeightsChoice, parse_weights
from harness_zoo import patchconvnet
from harness_zoo.patchconvnet import SIZES, Sizes, build

RANDOM = WeightsChoice(origin="random")
PARAMETERS = {
    "s60": 25_231_096,
    "s120": 47_723_896,
    "b60": 99_388_936,
    "b120": 188_611_336,
    "l60": 176_009_576,
    "l120": 334_294_376,
    "s60_multi": 25_614_712,
}
LOGITS = OutputSpec(logits=True)
URL = "https://example.org/s60_224_1k.pth"


@pytest.fixture
def small(monkeypatch):
    """S60 and S60_multi with two narrow trunk blocks, everything else as it is."""
    for arch in ("s60", "s60_multi"):
        monkeypatch.setitem(SIZES, arch, Sizes(width=32, depth=2, layer_scale=0.1, per_class=arch != "s60"))


def network(*, seed, per_class=False):
    return PatchConvNet(width=32, depth=2, num_classes=1000, layer_scale=0.1, per_class=per_class, seed=seed).eval()


def images(side=224):
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def entering(pixels):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (pixels - mean) / std


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameters_are_as_many_as_published(arch):
    with torch.device("meta"):
        model = build(arch=arch, weights=RANDOM)
    assert sum(parameter.numel() for parameter in model.net.parameters()) == PARAMETERS[arch]
    assert model.info.num_blocks == (121 if "120" in arch else 61)
    assert model.info.name == f"patchconvnet_{arch}"
    assert (Capability.POOLED in model.info.capabilities) == (arch != "s60_multi")


def test_every_variant_has_its_initial_layer_scale():
    assert {arch: sizes.layer_scale for arch, sizes in SIZES.items()} == {
        **dict.fromkeys(PARAMETERS, 1e-6),
        "s60": 1e-4,
        "s60_multi": 1e-4,
    }


def test_the_initial_layer_scale_is_the_variants(monkeypatch):
    monkeypatch.setitem(SIZES, "b60", Sizes(width=32, depth=1, layer_scale=1e-6))
    net = build(arch="b60", weights=RANDOM).net
    for gamma in (net.blocks[0].gamma_1, net.blocks_token_only[0].gamma_1, net.blocks_token_only[0].gamma_2):
        assert (gamma == 1e-6).all()


@pytest.mark.parametrize("arch", ["s60", "s60_multi"])
@torch.no_grad()
def test_a_checkpoint_as_the_authors_save_it_is_loaded(small, saved, arch):
    net = network(seed=1, per_class=arch == "s60_multi")
    path = saved({"model": net.state_dict()}, "s60_224_1k.pth")
    model = build(arch=arch, weights=parse_weights(str(path)))
    found = model.outputs(images(), LOGITS).logits["head"]
    torch.testing.assert_close(found, net(entering(images())), rtol=1e-5, atol=1e-5)
    assert model.info.weights.origin == "checkpoint"


def test_a_checkpoint_of_the_other_kind_of_class_token_is_refused(small, saved):
    path = saved(network(seed=1, per_class=True).state_dict())
    with pytest.raises(WeightsError, match=r"missing: head\.weight"):
        build(weights=parse_weights(str(path)))


def test_pretrained_weights_come_from_the_address(small, saved, from_address):
    net = network(seed=3)
    asked = from_address(saved({"model": net.state_dict()}))
    model = build(weights=WeightsChoice(), url=URL)
    assert asked == [(URL, None)]
    assert torch.equal(model.net.head.weight, net.head.weight)
    assert model.info.weights.identity == f"pretrained:{URL}"


def test_without_an_address_there_are_no_pretrained_weights():
    with pytest.raises(WeightsError, match="patchconvnet has no pretrained weights"):
        build(weights=WeightsChoice())


@torch.no_grad()
def test_any_input_size_is_taken(small):
    model = build(weights=RANDOM, input=384)
    assert model.info.view.text == "resize=384,crop=384,interpolation=bicubic"
    assert model.outputs(images(), OutputSpec(tokens=frozenset({1}))).tokens[1].grid == (24, 24)
    assert build(weights=RANDOM).info.view.text == "resize=224,crop=224,interpolation=bicubic"


@pytest.mark.parametrize("arch", ["s60", "s60_multi"])
def test_the_contract_kit_finds_nothing(small, findings, arch):
    (entry,) = patchconvnet.harness_register_models()
    found = findings(entry, lambda *, weights: build(arch=arch, weights=weights), "harness_zoo.patchconvnet")
    if arch == "s60_multi":
        # The entry speaks for S60; what a class token for each class cannot give is known once the network is built.
        assert "pooled" in found.pop("facts_agree")
    assert found == {}
