"""Attention distance: how far from itself, in pixels, a patch looks, by head and block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.errors import CapabilityError
from harness.metrics import require_finite
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness.types import Measurement
from harness_inspect.attention_distance import AttentionDistanceParams
from harness_inspect.attention_probe import AttentionProbe, FittedAttention
from harness_inspect.attention_weights import attention_layouts, patches_to_patches, require_attention
from harness_inspect.inspection import Found
from harness_inspect.map_numbers import as_array, exact, many_mean_rows, mean_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from torch import Tensor

    from harness.protocols import Outcomes
    from harness.types import FeatureTable, ImageBatch, JSONScalar, ModelInfo, ModelOutputs
    from harness_inspect.attention_distance import Special
    from harness_inspect.attention_weights import AttentionLayout, BlockChoice
    from harness_inspect.inspection import Arrays


class AttentionDistanceProbe(AttentionProbe):
    """Mean distance, in pixels of the model's input, between a patch and those it attends to, weighted by attention.

    Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021, arXiv 2010.11929), section 4.5, figures 7 right and
    11: for every head and block the mean over images and asking patches i of sum_j A_ij d_ij over the patches j, with
    d_ij the distance between their places on the grid times the pixels from one to the next (input over grid). 0 where
    every patch attends to itself alone; 116.492 px for uniform attention over 14 x 14 patches of 16 px.

    ``special``: the paper does not say what becomes of attention to prefix tokens, which lie nowhere. ``renormalise``
    makes the rest of each row sum to one, so that the value is a mean distance; ``drop`` leaves it as it is, as common
    implementations do, and makes distances shorter by the share that prefix tokens get, which differs by block.

    ``blocks="all"``: every block in which patches attend over the whole image; those in which class tokens alone do
    are left out. Rows that are no distributions (talking heads, as in CaiT) have no mean distance, and a model with a
    block of such rows among those chosen is refused; so is one that attends within windows.

    Measured, in px: ``attention_distance_of_head`` by block and head, with Student's t intervals over the images;
    ``attention_distance_of_block``, the mean over its heads, and ``attention_distance``, that over all heads of all
    blocks, with bootstrap intervals; ``uniform_attention_distance`` by block, what uniform attention would give; and
    as a fraction ``special_token_mass`` by block, the share that patches give to prefix tokens, where there are any.
    """

    def __init__(self, *, blocks: BlockChoice = "all", special: Special = "renormalise") -> None:
        self._params = checked(AttentionDistanceParams(blocks=blocks, special=special), "attention_distance")
        super().__init__(
            ProbeInfo(name="attention_distance", headline="attention_distance", params=canonical(self._params)),
            self._params.blocks,
        )

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002  # there is none
        """See in which blocks patches attend.

        Raises :class:`~harness.errors.CapabilityError` for a model without such blocks, a block chosen that is none,
        and rows that are no distributions.
        """
        info = context.model
        layouts = attention_layouts(context, require_attention(info, self._blocks), self.info.name)
        among_patches = {block: layout for block, layout in layouts.items() if layout.kind == "global"}
        if not among_patches or (self._blocks is not None and len(among_patches) < len(layouts)):
            others = ", ".join(str(block) for block in layouts if block not in among_patches)
            raise CapabilityError(
                f"model {info.name}: in block {others} class tokens alone attend, and lie nowhere",
                hint="choose other blocks"
                if among_patches
                else "attention_pool_maps shows what its class token attends to",
            )
        if mixed := [block for block, layout in among_patches.items() if not layout.distribution]:
            raise CapabilityError(
                f"model {info.name}: rows of attention in block {', '.join(map(str, mixed))} are no distributions (its "
                "heads are mixed behind the softmax), so that they have no mean distance",
                hint="take a model without talking heads, such as a ViT or a DeiT",
            )
        return FittedAttentionDistance(info, among_patches, self._params.special)


class FittedAttentionDistance(FittedAttention):
    """Attention distance in the blocks of ``layouts``."""

    def __init__(self, info: ModelInfo, layouts: Mapping[int, AttentionLayout], special: Special) -> None:
        self._info = info
        self._layouts = layouts
        self._special = special
        self._distances = {block: patch_distances_px(layout.grid, info.input_size) for block, layout in layouts.items()}
        super().__init__(
            "attention_distance",
            variants=[{"block": block, "head": head} for block, of in layouts.items() for head in range(of.heads)],
            columns={"distance_px": np.float32, "special_token_mass": np.float32},
        )

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:  # noqa: ARG002  # of one pass
        """Distances and what special tokens get, of every head.

        Raises :class:`~harness.errors.CapabilityError` where patches were dropped inside the model, and
        :class:`~harness.errors.DataError` for attention that is not finite, or a patch that gives patches none.
        """
        distances, shares = [], []
        for block, layout in self._layouts.items():
            patches_to_patches(outputs.attention[block], self._info)
            rows = outputs.attention[block].weights[:, :, -layout.patches :]
            for head in range(rows.shape[1]):  # one by one: maps of all heads in double precision are large
                distance, share = head_distances(rows[:, head], self._distances[block], self._special)
                require_finite(
                    distance[:, None], batch.ids, source=f"{self.name}: attention of block {block}, head {head}"
                )
                distances.append(as_array(distance))
                shares.append(as_array(share))
        return Found(values={"distance_px": np.stack(distances), "special_token_mass": np.stack(shares)})

    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:  # noqa: ARG002  # there are none
        """See the probe."""
        of_heads = outcomes.columns["distance_px"].astype(np.float64)
        block_of_row = np.array([variant["block"] for variant in outcomes.variants])
        blocks = list(self._layouts)
        dims: list[dict[str, JSONScalar]] = [{"block": block} for block in blocks]

        def of_blocks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
            return np.stack([values[block_of_row == block].mean(axis=0, dtype=np.float64) for block in blocks])

        in_px: dict[str, Any] = {"unit": "px", "higher_is_better": None}
        rows = mean_rows("attention_distance", of_heads.mean(axis=0), **in_px)
        rows += mean_rows("attention_distance_of_block", of_blocks(of_heads), dims, **in_px)
        rows += many_mean_rows("attention_distance_of_head", of_heads, outcomes.variants, **in_px)
        rows += [
            Measurement(
                metric="uniform_attention_distance",
                value=float(self._distances[block].mean()),
                n=len(outcomes.positions),
                dims={"block": block},
                **in_px,
            )
            for block in blocks
        ]
        special = [i for i, block in enumerate(blocks) if self._layouts[block].prefix]
        if special:
            masses = of_blocks(outcomes.columns["special_token_mass"])[special]
            rows += mean_rows("special_token_mass", masses, [dims[i] for i in special], higher_is_better=None)
        return rows


def patch_distances_px(grid: tuple[int, int], input_px: int) -> npt.NDArray[np.float64]:
    """Euclidean distances (G, G) between the places of patches, row by row, on a square input of ``input_px``."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    down, across = input_px / grid[0], input_px / grid[1]
    return np.hypot((rows[:, None] - rows) * down, (columns[:, None] - columns) * across)


def head_distances(rows: Tensor, distances_px: npt.NDArray[np.float64], special: Special) -> tuple[Tensor, Tensor]:
    """Mean distance in px (N,) of the rows (N, G, keys) of G patches, and the mean share (N,) of special tokens.

    The last G keys are the patches. A row that gives them nothing has no mean distance: NaN, unless ``special`` is
    ``drop``.
    """
    rows, patches = exact(rows), rows.shape[1]
    among = rows[..., -patches:]
    moments, masses = (among * torch.from_numpy(distances_px).to(rows)).sum(dim=-1), among.sum(dim=-1)
    others = rows[..., :-patches].sum(dim=-1)
    if special == "renormalise":
        moments = moments / masses
    return moments.mean(dim=1), (others / (others + masses)).mean(dim=1)
