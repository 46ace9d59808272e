"""Elastic transform: small regions stretched and contracted along smooth random displacements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from harness import rng
from harness.threads import by_image
from harness_corruptions.corruption import Corruption

PACKAGE_ALPHA = (12.5, 16.25, 21.25, 25.0, 30.0)
"""By what the package multiplies its smoothed displacement, by severity."""

PACKAGE_SPAN = 0.005
"""Half the width of the package's uniform displacements, as a share of the image's height."""

PACKAGE_SIGMA = 0.01
"""Standard deviation of the package's smoothing, as a share of each side."""

SCRIPT = ((2.0, 0.7, 0.1), (2.0, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
"""Factor of the displacement, its smoothing and the affine jitter of the script, by severity, in its unit of pixels."""

SCRIPT_UNIT_PX = 244
"""The unit of :data:`SCRIPT` for images of 224 pixels; 244 stands in the script that made ImageNet-C."""

_TRUNCATE = 3.0
"""At how many standard deviations both references cut the Gaussian off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticDraws:
    """What all severities of a batch share.

    ``fields``: (N, 2, H, W) float32, across and down, in [-1, 1); for the variant ``imagecorruptions``, which smooths
    alike at every severity, already smoothed. ``corners``: (N, 3, 2) float64 in [-1, 1), the jitter of three points
    (x, y), for the variant ``imagenet_c`` alone.
    """

    fields: Tensor
    corners: npt.NDArray[np.float64] | None = None


@lru_cache(maxsize=16)
def smoothing_matrix(length: int, sigma: float) -> Tensor:
    """(``length``, ``length``) float32 matrix that smooths a column by a Gaussian cut off at 3 ``sigma`` pixels.

    Beyond its ends the column goes on as its mirror image, end points repeated.
    """
    radius = int(_TRUNCATE * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    sources = (np.arange(length)[:, None] + offsets) % (2 * length)
    sources = np.minimum(sources, 2 * length - 1 - sources)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], sources), np.broadcast_to(weights, sources.shape))
    return torch.from_numpy(matrix.astype(np.float32))


def smoothed(fields: Tensor, sigma: tuple[float, float]) -> Tensor:
    """``fields`` (N, 2, H, W) smoothed by a Gaussian of ``sigma`` pixels down and across, mirrored at the borders."""
    down = smoothing_matrix(fields.shape[2], sigma[0]).to(fields.device)
    across = smoothing_matrix(fields.shape[3], sigma[1]).to(fields.device).T
    # Image by image and from aligned memory: a product of matrices may round otherwise in a larger batch.
    return torch.stack([down @ (field.clone() @ across) for field in fields])


def elastic(images: Tensor, displacement: Tensor) -> Tensor:
    """(N, 3, H, W) pixels taken from where ``displacement`` (N, 2, H, W) points, across and down, in pixels.

    Between pixels it is bilinear; beyond the borders the image goes on as its mirror image, border pixels repeated.
    """
    size = images.new_tensor([images.shape[3], images.shape[2]])
    grid = displacement.permute(0, 2, 3, 1).mul(2 / size).add_(_centres(images))
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _centres(images: Tensor) -> Tensor:
    """(H, W, 2) x and y of every pixel, where the image's borders are at -1 and 1."""
    rows, columns = images.shape[2:]
    x = (torch.arange(columns, device=images.device, dtype=torch.float32) * 2 + 1) / columns - 1
    y = (torch.arange(rows, device=images.device, dtype=torch.float32) * 2 + 1) / rows - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)


def triangle(size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(3, 2) points (x, y) that the affine jitter moves, for images of ``size`` (rows, columns).

    Three corners of a square around the centre whose half side is a third of the shorter side.
    """
    x, y, half = size[1] // 2, size[0] // 2, min(size) // 3
    return np.array([[x + half, y + half], [x + half, y - half], [x - half, y - half]], dtype=np.float64)


def affine(images: Tensor, moved: npt.NDArray[np.float64]) -> Tensor:
    """(N, 3, H, W) pixels under the affine maps that take :func:`triangle` to ``moved`` (N, 3, 2) points (x, y).

    Between pixels it is bilinear; beyond the borders the image goes on as its mirror image about the border pixels.
    """
    rows, columns = images.shape[2:]
    corners = np.concatenate([triangle((rows, columns)), np.ones((3, 1))], axis=1)
    pushed = np.concatenate([moved, np.ones((*moved.shape[:2], 1))], axis=2)
    # Where a pixel of the result comes from: (x, y, 1) @ back.
    back = torch.from_numpy(np.linalg.solve(pushed, corners[:, :2])).to(images.device, torch.float32)[:, :, None, None]
    x = torch.arange(columns, device=images.device, dtype=torch.float32)[:, None]
    y = torch.arange(rows, device=images.device, dtype=torch.float32)[:, None, None]
    source = (back[:, 0] * x).add(back[:, 1] * y).add_(back[:, 2])
    last = images.new_tensor([columns - 1, rows - 1])
    return functional.grid_sample(images, source.mul_(2 / last).sub_(1), padding_mode="reflection", align_corners=True)


class ElasticTransform(Corruption):
    """Pixels moved along smooth random displacements.

    ``variant="imagecorruptions"``: uniform displacements up to .5 % of the height, smoothed with a standard deviation
    of 1 % of each side and multiplied by 12.5 to 30. ``variant="imagenet_c"``: first an affine map that moves three
    points around the centre at random, then uniform displacements up to one pixel, smoothed and multiplied; all
    lengths in units of 244 pixels (an admitted slip for 224). Severity 1 and 2 are mostly affine, which is why
    published errors fall from 2 to 3. On images that are not square, where the script mixes up rows and columns, the
    three points lie around the centre all the same.

    The package's lengths are shares of the image's sides, so ``lengths`` matters for ``imagenet_c`` alone, whose unit
    is 244 times shorter side / 224 when scaled. Severities of an image share their uniform draws.

    Given the same draws, no pixel differs from that of the package imagecorruptions by more than one of 256 values.
    """

    name: ClassVar[str] = "elastic_transform"
    stochastic: ClassVar[bool] = True

    def draw(self, seed: int, ids: tuple[str, ...], size: tuple[int, int]) -> ElasticDraws:
        """Uniform fields, and for ``imagenet_c`` the jitter of three points."""
        shape = (2, *size)
        uniforms = by_image(lambda name: rng.dense_uniforms(seed, self.stream, [name], shape)[0], ids)
        fields = torch.from_numpy(uniforms).mul_(2).sub_(1)
        if self.params.variant == "imagecorruptions":
            return ElasticDraws(fields=smoothed(fields, (PACKAGE_SIGMA * size[0], PACKAGE_SIGMA * size[1])))
        corners = rng.uniforms(seed, f"{self.stream}.affine", ids, 6).reshape(-1, 3, 2) * 2 - 1
        return ElasticDraws(fields=fields, corners=corners)

    def corrupt(self, images: Tensor, severity: int, draws: Any) -> Tensor:
        """:func:`elastic` at a severity, after :func:`affine` for ``imagenet_c``."""
        size = (images.shape[2], images.shape[3])
        fields = draws.fields.to(images.device)
        if draws.corners is None:
            return elastic(images, fields * (PACKAGE_ALPHA[severity - 1] * PACKAGE_SPAN * size[0]))
        unit_px = SCRIPT_UNIT_PX * self.scale(size)
        factor_px, sigma_px, jitter_px = (share * unit_px for share in SCRIPT[severity - 1])
        images = affine(images, triangle(size) + jitter_px * draws.corners)
        return elastic(images, smoothed(fields, (sigma_px, sigma_px)) * factor_px)
