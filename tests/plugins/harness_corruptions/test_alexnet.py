"""AlexNet's errors against the constants that published mCE are made with, and against what counts of images can be."""

from __future__ import annotations

import pytest

from harness_corruptions.alexnet import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS
from harness_corruptions.plugin import BENCHMARK

PUBLISHED_MEANS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def test_row_means_are_the_published_constants() -> None:
    means = {corruption: sum(row) / 5 for corruption, row in ALEXNET_ERRORS.items()}
    assert means == pytest.approx(PUBLISHED_MEANS, abs=1e-9)


def test_the_mean_of_the_fifteen_is_the_published_one() -> None:
    assert sum(map(sum, ALEXNET_ERRORS.values())) / 75 == pytest.approx(0.788993, abs=5e-7)


def test_every_error_is_a_count_of_50_000_images() -> None:
    for error in (*(error for row in ALEXNET_ERRORS.values() for error in row), ALEXNET_CLEAN_ERROR):
        assert error * 50_000 == pytest.approx(round(error * 50_000), abs=1e-6)


def test_it_has_the_benchmarks_corruptions_in_its_order_and_no_extras() -> None:
    assert list(ALEXNET_ERRORS) == [name for name, *_ in BENCHMARK]
    assert {len(row) for row in ALEXNET_ERRORS.values()} == {5}


def test_only_snow_and_elastic_transform_grow_easier_with_severity() -> None:
    assert {name for name, row in ALEXNET_ERRORS.items() if list(row) != sorted(row)} == {"snow", "elastic_transform"}


def test_the_clean_error_is_that_of_torchvisions_weights_and_rounds_to_the_papers() -> None:
    models = pytest.importorskip("torchvision.models")
    accuracy = models.AlexNet_Weights.IMAGENET1K_V1.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert pytest.approx(1 - accuracy / 100) == ALEXNET_CLEAN_ERROR
    assert round(100 * ALEXNET_CLEAN_ERROR, 1) == 43.5


def test_nobody_can_change_it() -> None:
    with pytest.raises(TypeError):
        ALEXNET_ERRORS["fog"] = (0.0, 0.0, 0.0, 0.0, 0.0)  # type: ignore[index]
