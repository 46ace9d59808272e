"""The contracts: what a model, a perturbation, a probe, a dataset and a summary promise to the engine.

Plugins need not inherit from anything here. ``harness.testing`` checks each promise by running it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from harness.types import (
    FeatureSpec,
    FeatureTable,
    Ids,
    ImageBatch,
    JSONScalar,
    JSONValue,
    LevelSpec,
    Measurement,
    ModelInfo,
    ModelOutputs,
    OutputSpec,
    ResultRecord,
    Stage,
    View,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

INFORMATION_LOSS = "information_loss"
"""The realised quantity of an image that curves are drawn over: the share of it that was taken away."""

MASK_GROUP = "mask_group"
"""The realised number of the group of images that share a mask: they are no independent units, groups are."""

LABEL = "label"
"""The class of an image, among the columns that a summary sees."""

# --- models ----------------------------------------------------------------------------------------------------


@runtime_checkable
class Model(Protocol):
    """A vision backbone in eval mode with frozen parameters.

    Takes (N, 3, H, W) float32 pixels in [0, 1] on its device and normalises inside; pixels of another size than
    ``info.input_size`` are resized inside. Deterministic. Differentiable in ``images`` iff it claims ``GRADIENTS``.
    """

    @property
    def info(self) -> ModelInfo:
        """What it is and what it can give."""
        ...

    def outputs(self, images: Tensor, want: OutputSpec) -> ModelOutputs:
        """Everything ``want`` asks for, from **one** forward pass.

        Raises :class:`~harness.errors.CapabilityError` for a want that ``info.capabilities`` does not claim.
        """
        ...

    def to(self, device: torch.device | str) -> Model:
        """The same model on ``device`` (may move in place and return itself)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTokens:
    """What an intervention sees at a site: ``prefix`` (N, P, D), ``patches`` (N, G, D) of ``grid`` cells.

    ``kept``: (N, K) int64 indices of the K patches that are still there, in the original grid, or None for all of
    them; once patches are dropped the rest no longer fill a rectangle, and ``grid`` is (1, K).
    """

    prefix: Tensor
    patches: Tensor
    grid: tuple[int, int]
    ids: tuple[str, ...]
    kept: Tensor | None = None


@runtime_checkable
class SupportsIntervention(Protocol):
    """A model whose inner tokens can be changed on the way: ``pos_embed``, ``block:i``, ``stage:i``, ``pool``."""

    def intervene(
        self, site: str, fn: Callable[[SiteTokens], SiteTokens], *, ids: tuple[str, ...]
    ) -> AbstractContextManager[None]:
        """While the context is open, ``fn`` replaces the tokens that enter ``site``.

        At ``pos_embed`` these are the position embeddings themselves, before they are added to the tokens.

        ``ids`` are those of the batch that will be run inside the context. Raises
        :class:`~harness.errors.CapabilityError` for a site the model has not.
        """
        ...


@runtime_checkable
class HasPatchFilters(Protocol):
    """A model whose first layer is a linear map of squares of pixels: a patch embedding, a first convolution."""

    def patch_filters(self) -> Tensor:
        """(D, 3, P, P): the filter of each of D channels, over P x P normalised pixels.

        Raises :class:`~harness.errors.CapabilityError` where the first layer is something else.
        """
        ...


# --- perturbations ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbationInfo:
    """What a perturbation is and promises.

    ``stage``: where it acts. ``stochastic``: whether the seed matters. ``stream``: the name its draws are keyed by
    (variants that should share masks share it). ``level``: its strength axis, None if it has none. ``linf``: promised
    bound on any pixel's change, None for none. ``needs_target``: an attack, which ``prepare`` gives ``scores``.
    ``keyed``: the pixels of an image depend on (seed, stream, id) and the image only, bit for bit, whatever the
    batch; gradient attacks, which agree in outcome only, say False.
    """

    name: str
    stage: Stage = "image"
    stochastic: bool = False
    stream: str | None = None
    level: LevelSpec | None = None
    linf: float | None = None
    needs_target: bool = False
    keyed: bool = True
    version: int = 1
    params: Mapping[str, JSONValue] = field(default_factory=dict)


class SupportImages(Protocol):
    """The support images of a run, batch by batch on the CPU; every call begins anew."""

    def __call__(self, limit: int | None = None) -> Iterator[ImageBatch]:
        """All of them, or ``limit``, as many of each class as can be."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbationContext:
    """What the engine gives a perturbation once, before the first batch.

    ``models``: the models its parameters name, by parameter, each with its own normalisation inside.
    ``evaluated``: the model that is being measured, for what is relative to it (its token grid, its own attention);
    None where pixels are perturbed without one. ``num_images``: how many images will be perturbed in all.
    ``target``: differentiable ``scores(images) -> (N, C)`` of what an attack aims at, None unless it asked.
    ``support``: the support images, or None where the dataset has no support split.
    ``cache_dir``: where maps may be kept, between runs or for the length of one (None: nowhere); key them by weights,
    view and fingerprint.
    """

    seed: int
    view: View
    device: torch.device
    dataset_fingerprint: str
    num_classes: int
    models: Mapping[str, Model] = field(default_factory=dict)
    evaluated: Model | None = None
    num_images: int = 1
    target: Callable[[Tensor], Tensor] | None = None
    support: SupportImages | None = None
    cache_dir: Path | None = None


@runtime_checkable
class Perturbation(Protocol):
    """A change of images at a strength; random only through :mod:`harness.rng`, keyed by seed, stream and image id."""

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        ...

    def prepare(self, context: PerturbationContext) -> None:
        """Once per run and seed, before the first batch (a universal patch is trained here)."""
        ...

    def begin(self, batch: ImageBatch) -> Any:
        """Once per batch: what all levels share (a saliency map, a ranking of cells)."""
        ...

    def apply(self, batch: ImageBatch, state: Any, level: float | None) -> ImageBatch:
        """The perturbed batch: same labels, ids, shape and dtype, pixels in [0, 1].

        What was really done to each image stands in its ``realised``: the share of it that was taken away as
        :data:`INFORMATION_LOSS`, and, where groups of images share a mask, the number of its group as
        :data:`MASK_GROUP`.
        """
        ...


@runtime_checkable
class HasMaps(Protocol):
    """A perturbation that goes by maps of the image, which pictures of it show beside it."""

    def maps(self, state: Any) -> Mapping[str, Tensor]:
        """Maps by name, each (N, rows, columns) of values from 0 up, from what :meth:`Perturbation.begin` gave."""
        ...


@runtime_checkable
class ModelPerturbation(Protocol):
    """A perturbation of stage ``feature`` or ``model``: it surrounds the forward pass instead of changing pixels."""

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        ...

    def prepare(self, context: PerturbationContext) -> None:
        """Once per run and seed, before the first batch."""
        ...

    def begin(self, batch: ImageBatch) -> Any:
        """Once per batch: what all levels share."""
        ...

    def around(
        self, model: Model, batch: ImageBatch, state: Any, level: float | None
    ) -> AbstractContextManager[tuple[Model, ImageBatch]]:
        """A context whose value is the model to ask and the batch to ask it about (with ``realised`` filled in)."""
        ...


# --- probes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeInfo:
    """What a probe is and needs.

    ``learns`` from support images; ``compares`` with the clean pass; ``needs_label_space``: reads the model's own
    head, so that model and dataset must share their labels; ``maps_labels``: or have a named map between them
    (:func:`harness.label_maps.find_label_map`), which it applies. ``headline`` is the metric that tables show first.
    ``reference``: it is fitted, without labels, on clean features of the very images it will be asked about (a mean to
    centre by); ``select_support`` then chooses among these. ``of_model``: it measures the model itself, not what it
    makes of images: ``fit`` does all the work, and no image is shown.
    """

    name: str
    learns: bool = False
    compares: bool = False
    needs_label_space: bool = False
    maps_labels: bool = False
    reference: bool = False
    of_model: bool = False
    headline: str = "accuracy"
    version: int = 1
    params: Mapping[str, JSONValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeContext:
    """What ``fit`` may know: the model's card, the dataset's classes, and the seed of the probe.

    ``network``: the model itself, on ``device``, for probes that measure it or must know the sizes of its outputs;
    ``precision`` is the one that the run asks it in.

    ``device``: where the model runs, for a fit that is long enough to be worth moving; None where that is not known.
    ``query_positions`` (N,) int64, rising, and ``query_labels`` (N,) int64: which images will be asked about, for
    probes that draw episodes from both splits; None where that is not known. Nothing may be *learned* from them: what
    a probe predicts for an image must not depend on any label of a query image.
    """

    model: ModelInfo
    classes: Sequence[str]
    label_space: str | None
    seed: int
    query_positions: npt.NDArray[np.int64] | None = None
    query_labels: npt.NDArray[np.int64] | None = None
    device: torch.device | None = None
    network: Model | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


@runtime_checkable
class Probe(Protocol):
    """A way to read a model's outputs: fitted once per model and support, then run over any number of batches."""

    @property
    def info(self) -> ProbeInfo:
        """What it is and needs."""
        ...

    def wants(self, model: ModelInfo) -> OutputSpec:
        """What it needs of every query batch. Raises :class:`~harness.errors.CapabilityError` where that cannot be."""
        ...

    def features(self, model: ModelInfo) -> FeatureSpec | None:
        """The feature vector it is fitted on, None for a probe that does not learn."""
        ...

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """Positions in the support split it will need, from labels alone, before anything is decoded."""
        ...

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """An immutable fitted probe, built once per (model, support, parameters).

        ``support`` holds the rows selected.
        """
        ...


@runtime_checkable
class FittedProbe(Protocol):
    """A probe after fitting: immutable, shared by every level of every perturbation."""

    def start(self) -> ProbeRun:
        """Fresh counters."""
        ...

    def scores(self, outputs: ModelOutputs) -> Tensor | None:
        """(N, C) class scores, differentiable in the images; None where the probe has none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Per-image outcomes of one cell, rows ordered by position in the split's index.

    ``positions`` (N,) int64. ``variants``: one dims mapping per row of the columns (``{"shots": 5, "seed": 0}``).
    ``columns``: arrays (V, N) by name; ``prediction`` int32 and ``correct`` bool wherever the probe classifies.
    ``episodes``: (V, E) float64, the accuracy of each episode, NaN for one that was asked nothing; for probes whose
    independent units are episodes, None for all others.
    """

    positions: npt.NDArray[np.int64]
    variants: tuple[Mapping[str, JSONScalar], ...]
    columns: Mapping[str, npt.NDArray[Any]]
    episodes: npt.NDArray[np.float64] | None = None


@runtime_checkable
class ProbeRun(Protocol):
    """Counters over batches: mergeable and serialisable, so sharding, resuming and distributing are one thing."""

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:
        """Count one batch; ``clean`` are the outputs on the unperturbed images, where the probe compares."""
        ...

    def merge(self, other: ProbeRun) -> None:
        """Add what ``other``, started from the same fitted probe on other images, has counted."""
        ...

    def result(self) -> list[Measurement]:
        """Numbers with intervals, reduced from per-image values in order of position: equal for any batching."""
        ...

    def outcomes(self) -> Outcomes:
        """What was found for each image."""
        ...

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything counted so far, as arrays (safetensors can hold it)."""
        ...

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        ...


@runtime_checkable
class HasArrays(Protocol):
    """A probe's run that has more to show than numbers: what its pictures are drawn from."""

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Arrays by name, as many whatever the number of images: means over images, and a few examples."""
        ...


# --- datasets --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """What a dataset is. ``fingerprint`` changes when its content does (names, sizes and a sample of bytes).

    ``support_split`` is what probes learn from, ``query_split`` what they are asked about, and ``whole_split`` what
    probes that do not learn are asked about (all of the images, where no split was ever made).
    Support and query share no ids. ``view``: that of images which are stored ready to use, and must not be resized
    again; ``--view model`` then gives way to it.
    """

    name: str
    classes: tuple[str, ...]
    label_space: str | None
    splits: tuple[str, ...]
    query_split: str
    whole_split: str
    support_split: str | None
    fingerprint: str
    view: View | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitIndex:
    """A split without pixels: ``ids`` unique over the dataset, ``labels`` (N,) int64."""

    ids: Sequence[str] | Ids
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@runtime_checkable
class Dataset(Protocol):
    """Images by position. The engine alone owns order, shards, workers, resume and limits. Calls come from threads."""

    @property
    def info(self) -> DatasetInfo:
        """What it is."""
        ...

    def index(self, split: str) -> SplitIndex:
        """Ids and labels without decoding. Raises :class:`~harness.errors.DataError` for an unknown split."""
        ...

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """Decode those images under ``view``, on the CPU, in that order.

        An unreadable image raises :class:`~harness.errors.DataError` naming it, or, if the dataset was told to skip
        such images, is left out of the batch.
        """
        ...


# --- summaries -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryInput:
    """One record with its per-image outcomes (None if the probe keeps none).

    Among the columns (V, N) of the outcomes stand the realised quantities and, where they are known, the classes of
    the images as :data:`LABEL`, each the same for every variant. ``baselines``: what baseline models (``--baseline``)
    answered in the very same cell, by their names; only where the summary's entry is ``baselined``.
    """

    record: ResultRecord
    outcomes: Outcomes | None
    baselines: Mapping[str, SummaryInput] = field(default_factory=dict)


@runtime_checkable
class Summary(Protocol):
    """A number over several cells: a pure function of records and outcomes, derivable again at any time."""

    def compute(self, group: Sequence[SummaryInput], clean: SummaryInput | None) -> list[Measurement]:
        """``group``: the records that differ only in the axes the entry consumes; ``clean``: their clean record."""
        ...
