"""What stands in place of dropped pixels, for every fill and in every variant alike."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from harness import rng
from harness.errors import CapabilityError
from harness_patchdrop.position_drop import CentrePatchDrop
from harness_patchdrop.random_drop import OffsetPatchDrop, PixelDrop, RandomPatchDrop
from harness_patchdrop.scan_drop import LinearScanDrop

IDS = tuple(f"val/{i:03}.png" for i in range(4))
MODEL = SimpleNamespace(info=SimpleNamespace(name="toy", mean=(0.5, 0.25, 0.125), input_size=56, patch_size=8))
VARIANTS = (RandomPatchDrop, OffsetPatchDrop, PixelDrop, LinearScanDrop, CentrePatchDrop)
FILLS = ("black", "mean", "noise", "blur", "constant")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fill", FILLS)
def test_every_fill_replaces_the_same_pixels_and_leaves_the_others(batch_of, ready, applied, black, variant, fill):
    batch = batch_of(IDS)
    mask = black(applied(ready(variant()), batch, 0.5))
    perturbation = ready(variant(fill=fill, colour=(1.0, 0.0, 0.5)), evaluated=MODEL)
    after = applied(perturbation, batch, 0.5)
    kept = ~mask[:, None].expand_as(batch.images)
    assert torch.equal(after.images[kept], batch.images[kept])
    loss = mask.flatten(1).double().mean(dim=1)
    assert torch.allclose(after.realised["information_loss"], loss, rtol=0, atol=1e-15)
    expected = {
        "black": torch.zeros(1, 3, 1, 1),
        "mean": torch.tensor(MODEL.info.mean).view(1, 3, 1, 1),
        "constant": torch.tensor((1.0, 0.0, 0.5)).view(1, 3, 1, 1),
        "noise": torch.from_numpy(rng.dense_uniforms(0, "patchdrop.noise", IDS, (3, 56, 56))),
    }
    if fill in expected:
        assert torch.equal(after.images[~kept], expected[fill].expand_as(batch.images)[~kept])


def test_the_mean_is_zero_once_the_model_has_normalised(batch_of, ready, applied):
    after = applied(ready(RandomPatchDrop(fill="mean"), evaluated=MODEL), batch_of(IDS), 1.0)
    assert not (after.images - torch.tensor(MODEL.info.mean).view(1, 3, 1, 1)).any()


def test_the_mean_of_no_model_is_refused(batch_of, ready):
    with pytest.raises(CapabilityError, match="mean of the evaluated model"):
        ready(RandomPatchDrop(fill="mean")).begin(batch_of(IDS))


def test_blur_is_a_gaussian_of_the_stated_width(batch_of, ready, applied):
    """A step edge: Pillow's Gaussian is made of box filters, so it agrees to a few grey levels with the exact one."""
    batch = batch_of(IDS[:1])
    images = torch.zeros_like(batch.images)
    images[..., 28:] = 1.0
    batch = batch.with_images(images)
    after = applied(ready(RandomPatchDrop(fill="blur", blur=0.1)), batch, 1.0)
    exact = gaussian_filter(images[0].numpy().astype(np.float64), sigma=(0, 5.6, 5.6), mode="nearest")
    assert np.abs(after.images[0].numpy() - exact).max() < 0.03
    assert 0 < float(after.images.std()) < float(images.std())


@pytest.mark.parametrize("fill", FILLS)
def test_fills_do_not_depend_on_the_batch(batch_of, ready, applied, fill):
    def perturbation():
        return ready(RandomPatchDrop(fill=fill), seed=4, evaluated=MODEL)

    whole = applied(perturbation(), batch_of(IDS), 0.5)
    for i, name in enumerate(IDS):
        assert torch.equal(applied(perturbation(), batch_of([name]), 0.5).images[0], whole.images[i])


def test_noise_differs_between_images_and_seeds(batch_of, ready, applied):
    images = applied(ready(RandomPatchDrop(fill="noise")), batch_of(IDS), 1.0).images
    other = applied(ready(RandomPatchDrop(fill="noise"), seed=1), batch_of(IDS), 1.0).images
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images, other)
    assert float(images.mean()) == pytest.approx(0.5, abs=0.01)


def test_gradients_pass_through_kept_pixels_only(batch_of, ready, applied, black):
    batch = batch_of(IDS[:1])
    mask = black(applied(ready(RandomPatchDrop()), batch, 0.5))
    for fill in FILLS:
        images = batch.images.clone().requires_grad_()
        after = applied(ready(RandomPatchDrop(fill=fill), evaluated=MODEL), batch.with_images(images), 0.5)
        after.images.sum().backward()
        assert torch.equal(images.grad, (~mask)[:, None].expand_as(images).float())
