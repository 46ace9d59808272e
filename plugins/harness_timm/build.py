"""Build a network from timm's full name and a choice of weights; timm is imported once the weights are there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import CapabilityError, ParameterError
from harness.hub import NotOnHubError, pretrained_file
from harness.naming import did_you_mean, suggest
from harness.state_dicts import load_strict, read_state_dict
from harness.types import INTERPOLATIONS, ModelInfo, View
from harness.weights import WeightsChoice, file_digest, identify

if TYPE_CHECKING:
    from torch import Tensor

    from harness.backbones.network import NetworkModel
    from harness.backbones.positions import Ablation, Interpolation

State = dict[str, "Tensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which network of timm, and where its weights come from; see :class:`harness_timm.entry.TimmParams`."""

    arch: str
    weights: WeightsChoice
    input: int = 0
    url: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """What becomes of the position embeddings; see :class:`harness_timm.entry.PositionedParams`."""

    interpolation: Interpolation = "bicubic"
    ablation: Ablation = "none"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the networks of one family are made and wrapped.

    ``classes``: timm's own, and no others. ``wrap``: a network and its card as a Model. ``sized``: whether timm is
    told the input size. ``options``: further keywords of timm's. ``rename``: (weights, network) to weights under the
    network's own names, as timm's families define it. ``positions``: the parameter that holds position embeddings.
    """

    name: str
    classes: tuple[type, ...]
    wrap: Callable[[Any, ModelInfo], NetworkModel]
    sized: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    rename: Callable[[State, Any], State] | None = None
    positions: str | None = None


def build_network(source: Source, family: Callable[[], Family], *, positions: Positions | None = None) -> NetworkModel:
    """The Model of ``source``. ``family`` is called once the weights are there, since it imports timm.

    Raises :class:`~harness.errors.ParameterError` for a name that timm has not, ``CapabilityError`` for one of
    another family, and ``WeightsError`` for weights that cannot be had or do not fit.
    """
    file = _weights_file(source)
    kind = family()
    net, config = _network(source, kind)
    if file is not None:
        state = read_state_dict(file)
        if source.input and positions is not None:
            state = _resampled(state, net, kind, positions)
        load_strict(net, _renamed(state, net, kind), source=str(file), allow_missing=source.weights.allow_missing)
    if positions is not None and positions.ablation != "none":
        _ablate(net, source, kind, positions)
    return kind.wrap(net, _card(source, file, config, family=kind.name))


# --- weights ---------------------------------------------------------------------------------------------------


def _weights_file(source: Source) -> Path | None:
    """The file to load, None for random weights. It is sought before timm is imported, which takes many seconds."""
    if source.weights.origin != "pretrained":
        return source.weights.path
    if source.url is not None:
        from harness.url_weights import url_file

        return url_file(source.url, sha256=source.sha256)
    try:
        return pretrained_file(source.arch)
    except NotOnHubError:
        timm_config(source.arch)  # a name that timm does not know is the likelier reason, and has suggestions
        raise


def _renamed(state: State, net: Any, family: Family) -> State:
    """``state`` in timm's current names; timm's functions would resample other input sizes as well."""
    own = net.state_dict()
    other_size = any(name in own and own[name].numel() != value.numel() for name, value in state.items())
    return state if family.rename is None or other_size else family.rename(state, net)


def _resampled(state: State, net: Any, family: Family, positions: Positions) -> State:
    """``state`` with position embeddings for the grid of ``net``, where they are for another."""
    from harness.backbones.positions import resample_map, resample_positions

    name = family.positions
    own = None if name is None else net.state_dict().get(name)
    if name is None or own is None or name not in state or state[name].shape == own.shape:
        return state
    given = state[name]
    if own.ndim == 4:
        return {**state, name: resample_map(given, tuple(own.shape[-2:]), positions.interpolation)}
    grid = tuple(net.patch_embed.grid_size)
    prefix = own.shape[1] - grid[0] * grid[1]
    return {**state, name: resample_positions(given, prefix, grid, positions.interpolation)}


def _ablate(net: Any, source: Source, family: Family, positions: Positions) -> None:
    import torch

    from harness.backbones.positions import ablate_positions

    embedding = getattr(net, family.positions or "", None)
    if embedding is None:
        raise CapabilityError(
            f"arch {source.arch}: positions={positions.ablation}, but the network adds no position embedding",
            hint="leave positions out",
        )
    flat = embedding.flatten(2).transpose(1, 2) if embedding.ndim == 4 else embedding
    cells = math.prod(embedding.shape[2:]) if embedding.ndim == 4 else math.prod(net.patch_embed.grid_size)
    changed = ablate_positions(flat.detach(), flat.shape[1] - cells, positions.ablation, seed=positions.seed)
    with torch.no_grad():
        embedding.copy_(changed.transpose(1, 2).reshape(embedding.shape) if embedding.ndim == 4 else changed)


# --- network and card ------------------------------------------------------------------------------------------


def timm_config(arch: str) -> Any:
    """timm's own account of ``arch``: input size, crop, interpolation, mean, standard deviation.

    Raises :class:`~harness.errors.ParameterError` for a name that is none, with suggestions.
    """
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


def _network(source: Source, family: Family) -> tuple[Any, Any]:
    import timm
    import torch

    config = timm_config(source.arch)
    options = dict(family.options)
    if source.input and family.sized:
        options["img_size"] = source.input
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed every accelerator, too.
        torch.default_generator.manual_seed(source.weights.seed)
        try:
            net = timm.create_model(source.arch, pretrained=False, **options)
        except (AssertionError, ValueError) as error:
            raise ParameterError(
                f"arch {source.arch}: timm does not build it with {options}: {error}",
                hint="an input must suit the architecture's patches and windows",
            ) from error
    if family.classes and type(net) not in family.classes:
        raise CapabilityError(
            f"arch {source.arch} is a {type(net).__name__}, which the entry {family.name!r} does not wrap",
            hint=f"it wraps {', '.join(cls.__name__ for cls in family.classes)}; timm:{source.arch} takes any",
        )
    return net, config


def _card(source: Source, file: Path | None, config: Any, *, family: str) -> ModelInfo:
    """What is known without the network; the wrapper adds what it reads off it."""
    identity = identify(source.weights, use=family, tag=source.url or source.arch)
    return ModelInfo(
        name=source.arch,
        family=family,
        weights=identity if file is None else replace(identity, sha256=file_digest(file)),
        view=view_of(source.arch, config, source.input),
        mean=tuple(config.mean),
        std=tuple(config.std),
        label_space="imagenet1k" if config.num_classes == 1000 else None,
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
        licence=None if source.url else config.license,
    )


def view_of(arch: str, config: Any, side: int = 0) -> View:
    """The evaluation view of a timm configuration: resize to floor(size / crop_pct), crop to size.

    ``side`` stands in for the configured size where it is not 0. Raises :class:`~harness.errors.CapabilityError` for
    one that a View cannot say (other crops, oblong inputs).
    """
    _, height, width = config.input_size
    modes = {"center": "shorter", "squash": "squash"}
    if height != width or config.crop_mode not in modes or config.interpolation not in INTERPOLATIONS:
        raise CapabilityError(
            f"arch {arch}: input {height}x{width}, crop mode {config.crop_mode!r} and interpolation "
            f"{config.interpolation!r} have no View"
        )
    crop = side or height
    return View(
        resize=math.floor(crop / config.crop_pct),
        crop=crop,
        interpolation=config.interpolation,
        mode="squash" if config.crop_mode == "squash" else "shorter",
    )
