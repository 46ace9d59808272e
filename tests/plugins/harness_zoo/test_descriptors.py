"""The plugin modules: light, and in agreement with what their targets build."""

import dataclasses
import importlib
import inspect
import os
import subprocess
import sys

import pytest
import torch

from harness.errors import ParameterError
from harness.params import coerce
from harness.weights import WeightsChoice

MODULES = ("t2t", "patchconvnet", "attention_pool", "torchvision_cnns", "cifar_resnet")
ENTRIES = {
    entry.name: entry
    for module in MODULES
    for entry in importlib.import_module(f"harness_zoo.{module}").harness_register_models()
}


def target_of(entry):
    module, _, attribute = entry.target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def test_the_entries_are_those_of_the_zoo():
    assert list(ENTRIES) == ["t2t", "patchconvnet", "resnet50_attnpool", "torchvision_cnn", "cifar_resnet"]


@pytest.mark.parametrize("name", ENTRIES)
def test_the_target_takes_the_parameters_and_the_weights(name):
    entry = ENTRIES[name]
    defaults = {field.name: field.default for field in dataclasses.fields(entry.params)}
    signature = inspect.signature(target_of(entry)).parameters
    assert set(signature) == {*defaults, "weights"}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in signature.values())
    assert {key: signature[key].default for key in defaults} == defaults
    assert set(entry.weights_params) == {"url", "sha256"}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_entrys_facts_are_those_of_what_is_built(name):
    entry = ENTRIES[name]
    with torch.device("meta"):
        info = target_of(entry)(weights=WeightsChoice(origin="random")).info
    assert info.view == entry.view
    assert info.label_space == entry.label_space == ("cifar10" if name == "cifar_resnet" else "imagenet1k")
    assert info.capabilities == entry.capabilities
    assert info.family == entry.name
    assert info.num_classes == (10 if name == "cifar_resnet" else 1000)
    assert entry.facts_vary


def test_architectures_that_are_not_there_are_refused_by_name():
    for name, given in (("t2t", "t2t_12"), ("patchconvnet", "m60"), ("torchvision_cnn", "squeezenet2_0")):
        with pytest.raises(ParameterError, match=f"cannot be '{given}'"):
            coerce(ENTRIES[name].params, {"arch": given}, name)


def test_descriptors_import_nothing_heavy():
    code = (
        f"import sys, {', '.join(f'harness_zoo.{module}' for module in MODULES)}, harness_zoo.build\n"
        "print(sorted({'torch', 'timm', 'numpy', 'torchvision', 'huggingface_hub'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
