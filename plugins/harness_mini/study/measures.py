"""The study's measurements on one model: per-image values, so that models can be compared image by image.

Random PatchDrop is the harness' component. What had none when the predictions were frozen is measured by the
definition named beside it, and stays so, with the draws that the findings rest on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness import rng
from harness.errors import CapabilityError
from harness.protocols import Model
from harness.types import ImageBatch, OutputSpec
from harness_mini.networks import CELLS, PATCH_PX, SIDE_PX
from harness_mini.zoo import VIEW

if TYPE_CHECKING:
    from harness.protocols import Dataset

Values: TypeAlias = npt.NDArray[np.float64]
Change: TypeAlias = Callable[[ImageBatch], Tensor]
"""Images (N, 3, H, W) in place of those of a batch."""

_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Images:
    """The first ``count`` images of a split, which is balanced by class from its start; drawn once and kept."""

    dataset: Dataset
    split: str
    count: int

    def batches(self) -> Sequence[ImageBatch]:
        """In order, at the zoo's size."""
        return self._batches

    @cached_property
    def _batches(self) -> tuple[ImageBatch, ...]:
        count = min(self.count, len(self.dataset.index(self.split)))
        starts = range(0, count, _BATCH)
        return tuple(self.dataset.load(self.split, range(s, min(s + _BATCH, count)), VIEW) for s in starts)


def decisions(model: Model, images: Images, change: Change | None = None, head: str | None = None) -> Values:
    """The label each image is given, (N,), by ``head`` or else the model's first."""
    chosen = head or model.info.heads[0]
    found = []
    for batch in images.batches():
        pixels = batch.images if change is None else change(batch)
        with torch.inference_mode():
            scores = model.outputs(pixels, OutputSpec(logits=True)).logits[chosen]
        found.append(scores.argmax(dim=1).numpy().astype(np.float64))
    return np.concatenate(found)


def labels(images: Images, column: str | None = None) -> Values:
    """Labels of every image, (N,): the class, or those of a column."""
    parts = [batch.labels if column is None else batch.columns[column] for batch in images.batches()]
    found: Values = torch.cat(parts).double().numpy()
    return found


def correct(model: Model, images: Images, change: Change | None = None, head: str | None = None) -> Values:
    """1 where the decision is the label, else 0, (N,)."""
    right = decisions(model, images, change, head) == labels(images)
    return np.asarray(right, dtype=np.float64)


# --- changes of the images -------------------------------------------------------------------------------------------


def cells_blackened(dropped: Tensor, images: Tensor) -> Tensor:
    """``images`` with the cells ``dropped`` (N, CELLS * CELLS) bool black."""
    mask = dropped.view(-1, CELLS, CELLS).repeat_interleave(PATCH_PX, 1).repeat_interleave(PATCH_PX, 2)
    return images.masked_fill(mask[:, None], 0.0)


def most(saliency: Tensor, mass: float) -> Tensor:
    """The smallest sets that hold ``mass`` of ``saliency`` (N, K), the crossing cell included (protocols 1.6)."""
    order = saliency.double().argsort(dim=1, stable=True)
    held = saliency.double().gather(1, order).cumsum(dim=1)
    # From the least salient cell on: at either end rounding then neither adds a cell nor loses one.
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, order, held > (1 - mass) * held[:, -1:])


def fewest(saliency: Tensor, counts: Tensor) -> Tensor:
    """The ``counts`` (N,) least salient cells of each image, (N, K) bool."""
    return saliency.argsort(dim=1, stable=True).argsort(dim=1) < counts[:, None]


def shuffled(side: int, seed: int = 0) -> Change:
    """Blocks of a ``side`` x ``side`` grid in a random order, another for each image (protocols section 3)."""

    def change(batch: ImageBatch) -> Tensor:
        n, _, height, _ = batch.images.shape
        block = height // side
        order = torch.from_numpy(rng.permutations(seed, f"mini.shuffle.{side}", batch.ids, side * side))
        blocks = batch.images.view(n, 3, side, block, side, block).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        moved = blocks.take_along_dim(order[:, :, None, None, None], dim=1)
        return moved.view(n, side, side, 3, block, block).permute(0, 3, 1, 4, 2, 5).reshape(batch.images.shape)

    return change


def _gaussian_noise(batch: ImageBatch) -> Tensor:
    return batch.images + 0.18 * torch.from_numpy(rng.normals(0, "mini.gaussian", batch.ids, (3, SIDE_PX, SIDE_PX)))


def _impulse_noise(batch: ImageBatch) -> Tensor:
    draws = torch.from_numpy(rng.dense_uniforms(0, "mini.impulse", batch.ids, (3, SIDE_PX, SIDE_PX)))
    return torch.where(draws < 0.045, 0.0, torch.where(draws < 0.09, 1.0, batch.images))


def _brightness(batch: ImageBatch) -> Tensor:
    value = batch.images.amax(dim=1, keepdim=True)
    brighter = (value + 0.3).clamp(max=1)
    return torch.where(value > 0, batch.images * (brighter / value), brighter)


def _contrast(batch: ImageBatch) -> Tensor:
    mean = batch.images.mean(dim=(2, 3), keepdim=True)
    return (batch.images - mean) * 0.2 + mean


def _pixelate(batch: ImageBatch) -> Tensor:
    side = int(SIDE_PX * 0.4)
    # A pixel belongs to the box that its centre lies in, on the way down and on the way up.
    box = ((torch.arange(SIDE_PX) + 0.5) * side / SIDE_PX).long()
    member = torch.nn.functional.one_hot(box, side).to(batch.images.dtype)
    blur = member @ (member / member.sum(dim=0)).T
    return blur @ batch.images @ blur.T


CORRUPTIONS: dict[str, Change] = {
    "gaussian_noise": _gaussian_noise,
    "impulse_noise": _impulse_noise,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
}
"""Five of the common corruptions at severity 3 (Hendrycks and Dietterich, ICLR 2019), with the constants of 224 px."""


def corrupted(name: str) -> Change:
    """A corruption by name, cut off at 0 and 1."""
    return lambda batch: CORRUPTIONS[name](batch).clamp(0, 1)


def attacked(model: Model, *, eps: float, step: float, steps: int, seed: int = 0) -> Change:
    """Untargeted projected gradient descent in the l-inf ball of ``eps``, from a random point (protocols section 4)."""
    head = model.info.heads[0]

    def change(batch: ImageBatch) -> Tensor:
        start = torch.from_numpy(rng.dense_uniforms(seed, "mini.pgd", batch.ids, (3, SIDE_PX, SIDE_PX)))
        adversarial = (batch.images + eps * (2 * start - 1)).clamp(0, 1)
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            scores = model.outputs(adversarial, OutputSpec(logits=True)).logits[head]
            loss = torch.nn.functional.cross_entropy(scores, batch.labels, reduction="sum")
            (slope,) = torch.autograd.grad(loss, adversarial)
            moved = adversarial.detach() + step * slope.sign()
            adversarial = (batch.images + (moved - batch.images).clamp(-eps, eps)).clamp(0, 1)
        return adversarial.detach()

    return change


# --- inside the model ------------------------------------------------------------------------------------------------


def attention_maps(model: Model, images: Tensor, token: str = "cls") -> Tensor:  # noqa: S107  # a token, no password
    """Last-block attention of a prefix token to the patches, (N, heads, CELLS * CELLS), rows summing to 1."""
    info = model.info
    if token not in info.prefix:
        raise CapabilityError(f"model {info.name} has no {token} token; its prefix tokens are {info.prefix}")
    last = info.num_blocks - 1
    with torch.inference_mode():
        weights = model.outputs(images, OutputSpec(attention=frozenset({last}))).attention[last].weights
    row = weights[:, :, info.prefix.index(token), -CELLS * CELLS :]
    return row / row.sum(dim=2, keepdim=True)


def jaccard(model: Model, images: Images, *, mass: float, token: str = "cls") -> Values:  # noqa: S107
    """Intersection over union of the object with the patches that hold ``mass`` of the attention, (N,).

    Of the head that fits best, chosen with the mask at hand as in the paper (protocols section 7): compare only
    models of equally many heads.
    """
    found = []
    for batch in images.batches():
        assert batch.masks is not None
        maps = attention_maps(model, batch.images, token)
        n, heads = maps.shape[:2]
        chosen = most(maps.flatten(0, 1), mass).view(n, heads, CELLS, CELLS)
        pixels = chosen.repeat_interleave(PATCH_PX, 2).repeat_interleave(PATCH_PX, 3)
        objects = batch.masks[:, None]
        overlap = (pixels & objects).sum(dim=(2, 3)).double() / (pixels | objects).sum(dim=(2, 3))
        found.append(overlap.amax(dim=1).numpy())
    return np.concatenate(found)


def token_cosine(model: Model, images: Images) -> Values:
    """Cosine of the first two prefix tokens after the last block and the final norm, (N,)."""
    last = model.info.num_blocks - 1
    found = []
    for batch in images.batches():
        with torch.inference_mode():
            tokens = model.outputs(batch.images, OutputSpec(normed_tokens=frozenset({last}))).normed_tokens[last].prefix
        found.append(torch.cosine_similarity(tokens[:, 0], tokens[:, 1], dim=1).double().numpy())
    return np.concatenate(found)


def class_tokens(model: Model, images: Images, blocks: Sequence[int]) -> Values:
    """Class tokens of ``blocks`` after the final norm, side by side: (N, len(blocks) * D)."""
    found = []
    for batch in images.batches():
        with torch.inference_mode():
            given = model.outputs(batch.images, OutputSpec(normed_tokens=frozenset(blocks))).normed_tokens
        found.append(torch.cat([given[block].prefix[:, 0] for block in blocks], dim=1).double().numpy())
    return np.concatenate(found)


def pooled(model: Model, images: Images, change: Change | None = None) -> Values:
    """The vector in front of the head, (N, D)."""
    found = []
    for batch in images.batches():
        pixels = batch.images if change is None else change(batch)
        with torch.inference_mode():
            vector = model.outputs(pixels, OutputSpec(pooled=True)).pooled
        found.append(cast(Tensor, vector).double().numpy())
    return np.concatenate(found)


def centred_correlation(clean: Values, changed: Values) -> Values:
    """Pearson's correlation of each row of two (N, D) tables, less the clean table's mean: (N,) (protocols section 2).

    Without the centring two different images correlate nearly as much as an image with its own occluded self.
    """
    a, b = clean - clean.mean(axis=0), changed - clean.mean(axis=0)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(norms, 1e-12))


def few_shot(
    support: Values, support_labels: Values, query: Values, query_labels: Values, *, shots: int, draws: int
) -> Values:
    """How often each query image is classified rightly over ``draws`` supports, (N,) in [0, 1].

    Multinomial logistic regression (C = 1) on vectors of length one, as in RFS (arXiv 2003.11539; protocols 8).
    """
    from sklearn.linear_model import LogisticRegression

    def unit(x: Values) -> Values:
        return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))

    query, support = unit(query), unit(support)
    right = np.zeros(len(query))
    classes = np.unique(support_labels)
    for draw in range(draws):
        rows = []
        for label in classes:
            mine = np.flatnonzero(support_labels == label)
            order = rng.permutations(draw, "mini.fewshot", [str(int(label))], len(mine))[0]
            rows.append(mine[order[:shots]])
        chosen = np.concatenate(rows)
        fitted = LogisticRegression(C=1.0, max_iter=1000).fit(support[chosen], support_labels[chosen])
        right += fitted.predict(query) == query_labels
    return right / draws
