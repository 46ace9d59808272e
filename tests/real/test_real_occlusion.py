"""The family on real weights and photographs: the paper's main ordering, and what the offset does to a real ViT."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from occlusion_curves import curves, squeezenet

from harness.types import OutputSpec

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PARTS = ("imagenet_photos", "weights/vit_tiny_patch16_224_in1k", "weights/squeezenet1_1_in1k")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all((DATA / part).is_dir() for part in PARTS), reason="the shared real data are not here"),
]


@pytest.fixture(scope="module")
def accuracy(tmp_path_factory):
    """Top-1 with its interval by start of the model's name, perturbation and source of saliency, at half of all."""
    result = curves(DATA, out=tmp_path_factory.mktemp("out"), levels=(0.5,), limit=60)
    assert result.failures == ()
    found = {}
    for record in result.records:
        source = record.cell["components"]["perturbation"]["params"].get("saliency", "")
        place = record.cell["model"][:3], record.cell["perturbation"], "gradient" if source == "gradient" else ""
        assert place not in found
        found[place] = record.get("top1")
    return found


def test_the_squeezenet_is_the_one_that_was_trained():
    with np.load(DATA / "weights" / "squeezenet1_1_in1k" / "test_vector_0.npz") as file:
        normalised, expected = (torch.from_numpy(file[name]) for name in ("input", "output"))
    model = squeezenet(DATA)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.info.mean, model.info.std))
    found = model.outputs(normalised * std + mean, OutputSpec(logits=True)).logits["head"]
    assert (found - expected).abs().max() < 1e-3


def test_the_transformer_keeps_more_under_random_and_salient_drops(accuracy):
    for drop in ("patchdrop_random", "patchdrop_salient", "patchdrop_center", "patchdrop_border"):
        assert accuracy["vit", drop, ""].low > accuracy["squ", drop, ""].high, drop


def test_cells_that_cut_through_its_patches_take_the_lead_of_the_transformer(accuracy):
    assert accuracy["vit", "patchdrop_offset", ""].high < accuracy["vit", "patchdrop_random", ""].low


def test_salient_cells_cost_more_than_as_many_at_random(accuracy):
    """Self-saliency at half of the mass: few cells, and both models miss them, each by a stranger's map as well."""
    assert accuracy["vit", "patchdrop_salient", ""].value < accuracy["vit", "none", ""].value
    assert (
        accuracy["vit", "patchdrop_salient", "gradient"].value <= accuracy["vit", "patchdrop_matched", "gradient"].value
    )
