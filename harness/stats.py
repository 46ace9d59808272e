"""Intervals for one number, and numbers of a curve: Wilson, bootstrap over images or groups, Student's t, areas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

    _check_resampling(resamples, seed)
    levels = _finite("bootstrap", values, dimensions=(2,))
    return np.concatenate(list(_resampled_means(levels, resamples, seed)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """Values of N images that are independent between groups, not within them, such as under masks that groups share.

    ``groups``: (N,) the group of each image. ``values``: (K, N), those of the ``rows`` (K,) of a curve; each is the
    mean over as many draws of the masks as ``weights`` (K,) says.
    """

    groups: npt.NDArray[Any]
    rows: tuple[int, ...]
    values: npt.NDArray[np.float64]
    weights: tuple[int, ...]


def resampled_cluster_means(
    clusterings: Sequence[Clustering], *, resamples: int = 2000, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Means (R, L) of L rows over R resamples of whole groups of images: ratios of sums over the groups drawn.

    With one clustering this is the cluster bootstrap (Davison and Hinkley, "Bootstrap Methods and their Application",
    1997, section 3.8). Several, which group the same N images in different ways because each seed draws other groups,
    cross each other and the images: groups of each and images are drawn apart and their counts multiplied (the
    pigeonhole bootstrap of Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007), which rather
    overstates the spread. A row is averaged over the clusterings that hold it. NaN where not one image of a row is
    drawn. With G groups a cluster bootstrap understates the standard deviation by a factor of sqrt(1 - 1 / G) at
    least. Raises as :func:`resampled_means` does.
    """
    import numpy as np

    _check_resampling(resamples, seed)
    generator = np.random.Generator(np.random.Philox(seed))
    crossed = len(clusterings) > 1
    units: list[tuple[int, npt.NDArray[Any], npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    for clustering in clusterings:
        values = _finite("bootstrap", clustering.values, dimensions=(2,))
        _, codes = np.unique(clustering.groups, return_inverse=True)
        sizes = np.bincount(codes).astype(np.float64)
        if crossed:
            units.append((len(sizes), codes, np.ones(len(codes)), values))
        else:  # a group comes or stays as a whole: its sums are all that matters
            of_groups = np.stack([np.bincount(codes, row).astype(np.float64) for row in values])
            units.append((len(sizes), np.arange(len(sizes)), sizes, of_groups))
    num_units = len(units[0][1])
    shape = (resamples, 1 + max(row for clustering in clusterings for row in clustering.rows))
    sums, counts = np.zeros(shape), np.zeros(shape)
    at_once = max(1, _CHUNK // num_units)
    for first in range(0, resamples, at_once):
        here = slice(first, min(first + at_once, resamples))
        r = here.stop - first
        images = _draw_counts(generator, r, num_units) if crossed else np.ones((1, 1))
        for clustering, (num_groups, codes, sizes, values) in zip(clusterings, units, strict=True):
            drawn = np.take(_draw_counts(generator, r, num_groups), codes, axis=1) * images
            total = (drawn * sizes).sum(axis=1)
            for row, weight, value in zip(clustering.rows, clustering.weights, values, strict=True):
                sums[here, row] += weight * (drawn * value).sum(axis=1)
                counts[here, row] += weight * total
    means = np.full(shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


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


def bootstrap_class_mean(
    correct: npt.ArrayLike, images: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap within classes for the mean over classes of their accuracies.

    ``correct`` and ``images`` (C,) are whole numbers, how many of each class's images were counted right and how many
    there are; classes without images are left out. Each resample draws n - 1 of a class's n images, as many as make the
    spread unbiased (McCarthy and Snowden, "The bootstrap and finite population sampling", 1985), which for outcomes
    right or wrong is a binomial number. Classes of a single image show no spread of their own, so they are pooled and
    drawn from together, which rather overstates it (collapsed strata; Cochran, "Sampling Techniques", 1977, section
    5A.12). The interval has no width where every class is all right or all wrong, and for a single image.
    Deterministic in its arguments. Raises :class:`~harness.errors.ParameterError` for counts that are not whole, lie
    outside [0, images] or are those of no images, and as :func:`bootstrap_mean` does.

    >>> bootstrap_class_mean([5, 10, 0], [10, 10, 0])
    Interval(low=0.6111111111111112, high=0.8888888888888888, method='bootstrap95')
    """
    import numpy as np

    method = _method("bootstrap", confidence)
    _check_resampling(resamples, seed)
    given = np.stack([_finite("bootstrap_class_mean", counts, dimensions=(1,)) for counts in (correct, images)])
    right, of = (counts[given[1] > 0].astype(np.int64) for counts in given)
    if not len(of) or (given != given.round()).any() or (given[0] < 0).any() or (given[0] > given[1]).any():
        raise ParameterError("bootstrap_class_mean: each class needs whole numbers 0 <= correct <= images, one above 0")
    generator = np.random.Generator(np.random.Philox(seed))
    total = np.zeros(resamples)
    alike, classes = np.unique(np.stack([right, of]), axis=1, return_counts=True)
    for k, n, m in zip(*alike.tolist(), classes.tolist(), strict=True):
        if n > 1:  # the sum of m binomial numbers of one probability is binomial
            total += generator.binomial(m * (n - 1), k / n, size=resamples) / (n - 1)
    if single := int((of == 1).sum()):
        total += generator.binomial(single, int(right[of == 1].sum()) / single, size=resamples)
    low, high = np.quantile(total / len(of), [(1 - confidence) / 2, (1 + confidence) / 2])
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


def first_fall(
    x: Sequence[float], heights: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Where the lines through the points (x, heights) first fall to their targets, going along rising ``x``: (R,).

    ``x`` (K,) rises strictly; ``heights`` (R, K) are those of R lines, ``targets`` (R,). Nothing is extrapolated:
    inf for a line that stays above its target, -inf for one below it from the start, NaN where the target is NaN.

    >>> import numpy as np
    >>> first_fall([0.0, 0.5, 1.0], np.array([[0.8, 0.6, 0.2], [0.8, 0.7, 0.6]]), np.array([0.4, 0.4])).tolist()
    [0.75, inf]
    """
    import numpy as np

    places = np.asarray(x, dtype=np.float64)
    fallen = heights <= targets[:, np.newaxis]
    after = fallen.argmax(axis=1)
    lines = np.arange(len(heights))
    before = np.maximum(after - 1, 0)
    high, low = heights[lines, before], heights[lines, after]
    share = np.zeros(len(heights))
    np.divide(high - targets, high - low, out=share, where=high > low)
    found: npt.NDArray[np.float64] = places[before] + share * (places[after] - places[before])
    found[~fallen.any(axis=1)] = np.inf
    found[fallen.any(axis=1) & (after == 0) & (low < targets)] = -np.inf
    found[np.isnan(targets)] = np.nan
    return found


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


def _check_resampling(resamples: int, seed: int) -> None:
    if resamples < 2:
        raise ParameterError(f"bootstrap: needs at least 2 resamples, not {resamples}", hint="2000 is the default")
    if seed < 0:
        raise ParameterError(f"bootstrap: seed must not be negative, but is {seed}")


def _draw_counts(generator: np.random.Generator, resamples: int, n: int) -> npt.NDArray[np.float64]:
    """How often each of n units is drawn with replacement in each of r resamples of n draws: (r, n)."""
    import numpy as np

    cells = generator.integers(n, size=(resamples, n)) + np.arange(resamples)[:, np.newaxis] * n
    return np.bincount(cells.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def _resampled_means(levels: npt.NDArray[np.float64], resamples: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    """Row means (r, L) of ``levels`` (L, N) over images drawn with replacement, in chunks of r resamples."""
    import numpy as np

    generator = np.random.Generator(np.random.Philox(seed))
    n = levels.shape[1]
    at_once = max(1, _CHUNK // n)
    for first in range(0, resamples, at_once):
        r = min(at_once, resamples - first)
        counts = _draw_counts(generator, r, n)
        # Not a matrix product: BLAS sums in an order that depends on its threads, and ends of intervals go to records.
        yield np.stack([(counts * level).sum(axis=1) for level in levels], axis=1) / n
