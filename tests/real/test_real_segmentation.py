"""Real attention on real objects: a trained ViT-Ti beats masks that know nothing, and its random twin does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import harness
from harness.types import View
from harness_datasets.mask_folder import MaskFolder
from harness_inspect.attention_segmentation_probe import AttentionSegmentationProbe

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SEGMENTED = DATA / "coco_seg"
VIT = DATA / "weights/vit_tiny_patch16_224_in1k/vit_tiny_patch16_224.augreg_in21k_ft_in1k.fp16.safetensors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SEGMENTED.is_dir() and VIT.is_file()), reason="the shared real data are not here"),
]


def found(weights, masks, **params):
    dataset = MaskFolder(root=str(SEGMENTED), masks=masks)
    probe = AttentionSegmentationProbe(examples=0, **params)
    result = harness.run(model="vit_ti16", weights=str(weights), dataset=dataset, probe=probe, view="ipvit")
    assert result.failures == (), result.failures
    (record,) = result.records
    return record


@pytest.mark.parametrize("masks", ["masks_class", "masks_foreground"])
@pytest.mark.parametrize("mass", [0.6, 0.9])
def test_trained_attention_lies_on_objects_by_every_rule(masks, mass):
    record = found(VIT, masks, mass=mass)
    for rule in ("oracle", "mean", "fixed", "head_averaged"):
        row = record.get("jaccard_minus_chance", rule=rule)
        assert row.n == 30
        assert row.low > 0, row
    assert record.get("jaccard", rule="oracle").value > record.get("jaccard", rule="mean").value
    assert record.get("images_without_object").value == 0


@pytest.mark.parametrize("mass", [0.6, 0.9])
def test_untrained_attention_scores_what_chance_scores(mass):
    record = found("random", "masks_class", mass=mass)
    for rule in ("oracle", "mean", "fixed", "head_averaged"):
        assert abs(record.get("jaccard_minus_chance", rule=rule).value) < 0.03
    # Large masks look good by themselves: what it scores says nothing without what chance scores.
    assert record.get("jaccard", rule="mean").value > 0.1


def test_masks_are_read_as_their_index_says():
    data = MaskFolder(root=str(SEGMENTED), masks="masks_class")
    foreground = MaskFolder(root=str(SEGMENTED), masks="masks_foreground")
    assert data.index("all").ids[0] == "000000000034.jpg"
    assert data.info.classes[int(data.index("all").labels[0])] == "23"
    assert foreground.info.classes == ("object",)
    listed = (SEGMENTED / "index.csv").read_text().splitlines()[1:]
    for position, line in enumerate(listed):
        name, width, height, _, share, _ = line.split(",")
        with Image.open(SEGMENTED / "images" / f"{name}.jpg") as image:
            assert image.size == (int(width), int(height))
        side = min(int(width), int(height))
        whole = View(resize=side, crop=side, mode="squash")
        for dataset in (data, foreground):
            batch = dataset.load("all", [position], whole)
            assert batch.ids == (f"{name}.jpg",)
            # The nearest pixel moves the edges of an object by less than half a pixel of the larger side.
            np.testing.assert_allclose(float(batch.masks.float().mean()), float(share), atol=0.01)
