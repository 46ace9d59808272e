"""The model's own classifier, read on every image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness import metrics
from harness.errors import CapabilityError
from harness.naming import did_you_mean
from harness.outcomes import OutcomeLog
from harness.params import canonical
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


class HeadProbe:
    """Top-1 and, with more than five classes, top-5 accuracy of the logits a model already has.

    ``head`` picks one head of a model with several; None reports each, the model's default first. Rows of a model
    with several heads carry ``{"head": name}``.
    """

    def __init__(self, *, head: str | None = None) -> None:
        self._head = head
        self._info = ProbeInfo(
            name="head", needs_label_space=True, headline="top1", params=canonical(HeadParams(head=head))
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
        """The heads to read.

        Raises :class:`~harness.errors.CapabilityError` unless the head's classes are the dataset's: scores over other
        classes would still give a number, but it would mean nothing.
        """
        model = context.model
        heads = self._heads(model)
        if model.label_space is None or model.label_space != context.label_space:
            raise CapabilityError(
                f"the head of {model.name} scores the classes of {model.label_space or 'no named label space'}, "
                f"the dataset's are those of {context.label_space or 'no named label space'}",
                hint="use a probe that learns the dataset's classes, such as fewshot",
            )
        if model.num_classes != len(context.classes):
            raise CapabilityError(
                f"the head of {model.name} scores {model.num_classes} classes, the dataset has {len(context.classes)}",
                hint=f"one of them does not hold the label space {model.label_space}",
            )
        return FittedHead(model=model.name, heads=heads, named=len(model.heads) > 1, num_classes=len(context.classes))

    def _heads(self, model: ModelInfo) -> tuple[str, ...]:
        if not model.heads:
            raise CapabilityError(
                f"model {model.name} has no classifier",
                hint="use a probe that learns from its features, such as fewshot",
            )
        if self._head is None:
            return model.heads
        if self._head not in model.heads:
            raise CapabilityError(
                f"model {model.name} has no head named {self._head!r}",
                hint=did_you_mean(self._head, model.heads) or f"its heads are {', '.join(model.heads)}",
            )
        return (self._head,)


class FittedHead:
    """Which heads to read, the default first."""

    def __init__(self, *, model: str, heads: Sequence[str], named: bool, num_classes: int) -> None:
        self.model = model
        self.heads = tuple(heads)
        self.variants: tuple[Mapping[str, JSONScalar], ...] = tuple({"head": h} if named else {} for h in self.heads)
        self.ks = (1, _TOP5) if num_classes > _TOP5 else (1,)

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return HeadRun(self)

    def scores(self, outputs: ModelOutputs) -> Tensor:
        """(N, C) logits of the default head."""
        return outputs.logits[self.heads[0]]


class HeadRun:
    """Predictions and correctness per image and head."""

    def __init__(self, fitted: FittedHead) -> None:
        self._fitted = fitted
        columns: dict[str, npt.DTypeLike] = {"prediction": np.int32, "correct": np.bool_}
        if _TOP5 in fitted.ks:
            columns["correct_top5"] = np.bool_
        self._log = OutcomeLog(variants=fitted.variants, columns=columns)

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:  # noqa: ARG002
        """Log a batch. Raises :class:`~harness.errors.DataError` for logits that are not finite."""
        predictions, correct = [], []
        for head in self._fitted.heads:
            logits = outputs.logits[head]
            metrics.require_finite(logits, batch.ids, source=f"logits of {self._fitted.model}, {head}")
            predictions.append(logits.argmax(dim=1))
            correct.append(metrics.topk_correct(logits, batch.labels, self._fitted.ks))
        by_k = torch.stack(correct).cpu().numpy()
        values = {"prediction": torch.stack(predictions).cpu().numpy(), "correct": by_k[:, 0]}
        if _TOP5 in self._fitted.ks:
            values["correct_top5"] = by_k[:, 1]
        self._log.update(batch.positions, values)

    def merge(self, other: ProbeRun) -> None:
        """Add what ``other`` has counted on other images."""
        if not isinstance(other, HeadRun):
            raise TypeError(f"cannot merge {type(other).__name__} into HeadRun")
        self._log.merge(other._log)

    def result(self) -> list[Measurement]:
        """``top1`` and ``top5`` per head, each a fraction with its Wilson interval."""
        table = self._log.table()
        rows = []
        for v, dims in enumerate(table.variants):
            rows.append(metrics.accuracy_measurement(table.columns["correct"][v], metric="top1", dims=dims))
            if "correct_top5" in table.columns:
                rows.append(metrics.accuracy_measurement(table.columns["correct_top5"][v], metric="top5", dims=dims))
        return rows

    def outcomes(self) -> Outcomes:
        """Prediction and correctness per image; one variant per head."""
        return self._log.table()

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything counted so far."""
        return self._log.state_dict()

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from :meth:`state_dict`."""
        self._log.load_state_dict(state)
