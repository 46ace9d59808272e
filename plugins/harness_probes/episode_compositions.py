"""What episodes consist of, before any image is drawn: their classes, and how many support images of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from harness import rng

if TYPE_CHECKING:
    import numpy.typing as npt

MIN_WAYS, MAX_WAYS = 5, 50
"""Meta-Dataset: the bounds between which the number of classes is drawn."""
MAX_QUERIES = 10
"""Meta-Dataset: query images per class, at most."""
_MAX_SUPPORT = 500
_MAX_CONTRIBUTION = 100
_RAISE = "raise --limit, which is shared out among the classes"
_LOG_WEIGHTS = (math.log(0.5), math.log(2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """The classes of E episodes, T in all: ``episode`` (T,) rising, ``group`` (T,) a class, ``shots`` (T,), int64."""

    episode: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    shots: npt.NDArray[np.int64]


class Sampler(Protocol):
    """How episodes are made up."""

    @property
    def least_ways(self) -> int:
        """The fewest classes an episode may have, so that as many must have images enough."""
        ...

    @property
    def least_support(self) -> int:
        """Support images that a class must have in order to be drawn."""
        ...

    @property
    def least_queries(self) -> int:
        """Query images that a class must have in order to be asked about."""
        ...

    def compose(self, sizes: npt.NDArray[np.int64], *, episodes: int, seed: int) -> Composition:
        """The classes of every episode, in the order of :func:`class_order`, and the support images of each.

        ``sizes`` (C,) int64: support images by class, of which at least :attr:`least_ways` are large enough.
        """
        ...

    def queries(self, fewest: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Query images per class of E episodes, whose smallest classes have ``fewest`` (E,) in the query split."""
        ...

    def hint(self, sizes: npt.NDArray[np.int64], split: Literal["support", "query"]) -> str:
        """What to do where too few classes have enough images of a split: their ``sizes`` (C,), falling."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSampler:
    """N-way K-shot: every episode has ``ways`` classes, ``shots`` support and ``queries`` query images of each."""

    ways: int
    shots: int
    asked: int

    @property
    def least_ways(self) -> int:
        """All of the ways."""
        return self.ways

    @property
    def least_support(self) -> int:
        """All of the shots."""
        return self.shots

    @property
    def least_queries(self) -> int:
        """All of the queries."""
        return self.asked

    def compose(self, sizes: npt.NDArray[np.int64], *, episodes: int, seed: int) -> Composition:
        """``ways`` classes that have ``shots`` images, all sets of them being equally likely."""
        group = class_order(sizes >= self.shots, episodes=episodes, seed=seed)[:, : self.ways].reshape(-1)
        return Composition(
            episode=np.repeat(np.arange(episodes), self.ways), group=group, shots=np.full(len(group), self.shots)
        )

    def queries(self, fewest: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """``asked``, whatever there is."""
        return np.full_like(fewest, self.asked)

    def hint(self, sizes: npt.NDArray[np.int64], split: Literal["support", "query"]) -> str:
        """The number of shots or queries that there are classes enough for, or of ways."""
        name, least = ("shots", self.shots) if split == "support" else ("queries", self.asked)
        more = "" if split == "support" else f"{_RAISE}, or "
        if len(sizes) >= self.ways and sizes[self.ways - 1] > 0:
            return f"{more}ask for fewer: episodes:{name}={sizes[self.ways - 1]}"
        if (enough := int(np.count_nonzero(sizes >= least))) > 1:
            return f"{more}ask for fewer ways: episodes:ways={enough}"
        return f"{more}give the {split} split images of more classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaDatasetSampler:
    """Episodes of varying ways and shots (Triantafillou et al., "Meta-Dataset", ICLR 2020, section 3 and appendix).

    Ways W are uniform in [5, min(50, C)], classes uniform. The support set has ``S = min(500, sum over classes of
    floor(beta * min(100, n) + 1))`` images, beta uniform in [0, 1); of a class, ``min(n, 1 + floor(p * (S - W)))``,
    where p is proportional to ``n * exp(a)``, a uniform in [log 0.5, log 2]. The sampler of the paper takes support
    and queries from the same images; here they lie in two splits. So n, there the images of a class (in the two minima
    those that its queries leave), is the class's size in the support split; and the number of queries per class, there
    the smaller of 10 and half of the episode's smallest class, is the smaller of 10 and that class's size in the
    query split. Class hierarchies, which the paper uses for ImageNet and Omniglot, are not.
    """

    @property
    def least_ways(self) -> int:
        """5."""
        return MIN_WAYS

    @property
    def least_support(self) -> int:
        """One image."""
        return 1

    @property
    def least_queries(self) -> int:
        """One image."""
        return 1

    def compose(self, sizes: npt.NDArray[np.int64], *, episodes: int, seed: int) -> Composition:
        """Ways, classes and shots, each drawn from a stream of its own."""
        allowed = sizes >= self.least_support
        order = class_order(allowed, episodes=episodes, seed=seed)
        ids = _ids(episodes)
        most = min(MAX_WAYS, order.shape[1])
        ways = rng.integers(seed, "episodes.ways", ids, 1, MIN_WAYS, most + 1)
        order = order[:, :most]
        drawn = np.arange(most) < ways
        n = np.where(drawn, sizes[order], 0)
        beta = rng.uniforms(seed, "episodes.support_size", ids, 1)
        contributions = np.floor(beta * np.minimum(_MAX_CONTRIBUTION, n) + 1)
        size = np.minimum(_MAX_SUPPORT, np.where(drawn, contributions, 0).sum(axis=1, keepdims=True))
        low, high = _LOG_WEIGHTS
        noise = np.take_along_axis(rng.uniforms(seed, "episodes.class_weights", ids, len(sizes)), order, axis=1)
        weights = n * np.exp(low + (high - low) * noise)
        share = weights / weights.sum(axis=1, keepdims=True)
        shots = np.minimum(n, np.floor(share * (size - ways)).astype(np.int64) + 1)
        return Composition(episode=np.nonzero(drawn)[0], group=order[drawn], shots=shots[drawn])

    def queries(self, fewest: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """As many as the smallest class has, 10 at most."""
        return np.minimum(MAX_QUERIES, fewest)

    def hint(self, sizes: npt.NDArray[np.int64], split: Literal["support", "query"]) -> str:  # noqa: ARG002  # the protocol's
        """Fewer ways than 5 are for the other sampler."""
        more = "" if split == "support" else f"{_RAISE}, or "
        return f"{more}take sampler=fixed, which goes down to episodes:ways=2"


def class_order(allowed: npt.NDArray[np.bool_], *, episodes: int, seed: int) -> npt.NDArray[np.int64]:
    """The ``allowed`` (C,) classes in a random order for every episode: (E, A) int64.

    The order of two classes does not depend on which others are allowed, so that the first few of those that turn out
    to be usable are what would have been drawn if the others had not existed.
    """
    order = rng.permutations(seed, "episodes.classes", _ids(episodes), len(allowed))
    return order[allowed[order]].reshape(episodes, -1)


def _ids(episodes: int) -> list[str]:
    return [str(episode) for episode in range(episodes)]
