"""Which images an episode learns from, and which it is asked about: drawn from two splits, by labels and seed alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness import rng
from harness.errors import DataError
from harness_probes.episode_compositions import Composition, class_order

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness_probes.episode_compositions import Sampler

_CHUNK = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Supports:
    """The support images of E episodes, by the T classes that they have in all.

    ``positions`` (R,) int64: all of them, rising. ``composition``: whose they are; the ``num_classes`` classes of the
    split are numbered in the order in which they first occur, whatever they are called. ``rows`` (M,) int64: places in
    ``positions``, those of class t at ``rows[offsets[t] : offsets[t + 1]]``, rising.
    """

    positions: npt.NDArray[np.int64]
    composition: Composition
    num_classes: int
    rows: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """E episodes with T classes in all.

    ``first`` (E + 1,) int64: the classes of episode e are ``first[e]`` to ``first[e + 1] - 1``. ``labels`` (T,) int64:
    their labels. ``rows`` (M,) and ``offsets`` (T + 1,) int64: the rows of each in the support table, as in
    :class:`Supports`. The P pairs of a query image and an episode that it is asked in: ``asked_row`` (P,) int64, the
    image's place among the query images, rising, and ``asked_episode`` (P,) int64. ``usable``: the number of classes
    that episodes were drawn from.
    """

    first: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    asked_row: npt.NDArray[np.int64]
    asked_episode: npt.NDArray[np.int64]
    usable: int

    def __len__(self) -> int:
        return len(self.first) - 1


def draw_supports(labels: npt.NDArray[np.int64], sampler: Sampler, *, episodes: int, seed: int) -> Supports:
    """Classes and support images of every episode, from the support split's ``labels`` (N,) alone.

    Raises :class:`~harness.errors.DataError` for fewer classes than an episode needs with as many images as it needs.
    """
    if not len(labels):
        raise DataError("episodes: the support split is empty", hint="check the dataset's support split")
    groups = _in_order_of_appearance(labels)
    sizes = np.bincount(groups)
    enough = int(np.count_nonzero(sizes >= sampler.least_support))
    if enough < sampler.least_ways:
        raise DataError(
            f"episodes: {sampler.least_ways} classes with at least {sampler.least_support} support images are needed, "
            f"but {enough} of {len(sizes)} classes have as many",
            hint=sampler.hint(np.sort(sizes)[::-1], "support"),
        )
    drawn = sampler.compose(sizes, episodes=episodes, seed=seed)
    offsets = _offsets(drawn.shots)
    images = _draw_images(groups, drawn, drawn.shots, stream="episodes.support", seed=seed)
    positions = np.unique(images)
    return Supports(
        positions=positions,
        composition=drawn,
        num_classes=len(sizes),
        rows=np.searchsorted(positions, images),
        offsets=offsets,
    )


def ask(
    supports: Supports,
    support_labels: npt.NDArray[np.int64],
    query_labels: npt.NDArray[np.int64],
    sampler: Sampler,
    *,
    seed: int,
) -> Episodes:
    """The episodes of ``supports`` with queries: ``support_labels`` (R,) of its positions, ``query_labels`` (N,).

    A class that has too few query images is in no episode. An episode that had drawn it takes the next class of its
    order instead, with the support images of the next episode that drew that class: every set of usable classes stays
    equally likely, and no support image is needed that was not drawn. (Under the Meta-Dataset sampler such a class
    also has as many support images as it has there, and an episode has no more ways than there are usable classes.)

    Raises :class:`~harness.errors.DataError` if fewer classes are usable than an episode needs.
    """
    drawn = supports.composition
    label_of = np.full(supports.num_classes, -1)
    label_of[drawn.group] = support_labels[supports.rows[supports.offsets[:-1]]]
    groups = _groups_of(query_labels, label_of)
    available = np.bincount(groups[groups >= 0], minlength=supports.num_classes)
    usable = (available >= sampler.least_queries) & (label_of >= 0)
    if (count := int(usable.sum())) < sampler.least_ways:
        have = np.sort(available[label_of >= 0])[::-1]
        raise DataError(
            f"episodes: {sampler.least_ways} classes with at least {sampler.least_queries} query images are needed, "
            f"but {count} of the {len(have)} classes drawn have as many; the fullest has {have[0]}",
            hint=sampler.hint(have, "query"),
        )
    number = int(drawn.episode[-1]) + 1
    if usable[drawn.group].all():
        place = np.arange(len(drawn.group))
        whole = drawn
    else:
        order = class_order(usable, episodes=number, seed=seed)
        taken = np.arange(count) < np.bincount(drawn.episode)[:, None]
        place = _own_or_next(drawn, np.nonzero(taken)[0], order[taken], number)
        whole = Composition(episode=np.nonzero(taken)[0], group=order[taken], shots=drawn.shots[place])
    first = _offsets(np.bincount(whole.episode))
    counts = sampler.queries(np.minimum.reduceat(available[whole.group], first[:-1]))[whole.episode]
    rows = _draw_images(groups, whole, counts, stream="episodes.query", seed=seed)
    asked_episode = np.repeat(whole.episode, counts)
    by_image = np.argsort(rows * number + asked_episode)
    return Episodes(
        first=first,
        labels=label_of[whole.group],
        rows=supports.rows[_ranges(supports.offsets[place], whole.shots)],
        offsets=_offsets(whole.shots),
        asked_row=rows[by_image],
        asked_episode=asked_episode[by_image],
        usable=count,
    )


def draw_subsets(
    sizes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], uniform: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Uniformly random subsets: for each i, ``counts[i]`` of the numbers below ``sizes[i]``, rising, one after another.

    Takes one number of ``uniform`` in [0, 1) for each that it returns: Floyd's algorithm (Bentley and Floyd,
    "Programming pearls: a sample of brilliance", Communications of the ACM 1987), on many sets at once.
    """
    offsets = _offsets(counts)
    found = np.empty(offsets[-1], np.int64)
    by_count = np.argsort(-counts, kind="stable")
    start = 0
    while start < len(counts):
        width = int(counts[by_count[start]])
        block = by_count[start : start + max(1, _CHUNK // max(1, width))]
        start += len(block)
        n, k, begin = sizes[block], counts[block], offsets[block]
        picked = np.full((len(block), width), np.iinfo(np.int64).max)
        for i in range(width):
            open_ = int(np.searchsorted(-k, -i))  # counts fall, so the sets with more than i numbers come first
            last = n[:open_] - k[:open_] + i
            number = (uniform[begin[:open_] + i] * (last + 1)).astype(np.int64)
            taken = (picked[:open_, :i] == number[:, None]).any(axis=1)
            picked[:open_, i] = np.where(taken, last, number)
        picked.sort(axis=1)
        inside = np.arange(width) < k[:, None]
        found[(begin[:, None] + np.arange(width))[inside]] = picked[inside]
    return found


def _draw_images(
    groups: npt.NDArray[np.int64], drawn: Composition, counts: npt.NDArray[np.int64], *, stream: str, seed: int
) -> npt.NDArray[np.int64]:
    """``counts`` (T,) images of every class drawn, rising within it; ``groups`` (N,): whose the images are, or -1."""
    members = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups + 1)
    totals = np.add.reduceat(counts, _offsets(np.bincount(drawn.episode))[:-1])
    uniform = rng.uniforms(seed, stream, [str(episode) for episode in range(len(totals))], int(totals.max()))
    uniform = uniform[np.arange(uniform.shape[1]) < totals[:, None]]
    chosen = draw_subsets(sizes[1:][drawn.group], counts, uniform)
    images: npt.NDArray[np.int64] = members[np.repeat(_offsets(sizes)[1:][drawn.group], counts) + chosen]
    return images


def _own_or_next(
    drawn: Composition, episode: npt.NDArray[np.int64], group: npt.NDArray[np.int64], episodes: int
) -> npt.NDArray[np.int64]:
    """Where each class of each episode was drawn: there, or else in the next episode that drew it, from the front."""
    key = drawn.group * episodes + drawn.episode
    order = np.argsort(key)
    place = np.searchsorted(key, group * episodes + episode, sorter=order)
    begin, end = (np.searchsorted(key, (group + i) * episodes, sorter=order) for i in (0, 1))
    return np.asarray(order[np.where(place < end, place, begin)])


def _in_order_of_appearance(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse])


def _groups_of(labels: npt.NDArray[np.int64], label_of: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The number of the class of each label, -1 for labels that no number has."""
    order = np.argsort(label_of)
    place = np.minimum(np.searchsorted(label_of, labels, sorter=order), len(order) - 1)
    return np.where(label_of[order[place]] == labels, order[place], -1)


def _offsets(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _ranges(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers from each start on, as many as counted, one range after another."""
    offsets = _offsets(counts)
    return np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
