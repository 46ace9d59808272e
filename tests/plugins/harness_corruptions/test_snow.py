"""Snow against the package, given its noise and angle, and by its definition in slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness_corruptions.quantise import eight_bit
from harness_corruptions.snow import SNOW, Snow, flakes, snow

SEVERITIES = (1, 2, 3, 4, 5)


def expect_equal_to_package(given, tensor_of, fed):
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(given.shape[:3])
    degrees = generator.uniform(-135, -45, len(given))
    for severity, fall in enumerate(SNOW, start=1):
        layer = flakes(torch.from_numpy(noise), degrees, fall, scale=1.0, script=False)
        found = eight_bit(snow(tensor_of(given), layer, fall.clear)).permute(0, 2, 3, 1).numpy() * 255
        wanted = np.stack(
            [
                fed(
                    "snow",
                    picture,
                    severity,
                    normal=lambda size, loc, scale, field=field: loc + scale * field,
                    uniform=lambda low, high, angle=angle: angle,
                )
                for picture, field, angle in zip(given, noise, degrees, strict=True)
            ]
        )
        assert (np.abs(found - wanted) < 1.01).mean() >= 0.999, severity
        assert (np.abs(found - wanted) > 0.5).mean() < 0.01, severity


def test_equals_the_package_on_photographs_given_its_noise_and_angle(photographs, tensor_of, fed):
    expect_equal_to_package(photographs(4), tensor_of, fed)


@pytest.mark.parametrize("size", [(64, 64), (61, 90)])
def test_equals_the_package_at_other_sizes_given_its_noise_and_angle(size, pictures, tensor_of, fed):
    expect_equal_to_package(pictures(2, *size), tensor_of, fed)


def enlarged_in_loops(noise, zoom):
    """The middle of a (rows, columns) field, bilinear from corner to corner."""
    cut = [math.ceil(side / zoom) for side in noise.shape]
    top, left = ((side - part) // 2 for side, part in zip(noise.shape, cut, strict=True))
    size = [round(part * zoom) for part in cut]
    field = np.empty(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = (place * (part - 1) / (side - 1) for place, part, side in zip((i, j), cut, size, strict=True))
            y0, x0 = min(int(y), cut[0] - 2), min(int(x), cut[1] - 2)
            corner = noise[top + y0 : top + y0 + 2, left + x0 : left + x0 + 2]
            field[i, j] = np.array([1 - (y - y0), y - y0]) @ corner @ np.array([1 - (x - x0), x - x0])
    return field


def motion_in_loops(field, radius, sigma, degrees):
    """ImageMagick's motion blur: half a Gaussian along the line, pixels beyond the edge those of the edge."""
    steps = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    rows, columns = field.shape
    blurred = np.zeros_like(field)
    for i, weight in enumerate(steps):
        dy, dx = math.ceil(i * sine - 0.5), math.ceil(i * cosine - 0.5)
        for y in range(rows):
            for x in range(columns):
                near = field[min(max(y + dy, 0), rows - 1), min(max(x + dx, 0), columns - 1)]
                blurred[y, x] += weight / sum(steps) * near
    return blurred


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_variant_imagenet_c_is_the_scripts_definition(severity):
    fall = SNOW[severity - 1]
    noise, degrees = np.random.default_rng(severity).standard_normal((31, 31)), -100.3
    field = enlarged_in_loops(fall.mean + fall.spread * noise, fall.zoom)
    field = np.clip(np.where(field < fall.threshold, 0, field), 0, 1)
    trim = (len(field) - 31) // 2
    field = np.floor(field[trim : trim + 31, trim : trim + 31] * 255) / 255
    wanted = np.round(motion_in_loops(field, fall.radius_px, fall.sigma_px, degrees) * 255)
    found = flakes(torch.from_numpy(noise)[None], np.array([degrees]), fall, scale=1.0, script=True)[0, 0] * 255
    # Halves of a level may be rounded either way.
    assert np.abs(found.numpy() - wanted).max() < 1.01
    assert (np.abs(found.numpy() - wanted) > 0.5).mean() < 0.01


@pytest.mark.parametrize("clear", [0.8, 0.55])
def test_the_image_is_whitened_by_its_grey_value(clear):
    images = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = torch.zeros(2, 1, 6, 5, dtype=torch.float64)
    layer[0, 0, 1, 2] = 0.25
    found = snow(images, layer, clear)
    for n in range(2):
        for y in range(6):
            for x in range(5):
                red, green, blue = images[n, :, y, x].tolist()
                white = 1.5 * (0.299 * red + 0.587 * green + 0.114 * blue) + 0.5
                flake = 0.25 * (n == 0 and (y, x) in ((1, 2), (4, 2)))
                for channel, value in enumerate((red, green, blue)):
                    wanted = clear * value + (1 - clear) * max(value, white) + flake
                    assert found[n, channel, y, x].item() == pytest.approx(wanted)


def test_the_noise_drawn_is_all_that_any_severity_takes():
    corruption = Snow()
    draws = corruption.draw(0, ("a",), (45, 62))
    outside = np.random.default_rng(0).standard_normal((1, 45, 62)).astype(np.float32)
    rows, columns = draws.noise.shape[1:]
    top, left = (45 - rows) // 2, (62 - columns) // 2
    outside[:, top : top + rows, left : left + columns] = draws.noise
    black = torch.zeros(1, 3, 45, 62)
    for severity, fall in enumerate(SNOW, start=1):
        layer = flakes(torch.from_numpy(outside), draws.degrees, fall, scale=45 / 224, script=False)
        wanted = snow(black, layer, fall.clear)
        assert torch.equal(corruption.corrupt(black, severity, draws), wanted)


def test_motion_scales_with_the_image_unless_fixed(pictures, corrupted):
    small = pictures(1, 56)
    scaled, fixed = (corrupted(Snow(lengths=lengths), small, 3) for lengths in ("scaled", "fixed"))
    assert np.abs(scaled - fixed).mean() > 1


def test_angles_fill_their_range_and_draws_follow_the_id():
    draws = Snow().draw(0, tuple(map(str, range(300))), (8, 8))
    assert -135 <= draws.degrees.min() < -130
    assert -50 < draws.degrees.max() <= -45
    alone = Snow().draw(0, ("7",), (8, 8))
    assert torch.equal(alone.noise[0], draws.noise[7])
    assert alone.degrees[0] == draws.degrees[7]


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 3, 4, generator=generator, dtype=torch.float64)
    layer = torch.rand(1, 1, 3, 4, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: snow(x, layer, 0.7), images.requires_grad_())
