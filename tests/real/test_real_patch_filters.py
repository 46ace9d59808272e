"""What trained networks look for first, and where they place patches: unlike the same networks with random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from harness.catalog import build_catalog
from harness.manager import build_manager
from harness.protocols import ProbeContext
from harness.weights import WeightsChoice
from harness_inspect.patch_filters_probe import PatchFiltersProbe
from harness_inspect.position_similarity_probe import PositionSimilarityProbe

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES = {
    "vit_ti16": "vit_tiny_patch16_224_in1k/vit_tiny_patch16_224.augreg_in21k_ft_in1k.fp16.safetensors",
    "squeezenet1_1": "squeezenet1_1_in1k/squeezenet1_1.npz",
    "resnet20_cifar10": "resnet20_cifar10/resnet20-12fca82f.th",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared real data are not here"),
]


@cache
def catalog():
    return build_catalog(build_manager())


def measured(probe, name, *, trained):
    resolved = catalog().resolve("model", name)
    weights = (
        WeightsChoice(origin="checkpoint", path=DATA / "weights" / FILES[name])
        if trained
        else WeightsChoice(origin="random")
    )
    model = catalog().load_target(resolved.entry)(**resolved.arguments, weights=weights)
    context = ProbeContext(model=model.info, classes=(), label_space=None, seed=0, network=model)
    return {row.metric: row.value for row in probe.fit(None, context).start().result()}


@pytest.mark.parametrize("name", FILES)
def test_trained_filters_have_fewer_dimensions_than_random_ones(name):
    trained, random = (measured(PatchFiltersProbe(components=5), name, trained=now) for now in (True, False))
    assert trained["effective_rank"] < 0.75 * random["effective_rank"]
    assert trained["explained_variance"] > random["explained_variance"] + 0.05


def test_patches_are_embedded_by_low_frequencies():
    trained, random = (measured(PatchFiltersProbe(), "vit_ti16", trained=now) for now in (True, False))
    # 13 of 256 frequencies are low, and random filters have as much energy in each.
    assert random["low_frequency_share"] == pytest.approx(13 / 256, rel=0.2)
    assert trained["low_frequency_share"] > 0.2


def test_a_trained_transformer_knows_where_its_patches_lie():
    trained, random = (measured(PositionSimilarityProbe(), "vit_ti16", trained=now) for now in (True, False))
    assert trained["position_locality"] > 0.5
    assert trained["neighbour_similarity"] > 0.8
    assert min(trained["row_structure"], trained["column_structure"]) > 0.4
    assert all(abs(random[metric]) < 0.05 for metric in ("position_locality", "neighbour_similarity", "row_structure"))
