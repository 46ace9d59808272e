"""The harness' own components keep every promise: one per architecture class, and every other component there is."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from PIL import Image

from harness.catalog import build_catalog
from harness.manager import build_manager
from harness.testing import check_named

# The smallest preset of each architecture class, and the baseline without a network.
MODELS = ("vit_ti16", "deit_t_distilled", "resnet18", "pixel_statistics")


@cache
def catalog():
    return build_catalog(build_manager())


def failures(kind, name, **options):
    return {o.check: o.message for o in check_named(catalog(), kind, name, **options) if o.status == "failed"}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    assert failures("model", name) == {}


@pytest.mark.parametrize(
    "name",
    ["none", "patchdrop_random", "patchdrop_random:grid=7x7", "gaussian_noise", "jpeg_compression", "fgsm", "pgd"],
)
def test_perturbations(name):
    assert failures("perturbation", name) == {}


@pytest.mark.parametrize(
    "name",
    [
        "head",
        "fewshot",
        "linear",
        "episodes",
        "knn",
        "centroid",
        "retrieval",
        "correlation",
        "token_cosine",
        "shape_bias",
        "position_similarity",
        "patch_filters",
    ],
)
def test_probes(name):
    assert failures("probe", name) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "correlation:axis=per_dim",
        "layer_occlusion",
        "cost:batch_sizes=1:rounds=3:round_seconds=0",
    ],
)
def test_probes_that_take_their_time(name):
    assert failures("probe", name) == {}


def test_digits():
    assert failures("dataset", "digits") == {}


def test_folder(tmp_path):
    pixels = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (tmp_path / name).mkdir()
        for i in range(8):
            image = Image.fromarray(pixels.integers(0, 256, (40 + i, 48, 3), dtype=np.uint8))
            image.save(tmp_path / name / f"{i}.png")
    assert failures("dataset", "folder", params={"root": str(tmp_path)}) == {}


def test_summaries():
    for name in ("retention", "corruption_error", "mce", "gradient_masking"):
        assert failures("summary", name) == {}
