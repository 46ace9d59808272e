"""Weather and elastic corruptions with draws of their own against the package with its own, over many photographs."""

from __future__ import annotations

import numpy as np
import pytest

from harness_corruptions.elastic import ElasticTransform
from harness_corruptions.fog import Fog
from harness_corruptions.frost import Frost
from harness_corruptions.reference import corrupt_one
from harness_corruptions.snow import Snow
from harness_corruptions.spatter import Spatter

CORRUPTIONS = {
    "snow": Snow,
    "frost": lambda: Frost(textures="package"),
    "fog": Fog,
    "elastic_transform": ElasticTransform,
    "spatter": Spatter,
}
IMAGES = 100
STANDARD_ERRORS = 4
SPECTRUM_APART = {"snow": 0.1, "frost": 0.3, "fog": 0.15, "elastic_transform": 0.05, "spatter": 0.1}
"""Largest relative difference of any ring; five textures of frost and the largest scale of fog vary most."""

MOMENTS = {
    "mean": lambda apart: apart.mean(axis=(1, 2, 3)),
    "mean distance": lambda apart: np.abs(apart).mean(axis=(1, 2, 3)),
    "standard deviation": lambda apart: apart.std(axis=(1, 2, 3)),
}


@pytest.mark.slow
@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_differences_to_the_clean_image_are_distributed_alike(name, severity, photographs, corrupted, radial_spectrum):
    given = photographs(IMAGES)
    native = corrupted(CORRUPTIONS[name](), given, severity) - given
    package = [corrupt_one(name, picture, severity, seed=seed) for seed, picture in enumerate(given)] - given.astype(
        float
    )
    for which, moment in MOMENTS.items():
        apart = moment(native) - moment(package)
        assert abs(apart.mean()) < STANDARD_ERRORS * apart.std() / IMAGES**0.5, which
    rings = radial_spectrum(native) / radial_spectrum(package)
    assert np.abs(rings - 1).max() < SPECTRUM_APART[name], rings
