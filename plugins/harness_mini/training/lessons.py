"""What a network sees while it trains: normalised pixels of whole images, or of windows in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness import rng
from harness.backbones.patchconvnet import PatchConvNet
from harness.types import ImageBatch, View
from harness_mini.networks import CELLS, PATCH_PX, SIDE_PX
from harness_mini.shapes_dataset import Shapes

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
VIEW = View(crop=SIDE_PX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Normalised ``pixels`` (N, 3, S, S) with ``labels`` (N,); ``corner`` (N, 2) int64 is where a window's first patch
    lies in the whole grid, (row, column); None for whole images."""

    pixels: Tensor
    labels: Tensor
    corner: Tensor | None = None


def load(dataset: Shapes, split: str, start: int, count: int) -> ImageBatch:
    """``count`` images of ``split`` from position ``start`` on, beginning anew where it ends."""
    size = len(dataset.index(split))
    return dataset.load(split, [position % size for position in range(start, start + count)], VIEW)


def whole(batch: ImageBatch) -> Lesson:
    """The images as they are."""
    return Lesson(pixels=_normalised(batch.images), labels=batch.labels)


def window_about_object(batch: ImageBatch, cells: int, *, seed: int) -> Lesson:
    """A window of ``cells`` x ``cells`` patches of each image, up to two off the middle of its object's mask."""
    assert batch.masks is not None
    middle = torch.stack([_middle(batch.masks.any(dim=2)), _middle(batch.masks.any(dim=1))], dim=1) / PATCH_PX
    jitter = torch.from_numpy(rng.uniforms(seed, "mini.window", batch.ids, 2)) * 4 - 2
    corner = (middle - cells / 2 + jitter).round().long().clamp(0, CELLS - cells)
    return window(batch, corner, cells)


def window(batch: ImageBatch, corner: Tensor, cells: int) -> Lesson:
    """The window of ``cells`` x ``cells`` patches whose first patch is ``corner`` (N, 2), of each image."""
    images = _normalised(batch.images)
    side = cells * PATCH_PX
    pixels = torch.stack(
        [
            image[:, y : y + side, x : x + side]
            for image, (y, x) in zip(images, (corner * PATCH_PX).tolist(), strict=True)
        ]
    )
    return Lesson(pixels=pixels, labels=batch.labels, corner=corner)


def _middle(covered: Tensor) -> Tensor:
    """The middle of the first and last covered place along the last axis, (N,) float64; the image's, if none is."""
    places = torch.arange(covered.shape[1], dtype=torch.float64)
    first = torch.where(covered, places, torch.inf).amin(dim=1)
    last = torch.where(covered, places, -torch.inf).amax(dim=1)
    return torch.where(covered.any(dim=1), (first + last + 1) / 2, covered.shape[1] / 2)


def _normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def heads(net: nn.Module, lesson: Lesson) -> tuple[Tensor, ...]:
    """The logits (N, C) of every head: one, or those of the class token and of the second token."""
    if not _is_transformer(net):
        return (net(lesson.pixels),)
    tokens = final_tokens(net, lesson)
    parts = cast(Any, net)
    if hasattr(parts, "head_dist"):
        return parts.head(tokens[:, 0]), parts.head_dist(tokens[:, 1])
    return (parts.forward_head(tokens),)


def final_tokens(net: nn.Module, lesson: Lesson) -> Tensor:
    """Tokens (N, P + K, D) of a transformer after its norm; a window's patches keep their position embeddings."""
    parts = cast(Any, net)
    patches = parts.patch_embed.proj(lesson.pixels).flatten(2).transpose(1, 2)
    prefix = [token for token in (parts.cls_token, getattr(parts, "dist_token", None)) if token is not None]
    first = torch.cat(prefix, dim=1).expand(len(patches), -1, -1)
    if parts.pos_embed is not None:
        first = first + parts.pos_embed[:, : first.shape[1]]
        patches = patches + _positions(parts.pos_embed[0, first.shape[1] :], lesson)
    return cast(Tensor, parts.norm(parts.blocks(torch.cat([first, patches], dim=1))))


def _positions(embedding: Tensor, lesson: Lesson) -> Tensor:
    if lesson.corner is None:
        return embedding
    steps = torch.arange(lesson.pixels.shape[-1] // PATCH_PX, device=lesson.corner.device)
    rows, columns = (lesson.corner[:, axis, None] + steps for axis in (0, 1))
    return embedding.view(CELLS, CELLS, -1)[rows[:, :, None], columns[:, None, :]].flatten(1, 2)


def _is_transformer(net: nn.Module) -> bool:
    return hasattr(net, "blocks") and not isinstance(net, PatchConvNet)


def to_device(lesson: Lesson, device: torch.device | str) -> Lesson:
    """The same lesson with every tensor on ``device``."""
    return Lesson(
        pixels=lesson.pixels.to(device),
        labels=lesson.labels.to(device),
        corner=None if lesson.corner is None else lesson.corner.to(device),
    )


def accuracy(net: nn.Module, dataset: Shapes, split: str, *, device: torch.device | str) -> Sequence[int]:
    """How many of the split's images each head gets right, then the mean of all heads where there are several."""
    size = len(dataset.index(split))
    correct: list[int] = []
    net.eval()
    with torch.inference_mode():
        for start in range(0, size, 200):
            lesson = to_device(whole(load(dataset, split, start, min(200, size - start))), device)
            scores = list(heads(net, lesson))
            scores += [torch.stack(scores).mean(dim=0)] if len(scores) > 1 else []
            found = [int((score.argmax(dim=1) == lesson.labels).sum()) for score in scores]
            correct = [a + b for a, b in zip(correct or [0] * len(found), found, strict=True)]
    return correct
