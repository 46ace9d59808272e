"""How far a classifier's probabilities can be trusted: likelihood, calibration errors and the Brier score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness import stats
from harness.errors import DataError, ParameterError
from harness.types import JSONScalar, Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from torch import Tensor

BINS = 15
"""Bins of both calibration errors where nothing else is said (Guo et al., 2017)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScores:
    """What the softmax of N images says, each (N,) float32: ``confidence``, ``nll`` (nats) and ``brier``."""

    confidence: Tensor
    nll: Tensor
    brier: Tensor


def image_scores(scores: Tensor, labels: Tensor) -> ImageScores:
    """Confidence, negative log likelihood and Brier score of each image, from ``scores`` (N, C) and ``labels`` (N,).

    The softmax of the scores is taken in float64. ``confidence``: the largest probability, in [1/C, 1]. ``nll``: minus
    the natural logarithm of the label's probability. ``brier``: the squared differences between the probabilities and
    the one-hot label, summed over the classes, in [0, 2] (Brier, "Verification of forecasts expressed in terms of
    probability", Monthly Weather Review 1950).
    """
    # Metal has no float64.
    exact = (scores.cpu() if scores.device.type == "mps" else scores).double()
    own = labels.to(exact.device)[:, None]
    log_probabilities = exact.log_softmax(dim=1)
    probabilities = log_probabilities.exp()
    distance = probabilities.scatter_add(1, own, -torch.ones_like(exact[:, :1]))
    return ImageScores(
        confidence=probabilities.amax(dim=1).float(),
        nll=-log_probabilities.gather(1, own)[:, 0].float(),
        brier=distance.square().sum(dim=1).float(),
    )


def expected_calibration_error(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], *, bins: int = BINS
) -> float:
    """Top-label ECE: the mean distance of accuracy from confidence over ``bins`` bins of equal width, in [0, 1].

    ``confidence`` and ``correct`` are (N,); bin m of M holds confidences in ((m - 1) / M, m / M], and bins count by
    their images (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3). Raises
    :class:`~harness.errors.DataError` for no images and :class:`~harness.errors.ParameterError` for fewer than one bin
    and for arrays that are not (N,) both, or confidences outside [0, 1].

    >>> expected_calibration_error(np.array([0.75, 0.75, 0.5]), np.array([True, False, True]), bins=2)
    0.3333333333333333
    """
    sure = _checked(confidence, correct, bins)
    # The product of a float32 and a small whole number is exact here, so each edge lies where it should.
    places = np.maximum(np.ceil(sure * bins), 1).astype(np.intp) - 1
    gaps = np.bincount(places, correct, minlength=bins) - np.bincount(places, sure, minlength=bins)
    return float(np.abs(gaps).sum()) / len(sure)


def adaptive_calibration_error(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], *, bins: int = BINS
) -> float:
    """Top-label ECE over ``bins`` bins of equal mass, in [0, 1]: sorted by confidence, sizes differ by one at most.

    Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural language processing models", EMNLP
    2015, section 3; Nixon et al., "Measuring Calibration in Deep Learning", 2019, compare it. Images of one confidence
    that fall into two bins are shared out with their common accuracy, so their order does not matter. Raises as
    :func:`expected_calibration_error` does.

    >>> adaptive_calibration_error(np.array([0.75, 1.0, 0.5, 0.5]), np.array([True, True, True, False]), bins=2)
    0.0625
    """
    sure = _checked(confidence, correct, bins)
    order = np.argsort(sure)
    values, first, counts = np.unique(sure[order], return_index=True, return_counts=True)
    shared = np.add.reduceat(correct[order].astype(np.int64), first) / counts
    gaps = np.repeat(shared - values, counts)
    filled = min(bins, len(gaps))
    edges = np.arange(filled + 1) * len(gaps) // filled
    return float(np.abs(np.add.reduceat(gaps, edges[:-1])).sum()) / len(gaps)


def calibration_measurements(
    *,
    confidence: npt.NDArray[np.float32],
    correct: npt.NDArray[np.bool_],
    nll: npt.NDArray[np.float32],
    brier: npt.NDArray[np.float32],
    bins: int = BINS,
    dims: Mapping[str, JSONScalar] | None = None,
) -> list[Measurement]:
    """``nll`` (nats), ``ece``, ``adaptive_ece`` (fractions) and ``brier`` (squared error) of N images; lower is better.

    All are (N,), as :func:`image_scores` gives them. The means ``nll`` and ``brier`` have Student's t interval over
    images, none for a single one; over few images its lower end may lie below 0. The calibration errors have no
    interval: chance alone keeps every bin's accuracy off its confidence, so they are biased upwards, the more so the
    fewer images a bin holds, and an interval around a biased number would not cover the true one. Raises as
    :func:`expected_calibration_error` does.
    """
    named = dict(dims or {})
    errors = {
        "ece": expected_calibration_error(confidence, correct, bins=bins),
        "adaptive_ece": adaptive_calibration_error(confidence, correct, bins=bins),
    }
    return [
        _mean(nll, "nll", "nats", named),
        *(
            Measurement(metric=metric, dims=named, value=value, n=len(correct), higher_is_better=False)
            for metric, value in errors.items()
        ),
        _mean(brier, "brier", "squared error", named),
    ]


def _mean(values: npt.NDArray[np.float32], metric: str, unit: str, dims: Mapping[str, JSONScalar]) -> Measurement:
    exact = values.astype(np.float64)
    interval = stats.t_interval(exact) if len(exact) > 1 else None
    return Measurement(
        metric=metric,
        dims=dims,
        value=float(exact.mean()),
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        interval=None if interval is None else interval.method,
        n=len(exact),
        unit=unit,
        higher_is_better=False,
    )


def _checked(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], bins: int
) -> npt.NDArray[np.float64]:
    if bins < 1:
        raise ParameterError(f"calibration error: needs at least one bin, not {bins}", hint="15 is the usual number")
    if confidence.ndim != 1 or correct.shape != confidence.shape or correct.dtype != np.bool_:
        raise ParameterError(
            f"calibration error: confidence and correct must be (N,) and correct bool, not {confidence.shape} and "
            f"{correct.shape} {correct.dtype}"
        )
    if not len(confidence):
        raise DataError("calibration error: there are no images to measure", hint="check the split and --limit")
    sure = confidence.astype(np.float64)
    if not (sure.min() >= 0 and sure.max() <= 1):
        raise ParameterError(f"calibration error: confidences reach from {sure.min()} to {sure.max()}, not in [0, 1]")
    return sure
