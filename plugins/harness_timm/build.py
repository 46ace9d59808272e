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
from harness_timm.renaming import Rename, State, under_own_names

if TYPE_CHECKING:
    from torch import Tensor

    from harness.backbones.network import NetworkModel
    from harness.backbones.positions import Ablation, Interpolation


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
    """What becomes of the position embeddings; see :class:`harness_timm.entry.PositionedTimmParams`."""

    interpolation: Interpolation = "bicubic"
    ablation: Ablation = "none"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionEmbedding:
    """Where a network keeps the position embeddings of its patches.

    ``parameter``: its name; (1, P + Gh*Gw, D) with those of P prefix tokens first, or a map (1, D, Gh, Gw).
    ``patches``: the part of the network that knows the grid. ``alone``: whether nothing else tells the network where
    patches lie.
    """

    parameter: str = "pos_embed"
    patches: str = "patch_embed"
    alone: bool = True

    def of(self, net: Any) -> Tensor | None:
        """The embeddings of ``net``, None where it was made without."""
        found: Tensor | None = getattr(net, self.parameter)
        return found

    def grid(self, net: Any) -> tuple[int, int]:
        """Rows and columns of the patches of ``net``."""
        embedding = self.of(net)
        if embedding is not None and embedding.ndim == 4:
            return embedding.shape[2], embedding.shape[3]
        rows, columns = getattr(net, self.patches).grid_size
        return rows, columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the networks of one family are made and wrapped.

    ``classes``: timm's own, and no others. ``wrap``: a network and its card as a Model. ``sized``: whether timm is
    told the input size. ``options``: further keywords of timm's. ``rename``: (weights, network) to weights under the
    network's own names, as timm's families define it; ``unused``: patterns of names that only training reads.
    ``positions``: the trained position embeddings of patches, None where there are none that are known of.
    """

    name: str
    classes: tuple[type, ...]
    wrap: Callable[[Any, ModelInfo], NetworkModel]
    sized: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    rename: Rename | None = None
    unused: tuple[str, ...] = ()
    positions: PositionEmbedding | None = None


def build_network(source: Source, family: Callable[[], Family], *, positions: Positions | None = None) -> NetworkModel:
    """The Model of ``source``. ``family`` is called once the weights are there, since it imports timm.

    Raises :class:`~harness.errors.ParameterError` for a name that timm has not, ``CapabilityError`` for one of
    another family, and ``WeightsError`` for weights that cannot be had or do not fit.
    """
    file = _weights_file(source)
    kind = family()
    net, config = _network(source, kind)
    initial: tuple[str, ...] = ()
    if file is not None:
        state = _own_state(read_state_dict(file), net, source, kind, positions)
        initial = load_strict(net, state, source=str(file), allow_missing=source.weights.allow_missing).kept
    if positions is not None and positions.ablation != "none":
        _ablate(net, source, kind, positions)
    return kind.wrap(net, _card(source, file, config, family=kind.name, initial=initial))


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
        # A name that timm does not know is the likelier reason, and has suggestions; else timm may know another place.
        config = timm_config(source.arch)
        if config.hf_hub_id and not config.hf_hub_filename:
            return pretrained_file(source.arch, repo_id=config.hf_hub_id)
        if config.url and not config.hf_hub_id:
            from harness.url_weights import url_file

            return url_file(config.url)
        raise


def _own_state(state: State, net: Any, source: Source, family: Family, positions: Positions | None) -> State:
    """``state`` under the names, and with the position embeddings, of ``net``."""
    of_timm = source.weights.origin == "pretrained" and source.url is None
    if of_timm and not source.input and family.rename is not None:
        # timm's own weights at their own size: what its function makes of them is what was published.
        return family.rename(state, net)
    renamed = under_own_names(state, net, family.rename, unused=family.unused)
    return _resampled(renamed, net, family, positions) if source.input and positions is not None else renamed


def _resampled(state: State, net: Any, family: Family, positions: Positions) -> State:
    """``state`` with position embeddings for the grid of ``net``, where they are for another."""
    from harness.backbones.positions import resample_map, resample_positions

    if family.positions is None or (own := family.positions.of(net)) is None:
        return state
    name, grid = family.positions.parameter, family.positions.grid(net)
    given = state.get(name)
    if given is None or given.shape == own.shape or given.ndim != own.ndim:
        return state
    if own.ndim == 4:
        return {**state, name: resample_map(given, grid, positions.interpolation)}
    prefix = own.shape[1] - grid[0] * grid[1]
    return {**state, name: resample_positions(given, prefix, grid, positions.interpolation)}


def _ablate(net: Any, source: Source, family: Family, positions: Positions) -> None:
    import torch

    from harness.backbones.positions import ablate_positions

    embedding = None if family.positions is None else family.positions.of(net)
    if family.positions is None or embedding is None:
        raise CapabilityError(
            f"arch {source.arch}: positions={positions.ablation}, but the network has no position embedding of its "
            "patches that is trained and can be taken away",
            hint="leave positions out",
        )
    if not family.positions.alone:
        raise CapabilityError(
            f"arch {source.arch}: positions={positions.ablation} would leave the network other ways to tell where its "
            "patches lie",
            hint="leave positions out, or ask a network that has position embeddings alone, such as a ViT",
        )
    is_map = embedding.ndim == 4
    flat = embedding.flatten(2).transpose(1, 2) if is_map else embedding
    cells = math.prod(family.positions.grid(net))
    changed = ablate_positions(flat.detach(), flat.shape[1] - cells, positions.ablation, seed=positions.seed)
    with torch.no_grad():
        embedding.copy_(changed.transpose(1, 2).reshape(embedding.shape) if is_map else changed)


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
    _check_patches(net, source)
    return net, config


def _check_patches(net: Any, source: Source) -> None:
    """Raise :class:`ParameterError` for an input that patches do not fill, and for patches larger than it."""
    from timm.layers import PatchEmbed

    embed = getattr(net, "patch_embed", None)
    if not isinstance(embed, PatchEmbed):
        return
    side, patch = embed.img_size[0], embed.patch_size[0]
    if patch > side:
        raise ParameterError(f"arch {source.arch}: a patch of {patch} px is larger than the input of {side} px")
    if source.input and source.input % patch:
        near = round(source.input / patch) * patch
        raise ParameterError(
            f"arch {source.arch}: patches of {patch} px do not fill an input of {source.input} px",
            hint=f"give a multiple, such as input={near}",
        )


def _card(source: Source, file: Path | None, config: Any, *, family: str, initial: tuple[str, ...]) -> ModelInfo:
    """What is known without the network; the wrapper adds what it reads off it."""
    identity = identify(source.weights, use=family, tag=source.arch, url=source.url)
    return ModelInfo(
        name=source.arch,
        family=family,
        weights=identity if file is None else replace(identity, sha256=file_digest(file), initial=initial),
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
