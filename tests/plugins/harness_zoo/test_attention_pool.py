"""ResNet-50 with attention pooling as a plugin: its size, what a plain checkpoint leaves, and the contract kit."""

import pytest
import torch
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck, ResNet

from harness.backbones import attention_pool as backbone
from harness.errors import WeightsError
from harness.types import OutputSpec
from harness.weights import WeightsChoice, parse_weights
from harness_zoo import attention_pool
from harness_zoo.attention_pool import build

RANDOM = WeightsChoice(origin="random")
NEW = ("cls_token", "aggregation.*", "norm.*")


@pytest.fixture
def small(monkeypatch):
    """A network of one bottleneck a stage, everything else as it is."""
    whole = backbone.AttentionPoolResNet
    monkeypatch.setattr(backbone, "AttentionPoolResNet", lambda **sizes: whole(blocks=(1, 1, 1, 1), **sizes))


def plain_weights():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        return ResNet(Bottleneck, [1, 1, 1, 1]).state_dict()


def test_parameters_are_those_of_resnet50_and_42_million_more():
    with torch.device("meta"):
        net, plain = build(weights=RANDOM).net, resnet50()
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (net, plain)]
    assert counts == [67_534_888, 25_557_032]


@torch.no_grad()
def test_a_plain_checkpoint_gives_stem_stages_and_linear_layer(small, saved):
    state = plain_weights()
    path = saved({"state_dict": {f"module.{name}": value for name, value in state.items()}}, "resnet50.pth.tar")
    model = build(weights=parse_weights(str(path), allow_missing=NEW))
    own = model.net.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    initial = build(weights=RANDOM).net.state_dict()
    left = [name for name in own if name not in state]
    assert left
    assert all(torch.equal(own[name], initial[name]) for name in left)
    bare = ResNet(Bottleneck, [1, 1, 1, 1]).eval()
    bare.load_state_dict(state)
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = bare.maxpool(bare.relu(bare.bn1(bare.conv1((pixels - mean) / std))))
    x = bare.layer4(bare.layer3(bare.layer2(bare.layer1(x))))
    tokens = model.outputs(pixels, OutputSpec(tokens=frozenset({3}))).tokens[3]
    torch.testing.assert_close(tokens.patches, x.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert tokens.grid == (7, 7)


def test_a_plain_checkpoint_without_leave_is_refused(small, saved):
    with pytest.raises(WeightsError, match="missing: cls_token") as refusal:
        build(weights=parse_weights(str(saved(plain_weights()))))
    assert "--allow-missing" in str(refusal.value.hint)


def test_there_are_no_pretrained_weights():
    with pytest.raises(WeightsError, match="resnet50_attnpool has no pretrained weights"):
        build(weights=WeightsChoice())


def test_weights_may_come_from_an_address(small, saved, from_address):
    state = backbone.AttentionPoolResNet(num_classes=1000, seed=3).state_dict()
    asked = from_address(saved(state))
    model = build(weights=WeightsChoice(), url="https://example.org/r50.pth", input=160)
    assert asked == [("https://example.org/r50.pth", None)]
    assert torch.equal(model.net.cls_token, state["cls_token"])
    assert model.info.view.text == "resize=182,crop=160,interpolation=bilinear"


def test_the_contract_kit_finds_nothing(small, findings):
    (entry,) = attention_pool.harness_register_models()
    assert findings(entry, build, "harness_zoo.attention_pool") == {}
