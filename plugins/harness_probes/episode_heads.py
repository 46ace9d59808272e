"""The classifiers of episodes: all are linear, and weigh the support images by what follows from inner products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

from harness_probes.episode_logistic import solve_logistic

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from torch import Tensor

    from harness_probes.episode_sampling import Episodes

_ELEMENTS = 2**19
"""Numbers that one chunk of episodes may take while it is solved: 4 MiB of float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """``weight`` (T, D) and ``bias`` (T,) float64 of the T classes of all episodes.

    All that a fitted probe keeps: for 600 episodes and 384 features 9 MB of five ways, about 50 MB of Meta-Dataset's.
    ``unit``: for features of length 1, else for features as they come.
    """

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    unit: bool


class Head(Protocol):
    """A classifier of G support sets of n images and W classes, found from inner products alone; all float64.

    ``gram`` (G, n, n): inner products of the images. ``targets`` (G, n, W): one-hot. ``classes`` (G, W) bool. Sets
    with fewer images or classes are filled up with rows of zeros in both and with classes that are False. Returns
    coefficients (G, n, W), by which the images add up to the weights of each class, and intercepts (G, W).
    """

    def __call__(self, gram: Tensor, targets: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients and intercepts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """Ridge regression to targets of +1 for the class and -1 for the others, in the dual form.

    Minimises ``sum_i |W x_i + b - t_i|^2 + ridge_lambda |W|^2``: the intercept b has no penalty, so that images and
    targets may be centred and b set to what is left.
    """

    ridge_lambda: float

    def __call__(self, gram: Tensor, targets: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002  # the protocol's
        """One system of n equations for each episode."""
        rows = targets.sum(dim=2, keepdim=True)
        n = rows.sum(dim=1, keepdim=True)
        mean = gram.sum(dim=2, keepdim=True) / n  # inner products with the mean image
        centred = (gram - mean - mean.mT + mean.sum(dim=1, keepdim=True) / n) * (rows * rows.mT)
        centred.diagonal(dim1=1, dim2=2).add_(self.ridge_lambda)
        target_mean = 2 * targets.sum(dim=1, keepdim=True) / n - 1
        wanted = (2 * targets - 1 - target_mean) * rows
        # Coefficients of the centred images; as they add up to zero, they are those of the images themselves.
        coefficients = torch.cholesky_solve(wanted, torch.linalg.cholesky(centred))
        return coefficients, (target_mean - mean.mT @ coefficients)[:, 0]


def euclidean(gram: Tensor, targets: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001  # the protocol's
    """Minus the squared distance from the mean of each class, up to a constant and in units of the images' spread.

    The classifier of prototypical networks (Snell et al., "Prototypical Networks for Few-shot Learning", NeurIPS 2017,
    equation 8).
    """
    rows = targets.sum(dim=2)
    n = rows.sum(dim=1)
    means = targets / targets.sum(dim=1, keepdim=True).clamp_min(1)
    spread = gram.diagonal(dim1=1, dim2=2).sum(dim=1) / n - (rows[:, None] @ gram @ rows[..., None])[:, 0, 0] / n**2
    spread = torch.where(spread > 0, spread, 1.0)[:, None]
    return 2 * means / spread[..., None], -_squared_lengths(gram, means) / spread


def cosine(gram: Tensor, targets: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine to the mean of the images of each class, whose lengths must be 1."""
    lengths = _squared_lengths(gram, targets).sqrt()
    scale = torch.where(lengths > 0, 1 / lengths, 0.0)
    return targets * scale[:, None], torch.zeros_like(classes, dtype=gram.dtype)


def make_head(
    name: Literal["ridge", "logistic", "centroid"], *, metric: Literal["euclidean", "cosine"], ridge_lambda: float
) -> tuple[Head, bool]:
    """The head of that name, and whether it is for features of length 1."""
    if name == "ridge":
        return Ridge(ridge_lambda=ridge_lambda), True
    if name == "logistic":
        return solve_logistic, True
    return (euclidean, False) if metric == "euclidean" else (cosine, True)


def fit_all(x: npt.NDArray[np.float32], episodes: Episodes, head: Head, *, unit: bool) -> Weights:
    """The classifiers of all episodes on the support table ``x`` (R, D), in chunks of bounded memory.

    ``unit``: on features of length 1 (zeros stay zeros). Otherwise on ``x`` minus the mean of all its rows, which is
    then folded into the intercepts: squared distances must not drown in the rounding of long vectors.
    """
    weight = np.empty((len(episodes.labels), x.shape[1]))
    bias = np.empty(len(episodes.labels))
    origin = np.zeros(x.shape[1]) if unit else x.mean(axis=0, dtype=np.float64)
    for part in _parts(episodes, dimension=x.shape[1]):
        features = x[part.rows].astype(np.float64)
        if not unit:
            features -= origin
        gram = features @ features.transpose(0, 2, 1)
        # Not the features but their inner products are scaled, which are fewer.
        scale = part.inside.astype(np.float64)
        if unit:
            lengths = np.sqrt(np.einsum("gnn->gn", gram))
            scale = np.divide(scale, lengths, out=np.zeros_like(scale), where=lengths > 0)
        gram *= scale[..., None] * scale[:, None]
        targets, classes = torch.from_numpy(part.targets), torch.from_numpy(part.classes)
        coefficients, intercepts = head(torch.from_numpy(gram), targets, classes)
        found = (coefficients.numpy() * scale[..., None]).transpose(0, 2, 1) @ features
        weight[part.places] = found[part.classes]
        bias[part.places] = intercepts.numpy()[part.classes]
    bias -= weight @ origin
    return Weights(weight=weight, bias=bias, unit=unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """G episodes of about equal size, filled up to n images and W classes.

    ``rows`` (G, n) of the support table, ``inside`` (G, n) whether they are real; ``targets`` and ``classes`` as in
    :class:`Head`; ``places``: where the real classes stand among those of all episodes.
    """

    rows: npt.NDArray[np.int64]
    inside: npt.NDArray[np.bool_]
    targets: npt.NDArray[np.float64]
    classes: npt.NDArray[np.bool_]
    places: npt.NDArray[np.int64]


def _parts(episodes: Episodes, *, dimension: int) -> Iterator[_Part]:
    ways = np.diff(episodes.first)
    begin = episodes.offsets[episodes.first]
    n = np.diff(begin)
    column = np.repeat(
        np.arange(len(episodes.labels)) - np.repeat(episodes.first[:-1], ways), np.diff(episodes.offsets)
    )
    by_size = np.lexsort((-ways, -n))
    start = 0
    while start < len(by_size):
        ahead = by_size[start:]
        most = int(n[ahead[0]])
        # Ways may rise among the episodes ahead, so their running maximum counts.
        widest = np.maximum.accumulate(ways[ahead])
        numbers = np.arange(1, len(ahead) + 1) * ((most + widest) * dimension + most * (most + 16 * widest))
        chosen = ahead[: max(1, int(np.searchsorted(numbers, _ELEMENTS, side="right")))]
        start += len(chosen)
        inside = np.arange(most) < n[chosen][:, None]
        place = np.where(inside, begin[chosen][:, None] + np.arange(most), 0)
        classes = np.arange(ways[chosen].max()) < ways[chosen][:, None]
        targets = (column[place][..., None] == np.arange(classes.shape[1])) & inside[..., None]
        yield _Part(
            rows=episodes.rows[place],
            inside=inside,
            targets=targets.astype(np.float64),
            classes=classes,
            places=(episodes.first[chosen][:, None] + np.arange(classes.shape[1]))[classes],
        )


def _squared_lengths(gram: Tensor, coefficients: Tensor) -> Tensor:
    """(G, W): of the images added up by ``coefficients`` (G, n, W)."""
    return (coefficients * (gram @ coefficients)).sum(dim=1).clamp_min(0)
