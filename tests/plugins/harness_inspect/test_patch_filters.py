"""Principal components of the first filters: against scikit-learn, closed forms and loops; and their pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from harness.errors import CapabilityError, DataError, ParameterError
from harness.exhibits import Finding
from harness.params import canonical, coerce
from harness.protocols import FittedProbe, HasArrays, Probe, ProbeContext, ProbeRun
from harness.testing.sample import TinyModel, TinyShape, tiny_model
from harness.types import OutputSpec, ResultRecord
from harness_inspect.patch_filters import PatchFiltersParams, harness_register_probes
from harness_inspect.patch_filters_exhibit import exhibit, mosaic
from harness_inspect.patch_filters_probe import PatchFiltersProbe, low_frequency_share, principal_components


class _WithFilters(TinyModel):
    """The kit's transformer with the filters of its patch embedding, or others."""

    def __init__(self, filters=None) -> None:
        super().__init__(shape=TinyShape(), label_space="sample", seed=0)
        self._filters = self.net.patch_embed.weight if filters is None else filters

    def patch_filters(self):
        return self._filters


class _WithoutFilters:
    """A model that does not say what it begins with."""

    info = tiny_model().info


def measured(model, **params):
    context = ProbeContext(model=model.info, classes=(), label_space=None, seed=0, network=model)
    return PatchFiltersProbe(**params).fit(None, context).start()


def numbers(run):
    return {row.metric: row.value for row in run.result()}


def random_filters(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def as_model(filters):
    return _WithFilters(torch.from_numpy(np.asarray(filters)).float())


def finding(name, model=None, **params):
    run = measured(model or _WithFilters(), **params)
    record = ResultRecord(key=name, cell={"weights": "random:tiny"}, measurements=tuple(run.result()))
    return Finding(record=record, model=name, condition="none", arrays=run.arrays())


def test_it_keeps_the_contracts():
    probe = PatchFiltersProbe()
    run = measured(_WithFilters())
    assert isinstance(probe, Probe)
    assert isinstance(probe.fit(None, _context(_WithFilters())), FittedProbe)
    assert isinstance(run, ProbeRun)
    assert isinstance(run, HasArrays)
    assert (probe.wants(tiny_model().info), probe.features(tiny_model().info)) == (OutputSpec(), None)
    assert len(run.outcomes().positions) == 0


def _context(model):
    return ProbeContext(model=model.info, classes=(), label_space=None, seed=0, network=model)


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    probe = PatchFiltersProbe(components=5)
    assert probe.info.params == canonical(coerce(entry.params, {"components": "5"}, "patch_filters"))
    assert (probe.info.name, probe.info.headline) == (entry.name, entry.headline)
    assert (probe.info.of_model, probe.info.version) == (entry.of_model, entry.version) == (True, 1)


@pytest.mark.parametrize("components", [0, 1025, 2.5])
def test_impossible_numbers_of_components_are_refused(components):
    with pytest.raises(ParameterError, match="components"):
        PatchFiltersProbe(components=components)


@pytest.mark.parametrize("shape", [(64, 3, 4, 4), (20, 3, 8, 8), (200, 3, 3, 3)])
def test_components_and_variances_are_scikit_learns(shape):
    filters = random_filters(*shape)
    components, shares = principal_components(filters, "tiny")
    rank = min(shape[0] - 1, math.prod(shape[1:]))
    expected = PCA(n_components=rank, svd_solver="full").fit(filters.reshape(shape[0], -1))
    np.testing.assert_allclose(shares, expected.explained_variance_ratio_, atol=1e-12)
    cosines = (components.reshape(rank, -1) * expected.components_).sum(axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-9)


def test_numbers_are_those_of_the_embedding():
    model = _WithFilters()
    weights = model.net.patch_embed.weight.numpy()
    shares = PCA().fit(weights.reshape(len(weights), -1)).explained_variance_ratio_
    found = numbers(measured(model, components=7))
    assert found["explained_variance"] == pytest.approx(shares[:7].sum(), abs=1e-6)
    assert found["effective_rank"] == pytest.approx(1 / (shares**2).sum(), rel=1e-5)
    assert {row.n for row in measured(model).result()} == {len(weights)}


def test_known_variances_in_known_directions():
    basis = np.linalg.qr(random_filters(48, 48))[0][:4].reshape(4, 3, 4, 4)
    scales = np.array([4.0, 2.0, 2.0, 1.0])
    # In pairs of opposite sign, so that the mean is zero and nothing turns.
    filters = np.concatenate([scales[:, None, None, None] * basis, -scales[:, None, None, None] * basis])
    found = numbers(measured(as_model(filters), components=1))
    assert found["explained_variance"] == pytest.approx(16 / 25, abs=1e-6)
    assert found["effective_rank"] == pytest.approx(25**2 / (16**2 + 4**2 + 4**2 + 1), rel=1e-6)
    first = measured(as_model(filters)).arrays()["components"][0]
    assert abs(float((first * basis[0]).sum())) == pytest.approx(1, abs=1e-5)


def test_fewer_components_than_asked_explain_everything():
    run = measured(as_model(random_filters(10, 3, 3, 3)))
    assert run.arrays()["components"].shape == (9, 3, 3, 3)
    assert numbers(run)["explained_variance"] == 1.0


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_order_and_sign_of_filters_change_nothing(seed):
    filters = random_filters(24, 3, 4, 4, seed=seed)
    components, shares = principal_components(filters, "tiny")
    for other in (filters[::-1], -filters, filters + random_filters(1, 3, 4, 4, seed=seed + 1)):
        again, again_shares = principal_components(other, "tiny")
        np.testing.assert_allclose(again_shares, shares, atol=1e-10)
        np.testing.assert_allclose(again[:5], components[:5], atol=1e-6)


def by_loop(filters):
    """The share of energy in low frequencies, a frequency at a time."""
    side = filters.shape[-1]
    low = whole = 0.0
    places = np.arange(side)
    for u in range(side):
        for v in range(side):
            wave = np.exp(-2j * np.pi * (u * places[:, None] + v * places[None, :]) / side)
            energy = float((np.abs((filters * wave).sum(axis=(2, 3))) ** 2).sum())
            length = math.hypot(min(u, side - u) / side, min(v, side - v) / side)
            whole += energy
            low += energy if length <= 0.125 else 0.0
    return low / whole


@pytest.mark.parametrize("side", [3, 4, 7, 8, 16])
def test_low_frequencies_are_those_of_a_slow_transform(side):
    filters = random_filters(5, 3, side, side) + 0.5
    assert low_frequency_share(filters) == pytest.approx(by_loop(filters), abs=1e-12)


@pytest.mark.parametrize(("cycles", "share"), [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.0), (8, 0.0)])
def test_waves_are_low_up_to_a_quarter_of_nyquist(cycles, share):
    wave = np.cos(2 * np.pi * cycles * np.arange(16) / 16)
    filters = np.broadcast_to(wave, (2, 3, 16, 16))
    assert low_frequency_share(filters) == pytest.approx(share, abs=1e-12)


def test_filters_that_are_all_alike_are_refused():
    with pytest.raises(DataError, match="all alike"):
        measured(as_model(np.ones((6, 3, 4, 4))))


def test_filters_that_are_not_finite_are_refused():
    filters = random_filters(6, 3, 4, 4)
    filters[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        measured(as_model(filters))


def test_a_model_that_does_not_say_is_refused():
    with pytest.raises(CapabilityError, match="does not say what filters"):
        measured(_WithoutFilters())


def test_a_card_alone_is_refused():
    with pytest.raises(CapabilityError, match="card alone"):
        PatchFiltersProbe().fit(None, ProbeContext(model=tiny_model().info, classes=(), label_space=None, seed=0))


def test_the_mosaic_holds_every_component_around_grey():
    components = random_filters(9, 3, 24, 24)
    picture = mosaic(components, across=4)
    assert picture.shape == (3 * 24 + 2 * 3, 4 * 24 + 3 * 3, 3)
    for i in range(9):
        row, column = 27 * (i // 4), 27 * (i % 4)
        cell = picture[row : row + 24, column : column + 24].transpose(2, 0, 1) - 0.5
        np.testing.assert_allclose(cell / np.abs(cell).max(), components[i] / np.abs(components[i]).max(), atol=1e-12)
        assert np.abs(cell).max() == pytest.approx(0.5)
    assert (picture[24:27] == 1).all()
    assert (picture[54:, 27:] == 1).all()


def test_small_components_are_enlarged_by_whole_factors():
    component = random_filters(1, 3, 3, 3)
    picture = mosaic(component)
    assert picture.shape == (24, 24, 3)
    blocks = picture.reshape(3, 8, 3, 8, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_one_model_has_its_components_and_its_curve():
    made = exhibit([finding("tiny")])
    assert list(made.pictures) == ["", "variance"]
    (row,) = made.tables[""].rows
    assert row[:4] == ["tiny", 48, 8, 28]
    shares = [share for _, _, share, _ in made.tables["variance"].rows]
    assert sum(shares) == pytest.approx(1)


def test_many_models_go_on_several_pictures_and_none_is_left_out():
    names = [f"model {i}" for i in range(8)]
    made = exhibit([finding(name, as_model(random_filters(20 + i, 3, 3 + i, 3 + i))) for i, name in enumerate(names)])
    assert list(made.pictures) == ["", "page2", "variance"]
    assert [row[0] for row in made.tables[""].rows] == names
    shown = [axes.get_title(loc="left") for page in ("", "page2") for axes in made.pictures[page].axes]
    assert all(any(title.startswith(f"{name}\n") for title in shown) for name in names)


def test_parameters_are_documented():
    assert canonical(PatchFiltersParams()) == {"components": 28}
