"""Small random networks of each kind, built once, and the bare timm networks with the same weights."""

import pytest
import timm
import torch
import torchvision.transforms.v2.functional as tv

from harness.weights import parse_weights
from harness_timm.build import build_deit, build_resnet, build_vit

ARCHS = {
    "plain": (build_vit, "test_vit.r160_in1k"),
    "registers": (build_vit, "test_vit3.r160_in1k"),
    "distilled": (build_deit, "deit_tiny_distilled_patch16_224.fb_in1k"),
    "resnet": (build_resnet, "test_resnet.r160_in1k"),
}


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HARNESS_OFFLINE", "1")


@pytest.fixture(scope="session")
def built():
    """``built(kind)``: the wrapped network; random, with every parameter moved off its initial value."""
    models = {}

    def get(kind):
        if kind not in models:
            build, arch = ARCHS[kind]
            model = build(arch=arch, weights=parse_weights("random:1"))
            generator = torch.Generator().manual_seed(0)
            for tensor in model.net.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(0.05 * torch.rand(tensor.shape, generator=generator))
            models[kind] = model
        return models[kind]

    return get


@pytest.fixture(scope="session")
def bare(built):
    """``bare(kind)``: timm's own network with the same weights."""
    networks = {}

    def get(kind):
        if kind not in networks:
            networks[kind] = timm.create_model(ARCHS[kind][1], pretrained=False).eval()
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
        config = timm.get_pretrained_cfg(ARCHS[kind][1])
        return tv.normalize(images, list(config.mean), list(config.std))

    return get
