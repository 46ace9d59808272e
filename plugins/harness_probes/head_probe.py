"""The model's own classifier, read on every image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness import calibration, metrics, stats
from harness.errors import CapabilityError, HarnessError
from harness.label_maps import LabelMap, find_label_map, mapped_from
from harness.naming import did_you_mean
from harness.outcomes import OutcomeLog
from harness.params import canonical, checked
from harness.protocols import FittedProbe, Outcomes, ProbeContext, ProbeInfo, ProbeRun
from harness.types import (
    FeatureSpec,
    FeatureTable,
    ImageBatch,
    JSONScalar,
    Measurement,
    ModelInfo,
    ModelOutputs,
    OutputSpec,
)
from harness_probes.head import HeadParams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

_TOP5 = 5
_COUNTS = ("class_images", "class_correct")


class HeadProbe:
    """Accuracy, likelihood and calibration of the logits a model already has.

    ``head`` picks one head of a model with several; None reports each, the model's default first. Rows of a model
    with several heads carry ``{"head": name}``. ``bins`` are those of the calibration errors.

    Where the dataset's classes are a named subset or grouping of the head's (:mod:`harness.label_maps`), every number
    is one of the mapped scores: for a subset such as ``imagenet_a`` the softmax runs over the subset's logits alone,
    for ``imagenet16`` the probabilities of the categories are proportional to their members' mean probabilities.
    """

    def __init__(self, *, head: str | None = None, bins: int = calibration.BINS) -> None:
        self._params = checked(HeadParams(head=head, bins=bins), "head")
        self._info = ProbeInfo(
            name="head",
            needs_label_space=True,
            maps_labels=True,
            headline="top1",
            version=2,
            params=canonical(self._params),
        )

    @property
    def info(self) -> ProbeInfo:
        """Name, version and parameters."""
        return self._info

    def wants(self, model: ModelInfo) -> OutputSpec:
        """Logits. Raises :class:`~harness.errors.CapabilityError` for a model without a head, or without that head."""
        self._heads(model)
        return OutputSpec(logits=True)

    def features(self, model: ModelInfo) -> FeatureSpec | None:  # noqa: ARG002  # the contract's signature
        """None: nothing is learnt."""
        return None

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:  # noqa: ARG002
        """No positions: nothing is learnt."""
        return np.empty(0, np.int64)

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002
        """The heads to read, and how their classes become the dataset's.

        Raises :class:`~harness.errors.CapabilityError` unless the head's classes are the dataset's, or a named map
        leads to them: scores over other classes would still give a number, but it would mean nothing.
        """
        model = context.model
        return FittedHead(
            model=model.name,
            heads=self._heads(model),
            named=len(model.heads) > 1,
            label_map=_label_map(model, context),
            num_classes=len(context.classes),
            bins=self._params.bins,
        )

    def _heads(self, model: ModelInfo) -> tuple[str, ...]:
        if not model.heads:
            raise CapabilityError(
                f"model {model.name} has no classifier",
                hint="use a probe that learns from its features, such as fewshot",
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
        others = mapped_from(model.label_space)
        raise CapabilityError(
            f"the head of {model.name} scores the classes of {model.label_space or 'no named label space'}, "
            f"the dataset's are those of {context.label_space or 'no named label space'}",
            hint="use a probe that learns the dataset's classes, such as fewshot"
            + (f"; besides its own, this head can be read in the classes of {', '.join(others)}" if others else ""),
        )
    scored = found.num_classes(model.num_classes)
    if scored != len(context.classes):
        raise CapabilityError(
            f"the head of {model.name} scores {scored} classes{'' if found.is_identity else f' of {found.target}'}, "
            f"the dataset has {len(context.classes)}",
            hint=f"one of them does not hold the label space {found.target}",
        )
    given = tuple(context.classes)
    if found.classes and given != found.classes and sorted(given) == sorted(found.classes):
        raise CapabilityError(
            f"the dataset numbers the classes of {found.target} in another order than the label space does",
            hint=f"number them {', '.join(found.classes)}",
        )
    return found


class FittedHead:
    """Which heads to read, the default first, and the map from their classes to the dataset's."""

    def __init__(
        self,
        *,
        model: str,
        heads: Sequence[str],
        named: bool,
        label_map: LabelMap,
        num_classes: int,
        bins: int = calibration.BINS,
    ) -> None:
        self.model = model
        self.heads = tuple(heads)
        self.variants: tuple[Mapping[str, JSONScalar], ...] = tuple({"head": h} if named else {} for h in self.heads)
        self.ks = (1, _TOP5) if num_classes > _TOP5 else (1,)
        self.num_classes = num_classes
        self.bins = bins
        self._label_map = label_map

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return HeadRun(self)

    def scores(self, outputs: ModelOutputs) -> Tensor:
        """(N, C) scores of the default head for the dataset's classes, differentiable."""
        return self.scores_of(self.heads[0], outputs)

    def scores_of(self, head: str, outputs: ModelOutputs) -> Tensor:
        """(N, C) scores of one head for the dataset's classes, differentiable."""
        return self._label_map.apply(outputs.logits[head])


class HeadRun:
    """Predictions and what their probabilities are worth, per image and head, and counts per class."""

    def __init__(self, fitted: FittedHead) -> None:
        self._fitted = fitted
        columns: dict[str, npt.DTypeLike] = {"prediction": np.int32, "correct": np.bool_}
        if _TOP5 in fitted.ks:
            columns["correct_top5"] = np.bool_
        columns |= dict.fromkeys(("confidence", "nll", "brier"), np.float32)
        self._log = OutcomeLog(variants=fitted.variants, columns=columns)
        self._class_images = np.zeros(fitted.num_classes, np.int64)
        self._class_correct = np.zeros((len(fitted.heads), fitted.num_classes), np.int64)

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:  # noqa: ARG002
        """Log a batch. Raises :class:`~harness.errors.DataError` for logits that are not finite."""
        columns: dict[str, list[Tensor]] = {name: [] for name in self._log.columns}
        for head in self._fitted.heads:
            source = f"logits of {self._fitted.model}, {head}"
            metrics.require_finite(outputs.logits[head], batch.ids, source=source)
            scores = self._fitted.scores_of(head, outputs)
            by_k = metrics.topk_correct(scores, batch.labels, self._fitted.ks)
            of_images = calibration.image_scores(scores, batch.labels)
            found = {
                "prediction": scores.argmax(dim=1),
                "correct": by_k[0],
                "correct_top5": by_k[-1],
                "confidence": of_images.confidence,
                "nll": of_images.nll,
                "brier": of_images.brier,
            }
            for name, column in columns.items():
                column.append(found[name])
        values = {name: torch.stack(column).cpu().numpy() for name, column in columns.items()}
        self._log.update(batch.positions, values)
        labels = batch.labels.cpu().numpy()
        self._class_images += np.bincount(labels, minlength=self._fitted.num_classes)
        for v, correct in enumerate(values["correct"]):
            self._class_correct[v] += np.bincount(labels[correct], minlength=self._fitted.num_classes)

    def merge(self, other: ProbeRun) -> None:
        """Add what ``other`` has counted on other images."""
        if not isinstance(other, HeadRun):
            raise TypeError(f"cannot merge {type(other).__name__} into HeadRun")
        self._log.merge(other._log)
        self._class_images += other._class_images
        self._class_correct += other._class_correct

    def result(self) -> list[Measurement]:
        """Per head ``top1``, ``top5``, ``mean_class_accuracy``, ``nll``, ``ece``, ``adaptive_ece`` and ``brier``.

        Accuracies are fractions; ``top1`` and ``top5`` (with more than five classes) have Wilson intervals, and
        ``mean_class_accuracy``, the mean over the classes that have images, one bootstrapped within classes. The others
        are those of :func:`harness.calibration.calibration_measurements`. The same logits give the same numbers, bit
        for bit, however they were batched; but a network's own float32 logits differ in their last bits between batch
        sizes, and even from run to run, which counts hardly ever show and the others do, by 1e-7 or so.
        """
        table = self._log.table()
        rows = []
        for v, dims in enumerate(table.variants):
            column = {name: values[v] for name, values in table.columns.items()}
            rows.append(metrics.accuracy_measurement(column["correct"], metric="top1", dims=dims))
            if "correct_top5" in column:
                rows.append(metrics.accuracy_measurement(column["correct_top5"], metric="top5", dims=dims))
            rows.append(self._mean_class_accuracy(v, dims))
            rows += calibration.calibration_measurements(
                confidence=column["confidence"],
                correct=column["correct"],
                nll=column["nll"],
                brier=column["brier"],
                bins=self._fitted.bins,
                dims=dims,
            )
        return rows

    def outcomes(self) -> Outcomes:
        """Prediction, correctness, confidence, likelihood and Brier score per image; one variant per head."""
        return self._log.table()

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything counted so far."""
        counts = {"class_images": self._class_images.copy(), "class_correct": self._class_correct.copy()}
        return self._log.state_dict() | counts

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from :meth:`state_dict`. Raises :class:`~harness.errors.HarnessError` for another probe's."""
        images, correct = (state.get(name) for name in _COUNTS)
        if (
            images is None
            or correct is None
            or images.shape != self._class_images.shape
            or correct.shape != self._class_correct.shape
        ):
            raise HarnessError(
                f"a state of head needs counts of {self._fitted.num_classes} classes and {len(self._fitted.heads)} "
                "heads",
                hint="the checkpoint belongs to another probe or version; delete it to start this cell again",
            )
        self._log.load_state_dict({name: array for name, array in state.items() if name not in _COUNTS})
        self._class_images, self._class_correct = images.copy(), correct.copy()

    def _mean_class_accuracy(self, variant: int, dims: Mapping[str, JSONScalar]) -> Measurement:
        there = self._class_images > 0
        images, correct = self._class_images[there], self._class_correct[variant][there]
        n = int(images.sum())
        # One image shows no spread.
        interval = stats.bootstrap_class_mean(correct, images) if n > 1 else None
        return Measurement(
            metric="mean_class_accuracy",
            dims=dict(dims),
            value=float((correct / images).mean()),
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            interval=None if interval is None else interval.method,
            n=n,
        )
