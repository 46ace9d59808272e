"""Real weights on real photographs: the same predictions as bare timm, and the occlusion curve of a real ViT."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import harness
from harness.outcome_files import read_outcomes

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PHOTOS = DATA / "imagenet_photos"
TAG = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
WEIGHTS = DATA / "weights" / "vit_tiny_patch16_224_in1k" / f"{TAG}.fp16.safetensors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PHOTOS.is_dir() and WEIGHTS.is_file()), reason="the shared real data are not here"),
]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return harness.run(
        model="vit_ti16",
        weights=str(WEIGHTS),
        dataset="folder",
        data=PHOTOS,
        perturb="patchdrop_random@all",
        probe="top1",
        out=tmp_path_factory.mktemp("out"),
    )


def bare_timm_predictions() -> dict[str, int]:
    import timm
    from PIL import Image
    from safetensors.torch import load_file

    model = timm.create_model(TAG, pretrained=False)
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    model.eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    with (PHOTOS / "labels.csv").open() as file:
        files = [row["file"] for row in csv.DictReader(file)]
    predictions = {}
    with torch.inference_mode():
        for start in range(0, len(files), 25):
            part = files[start : start + 25]
            images = torch.stack([transform(Image.open(PHOTOS / name).convert("RGB")) for name in part])
            predictions |= dict(zip(part, model(images).argmax(dim=1).tolist(), strict=True))
    return predictions


def test_predictions_agree_with_bare_timm(result):
    stored = read_outcomes(result.path, result.get(perturbation="none").key)
    ours = dict(zip(stored.ids, stored.outcomes.columns["prediction"][0].tolist(), strict=True))
    theirs = bare_timm_predictions()
    assert ours.keys() == theirs.keys()
    assert np.mean([ours[name] == theirs[name] for name in ours]) >= 0.99


def test_the_occlusion_curve_falls_slowly(result):
    curve = {r.cell["level"]: r.get("top1").value for r in result.records if r.cell["perturbation"] != "none"}
    losses = [r.get("information_loss").value for r in result.records if r.cell["perturbation"] != "none"]
    counts = [0, 19, 39, 58, 78, 98, 117, 137, 156, 176]
    assert losses == pytest.approx([count / 196 for count in counts], abs=1e-12)
    assert curve[0] == result.get(perturbation="none").get("top1").value > 0.8
    assert curve[0.5] > 0.5 * curve[0]
    assert curve[0.9] < 0.3
