"""The zoo's networks as Models, with the weights that ship with the package, others of the same shape, or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from harness.backbones.network import NetworkModel
from harness.backbones.patchconvnet import PatchConvNet, PatchConvNetModel
from harness.backbones.resnet import ResNetModel
from harness.backbones.vision_transformer import TransformerModel
from harness.errors import WeightsError
from harness.state_dicts import load_strict, read_state_dict
from harness.types import ModelInfo
from harness.weights import WeightsChoice, file_digest, identify
from harness_mini.cards import read_card, weights_file
from harness_mini.networks import NETWORKS, build
from harness_mini.training.lessons import MEAN, STD
from harness_mini.zoo import VIEW, entries


def build_model(name: str, *, weights: WeightsChoice) -> NetworkModel:
    """The model ``name`` of the zoo.

    Raises :class:`~harness.errors.WeightsError` for shipped weights that are not those of their card, and for a
    checkpoint that does not fit.
    """
    file = _shipped(name) if weights.origin == "pretrained" else weights.path
    net = build(name, seed=weights.seed)
    initial: tuple[str, ...] = ()
    if file is not None:
        initial = load_strict(net, read_state_dict(file), source=str(file), allow_missing=weights.allow_missing).kept
    (entry,) = (entry for entry in entries() if entry.name == name)
    identity = identify(weights, use=name, embedded=entry.embedded_name)
    card = ModelInfo(
        name=name,
        family=NETWORKS[name].family,
        weights=identity if file is None else replace(identity, sha256=file_digest(file), initial=initial),
        view=VIEW,
        mean=MEAN,
        std=STD,
        label_space="shapes",
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )
    if NETWORKS[name].family == "resnet":
        return ResNetModel(net, card)
    if NETWORKS[name].family == "patchconvnet":
        return PatchConvNetModel(cast("PatchConvNet", net), card)
    return TransformerModel(net, card, second_token=NETWORKS[name].second_token)


def _shipped(name: str) -> Path:
    file = weights_file(name)
    if not file.is_file():
        raise WeightsError(
            f"{name}: the package holds no trained weights ({file})",
            hint=f"reinstall vit-harness, or train them: python -m harness_mini.train {name} --out DIR, then "
            f"--weights DIR/{name}.safetensors",
        )
    card = read_card(name)
    if card.get("name") != name:
        raise WeightsError(f"{name}: its card is that of {card.get('name')}", hint="reinstall vit-harness")
    expected = card["sha256"]
    if (found := file_digest(file)) != expected:
        raise WeightsError(
            f"{name}: {file} has the digest {found[:16]}, its card says {expected[:16]}", hint="reinstall vit-harness"
        )
    return file


Build = Callable[..., NetworkModel]

vit_mini: Build = partial(build_model, "vit_mini")
vit_mini_nopos: Build = partial(build_model, "vit_mini_nopos")
vit_mini_sin: Build = partial(build_model, "vit_mini_sin")
deit_mini: Build = partial(build_model, "deit_mini")
deit_mini_shape: Build = partial(build_model, "deit_mini_shape")
dino_mini: Build = partial(build_model, "dino_mini")
cnn_mini: Build = partial(build_model, "cnn_mini")
cnn_mini_sin: Build = partial(build_model, "cnn_mini_sin")
patchconv_mini: Build = partial(build_model, "patchconv_mini")
patchconv_mini_multi: Build = partial(build_model, "patchconv_mini_multi")
