"""Blur as by frosted glass: pixels taken from near places, one after the other, between two slight blurs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness import rng
from harness.threads import by_image
from harness_corruptions.blur import gaussian_blur
from harness_corruptions.corruption import Corruption
from harness_corruptions.parameters import Variant
from harness_corruptions.quantise import eight_bit

GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
"""Sigma of the blurs and the largest move, in pixels, and how often all pixels are moved."""


def region(size: tuple[int, int], reach: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the pixels that are moved, in the order in which they are: from the last to the first.

    They leave out ``reach`` pixels and one more at the top and the left, and ``reach - 1`` at the bottom and the right.
    """
    rows, columns = (np.arange(side - reach, reach, -1) for side in size)
    every = np.repeat(rows, len(columns)), np.tile(columns, len(rows))
    return every[0].astype(np.int64), every[1].astype(np.int64)


def copied_from(moves: npt.NDArray[np.int64], size: tuple[int, int], reach: int) -> npt.NDArray[np.int64]:
    """Where each pixel's value comes from if every pixel in turn *takes* that of its near place: (H * W,) int64.

    ``moves`` (P, 2): down and right, of the pixels of :func:`region` in their order. A place that was moved before
    already holds what it took; so pixels form chains, which are followed to their ends by doubling.
    """
    rows, columns = region(size, reach)
    number = size[0] * size[1]
    place = rows * size[1] + columns
    near = (rows + moves[:, 0]) * size[1] + columns + moves[:, 1]
    turn = np.full(number, len(place), dtype=np.int64)
    turn[place] = np.arange(len(place))
    # Beyond ``number`` a place stands for the value that it held at first.
    following = np.arange(number, 2 * number)
    following = np.concatenate([following, following])
    following[place] = np.where(turn[near] < turn[place], near, near + number)
    while (following[:number] < number).any():
        following = following[following]
    return following[:number] - number


def exchanged_from(moves: npt.NDArray[np.int64], size: tuple[int, int], reach: int) -> npt.NDArray[np.int64]:
    """The same if every pixel in turn is *exchanged* with its near place."""
    rows, columns = region(size, reach)
    place = rows * size[1] + columns
    near = place + moves[:, 0] * size[1] + moves[:, 1]
    held = list(range(size[0] * size[1]))
    # One exchange depends on all before it; plain lists are several times as fast here as arrays.
    for a, b in zip(place.tolist(), near.tolist(), strict=True):
        held[a], held[b] = held[b], held[a]
    return np.array(held, dtype=np.int64)


def glass_blur(images: Tensor, sigma: float, sources: Tensor) -> Tensor:
    """``images`` (N, C, H, W) blurred and cut to 8 bits, then each pixel taken from ``sources``, then blurred again.

    ``sources`` (N, H * W) int64: the place, row by row, that each pixel's value comes from.
    """
    n, channels, height, width = images.shape
    soft = eight_bit(gaussian_blur(images, sigma)).flatten(2)
    moved = soft.gather(2, sources[:, None, :].expand(n, channels, -1)).view(n, channels, height, width)
    return gaussian_blur(moved, sigma)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What moves are drawn from when a severity asks for them: each moves other pixels, and other numbers of them."""

    seed: int
    ids: tuple[str, ...]


class GlassBlur(Corruption):
    """Every pixel taken from a random place up to 1 to 4 pixels away, one to three times over, between two blurs.

    From the last pixel to the first, in turn: in variant ``imagecorruptions`` a pixel takes the value that the other
    place holds by then, as the package's exchange comes down to; in ``imagenet_c`` the two exchange their values.
    Moves lie in [-d, d); d (at least 1) and the blurs' sigma scale with the image.
    """

    name = "glass_blur"
    stochastic = True

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> Keys:  # noqa: ARG002 - drawn by severity
        """The keys that every severity draws its moves from."""
        return Keys(seed=seed, ids=ids)

    def corrupt(self, images: Tensor, severity: int, draws: Keys) -> Tensor:
        """See :func:`glass_blur`."""
        size = (images.shape[2], images.shape[3])
        sigma, reach, times = GLASS[severity - 1]
        scale = self.scale(size)
        reach = max(1, round(reach * scale))

        def of(name: str) -> npt.NDArray[np.int64]:
            return self._sources(draws.seed, f"{self.stream}.{severity}", name, size, reach, times)

        sources = torch.from_numpy(by_image(of, draws.ids)).to(images.device)
        return glass_blur(images, sigma * scale, sources)

    def _sources(
        self, seed: int, stream: str, name: str, size: tuple[int, int], reach: int, times: int
    ) -> npt.NDArray[np.int64]:
        resolve = {"imagecorruptions": copied_from, "imagenet_c": exchanged_from}[self._variant]
        count = len(region(size, reach)[0])
        moves = rng.integers(seed, stream, [name], 2 * count * times, -reach, reach).reshape(times, count, 2)
        sources = np.arange(size[0] * size[1])
        for turn in moves:
            sources = sources[resolve(turn, size, reach)]
        return sources

    @property
    def _variant(self) -> Variant:
        return self.params.variant
