"""What was asked for, joined with suites and defaults."""

from __future__ import annotations

import pytest
from engine_doubles import plugin
from engine_doubles.perturbations import Dimmed

from harness.catalog import build_catalog
from harness.errors import RegistryError, UsageError
from harness.manager import build_manager
from harness.request import Asked
from harness.types import View
from harness.weights import WeightsChoice

REGISTRY = """
probes:
  one_shot:
    use: centroid
    params: {shots: 1}
suites:
  toys:
    summary: all there is
    models: [tiny, headless]
    datasets: [tints]
    perturbations: [none, "dimmed@0.25,0.5"]
    support_perturbations: [none, "dimmed@0.5"]
    probes: [pixels, one_shot]
    view: resize=20,crop=16,interpolation=bilinear
    seeds: [4, 5]
    limit: 12
"""


@pytest.fixture
def catalog(tmp_path):
    file = tmp_path / "registry.yaml"
    file.write_text(REGISTRY)
    manager = build_manager(discover=False, extra=(("doubles", plugin),), strict=True)
    return build_catalog(manager, registry_files=(file,))


def asked(**given):
    return Asked(**{"models": ("tiny",), "datasets": ("tints",), "probes": ("pixels",), **given})


def test_nothing_said_is_the_registrys_defaults(catalog):
    request = Asked().resolve(catalog)
    defaults = catalog.defaults
    assert request.models == [defaults.model]
    assert request.datasets == [defaults.dataset]
    assert request.perturbations == [defaults.perturbation]
    assert request.probes == [defaults.probe]
    assert request.support_perturbations == ["none"]
    assert (request.view, request.precision, request.limit) == (defaults.view, defaults.precision, None)
    assert list(request.seeds) == list(defaults.seeds)
    assert not request.tolerant


def test_a_place_without_a_dataset_is_a_folder(catalog, tmp_path):
    assert Asked(data=tmp_path).resolve(catalog).datasets == ["folder"]
    assert Asked(data=tmp_path, datasets=("tints",)).resolve(catalog).datasets == ["tints"]


def test_a_suite_fills_every_axis_and_is_tolerant(catalog):
    request = Asked(suite="toys").resolve(catalog)
    assert request.models == ["tiny", "headless"]
    assert request.datasets == ["tints"]
    assert request.perturbations == ["none", "dimmed@0.25,0.5"]
    assert request.support_perturbations == ["none", "dimmed@0.5"]
    assert request.probes == ["pixels", "one_shot"]
    assert View.parse(str(request.view)) == View(resize=20, crop=16)
    assert (request.seeds, request.limit, request.tolerant) == ((4, 5), 12, True)


def test_what_is_given_beside_a_suite_replaces_its_axis(catalog):
    request = Asked(suite="toys", models=("tiny",), seeds=(9,), limit=3, view="model").resolve(catalog)
    assert (request.models, request.seeds, request.limit, request.view) == (["tiny"], (9,), 3, "model")
    assert request.probes == ["pixels", "one_shot"]


def test_an_unknown_suite_is_suggested(catalog):
    with pytest.raises(RegistryError, match="no suite named 'toy'") as caught:
        Asked(suite="toy").resolve(catalog)
    assert "toys" in caught.value.hint


def test_a_glob_is_expanded_and_tolerated_and_a_name_is_not(catalog):
    request = asked(perturbations=("*ed@0.5",)).resolve(catalog)
    assert request.tolerant
    assert {"dimmed@0.5", "holed@0.5", "muffled@0.5"} <= set(request.perturbations)
    assert not asked(perturbations=("dimmed",)).resolve(catalog).tolerant


def test_comma_lists_and_files_are_split(catalog, tmp_path):
    listed = tmp_path / "names.txt"
    listed.write_text("headless\nelsewhere\n")
    request = asked(models=("tiny", f"@{listed}"), perturbations=("none,dimmed@0.25,0.5",)).resolve(catalog)
    assert request.models == ["tiny", "headless", "elsewhere"]
    assert request.perturbations == ["none", "dimmed@0.25,0.5"]


def test_instances_pass_through_in_their_place(catalog):
    instance = Dimmed()
    request = asked(perturbations=("none", instance, (instance, 0.5))).resolve(catalog)
    assert request.perturbations == ["none", instance, (instance, 0.5)]


def test_seeds_are_taken_once_each(catalog):
    assert asked(seeds=(2, 0, 2)).resolve(catalog).seeds == (2, 0)


@pytest.mark.parametrize("seeds", [(-1,), (0, -2), (True,), ()])
def test_seeds_that_are_none_are_refused(catalog, seeds):
    with pytest.raises(UsageError, match="seeds"):
        asked(seeds=seeds).resolve(catalog)


def test_everything_else_is_handed_on(catalog):
    weights = WeightsChoice(origin="random", seed=2)
    view = View(crop=8)
    request = asked(
        weights=weights, split="query", view=view, support_seed=3, probe_seed=4, limit="0.5", precision="bf16"
    ).resolve(catalog)
    assert (request.weights, request.split, request.view) == (weights, "query", view)
    assert (request.support_seed, request.probe_seed, request.limit, request.precision) == (3, 4, "0.5", "bf16")


@pytest.mark.parametrize("given", [{"seeds": (-1,)}, {"support_seed": -1}, {"probe_seed": -1}])
def test_every_seed_is_a_whole_number_from_0_up(catalog, given):
    with pytest.raises(UsageError, match="from 0 up"):
        Asked(models=("tiny",), datasets=("tints",), probes=("pixels",), **given).resolve(catalog)
