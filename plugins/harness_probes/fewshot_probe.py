"""Few-shot transfer: a linear classifier on frozen features, fitted on k support images per class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness import metrics
from harness.errors import DataError, HarnessError, ParameterError
from harness.features import extract, require_features
from harness.outcomes import OutcomeLog
from harness.params import canonical
from harness.protocols import FittedProbe, Outcomes, ProbeContext, ProbeInfo, ProbeRun
from harness.types import FeatureSpec, FeatureTable, ImageBatch, Measurement, ModelInfo, ModelOutputs, OutputSpec
from harness_probes.fewshot import FewShotParams
from harness_probes.ridge import fit_ridge
from harness_probes.shots import Shots, draw_shots, grouping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

FEATURES = FeatureSpec(pooled=True)
_DECIMALS = 9
_NEVER = -1e4


class FewShotProbe:
    """The few-shot linear evaluation of big_vision (``evaluators/fewshot_lsr.py``): closed-form ridge regression.

    For each of ``seeds`` seeds, counted up from the run's probe seed, ``shots`` images of every class are drawn,
    nested in the number of shots. Features are the pooled vector in front of the head. See
    :func:`harness_probes.ridge.fit_ridge` for the classifier.
    """

    def __init__(
        self, *, shots: tuple[int, ...] = (1, 5, 10, 25), seeds: int = 3, ridge_lambda: float = 1024.0
    ) -> None:
        self._params = FewShotParams(shots=shots, seeds=seeds, ridge_lambda=ridge_lambda)
        self._info = ProbeInfo(name="fewshot", learns=True, params=canonical(self._params))
        # A feature table tells neither positions nor the split's labels, from which the draw could be made again.
        self._drawn: dict[tuple[int, bytes], Shots] = {}

    @property
    def info(self) -> ProbeInfo:
        """Name, version and parameters."""
        return self._info

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The pooled vector. Raises :class:`~harness.errors.CapabilityError` for a model without one."""
        return self.features(model).outputs(model.num_blocks)

    def features(self, model: ModelInfo) -> FeatureSpec:
        """The pooled vector. Raises :class:`~harness.errors.CapabilityError` for a model without one."""
        require_features(FEATURES, model)
        return FEATURES

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """The positions of every shot of every seed, rising; :meth:`fit` expects exactly these rows, in this order.

        Raises :class:`~harness.errors.DataError` for a class with fewer images than the largest number of shots, and
        :class:`~harness.errors.ParameterError` for a negative seed.
        """
        if seed < 0:
            raise ParameterError(f"fewshot: the probe's seed must not be negative, but is {seed}")
        drawn = draw_shots(labels, shots=self._params.shots, seeds=range(seed, seed + self._params.seeds))
        self._drawn[seed, grouping(labels[drawn.positions])] = drawn
        return drawn.positions

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """One classifier per number of shots and seed.

        Raises :class:`~harness.errors.HarnessError` for rows that :meth:`select_support` of this probe did not select
        with this seed, and :class:`~harness.errors.DataError` for labels outside the dataset's classes, or features
        that are not finite.
        """
        if support is None or support.spec != FEATURES:
            raise HarnessError("fewshot: fit needs support features of its own spec, the pooled vector")
        drawn = self._drawn.get((context.seed, grouping(support.y)))
        if drawn is None:
            raise HarnessError(
                f"fewshot: these {len(support)} support rows are not those selected with seed {context.seed}",
                hint="call select_support(labels, seed) of this probe, and give fit exactly those rows in that order",
            )
        learned = _learned_classes(support.y, context.classes)
        bad = np.flatnonzero(~np.isfinite(support.x).all(axis=1))
        if len(bad):
            raise DataError(
                f"fewshot: NaN or infinite features of {context.model.name} for {len(bad)} of {len(support)} support "
                f"images, such as {support.ids[int(bad[0])]}",
                hint="run with --precision fp32; if it persists, the weights or these images are at fault",
            )
        variants, weights, biases = [], [], []
        for k in self._params.shots:
            for s in range(self._params.seeds):
                # Rising rows make the sums, and so the last bits, independent of the order in which shots were drawn.
                rows = np.sort(drawn.rows[s, :, :k], axis=None)
                linear = fit_ridge(
                    support.x[rows],
                    np.searchsorted(learned, support.y[rows]),
                    num_classes=len(learned),
                    ridge_lambda=self._params.ridge_lambda,
                )
                variants.append({"shots": k, "seed": context.seed + s})
                weights.append(linear.weight)
                biases.append(linear.bias)
        return FittedFewShot(
            model=context.model,
            classes=context.classes,
            learned=learned,
            variants=variants,
            weight=np.concatenate(weights, axis=1),
            bias=np.concatenate(biases),
        )


def _learned_classes(labels: npt.NDArray[np.int64], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(
            f"fewshot: support labels reach from {labels.min()} to {labels.max()}, "
            f"the dataset has {len(classes)} classes"
        )
    return np.unique(labels)


class FittedFewShot:
    """Linear classifiers on the pooled vector: ``weight`` (D, V * L) and ``bias`` (V * L,), one block per variant.

    ``learned`` (L,) int64 are the labels that had support images, rising; a folder with some of ImageNet's classes
    has fewer of them than ``classes``.
    """

    def __init__(
        self,
        *,
        model: ModelInfo,
        classes: Sequence[str],
        learned: npt.NDArray[np.int64],
        variants: Sequence[Mapping[str, int]],
        weight: npt.NDArray[np.float64],
        bias: npt.NDArray[np.float64],
    ) -> None:
        self.model = model
        self.variants = tuple(variants)
        self._count = len(learned)
        self._weight = torch.from_numpy(weight)
        self._bias = torch.from_numpy(bias)
        self.classes = tuple(classes)
        self.learned = torch.from_numpy(learned)
        # The last block of the first seed: variants are ordered by shots, then by seed.
        self._scored = next(v for v, dims in enumerate(variants) if dims["shots"] == variants[-1]["shots"])
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return FewShotRun(self)

    def scores(self, outputs: ModelOutputs) -> Tensor:
        """(N, C) float32 scores of the classifier with the most shots and the first seed, differentiable.

        Classes that had no support images score far below all others.
        """
        x, weight, bias = self._operands(outputs)
        block = slice(self._scored * self._count, (self._scored + 1) * self._count)
        learned = (x @ weight[:, block] + bias[block]).float()
        scores = learned.new_full((len(x), len(self.classes)), _NEVER)
        return scores.index_copy(1, self.learned.to(learned.device), learned)

    def all_scores(self, outputs: ModelOutputs) -> Tensor:
        """(N, V, L) float64 scores of every variant for the classes that were learned."""
        x, weight, bias = self._operands(outputs)
        return (x @ weight + bias).view(len(x), len(self.variants), self._count)

    def require_learned(self, batch: ImageBatch) -> None:
        """Raise :class:`~harness.errors.DataError` for images of a class that had no support images."""
        known = torch.isin(batch.labels, self.learned.to(batch.labels.device))
        if known.all():
            return
        first = int(torch.nonzero(~known)[0])
        label = int(batch.labels[first])
        raise DataError(
            f"fewshot: image {batch.ids[first]} is of class {self.classes[label]} (label {label}), "
            "which has no support images",
            hint="give every class images in the support split, or leave the class out of the query split",
        )

    def _operands(self, outputs: ModelOutputs) -> tuple[Tensor, Tensor, Tensor]:
        x = extract(outputs, FEATURES, self.model)
        # Metal has no float64; the vectors are small enough to be moved.
        device = torch.device("cpu") if x.device.type == "mps" else x.device
        if device not in self._on_device:
            # A copy made inside inference mode could never take part in a gradient of scores().
            with torch.inference_mode(False):
                self._on_device[device] = (self._weight.to(device), self._bias.to(device))
        return (x.to(device).double(), *self._on_device[device])


class FewShotRun:
    """Predictions and correctness per image, number of shots and seed."""

    def __init__(self, fitted: FittedFewShot) -> None:
        self._fitted = fitted
        self._log = OutcomeLog(variants=fitted.variants, columns={"prediction": np.int32, "correct": np.bool_})

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:  # noqa: ARG002  # the contract's
        """Log a batch.

        Raises :class:`~harness.errors.DataError` for features that are not finite and classes never learned.
        """
        self._fitted.require_learned(batch)
        scores = self._fitted.all_scores(outputs)
        metrics.require_finite(scores, batch.ids, source=f"few-shot scores on {self._fitted.model.name}")
        # Classes whose scores differ by rounding alone are tied; the first of them wins, whatever the batch size.
        best = scores.round(decimals=_DECIMALS).argmax(dim=2).T
        prediction = self._fitted.learned.to(best.device)[best]
        correct = prediction == batch.labels.to(prediction.device)
        self._log.update(
            batch.positions, {"prediction": prediction.cpu().numpy().astype(np.int32), "correct": correct.cpu().numpy()}
        )

    def merge(self, other: ProbeRun) -> None:
        """Add what ``other`` has counted on other images."""
        if not isinstance(other, FewShotRun):
            raise TypeError(f"cannot merge {type(other).__name__} into FewShotRun")
        self._log.merge(other._log)

    def result(self) -> list[Measurement]:
        """Per number of shots: ``accuracy`` over the seeds, their ``accuracy_seed_std``, and ``accuracy_per_seed``.

        ``accuracy`` and ``accuracy_seed_std`` come with ``{"shots": k}``, ``accuracy_per_seed`` with
        ``{"shots": k, "seed": s}``.
        """
        table = self._log.table()
        correct = table.columns["correct"]
        rows: list[Measurement] = []
        for k in dict.fromkeys(dims["shots"] for dims in table.variants):
            mine = [v for v, dims in enumerate(table.variants) if dims["shots"] == k]
            rows += metrics.seeds_measurements(correct[mine], metric="accuracy", dims={"shots": k})
            rows += [
                metrics.accuracy_measurement(correct[v], metric="accuracy_per_seed", dims=table.variants[v])
                for v in mine
            ]
        return rows

    def outcomes(self) -> Outcomes:
        """Prediction and correctness per image; one variant per number of shots and seed."""
        return self._log.table()

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything counted so far."""
        return self._log.state_dict()

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from :meth:`state_dict`."""
        self._log.load_state_dict(state)
