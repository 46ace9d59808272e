"""Occlusion curves of a real ViT-Ti and SqueezeNet on photographs: python tests/real/occlusion_curves.py DIR.

DIR holds ``imagenet_photos`` and ``weights`` (see test_real_occlusion.py). Saliency comes from the ViT's attention,
which is self-saliency for the ViT and a stranger's for the SqueezeNet, and from the SqueezeNet's input gradient, which
is the other way round; the centre prior belongs to neither.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.models import squeezenet1_1

import harness
from harness.api import RunResult, Setup
from harness.components import model_component
from harness.protocols import Model
from harness.types import View
from harness.weights import WeightsChoice
from harness_patchdrop.position_drop import BorderPatchDrop, CentrePatchDrop
from harness_patchdrop.random_drop import OffsetPatchDrop, PixelDrop, RandomPatchDrop
from harness_patchdrop.salient_drop import MatchedPatchDrop, NonsalientPatchDrop, SalientPatchDrop

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
IPVIT = View.parse("ipvit")


def vit_ti(data: Path) -> Model:
    """ViT-Ti/16 with its real weights, as the preset of the registry builds it."""
    folder = data / "weights" / "vit_tiny_patch16_224_in1k"
    (file,) = folder.glob("*.safetensors")
    catalog = Setup().open().catalog
    return model_component(catalog, "vit_ti16", WeightsChoice(origin="checkpoint", path=file)).build()


def squeezenet(data: Path) -> Model:
    """SqueezeNet 1.1 with its real weights, as a caller's own module."""
    net = squeezenet1_1()
    with np.load(data / "weights" / "squeezenet1_1_in1k" / "squeezenet1_1.npz") as file:
        net.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files})
    return harness.wrap(
        net,
        name="squeezenet1_1",
        view=IPVIT,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        label_space="imagenet1k",
    )


def curves(
    data: Path, *, out: Path | None = None, levels: Sequence[float] = LEVELS, limit: int | None = None
) -> RunResult:
    """Both models under every drop, one view, one seed."""
    vit, cnn = vit_ti(data), squeezenet(data)
    drops: list[object] = ["none"]
    plain = (RandomPatchDrop(), OffsetPatchDrop(), PixelDrop(), CentrePatchDrop(), BorderPatchDrop())
    by_attention = {"saliency": vit}
    by_gradient = {"saliency": "gradient", "gradient_of": cnn}
    guided = [
        kind(**source)
        for source in (by_attention, by_gradient)
        for kind in (SalientPatchDrop, NonsalientPatchDrop, MatchedPatchDrop)
    ]
    drops += [(drop, levels) for drop in (*plain, *guided)]
    return harness.run(
        model=[vit, cnn],
        dataset="folder",
        data=data / "imagenet_photos",
        perturb=drops,
        probe="head",
        view=IPVIT,
        out=out,
        limit=limit,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    print(curves(given.data, out=given.out, limit=given.limit))
