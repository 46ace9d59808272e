"""Tests between two results on the same images or episodes: McNemar, permutation, paired t, bootstrap, Holm, power."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.errors import ParameterError
from harness.stats import Clustering, Interval, bootstrap_mean, resampled_cluster_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

_ENUMERATED = 16
"""Differences whose signs are flipped in every way: at most 2**16 of them."""

_LARGEST_UNIT = 360
"""Averages over seeds are multiples of 1/seeds; a difference between two of them of 1/least common multiple."""

_LARGEST_LATTICE = 2**20
_TAILS = 9.0
"""Standard deviations beyond which a sum of flipped signs lies with a probability below 2 exp(-81/2) < 1e-17."""

_SMALLEST_P = 1e-12
_CHUNK = 2**22
_FEW = 4096
"""Distinct values that are resampled as counts instead of image by image."""


def mcnemar(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Two-sided p-value that ``a`` and ``b``, (N,) bool on the same images, are right equally often; exact.

    Given the number of images that only one of the two has right, those of ``a`` alone are binomial with probability
    1/2 (McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 1947; exactly instead of by chi-square as Agresti, "Categorical Data Analysis", section 10.1). The
    exact test keeps its level for any number of images; the mid-p variant, which may exceed it a little, is not
    offered. 1 where no image tells the two apart.

    Raises :class:`~harness.errors.ParameterError` for no images, other shapes and values other than 0 and 1.

    >>> mcnemar([1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0])
    0.03125
    """
    from scipy.special import bdtr

    difference, _ = _differences("mcnemar", a, b, None)
    if not _is_binary(a) or not _is_binary(b):
        raise ParameterError(
            "mcnemar: outcomes must be right or wrong, 1 or 0",
            hint="permutation_test takes fractions, such as averages over seeds",
        )
    only_a, only_b = int((difference > 0).sum()), int((difference < 0).sum())
    if only_a == only_b:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval for the mean of ``a - b`` over resamples of the images, each drawn for both at once.

    ``a`` and ``b``: (N,), or (S, N) for S seeds of the same N images, which are averaged within each image first; the
    two may have different S. ``groups`` (N,): images of one group, such as those that share a mask, are drawn together.
    Deterministic in its arguments (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Where
    the differences take few values, their counts are drawn, multinomially, instead of the images: the same
    distribution, in less time.

    Raises :class:`~harness.errors.ParameterError` for no images, different images, values that are not finite, a
    single group, and as :func:`~harness.stats.bootstrap_mean` does.

    >>> paired_bootstrap([1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0])
    Interval(low=0.0, high=0.75, method='bootstrap95')
    """
    import numpy as np

    difference, of_group = _differences("paired_bootstrap", a, b, groups)
    if of_group is not None:
        if not (of_group != of_group[0]).any():
            raise ParameterError(
                "paired_bootstrap: all images are of one group, and one group has no spread",
                hint="ask with more images, or with masks that images do not share",
            )
        _check(confidence, resamples, seed)
        clustering = Clustering(groups=of_group, rows=(0,), values=difference[np.newaxis], weights=(1,))
        drawn = resampled_cluster_means([clustering], resamples=resamples, seed=seed)[:, 0]
        return _percentiles(drawn, confidence)
    values, counts = np.unique(difference, return_counts=True)
    if len(values) > min(_FEW, len(difference) // 2):
        return bootstrap_mean(difference, confidence=confidence, resamples=resamples, seed=seed)
    _check(confidence, resamples, seed)
    n = len(difference)
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = np.concatenate(
        [
            (generator.multinomial(n, counts / n, size=min(_FEW, resamples - first)) * values).sum(axis=1)
            for first in range(0, resamples, _FEW)
        ]
    )
    return _percentiles(drawn / n, confidence)


def permutation_test(
    a: npt.ArrayLike, b: npt.ArrayLike, *, groups: npt.ArrayLike | None = None, draws: int = 9999, seed: int = 0
) -> float:
    """Two-sided p-value that the mean of ``a - b`` is zero, by swapping the two within images at random.

    Were the two exchangeable within each image, each difference would have either sign with probability 1/2
    (Fisher, "The Design of Experiments", 1935, section 21). ``a`` and ``b`` are those of :func:`paired_bootstrap`;
    ``groups`` (N,): the images of a group are swapped together.

    Exact wherever that can be had: over all sign patterns for up to 16 differences other than zero, and through the
    characteristic function of their sum, a product of cosines, where the differences are multiples of one fraction, as
    averages over seeds are (to 1e-12, which is also the smallest value given then; for outcomes of one seed it is
    :func:`mcnemar`). Otherwise (1 + patterns at least as extreme) / (1 + ``draws``) over random patterns, which never
    is too small (Phipson and Smyth, "Permutation p-values should never be zero", 2010); deterministic in its arguments.

    Raises :class:`~harness.errors.ParameterError` for no images, different images, values that are not finite, fewer
    than one draw and a negative seed.

    >>> permutation_test([0.5, 0.9, 0.8, 0.7], [0.4, 0.5, 0.6, 0.7])
    0.25
    """
    import numpy as np

    difference, of_group = _differences("permutation_test", a, b, groups)
    if draws < 1 or seed < 0:
        raise ParameterError(f"permutation_test: draws={draws} must be at least 1 and seed={seed} not negative")
    if of_group is not None:
        _, codes = np.unique(of_group, return_inverse=True)
        difference = np.bincount(codes, difference).astype(np.float64)
    sizes = np.abs(difference)
    sizes[sizes < 1e-12] = 0.0  # what is left of equal averages that were summed in different orders
    observed = abs(float(difference.sum()))
    sizes = np.sort(sizes[sizes > 0])
    slack = 1e-9 * float(sizes.sum())
    if not len(sizes) or observed <= slack:
        return 1.0
    if len(sizes) <= _ENUMERATED:
        sums = np.zeros(1)
        for size in sizes:
            sums = np.concatenate([sums + size, sums - size])
        return float((np.abs(sums) >= observed - slack).mean())
    exact = _lattice_p(sizes, observed)
    return _monte_carlo_p(sizes, observed - slack, draws, seed) if exact is None else exact


def paired_t(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Two-sided p-value of Student's t for the mean of ``a - b``, (N,) accuracies on the same N >= 2 episodes.

    For episodes and other units whose values are averages; single right or wrong answers have :func:`mcnemar`
    (Student, "The probable error of a mean", Biometrika 1908). Differences that are all equal give 1 where they are
    zero, else 0. Raises :class:`~harness.errors.ParameterError` for fewer than two episodes, different ones and values
    that are not finite.

    >>> round(paired_t([0.7, 0.8, 0.9, 0.8], [0.6, 0.6, 0.8, 0.8]), 4)
    0.0917
    """
    from scipy.special import stdtr

    difference, _ = _differences("paired_t", a, b, None)
    n = len(difference)
    if n < 2:
        raise ParameterError("paired_t: one episode has no spread", hint="give at least two")
    mean, spread = float(difference.mean()), float(difference.std(ddof=1))
    if spread < 1e-12:
        return 1.0 if abs(mean) < 1e-12 else 0.0
    return min(1.0, 2 * float(stdtr(n - 1, -abs(mean) / (spread / math.sqrt(n)))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family, in the order given: reject those at most alpha, and errors of the family are.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979: the i-th
    smallest of m is multiplied by m - i + 1, and none may fall below one that is smaller. Holds under any dependence.
    Raises :class:`~harness.errors.ParameterError` for a value outside [0, 1].

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ParameterError(f"holm: p-values lie in [0, 1], not {wrong[0]}")
    adjusted = [0.0] * len(p_values)
    floor = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = floor
    return adjusted


def images_needed(difference: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Images on which a two-sided McNemar test finds ``difference`` with probability ``power``; None for no difference.

    ``difference`` is between the two accuracies, ``discordance`` the share of images that only one of the two has
    right: (z_(1-alpha/2) sqrt(discordance) + z_power sqrt(discordance - difference^2))^2 / difference^2, rounded up
    (Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 1987).
    For fractions instead of right and wrong, ``discordance`` is the mean squared difference of an image, which for
    right and wrong is the same thing. By the normal distribution: the exact test needs a few images more where few
    images tell the two apart.

    Raises :class:`~harness.errors.ParameterError` for a discordance that the difference is too large for, and for a
    power or an alpha outside (0, 1).

    >>> images_needed(0.02, 0.10)
    1960
    """
    from statistics import NormalDist

    if not 0 < power < 1 or not 0 < alpha < 1:
        raise ParameterError(f"images_needed: power={power} and alpha={alpha} must lie between 0 and 1")
    if difference**2 > discordance * (1 + 1e-9):
        raise ParameterError(
            f"images_needed: a difference of {difference:g} cannot come from a discordance of {discordance:g}",
            hint="of right and wrong answers, the discordance is at least the difference",
        )
    if difference == 0:
        return None
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    half = z_alpha * math.sqrt(discordance) + z_power * math.sqrt(max(0.0, discordance - difference**2))
    return math.ceil((half / difference) ** 2)


def _lattice_p(sizes: npt.NDArray[np.float64], observed: float) -> float | None:
    """P(|sum of ``sizes`` with random signs| >= observed) where all are multiples of one fraction, else None."""
    import numpy as np

    values, counts = np.unique(sizes, return_counts=True)
    unit = next((q for q in range(1, _LARGEST_UNIT + 1) if np.abs(values * q - np.rint(values * q)).max() < 1e-7), None)
    if unit is None:
        return None
    steps = np.rint(values * unit)
    spread = math.sqrt(float((counts * steps**2).sum()))
    reach = round(observed * unit)
    if reach > _TAILS * spread:
        return _SMALLEST_P
    # A period beyond twice the tails: what wraps around is less than anything that is reported.
    period = 2 ** math.ceil(math.log2(2 * (_TAILS * spread + 1)))
    if period > _LARGEST_LATTICE:
        return None
    angles = 2 * np.pi * np.arange(period) / period
    characteristic = np.ones(period)
    for step, count in zip(steps, counts, strict=True):
        characteristic *= np.cos(step * angles) ** int(count)
    chances = np.fft.fft(characteristic).real / period
    inner = chances[0] + 2 * chances[1:reach].sum() if reach else 0.0
    return float(min(1.0, max(_SMALLEST_P, 1.0 - inner)))


def _monte_carlo_p(sizes: npt.NDArray[np.float64], threshold: float, draws: int, seed: int) -> float:
    import numpy as np

    generator = np.random.Generator(np.random.Philox(seed))
    n, total, extreme = len(sizes), float(sizes.sum()), 0
    at_once = max(1, _CHUNK // n)
    for first in range(0, draws, at_once):
        r = min(at_once, draws - first)
        positive = generator.integers(2, size=(r, n), dtype=np.uint8)
        extreme += int((np.abs(2 * (positive * sizes).sum(axis=1) - total) >= threshold).sum())
    return (1 + extreme) / (1 + draws)


def _differences(
    where: str, a: npt.ArrayLike, b: npt.ArrayLike, groups: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64] | None]:
    """``a - b`` per image (N,), seeds averaged, and the group of each image."""
    import numpy as np

    sides = [np.asarray(side, dtype=np.float64) for side in (a, b)]
    if any(side.ndim not in (1, 2) or side.size == 0 for side in sides) or sides[0].shape[-1] != sides[1].shape[-1]:
        shapes = " and ".join(str(side.shape) for side in sides)
        raise ParameterError(
            f"{where}: needs values of the same images, (N,) or (seeds, N), not {shapes}",
            hint="compare on the images that both have answered",
        )
    if bad := sum(int((~np.isfinite(side)).sum()) for side in sides):
        raise ParameterError(f"{where}: {bad} values are not finite")
    first, second = (side.mean(axis=0) if side.ndim == 2 else side for side in sides)
    difference: npt.NDArray[np.float64] = first - second
    if groups is None:
        return difference, None
    of_group = np.asarray(groups)
    if of_group.shape != difference.shape:
        raise ParameterError(f"{where}: groups must be {difference.shape}, one for each image, not {of_group.shape}")
    return difference, of_group


def _is_binary(values: npt.ArrayLike) -> bool:
    import numpy as np

    array = np.asarray(values)
    return array.ndim == 1 and bool(((array == 0) | (array == 1)).all())


def _check(confidence: float, resamples: int, seed: int) -> None:
    if not 0 < confidence < 1 or resamples < 2 or seed < 0:
        raise ParameterError(
            f"paired_bootstrap: confidence={confidence} must lie between 0 and 1, resamples={resamples} be at least 2 "
            f"and seed={seed} not negative"
        )


def _percentiles(drawn: npt.NDArray[np.float64], confidence: float) -> Interval:
    import numpy as np

    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), f"bootstrap{100 * confidence:g}")
