"""Accuracy from scores: which images count as correct, and the fraction of them with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness import stats
from harness.errors import DataError, ParameterError
from harness.types import JSONScalar, Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

_SHOWN = 5


def require_finite(scores: Tensor, ids: Sequence[str], *, source: str) -> None:
    """Nothing if every number of ``scores`` (N, ...) is finite.

    Raises :class:`~harness.errors.DataError` that names the ``source`` and the first images concerned: a NaN or an
    infinity compares in some order with every number, and would silently become an accuracy.
    """
    bad = ~torch.isfinite(scores.detach()).flatten(1).all(dim=1)
    rows = bad.nonzero().flatten().tolist()
    if rows:
        shown = ", ".join(ids[row] for row in rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")
        raise DataError(
            f"{source}: NaN or infinite values for {len(rows)} of {len(ids)} images of a batch: {shown}",
            hint="run with --precision fp32; if it persists, the weights or these images are at fault",
        )


def topk_correct(scores: Tensor, labels: Tensor, ks: Sequence[int]) -> Tensor:
    """Whether each label is among the k best scores: (len(ks), N) bool for ``scores`` (N, C) and ``labels`` (N,).

    The rank of the label is the number of classes with a higher score, plus the number with an equal score and a
    smaller index; it is correct iff its rank lies below k. So ties go to the smaller class index on every device, and
    k = 1 agrees with the first maximum.

    Raises :class:`~harness.errors.ParameterError` for a k outside [1, C] and :class:`~harness.errors.DataError` for a
    label outside [0, C).

    >>> topk_correct(torch.tensor([[0.1, 0.5, 0.5]]), torch.tensor([2]), (1, 2)).tolist()
    [[False], [True]]
    """
    classes = scores.shape[1]
    for k in ks:
        if not 1 <= k <= classes:
            raise ParameterError(f"top-k: k must lie in [1, {classes}], the number of classes, not {k}")
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        raise DataError(
            f"label {int(labels[outside][0])} does not lie in [0, {classes}), the classes that were scored",
            hint="the dataset's classes and the model's head do not agree",
        )
    own = scores.gather(1, labels[:, None])
    smaller = torch.arange(classes, device=scores.device) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & smaller)).sum(dim=1)
    return rank < torch.tensor(list(ks), device=scores.device)[:, None]


def accuracy_measurement(
    correct: npt.NDArray[np.bool_], *, metric: str, dims: Mapping[str, JSONScalar] | None = None
) -> Measurement:
    """The fraction of ``correct`` (N,) bool that is true, with the Wilson interval over independent images.

    Raises :class:`~harness.errors.DataError` for no images.
    """
    n = _images(correct, metric)
    successes = int(np.count_nonzero(correct))
    interval = stats.wilson(successes, n)
    return Measurement(
        metric=metric,
        dims=dict(dims or {}),
        value=successes / n,
        low=interval.low,
        high=interval.high,
        interval=interval.method,
        n=n,
    )


def seeds_measurements(
    correct: npt.NDArray[np.bool_], *, metric: str, dims: Mapping[str, JSONScalar] | None = None
) -> tuple[Measurement, ...]:
    """The accuracy over several seeds on the same images, ``correct`` (S, N) bool, and how much the seeds differ.

    The first row, ``metric``, is the mean; its interval is bootstrapped over images after averaging the seeds within
    each image, since images times seeds are not independent. The second, ``<metric>_seed_std``, is the standard
    deviation (n - 1) of the S accuracies: it speaks of the seeds, on exactly these images. One seed gives the first
    row alone, with a Wilson interval. Raises :class:`~harness.errors.DataError` for no images.
    """
    seeds = len(correct)
    if seeds == 1:
        return (accuracy_measurement(correct[0], metric=metric, dims=dims),)
    n = _images(correct[0] if seeds else np.empty(0, bool), metric)
    interval = stats.bootstrap_mean(correct.astype(np.float64))
    # Counts are integers and add exactly, so neither number depends on the order of the images.
    hits = np.count_nonzero(correct, axis=1)
    mean = Measurement(
        metric=metric,
        dims=dict(dims or {}),
        value=int(hits.sum()) / (seeds * n),
        low=interval.low,
        high=interval.high,
        interval=interval.method,
        n=n,
    )
    spread = Measurement(
        metric=f"{metric}_seed_std",
        dims=dict(dims or {}),
        value=float(np.std(hits / n, ddof=1)),
        n=seeds,
        higher_is_better=None,
        counted="seeds",
    )
    return (mean, spread)


def _images(correct: npt.NDArray[np.bool_], metric: str) -> int:
    if correct.ndim != 1 or correct.dtype != np.bool_:
        raise ParameterError(f"{metric}: outcomes must be (N,) bool, not {correct.shape} {correct.dtype}")
    if not len(correct):
        raise DataError(f"{metric}: there are no images to measure", hint="check the split and --limit")
    return len(correct)
