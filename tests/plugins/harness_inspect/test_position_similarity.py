"""Similarity of position embeddings: against closed forms, scipy and loops; refusals; and the pictures."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from harness.catalog import build_catalog
from harness.errors import CapabilityError, DataError
from harness.exhibits import Finding
from harness.manager import build_manager
from harness.params import canonical
from harness.protocols import FittedProbe, HasArrays, Probe, ProbeContext, ProbeRun
from harness.testing.sample import TinyModel, TinyShape, tiny_model, without
from harness.types import Capability, OutputSpec, ResultRecord
from harness.weights import WeightsChoice
from harness_inspect.position_similarity import harness_register_probes
from harness_inspect.position_similarity_exhibit import by_distance, exhibit, mosaic
from harness_inspect.position_similarity_probe import (
    PositionSimilarityProbe,
    cosines,
    distances,
    locality,
    position_embeddings,
    structure,
)

SIDE = 6


def with_positions(embeddings, side=SIDE):
    """The kit's transformer with these embeddings (G, D) of its patches, filled up with zeros."""
    model = TinyModel(shape=TinyShape(side_px=8 * side, patch_px=8), label_space="sample", seed=0)
    embeddings = torch.as_tensor(np.asarray(embeddings)).float()
    with torch.no_grad():
        model.net.pos[:, 1:] = 0
        model.net.pos[0, 1:, : embeddings.shape[1]] = embeddings
    return model


def context(model):
    return ProbeContext(model=model.info, classes=(), label_space=None, seed=0, network=model)


def measured(model):
    return PositionSimilarityProbe().fit(None, context(model)).start()


def numbers(run):
    return {row.metric: row.value for row in run.result()}


def places(side=SIDE):
    rows, columns = np.divmod(np.arange(side * side), side)
    return rows, columns


def sinusoids(frequency, side=SIDE):
    """One sine and cosine of the row, and one of the column."""
    rows, columns = (frequency * axis for axis in places(side))
    return np.stack([np.cos(rows), np.sin(rows), np.cos(columns), np.sin(columns)], axis=1)


def random_embeddings(count=SIDE * SIDE, width=24, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width))


def finding(name, model):
    run = measured(model)
    record = ResultRecord(key=name, cell={"weights": "random:tiny"}, measurements=tuple(run.result()))
    return Finding(record=record, model=name, condition="none", arrays=run.arrays())


def test_it_keeps_the_contracts():
    probe, model = PositionSimilarityProbe(), tiny_model()
    run = measured(model)
    assert isinstance(probe, Probe)
    assert isinstance(probe.fit(None, context(model)), FittedProbe)
    assert isinstance(run, ProbeRun)
    assert isinstance(run, HasArrays)
    assert (probe.wants(model.info), probe.features(model.info)) == (OutputSpec(), None)
    assert len(run.outcomes().positions) == 0
    assert run.arrays()["grid"].tolist() == [4, 4]


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    info = PositionSimilarityProbe().info
    assert info.params == canonical(entry.params())
    assert (info.name, info.headline, info.version) == (entry.name, entry.headline, entry.version)
    assert info.of_model
    assert entry.of_model


def test_sinusoids_have_the_similarity_of_their_closed_form():
    frequency = 0.3
    run = measured(with_positions(sinusoids(frequency)))
    rows, columns = places()
    expected = (np.cos(frequency * (rows[:, None] - rows)) + np.cos(frequency * (columns[:, None] - columns))) / 2
    np.testing.assert_allclose(run.arrays()["similarity"], expected, atol=1e-6)
    found = numbers(run)
    assert found["embedding_norm"] == pytest.approx(math.sqrt(2), abs=1e-6)
    assert found["norm_variation"] == pytest.approx(0, abs=1e-6)
    assert found["neighbour_similarity"] == pytest.approx((1 + math.cos(frequency)) / 2, abs=1e-6)
    # Nearer is more similar, but for directions: the axes against the diagonal.
    assert found["position_locality"] > 0.95
    assert found["row_structure"] == pytest.approx(found["column_structure"], abs=1e-6)


def test_embeddings_of_the_row_alone_have_rows_and_no_columns():
    rows, _ = places()
    model = with_positions(np.stack([np.cos(0.4 * rows), np.sin(0.4 * rows)], axis=1))
    found = numbers(measured(model))
    apart = np.mean([math.cos(0.4 * (a - b)) for a, b in itertools.permutations(range(SIDE), 2)])
    assert found["row_structure"] == pytest.approx(1 - apart, abs=1e-6)
    assert found["column_structure"] == pytest.approx(0, abs=1e-6)


def test_locality_is_scipys_rank_correlation():
    similarity = cosines(random_embeddings(), "tiny")
    near = -distances((SIDE, SIDE))
    expected = []
    for p in range(SIDE * SIDE):
        others = [q for q in range(SIDE * SIDE) if q != p]
        expected.append(spearmanr(similarity[p, others], near[p, others]).statistic)
    assert locality(similarity, (SIDE, SIDE), "tiny") == pytest.approx(np.mean(expected), abs=1e-9)


def test_similarity_that_falls_with_distance_is_fully_local():
    grid = (4, 7)
    assert locality(np.exp(-distances(grid)), grid, "tiny") == pytest.approx(1)
    assert locality(-np.exp(-distances(grid)), grid, "tiny") == pytest.approx(-1)


@pytest.mark.parametrize("grid", [(2, 2), (3, 5), (6, 6)])
def test_structure_is_that_of_a_slow_loop(grid):
    similarity = cosines(random_embeddings(grid[0] * grid[1]), "tiny")
    cells = list(itertools.product(range(grid[0]), range(grid[1])))
    groups = {name: [] for name in ("near", "all", "row", "column", "apart")}
    for (p, (a, b)), (q, (c, d)) in itertools.permutations(enumerate(cells), 2):
        value = similarity[p, q]
        groups["all"].append(value)
        groups["row" if a == c else "column" if b == d else "apart"].append(value)
        if abs(a - c) + abs(b - d) == 1:
            groups["near"].append(value)
    mean = {name: float(np.mean(values)) for name, values in groups.items()}
    assert structure(similarity, grid) == pytest.approx(
        {
            "neighbour_similarity": mean["near"],
            "pair_similarity": mean["all"],
            "row_structure": mean["row"] - mean["apart"],
            "column_structure": mean["column"] - mean["apart"],
        }
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_length_and_rotation_change_no_similarity(seed, scale):
    embeddings = random_embeddings(seed=seed)
    turned = scale * embeddings @ np.linalg.qr(random_embeddings(24, 24, seed + 1))[0]
    np.testing.assert_allclose(cosines(turned, "tiny"), cosines(embeddings, "tiny"), atol=1e-9)


def test_what_is_seen_is_what_the_network_adds():
    model = tiny_model()
    embeddings, grid = position_embeddings(model)
    assert grid == (4, 4)
    np.testing.assert_array_equal(embeddings, model.net.pos[0, 1:].double().numpy())
    after = model.outputs(torch.zeros(1, 3, 32, 32), OutputSpec(logits=True))
    before = tiny_model().outputs(torch.zeros(1, 3, 32, 32), OutputSpec(logits=True))
    torch.testing.assert_close(after.logits["head"], before.logits["head"], rtol=0, atol=0)


def test_zero_embeddings_are_refused():
    with pytest.raises(DataError, match="36 of 36 position embeddings are zero"):
        measured(with_positions(np.zeros((SIDE * SIDE, 2))))


def test_one_embedding_for_all_is_refused():
    with pytest.raises(DataError, match="equally similar"):
        measured(with_positions(np.full((SIDE * SIDE, 5), 0.3)))


def test_embeddings_that_are_not_finite_are_refused():
    embeddings = random_embeddings()
    embeddings[3, 0] = np.inf
    with pytest.raises(DataError, match="not finite"):
        measured(with_positions(embeddings))


def test_a_single_patch_is_refused():
    model = TinyModel(shape=TinyShape(side_px=8, patch_px=8), label_space="sample", seed=0)
    with pytest.raises(CapabilityError, match="1 x 1 patches"):
        measured(model)


def test_a_card_without_interventions_is_refused_at_once():
    card = without(tiny_model().info, frozenset({Capability.INTERVENTION}))
    with pytest.raises(CapabilityError, match="does not show"):
        PositionSimilarityProbe().wants(card)


class _Silent:
    """A model without interventions whose card claims them."""

    def __init__(self):
        self._inner = tiny_model()
        self.info = self._inner.info

    def outputs(self, images, want):
        return self._inner.outputs(images, want)


def test_a_model_that_shows_nothing_is_refused():
    with pytest.raises(CapabilityError, match="shows no position embeddings"):
        measured(_Silent())


@cache
def zoo(name):
    catalog = build_catalog(build_manager())
    resolved = catalog.resolve("model", name)
    return catalog.load_target(resolved.entry)(**resolved.arguments, weights=WeightsChoice())


def test_a_trained_transformer_has_places_and_one_without_is_refused():
    found = numbers(measured(zoo("vit_mini")))
    assert found["neighbour_similarity"] > found["pair_similarity"] + 0.3
    with pytest.raises(CapabilityError, match="no absolute position embeddings") as refused:
        measured(zoo("vit_mini_nopos"))
    assert "ViT" in (refused.value.hint or "")


def test_a_network_of_convolutions_is_refused():
    with pytest.raises(CapabilityError, match="no absolute position embeddings"):
        measured(zoo("cnn_mini"))


def test_the_mosaic_has_a_map_at_every_position():
    rows, columns = 3, 4
    similarity = random_embeddings(12, 12)
    whole = mosaic(similarity, (rows, columns))
    assert whole.shape == (rows * 4 - 1, columns * 5 - 1)
    for p, (a, b) in enumerate(itertools.product(range(rows), range(columns))):
        found = whole[a * 4 : a * 4 + rows, b * 5 : b * 5 + columns]
        np.testing.assert_array_equal(found, similarity[p].reshape(rows, columns))
    assert np.isnan(whole[3]).all()
    assert np.isnan(whole[:, 4]).all()
    assert np.isfinite(whole).sum() == 144


def test_the_curve_is_a_mean_over_the_pairs_at_each_distance():
    grid = (4, 5)
    similarity = random_embeddings(20, 20)
    found = dict(zip(*(values.tolist() for values in by_distance(similarity, grid)), strict=True))
    cells = list(itertools.product(range(4), range(5)))
    expected = {}
    for (p, first), (q, second) in itertools.permutations(enumerate(cells), 2):
        expected.setdefault(round(math.dist(first, second)), []).append(similarity[p, q])
    assert found == pytest.approx({distance: np.mean(values) for distance, values in expected.items()})


def test_one_model_is_shown_as_the_paper_shows_it():
    made = exhibit([finding("tiny", tiny_model())])
    assert list(made.pictures) == ["", "distance"]
    (image,) = made.pictures[""].axes[0].images
    assert image.get_array().shape == (19, 19)
    # The ends leave out that a position is like itself, or nothing else would have a colour.
    others = ~np.eye(16, dtype=bool)
    assert image.norm.vmax == -image.norm.vmin == np.abs(measured(tiny_model()).arrays()["similarity"][others]).max()
    (row,) = made.tables[""].rows
    assert row[:3] == ["tiny", 4, 4]
    assert row[3:] == list(numbers(measured(tiny_model())).values())


def test_several_models_have_a_picture_each_and_one_together():
    models = {f"model {i}": with_positions(sinusoids(0.1 * (i + 1))) for i in range(6)}
    made = exhibit([finding(name, model) for name, model in models.items()])
    assert list(made.pictures) == ["", *models]
    labels = [text.get_text() for text in made.pictures[""].legends[0].get_texts()]
    assert labels == list(models)
    assert {row[0] for row in made.tables["distance"].rows} == set(models)


def test_naming_the_device_changes_nothing():
    model = tiny_model()
    here = PositionSimilarityProbe().fit(None, replace(context(model), device=torch.device("cpu")))
    assert numbers(here.start()) == numbers(measured(model))
