"""Names and instances as components, and which combinations can give a number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from engine_doubles import models
from engine_doubles.data import CountingDataset
from engine_doubles.models import GIVES, SPACE, VIEW, TinyModel, TinyNet
from engine_doubles.perturbations import Dimmed, SignStep, Speckled
from engine_doubles.probes import CentroidProbe, HeadProbe

from harness.adapters import wrap_module
from harness.components import (
    check_applies,
    dataset_component,
    model_component,
    perturbation_component,
    probe_component,
    used_label_map,
)
from harness.errors import CapabilityError, ParameterError, RegistryError, UsageError
from harness.label_maps import find_label_map
from harness.types import Capability, View
from harness.weights import WeightsChoice

PRETRAINED, RANDOM = WeightsChoice(), WeightsChoice(origin="random", seed=3)


@pytest.fixture
def catalog(bench):
    return bench.catalog


def test_a_named_model_is_known_without_being_built(catalog):
    component = model_component(catalog, "tiny:net=2", PRETRAINED)
    assert (component.view, component.label_space, component.capabilities) == (VIEW, SPACE, GIVES)
    assert component.weights.identity == "embedded:tiny:1"
    assert component.ref.identity == {"net": 2}
    assert models.built == []
    assert component.build().info.name == "named_tiny"
    assert models.built == ["tiny:2:pretrained"]


def test_random_weights_are_another_identity(catalog):
    component = model_component(catalog, "tiny", RANDOM)
    assert component.weights.untrained
    assert component.weights.identity.startswith("random:")
    component.build()
    assert models.built == ["tiny:0:random"]


def test_an_instance_is_its_own_card(catalog, model):
    component = model_component(catalog, model, RANDOM)
    assert component.build() is model
    assert component.weights == model.info.weights
    assert component.ref.use == "instance:tiny"


def test_a_bare_module_is_told_to_be_wrapped(catalog):
    with pytest.raises(UsageError, match="TinyNet is neither a name nor a model") as caught:
        model_component(catalog, TinyNet(), PRETRAINED)
    assert "harness.wrap(" in caught.value.hint


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda c: perturbation_component(c, object()), "prepare, begin and apply"),
        (lambda c: perturbation_component(c, (3, [0.5])), "prepare, begin and apply"),
        (lambda c: probe_component(c, object()), "select_support"),
        (lambda c: dataset_component(c, [1, 2]), "harness.TensorDataset"),
    ],
)
def test_other_objects_are_told_what_is_needed(catalog, make, hint):
    with pytest.raises(UsageError) as caught:
        make(catalog)
    assert hint in caught.value.hint


def test_unknown_names_are_the_catalogs_business(catalog):
    with pytest.raises(RegistryError, match="no perturbation named 'dimed'"):
        perturbation_component(catalog, "dimed")


def test_levels_by_name(catalog):
    assert perturbation_component(catalog, "dimmed").levels == (0.0, 0.25, 0.5)
    assert perturbation_component(catalog, "dimmed@all").levels == (0.0, 0.25, 0.5)
    assert perturbation_component(catalog, "dimmed@0.75,0.1").levels == (0.75, 0.1)
    assert perturbation_component(catalog, "none").levels == (None,)
    assert perturbation_component(catalog, "none").is_clean
    assert perturbation_component(catalog, "clean").is_clean
    assert not perturbation_component(catalog, "dimmed").is_clean


@pytest.mark.parametrize("levels", [(0.25, 0.75), [0.25, 0.75], np.array([0.25, 0.75])])
@pytest.mark.parametrize("item", ["dimmed", Dimmed()])
def test_levels_beside_a_name_or_an_instance(catalog, item, levels):
    component = perturbation_component(catalog, (item, levels))
    assert component.levels == (0.25, 0.75)
    assert all(type(level) is float for level in component.levels)


@pytest.mark.parametrize("level", [0.25, 0, np.float32(0.25)])
def test_one_level_beside_an_instance(catalog, level):
    assert perturbation_component(catalog, (Dimmed(), level)).levels == (float(level),)


@pytest.mark.parametrize("levels", [[], "half", [0.5, "x"], None])
def test_levels_that_are_none_are_refused(catalog, levels):
    with pytest.raises(UsageError, match="levels"):
        perturbation_component(catalog, (Dimmed(), levels))


def test_a_level_outside_the_range_is_refused(catalog):
    with pytest.raises(ParameterError, match=r"share must lie in \[0, 1\], not 1.5"):
        perturbation_component(catalog, (Dimmed(), 1.5))
    with pytest.raises(UsageError, match="has no levels"):
        perturbation_component(catalog, ("none", 0.5))


def test_each_seed_gets_an_object_of_its_own(catalog):
    component = perturbation_component(catalog, Speckled())
    assert component.build() is not component.build()


def test_an_injected_model_is_part_of_what_a_perturbation_is(catalog):
    plain = perturbation_component(catalog, "guided")
    assert set(plain.injected) == {"guide"}
    ref, weights = plain.ref.injected["guide"]
    assert (ref.use, weights) == ("tiny", "embedded:tiny:1")
    assert models.built == []
    headless = perturbation_component(catalog, "guided:guide=headless")
    assert headless.ref.fingerprint != plain.ref.fingerprint


def test_what_an_attack_aims_at_decides_what_it_needs(catalog):
    head, probe = perturbation_component(catalog, "signstep"), perturbation_component(catalog, "signstep:aim=probe")
    assert (head.target, head.needs) == ("head", {Capability.LOGITS, Capability.GRADIENTS})
    assert (probe.target, probe.needs) == ("probe", {Capability.GRADIENTS})
    assert perturbation_component(catalog, SignStep()).target == "head"
    assert perturbation_component(catalog, "dimmed").target is None


def test_an_attack_that_says_nothing_aims_where_the_run_says(catalog):
    for item in ("signstep", SignStep(), ("signstep", [16.0])):
        told, plain = perturbation_component(catalog, item, "probe"), perturbation_component(catalog, item)
        assert (told.target, plain.target) == ("probe", "head")
        assert told.ref.fingerprint != plain.ref.fingerprint
    written = perturbation_component(catalog, "signstep:aim=probe")
    assert written.ref.fingerprint == perturbation_component(catalog, "signstep", "probe").ref.fingerprint
    assert perturbation_component(catalog, "signstep:aim=head", "probe").target == "head"
    assert perturbation_component(catalog, "dimmed", "probe").target is None


def test_a_transfer_attack_needs_nothing_of_the_evaluated_model(catalog):
    component = perturbation_component(catalog, "signstep:source=tiny@16")
    assert (component.target, component.needs) == (None, frozenset())
    assert component.source.ref.use == "tiny"
    applies(catalog, model="headless", perturbation="signstep:source=tiny", probe="centroid")
    with pytest.raises(ParameterError, match="cannot aim at the probe"):
        perturbation_component(catalog, "signstep:source=tiny:aim=probe")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("headless", ["signstep: source=headless", "needs logits"]),
        ("elsewhere", ["source=elsewhere", "labels of imagenet1k", "those of shapes"]),
    ],
)
def test_a_source_that_cannot_be_attacked_for_these_classes_is_refused(catalog, source, words):
    with pytest.raises(CapabilityError) as caught:
        applies(catalog, perturbation=f"signstep:source={source}", probe="centroid")
    assert all(word in caught.value.message for word in words)


def test_a_probe_by_name_and_as_an_instance(catalog):
    named, instance = probe_component(catalog, "centroid:shots=5"), CentroidProbe(shots=5)
    given = probe_component(catalog, instance)
    assert (named.learns, named.stochastic, named.ref.identity) == (True, True, {"shots": 5})
    assert (given.learns, given.stochastic, given.ref.identity) == (True, True, {"shots": 5})
    assert given.build() is instance
    assert probe_component(catalog, HeadProbe()).needs_label_space


def test_the_place_of_a_dataset_is_given_once(catalog):
    with pytest.raises(UsageError, match="given twice"):
        dataset_component(catalog, "folder:root=here", "there")


def applies(catalog, *, model="tiny", perturbation="none", probe="pixels", space=SPACE, maps_labels=False):
    check_applies(
        model_component(catalog, model, PRETRAINED),
        perturbation_component(catalog, perturbation),
        dataclasses.replace(probe_component(catalog, probe), maps_labels=maps_labels),
        space,
    )


def test_what_makes_sense_passes(catalog):
    applies(catalog)
    applies(catalog, probe="toy_head")
    applies(catalog, perturbation="signstep", probe="centroid")
    applies(catalog, perturbation="signstep:aim=probe", probe="centroid", space=None)
    applies(catalog, model="elsewhere", probe="centroid")
    applies(catalog, model="headless", probe="centroid", perturbation="dimmed", space=None)


@pytest.mark.parametrize(
    ("combination", "words"),
    [
        ({"model": "headless", "probe": "toy_head"}, ["probe toy_head needs logits", "headless"]),
        ({"model": "headless", "perturbation": "signstep"}, ["perturbation signstep needs logits", "headless"]),
        (
            {"model": "elsewhere", "probe": "toy_head"},
            ["toy_head reads the model's own head", "trained on the labels of imagenet1k", "those of shapes"],
        ),
        (
            {"model": "elsewhere", "perturbation": "signstep", "probe": "centroid"},
            ["signstep attacks the model's own head", "imagenet1k", "shapes"],
        ),
        ({"perturbation": "signstep:aim=probe"}, ["aims at the probe, but probe pixels learns nothing"]),
        ({"probe": "toy_head", "space": None}, ["nothing named"]),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(catalog, combination, words):
    with pytest.raises(CapabilityError) as caught:
        applies(catalog, **combination)
    assert all(word in caught.value.message for word in words), caught.value.message


@pytest.mark.parametrize("space", ["imagenet1k", "imagenet_a", "imagenet_r", "imagenet16"])
def test_a_named_map_between_label_spaces_is_as_good_as_equality(catalog, space):
    applies(catalog, model="elsewhere", probe="toy_head", space=space, maps_labels=True)
    applies(catalog, model="elsewhere", probe="centroid", perturbation="signstep", space=space)
    with pytest.raises(CapabilityError):
        applies(catalog, model="tiny", probe="toy_head", space=space, maps_labels=True)


@pytest.mark.parametrize("space", ["imagenet_a", "imagenet16"])
def test_a_probe_that_maps_no_labels_is_not_asked_through_a_map(catalog, space):
    with pytest.raises(CapabilityError, match="its scores would not mean these classes"):
        applies(catalog, model="elsewhere", probe="toy_head", space=space)


def test_a_cell_names_the_map_its_head_is_read_by(catalog):
    elsewhere = model_component(catalog, "elsewhere", PRETRAINED)
    head, none = probe_component(catalog, "toy_head"), perturbation_component(catalog, "none")
    assert used_label_map(elsewhere, none, head, "imagenet_a") == find_label_map("imagenet1k", "imagenet_a").name
    assert used_label_map(elsewhere, none, head, "imagenet1k") is None
    centroid = probe_component(catalog, "centroid")
    assert used_label_map(elsewhere, none, centroid, "imagenet_a") is None
    attack = perturbation_component(catalog, "signstep")
    assert used_label_map(elsewhere, attack, centroid, "imagenet_a") is not None


def test_the_hint_names_what_else_a_head_can_be_read_in(catalog):
    with pytest.raises(CapabilityError) as caught:
        applies(catalog, model="elsewhere", probe="toy_head")
    assert caught.value.hint.endswith("imagenet16 and imagenet_a and imagenet_r")
    with pytest.raises(CapabilityError) as caught:
        applies(catalog, probe="toy_head", space="digits")
    assert caught.value.hint.endswith("such as fewshot")


def test_label_spaces_that_are_unnamed_never_match(catalog):
    unnamed = model_component(catalog, TinyModel(label_space=None), PRETRAINED)
    assert dataset_component(catalog, CountingDataset(label_space=None)).dataset.info.label_space is None
    with pytest.raises(CapabilityError, match="nothing named"):
        check_applies(unnamed, perturbation_component(catalog, "none"), probe_component(catalog, "toy_head"), None)


def test_several_missing_capabilities_are_all_named(catalog):
    bare = dataclasses.replace(model_component(catalog, "tiny", PRETRAINED), capabilities=frozenset())
    with pytest.raises(CapabilityError, match="needs gradients and logits"):
        check_applies(bare, perturbation_component(catalog, "signstep"), probe_component(catalog, SignFree()), SPACE)


class SignFree(HeadProbe):
    """As an instance it declares no needs."""


def test_what_a_wrapped_module_does_to_pixels_is_part_of_its_reference(catalog):
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))

    def key(**changed):
        given = {"name": "net", "view": View(crop=8), "mean": (0, 0, 0), "std": (1, 1, 1), "label_space": "tints"}
        return model_component(catalog, wrap_module(net, **(given | changed)), PRETRAINED).ref.fingerprint

    assert key() == key()
    for changed in ({"mean": (5, 5, 5)}, {"std": (2, 1, 1)}, {"name": "other"}):
        assert key(**changed) != key()


def test_a_dataset_that_lies_nowhere_takes_no_place(catalog):
    with pytest.raises(UsageError, match="dataset tints takes no --data"):
        dataset_component(catalog, "tints", "there")


def test_two_classes_of_one_name_are_two_components(catalog):
    class Other(CentroidProbe):
        pass

    ours, other = (probe_component(catalog, probe) for probe in (CentroidProbe(), Other()))
    assert ours.ref.key != other.ref.key
    assert ours.ref.use.startswith("instance:centroid:")
    dimmed = (perturbation_component(catalog, kind()) for kind in (Dimmed, type("Dimmed2", (Dimmed,), {})))
    assert len({item.ref.fingerprint for item in dimmed}) == 2
