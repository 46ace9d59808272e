"""Small random networks of timm of each kind, wrapped once, and the bare ones with the same weights."""

import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision.transforms.v2.functional as tv

from harness.backbones.resnet import ResNetModel
from harness.backbones.vision_transformer import TransformerModel
from harness.types import ModelInfo, View, WeightsInfo

# Makes the reduced networks beside this file importable by name, as entries are.
sys.path.insert(0, str(Path(__file__).parent))

ARCHS = {
    "plain": "test_vit.r160_in1k",
    "registers": "test_vit3.r160_in1k",
    "distilled": "deit_tiny_distilled_patch16_224.fb_in1k",
    "resnet": "test_resnet.r160_in1k",
}


def random_network(arch):
    """timm's network in eval mode, with every parameter moved off its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        net = timm.create_model(arch, pretrained=False).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand(tensor.shape, generator=generator))
    return net


@pytest.fixture(scope="session")
def card():
    """``card(kind)``: what is known of a model without its network."""

    def get(kind):
        arch = ARCHS[kind]
        config = timm.get_pretrained_cfg(arch)
        return ModelInfo(
            name=arch,
            family="timm",
            weights=WeightsInfo(origin="random", identity=f"random:{arch}:1"),
            view=View(crop=config.input_size[1]),
            mean=tuple(config.mean),
            std=tuple(config.std),
            label_space="imagenet1k",
            num_classes=None,
            num_blocks=0,
            embed_dim=0,
        )

    return get


@pytest.fixture(scope="session")
def built(card):
    """``built(kind)``: the wrapped network."""
    models = {}

    def get(kind):
        if kind not in models:
            wrap = ResNetModel if kind == "resnet" else TransformerModel
            models[kind] = wrap(random_network(ARCHS[kind]), card(kind))
        return models[kind]

    return get


@pytest.fixture(scope="session")
def bare(built):
    """``bare(kind)``: timm's own network with the same weights."""
    networks = {}

    def get(kind):
        if kind not in networks:
            networks[kind] = timm.create_model(ARCHS[kind], pretrained=False).eval()
            networks[kind].load_state_dict(built(kind).net.state_dict())
        return networks[kind]

    return get


@pytest.fixture(scope="session")
def pixels(built):
    """``pixels(kind, n)``: n random images in [0, 1] of the network's size."""

    def get(kind, n=3):
        side = built(kind).info.input_size
        return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(n))

    return get


@pytest.fixture(scope="session")
def normalised(built):
    """``normalised(kind, images)``: by torchvision, with timm's mean and standard deviation."""

    def get(kind, images):
        config = timm.get_pretrained_cfg(ARCHS[kind])
        return tv.normalize(images, list(config.mean), list(config.std))

    return get
