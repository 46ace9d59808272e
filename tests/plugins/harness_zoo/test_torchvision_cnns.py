"""SqueezeNet, AlexNet and GoogLeNet as plugins: torchvision's own modules with the same weights, and the kit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from harness.errors import ParameterError, WeightsError
from harness.types import OutputSpec
from harness.weights import WeightsChoice, parse_weights
from harness_zoo import torchvision_cnns

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "weights" / "squeezenet1_1_in1k"
RANDOM = WeightsChoice(origin="random")
LOGITS = OutputSpec(logits=True)
NETWORKS = ("squeezenet1_0", "squeezenet1_1", "alexnet", "googlenet")


def build(name, weights, **params):
    return torchvision_cnns.build(weights=weights, arch=name, **params)


def bare(name):
    """torchvision's module as it runs with its published weights, here with random ones that let a signal through."""
    options = {"transform_input": True, "aux_logits": True, "init_weights": True} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        net = get_model(name, weights=None, **options).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.ndim == 4:
                nn.init.kaiming_normal_(value, generator=generator)
            elif value.is_floating_point() and value.ndim == 1:
                value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return net


def images(n=2):
    return torch.rand(n, 3, 224, 224, generator=torch.Generator().manual_seed(2))


def entering(pixels):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (pixels - mean) / std


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_as_many_as_published(name):
    with torch.device("meta"):
        model = build(name, RANDOM)
    published = get_model_weights(name).DEFAULT.meta["num_params"]
    assert sum(parameter.numel() for parameter in model.net.parameters()) == published
    assert model.info.name == name
    assert model.info.family == "torchvision_cnn"


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_logits_are_torchvisions_with_the_same_weights(name, saved):
    net = bare(name)
    model = build(name, parse_weights(str(saved(net.state_dict()))))
    expected = net(entering(images()))
    found = model.outputs(images(), LOGITS).logits["head"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()


@torch.no_grad()
def test_googlenet_sheds_its_auxiliary_heads_and_sees_its_own_normalisation(saved):
    net = bare("googlenet")
    assert any(name.startswith("aux1") for name in net.state_dict())
    model = build("googlenet", parse_weights(str(saved(net.state_dict()))))
    assert not any(name.startswith("aux") for name in model.net.state_dict())
    assert (model.info.mean, model.info.std) == ((0.5,) * 3, (0.5,) * 3)
    without = {name: value for name, value in net.state_dict().items() if not name.startswith("aux")}
    again = build("googlenet", parse_weights(str(saved(without, "without.pth"))))
    assert torch.equal(again.net.fc.weight, net.fc.weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_random_weights_are_those_of_their_seed_and_the_global_state_stays(name):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (build(name, parse_weights(f"random:{seed}")).net.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    key = next(key for key, value in first.items() if value.ndim == 4)
    assert not torch.equal(first[key], other[key])


@pytest.mark.parametrize("name", NETWORKS)
def test_pretrained_weights_come_from_an_address_and_from_nowhere_else(name, saved, from_address):
    net = bare(name)
    asked = from_address(saved(net.state_dict()))
    url = get_model_weights(name).DEFAULT.url
    model = build(name, WeightsChoice(), url=url, sha256="cd" * 32)
    assert asked == [(url, "cd" * 32)]
    assert model.info.weights.identity == f"pretrained:{url}"
    own = model.net.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in net.state_dict().items() if key in own)
    with pytest.raises(WeightsError, match="torchvision_cnn has no pretrained weights"):
        build(name, WeightsChoice())


def test_the_view_is_torchvisions_evaluation_at_any_size():
    with torch.device("meta"):
        assert build("alexnet", RANDOM).info.view.text == "resize=256,crop=224,interpolation=bilinear"
        assert build("squeezenet1_1", RANDOM, input=299).info.view.text == "resize=341,crop=299,interpolation=bilinear"
    for name in NETWORKS:
        preset = get_model_weights(name).DEFAULT.transforms()
        assert (preset.resize_size, preset.crop_size, preset.interpolation.value) == ([256], [224], "bilinear")
        assert (tuple(preset.mean), tuple(preset.std)) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_an_input_that_is_too_small_is_refused():
    for name, smallest in (("alexnet", 63), ("squeezenet1_0", 21), ("squeezenet1_1", 17), ("googlenet", 15)):
        with pytest.raises(ParameterError, match=f"{smallest - 1} px is too small"):
            build(name, RANDOM, input=smallest - 1)


@torch.no_grad()
def test_the_smallest_input_is_taken():
    for name, smallest in (("alexnet", 63), ("squeezenet1_0", 21), ("squeezenet1_1", 17), ("googlenet", 15)):
        logits = build(name, RANDOM, input=smallest).outputs(images(1), LOGITS).logits["head"]
        assert logits.shape == (1, 1000)


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared real data are not here")
@torch.no_grad()
def test_real_weights_of_squeezenet_reproduce_their_vector():
    model = build("squeezenet1_1", parse_weights(str(REAL / "squeezenet1_1.npz")))
    with np.load(REAL / "test_vector_0.npz") as vector:
        entered, left = torch.from_numpy(vector["input"]), torch.from_numpy(vector["output"])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.info.mean, model.info.std))
    found = model.outputs(entered * std + mean, LOGITS).logits["head"]
    assert (found - left).abs().max() < 1e-3
    assert left.abs().max() > 100


@pytest.mark.parametrize("name", NETWORKS)
def test_the_contract_kit_finds_nothing(name, findings):
    (entry,) = torchvision_cnns.harness_register_models()
    assert findings(entry, lambda *, weights: build(name, weights), "harness_zoo.torchvision_cnns") == {}
