"""Where a token looks in every block, on average over images, and how much of it on what is still visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import CapabilityError
from harness.metrics import require_finite
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness_inspect.attention_maps import AttentionMapsParams
from harness_inspect.attention_probe import AttentionProbe, FittedAttention
from harness_inspect.attention_weights import (
    AUTO,
    MEAN,
    asking_token,
    attention_layouts,
    require_attention,
    token_asks,
    token_rows,
)
from harness_inspect.figures import as_bytes
from harness_inspect.inspection import Found
from harness_inspect.map_numbers import (
    as_array,
    cell_shares,
    entropy_bits,
    mean_of_heads,
    mean_rows,
    ratio_rows,
    split_row,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from harness.protocols import Outcomes
    from harness.types import (
        BlockAttention,
        FeatureTable,
        ImageBatch,
        JSONScalar,
        Measurement,
        ModelInfo,
        ModelOutputs,
        OutputSpec,
    )
    from harness_inspect.attention_weights import AttentionLayout, BlockChoice
    from harness_inspect.inspection import Arrays

IMAGE = "image"
"""(K, 3, H, W) uint8: images that are shown, as the model was asked about them."""
LAST = "last"
"""(K, rows, columns) float32 of those, and (rows, columns) over all images: maps in the last of the blocks."""
VISIBLE = "visible"
"""(rows, columns) over all images: the share of each patch's pixels that was not taken away."""


def map_name(block: int) -> str:
    """What the mean map (rows, columns) of a block is called among the arrays."""
    return f"block{block}"


class AttentionMapsProbe(AttentionProbe):
    """Attention of one token to the patches, in every block, averaged over heads and divided by its sum.

    Naseer et al., "Intriguing Properties of Vision Transformers" (NeurIPS 2021, arXiv 2105.10497), section 3.1 and
    figure 4, look at such maps, averaged over images, while patches of these are dropped. The mean over images shows
    what all of them share, so dropped patches show in it where all images lose the same ones (``mask_scope=batch``, or
    a drop of the centre); what a single image loses is in the numbers.

    ``token``: a prefix token, or ``mean`` for the mean over all patches that ask; ``auto`` is ``cls`` where there is
    one and else ``mean``. ``blocks="all"``: every block in which it asks the patches of the whole image. Rows that are
    no distributions (talking heads) and windows are refused.

    Measured: ``attention_on_visible_of_block``, the share of the map on pixels that no perturbation took away
    (:attr:`~harness.types.ImageBatch.taken`; 1 where nothing was), a patch counting by the share of its pixels that is
    left; ``visible_lift_of_block``, its mean over that of ``visible_share``, the area that is left, which is what
    uniform attention would give; ``attention_on_visible`` and ``visible_lift``, the same of the mean over the blocks.
    ``attention_entropy`` in bits by block, log2 of the number of patches for a uniform map; and ``special_token_mass``
    by block, what the token gives to prefix tokens, its own place included, and what is no part of the map.
    """

    def __init__(self, *, token: str = AUTO, blocks: BlockChoice = "all", examples: int = 4) -> None:
        self._params = checked(AttentionMapsParams(token=token, blocks=blocks, examples=examples), "attention_maps")
        super().__init__(
            ProbeInfo(name="attention_maps", headline="attention_on_visible", params=canonical(self._params)),
            self._params.blocks,
        )

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The attention of the blocks chosen.

        Raises :class:`~harness.errors.CapabilityError` for a model without attention, a block without, or a token that
        the model has not.
        """
        want = super().wants(model)
        asking_token(model, self._params.token)
        return want

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002  # there is none
        """See in which blocks the token asks.

        Raises :class:`~harness.errors.CapabilityError` for a model without such blocks, a block chosen that is none,
        and rows that are no distributions.
        """
        info = context.model
        token = asking_token(info, self._params.token)
        layouts = attention_layouts(context, require_attention(info, self._blocks), self.info.name)
        asking = {block: layout for block, layout in layouts.items() if token_asks(layout, info, token)}
        if not asking or (self._blocks is not None and len(asking) < len(layouts)):
            others = ", ".join(str(block) for block in layouts if block not in asking)
            who = "the mean over patches" if token == MEAN else repr(token)
            raise CapabilityError(
                f"model {info.name}: in block {others} {who} does not attend to patches",
                hint="choose other blocks" if asking else "try attention_pool_maps, or another token",
            )
        if mixed := [block for block, layout in asking.items() if not layout.distribution]:
            raise CapabilityError(
                f"model {info.name}: rows of attention in block {', '.join(map(str, mixed))} are no distributions (its "
                "heads are mixed behind the softmax)",
                hint="take token=cls, or a model without talking heads",
            )
        return FittedAttentionMaps(info, asking, token, examples=self._params.examples)


class FittedAttentionMaps(FittedAttention):
    """Maps of ``token`` in the blocks of ``layouts``."""

    def __init__(self, info: ModelInfo, layouts: Mapping[int, AttentionLayout], token: str, *, examples: int) -> None:
        self._info = info
        self._layouts = layouts
        self._token = token
        columns = ("on_visible", "visible_share", "entropy_bits", "special_token_mass")
        super().__init__(
            "attention_maps",
            variants=[{"block": block} for block in layouts],
            columns=dict.fromkeys(columns, np.float32),
            shown_images=examples,
        )

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:  # noqa: ARG002  # of one pass
        """Maps and their numbers.

        Raises :class:`~harness.errors.CapabilityError` where patches were dropped inside the model, and
        :class:`~harness.errors.DataError` for attention that is not finite.
        """
        rows: list[dict[str, npt.NDArray[np.float64]]] = []
        maps: dict[str, npt.NDArray[np.float64]] = {}
        for block, layout in self._layouts.items():
            of_patches, special = self._map(block, outputs.attention[block], batch.ids)
            taken = np.zeros_like(of_patches) if batch.taken is None else cell_shares(batch.taken, layout.grid)
            lost = np.clip((of_patches * taken).sum(axis=1), 0, 1)
            rows.append(
                {
                    "on_visible": 1 - lost,
                    "visible_share": 1 - taken.mean(axis=1),
                    "entropy_bits": entropy_bits(of_patches),
                    "special_token_mass": special,
                }
            )
            maps[map_name(block)] = of_patches.reshape(-1, *layout.grid)
            maps[VISIBLE] = 1 - taken.reshape(-1, *layout.grid)
        last = maps[map_name(max(self._layouts))]
        return Found(
            values={name: np.stack([row[name] for row in rows]) for name in self.columns},
            maps={**maps, LAST: last},
            shown={IMAGE: as_bytes(batch.images), LAST: last.astype(np.float32)},
        )

    def _map(
        self, block: int, attention: BlockAttention, ids: tuple[str, ...]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The map (N, patches), which sums to one, and what prefix tokens get (N,)."""
        row = mean_of_heads(token_rows(attention, self._info, self._token))
        of_patches, special = split_row(row, self._layouts[block].patches)
        require_finite(of_patches, ids, source=f"{self.name}: attention of block {block}")
        return as_array(of_patches), as_array(special)

    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:  # noqa: ARG002  # numbers are of the images
        """See the probe."""
        columns = {name: column.astype(np.float64) for name, column in outcomes.columns.items()}
        on_visible, visible = columns["on_visible"], columns["visible_share"]
        token: dict[str, JSONScalar] = {"token": self._token}
        dims: list[dict[str, JSONScalar]] = [{**token, "block": block} for block in self._layouts]
        plain: dict[str, Any] = {"higher_is_better": None}
        rows = mean_rows("attention_on_visible", on_visible.mean(axis=0), [token], **plain)
        rows += mean_rows("visible_share", visible[:1], **plain)
        rows += ratio_rows("visible_lift", on_visible.mean(axis=0), visible[:1], [token], **plain)
        rows += mean_rows("attention_on_visible_of_block", on_visible, dims, **plain)
        rows += ratio_rows("visible_lift_of_block", on_visible, visible, dims, **plain)
        rows += mean_rows("attention_entropy", columns["entropy_bits"], dims, unit="bits", **plain)
        special = [i for i, layout in enumerate(self._layouts.values()) if layout.prefix]
        if special:
            masses = columns["special_token_mass"][special]
            rows += mean_rows("special_token_mass", masses, [dims[i] for i in special], **plain)
        return rows
