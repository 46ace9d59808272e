"""Images in a corner: places and areas of the paper, pixels against Pillow, and the same bits in any batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.errors import CapabilityError
from harness.params import canonical, coerce
from harness.protocols import Perturbation, PerturbationContext
from harness.testing.sample import sample_batch, tiny_model
from harness.types import View
from harness_patchdrop.corner import ImageInCorner
from harness_patchdrop.plugin import harness_register_perturbations

IDS = tuple(f"val/{i:03}.png" for i in range(5))
CORNERS = {
    "top_left": (slice(0, 128), slice(0, 128)),
    "top_right": (slice(0, 128), slice(96, 224)),
    "bottom_left": (slice(96, 224), slice(0, 128)),
    "bottom_right": (slice(96, 224), slice(96, 224)),
}


def with_pillow(image, size):
    """(3, H, W) resized channel by channel: Pillow's bilinear filter widens with the scale, so it antialiases."""
    channels = [Image.fromarray(channel.numpy(), mode="F") for channel in image]
    return torch.from_numpy(
        np.stack([np.asarray(channel.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for channel in channels])
    )


def white_batch(height, width):
    return replace(sample_batch([0], side_px=4), images=torch.ones(1, 3, height, width), masks=None)


@pytest.mark.parametrize("corner", CORNERS)
def test_the_paper_shows_128_of_224_pixels_in_a_corner_and_black(corner, batch_of, ready, applied, black):
    batch = batch_of(IDS[:2], height=224, width=224)
    after = applied(ready(ImageInCorner(corner=corner)), batch, None)
    rows, columns = CORNERS[corner]
    for image, small in zip(batch.images, after.images[:, :, rows, columns], strict=True):
        torch.testing.assert_close(small, with_pillow(image, (128, 128)), atol=2e-6, rtol=0)
    rest = torch.ones(224, 224, dtype=torch.bool)
    rest[rows, columns] = False
    assert black(after)[:, rest].all()
    assert not black(after)[:, ~rest].any()
    assert after.realised["covered_area"].tolist() == [128**2 / 224**2] * 2
    assert after.realised["covered_area"].dtype == torch.float64


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 1), st.sampled_from(sorted(CORNERS)))
def test_any_image_at_any_scale_touches_its_corner(height, width, scale, corner):
    perturbation = ImageInCorner(scale=scale, corner=corner, fill="constant", colour=(0.0, 1.0, 0.0))
    perturbation.prepare(
        PerturbationContext(
            seed=0, view=View(crop=4), device=torch.device("cpu"), dataset_fingerprint="none", num_classes=2
        )
    )
    batch = white_batch(height, width)
    after = perturbation.apply(batch, perturbation.begin(batch), None)
    small = (max(1, round(scale * height)), max(1, round(scale * width)))
    white = torch.isclose(after.images, torch.ones(1), atol=1e-6).all(dim=1)[0]
    assert white.sum() == small[0] * small[1]
    assert after.realised["covered_area"].tolist() == [small[0] * small[1] / (height * width)]
    rows = white.any(dim=1).nonzero()[:, 0]
    columns = white.any(dim=0).nonzero()[:, 0]
    assert len(rows) == small[0]
    assert (rows[0] if corner.startswith("top") else height - 1 - rows[-1]) == 0
    assert (columns[0] if corner.endswith("left") else width - 1 - columns[-1]) == 0
    assert after.images.min() >= 0
    assert after.images.max() <= 1


def test_scale_1_is_the_image_itself(batch_of, ready, applied):
    batch = batch_of(IDS, height=57, width=43)
    assert torch.equal(applied(ready(ImageInCorner(scale=1.0)), batch, None).images, batch.images)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (57, 43)])
def test_the_bits_of_an_image_do_not_depend_on_its_batch(height, width, batch_of, ready, applied):
    batch = batch_of(IDS, height=height, width=width)
    perturbation = ready(ImageInCorner(corner="bottom_left"))
    whole = applied(perturbation, batch, None).images
    turned = applied(perturbation, batch_of(IDS[::-1], height=height, width=width), None).images
    assert torch.equal(turned.flip(0), whole)
    interleaved = batch.with_images(batch.images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(applied(perturbation, interleaved, None).images, whole)
    for i, name in enumerate(IDS):
        alone = batch_of([name], height=height, width=width)
        assert torch.equal(applied(perturbation, alone, None).images[0], whole[i])


def test_the_canvas_is_the_fill(batch_of, ready, applied):
    batch, model = batch_of(IDS), tiny_model(side_px=56, patch_px=14)
    rest = (slice(None), slice(None), slice(32, 56))
    grey = applied(ready(ImageInCorner(fill="constant", colour=(0.1, 0.2, 0.3))), batch, None).images[rest]
    mean = applied(ready(ImageInCorner(fill="mean"), evaluated=model), batch, None).images[rest]
    for found, colour in ((grey, (0.1, 0.2, 0.3)), (mean, model.info.mean)):
        assert torch.equal(found, torch.tensor(colour).view(1, 3, 1, 1).expand_as(found))
    blurred = applied(ready(ImageInCorner(fill="blur")), batch, None).images[rest]
    assert 0 < blurred.std() < 0.5 * batch.images[rest].std()
    with pytest.raises(CapabilityError, match="fill=mean"):
        applied(ready(ImageInCorner(fill="mean")), batch, None)


def test_noise_is_fixed_for_an_image_whatever_the_seed(batch_of, ready, applied):
    first, other = (applied(ready(ImageInCorner(fill="noise"), seed=seed), batch_of(IDS), None) for seed in (0, 1))
    assert torch.equal(first.images, other.images)
    assert not torch.equal(first.images[0, :, 40:], first.images[1, :, 40:])
    assert first.images[:, :, 32:].mean().item() == pytest.approx(0.5, abs=0.02)


def test_it_keeps_the_contract(batch_of, ready, applied):
    for fill in ("black", "constant", "noise"):
        batch, perturbation = batch_of(IDS), ready(ImageInCorner(fill=fill))
        before, state = batch.images.clone(), perturbation.begin(batch)
        first, again = perturbation.apply(batch, state, None), perturbation.apply(batch, state, None)
        assert isinstance(perturbation, Perturbation)
        assert torch.equal(batch.images, before)
        assert torch.equal(first.images, again.images)
        assert (first.ids, first.images.dtype, first.images.shape) == (batch.ids, torch.float32, batch.images.shape)
        assert first.masks is None


def test_foreground_masks_go_along(batch_of, ready, applied):
    batch = batch_of(IDS)
    masks = batch.images[:, 0] > 0.6
    after = applied(ready(ImageInCorner(corner="bottom_right")), replace(batch, masks=masks), None)
    expected = torch.zeros_like(masks)
    for y in range(32):
        for x in range(32):
            # The pixel that holds the centre of the small one.
            expected[:, 24 + y, 24 + x] = masks[:, (2 * y + 1) * 56 // 64, (2 * x + 1) * 56 // 64]
    assert torch.equal(after.masks, expected)


def test_regions_go_along_and_the_canvas_beside_is_taken(batch_of, ready, applied):
    batch = batch_of(("a", "b"))
    regions = torch.full((2, *batch.images.shape[2:]), 7, dtype=torch.uint8)
    after = applied(ready(ImageInCorner(corner="top_left", scale=0.5)), replace(batch, regions=regions), None)
    height, width = (round(0.5 * side) for side in batch.images.shape[2:])
    assert (after.regions[:, :height, :width] == 7).all()
    assert after.regions.sum() == 2 * 7 * height * width
    assert torch.equal(after.taken, after.regions == 0)


def test_it_must_be_prepared_first(batch_of):
    with pytest.raises(RuntimeError, match="prepare"):
        ImageInCorner().begin(batch_of(IDS[:1]))


def test_the_descriptor_agrees_with_the_perturbation():
    entry = next(entry for entry in harness_register_perturbations() if entry.name == "image_in_corner")
    params = coerce(entry.params, {"corner": "top_right", "scale": "0.5"}, entry.name)
    info = ImageInCorner(corner="top_right", scale=0.5).info
    assert (info.name, info.version, info.stage) == (entry.name, entry.version, entry.stage)
    assert (info.level, info.stochastic, info.params) == (entry.level, entry.stochastic, canonical(params))
    assert (entry.level, entry.stochastic, entry.loss) == (None, False, None)
