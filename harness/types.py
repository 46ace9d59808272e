"""The values that travel between floors: frozen, keyword-only, checked when made. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from harness.errors import CapabilityError, HarnessError, ParameterError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

JSONScalar: TypeAlias = str | int | float | bool | None
JSONValue: TypeAlias = "JSONScalar | Sequence[JSONValue] | Mapping[str, JSONValue]"
Kind: TypeAlias = Literal["model", "perturbation", "probe", "dataset", "summary"]
KINDS: tuple[Kind, ...] = ("model", "perturbation", "probe", "dataset", "summary")
Stage: TypeAlias = Literal["image", "feature", "model"]
Control: TypeAlias = Literal["shuffled_labels", "duplicated_features"]
WeightsOrigin: TypeAlias = Literal["pretrained", "checkpoint", "embedded", "random"]


class Capability(StrEnum):
    """What a model can honestly give. A claim is a promise that the contract kit checks."""

    LOGITS = "logits"
    """Class scores of at least one head."""
    POOLED = "pooled"
    """The feature vector in front of the head (pre-logits)."""
    TOKENS = "tokens"
    """Patch tokens (or a CNN's spatial map, flattened) of every block."""
    CLASS_TOKEN = "class_token"  # noqa: S105  # a token of a transformer, no password
    """A prefix token named ``cls`` in every block."""
    ATTENTION = "attention"
    """Attention weights of every block, or of those that :attr:`ModelInfo.attention_blocks` names."""
    GRADIENTS = "gradients"
    """Outputs are differentiable in the input pixels."""
    INTERVENTION = "intervention"
    """Supports :meth:`harness.protocols.SupportsIntervention.intervene`."""


class Ids(Sequence[str]):
    """Image ids in one byte string with offsets: about the length of the text per id, not a Python object each.

    >>> ids = Ids(["cat/1.png", "dog/2.png"])
    >>> ids[1], len(ids), list(ids[:1])
    ('dog/2.png', 2, ['cat/1.png'])
    """

    __slots__ = ("_offsets", "_text")

    def __init__(self, ids: Iterable[str]) -> None:
        from array import array

        parts = bytearray()
        offsets = array("q", [0])
        for name in ids:
            parts += name.encode()
            offsets.append(len(parts))
        self._text = bytes(parts)
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._text[self._offsets[index] : self._offsets[index + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


# --- how pixels come about -------------------------------------------------------------------------------------

Interpolation: TypeAlias = Literal["bilinear", "bicubic", "nearest"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "bicubic", "nearest")
ResizeMode: TypeAlias = Literal["shorter", "squash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a raw image becomes the square of pixels that is perturbed; never mean and standard deviation.

    ``resize`` is the length in pixels that the shorter side gets (``mode="shorter"``) or both sides get
    (``mode="squash"``); None leaves the image as it is. Then the central ``crop`` x ``crop`` square is cut.

    >>> View(resize=256, crop=224, interpolation="bilinear").text
    'resize=256,crop=224,interpolation=bilinear'
    >>> View.parse("ipvit") == View.parse("resize=256,crop=224,interpolation=bilinear")
    True
    """

    crop: int
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    mode: ResizeMode = "shorter"

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise ParameterError(f"view: crop must be at least 1 pixel, not {self.crop}")
        if self.resize is not None and self.resize < self.crop:
            raise ParameterError(f"view: resize={self.resize} is smaller than crop={self.crop}")
        if self.interpolation not in INTERPOLATIONS:
            raise ParameterError(
                f"view: interpolation must be one of {', '.join(INTERPOLATIONS)}, not {self.interpolation!r}"
            )
        if self.mode not in ("shorter", "squash"):
            raise ParameterError(f"view: mode must be 'shorter' or 'squash', not {self.mode!r}")

    @property
    def text(self) -> str:
        """The one canonical spelling, which :meth:`parse` reads back."""
        parts = [f"crop={self.crop}"]
        if self.resize is not None:
            parts = [f"resize={self.resize}", *parts, f"interpolation={self.interpolation}"]
            if self.mode != "shorter":
                parts.append(f"mode={self.mode}")
        return ",".join(parts)

    @classmethod
    def parse(cls, text: str) -> View:
        """Read a view's name (``ipvit``, ``imagenet_c``) or its ``key=value,...`` spelling.

        Raises :class:`~harness.errors.ParameterError` for anything else.
        """
        if text in NAMED_VIEWS:
            return NAMED_VIEWS[text]
        known = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for part in text.split(","):
            key, separator, value = part.partition("=")
            if not separator or key not in known:
                raise ParameterError(
                    f"view: cannot read {part!r} in {text!r}",
                    hint=f"use model, {', '.join(NAMED_VIEWS)}, or key=value pairs of {', '.join(sorted(known))}",
                )
            values[key] = value
        try:
            for key in ("crop", "resize"):
                if key in values:
                    values[key] = None if values[key] == "none" else int(values[key])
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ParameterError(
                f"view: cannot read {text!r}: {error}",
                hint="a view needs at least crop=PIXELS, for example resize=256,crop=224,interpolation=bilinear",
            ) from error


NAMED_VIEWS: dict[str, View] = {
    "ipvit": View(resize=256, crop=224, interpolation="bilinear"),
    "imagenet_c": View(resize=None, crop=224),
}
"""``ipvit``: one pipeline for every model (IPViT). ``imagenet_c``: stored files are never resized again."""


# --- models ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo:
    """Which weights a model carries. ``identity`` is what a record's key holds and is known before anything is built.

    ``identity`` reads ``pretrained:<tag>``, ``sha256:<digest>``, ``embedded:<name>`` or ``random:<arch>:<seed>:...``.
    ``source`` is for people (a tag, a path, a URL); ``sha256`` of the file when one was read. ``initial``: the
    parameters that this file lacked and that keep their initial values, because somebody allowed it.
    """

    origin: WeightsOrigin
    identity: str
    source: str | None = None
    sha256: str | None = None
    initial: tuple[str, ...] = ()

    @property
    def untrained(self) -> bool:
        """Whether results must be marked as those of random weights."""
        return self.origin == "random" or any(not belongs_to_head(name) for name in self.initial)


def belongs_to_head(parameter: str) -> bool:
    """Whether a parameter is one of a classifier, by the names that heads have in timm, torchvision and the zoo.

    >>> belongs_to_head("head.fc.weight"), belongs_to_head("blocks.0.norm1.bias")
    (True, False)
    """
    return parameter.partition(".")[0] in ("head", "head_dist", "fc", "classifier", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a model is and what it can give; see :class:`Capability`.

    ``heads`` names the logits it returns, the default first (``("head",)``; distilled: ``("average", "cls", "dist")``).
    ``embed_dim`` is the width of the last block's tokens, ``pooled_dim`` that of the pre-logits vector.
    ``mean`` and ``std`` are applied inside the model to pixels in [0, 1]. ``patch_size`` is in input pixels.
    ``prefix`` names the prefix tokens in order. ``attention_blocks``: the blocks that give attention, None for all.
    ``licence``: that of the pretrained weights, by its SPDX identifier, where it is known.
    """

    name: str
    family: str
    weights: WeightsInfo
    view: View
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    label_space: str | None
    num_classes: int | None
    num_blocks: int
    embed_dim: int
    pooled_dim: int | None = None
    patch_size: int | None = None
    prefix: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    attention_blocks: tuple[int, ...] | None = None
    capabilities: frozenset[Capability] = frozenset()
    licence: str | None = None

    def __post_init__(self) -> None:
        if (Capability.LOGITS in self.capabilities) != bool(self.heads):
            raise ParameterError(f"model {self.name}: heads {self.heads} disagree with the claimed capabilities")
        if Capability.LOGITS in self.capabilities and not self.num_classes:
            raise ParameterError(f"model {self.name}: claims logits but gives no num_classes")
        if Capability.CLASS_TOKEN in self.capabilities and "cls" not in self.prefix:
            raise ParameterError(f"model {self.name}: claims a class token but its prefix tokens are {self.prefix}")
        if self.attention_blocks is not None and (
            Capability.ATTENTION not in self.capabilities
            or not self.attention_blocks
            or not all(0 <= block < self.num_blocks for block in self.attention_blocks)
        ):
            raise ParameterError(
                f"model {self.name}: attention_blocks {self.attention_blocks} disagree with the claimed capabilities "
                f"or its {self.num_blocks} blocks"
            )

    @property
    def input_size(self) -> int:
        """Side of the square input in pixels."""
        return self.view.crop


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """What one forward pass is asked for. Blocks are zero-based; ``|`` joins the wants of several probes.

    >>> OutputSpec(logits=True) | OutputSpec(tokens=frozenset({11}))
    OutputSpec(logits=True, pooled=False, tokens=frozenset({11}), normed_tokens=frozenset(), attention=frozenset())
    """

    logits: bool = False
    pooled: bool = False
    tokens: frozenset[int] = frozenset()
    normed_tokens: frozenset[int] = frozenset()
    """Blocks whose tokens are wanted after the model's final norm."""
    attention: frozenset[int] = frozenset()

    def __or__(self, other: OutputSpec) -> OutputSpec:
        return OutputSpec(
            logits=self.logits or other.logits,
            pooled=self.pooled or other.pooled,
            tokens=self.tokens | other.tokens,
            normed_tokens=self.normed_tokens | other.normed_tokens,
            attention=self.attention | other.attention,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTokens:
    """Tokens of one block: ``prefix`` (N, P, D), ``patches`` (N, Gh*Gw, D) in row-major order of ``grid`` (Gh, Gw)."""

    prefix: Tensor
    patches: Tensor
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        if self.patches.shape[1] != self.grid[0] * self.grid[1]:
            raise ParameterError(f"tokens: {self.patches.shape[1]} patches do not fill a grid of {self.grid}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAttention:
    """Attention of one block: ``weights`` (N, heads, queries, keys) as they multiply the values, and over what it runs.

    ``global``: every token asks every token. ``class``: class tokens alone ask. Of both the last keys are the patches.
    ``window``: tokens ask those of their own window; the first axis is then (N * windows).
    ``distribution``: whether every row is a distribution, as a softmax gives it; False where heads are mixed behind
    the softmax (CaiT), so that rows need not sum to one nor be positive.
    """

    weights: Tensor
    kind: Literal["global", "class", "window"]
    distribution: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutputs:
    """What one forward pass gave: exactly what its :class:`OutputSpec` asked for.

    ``logits``: (N, C) by head name. ``pooled``: (N, D). ``tokens``, ``normed_tokens`` and ``attention`` by block.
    """

    logits: Mapping[str, Tensor] = field(default_factory=dict)
    pooled: Tensor | None = None
    tokens: Mapping[int, BlockTokens] = field(default_factory=dict)
    normed_tokens: Mapping[int, BlockTokens] = field(default_factory=dict)
    attention: Mapping[int, BlockAttention] = field(default_factory=dict)


# --- images and features ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBatch:
    """Images in view space and what is known of each.

    ``images``: (N, 3, H, W) float32 in [0, 1]. ``labels``: (N,) int64. ``ids``: N strings, unique in the dataset.
    ``positions``: (N,) int64 NumPy, each image's place in its split's index. ``masks``: (N, H, W) bool foreground.
    ``regions``: (N, H, W) uint8, 0 for background, 255 for void, else the number of the region's class, counted by
    the dataset that drew them. ``taken``: (N, H, W) bool, the pixels that a perturbation took away.
    ``columns``: further (N,) labels, such as ``shape`` and ``texture``. ``realised``: (N,) float64 by name, what a
    perturbation really did to each image, such as ``information_loss``.
    """

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    positions: npt.NDArray[np.int64]
    masks: Tensor | None = None
    regions: Tensor | None = None
    taken: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    realised: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.images.ndim != 4 or self.images.shape[1] != 3 or str(self.images.dtype) != "torch.float32":
            raise ParameterError(
                f"images must be (N, 3, H, W) float32, not {tuple(self.images.shape)} {self.images.dtype}"
            )
        sizes = {"images": len(self.images), "labels": len(self.labels), "positions": len(self.positions)}
        sizes |= {name: len(column) for name, column in (*self.columns.items(), *self.realised.items())}
        sizes |= {
            name: len(maps) for name in ("masks", "regions", "taken") if (maps := getattr(self, name)) is not None
        }
        if wrong := {name: size for name, size in sizes.items() if size != n}:
            raise ParameterError(f"a batch of {n} ids holds {', '.join(f'{s} {name}' for name, s in wrong.items())}")

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> ImageBatch:
        """The same batch with every tensor on ``device``."""
        return dataclasses.replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            masks=None if self.masks is None else self.masks.to(device),
            regions=None if self.regions is None else self.regions.to(device),
            taken=None if self.taken is None else self.taken.to(device),
            columns={name: column.to(device) for name, column in self.columns.items()},
            realised={name: column.to(device) for name, column in self.realised.items()},
        )

    def with_maps(self, move: Callable[[Tensor], Tensor]) -> ImageBatch:
        """The same batch with ``move`` of each of its masks, regions and what was taken, (N, H, W) and of its type.

        For perturbations that move pixels: whatever lies over the image must move with it.
        """
        names = [name for name in ("masks", "regions", "taken") if getattr(self, name) is not None]
        moved: dict[str, Any] = {name: move(getattr(self, name)) for name in names}
        return dataclasses.replace(self, **moved)

    def with_images(self, images: Tensor, **realised: Tensor) -> ImageBatch:
        """The same labels and ids with other pixels; ``realised`` (N,) values are added to what is there."""
        return dataclasses.replace(self, images=images, realised={**self.realised, **realised})


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Which numbers of a model's outputs make one feature vector per image, in this order.

    ``pooled`` alone is the pre-logits vector. Otherwise, per block of ``blocks`` (negative from the end), the tokens
    named in ``prefix``; and the mean patch token of the last of them (``mean_patch="last"``) or of each.
    ``norm`` sends tokens through the model's final norm first.
    """

    pooled: bool = False
    blocks: tuple[int, ...] = ()
    prefix: tuple[str, ...] = ()
    mean_patch: Literal["none", "last", "each"] = "none"
    norm: bool = True

    def __post_init__(self) -> None:
        if not self.pooled and not (self.blocks and (self.prefix or self.mean_patch != "none")):
            raise ParameterError(
                "a feature spec must name the pooled vector, or blocks with prefix or mean patch tokens"
            )

    def resolve_blocks(self, num_blocks: int) -> tuple[int, ...]:
        """The blocks as zero-based indices. Raises :class:`CapabilityError` for a block the model has not."""
        for block in self.blocks:
            if not -num_blocks <= block < num_blocks:
                raise CapabilityError(
                    f"block {block} was asked of a model with {num_blocks} blocks",
                    hint=f"blocks are 0 to {num_blocks - 1}, or -1 to {-num_blocks} from the end",
                )
        found = tuple(block % num_blocks for block in self.blocks)
        if len(set(found)) != len(found):
            raise CapabilityError(
                f"blocks {'+'.join(map(str, self.blocks))} name one block of a model with {num_blocks} blocks twice",
                hint="name every block once: features that say a thing twice weigh it twice",
            )
        return found

    def outputs(self, num_blocks: int) -> OutputSpec:
        """What a forward pass must give so that this vector can be made."""
        blocks = frozenset(self.resolve_blocks(num_blocks))
        return OutputSpec(
            pooled=self.pooled,
            tokens=frozenset() if self.norm else blocks,
            normed_tokens=blocks if self.norm else frozenset(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTable:
    """Features of labelled images: ``x`` (N, D) float32, ``y`` (N,) int64, N ids; may be memory-mapped."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    ids: Sequence[str]
    spec: FeatureSpec

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or not len(self.x) == len(self.y) == len(self.ids):
            raise ParameterError(f"a feature table of x {self.x.shape}, y {self.y.shape} and {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.y)


# --- what is asked ---------------------------------------------------------------------------------------------


def canonical_json(value: JSONValue) -> str:
    """One spelling per value: sorted keys, no spaces, whole floats as integers, no NaN.

    >>> canonical_json({"b": 1.0, "a": (0.5, True)})
    '{"a":[0.5,true],"b":1}'
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _canonical(value: JSONValue) -> JSONValue:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_canonical(inner) for inner in value]
    return value


def digest(value: JSONValue) -> str:
    """SHA-256 (hex) of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRef:
    """One component as it will be used: the name typed, the entry behind it, and every parameter, coerced.

    ``params`` is complete; ``identity`` leaves out what equals its introduction default and what only says where
    things lie, so that naming a default or moving a folder makes no new record.
    ``injected`` holds, per parameter that names another model, that model's ref and weights identity. ``given``: of a
    preset, whose name says its own parameters, those that were given others beside it; None for an entry's own name.
    """

    kind: Kind
    name: str
    use: str
    version: int = 1
    params: Mapping[str, JSONValue] = field(default_factory=dict)
    identity: Mapping[str, JSONValue] = field(default_factory=dict)
    injected: Mapping[str, tuple[ResolvedRef, str]] = field(default_factory=dict)
    given: Mapping[str, JSONValue] | None = None

    @property
    def beside_name(self) -> Mapping[str, JSONValue]:
        """The parameters that the name alone does not say."""
        return self.identity if self.given is None else self.given

    @property
    def key(self) -> Mapping[str, JSONValue]:
        """What of this ref can change a number."""
        parts: dict[str, JSONValue] = {"use": self.use, "version": self.version, "params": self.identity}
        if self.injected:
            parts["injected"] = {name: [ref.key, weights] for name, (ref, weights) in self.injected.items()}
        return parts

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of :attr:`key`."""
        return digest(self.key)


KEY_VERSION = 1
"""Version of the key format; part of every key, so that a change of format can never be mistaken for a hit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """One seed per purpose. A purpose that is not random in a cell holds None there."""

    perturb: int | None = None
    support_perturb: int | None = None
    probe: int | None = None

    def as_dict(self) -> dict[str, JSONValue]:
        """The seeds by purpose, as a record holds them."""
        return {"perturb": self.perturb, "support_perturb": self.support_perturb, "probe": self.probe}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRef:
    """A dataset as a cell sees it: the component, the split queried, its content, and the limit in force."""

    ref: ResolvedRef
    split: str
    fingerprint: str
    label_space: str | None
    num_classes: int
    limit: int | None = None

    @property
    def key(self) -> Mapping[str, JSONValue]:
        """What of this dataset can change a number."""
        return {**self.ref.key, "split": self.split, "fingerprint": self.fingerprint, "limit": self.limit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One question with one record as its answer: a point of the grid model x perturbation x probe.

    ``level`` and ``support_level`` are None where the perturbation has none. ``label_space`` is the dataset's.
    ``split`` of the support images is ``support_split``, None for probes that do not learn. ``control``: the probe is
    fitted and asked as this negative control of the cell says. ``label_map``: the named map by which the model's head
    is read in the dataset's label space, None where they are one or no head is read.
    """

    model: ResolvedRef
    weights: WeightsInfo
    dataset: DatasetRef
    view: View
    perturbation: ResolvedRef
    level: float | None
    probe: ResolvedRef
    seeds: Seeds
    support: ResolvedRef | None = None
    support_level: float | None = None
    support_split: str | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    control: Control | None = None
    label_map: str | None = None
    not_applicable: str | None = None

    @property
    def key_parts(self) -> Mapping[str, JSONValue]:
        """All that can change the number, and nothing else (not device, workers or batch size)."""
        return {
            "key_version": KEY_VERSION,
            "model": self.model.key,
            "weights": self.weights.identity,
            "dataset": self.dataset.key,
            "view": self.view.text,
            "perturbation": self.perturbation.key,
            "level": self.level,
            "support": None if self.support is None else self.support.key,
            "support_level": self.support_level,
            "support_split": self.support_split,
            "probe": self.probe.key,
            "seeds": self.seeds.as_dict(),
            "precision": self.precision,
            **self._special,
        }

    @property
    def _special(self) -> dict[str, JSONValue]:
        """What few cells have: left out of the others, so that their keys stay what they were."""
        given: dict[str, JSONValue] = {"control": self.control, "label_map": self.label_map}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def key(self) -> str:
        """SHA-256 (hex) over :attr:`key_parts`; the name of this cell's record."""
        return digest(self.key_parts)

    def as_dict(self) -> dict[str, JSONValue]:
        """The ``cell`` block of a record."""
        refs = {
            "model": self.model,
            "dataset": self.dataset.ref,
            "perturbation": self.perturbation,
            "probe": self.probe,
        }
        if self.support is not None:
            refs["support"] = self.support
        return {
            "model": self.model.name,
            "weights": self.weights.identity,
            "dataset": self.dataset.ref.name,
            "split": self.dataset.split,
            "fingerprint": self.dataset.fingerprint,
            "limit": self.dataset.limit,
            "label_space": self.dataset.label_space,
            "num_classes": self.dataset.num_classes,
            "view": self.view.text,
            "support": None
            if self.support is None
            else {"perturbation": self.support.name, "level": self.support_level, "split": self.support_split},
            "perturbation": self.perturbation.name,
            "level": self.level,
            "probe": self.probe.name,
            "seeds": self.seeds.as_dict(),
            "precision": self.precision,
            **self._special,
            "components": {
                role: {
                    "use": ref.use,
                    "version": ref.version,
                    "params": ref.params,
                    **({"identity": ref.identity} if ref.identity else {}),
                    **({"given": ref.given} if ref.given else {}),
                    "fingerprint": ref.fingerprint[:16],
                }
                for role, ref in refs.items()
            },
        }


# --- what is answered ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number of one record.

    ``dims`` tells rows of one metric apart (``shots``, ``head``, ``block`` ...). ``low`` and ``high`` bound the
    interval that ``interval`` names (``wilson95``, ``bootstrap95``), over ``n`` independent units; ``counted`` says
    what these are (``episodes``, ``seeds``; ``repetitions`` of what was timed, in which no two runs agree), images if
    nothing else.
    Accuracies are fractions in [0, 1].
    """

    metric: str
    value: float
    n: int
    dims: Mapping[str, JSONScalar] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    unit: str = "fraction"
    higher_is_better: bool | None = True
    counted: str = "images"

    def as_dict(self) -> dict[str, JSONValue]:
        """The row as a record holds it."""
        return {
            "metric": self.metric,
            "dims": dict(self.dims),
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "interval": self.interval,
            "n": self.n,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            **({} if self.counted == "images" else {"counted": self.counted}),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Measurement:
        """Read a row back."""
        return cls(**{f.name: raw[f.name] for f in dataclasses.fields(cls) if f.name in raw})


SCHEMA_VERSION = 1
"""Version of the layout of a line of ``records.jsonl`` and ``summaries.jsonl``."""


def require_schema(raw: Mapping[str, Any], what: str) -> None:
    """Raise :class:`HarnessError` unless ``raw`` has the schema that this version reads."""
    if raw.get("schema") != SCHEMA_VERSION:
        raise HarnessError(
            f"{what} of schema {raw.get('schema')!r}; this version reads schema {SCHEMA_VERSION}",
            hint="read it with the version of vit-harness that wrote it, or run into a new folder",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """The immutable answer to one cell: what was asked, what came out, and on what it ran.

    ``cell`` is :meth:`Cell.as_dict`. ``not_applicable`` says why a combination from a glob or a suite has no numbers.
    ``environment`` holds only what cannot change the numbers.
    """

    key: str
    cell: Mapping[str, Any]
    measurements: tuple[Measurement, ...] = ()
    environment: Mapping[str, JSONValue] = field(default_factory=dict)
    not_applicable: str | None = None
    schema: int = SCHEMA_VERSION

    def as_dict(self) -> dict[str, JSONValue]:
        """The line of ``records.jsonl``."""
        raw: dict[str, JSONValue] = {"schema": self.schema, "key": self.key, "cell": dict(self.cell)}
        if self.not_applicable is not None:
            raw["not_applicable"] = self.not_applicable
        raw["measurements"] = [measurement.as_dict() for measurement in self.measurements]
        raw["environment"] = dict(self.environment)
        return raw

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ResultRecord:
        """Read a record back. Raises :class:`HarnessError` for another schema version."""
        require_schema(raw, "record")
        return cls(
            key=raw["key"],
            cell=raw["cell"],
            measurements=tuple(Measurement.from_dict(m) for m in raw["measurements"]),
            environment=raw["environment"],
            not_applicable=raw.get("not_applicable"),
        )

    @property
    def untrained(self) -> bool:
        """Whether the numbers are those of random weights, and must be marked so wherever they are shown."""
        initial = self.environment.get("initial_weights")
        partly = isinstance(initial, list | tuple) and any(not belongs_to_head(str(name)) for name in initial)
        return partly or str(self.cell["weights"]).startswith("random:")

    def get(self, metric: str, **dims: JSONScalar) -> Measurement:
        """The one measurement of ``metric`` whose dims include ``dims``; raises KeyError naming what there is."""
        found = [m for m in self.measurements if m.metric == metric and dims.items() <= m.dims.items()]
        if len(found) != 1:
            have = ", ".join(f"{m.metric}{dict(m.dims)}" for m in self.measurements) or "nothing"
            raise KeyError(f"{len(found)} measurements match {metric}{dims}; this record has {have}")
        return found[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRecord:
    """What one summary derived from several records: ``group`` names the axes it did not consume."""

    summary: str
    version: int
    group: Mapping[str, JSONValue]
    records: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    schema: int = SCHEMA_VERSION

    def as_dict(self) -> dict[str, JSONValue]:
        """The line of ``summaries.jsonl``."""
        return {
            "schema": self.schema,
            "summary": self.summary,
            "version": self.version,
            "group": dict(self.group),
            "records": list(self.records),
            "measurements": [measurement.as_dict() for measurement in self.measurements],
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SummaryRecord:
        """Read a summary back. Raises :class:`HarnessError` for another schema version."""
        require_schema(raw, "summary")
        return cls(
            summary=raw["summary"],
            version=raw["version"],
            group=raw["group"],
            records=tuple(raw["records"]),
            measurements=tuple(Measurement.from_dict(m) for m in raw["measurements"]),
        )


# --- levels ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSpec:
    """The strength axis of a perturbation: its name with unit, the sweep that ``@all`` means, and its range.

    ``identity`` is the level at which the perturbation provably changes nothing (None if there is none); the engine
    then reuses the clean forward. ``nested``: what a level removes, every higher level removes too. ``whole``: only
    whole numbers are levels.
    """

    name: str
    values: tuple[float, ...]
    low: float
    high: float
    unit: str = ""
    identity: float | None = None
    nested: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.values or any(not self.low <= value <= self.high for value in self.values):
            raise ParameterError(f"level {self.name}: sweep {self.values} is empty or leaves [{self.low}, {self.high}]")
        if list(self.values) != sorted(set(self.values)):
            raise ParameterError(f"level {self.name}: sweep {self.values} must rise strictly")

    def check(self, value: float, where: str) -> float:
        """``value`` if it lies in the range; :class:`ParameterError` naming ``where`` otherwise."""
        if not self.low <= value <= self.high:
            raise ParameterError(f"{where}: {self.name} must lie in [{self.low:g}, {self.high:g}], not {value:g}")
        if self.whole and value != int(value):
            raise ParameterError(f"{where}: {self.name} must be a whole number, not {value:g}")
        return float(value)
