"""Attention of a trained ViT-Ti on photographs, and of its random twin: how far, where to, and under occlusion."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness
from harness_datasets.mask_folder import MaskFolder
from harness_inspect.attention_distance_probe import AttentionDistanceProbe
from harness_inspect.attention_maps_probe import AttentionMapsProbe
from harness_inspect.attention_pool_maps_probe import AttentionPoolMapsProbe
from harness_inspect.attention_rollout_probe import AttentionRolloutProbe
from harness_patchdrop.random_drop import RandomPatchDrop

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PHOTOS, SEGMENTED = DATA / "imagenet_photos", DATA / "coco_seg"
VIT = DATA / "weights/vit_tiny_patch16_224_in1k/vit_tiny_patch16_224.augreg_in21k_ft_in1k.fp16.safetensors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PHOTOS.is_dir() and SEGMENTED.is_dir() and VIT.is_file()), reason="the shared real data are not here"
    ),
]

UNIFORM_PX = 116.492


def records(probe, *, weights=VIT, dataset="folder", data=PHOTOS, **given):
    asked = {"dataset": dataset, "data": data} if data is not None else {"dataset": dataset}
    result = harness.run(model="vit_ti16", weights=str(weights), probe=probe, view="ipvit", **asked, **given)
    assert result.failures == (), result.failures
    return result.records


def by_block(record, metric):
    return {row.dims["block"]: row for row in record.measurements if row.metric == metric}


def on_objects(probe, weights):
    (record,) = records(
        probe, weights=weights, dataset=MaskFolder(root=str(SEGMENTED), masks="masks_foreground"), data=None
    )
    return record


def test_trained_heads_look_near_and_far_at_first_and_far_at_last():
    """Dosovitskiy et al., figure 7 right: some heads of the lowest blocks are local, those of the highest are not."""
    (record,) = records(AttentionDistanceProbe(), limit=60)
    heads = [
        (row.dims["block"], row.value) for row in record.measurements if row.metric == "attention_distance_of_head"
    ]
    assert len(heads) == 36
    low, high = ([value for block, value in heads if block in blocks] for blocks in ((0, 1, 2), (9, 10, 11)))
    assert min(low) < 30
    assert max(low) - min(low) > 40
    assert min(high) > UNIFORM_PX
    blocks = by_block(record, "attention_distance_of_block")
    assert blocks[1].high < 0.5 * UNIFORM_PX
    assert blocks[11].low > UNIFORM_PX
    uniform = [row.value for row in by_block(record, "uniform_attention_distance").values()]
    assert uniform == pytest.approx([UNIFORM_PX] * 12, abs=5e-4)


def test_untrained_heads_look_everywhere():
    (record,) = records(AttentionDistanceProbe(), weights="random", limit=8)
    for row in record.measurements:
        if row.metric == "attention_distance_of_head":
            assert row.value == pytest.approx(UNIFORM_PX, rel=0.05)


def test_dropping_the_class_token_shortens_distances_by_its_share():
    (kept,), (dropped,) = (records(AttentionDistanceProbe(special=s), limit=8) for s in ("renormalise", "drop"))
    shares = by_block(kept, "special_token_mass")
    assert shares[0].value > 0.2
    longer, shorter = (by_block(record, "attention_distance_of_block") for record in (kept, dropped))
    for block, share in shares.items():
        assert shorter[block].value < longer[block].value
        assert shorter[block].value == pytest.approx(longer[block].value * (1 - share.value), rel=0.25)


def test_the_class_token_turns_to_what_is_left_of_an_occluded_image():
    """Naseer et al., section 3.1; after the first blocks, in which dropped patches are not yet told apart."""
    clean, half, most = records(AttentionMapsProbe(), perturb=["none", (RandomPatchDrop(), (0.5, 0.75))], limit=40)
    assert clean.get("attention_on_visible").value == 1
    for record, share in ((half, 0.5), (most, 0.25)):
        assert record.get("visible_share").value == pytest.approx(share)
        assert record.get("visible_lift").low > 1.2
        blocks = by_block(record, "attention_on_visible_of_block")
        assert blocks[0].high < share
        assert all(blocks[block].low > 1.3 * share for block in (2, 3, 4, 5, 6))


def test_rollout_lies_on_objects_and_that_of_random_weights_as_chance_has_it():
    """The last block alone does not: this model's class token gives much to the corners of every image."""
    rollout, pooled = AttentionRolloutProbe(examples=0), AttentionPoolMapsProbe(examples=0)
    trained, random = on_objects(rollout, VIT), on_objects(rollout, "random")
    assert trained.get("rollout_object_lift").n == 30
    assert trained.get("rollout_object_lift").low > 1
    assert random.get("rollout_object_lift").value == pytest.approx(1, abs=0.02)
    last, of_random = on_objects(pooled, VIT), on_objects(pooled, "random")
    assert of_random.get("pool_object_lift").value == pytest.approx(1, abs=0.02)
    assert of_random.get("effective_share").low > 0.95
    assert last.get("effective_share").high < 0.6
    assert last.get("pool_entropy").high < trained.get("rollout_entropy").low
