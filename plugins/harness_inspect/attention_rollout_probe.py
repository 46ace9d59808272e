"""Attention rollout: how much of each patch reaches a token through all blocks, by their attention alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.errors import CapabilityError
from harness.metrics import require_finite
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness.types import OutputSpec
from harness_inspect.attention_probe import AttentionProbe, FittedAttention
from harness_inspect.attention_rollout import AttentionRolloutParams
from harness_inspect.attention_weights import (
    AUTO,
    MEAN,
    asking_token,
    attention_blocks,
    attention_layouts,
    patch_grid,
    require_attention,
    token_asks,
)
from harness_inspect.figures import as_bytes
from harness_inspect.inspection import Found
from harness_inspect.map_numbers import (
    as_array,
    entropy_bits,
    exact,
    mean_of_heads,
    mean_rows,
    object_rows,
    on_object,
    split_row,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from harness.protocols import Outcomes
    from harness.types import FeatureTable, ImageBatch, JSONScalar, Measurement, ModelInfo, ModelOutputs
    from harness_inspect.attention_weights import AttentionLayout
    from harness_inspect.inspection import Arrays

IMAGE = "image"
"""(K, 3, H, W) uint8: images that are shown, as the model was asked about them."""
MAP = "rollout"
"""(K, rows, columns) float32 of those, and (rows, columns) over all images: the map, which sums to one."""


class AttentionRolloutProbe(AttentionProbe):
    """Attention rollout of one token over the patches of the image.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020, arXiv 2005.00928), as used for figure 6
    of Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021, arXiv 2010.11929): in every block the heads'
    weights are averaged, the identity is added for the residual connection, and rows are divided by their sums; the
    matrices are multiplied from the first block to the last, and the row of ``token`` is the map. Rows of the product
    sum to one.

    ``token``: a prefix token, or ``mean`` for the mean over the rows of all patches, which is what a model without
    prefix tokens pools; ``auto`` is ``cls`` where there is one and else ``mean``. ``discard``: that share of a block's
    averaged weights, the lowest of each image, is zero before the identity is added. 0 is the paper's; common
    re-implementations cut 0.9.

    Every block must attend over all tokens, and these must be the same throughout, so windows, blocks in which class
    tokens alone ask, pooled patches and mixed heads are refused.

    Measured on the map, divided by its sum over the patches: ``rollout_entropy`` in bits, log2 of the number of
    patches for a uniform one; ``effective_patches``, 2 to that power; where the images come with masks
    ``rollout_on_object``, the share on the object, beside its area ``object_area`` and ``rollout_object_lift``, the
    ratio of the two means. ``special_token_mass`` is what ended at prefix tokens and is no part of the map.
    """

    def __init__(self, *, token: str = AUTO, discard: float = 0.0, examples: int = 6) -> None:
        self._params = checked(
            AttentionRolloutParams(token=token, discard=discard, examples=examples), "attention_rollout"
        )
        super().__init__(
            ProbeInfo(name="attention_rollout", headline="rollout_entropy", params=canonical(self._params))
        )

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The attention of every block.

        Raises :class:`~harness.errors.CapabilityError` for a model that does not give it, or lacks the token.
        """
        require_attention(model)
        if missing := sorted(set(range(model.num_blocks)) - set(attention_blocks(model))):
            raise CapabilityError(
                f"model {model.name} gives no attention of {len(missing)} of its {model.num_blocks} blocks, so that "
                "nothing can be followed through them",
                hint="attention_pool_maps shows what its class token attends to",
            )
        asking_token(model, self._params.token)
        return super().wants(model)

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002  # there is none
        """See whether attention can be followed from block to block.

        Raises :class:`~harness.errors.CapabilityError` where it cannot be.
        """
        info = context.model
        token = asking_token(info, self._params.token)
        layouts = attention_layouts(context, range(info.num_blocks), self.info.name)
        for block, layout in layouts.items():
            if problem := _problem(layout, layouts[0]):
                raise CapabilityError(
                    f"model {info.name}: block {block} {problem}, so that attention cannot be followed through it",
                    hint="take a plain transformer, such as a ViT or a DeiT",
                )
        if not token_asks(layouts[0], info, token):
            raise CapabilityError(
                f"model {info.name}: {token!r} is not among the tokens of its blocks", hint="token=mean"
            )
        return FittedRollout(info, layouts[0], token, discard=self._params.discard, examples=self._params.examples)


def _problem(layout: AttentionLayout, first: AttentionLayout) -> str | None:
    """Why rollout cannot go through a block, None if it can."""
    if layout.kind == "class":
        return "lets class tokens alone attend"
    if not layout.distribution:
        return "mixes its heads behind the softmax, and rows are no distributions"
    if (layout.queries, layout.keys) != (first.keys, first.keys):
        return f"attends over {layout.keys} tokens, others over {first.keys}"
    return None


class FittedRollout(FittedAttention):
    """Rollout through the blocks of ``info``, all of one ``layout``."""

    def __init__(self, info: ModelInfo, layout: AttentionLayout, token: str, *, discard: float, examples: int) -> None:
        self._info = info
        self._layout = layout
        self._token = token
        self._discard = discard
        self._dims: Mapping[str, JSONScalar] = {"token": token}
        columns = ("entropy_bits", "special_token_mass", "on_object", "object_area")
        super().__init__(
            "attention_rollout",
            variants=[self._dims],
            columns=dict.fromkeys(columns, np.float32),
            shown_images=examples,
        )

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:  # noqa: ARG002  # of one pass
        """Maps and their numbers.

        Raises :class:`~harness.errors.CapabilityError` where patches were dropped inside the model, and
        :class:`~harness.errors.DataError` for attention that is not finite, or leads from no patch to the token.
        """
        for attention in outputs.attention.values():
            patch_grid(attention, self._info)
        averaged = (mean_of_heads(outputs.attention[b].weights) for b in reversed(range(self._info.num_blocks)))
        first = outputs.attention[0].weights
        row = rollout_row(averaged, self._start(len(batch)).to(first.device), discard=self._discard)
        of_patches, special = split_row(row, self._layout.patches)
        require_finite(of_patches, batch.ids, source=f"{self.name} on {self._info.name}")
        maps = as_array(of_patches)
        found, area = on_object(maps, batch.masks, self._layout.grid)
        values = {
            "entropy_bits": entropy_bits(maps),
            "special_token_mass": as_array(special),
            "on_object": found,
            "object_area": area,
        }
        on_grid = maps.reshape(-1, *self._layout.grid)
        return Found(
            values={name: column[np.newaxis] for name, column in values.items()},
            maps={MAP: on_grid},
            shown={IMAGE: as_bytes(batch.images), MAP: on_grid.astype(np.float32)},
        )

    def _start(self, images: int) -> Tensor:
        """Where the token's row begins (N, T): at the token itself, or evenly at all patches."""
        start = torch.zeros(self._layout.keys)
        if self._token == MEAN:
            start[self._layout.prefix :] = 1 / self._layout.patches
        else:
            start[self._info.prefix.index(self._token)] = 1
        return start.expand(images, -1)

    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:  # noqa: ARG002  # numbers are of the images
        """See the probe."""
        columns, dims = outcomes.columns, (self._dims,)
        rows = mean_rows("rollout_entropy", columns["entropy_bits"], dims, unit="bits", higher_is_better=None)
        patches = 2.0 ** columns["entropy_bits"].astype(np.float64)
        rows += mean_rows("effective_patches", patches, dims, unit="patches", higher_is_better=None)
        rows += object_rows("rollout", columns["on_object"], columns["object_area"], dims)
        if self._layout.prefix:
            rows += mean_rows("special_token_mass", columns["special_token_mass"], dims, higher_is_better=None)
        return rows


def rollout_row(averaged: Iterable[Tensor], start: Tensor, *, discard: float = 0.0) -> Tensor:
    """``start`` (N, T) times the product of all blocks' matrices; ``averaged`` gives (N, T, T), the *last* block first.

    With the start at one token this is its row of the whole product, at the cost of a vector.
    """
    row = exact(start)
    for weights in averaged:
        kept = exact(without_lowest(weights, discard) if discard else weights)
        with_residual = kept + torch.eye(kept.shape[1], dtype=kept.dtype, device=kept.device)
        # The sums keep their dimension: without it, columns would be divided in place of rows.
        step = with_residual / with_residual.sum(dim=-1, keepdim=True)
        row = torch.einsum("nt,nts->ns", row, step)
    return row


def without_lowest(weights: Tensor, share: float) -> Tensor:
    """Weights (N, T, T) with the lowest ``share`` of each image's, rounded down, at zero; of equal ones the first."""
    flat = weights.flatten(1)
    lowest = flat.argsort(dim=1, stable=True)[:, : int(share * flat.shape[1])]
    return flat.scatter(1, lowest, 0.0).view_as(weights)
