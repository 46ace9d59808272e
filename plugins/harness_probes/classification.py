"""The run of any probe that names a class: predictions per image and variant, and accuracies over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness import metrics
from harness.outcomes import OutcomeLog

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from harness.protocols import Outcomes, ProbeRun
    from harness.types import ImageBatch, JSONScalar, Measurement, ModelOutputs


class Classifier(Protocol):
    """A fitted probe that names a class for every image, in one or several variants."""

    @property
    def variants(self) -> tuple[Mapping[str, JSONScalar], ...]:
        """The dims of every variant; those that differ in ``seed`` alone are averaged."""
        ...

    def predict(self, batch: ImageBatch, outputs: ModelOutputs) -> npt.NDArray[np.int64]:
        """Predicted labels (V, N)."""
        ...


class ClassificationRun:
    """Prediction and correctness per image and variant.

    ``extra`` are numbers of the fit that stand beside the accuracies in every result, such as a parameter that was
    chosen; they depend on no image asked about.
    """

    def __init__(self, fitted: Classifier, *, extra: tuple[Measurement, ...] = ()) -> None:
        self._fitted = fitted
        self._extra = extra
        self._log = OutcomeLog(variants=fitted.variants, columns={"prediction": np.int32, "correct": np.bool_})

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:  # noqa: ARG002  # the contract's
        """Log a batch. Raises what the classifier raises, such as :class:`~harness.errors.DataError`."""
        prediction = self._fitted.predict(batch, outputs)
        correct = prediction == batch.labels.cpu().numpy()
        self._log.update(batch.positions, {"prediction": prediction.astype(np.int32), "correct": correct})

    def merge(self, other: ProbeRun) -> None:
        """Add what ``other`` has counted on other images."""
        if not isinstance(other, ClassificationRun):
            raise TypeError(f"cannot merge {type(other).__name__} into ClassificationRun")
        self._log.merge(other._log)

    def result(self) -> list[Measurement]:
        """``accuracy`` per setting; over several seeds their mean, ``accuracy_seed_std`` and ``accuracy_per_seed``.

        ``accuracy`` and ``accuracy_seed_std`` come with the dims that the seeds share (``{"shots": k}``),
        ``accuracy_per_seed`` with those and ``{"seed": s}``.
        """
        table = self._log.table()
        correct = table.columns["correct"]
        settings: dict[tuple[tuple[str, JSONScalar], ...], list[int]] = {}
        for place, dims in enumerate(table.variants):
            shared = tuple((name, value) for name, value in dims.items() if name != "seed")
            settings.setdefault(shared, []).append(place)
        rows: list[Measurement] = []
        for shared, mine in settings.items():
            rows += metrics.seeds_measurements(correct[mine], metric="accuracy", dims=dict(shared))
            rows += [
                metrics.accuracy_measurement(correct[v], metric="accuracy_per_seed", dims=table.variants[v])
                for v in mine
                if "seed" in table.variants[v]
            ]
        return [*rows, *self._extra]

    def outcomes(self) -> Outcomes:
        """Prediction and correctness per image, in the variants of the fitted probe."""
        return self._log.table()

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything counted so far."""
        return self._log.state_dict()

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from :meth:`state_dict`."""
        self._log.load_state_dict(state)
