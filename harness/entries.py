"""Descriptors: what a plugin says of a component without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.errors import PluginError
from harness.naming import is_valid_name
from harness.params import NoParams
from harness.types import Capability, Kind, LevelSpec, Stage, View

API_VERSION = 1
"""Version of the hooks and contracts; an entry names the one it was written for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One component that a plugin offers.

    ``target`` is ``package.module:attribute``, imported on first use and called with the parameters as keywords.
    ``params`` is a frozen keyword-only dataclass whose fields are made by :func:`harness.params.param`.
    ``extra`` is the optional dependency group of ``vit-harness`` that the target needs.
    ``version`` is that of its numerics: raise it whenever the same parameters give other numbers. ``qualified``: it is
    reached by ``plugin:name`` only, and takes that name from nobody; for plugins that wrap a whole library.
    """

    kind: ClassVar[Kind]

    name: str
    target: str
    summary: str
    aliases: tuple[str, ...] = ()
    extra: str | None = None
    tags: tuple[str, ...] = ()
    params: type = NoParams
    version: int = 1
    api_version: int = API_VERSION
    qualified: bool = False

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not is_valid_name(name):
                raise PluginError(
                    f"{self.kind} entry named {name!r}",
                    hint="names are lower-case letters, digits, '_', '-' and '.', starting with a letter or digit",
                )
        module, separator, attribute = self.target.partition(":")
        if not separator or not attribute.isidentifier() or not all(p.isidentifier() for p in module.split(".")):
            raise PluginError(
                f"{self.kind} {self.name}: target {self.target!r} is not of the form 'package.module:attribute'"
            )
        if not self.summary.strip():
            raise PluginError(f"{self.kind} {self.name}: a one-line summary is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry(Entry):
    """A model or a family of models; its target also gets ``weights=``, a :class:`harness.weights.WeightsChoice`.

    ``view``, ``label_space`` and ``capabilities`` are facts that planning needs; a preset may refine
    them, and the contract kit compares them with what is built. ``facts_vary``: they depend on the parameters, so that
    planning learns them from the network, built without weights, wherever other parameters than a preset's are given.

    ``tag_param`` names the parameter that identifies the pretrained weights; ``url_param`` the one that may hold their
    address instead, and ``sha256_param`` the one with their digest. ``names_tags``: ``plugin:TAG`` is this entry with
    that tag. A model whose weights are embedded in the plugin has ``embedded_sha256``, the digest of their file: it
    enters the key of every record, so that retrained weights never pass for the old ones.
    """

    kind: ClassVar[Kind] = "model"

    view: View
    capabilities: frozenset[Capability]
    label_space: str | None = None
    tag_param: str | None = None
    timm_weights: bool = False
    """Whether the tag is one of timm's, so that its weights lie in the repository ``timm/TAG`` of the model hub."""
    url_param: str | None = None
    sha256_param: str | None = None
    names_tags: bool = False
    facts_vary: bool = False
    embedded_sha256: str | None = None
    learned: bool = True
    """Whether it has weights at all; False for statistics computed by a formula."""

    @property
    def weights_params(self) -> tuple[str, ...]:
        """The parameters that say which weights are the pretrained ones."""
        return tuple(name for name in (self.tag_param, self.url_param, self.sha256_param) if name is not None)

    @property
    def embedded_name(self) -> str:
        """What names embedded weights: entry and version, and the start of their digest where it is told."""
        return embedded_name(self.name, self.version, self.embedded_sha256)


def embedded_name(entry: str, version: int, sha256: str | None) -> str:
    """The name of embedded weights in a record's key: entry, version, and the first 16 digits of their digest.

    >>> embedded_name("vit_mini", 1, None)
    'vit_mini:1'
    """
    name = f"{entry}:{version}"
    return name if sha256 is None else f"{name}:{sha256[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbationEntry(Entry):
    """A perturbation. The facts agree with its :class:`~harness.protocols.PerturbationInfo`.

    ``model_params`` names the parameters whose values are models in the registry, which the engine then builds and
    injects; ``model_words`` are values of theirs that name no model but something else, such as ``mask``.
    ``target_param`` names the parameter that says what an attack aims at (``head`` or ``probe``). ``source_param``
    names one of ``model_params``: an attack that is given that model is crafted on its head instead, and only tested
    on the evaluated one. ``baselined``: numbers under it are read against those of a baseline model.
    """

    kind: ClassVar[Kind] = "perturbation"

    stage: Stage = "image"
    level: LevelSpec | None = None
    stochastic: bool = False
    needs_target: bool = False
    target_param: str | None = None
    source_param: str | None = None
    baselined: bool = False
    model_params: tuple[str, ...] = ()
    model_words: tuple[str, ...] = ()
    needs: frozenset[Capability] = frozenset()
    loss: str | None = None
    """The realised quantity its levels are plotted against (``information_loss``), if it records one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEntry(Entry):
    """A probe. ``needs``: what of the model; ``needs_label_space``: whether model and dataset must share theirs.

    ``maps_labels``: it reads a head through the named map between two spaces, where there is one
    (:func:`harness.label_maps.find_label_map`); a probe that does not say so is asked only where they are equal.
    ``headline`` is the metric that tables show first. ``features_param`` names the parameter that holds a token
    ensemble (:class:`~harness.token_ensemble.TokenEnsemble`): what an ensemble other than the default needs of the
    model then stands in place of ``needs``. ``reference`` and ``of_model`` are those of
    :class:`~harness.protocols.ProbeInfo`. ``exhibit``: ``package.module:function`` that draws what was found, from
    :class:`~harness.exhibits.Finding` objects to an :class:`~harness.exhibits.Exhibit`.
    """

    kind: ClassVar[Kind] = "probe"

    learns: bool = False
    compares: bool = False
    stochastic: bool = False
    needs: frozenset[Capability] = frozenset()
    needs_label_space: bool = False
    headline: str = "accuracy"
    features_param: str | None = None
    maps_labels: bool = False
    reference: bool = False
    of_model: bool = False
    exhibit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetEntry(Entry):
    """A dataset. ``label_space`` is None where it follows from the data (a folder's own classes).

    ``level_param`` names a parameter with the axis ``level``, for images that come at several strengths: ``NAME@1,2``
    then means a dataset for each. ``baselined``: numbers on it are read against those of a baseline model.
    """

    kind: ClassVar[Kind] = "dataset"

    label_space: str | None = None
    level: LevelSpec | None = None
    level_param: str | None = None
    baselined: bool = False
    offline: bool = True
    """Whether it works without a network and without a path from the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryEntry(Entry):
    """A summary over cells that differ in the axes it ``consumes``: ``level``, ``seed``, ``perturbation``, ``dataset``.

    It applies to groups of at least ``min_cells`` records; ``requires_clean`` makes the plan hold the clean cell. One
    that consumes datasets also gets what was asked of unperturbed images. ``baselined``: it is given the answers of
    baseline models as well.
    """

    kind: ClassVar[Kind] = "summary"

    consumes: tuple[str, ...] = ("level", "seed")
    requires_clean: bool = True
    min_cells: int = 2
    baselined: bool = False
