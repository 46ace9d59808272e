"""Who shares a mask: each image has its own, or groups of images share one as batches did in the authors' code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness import rng
from harness.protocols import MASK_GROUP, PerturbationContext
from harness_patchdrop.parameters import MaskScope

AUTHORS_BATCH = 256
"""Images that share one mask in the authors' code, a batch of a shuffled loader (protocol 1.2)."""


def mask_ids(ids: Sequence[str], scope: MaskScope, context: PerturbationContext) -> Sequence[str]:
    """What masks are keyed by in place of the image ids: the ids themselves, or the names of their groups."""
    if scope == "image":
        return ids
    return [f"group-{int(group)}" for group in _groups(ids, context)]


def mask_groups(ids: Sequence[str], scope: MaskScope, context: PerturbationContext) -> Mapping[str, Tensor]:
    """The groups as a realised quantity (N,) float64, or nothing where every image has its own mask."""
    if scope == "image":
        return {}
    return {MASK_GROUP: torch.from_numpy(_groups(ids, context)).to(torch.float64)}


def _groups(ids: Sequence[str], context: PerturbationContext) -> npt.NDArray[np.int64]:
    """As many groups as there would be batches; who is in which is drawn by seed and image id, as by a shuffle."""
    count = max(1, math.ceil(context.num_images / AUTHORS_BATCH))
    return rng.integers(context.seed, "patchdrop.group", ids, 1, 0, count)[:, 0]
