"""The real ViT-Ti/16 and SqueezeNet 1.1 on photographs: clean, attacked, and under the 15 common corruptions.

``python tests/real/robustness_table.py DATA [--images N] [--corruption-images N]`` prints top-1 accuracy in percent
with its interval: clean, under FGSM at 1/255, under 5 steps of PGD of 0.5/255 at 1/255 (and at 4/255 with 20 steps),
transferred from one network to the other; and the mean error of each network under every corruption, and mCE of the
transformer with SqueezeNet as the baseline. DATA holds ``imagenet_photos`` and the weights of both networks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torchvision.models import squeezenet1_1

import harness
from harness.protocols import Model
from harness.types import Measurement, View
from harness_corruptions.plugin import BENCHMARK

VIT = "weights/vit_tiny_patch16_224_in1k/vit_tiny_patch16_224.augreg_in21k_ft_in1k.fp16.safetensors"
SQUEEZENET = "weights/squeezenet1_1_in1k"
ATTACKS = ("none", "fgsm@1", "pgd5@1", "pgd20@4")


def squeezenet(data: Path) -> Model:
    """SqueezeNet 1.1 with its real weights, which reproduce their published input/output vector to 1e-3."""
    folder = data / SQUEEZENET
    network = squeezenet1_1(weights=None)
    with np.load(folder / "squeezenet1_1.npz") as weights:
        network.load_state_dict({name: torch.from_numpy(weights[name]).float() for name in weights.files})
    return harness.wrap(
        network,
        name="squeezenet1_1",
        view=View(resize=256, crop=224, interpolation="bilinear"),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        label_space="imagenet1k",
    )


def attacked(data: Path, *, images: int | None = None) -> dict[str, dict[str, Measurement]]:
    """Top-1 by network and attack. Both see the same pixels (bilinear 256, crop 224)."""
    rows: dict[str, dict[str, Measurement]] = {}
    common = {
        "dataset": "folder",
        "data": data / "imagenet_photos",
        "probe": "head",
        "view": "ipvit",
        "limit": images,
    }
    for name, model, weights in (
        ("vit_ti16", "vit_ti16", str(data / VIT)),
        ("squeezenet1_1", "squeezenet1_1", str(data / SQUEEZENET / "squeezenet1_1.npz")),
    ):
        result = harness.run(model=model, weights=weights, perturb=list(ATTACKS), **common)
        assert result.failures == (), result.failures
        for record in result.records:
            level = "" if record.cell["level"] is None else f"@{record.cell['level']:g}"
            rows.setdefault(name, {})[f"{record.cell['perturbation']}{level}"] = record.get("top1")
    return rows


def corrupted(data: Path, *, images: int | None = None) -> dict[str, dict[str, float]]:
    """Mean error of every corruption by network, and what the summary makes of them."""
    result = harness.run(
        model="vit_ti16",
        weights=str(data / VIT),
        baseline=squeezenet(data),
        dataset="folder",
        data=data / "imagenet_photos",
        probe="head",
        perturb=["none", *(f"{name}@all" for name, _, _ in BENCHMARK)],
        view="ipvit",
        limit=images,
    )
    assert result.failures == (), result.failures
    rows: dict[str, dict[str, float]] = {}
    for record in result.records:
        name = record.cell["perturbation"]
        errors = rows.setdefault(name, {})
        error = 1 - record.get("top1").value
        errors[record.cell["model"]] = errors.get(record.cell["model"], 0.0) + error / (1 if name == "none" else 5)
    for summary in result.summaries:
        for row in summary.measurements:
            if "corruption" not in row.dims and "level" not in row.dims:
                rows.setdefault(summary.summary, {})[row.metric] = row.value
    return rows


def _percent(row: Measurement) -> str:
    return f"{100 * row.value:.1f} [{100 * (row.low or 0):.1f}, {100 * (row.high or 0):.1f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, help="photographs attacked, the same number of each class")
    parser.add_argument("--corruption-images", type=int, help="photographs corrupted")
    given = parser.parse_args()
    print("| network |", " | ".join(ATTACKS), "|\n|---|" + "---|" * len(ATTACKS))
    for network, found in attacked(given.data, images=given.images).items():
        print(f"| {network} |", " | ".join(_percent(row) for row in found.values()), "|")
    print("\n| corruption | numbers |\n|---|---|")
    for corruption, numbers in corrupted(given.data, images=given.corruption_images).items():
        print(f"| {corruption} |", ", ".join(f"{name} {value:.3f}" for name, value in numbers.items()), "|")
