"""Frost against the package, given its choice and crop, and what the textures of our own are like."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from harness.errors import MissingDependencyError, ParameterError
from harness.targets import missing_packages
from harness_corruptions import frost_textures
from harness_corruptions.frost import FROST, Frost, crop, enlarged, frost, photographs
from harness_corruptions.quantise import eight_bit

needs_package = pytest.mark.skipif(
    bool(missing_packages("corruptions")), reason="the package imagecorruptions is not installed"
)


def in_turn(*values):
    answers = iter(values)
    return lambda *bounds: next(answers)


def expect_equal_to_package(given, tensor_of, fed):
    size = given.shape[1:3]
    textures = [enlarged(texture, size, 1.0) for texture in photographs()]
    for severity, weights in enumerate(FROST, start=1):
        for which, picture in enumerate(given):
            share = (0.37 * which % 1, 0.61 * which % 1)
            top, left = (
                int(part * (long - short))
                for part, long, short in zip(share, textures[which].shape[1:], size, strict=True)
            )
            layer = crop(textures[which], share, size)[None].float() / 255
            found = eight_bit(frost(tensor_of(picture[None]), layer, weights))[0].permute(1, 2, 0).numpy() * 255
            wanted = fed("frost", picture, severity, randint=in_turn(which, top, left))
            # Whole values are cut down by the package where double precision falls short of them.
            assert np.abs(found - wanted).max() < 1.01, (severity, which)
            assert np.abs(found - wanted).mean() < 0.05, (severity, which)


@needs_package
def test_equals_the_package_on_photographs_given_texture_and_crop(photographs, tensor_of, fed):
    expect_equal_to_package(photographs(5), tensor_of, fed)


@needs_package
@pytest.mark.parametrize("size", [(400, 620), (640, 300)])
def test_equals_the_package_where_a_texture_is_too_small(size, pictures, tensor_of, fed):
    expect_equal_to_package(pictures(5, *size), tensor_of, fed)


@pytest.mark.parametrize("size", [(100, 100), (500, 640), (900, 200)])
def test_enlarging_is_the_cubic_interpolation_of_opencv(size):
    cv2 = pytest.importorskip("cv2")
    texture = frost_textures.generated()[2]
    found = enlarged(texture, size, 1.0).permute(1, 2, 0).numpy()
    wanted = cv2.resize(texture, found.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    apart = np.abs(found.astype(int) - wanted)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.001


def test_textures_grow_with_the_image_and_fit_it():
    texture = frost_textures.generated()[0]
    rows, columns = frost_textures.SIZE
    assert enlarged(texture, (224, 224), 1.0).shape == (3, np.ceil(rows * 1.1), np.ceil(columns * 1.1))
    assert enlarged(texture, (448, 448), 2.0).shape == (3, np.ceil(rows * 2.2), np.ceil(columns * 2.2))
    for size in ((8, 8), (8, 900), (900, 40), (224, 1500)):
        for scale in (min(size) / 224, 1.0):
            large = enlarged(texture, size, scale).shape[1:]
            assert all(long > short for long, short in zip(large, size, strict=True)), (size, scale)


def test_a_reduced_texture_is_smoothed_and_not_sampled():
    texture = frost_textures.generated()[3]
    reduced = enlarged(texture, (32, 32), 32 / 224).float()
    wanted = Image.fromarray(texture).resize(reduced.shape[:0:-1], Image.Resampling.BOX)
    apart = reduced.permute(1, 2, 0).numpy() - np.asarray(wanted, dtype=float)
    assert np.abs(apart).mean() < 4


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_frost_is_a_weighted_sum(severity):
    weights = FROST[severity - 1]
    images, layer = torch.rand(2, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = frost(images.requires_grad_(), layer, weights)
    torch.testing.assert_close(found.detach(), weights[0] * images.detach() + weights[1] * layer)
    found.sum().backward()
    assert (images.grad == weights[0]).all()


def test_textures_of_our_own_resemble_photographs_of_frost():
    textures = frost_textures.generated()
    assert len(textures) == 5
    for texture in textures:
        assert texture.shape == (*frost_textures.SIZE, 3)
        assert texture.dtype == np.uint8
        red, green, blue = texture.astype(float).mean(axis=(0, 1))
        # Of the photographs: mean grey 103 to 207, standard deviation 14 to 43, bluish, spectrum falling.
        assert 90 < green < 215
        assert red < green < blue
        assert 14 < texture.astype(float).mean(axis=2).std() < 45
        assert -2.2 < spectral_slope(texture) < -0.6


def spectral_slope(texture, side=256):
    grey = texture.astype(float).mean(axis=2)[:side, :side]
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window[:, None] * window)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    middle = (frequency > 4 / side) & (frequency < 0.25)
    return np.polyfit(np.log(frequency[middle]), np.log(power[middle]), 1)[0]


def test_textures_are_the_same_whenever_they_are_made():
    recipe = frost_textures.RECIPES[1]
    assert np.array_equal(frost_textures.texture(recipe), frost_textures.generated()[1])
    assert frost_textures.generated() is frost_textures.generated()


def test_images_draw_among_five_textures_and_all_places():
    ids = tuple(str(number) for number in range(200))
    layers = Frost().draw(0, ids, (24, 24))
    assert layers.shape == (200, 3, 24, 24)
    greys = layers.float().mean(dim=(1, 2, 3))
    assert len(np.unique(greys.numpy().round(2))) > 150
    means = np.array([texture.mean() for texture in frost_textures.generated()])
    nearest = np.abs(greys.numpy()[:, None] - means).argmin(axis=1)
    assert set(nearest) == set(range(5))


def test_draws_follow_the_id_and_the_seed():
    whole = Frost().draw(3, ("a", "b", "c"), (32, 32))
    assert torch.equal(Frost().draw(3, ("b",), (32, 32))[0], whole[1])
    assert not torch.equal(Frost().draw(4, ("a",), (32, 32))[0], whole[0])


def test_severities_share_the_crop(pictures, corrupted):
    black = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    first, last = (corrupted(Frost(), black, severity) for severity in (1, 5))
    np.testing.assert_allclose(last / 0.75, first / 0.4, atol=4)
    assert first.std() > 1


def test_photographs_that_are_not_installed_name_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        Frost(textures="package")
    assert caught.value.extra == "corruptions"


def test_the_record_of_the_package_says_what_it_does_at_any_size(package):
    params = Frost(implementation="imagecorruptions").info.params
    assert (params["textures"], params["lengths"]) == ("package", "fixed")
    assert Frost(implementation="imagecorruptions", lengths="fixed", textures="package").info.params == params
    for name, value in (("variant", "imagenet_c"), ("quantise", False)):
        with pytest.raises(ParameterError, match=f"takes no {name}={value}"):
            Frost(implementation="imagecorruptions", **{name: value})
