"""The family of an architecture of timm: the one with a wrapper of its own, or the one of all others."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

from harness.backbones.any_timm import AnyTimmModel
from harness.backbones.network import NetworkModel
from harness.types import ModelInfo
from harness_timm.build import Family
from harness_timm.renaming import State
from harness_timm.transformer import transformer_family

_OF_MODULE = {
    "swin_transformer": "swin",
    "tnt": "tnt",
    "cait": "cait",
    "xcit": "xcit",
    "pit": "pit",
    "convit": "convit",
    "resnet": "resnet",
    "vgg": "vgg",
    "densenet": "densenet",
    "inception_v3": "inception",
    "regnet": "regnet",
    "mobilenetv3": "mobilenet",
    "efficientnet": "efficientnet",
    "convnext": "convnext",
}
"""timm's module of an architecture, and the module here whose ``family`` says how its networks are wrapped."""

_FILTERS = ("checkpoint_filter_fn", "_filter_fn")
"""How timm's modules call the function that brings older weights under the network's own names."""


def family_of(arch: str) -> Family:
    """How ``arch`` (timm's name, with or without a tag) is made and wrapped; imports timm."""
    from timm.models import is_model_in_modules

    name = arch.partition(".")[0]
    own: Family | None = None
    if is_model_in_modules(name, ("vision_transformer", "vision_transformer_hybrid", "deit")):
        own = transformer_family("deit" if is_model_in_modules(name, ("deit",)) else "vit", distilled=True)
    for module, here in _OF_MODULE.items():
        if is_model_in_modules(name, (module,)):
            own = import_module(f"harness_timm.{here}").family()
    if own is None:
        return Family(name="timm", classes=(), wrap=AnyTimmModel, rename=_renamed_by_timm)
    return replace(own, classes=(), wrap=_wrap_if(own.classes, own.wrap))


def _wrap_if(
    classes: tuple[type, ...], wrap: Callable[[Any, ModelInfo], NetworkModel]
) -> Callable[[Any, ModelInfo], NetworkModel]:
    """``wrap`` for networks of ``classes``; a module of timm may hold others, too."""

    def chosen(net: Any, card: ModelInfo) -> NetworkModel:
        return wrap(net, card) if type(net) in classes else AnyTimmModel(net, card)

    return chosen


def _renamed_by_timm(state: State, net: Any) -> State:
    """What timm's own loading does with names; what it gets wrong, strict loading finds."""
    module = sys.modules[type(net).__module__]
    function = next((found for name in _FILTERS if (found := getattr(module, name, None)) is not None), None)
    if function is None:
        return state
    takes_network = len(inspect.signature(function).parameters) > 1
    renamed: State = function(state, net) if takes_network else function(state)
    return renamed
