"""Build a network from timm's full name and a choice of weights; timm is imported once the weights are there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import CapabilityError, ParameterError
from harness.hub import NotOnHubError, pretrained_file
from harness.naming import did_you_mean, suggest
from harness.types import INTERPOLATIONS, ModelInfo, View
from harness.weights import WeightsChoice, file_digest, identify, load_strict, read_state_dict

if TYPE_CHECKING:
    from torch import Tensor

    from harness.backbones.resnet import ResNetModel
    from harness.backbones.vision_transformer import TransformerModel


def build_vit(*, arch: str, weights: WeightsChoice) -> TransformerModel:
    """A plain Vision Transformer. ``arch``: timm's ``architecture.tag``.

    Raises :class:`~harness.errors.ParameterError` for a name that timm has not, ``CapabilityError`` for one of
    another family, and ``WeightsError`` for weights that cannot be had or do not fit.
    """
    return _build_transformer(arch, weights, family="vit")


def build_deit(*, arch: str, weights: WeightsChoice) -> TransformerModel:
    """A DeiT, plain or distilled. ``arch`` and errors as for :func:`build_vit`."""
    return _build_transformer(arch, weights, family="deit")


def build_resnet(*, arch: str, weights: WeightsChoice) -> ResNetModel:
    """A ResNet, ResNeXt or SE-ResNet. ``arch`` and errors as for :func:`build_vit`."""
    file = _weights_file(arch, weights)
    from timm.models.resnet import ResNet

    from harness.backbones.resnet import ResNetModel

    net, config = _network(arch, weights, classes=(ResNet,), family="resnet")
    if file is not None:
        load_strict(net, read_state_dict(file), source=str(file))
    return ResNetModel(net, _card(arch, weights, file, config, family="resnet"))


def _build_transformer(arch: str, weights: WeightsChoice, *, family: str) -> TransformerModel:
    file = _weights_file(arch, weights)
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    from harness.backbones.vision_transformer import TransformerModel

    classes = (VisionTransformer,) if family == "vit" else (VisionTransformer, VisionTransformerDistilled)
    net, config = _network(arch, weights, classes=classes, family=family)
    if file is not None:
        state = read_state_dict(file)
        load_strict(net, _renamed(state, net, checkpoint_filter_fn), source=str(file))
    return TransformerModel(net, _card(arch, weights, file, config, family=family))


def _renamed(state: dict[str, Tensor], net: Any, rename: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    """``state`` in timm's current names; timm's function would resample other input sizes as well."""
    own = net.state_dict()
    if any(name in own and own[name].numel() != value.numel() for name, value in state.items()):
        return state
    return rename(state, net, adapt_layer_scale=True)


def _weights_file(arch: str, weights: WeightsChoice) -> Path | None:
    """The file to load, None for random weights. It is sought before timm is imported, which takes many seconds."""
    if weights.origin != "pretrained":
        return weights.path
    try:
        return pretrained_file(arch)
    except NotOnHubError:
        _config(arch)  # a name that timm does not know is the likelier reason, and has suggestions
        raise


def _config(arch: str) -> Any:
    """timm's own account of ``arch``: input size, crop, interpolation, mean, standard deviation."""
    import timm

    name, _, tag = arch.partition(".")
    if not timm.is_model(arch):
        known = timm.list_models()
        raise ParameterError(f"arch: timm has no architecture {name!r}", hint=did_you_mean(name, known))
    tagged = timm.list_pretrained(f"{name}.*")
    if (tagged and not tag) or (tag and arch not in tagged):
        near = suggest(arch, tagged) or tagged[:5]
        raise ParameterError(
            f"arch: {arch!r} does not name one set of weights of {name}",
            hint=f"use architecture.tag, for example {', '.join(near)}" if near else f"use {name}",
        )
    return timm.get_pretrained_cfg(arch, allow_unregistered=False)


def _network(arch: str, weights: WeightsChoice, *, classes: tuple[type, ...], family: str) -> tuple[Any, Any]:
    import timm
    import torch

    config = _config(arch)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed every accelerator, too.
        torch.default_generator.manual_seed(weights.seed)
        net = timm.create_model(arch, pretrained=False)
    if type(net) not in classes:
        raise CapabilityError(
            f"arch {arch} is a {type(net).__name__}, which the entry {family!r} does not wrap",
            hint=f"it wraps {', '.join(cls.__name__ for cls in classes)}",
        )
    return net, config


def _card(arch: str, weights: WeightsChoice, file: Path | None, config: Any, *, family: str) -> ModelInfo:
    """What is known without the network; the wrapper adds what it reads off it."""
    identity = identify(weights, use=family, tag=arch)
    return ModelInfo(
        name=arch,
        family=family,
        weights=identity if file is None else replace(identity, sha256=file_digest(file)),
        view=view_of(arch, config),
        mean=tuple(config.mean),
        std=tuple(config.std),
        label_space="imagenet1k" if config.num_classes == 1000 else None,
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )


def view_of(arch: str, config: Any) -> View:
    """The evaluation view of a timm configuration: resize to floor(size / crop_pct), crop to size.

    Raises :class:`~harness.errors.CapabilityError` for one that a View cannot say (other crops, oblong inputs).
    """
    _, height, width = config.input_size
    modes = {"center": "shorter", "squash": "squash"}
    if height != width or config.crop_mode not in modes or config.interpolation not in INTERPOLATIONS:
        raise CapabilityError(
            f"arch {arch}: input {height}x{width}, crop mode {config.crop_mode!r} and interpolation "
            f"{config.interpolation!r} have no View"
        )
    return View(
        resize=math.floor(height / config.crop_pct),
        crop=height,
        interpolation=config.interpolation,
        mode="squash" if config.crop_mode == "squash" else "shorter",
    )
