"""Native corruptions on real photographs, held against the package that defines the variant imagecorruptions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from corruption_table import DETERMINISTIC, compared, photographs

from harness.targets import missing_packages
from harness_corruptions.reference import NAMES

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "imagenet_photos").is_dir(), reason="the shared photographs are not here"),
    pytest.mark.skipif(bool(missing_packages("corruptions")), reason="the package imagecorruptions is not installed"),
]


@pytest.fixture(scope="module")
def batch():
    return photographs(DATA, 24)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_corruptions_lie_within_a_255th_of_the_package(batch, name):
    rows = compared(name, batch)
    assert [row.severity for row in rows] == [1, 2, 3, 4, 5]
    assert {row.images for row in rows} == {24}
    assert max(row.mean_of_worst_image for row in rows) <= 1


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETERMINISTIC])
def test_random_corruptions_change_images_as_much_and_at_the_same_frequencies(batch, name):
    (row,) = compared(name, batch, (3,), **({"textures": "package"} if name == "frost" else {}))
    assert row.native_std == pytest.approx(row.package_std, rel=0.15)
    assert row.native_mean == pytest.approx(row.package_mean, abs=0.15 * row.package_std)
    assert row.spectral_distance_db < 1
