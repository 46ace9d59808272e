"""Intervals for one number and the area under a curve: Wilson, bootstrap over images, Student's t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

_CHUNK = 2**18
"""Random positions held at once by the bootstrap: 2 MiB of int64, and as much again for each array made of them."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval and how it was made (``wilson95``, ``bootstrap95``, ``t95``)."""

    low: float
    high: float
    method: str


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion of ``n`` independent images under one seed, in [0, 1].

    Without continuity correction (Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 1927). Images times seeds are not independent: average over the seeds and take :func:`bootstrap_mean`.
    Raises :class:`~harness.errors.ParameterError` for ``n`` below 1, successes outside [0, n] and a confidence
    outside (0, 1).

    >>> interval = wilson(9, 10)
    >>> round(interval.low, 4), round(interval.high, 4), interval.method
    (0.5958, 0.9821, 'wilson95')
    """
    from statistics import NormalDist

    method = _method("wilson", confidence)
    if n < 1:
        raise ParameterError(f"wilson: a proportion needs at least one image, not n={n}")
    if not 0 <= successes <= n:
        raise ParameterError(f"wilson: successes={successes} must lie in [0, {n}]")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    failures = n - successes
    half = math.sqrt(z2 * (successes * failures / n + z2 / 4))
    # The upper end by the lower end for failures: exactly 1 without failures, as the lower end is 0 without successes.
    low = (successes + z2 / 2 - half) / (n + z2)
    high = 1 - (failures + z2 / 2 - half) / (n + z2)
    return Interval(low, high, method)


def bootstrap_mean(
    values: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap over images for the mean of ``values``: (N,), or (S, N) for S seeds of the same N images.

    Seeds are averaged within each image first, since images under several seeds are no independent units. Deterministic
    in its arguments (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). The interval has no
    width where all images have the same value, one image included; for counts of successes :func:`wilson` has.
    Raises :class:`~harness.errors.ParameterError` for no images, values that are not finite, fewer than 2 resamples, a
    negative seed and a confidence outside (0, 1).

    >>> bootstrap_mean([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]])
    Interval(low=0.5, high=1.0, method='bootstrap95')
    """
    import numpy as np

    array = _finite("bootstrap_mean", values, dimensions=(1, 2))
    per_image = array.mean(axis=0) if array.ndim == 2 else array

    def only_level(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return means[:, 0]

    return bootstrap_statistic(per_image[np.newaxis], only_level, confidence=confidence, resamples=resamples, seed=seed)


def resampled_means(values: npt.ArrayLike, *, resamples: int = 2000, seed: int = 0) -> npt.NDArray[np.float64]:
    """Means (R, L) of the rows of ``values`` (L, N) over R resamples of the N images, the same for every row.

    What several statistics of one curve share: one set of resamples serves them all. Raises as
    :func:`bootstrap_mean` does.
    """
    import numpy as np

    if resamples < 2:
        raise ParameterError(f"bootstrap: needs at least 2 resamples, not {resamples}", hint="2000 is the default")
    if seed < 0:
        raise ParameterError(f"bootstrap: seed must not be negative, but is {seed}")
    levels = _finite("bootstrap", values, dimensions=(2,))
    return np.concatenate(list(_resampled_means(levels, resamples, seed)))


def bootstrap_statistic(
    values: npt.ArrayLike,
    statistic: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over images for a function of several means over the *same* images.

    ``values``: (L, N), one row per level (or whatever else is averaged) of N images. Each resample draws N images once
    for all rows, so that what the rows share cancels. ``statistic`` maps the resampled means (R, L) to (R,) and is
    called once. Memory beyond ``values`` does not grow with ``resamples`` times N. Deterministic in its arguments.
    Raises as :func:`bootstrap_mean` does, and for a statistic of another shape or with values that are not finite.

    >>> levels = [[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    >>> bootstrap_statistic(levels, lambda means: means[:, 1] - means[:, 0], confidence=0.9)
    Interval(low=-1.0, high=0.0, method='bootstrap90')
    """
    import numpy as np

    method = _method("bootstrap", confidence)
    means = resampled_means(values, resamples=resamples, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # reported below, with the number of resamples concerned
        drawn = np.asarray(statistic(means), dtype=np.float64)
    if drawn.shape != (resamples,):
        raise ParameterError(
            f"bootstrap: the statistic of {means.shape} means must be ({resamples},), not {drawn.shape}"
        )
    if undefined := int((~np.isfinite(drawn)).sum()):
        raise ParameterError(
            f"bootstrap: the statistic is not finite in {undefined} of {resamples} resamples",
            hint="a ratio needs a denominator that stays away from zero, such as a clean accuracy above chance",
        )
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), method)


def t_interval(values: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval for the mean of ``values`` (N,), N >= 2 independent runs such as episodes or seeds.

    Raises :class:`~harness.errors.ParameterError` for fewer than two values, values that are not finite and a
    confidence outside (0, 1).

    >>> interval = t_interval([0.70, 0.74, 0.72])
    >>> round(interval.low, 3), round(interval.high, 3), interval.method
    (0.67, 0.77, 't95')
    """
    import numpy as np
    from scipy.special import stdtrit

    method = _method("t", confidence)
    array = _finite("t_interval", values, dimensions=(1,))
    if array.size < 2:
        raise ParameterError("t_interval: one value has no spread", hint="give at least two runs")
    half = float(stdtrit(array.size - 1, (1 + confidence) / 2)) * float(array.std(ddof=1)) / math.sqrt(array.size)
    mean = float(np.mean(array))
    return Interval(mean - half, mean + half, method)


def area_under_curve(x: Sequence[float], y: Sequence[float]) -> float:
    """Mean height of the line through the points (x, y): trapezoids over x, divided by the range that x covers.

    ``x`` rises strictly and need not be uniform, such as realised information losses; ``y`` has the same length.
    Raises :class:`~harness.errors.ParameterError` for fewer than two points, unequal lengths, ``x`` that does not rise
    strictly and numbers that are not finite.

    >>> area_under_curve([0.0, 0.5, 0.75], [1.0, 0.5, 0.25])
    0.625
    """
    if len(x) != len(y):
        raise ParameterError(f"area under the curve: {len(x)} x and {len(y)} y values")
    if len(x) < 2:
        raise ParameterError(f"area under the curve: needs at least two points, not {len(x)}")
    xs, ys = [float(value) for value in x], [float(value) for value in y]
    if not all(map(math.isfinite, (*xs, *ys))):
        raise ParameterError(f"area under the curve: not every number is finite in x={xs}, y={ys}")
    intervals = list(zip(xs, xs[1:], ys, ys[1:], strict=False))
    if falling := next(((left, right) for left, right, _, _ in intervals if left >= right), None):
        raise ParameterError(
            f"area under the curve: x must rise strictly, but {falling[0]:g} is followed by {falling[1]:g}",
            hint="sort the points by x; average the y values of points that share one x",
        )
    area = math.fsum((right - left) * (first + last) / 2 for left, right, first, last in intervals)
    return area / (xs[-1] - xs[0])


def chance_corrected(value: float, clean: float, chance: float) -> float:
    """Share of the clean accuracy above chance that is left: ``(value - chance) / (clean - chance)``.

    1 on a par with clean images, 0 at chance (``1 / classes``), negative below it. Raises
    :class:`~harness.errors.ParameterError` where ``clean`` is not above ``chance``: nothing could be lost there.

    >>> chance_corrected(0.5, clean=0.9, chance=0.1)
    0.5
    """
    if not clean > chance:
        raise ParameterError(f"chance correction: the clean value {clean:g} is not above chance {chance:g}")
    return (value - chance) / (clean - chance)


def _method(name: str, confidence: float) -> str:
    if not 0 < confidence < 1:
        raise ParameterError(f"{name} interval: confidence must lie between 0 and 1, not {confidence}", hint="try 0.95")
    return f"{name}{100 * confidence:g}"


def _finite(where: str, values: npt.ArrayLike, *, dimensions: tuple[int, ...]) -> npt.NDArray[np.float64]:
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in dimensions or array.size == 0:
        wanted = " or ".join(f"{d}-dimensional" for d in dimensions)
        raise ParameterError(f"{where}: values must be {wanted} and not empty, but have shape {array.shape}")
    if not np.isfinite(array).all():
        raise ParameterError(f"{where}: {int((~np.isfinite(array)).sum())} of {array.size} values are not finite")
    return array


def _resampled_means(levels: npt.NDArray[np.float64], resamples: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    """Row means (r, L) of ``levels`` (L, N) over images drawn with replacement, in chunks of r resamples."""
    import numpy as np

    generator = np.random.Generator(np.random.Philox(seed))
    n = levels.shape[1]
    at_once = max(1, _CHUNK // n)
    for first in range(0, resamples, at_once):
        r = min(at_once, resamples - first)
        cells = generator.integers(n, size=(r, n)) + np.arange(r)[:, np.newaxis] * n
        counts = np.bincount(cells.ravel(), minlength=r * n).reshape(r, n).astype(np.float64)
        # Not a matrix product: BLAS sums in an order that depends on its threads, and ends of intervals go to records.
        yield np.stack([(counts * level).sum(axis=1) for level in levels], axis=1) / n
