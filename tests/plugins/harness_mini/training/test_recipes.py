"""Recipes: what was frozen is what the code says, and networks that are compared were taught alike."""

from __future__ import annotations

import dataclasses
import json

import pytest

from harness.errors import ParameterError
from harness_mini.networks import NETWORKS
from harness_mini.shapes_dataset import Shapes
from harness_mini.study import frozen, predictions
from harness_mini.study.predictions import PREDICTIONS
from harness_mini.training.recipes import RECIPES, Recipe, digest, recipe_of
from harness_mini.zoo import entries

FROZEN = json.loads(frozen.FILE.read_text(encoding="utf-8"))
TAUGHT_ALIKE = ("vit_mini", "vit_mini_nopos", "cnn_mini", "patchconv_mini", "patchconv_mini_multi")


def differing(first: Recipe, second: Recipe) -> set[str]:
    return {
        field.name for field in dataclasses.fields(Recipe) if getattr(first, field.name) != getattr(second, field.name)
    }


# --- frozen ------------------------------------------------------------------------------------------------------


def test_recipes_are_those_that_were_frozen():
    assert {name: digest(recipe) for name, recipe in RECIPES.items()} == FROZEN["recipes_sha256"]


def test_predictions_are_those_that_were_frozen():
    assert predictions.digest() == FROZEN["predictions_sha256"]


def test_scenes_are_those_that_were_frozen():
    assert frozen.drawn_digest() == FROZEN["drawn_sha256"]


def test_nothing_else_was_frozen():
    assert frozen.state() == FROZEN


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_a_digest_follows_every_value_of_a_recipe(field):
    recipe = recipe_of("vit_mini")
    value = getattr(recipe, field)
    other = "other" if value is None or isinstance(value, str) else value + 1
    assert digest(dataclasses.replace(recipe, **{field: other})) != digest(recipe)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(PREDICTIONS[0])])
def test_the_digest_of_predictions_follows_every_word_of_each(field, monkeypatch):
    for i in (0, len(PREDICTIONS) - 1):
        changed = list(PREDICTIONS)
        changed[i] = dataclasses.replace(changed[i], **{field: getattr(changed[i], field) + "!"})
        monkeypatch.setattr(predictions, "PREDICTIONS", tuple(changed))
        assert predictions.digest() != FROZEN["predictions_sha256"]


def test_a_digest_survives_the_way_through_json():
    for recipe in RECIPES.values():
        assert Recipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe


# --- who is taught what ------------------------------------------------------------------------------------------


def test_every_network_has_a_recipe_and_an_entry():
    assert set(RECIPES) == set(NETWORKS) == {entry.name for entry in entries()}


def test_compared_architectures_are_taught_alike_but_for_learning_rates():
    first = recipe_of("vit_mini")
    for name in TAUGHT_ALIKE:
        assert differing(recipe_of(name), first) <= {"learning_rate", "matrix_learning_rate"}
    assert differing(recipe_of("vit_mini_sin"), recipe_of("cnn_mini_sin")) == {"learning_rate", "matrix_learning_rate"}
    assert recipe_of("vit_mini_nopos") == first
    compared = {name for p in PREDICTIONS if p.compares == "architectures" for name in (p.first, p.second)}
    assert compared <= set(TAUGHT_ALIKE)


def test_distilled_networks_differ_from_the_plain_one_by_their_teacher_alone():
    for name, teacher in (("deit_mini", "cnn_mini"), ("deit_mini_shape", "cnn_mini_sin")):
        assert differing(recipe_of(name), recipe_of("vit_mini")) == {"objective", "teacher"}
        assert (recipe_of(name).objective, recipe_of(name).teacher) == ("soft_distillation", teacher)


def test_stylized_networks_differ_by_what_they_see():
    for name, plain in (("vit_mini_sin", "vit_mini"), ("cnn_mini_sin", "cnn_mini")):
        assert differing(recipe_of(name), recipe_of(plain)) == {
            "split",
            "window_cells",
            "window_images",
            "whole_images",
        }


def test_teachers_are_taught_by_labels():
    for recipe in RECIPES.values():
        assert (recipe.teacher is not None) == (recipe.objective == "soft_distillation")
        assert recipe.teacher is None or recipe_of(recipe.teacher).objective == "labels"


def test_no_image_is_shown_twice_and_none_is_lost_to_a_half_batch():
    dataset = Shapes()
    for recipe in RECIPES.values():
        assert recipe.window_images + recipe.whole_images <= len(dataset.index(recipe.split))
        assert recipe.window_images % recipe.batch_size == recipe.whole_images % recipe.batch_size == 0
        assert recipe.steps == (recipe.window_images / recipe.batch_size, recipe.whole_images / recipe.batch_size)


def test_a_name_without_a_recipe_is_answered_with_the_nearest():
    with pytest.raises(ParameterError, match="no recipe named 'vit_mni'") as raised:
        recipe_of("vit_mni")
    assert "vit_mini" in raised.value.hint
    with pytest.raises(ParameterError) as raised:
        recipe_of("resnet50")
    assert all(name in raised.value.hint for name in RECIPES)
