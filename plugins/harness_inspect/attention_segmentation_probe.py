"""Attention as a segmentation: overlap of the objects with the patches that hold most of a token's attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness import rng
from harness.errors import CapabilityError, DataError
from harness.metrics import require_finite
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness.types import Capability, Measurement, OutputSpec
from harness_inspect.attention_mass import smallest_sets
from harness_inspect.attention_probe import AttentionProbe, FittedAttention
from harness_inspect.attention_segmentation import PREDICTED, AttentionSegmentationParams
from harness_inspect.attention_weights import (
    asking_token,
    attention_layouts,
    patch_grid,
    require_attention,
    token_asks,
    token_rows,
)
from harness_inspect.figures import as_bytes
from harness_inspect.inspection import Found
from harness_inspect.map_numbers import as_array, many_mean_rows, mean_rows
from harness_inspect.object_regions import ObjectRegions, batch_regions, count_regions
from harness_inspect.segmentation_baselines import central, moved, random_orders, scattered, tie_breaks
from harness_inspect.segmentation_rules import (
    FIXED,
    ORACLE,
    PER_IMAGE,
    RULES,
    by_rule,
    cross_fitted,
    later_half,
    of_fixed,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from harness.protocols import Outcomes
    from harness.types import FeatureTable, ImageBatch, JSONScalar, ModelInfo, ModelOutputs
    from harness_inspect.attention_weights import AttentionLayout
    from harness_inspect.inspection import Arrays
    from harness_inspect.object_regions import VoidRule

    Values = npt.NDArray[np.float64]

JACCARD = "jaccard"
SMOOTH, SCATTERED, CENTRE = "jaccard_random_smooth", "jaccard_random", "jaccard_centre"
BASELINES = (SMOOTH, SCATTERED, CENTRE)
MINUS_CHANCE, MINUS_CENTRE = "jaccard_minus_chance", "jaccard_minus_centre"

_SCORES = (JACCARD, *BASELINES)
_COLUMNS = (*_SCORES, "area", "mass_on_object", "object_area", "half_key")
_FIRST_HEAD = len(PER_IMAGE)
"""The variant of the first head, behind those of the rules."""
_HALVES = "segmentation.halves"
_NAMED = 5


class AttentionSegmentationProbe(AttentionProbe):
    """Jaccard index of the objects in an image with the patches that hold a share of a token's attention.

    Naseer et al., "Intriguing Properties of Vision Transformers" (arXiv 2105.10497), with ``mass`` 0.9; Caron et al.,
    "Emerging Properties in Self-Supervised Vision Transformers" (arXiv 2104.14294), figure 4, with 0.6. The attention
    of ``token`` to the patches in ``block``, without special tokens, becomes a mask: the fewest patches that hold
    ``mass`` of it, each as large as its square of pixels. Against the region of every class that is in an image stands
    intersection over union, averaged over these classes and then over the images. Where a dataset tells no regions,
    its masks are regions of one class. Images without an object are left out and counted.

    The value depends on who picks the head, so each record holds, by ``rule``:

    - ``oracle``: for every image *and* class the best head, picked with the region at hand: the papers' rule;
    - ``mean``: the mean over the heads;
    - ``fixed``: one head for all images: ``head``, or the one that is best on one half of the images, asked about the
      other half and the other way round, so that no image takes part in the choice it is scored by. The halves are
      those of a hash of the images' ids; ``fixed_head`` names the choices. A single image has no halves, and no row;
    - ``head_averaged``: the attention averaged over the heads, before it becomes a mask.

    The same rules are asked about masks that know nothing of the object, with the same areas in each image:
    ``jaccard_random_smooth``, all masks of an image shifted together around the edges of the grid (mean over all
    shifts: area, shape, smoothness and how the heads overlap stay exactly what they were); ``jaccard_random``, their
    cells strewn at random; ``jaccard_centre``, as many cells nearest the centre. ``fixed`` chooses among these anew.
    ``jaccard_minus_chance`` is the mean difference to ``jaccard_random_smooth`` on the same images, which may be
    negative, and ``jaccard_minus_centre`` that to ``jaccard_centre``; intervals are of the differences.

    ``area``: share of the image that a mask covers. ``mass_on_object``: share of the attention that lies on any
    object, without a threshold; what it would be by chance is ``object_area``. ``jaccard_of_head`` by head.
    ``images_without_object`` counts those left out.

    ``void``: whether pixels that belong to nothing for sure (255) are left out of union and intersection, or count as
    background, as they did in the authors' code. All intervals are over images; that of ``fixed`` takes the choice of
    the head as given.
    """

    def __init__(
        self,
        *,
        token: str = "cls",  # noqa: S107  # a token of a transformer, no password
        block: int = -1,
        mass: float = 0.9,
        void: VoidRule = "ignore",
        head: int | None = None,
        examples: int = 6,
    ) -> None:
        given = AttentionSegmentationParams(
            token=token, block=block, mass=mass, void=void, head=head, examples=examples
        )
        self._params = checked(given, "attention_segmentation")
        super().__init__(
            ProbeInfo(name="attention_segmentation", headline=JACCARD, params=canonical(self._params)),
            (self._params.block,),
        )

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The attention of the block, and logits where the predicted class is asked for.

        Raises :class:`~harness.errors.CapabilityError` for a model without either.
        """
        want = super().wants(model)
        if self._params.token != PREDICTED:
            return want
        if Capability.LOGITS not in model.capabilities:
            raise CapabilityError(f"model {model.name} predicts no class", hint="name one of its tokens instead")
        return want | OutputSpec(logits=True)

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002  # there is none
        """See who asks in the block.

        Raises :class:`~harness.errors.CapabilityError` for a token that the model, or the block, has not, for a head
        that it has not, for rows that are no distributions, and for attention within windows.
        """
        info, params = context.model, self._params
        token = params.token if params.token == PREDICTED else asking_token(info, params.token)
        (block,) = require_attention(info, (params.block,))
        layout = attention_layouts(context, (block,), self.info.name)[block]
        if token == PREDICTED:
            if (layout.kind, layout.prefix, layout.queries) != ("class", 0, info.num_classes):
                raise CapabilityError(
                    f"model {info.name} has no class token for each class in block {block}",
                    hint="token=cls is the class token of models that have one",
                )
        elif not token_asks(layout, info, token):
            raise CapabilityError(
                f"model {info.name}: {token} does not attend to patches in block {block}", hint="choose another block"
            )
        if not layout.distribution:
            raise CapabilityError(
                f"model {info.name}: rows of attention in block {block} are no distributions (its heads are mixed "
                "behind the softmax), so that no patches hold a share of them",
                hint="choose another block, or a model without talking heads",
            )
        if params.head is not None and params.head >= layout.heads:
            raise CapabilityError(
                f"model {info.name} has {layout.heads} heads in block {block}, and no head {params.head}",
                hint=f"heads are numbered from 0 to {layout.heads - 1}",
            )
        return FittedAttentionSegmentation(info, params, token=token, block=block, layout=layout)


class FittedAttentionSegmentation(FittedAttention):
    """Attention of one token in one block as masks; see the probe.

    The outcomes hold a row for each of the rules that need one image alone, by ``rule``, and one for every head, as
    rule ``head``. ``mass_on_object`` of ``oracle`` is that of the head with the most, and in no record.
    """

    def __init__(
        self,
        info: ModelInfo,
        params: AttentionSegmentationParams,
        *,
        token: str,
        block: int,
        layout: AttentionLayout,
    ) -> None:
        self._info = info
        self._params = params
        self._token = token
        self._block = block
        self._layout = layout
        heads: list[dict[str, JSONScalar]] = [{"rule": "head", "head": head} for head in range(layout.heads)]
        super().__init__(
            "attention_segmentation",
            variants=[*({"rule": rule} for rule in PER_IMAGE), *heads],
            columns=dict.fromkeys(_COLUMNS, np.float64),
            shown_images=params.examples,
        )

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:  # noqa: ARG002  # of one pass
        """What every rule scores on each image, NaN for an image without an object.

        Raises :class:`~harness.errors.DataError` for a batch that tells no objects, and for attention that is not
        finite or none at all; :class:`~harness.errors.CapabilityError` where patches were dropped inside the model.
        """
        regions = batch_regions(batch)
        if regions is None:
            raise DataError(
                f"{self.name}: the dataset does not tell where the objects are",
                hint="take one with masks: shapes (exact, no download), voc (PASCAL VOC 2012), or masks (a folder of "
                "images with a folder of masks); harness show takes --mask FILE for each --image",
            )
        maps = self._maps(batch, outputs)
        grid, cells = self._layout.grid, self._layout.patches
        ties = tie_breaks(batch.ids, cells)
        sets = smallest_sets(maps, self._params.mass, ties[:, None])
        orders = random_orders(batch.ids, cells)
        values = {name: np.full((len(self.variants), len(batch)), np.nan) for name in _COLUMNS}
        best = np.full(len(batch), -1, dtype=np.int32)
        for i in range(len(batch)):
            objects = count_regions(regions[i], grid, self._params.void)
            if objects is None:
                continue
            of_sets = objects.jaccard(sets[i])
            best[i] = of_sets[:-1].mean(axis=1).argmax()
            found = {
                JACCARD: by_rule(of_sets),
                SMOOTH: moved(sets[i], objects, grid, by_rule),
                SCATTERED: scattered(sets[i], objects, orders[i], by_rule),
                CENTRE: central(sets[i], objects, grid, ties[i], by_rule),
                **_extents(sets[i], maps[i], objects, of_sets),
            }
            for name, of_image in found.items():
                values[name][:, i] = of_image
        values["half_key"][:] = rng.uniforms(0, _HALVES, batch.ids, 1)[:, 0]
        if not self.shown_images:
            return Found(values=values)
        return Found(values=values, shown=self._shown(batch, regions, maps, sets, best, values[JACCARD]))

    def _maps(self, batch: ImageBatch, outputs: ModelOutputs) -> Values:
        """Attention to the patches (N, heads + 1, cells), the last being the mean over the heads."""
        attention = outputs.attention[self._block]
        grid = patch_grid(attention, self._info)
        rows = self._predicted_rows(batch, outputs) if self._token == PREDICTED else None
        weights = token_rows(attention, self._info, self._token) if rows is None else rows
        found = as_array(weights[:, :, -grid[0] * grid[1] :])
        # Written so that NaN does not pass.
        sound = (
            np.isfinite(found).all(axis=(1, 2)) & (found >= 0).all(axis=(1, 2)) & (found.sum(axis=2) > 0).all(axis=1)
        )
        if not sound.all():
            wrong = [batch.ids[i] for i in np.flatnonzero(~sound)]
            shown = ", ".join(wrong[:_NAMED]) + (", ..." if len(wrong) > _NAMED else "")
            raise DataError(
                f"{self.name}: {self._token} gives the patches no attention in block {self._block}, or one that is no "
                f"number, for {len(wrong)} of {len(batch)} images of a batch: {shown}",
                hint="run with --precision fp32; if it persists, the weights or these images are at fault",
            )
        return np.concatenate([found, found.mean(axis=1, keepdims=True)], axis=1)

    def _predicted_rows(self, batch: ImageBatch, outputs: ModelOutputs) -> Tensor:
        logits = outputs.logits[self._info.heads[0]]
        require_finite(logits, batch.ids, source=f"{self.name}: logits")
        weights = outputs.attention[self._block].weights
        return weights[torch.arange(len(logits), device=weights.device), :, logits.argmax(dim=1)]

    def _shown(
        self,
        batch: ImageBatch,
        regions: npt.NDArray[np.uint8],
        maps: Values,
        sets: npt.NDArray[np.bool_],
        best: npt.NDArray[np.int32],
        jaccard: Values,
    ) -> dict[str, npt.NDArray[Any]]:
        """Images and regions, the mask of each image's best head, the averaged map, and what these score."""
        n, grid, images = len(batch), self._layout.grid, np.arange(len(batch))
        averaged = maps[:, -1] / maps[:, -1].sum(axis=1, keepdims=True)
        scores = np.stack([jaccard[_FIRST_HEAD + np.maximum(best, 0), images], jaccard[0], jaccard[2]], axis=1)
        return {
            "images": as_bytes(batch.images),
            "regions": regions,
            "averaged": averaged.reshape(n, *grid).astype(np.float32),
            "best_head": best,
            "best_set": sets[images, best].reshape(n, *grid),
            "scores": scores.astype(np.float32),
        }

    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:  # noqa: ARG002  # they are for pictures
        """See the probe. Raises :class:`~harness.errors.DataError` where not one image has an object."""
        seen = len(outcomes.positions)
        known = ~np.isnan(outcomes.columns[JACCARD][0])
        if not known.any():
            raise DataError(f"{self.name}: none of {seen} images has an object", hint="see to the dataset's masks")
        columns = {name: np.asarray(values, np.float64)[:, known] for name, values in outcomes.columns.items()}
        of_rules, choices = self._of_rules(columns)
        names = [rule for rule in RULES if rule in of_rules[JACCARD]]

        def measured(metric: str, of: dict[str, Values], rules: list[str], **said: Any) -> list[Measurement]:
            return mean_rows(metric, np.stack([of[rule] for rule in rules]), [{"rule": rule} for rule in rules], **said)

        jaccard = of_rules[JACCARD]
        rows = measured(JACCARD, jaccard, names)
        for baseline in BASELINES:
            rows += measured(baseline, of_rules[baseline], names, higher_is_better=None)
        for metric, baseline in ((MINUS_CHANCE, SMOOTH), (MINUS_CENTRE, CENTRE)):
            differences = {rule: jaccard[rule] - of_rules[baseline][rule] for rule in names}
            rows += measured(metric, differences, names, unit="difference")
        rows += measured("area", of_rules["area"], names, higher_is_better=None)
        unpicked = [rule for rule in names if rule != ORACLE]
        rows += measured("mass_on_object", of_rules["mass_on_object"], unpicked, higher_is_better=None)
        rows += mean_rows("object_area", columns["object_area"][:1], higher_is_better=None)
        heads: list[dict[str, JSONScalar]] = [{"head": head} for head in range(self._layout.heads)]
        rows += many_mean_rows("jaccard_of_head", columns[JACCARD][_FIRST_HEAD:], heads)
        without = int((~known).sum())
        said: dict[str, Any] = {"n": seen, "unit": "images", "higher_is_better": None}
        return [*rows, *choices, Measurement(metric="images_without_object", value=without, **said)]

    def _of_rules(self, columns: dict[str, Values]) -> tuple[dict[str, dict[str, Values]], list[Measurement]]:
        """Values (N,) by column and rule, and the heads that were chosen for the rule ``fixed``."""
        later = later_half(columns["half_key"][0])
        given, halves = self._params.head, later.any()
        found: dict[str, dict[str, Values]] = {}
        choices: list[Measurement] = []
        for name in (*_SCORES, "area", "mass_on_object"):
            found[name] = dict(zip(PER_IMAGE, columns[name], strict=False))
            heads = columns[name][_FIRST_HEAD:]
            if given is not None:
                found[name][FIXED] = heads[given]
            elif halves:
                # Baselines choose heads of their own; what is no score goes by the heads that attention chose.
                judged = heads if name in _SCORES else columns[JACCARD][_FIRST_HEAD:]
                chosen = cross_fitted(judged, later)
                found[name][FIXED] = of_fixed(heads, chosen, later)
                choices += [] if name != JACCARD else _choices(chosen, later)
        return found, choices


def _choices(chosen: tuple[int, int], later: npt.NDArray[np.bool_]) -> list[Measurement]:
    """Which head each half of the images was asked with; ``n`` are the images that chose it."""
    counts = (int(later.sum()), int((~later).sum()))
    said: dict[str, Any] = {"unit": "head", "higher_is_better": None}
    return [
        Measurement(metric="fixed_head", dims={"half": half}, value=head, n=n, **said)
        for half, (head, n) in enumerate(zip(chosen, counts, strict=True), start=1)
    ]


def _extents(
    sets: npt.NDArray[np.bool_], maps: Values, objects: ObjectRegions, of_sets: Values
) -> dict[str, Values | float]:
    """Areas and masses of the rules and heads of one image; the oracle's area is that of the heads it picks."""
    areas, mass = objects.area(sets), objects.mass_on_object(maps)
    picked = areas[:-1][of_sets[:-1].argmax(axis=0)].mean()
    return {
        "area": np.array([picked, areas[:-1].mean(), areas[-1], *areas[:-1]]),
        "mass_on_object": np.array([mass[:-1].max(), mass[:-1].mean(), mass[-1], *mass[:-1]]),
        "object_area": objects.object_area,
    }
