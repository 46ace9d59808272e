"""Probes on the features of a real ViT-Ti: each finds more in them than in those of its random-weights twin."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from offtheshelf_table import WEIGHTS, table

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PARTS = ("cifar10_jpeg/train", "omniglot/images_background_small1.zip", WEIGHTS)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all((DATA / part).exists() for part in PARTS), reason="the shared real data are not here"),
]


@pytest.fixture(scope="module")
def rows():
    return table(DATA, limit=0.5, ensembles=("last", "ensemble4"))


def test_every_probe_finds_more_in_trained_features_than_in_random_ones_and_bare_pixels(rows):
    assert {row["probe"] for row in rows} == {"knn", "linear", "fewshot", "episodes"}
    for row in rows:
        assert row["trained"].low > row["random"].high, row
        # Characters on white paper: bare pixels tell much of them, and one image says little of a class of photographs.
        if row["data"] == "cifar10":
            assert row["trained"].low > row["pixels"].high, row
