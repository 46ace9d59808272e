"""Clean accuracy on all of ImageNet's validation images is held against the published one, and nothing else is."""

import numpy as np
import pytest
from engine_doubles import published as published_plugin

import harness
from harness.api import RunResult, Setup
from harness.errors import RegistryError
from harness.options import Counters, RunOptions
from harness.types import View

OPTIONS = RunOptions(batch_size=5000, device="cpu")
WRONG = 0.25
"""Share of the fabricated validation images that the fabricated model gets wrong."""


def validation_set(per_class=50):
    labels = np.repeat(np.arange(1000), per_class)
    images = np.zeros((len(labels), 3, 1, 1), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = labels // 40, labels % 40
    images[: int(WRONG * len(labels)), 2] = 1
    return harness.TensorDataset(images, labels, name="val", label_space="imagenet1k")


@pytest.fixture(scope="module")
def whole():
    return validation_set()


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A folder of records: the model's answers do not depend on what was published, so they are asked for once."""
    return tmp_path_factory.mktemp("answered")


@pytest.fixture
def run(tmp_path, answered):
    def go(published, dataset, **given):
        registry = tmp_path / "presets.yaml"
        registry.write_text(f"models:\n  fabricated: {{use: reader, published_top1: {published}}}\n")
        setup = Setup(registry_files=[registry], plugins=[("published", published_plugin)])
        return harness.run(
            model="fabricated", dataset=dataset, probe="head", setup=setup, options=OPTIONS, out=answered, **given
        )

    return go


def test_what_cannot_be_the_published_accuracy_is_said_loudly(run, whole):
    (warning,) = run(76.0, whole).warnings
    assert warning.startswith("fabricated: clean top-1 is 75.00 % [74.62, 75.38]")
    assert "76 % was published" in warning
    assert len(run(74.0, whole).warnings) == 1


def test_inside_the_interval_nothing_is_said(run, whole):
    assert run(75.3, whole).warnings == ()
    assert run(74.7, whole).warnings == ()


def test_it_is_said_again_when_the_record_is_there_already(run, whole):
    first, again = run(80, whole), run(80, whole)
    assert again.reused == len(again.records) == 1
    assert again.warnings == first.warnings != ()


def test_other_images_views_weights_and_parts_have_no_published_accuracy(run, whole):
    assert run(99, validation_set(per_class=2)).warnings == ()
    assert run(99, whole, limit=2000).warnings == ()
    assert run(99, whole, weights="random").warnings == ()
    assert run(99, whole, view=View(resize=1, crop=1)).warnings == ()


def test_an_entry_has_no_published_accuracy_of_its_own(whole, answered):
    setup = Setup(plugins=[("published", published_plugin)])
    assert (
        harness.run(model="reader", dataset=whole, probe="head", setup=setup, options=OPTIONS, out=answered).warnings
        == ()
    )


def test_the_command_prints_it_whatever_is_asked_for(tmp_path, capsys):
    from harness.cli.run import _print_result

    result = RunResult(
        records=(), summaries=(), failures=(), counters=Counters(), path=tmp_path, reused=0,
        warnings=("fabricated: clean top-1 is 1 %",),
    )  # fmt: skip
    _print_result(result, as_json=True, quiet=True)
    assert capsys.readouterr().err.strip() == "warning: fabricated: clean top-1 is 1 %"


@pytest.mark.parametrize("value", ["0", "0.7545", "101", "high", "true"])
def test_a_published_accuracy_is_a_percentage(value, tmp_path):
    registry = tmp_path / "presets.yaml"
    registry.write_text(f"models:\n  fabricated: {{use: resnet, published_top1: {value}}}\n")
    with pytest.raises(RegistryError, match=r"presets.yaml:2.*published_top1.*percentage from 1 to 100"):
        Setup(registry_files=[registry]).open()


def test_an_accuracy_may_have_been_published_in_another_view(run, whole, tmp_path):
    registry = tmp_path / "other.yaml"
    registry.write_text("models:\n  fabricated: {use: reader, published_top1: 99, published_view: 'resize=1,crop=1'}\n")
    setup = Setup(registry_files=[registry], plugins=[("published", published_plugin)])
    common = {"model": "fabricated", "dataset": whole, "probe": "head", "setup": setup, "options": OPTIONS}
    assert harness.run(**common).warnings == ()
    assert len(harness.run(**common, view=View(resize=1, crop=1)).warnings) == 1
