"""Which cue a classifier goes by: of images whose shape and texture belong to different classes, which it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness import metrics
from harness.errors import CapabilityError, DataError
from harness.label_maps import LabelMap, find_label_map, mapped_from
from harness.naming import did_you_mean
from harness.params import canonical, checked
from harness.protocols import FittedProbe, Outcomes, Probe, ProbeContext, ProbeInfo, ProbeRun
from harness.shape_bias import NONE, CueDecisions, shape_bias_measurements
from harness.types import FeatureTable, ImageBatch, JSONScalar, Measurement, ModelInfo, ModelOutputs, OutputSpec
from harness_inspect.figures import as_bytes
from harness_inspect.inspection import Found, Inspection, InspectionRun
from harness_inspect.shape_bias import Aggregate, ShapeBiasParams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

CLASSES = "classes"
"""(L,) uint8: the names of the classes in order as UTF-8, with a zero byte between them; see :func:`class_names`."""
IMAGES = "images"
"""(K, 3, H, W) uint8: the images shown."""

_SHOWN_IMAGES = 6


class ShapeBiasProbe(Probe):
    """Decisions on cue-conflict images: the class with the highest score, without regard to which cue it follows.

    Geirhos et al., "ImageNet-trained CNNs are biased towards texture" (ICLR 2019, arXiv 1811.12231), section 2. Images
    need the columns ``shape`` and ``texture``; those whose two cues are of one class say nothing of a bias and are left
    out of it. Where the dataset's classes are groups of the head's (the 16 categories of ImageNet), the probability of
    a category is by default the *mean* of its members' under the softmax over all classes (the authors' later rule);
    ``aggregate`` = ``sum`` or ``max`` are there to compare with numbers that were made so, and favour categories with
    many members: 109 for dogs, 1 for knives.

    Measured are the numbers of :func:`harness.shape_bias.shape_bias_measurements`, with ``{"head": name}`` for a model
    with several heads. ``shape_bias`` and its class mean are missing where neither cue was named on any image; then
    ``coverage`` is 0. Outcomes: ``prediction``, ``correct`` (by the dataset's label), the image's ``shape`` and
    ``texture``, ``by_texture``, and ``shape_bias``: 1 where the shape was named, 0 where the texture was, NaN for a
    decision by neither and for images out of conflict. So ``harness compare --metric shape_bias`` compares models on
    the images that each decided by either cue.
    """

    def __init__(self, *, head: str | None = None, aggregate: Aggregate = "mean") -> None:
        self._params = checked(ShapeBiasParams(head=head, aggregate=aggregate), "shape_bias")
        self._info = ProbeInfo(
            name="shape_bias",
            needs_label_space=True,
            maps_labels=True,
            headline="shape_bias",
            params=canonical(self._params),
        )

    @property
    def info(self) -> ProbeInfo:
        """Name and parameters."""
        return self._info

    def wants(self, model: ModelInfo) -> OutputSpec:
        """Logits. Raises :class:`~harness.errors.CapabilityError` for a model without a head, or without that head."""
        self._heads(model)
        return OutputSpec(logits=True)

    def features(self, model: ModelInfo) -> None:
        """None: nothing is learnt."""

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:  # noqa: ARG002  # the contract's
        """No positions: nothing is learnt."""
        return np.empty(0, np.int64)

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedShapeBias:  # noqa: ARG002  # there is none
        """The heads to read, and how their classes become the dataset's.

        Raises :class:`~harness.errors.CapabilityError` unless the head's classes are the dataset's or a named map leads
        to them, and for an ``aggregate`` that could have no effect.
        """
        model = context.model
        label_map = _label_map(model, context)
        aggregate = self._params.aggregate
        if aggregate != "mean" and max(map(len, label_map.groups or ()), default=1) == 1:
            raise CapabilityError(
                f"aggregate={aggregate} has no effect: each of the dataset's classes is one that the head of "
                f"{model.name} scores",
                hint="leave it out; it says how members of a category count together",
            )
        return FittedShapeBias(
            model=model.name,
            heads=self._heads(model),
            named=len(model.heads) > 1,
            label_map=label_map,
            aggregate=aggregate,
            classes=context.classes,
        )

    def _heads(self, model: ModelInfo) -> tuple[str, ...]:
        if not model.heads:
            raise CapabilityError(
                f"model {model.name} has no classifier, and so names no class",
                hint="use a model with a head, or weights that have one",
            )
        head = self._params.head
        if head is None:
            return model.heads
        if head not in model.heads:
            raise CapabilityError(
                f"model {model.name} has no head named {head!r}",
                hint=did_you_mean(head, model.heads) or f"its heads are {', '.join(model.heads)}",
            )
        return (head,)


def _label_map(model: ModelInfo, context: ProbeContext) -> LabelMap:
    found = find_label_map(model.label_space, context.label_space)
    if found is None:
        raise CapabilityError(
            f"the head of {model.name} scores the classes of {model.label_space or 'no named label space'}, "
            f"the dataset's are those of {context.label_space or 'no named label space'}",
            hint=f"besides its own it can be read in {', '.join(mapped_from(model.label_space)) or 'no others'}",
        )
    scored, given = found.num_classes(model.num_classes), tuple(context.classes)
    if scored != len(given):
        raise CapabilityError(
            f"the head of {model.name} scores {scored} classes of {found.target}, the dataset has {len(given)}",
            hint=f"one of them does not hold the label space {found.target}",
        )
    if given != found.classes and sorted(given) == sorted(found.classes):
        raise CapabilityError(
            f"the dataset numbers the classes of {found.target} in another order than the label space does",
            hint=f"number them {', '.join(found.classes)}",
        )
    return found


class FittedShapeBias(FittedProbe, Inspection):
    """Which heads to read, the default first, and how their classes become the dataset's."""

    name = "shape_bias"
    shown_images = _SHOWN_IMAGES

    def __init__(
        self,
        *,
        model: str,
        heads: Sequence[str],
        named: bool,
        label_map: LabelMap,
        aggregate: Aggregate,
        classes: Sequence[str],
    ) -> None:
        self.model = model
        self.heads = tuple(heads)
        self.classes = tuple(classes)
        self._variants: tuple[Mapping[str, JSONScalar], ...] = tuple({"head": h} if named else {} for h in self.heads)
        self._label_map = label_map
        self._aggregate = aggregate

    @property
    def variants(self) -> tuple[Mapping[str, JSONScalar], ...]:
        """One per head; without dims for a model that has one."""
        return self._variants

    @property
    def columns(self) -> Mapping[str, npt.DTypeLike]:
        """See :class:`ShapeBiasProbe`."""
        return {
            "prediction": np.int32,
            "correct": np.bool_,
            "by_texture": np.bool_,
            "shape_bias": np.float32,
            "shape": np.int32,
            "texture": np.int32,
        }

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return _ShapeBiasRun(self)

    def scores(self, outputs: ModelOutputs) -> Tensor:
        """(N, C) scores of the default head for the dataset's classes, differentiable."""
        return self._scores_of(self.heads[0], outputs)

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:  # noqa: ARG002  # the contract's
        """What each head names.

        Raises :class:`~harness.errors.DataError` for images without labels of shape and texture, and for logits that
        are not finite.
        """
        shape, texture = (self._cue(batch, name) for name in ("shape", "texture"))
        named = []
        for head in self.heads:
            source = f"logits of {self.model}, {head}"
            metrics.require_finite(outputs.logits[head], batch.ids, source=source)
            named.append(self._scores_of(head, outputs).argmax(dim=1).cpu().numpy().astype(np.int64))
        decisions = [CueDecisions(classes=self.classes, shape=shape, texture=texture, named=each) for each in named]
        labels = batch.labels.cpu().numpy()
        values: dict[str, list[npt.NDArray[Any]]] = {
            "prediction": [each.astype(np.int32) for each in named],
            "correct": [each == labels for each in named],
            "by_texture": [found.by_texture for found in decisions],
            "shape_bias": [np.where(found.by_shape | found.by_texture, found.by_shape, np.nan) for found in decisions],
            "shape": [shape] * len(named),
            "texture": [texture] * len(named),
        }
        return Found(
            values={name: np.stack(column) for name, column in values.items()},
            shown={IMAGES: as_bytes(batch.images)},
        )

    def measure(self, outcomes: Outcomes, arrays: Mapping[str, npt.NDArray[Any]]) -> list[Measurement]:  # noqa: ARG002  # the contract's
        """The numbers of every head. Raises :class:`~harness.errors.DataError` where no image is in conflict."""
        return [
            row
            for variant, dims in enumerate(outcomes.variants)
            for row in shape_bias_measurements(decisions_of(outcomes, variant, self.classes), dims=dims)
        ]

    def _cue(self, batch: ImageBatch, name: str) -> npt.NDArray[np.int64]:
        """(N,) labels of one cue."""
        if name not in batch.columns:
            there = f"they have {', '.join(batch.columns)}" if batch.columns else "they have no labels but their class"
            raise DataError(
                f"shape_bias: the images do not say whose {name} they show; {there}",
                hint="use a dataset of cue-conflict images: cue_conflict, shapes_cue_conflict, or one whose batches "
                "have the columns shape and texture",
            )
        labels = batch.columns[name].cpu().numpy().astype(np.int64)
        outside = (labels < NONE) | (labels >= len(self.classes))
        if outside.any():
            raise DataError(
                f"shape_bias: column {name} of {batch.ids[int(outside.argmax())]} is {labels[outside][0]}; expected a "
                f"class from 0 to {len(self.classes) - 1}, or -1 for none",
                hint="the dataset numbers its cues in another way than its classes",
            )
        return labels

    def _scores_of(self, head: str, outputs: ModelOutputs) -> Tensor:
        logits = outputs.logits[head]
        if self._aggregate == "mean":
            return self._label_map.apply(logits)
        return aggregated(self._label_map, logits, self._aggregate)


def aggregated(label_map: LabelMap, logits: Tensor, aggregate: Aggregate) -> Tensor:
    """Log of the sum, or of the maximum, of the probabilities of each group's members: (N, C') for (N, C) ``logits``.

    The softmax runs over all C classes; the mean is what :meth:`harness.label_maps.LabelMap.apply` gives.
    """
    if aggregate == "mean" or label_map.groups is None:
        return label_map.apply(logits)
    exact = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    members = [torch.tensor(group, device=logits.device) for group in label_map.groups]
    probabilities = exact.log_softmax(dim=1)
    parts = [probabilities.index_select(1, group) for group in members]
    return torch.stack([part.logsumexp(dim=1) if aggregate == "sum" else part.amax(dim=1) for part in parts], dim=1)


def decisions_of(outcomes: Outcomes, variant: int, classes: Sequence[str]) -> CueDecisions:
    """What one head named of every image, in order of position."""
    shape, texture, named = (
        np.asarray(outcomes.columns[name][variant], dtype=np.int64) for name in ("shape", "texture", "prediction")
    )
    return CueDecisions(classes=tuple(classes), shape=shape, texture=texture, named=named)


def class_names(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[str, ...]:
    """The names of the classes, from the arrays that a run kept."""
    return tuple(arrays[CLASSES].astype(np.uint8).tobytes().decode().split("\0"))


class _ShapeBiasRun(InspectionRun):
    """Decisions so far, with the names of the classes beside what is shown."""

    def __init__(self, fitted: FittedShapeBias) -> None:
        super().__init__(fitted)
        self._names = np.frombuffer("\0".join(fitted.classes).encode(), dtype=np.uint8)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Those of every inspection, and :data:`CLASSES`."""
        return {**super().arrays(), CLASSES: self._names.copy()}
