"""Elastic transform against the package, given its fields, and the script's definition in slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from harness_corruptions.elastic import (
    PACKAGE_ALPHA,
    PACKAGE_SIGMA,
    PACKAGE_SPAN,
    SCRIPT,
    ElasticTransform,
    affine,
    elastic,
    smoothed,
    smoothing_matrix,
    triangle,
)
from harness_corruptions.quantise import eight_bit


def expect_equal_to_package(given, tensor_of, fed, uniforms_of):
    size = given.shape[1:3]
    uniforms = uniforms_of("elastic", [str(i) for i in range(len(given))], (2, *size))
    fields = smoothed(torch.from_numpy(uniforms) * 2 - 1, (PACKAGE_SIGMA * size[0], PACKAGE_SIGMA * size[1]))
    for severity, alpha in enumerate(PACKAGE_ALPHA, start=1):
        moved = elastic(tensor_of(given), fields * (alpha * PACKAGE_SPAN * size[0]))
        found = eight_bit(moved).permute(0, 2, 3, 1).numpy() * 255
        for picture, one, values in zip(given, found, uniforms.astype(np.float64), strict=True):
            answers = iter(values)
            wanted = fed(
                "elastic_transform",
                picture,
                severity,
                uniform=lambda low, high, size, answers=answers: low + (high - low) * next(answers),
            )
            assert np.abs(one - wanted).max() < 1.01, severity
            assert (np.abs(one - wanted) > 0.5).mean() < 0.005, severity


def test_equals_the_package_on_photographs_given_its_fields(photographs, tensor_of, fed, uniforms_of):
    expect_equal_to_package(photographs(4), tensor_of, fed, uniforms_of)


@pytest.mark.parametrize("size", [(33, 70), (120, 47)])
def test_equals_the_package_at_other_sizes_given_its_fields(size, pictures, tensor_of, fed, uniforms_of):
    expect_equal_to_package(pictures(2, *size), tensor_of, fed, uniforms_of)


@pytest.mark.parametrize("sigma", [0.4, 2.24, 9.0, 60.0])
def test_smoothing_is_that_of_scipy(sigma):
    fields = torch.rand(2, 2, 17, 30, generator=torch.Generator().manual_seed(0))
    wanted = ndimage.gaussian_filter(fields.double().numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=3)
    np.testing.assert_allclose(smoothed(fields, (sigma, sigma)).numpy(), wanted, atol=1e-6)


def test_smoothing_keeps_the_sum():
    np.testing.assert_allclose(smoothing_matrix(23, 5.0).sum(dim=1), 1, atol=1e-6)


def mirrored(place, length, *, repeated):
    """Where ``place`` lies in the mirror image beyond the ends, the end points repeated or not."""
    period = 2 * length if repeated else 2 * (length - 1)
    place = (place + 0.5 if repeated else place) % period
    place = min(place, period - place)
    return min(max(place - 0.5 if repeated else place, 0), length - 1)


def sampled(picture, y, x, *, repeated):
    """Bilinear in a (rows, columns) picture."""
    y, x = (mirrored(place, length, repeated=repeated) for place, length in zip((y, x), picture.shape, strict=True))
    top, left = int(min(y, picture.shape[0] - 2)), int(min(x, picture.shape[1] - 2))
    down, right = y - top, x - left
    above = picture[top, left] * (1 - right) + picture[top, left + 1] * right
    below = picture[top + 1, left] * (1 - right) + picture[top + 1, left + 1] * right
    return above * (1 - down) + below * down


def test_pixels_come_from_where_the_displacement_points():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 9, 12, generator=generator)
    displacement = torch.rand(1, 2, 9, 12, generator=generator) * 14 - 7
    found = elastic(images, displacement)
    for channel in range(3):
        for y in range(9):
            for x in range(12):
                dx, dy = displacement[0, :, y, x].tolist()
                wanted = sampled(images[0, channel].numpy(), y + dy, x + dx, repeated=True)
                assert found[0, channel, y, x].item() == pytest.approx(wanted, abs=1e-5)


def script_in_loops(picture, fields, jitter, severity, unit_px):
    """The script's definition for a (rows, columns) picture: affine, then displaced along smoothed fields."""
    factor, sigma, most = (share * unit_px for share in SCRIPT[severity - 1])
    rows, columns = picture.shape
    corners = triangle((rows, columns))
    onto = np.linalg.solve(np.c_[corners, np.ones(3)], corners + most * jitter).T
    back = np.linalg.inv(np.vstack([onto, [0, 0, 1]]))
    turned = np.empty_like(picture)
    for y in range(rows):
        for x in range(columns):
            sx, sy, _ = back @ (x, y, 1)
            turned[y, x] = sampled(picture, sy, sx, repeated=False)
    dx, dy = (ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3) * factor for field in fields)
    result = np.empty_like(picture)
    for y in range(rows):
        for x in range(columns):
            result[y, x] = sampled(turned, y + dy[y, x], x + dx[y, x], repeated=True)
    return result


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_the_variant_imagenet_c_is_the_scripts_definition(severity):
    corruption = ElasticTransform(variant="imagenet_c", quantise=False)
    images = torch.rand(2, 3, 21, 21, generator=torch.Generator().manual_seed(severity))
    draws = corruption.draw(0, ("a", "b"), (21, 21))
    found = corruption.corrupt(images, severity, draws)
    unit_px = 244 * 21 / 224
    for number in range(2):
        wanted = script_in_loops(
            images[number, 1].double().numpy(),
            draws.fields[number].double().numpy(),
            draws.corners[number],
            severity,
            unit_px,
        )
        np.testing.assert_allclose(found[number, 1], wanted, atol=2e-4)


def test_the_affine_map_takes_the_triangle_to_where_it_was_moved():
    corners = triangle((40, 60))
    assert corners.tolist() == [[43, 33], [43, 7], [17, 7]]
    moved = corners + np.array([[3, -2], [-4, 1], [2, 5]])
    for (x, y), (to_x, to_y) in zip(corners.astype(int), moved.astype(int), strict=True):
        dot = torch.zeros(1, 3, 40, 60)
        dot[:, :, y, x] = 1
        assert affine(dot, moved[None])[0, 0, to_y, to_x].item() == pytest.approx(1, abs=1e-4)


def test_affine_is_that_of_opencv(photographs, tensor_of):
    cv2 = pytest.importorskip("cv2")
    picture = photographs(1)[0]
    moved = triangle((224, 224)) + np.array([[20.0, -31], [14, 9], [-28, 40]])
    matrix = cv2.getAffineTransform(triangle((224, 224)).astype(np.float32), moved.astype(np.float32))
    wanted = cv2.warpAffine(picture / np.float32(255), matrix, (224, 224), borderMode=cv2.BORDER_REFLECT_101)
    found = affine(tensor_of(picture[None]), moved[None])[0].permute(1, 2, 0).numpy()
    # OpenCV may take places to 1/32 of a pixel.
    assert np.abs(found - wanted).mean() < 1.5 / 255


def test_lengths_of_the_script_scale_with_the_image_unless_fixed(pictures, corrupted):
    small = pictures(1, 56)
    scaled, fixed = (
        corrupted(ElasticTransform(variant="imagenet_c", lengths=lengths), small, 2) for lengths in ("scaled", "fixed")
    )
    assert np.abs(scaled - fixed).mean() > 5
    assert np.array_equal(*(corrupted(ElasticTransform(lengths=lengths), small, 2) for lengths in ("scaled", "fixed")))


@pytest.mark.parametrize("variant", ["imagecorruptions", "imagenet_c"])
def test_draws_follow_the_id_and_the_seed(variant):
    corruption = ElasticTransform(variant=variant)
    whole = corruption.draw(3, ("a", "b", "c"), (30, 21))
    alone = corruption.draw(3, ("b",), (30, 21))
    assert torch.equal(alone.fields[0], whole.fields[1])
    assert not torch.equal(corruption.draw(4, ("b",), (30, 21)).fields, alone.fields)
    if variant == "imagenet_c":
        assert np.array_equal(alone.corners[0], whole.corners[1])
        assert np.abs(whole.corners).max() <= 1
        assert whole.corners.min() < 0 < whole.corners.max()


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 4, 5, generator=generator, dtype=torch.float64)
    displacement = torch.rand(1, 2, 4, 5, generator=generator, dtype=torch.float64) * 2
    assert torch.autograd.gradcheck(lambda x: elastic(x, displacement), images.requires_grad_())
