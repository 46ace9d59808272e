"""The plugin modules: light, and in agreement with what their targets build."""

import dataclasses
import importlib
import inspect
import os
import subprocess
import sys

import pytest
import torch

from harness.params import coerce
from harness.types import Capability
from harness.weights import parse_weights

PLUGINS = {
    "vit": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "deit": "deit_tiny_patch16_224.fb_in1k",
    "resnet": "resnet18.tv_in1k",
    "dino": "vit_small_patch16_224.dino",
    "swin": "swin_tiny_patch4_window7_224.ms_in1k",
    "tnt": "tnt_s_patch16_224.in1k",
    "cait": "cait_xxs24_224.fb_dist_in1k",
    "xcit": "xcit_tiny_12_p16_224.fb_in1k",
    "pit": "pit_s_224.in1k",
    "convit": "convit_tiny.fb_in1k",
    "vgg": "vgg11.tv_in1k",
    "densenet": "densenet121.ra_in1k",
    "inception": "inception_v3.tf_in1k",
    "regnet": "regnety_040.pycls_in1k",
    "mobilenet": "mobilenetv2_100.ra_in1k",
    "efficientnet": "efficientnet_b0.ra_in1k",
    "convnext": "convnext_atto.d2_in1k",
}


def entry_of(name):
    (entry,) = importlib.import_module(f"harness_timm.{name}").harness_register_models()
    return entry


def target_of(entry):
    module, _, attribute = entry.target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", PLUGINS)
def test_the_target_takes_the_parameters_and_the_weights(name):
    entry = entry_of(name)
    fields = {field.name for field in dataclasses.fields(entry.params)}
    signature = inspect.signature(target_of(entry)).parameters
    assert set(signature) == {*fields, "weights"}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in signature.values())
    assert entry.tag_param in fields
    assert coerce(entry.params, {"arch": "a.b"}, name).arch == "a.b"


@pytest.mark.parametrize(("name", "arch"), PLUGINS.items())
def test_the_entrys_facts_are_those_of_what_is_built(name, arch):
    entry = entry_of(name)
    with torch.device("meta"):
        info = target_of(entry)(arch=arch, weights=parse_weights("random")).info
    if name not in ("inception", "convnext", "densenet"):  # whose sets of weights have several views
        assert info.view == entry.view
    assert info.label_space == entry.label_space
    assert info.capabilities == entry.capabilities
    assert info.family == entry.name
    assert info.num_classes == (None if name == "dino" else 1000)


def test_every_family_has_an_entry_here():
    import importlib.metadata

    points = importlib.metadata.entry_points(group="harness.plugins")
    ours = {point.name.removeprefix("timm_") for point in points if point.name.startswith("timm_")}
    assert ours == set(PLUGINS)


def test_capabilities_differ_by_kind():
    assert Capability.ATTENTION in entry_of("vit").capabilities
    assert Capability.ATTENTION not in entry_of("resnet").capabilities


def test_descriptors_import_nothing_heavy():
    code = (
        "import sys, harness_timm.builders, harness_timm.deit, harness_timm.any_model, harness_timm.build\n"
        "print(sorted({'torch', 'timm', 'numpy', 'torchvision', 'huggingface_hub'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
