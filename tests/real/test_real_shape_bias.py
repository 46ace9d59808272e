"""Published decisions of networks give their published shape bias; real weights are asked about real stimuli."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import harness
from harness.decision_files import find_files, read_decisions
from harness.label_maps import find_label_map
from harness.outcome_files import read_outcomes

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CUES = DATA / "cue_conflict"
VIT = DATA / "weights" / "vit_tiny_patch16_224_in1k" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.fp16.safetensors"
SQUEEZENET = DATA / "weights" / "squeezenet1_1_in1k" / "squeezenet1_1.npz"

pytestmark = pytest.mark.skipif(not CUES.is_dir(), reason="the shared real data are not here")


@pytest.mark.parametrize(
    ("subject", "shape", "texture", "bias"),
    [
        ("alexnet", 283, 376, 0.4294),
        ("googlenet", 228, 503, 0.3119),
        ("vgg", 130, 625, 0.1722),
        ("resnet50", 162, 572, 0.2207),
    ],
)
def test_published_decisions(subject, shape, texture, bias):
    files, _ = find_files([CUES / "published_decisions"])
    assert len(files) == 4
    (counts,) = [found.decisions.counts() for found in read_decisions(files) if found.name == subject]
    assert (sum(counts.shape), sum(counts.texture)) == (shape, texture)
    assert round(counts.bias, 4) == bias
    assert (sum(counts.conflict), counts.agreeing, counts.lacking) == (1200, 80, ())


def asked(model, weights, tmp_path, **params):
    from harness_datasets.cue_conflict_folder import CueConflictFolder
    from harness_inspect.shape_bias_probe import ShapeBiasProbe

    return harness.run(
        model=model,
        weights=str(weights),
        dataset=CueConflictFolder(root=str(CUES)),
        probe=ShapeBiasProbe(**params),
        out=tmp_path / "out",
        options=harness.RunOptions(cache_dir=None),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "weights", "low", "high"), [("vit_ti16", VIT, 0.1, 0.45), ("squeezenet1_1", SQUEEZENET, 0.05, 0.4)]
)
def test_real_networks_go_by_texture(tmp_path, model, weights, low, high):
    result = asked(model, weights, tmp_path)
    (record,) = result.records
    bias = record.get("shape_bias")
    assert low < bias.value < high
    assert bias.low < bias.value < bias.high
    assert record.get("coverage").value > 0.4
    assert record.get("shape_accuracy").n == 96
    assert record.cell["view"] == "crop=224"
    stored = read_outcomes(result.path, record.key)
    with (CUES / "labels.csv").open() as file:
        told = {row["file"].removeprefix("stimuli/"): row for row in csv.DictReader(file)}
    names = find_label_map("imagenet1k", "imagenet16").classes
    assert len(stored.ids) == len(told) == 96
    for place, name in enumerate(stored.ids):
        cues = [names[stored.outcomes.columns[cue][0][place]] for cue in ("shape", "texture")]
        assert cues == [told[name]["shape_category"], told[name]["texture_category"]]


@pytest.mark.slow
def test_the_decisions_are_those_of_bare_timm(tmp_path):
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    result = asked("vit_ti16", VIT, tmp_path)
    stored = read_outcomes(result.path, result.records[0].key)
    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", pretrained=False)
    model.load_state_dict({name: value.float() for name, value in load_file(VIT).items()})
    model.eval()
    groups = find_label_map("imagenet1k", "imagenet16").groups
    named = []
    with torch.inference_mode():
        for start in range(0, 96, 16):
            pixels = [
                np.asarray(Image.open(CUES / "stimuli" / name).convert("RGB"))
                for name in stored.ids[start : start + 16]
            ]
            images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
            probabilities = model((images - 0.5) / 0.5).softmax(dim=1)
            means = torch.stack([probabilities[:, list(group)].mean(dim=1) for group in groups], dim=1)
            named += means.argmax(dim=1).tolist()
    assert stored.outcomes.columns["prediction"][0].tolist() == named


@pytest.mark.slow
def test_sum_and_maximum_favour_large_categories(tmp_path):
    named = {
        aggregate: asked("squeezenet1_1", SQUEEZENET, tmp_path / aggregate, aggregate=aggregate)
        for aggregate in ("mean", "sum", "max")
    }
    dogs = {}
    for aggregate, result in named.items():
        column = read_outcomes(result.path, result.records[0].key).outcomes.columns["prediction"][0]
        dogs[aggregate] = int((column == find_label_map("imagenet1k", "imagenet16").classes.index("dog")).sum())
    assert dogs["sum"] > dogs["mean"]
