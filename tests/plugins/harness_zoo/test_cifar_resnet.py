"""The ResNet for CIFAR-10 as a plugin: real weights on real images, an address, and the contract kit."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.backbones.cifar_resnet import CifarResNet
from harness.types import OutputSpec
from harness.weights import WeightsChoice, parse_weights
from harness_zoo import cifar_resnet

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
WEIGHTS = DATA / "weights" / "resnet20_cifar10" / "resnet20-12fca82f.th"
IMAGES = DATA / "cifar10_jpeg"
LOGITS = OutputSpec(logits=True)


def test_a_checkpoint_of_a_data_parallel_network_is_loaded(saved):
    state = CifarResNet(depth=32, seed=3).state_dict()
    path = saved(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}, "best_prec1": 92.6}, "net.th"
    )
    model = cifar_resnet.build(depth=32, weights=parse_weights(str(path)))
    assert all(torch.equal(value, state[name]) for name, value in model.net.state_dict().items())
    assert model.info.name == "resnet32_cifar10"


def test_pretrained_weights_come_from_the_address(saved, from_address):
    asked = from_address(saved(CifarResNet(depth=20, seed=4).state_dict()))
    cifar_resnet.build(weights=WeightsChoice(), url="https://example.org/net.th")
    assert asked == [("https://example.org/net.th", None)]


@pytest.mark.skipif(not (WEIGHTS.is_file() and IMAGES.is_dir()), reason="the shared real data are not here")
@torch.no_grad()
def test_real_weights_know_real_images():
    model = cifar_resnet.build(weights=parse_weights(str(WEIGHTS)))
    with (IMAGES / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    pixels = np.stack([np.asarray(Image.open(IMAGES / row["file"]).convert("RGB")) for row in rows])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    labels = torch.tensor([int(row["class_index"]) for row in rows])
    found = model.outputs(images, LOGITS).logits["head"].argmax(dim=1)
    assert len(rows) == 300
    # Published: 91.7 % on the images before they were made JPEG.
    assert (found == labels).float().mean() > 0.8


def test_the_contract_kit_finds_nothing(findings):
    (entry,) = cifar_resnet.harness_register_models()
    assert findings(entry, cifar_resnet.build, "harness_zoo.cifar_resnet") == {}
