"""The map by which a class token gathers the patches last, of the image or of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import CapabilityError
from harness.metrics import require_finite
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness.types import Capability, OutputSpec
from harness_inspect.attention_pool_maps import AttentionPoolMapsParams
from harness_inspect.attention_probe import AttentionProbe, FittedAttention
from harness_inspect.attention_weights import attention_layouts, patch_grid, require_attention, token_asks, token_rows
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
    from collections.abc import Sequence

    import numpy.typing as npt

    from harness.protocols import Outcomes
    from harness.types import FeatureTable, ImageBatch, JSONScalar, Measurement, ModelInfo, ModelOutputs
    from harness_inspect.attention_weights import AttentionLayout
    from harness_inspect.inspection import Arrays

IMAGE = "image"
"""(K, 3, H, W) uint8: images that are shown, as the model was asked about them."""
MAP = "map"
"""(K, rows, columns) float32 of those, and (rows, columns) over all images: the map, or that of the predicted class."""
CLASS_MAPS = "class_maps"
"""(K, M, rows, columns) float32: of a model with a map for each class those of ``classes``."""
CLASSES = "classes"
"""(K, M) int64: the classes whose maps are shown, that of the image first if the model has it; else the predicted one.

-1 where a model predicts none.
"""
PROBABILITIES = "probabilities"
"""(K, M) float32: softmax of the logits at these classes, NaN where there are none."""
NAMES = "names"
"""(K, M, 40) uint8: what these classes are called, in UTF-8, filled up with zeros."""
LABEL_NAMES = "label_names"
"""(K, 40) uint8: what the class of the image is called."""

_NAME_BYTES = 40


class AttentionPoolMapsProbe(AttentionProbe):
    """Attention of the class token to the patches in the last block that has attention, averaged over heads.

    Touvron et al., "Augmenting Convolutional Networks with Attention-based Aggregation" (arXiv 2112.13692), sections
    3.2 and 3.3: a network whose class token gathers the patches in one block of one head shows what it goes by in a
    single map, the row of the softmax over the patches; with a class token for each class there is a map of each.
    Class blocks of other networks (attention pooling behind a ResNet, CaiT, XCiT) count likewise; of a transformer
    whose tokens all attend it is the class token's row of the last block. A model without class tokens is refused.

    Of a map for each class those of the ``classes`` of the highest logits are shown, and that of the image's own class,
    and the predicted and the own one are measured as ``map=predicted`` and ``map=true``; where model and dataset do
    not share their labels no map is that of the image's class, and ``true`` is left out.

    Measured on maps divided by their sum over the patches: ``pool_entropy`` in bits; ``effective_patches``, 2 to that
    power, from 1 to the number of patches, and ``effective_share``, of that number; where images come with masks
    ``pool_on_object``, the share on the object, beside its area ``object_area`` and ``pool_object_lift``, the ratio of
    the two means; ``special_token_mass``, what goes to class tokens and is no part of the map, where they are keys;
    and with a map for each class ``class_map_distance``, the total variation distance (half the sum of absolute
    differences, in [0, 1]) to the mean map of all classes.
    """

    def __init__(self, *, classes: int = 3, examples: int = 6) -> None:
        self._params = checked(AttentionPoolMapsParams(classes=classes, examples=examples), "attention_pool_maps")
        super().__init__(
            ProbeInfo(name="attention_pool_maps", headline="effective_patches", params=canonical(self._params))
        )

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The attention of the last block that has any, and the logits where there are some.

        Raises :class:`~harness.errors.CapabilityError` for a model without attention.
        """
        last = max(require_attention(model))
        return OutputSpec(attention=frozenset({last}), logits=Capability.LOGITS in model.capabilities)

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002  # there is none
        """See who asks in the last block, and what the classes are called.

        Raises :class:`~harness.errors.CapabilityError` for a model whose class tokens do not ask there.
        """
        info = context.model
        last = max(require_attention(info))
        layout = attention_layouts(context, [last], self.info.name)[last]
        per_class = layout.kind == "class" and not info.prefix and layout.queries == info.num_classes
        if not per_class and not ("cls" in info.prefix and token_asks(layout, info, "cls") and layout.distribution):
            raise CapabilityError(
                f"model {info.name}: no class token gathers the patches in its last block of attention, {last}",
                hint="take a PatchConvNet, a CaiT, or a transformer with a class token",
            )
        if per_class and not info.heads:
            raise CapabilityError(f"model {info.name} has a map for each class, but no logits that say which to show")
        # Two spaces without a name may be anything.
        shared = info.label_space == context.label_space is not None and info.num_classes == len(context.classes)
        return FittedPoolMaps(
            info, last, layout, self._params, per_class=per_class, shared=shared, labels=tuple(context.classes)
        )


class FittedPoolMaps(FittedAttention):
    """Maps of block ``last`` of a model; ``labels``: the dataset's classes, ``shared`` with the model or not."""

    def __init__(
        self,
        info: ModelInfo,
        last: int,
        layout: AttentionLayout,
        params: AttentionPoolMapsParams,
        *,
        per_class: bool,
        shared: bool,
        labels: tuple[str, ...],
    ) -> None:
        self._info = info
        self._last = last
        self._layout = layout
        self._params = params
        self._per_class = per_class
        self._shared = shared
        self._labels = labels
        kinds = ("predicted", "true") if shared else ("predicted",)
        variants: list[dict[str, JSONScalar]] = [{"map": kind} for kind in kinds] if per_class else [{}]
        columns = ["entropy_bits", "on_object", "object_area"]
        columns += ["class_map_distance"] if per_class else ["special_token_mass"]
        super().__init__(
            "attention_pool_maps",
            variants=variants,
            columns=dict.fromkeys(columns, np.float32),
            shown_images=params.examples,
        )

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:  # noqa: ARG002  # of one pass
        """Maps and their numbers.

        Raises :class:`~harness.errors.CapabilityError` where patches were dropped inside the model, and
        :class:`~harness.errors.DataError` for attention or logits that are not finite.
        """
        order, probabilities = self._ranked(batch, outputs)
        labels = batch.labels.cpu().numpy()
        attention, images = outputs.attention[self._last], np.arange(len(batch))
        values: dict[str, npt.NDArray[np.float64]] = {}
        shown: dict[str, npt.NDArray[Any]] = {}
        patch_grid(attention, self._info)
        if self._per_class:
            rows = mean_of_heads(attention.weights)
            rows = rows / rows.sum(dim=-1, keepdim=True)
            require_finite(rows, batch.ids, source=f"{self.name} on {self._info.name}")
            of_all = as_array(rows)
            top = order[:, : self._params.classes]
            chosen = np.concatenate([labels[:, None], top], axis=1) if self._shared else top
            measured = np.stack([order[:, 0], labels][: len(self.variants)], axis=1)
            maps = of_all[images[:, None], measured]
            values["class_map_distance"] = np.abs(maps - of_all.mean(axis=1, keepdims=True)).sum(axis=-1) / 2
            shown[CLASS_MAPS] = self._on_grid(of_all[images[:, None], chosen]).astype(np.float32)
        else:
            chosen = order[:, :1]
            row = mean_of_heads(token_rows(attention, self._info, "cls"))
            of_patches, special = split_row(row, self._layout.patches)
            require_finite(of_patches, batch.ids, source=f"{self.name} on {self._info.name}")
            maps = as_array(of_patches)[:, None]
            values["special_token_mass"] = as_array(special)[:, None]
        values["entropy_bits"] = entropy_bits(maps)
        values["on_object"], area = on_object(maps, batch.masks, self._layout.grid)
        values["object_area"] = np.repeat(area[:, None], maps.shape[1], axis=1)
        predicted = self._on_grid(maps[:, 0])
        # Without logits there is one column of -1, whose probability is not a number.
        known = np.take_along_axis(probabilities, np.maximum(chosen, 0), axis=1)
        shown |= {
            IMAGE: as_bytes(batch.images),
            MAP: predicted.astype(np.float32),
            CLASSES: chosen,
            PROBABILITIES: known.astype(np.float32),
            NAMES: np.stack([encoded([self._name(c) for c in classes]) for classes in chosen.tolist()]),
            LABEL_NAMES: encoded([self._labels[label] for label in labels.tolist()]),
        }
        return Found(values={name: column.T for name, column in values.items()}, maps={MAP: predicted}, shown=shown)

    def _ranked(
        self, batch: ImageBatch, outputs: ModelOutputs
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Classes (N, C) by falling logit, the first of equal ones first, and the softmax (N, C) in their own order."""
        if not self._info.heads:
            return np.full((len(batch), 1), -1), np.full((len(batch), 1), np.nan)
        logits = exact(outputs.logits[self._info.heads[0]])
        require_finite(logits, batch.ids, source=f"logits of {self._info.name}")
        order = logits.sort(dim=1, descending=True, stable=True).indices
        return order.cpu().numpy(), as_array(logits.softmax(dim=1))

    def _on_grid(self, maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return maps.reshape(*maps.shape[:-1], *self._layout.grid)

    def _name(self, number: int) -> str:
        if number < 0:
            return ""
        return self._labels[number] if self._shared else f"class {number}"

    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:  # noqa: ARG002  # numbers are of the images
        """See the probe."""
        columns, dims = outcomes.columns, outcomes.variants
        entropy = columns["entropy_bits"].astype(np.float64)
        patches, plain = 2.0**entropy, {"higher_is_better": None}
        rows = mean_rows("effective_patches", patches, dims, unit="patches", **plain)
        rows += mean_rows("effective_share", patches / self._layout.patches, dims, **plain)
        rows += mean_rows("pool_entropy", entropy, dims, unit="bits", **plain)
        rows += object_rows("pool", columns["on_object"], columns["object_area"], dims)
        if self._per_class:
            rows += mean_rows("class_map_distance", columns["class_map_distance"], dims, **plain)
        elif self._layout.prefix:
            rows += mean_rows("special_token_mass", columns["special_token_mass"], dims, **plain)
        return rows


def encoded(names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Names (K,) as bytes (K, 40) of UTF-8, cut between two letters where they are longer."""
    found = np.zeros((len(names), _NAME_BYTES), np.uint8)
    for row, name in zip(found, names, strict=True):
        cut = name.encode("utf-8", "replace")[:_NAME_BYTES].decode("utf-8", "ignore").encode()
        row[: len(cut)] = np.frombuffer(cut, np.uint8)
    return found


def decoded(name: npt.NDArray[np.uint8]) -> str:
    """A name from its bytes (40,)."""
    return name.tobytes().rstrip(b"\0").decode()
