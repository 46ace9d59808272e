"""The balls that hold an attack's change: steps in them, ways back into them, random points of them, whole 255ths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness import rng
from harness_attacks.parameters import Norm

_SLACK_255 = 1e-3
"""A change this near below a whole 255th is taken for it: float32 pixels hold k/255 to 1e-5 of a 255th."""


class Ball(Protocol):
    """The points of [0, 1] within a distance of each image of a batch. Points are changed in place."""

    def step(self, point: Tensor, direction: Tensor, size: float) -> None:
        """Move by ``size``, in the norm of the ball, along ``direction`` (N, C, H, W); not at all along a zero one."""
        ...

    def project(self, point: Tensor) -> None:
        """Move to the nearest point of the ball, then of [0, 1]."""
        ...

    def take(self, rows: Tensor) -> Ball:
        """The ball of some of the images, by bool (N,) or indices."""
        ...


@dataclass(frozen=True, slots=True)
class LinfBall:
    """Every pixel within eps, given by its ends ``low`` and ``high`` (N, C, H, W), which lie in [0, 1]."""

    low: Tensor
    high: Tensor

    def step(self, point: Tensor, direction: Tensor, size: float) -> None:
        """Move every pixel by ``size``, with the sign of ``direction``."""
        point.add_(direction.sign(), alpha=size)

    def project(self, point: Tensor) -> None:
        """Clip every pixel to its ends."""
        point.clamp_(self.low, self.high)

    def take(self, rows: Tensor) -> LinfBall:
        """The ball of some of the images."""
        return LinfBall(self.low[rows], self.high[rows])


@dataclass(frozen=True, slots=True)
class L2Ball:
    """The change of each whole image no longer than ``eps``, around ``images`` (N, C, H, W)."""

    images: Tensor
    eps: float

    def step(self, point: Tensor, direction: Tensor, size: float) -> None:
        """Move by ``size`` along ``direction``."""
        point.add_(unit(direction), alpha=size)

    def project(self, point: Tensor) -> None:
        """Shorten the change to eps, then clip to [0, 1], which shortens it further."""
        change = point - self.images
        change.mul_((self.eps / _over_image(change, 2)).clamp_(max=1.0))
        torch.add(self.images, change, out=point).clamp_(0.0, 1.0)

    def take(self, rows: Tensor) -> L2Ball:
        """The ball of some of the images."""
        return L2Ball(self.images[rows], self.eps)


def ball_around(images: Tensor, eps: float, norm: Norm) -> Ball:
    """The ball of radius ``eps``, in units of the range [0, 1], around ``images`` (N, C, H, W) in [0, 1]."""
    if norm == "l2":
        return L2Ball(images, eps)
    return LinfBall((images - eps).clamp_(0.0, 1.0), (images + eps).clamp_(0.0, 1.0))


def unit(direction: Tensor) -> Tensor:
    """``direction`` (N, C, H, W) scaled to Euclidean length 1 for each image; zero stays zero.

    The largest entry is brought to 1 first: the squares of gradients that are small but not zero, as those of a
    confident classifier are, would vanish in float32.
    """
    scaled = direction / _or_one(_over_image(direction, torch.inf))
    return scaled.div_(_or_one(_over_image(scaled, 2)))


def mean_normalised(gradient: Tensor) -> Tensor:
    """``gradient`` (N, C, H, W) over the mean of its absolute entries for each image; zero stays zero."""
    return gradient / _or_one(_over_image(gradient, 1) / gradient[0].numel())


def random_points(images: Tensor, eps: float, norm: Norm, *, seed: int, stream: str, ids: Sequence[str]) -> Tensor:
    """Points (N, C, H, W) uniform in the ball around each image, then clipped to [0, 1].

    Keyed by seed, stream and image id and drawn on the CPU, the same for every device. l2: a normal direction, and a
    radius eps * u ** (1 / d) for uniform u and d pixels, under which equal volumes are equally likely.
    """
    shape = tuple(images.shape[1:])
    if norm == "linf":
        change = torch.from_numpy(rng.dense_uniforms(seed, stream, ids, shape)).mul_(2.0).sub_(1.0).mul_(eps)
    else:
        radius = eps * rng.uniforms(seed, stream, ids, 1) ** (1.0 / images[0].numel())
        change = unit(torch.from_numpy(rng.normals(seed, stream, ids, shape)))
        change.mul_(torch.from_numpy(radius).float().view(-1, 1, 1, 1))
    return (images + change.to(images.device)).clamp_(0.0, 1.0)


def quantised(point: Tensor, images: Tensor, eps: float, norm: Norm) -> Tensor:
    """``point`` (N, C, H, W) with its change of ``images`` cut towards them to whole 255ths, still within ``eps``.

    Where the images came from 8-bit files, so can the result.
    """
    change = (point.double() if point.device.type == "cpu" else point).sub(images).mul_(255.0)
    size = change.abs()
    if norm == "linf":
        # Clipping to the whole 255ths of the budget keeps the slack from overstepping it.
        size = size.add_(_SLACK_255).floor_().clamp_(max=float(int(eps * 255.0 + 1e-9)))
    else:
        size = size.floor_()
    return (images + change.sign_().mul_(size).div_(255.0)).clamp_(0.0, 1.0).to(images.dtype)


def _over_image(values: Tensor, order: float) -> Tensor:
    """The vector norm of each image, (N, 1, 1, 1)."""
    norms: Tensor = torch.linalg.vector_norm(values, ord=order, dim=(1, 2, 3), keepdim=True)
    return norms


def _or_one(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)
