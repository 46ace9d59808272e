"""Layer by occlusion: what the features of every block keep of the clean image, and of its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness import metrics, rng
from harness.errors import CapabilityError, DataError, HarnessError
from harness.features import extract, require_features
from harness.params import canonical, checked
from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeInfo, ProbeRun
from harness.stats import chance_corrected, resampled_means
from harness.types import FeatureSpec, Measurement
from harness_inspect.inspection import Found, InspectionRun
from harness_inspect.layer_occlusion import LayerOcclusionParams
from harness_inspect.layer_occlusion_block import FittedBlock, fit_block
from harness_inspect.map_numbers import as_array, exact
from harness_inspect.pearson import CORRELATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from harness.protocols import Outcomes
    from harness.types import FeatureTable, ImageBatch, JSONScalar, ModelInfo, ModelOutputs, OutputSpec
    from harness_inspect.attention_weights import BlockChoice
    from harness_inspect.inspection import Arrays
    from harness_inspect.layer_occlusion import Tokens

    Floats = npt.NDArray[np.float64]

_STREAM = "inspect.layer_occlusion.support"
_ENDS = (0.025, 0.975)


class LayerOcclusionProbe(Probe):
    """Where in depth a representation stops surviving a perturbation, such as occlusion: the same questions per block.

    The features of a block are the mean of its patch tokens (of a CNN, the pooled map of a stage), the one vector that
    every backbone has, or with ``tokens="cls"`` its class token. ``norm`` sends tokens through the final norm first,
    as the token ensembles of Naseer et al., "Intriguing Properties of Vision Transformers" (NeurIPS 2021), do with
    every block; that norm is made for the last block, but takes from all of them the few tokens of large norm that
    would decide the mean.

    **Few-shot accuracy.** For every block a ridge regression to targets of +1 and -1 on standardised features
    (google-research/big_vision, ``evaluators/fewshot_lsr.py``) of ``shots`` support images per class. The intercept
    is not penalised, and the penalty is ``ridge_per_dimension`` times the block's width, so that saying everything
    several times changes nothing. The very same classifiers answer for the clean images.

    **Correlation** of a block's features u of the clean image and v of the perturbed one: Pearson over dimensions, the
    mean of (u - E u) / std(u) times (v - E v) / std(v) (the same paper, table 1), and the mean of that over images. It
    reads high for any two images, even of networks that were never trained, so it comes with its floor: the mean
    correlation of v with the features of all support images, which are others. ``correlation_centred`` is that of
    u - m and v - m, with m the mean of the support images: what tells an image from others. Images whose features do
    not vary over their dimensions have no correlation; they are left out, and ``undefined`` counts them.

    Measured: ``accuracy``, few-shot, of the last block chosen, and ``chance``; ``depth_gain``, centred correlation of
    the last block less that of the first; and by ``block``: ``accuracy_of_block`` and ``clean_accuracy_of_block``,
    ``retention_chance_corrected``, (accuracy - chance) / (clean accuracy - chance), where the clean one is above chance
    in every resample; ``correlation``, ``correlation_centred``, and the floors of both. Wilson intervals of accuracies,
    of all else bootstraps over images.
    """

    def __init__(
        self,
        *,
        tokens: Tokens = "patches",
        norm: bool = True,
        blocks: BlockChoice = "all",
        shots: int = 10,
        ridge_per_dimension: float = 1.0,
    ) -> None:
        params = LayerOcclusionParams(
            tokens=tokens, norm=norm, blocks=blocks, shots=shots, ridge_per_dimension=ridge_per_dimension
        )
        self._params = checked(params, "layer_occlusion")

    @property
    def info(self) -> ProbeInfo:
        """Its card."""
        return ProbeInfo(name="layer_occlusion", learns=True, compares=True, params=canonical(self._params))

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The tokens of the blocks chosen. Raises :class:`~harness.errors.CapabilityError` as :meth:`features` does."""
        return self.features(model).outputs(model.num_blocks)

    def features(self, model: ModelInfo) -> FeatureSpec:
        """The vectors of the blocks chosen, one after the other by rising block.

        Raises :class:`~harness.errors.CapabilityError` for a model without tokens, without a class token where that is
        asked for, or without a block.
        """
        given = self._params.blocks
        chosen = tuple(range(model.num_blocks)) if given == "all" else given
        tokens: dict[str, Any] = {"mean_patch": "each"} if self._params.tokens == "patches" else {"prefix": ("cls",)}
        spec = FeatureSpec(blocks=chosen, norm=self._params.norm, **tokens)
        require_features(spec, model)
        return FeatureSpec(
            blocks=tuple(sorted(spec.resolve_blocks(model.num_blocks))), norm=self._params.norm, **tokens
        )

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """``shots`` images of every class, or all of one that has fewer; drawn by ``seed``, nested in ``shots``.

        One random order of the split serves all classes, so that nothing depends on what they are called.
        """
        if not len(labels):
            return np.empty(0, np.int64)
        order = rng.permutations(seed, _STREAM, ["split"], len(labels))[0]
        by_class = order[np.argsort(labels[order], kind="stable")]
        _, firsts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
        rank = np.arange(len(labels)) - np.repeat(firsts, sizes)
        return np.sort(by_class[rank < self._params.shots]).astype(np.int64)

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """A classifier per block, and what correlations are read against, in float64.

        The model is asked about one black image, to learn how wide its blocks are. Raises
        :class:`~harness.errors.HarnessError` for a table of another vector, :class:`~harness.errors.DataError` for an
        empty one, labels outside the dataset's classes or features that are not finite, and
        :class:`~harness.errors.CapabilityError` where widths cannot be known, or a block lacks a class token.
        """
        info, spec = context.model, self.features(context.model)
        if support is None or support.spec != spec:
            raise HarnessError(f"layer_occlusion: fit needs support features of its own spec, {spec}")
        if not len(support):
            raise DataError("layer_occlusion: the support split is empty", hint="check the dataset's support split")
        if not 0 <= support.y.min() <= support.y.max() < len(context.classes):
            raise DataError(
                f"layer_occlusion: support labels reach from {support.y.min()} to {support.y.max()}, the dataset has "
                f"{len(context.classes)} classes"
            )
        learned = np.unique(support.y)
        targets = np.where(support.y[:, None] == learned, 1.0, -1.0)
        blocks, start = {}, 0
        for block, width in zip(spec.blocks, _widths(support, spec, context), strict=True):
            part = slice(start, start + width)
            x = np.asarray(support.x[:, part]).astype(np.float64)
            if not np.isfinite(x).all():
                raise DataError(
                    f"layer_occlusion: NaN or infinite features of block {block} of {info.name} for support images",
                    hint="run with --precision fp32; if it persists, the weights or these images are at fault",
                )
            blocks[block] = fit_block(
                x, targets, support.ids, part=part, ridge_per_dimension=self._params.ridge_per_dimension
            )
            start += width
        return FittedLayerOcclusion(model=info, spec=spec, classes=context.classes, learned=learned, blocks=blocks)


def _widths(support: FeatureTable, spec: FeatureSpec, context: ProbeContext) -> tuple[int, ...]:
    """How many of the table's columns belong to each block.

    All blocks are several times as wide as the model says where features are duplicated, as a control.
    """
    info, columns = context.model, support.x.shape[1]
    if context.network is None:
        widths = [info.embed_dim] * len(spec.blocks)
    else:
        black = torch.zeros(1, 3, info.input_size, info.input_size, device=context.device)
        with torch.no_grad():
            outputs = context.network.outputs(black, spec.outputs(info.num_blocks))
        given = outputs.normed_tokens if spec.norm else outputs.tokens
        widths = [given[block].patches.shape[2] for block in spec.blocks]
    copies, rest = divmod(columns, sum(widths))
    if rest:
        if context.network is None:
            raise CapabilityError(
                "probe layer_occlusion must ask the model how wide its blocks are, and was given its card alone"
            )
        raise HarnessError(
            f"layer_occlusion: support features of {columns} numbers are not those of blocks {widths} wide"
        )
    return tuple(width * copies for width in widths)


class FittedLayerOcclusion(FittedProbe):
    """The ``blocks`` of a model with their classifiers of the labels ``learned`` (L,), rising."""

    name = "layer_occlusion"
    shown_images = 0

    def __init__(
        self,
        *,
        model: ModelInfo,
        spec: FeatureSpec,
        classes: Sequence[str],
        learned: npt.NDArray[np.int64],
        blocks: Mapping[int, FittedBlock],
    ) -> None:
        self._model = model
        self._spec = spec
        self._classes = tuple(classes)
        self._learned = learned
        self._blocks = dict(blocks)
        self._on_device: dict[torch.device, dict[int, FittedBlock]] = {}
        self.variants: tuple[Mapping[str, JSONScalar], ...] = tuple({"block": block} for block in blocks)
        self.columns: Mapping[str, npt.DTypeLike] = {
            "prediction": np.int32,
            "correct": np.bool_,
            "clean_correct": np.bool_,
            **dict.fromkeys(CORRELATIONS, np.float32),
        }

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return InspectionRun(self)

    def scores(self, outputs: ModelOutputs) -> None:
        """None: there is a classifier for every block."""

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:
        """Predictions and correlations of every block; NaN for vectors that do not vary.

        Raises :class:`~harness.errors.DataError` for features that are not finite and for images of a class that had
        no support images, and :class:`~harness.errors.HarnessError` without the outputs of the clean images.
        """
        if clean is None:
            raise HarnessError("layer_occlusion compares with clean images, and was given no outputs of theirs")
        labels = batch.labels.cpu().numpy()
        self._require_learned(batch, labels)
        perturbed, unperturbed = self._features(batch, outputs), self._features(batch, clean)
        device = perturbed.device
        if device not in self._on_device:
            self._on_device[device] = {block: fitted.to(device) for block, fitted in self._blocks.items()}
        columns: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in self.columns}
        for fitted in self._on_device[device].values():
            x, u = perturbed[:, fitted.part], unperturbed[:, fitted.part]
            prediction = self._learned[fitted.predict(x)]
            columns["prediction"].append(prediction.astype(np.int32))
            columns["correct"].append(prediction == labels)
            columns["clean_correct"].append(self._learned[fitted.predict(u)] == labels)
            for name, values in fitted.reference.correlations(as_array(x), as_array(u), batch.ids).items():
                columns[name].append(values.astype(np.float32))
        return Found(values={name: np.stack(rows) for name, rows in columns.items()})

    def _features(self, batch: ImageBatch, outputs: ModelOutputs) -> Tensor:
        x = extract(outputs, self._spec, self._model)
        metrics.require_finite(x, batch.ids, source=f"{self.name}: features of {self._model.name}")
        return exact(x.cpu() if x.device.type == "mps" else x)

    def _require_learned(self, batch: ImageBatch, labels: npt.NDArray[np.int64]) -> None:
        unknown = np.flatnonzero(~np.isin(labels, self._learned))
        if len(unknown):
            label = int(labels[unknown[0]])
            raise DataError(
                f"{self.name}: image {batch.ids[int(unknown[0])]} is of class {self._classes[label]} (label {label}), "
                "which has no support images",
                hint="give every class images in the support split, or leave the class out of the query split",
            )

    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:  # noqa: ARG002  # there are none
        """See the probe."""
        columns, chance = outcomes.columns, 1 / len(self._learned)
        correct, clean = columns["correct"], columns["clean_correct"]
        n = len(outcomes.positions)
        rows = [
            metrics.accuracy_measurement(correct[-1], metric="accuracy"),
            Measurement(metric="chance", value=chance, n=n, higher_is_better=None),
        ]
        if len(self._blocks) > 1:
            centred = columns["correlation_centred"].astype(np.float64)
            rows += _mean_rows("depth_gain", centred[-1:] - centred[:1], [{}])
        for metric, found in (("accuracy_of_block", correct), ("clean_accuracy_of_block", clean)):
            rows += [
                metrics.accuracy_measurement(of_block, metric=metric, dims=dims)
                for of_block, dims in zip(found, self.variants, strict=True)
            ]
        rows += _retention_rows(correct, clean, chance, self.variants)
        for metric in CORRELATIONS:
            better = None if metric.endswith("floor") else True
            rows += _mean_rows(metric, columns[metric].astype(np.float64), self.variants, better)
        undefined = np.isnan(columns["correlation"]).sum(axis=1).tolist()
        rows += [
            Measurement(metric="undefined", value=count, n=n, dims=dims, unit="images", higher_is_better=None)
            for count, dims in zip(undefined, self.variants, strict=True)
            if count
        ]
        return rows


def _mean_rows(
    metric: str, values: Floats, dims: Sequence[Mapping[str, JSONScalar]], higher_is_better: bool | None = True
) -> list[Measurement]:
    """Mean correlations of the rows of ``values`` (R, N), over the images that have one, with bootstrap intervals."""
    # In one layout, so that sums do not depend on how rows were put in order.
    values = np.ascontiguousarray(values)
    known = ~np.isnan(values)
    ends = np.full((len(values), 2), np.nan)
    if (whole := known.all(axis=1)).any():
        ends[whole] = np.quantile(resampled_means(values[whole]), _ENDS, axis=0).T
    for row in np.flatnonzero(known.any(axis=1) & ~whole):
        ends[row] = np.quantile(resampled_means(values[row : row + 1, known[row]]), _ENDS)
    return [
        _measured(metric, float(row[mine].mean()), (low, high), int(mine.sum()), d, "correlation", higher_is_better)
        for row, mine, (low, high), d in zip(values, known, ends.tolist(), dims, strict=True)
        if mine.any()
    ]


def _retention_rows(
    correct: npt.NDArray[np.bool_],
    clean: npt.NDArray[np.bool_],
    chance: float,
    dims: Sequence[Mapping[str, JSONScalar]],
) -> list[Measurement]:
    """Accuracy above chance over clean accuracy above chance, (B, N) each; both of the same resampled images."""
    n = correct.shape[1]
    # Chance is taken off behind the means: those of zeros and ones are the same in any order of the images.
    drawn = resampled_means(np.concatenate([correct, clean])) - chance
    hits, clean_hits = (np.count_nonzero(found, axis=1).tolist() for found in (correct, clean))
    rows = []
    for block, d in enumerate(dims):
        above, below = drawn[:, block], drawn[:, len(correct) + block]
        if clean_hits[block] / n > chance and (below > 0).all():
            low, high = np.quantile(above / below, _ENDS).tolist()
            value = chance_corrected(hits[block] / n, clean_hits[block] / n, chance)
            rows.append(_measured("retention_chance_corrected", value, (low, high), n, d, ""))
    return rows


def _measured(
    metric: str,
    value: float,
    ends: tuple[float, float],
    n: int,
    dims: Mapping[str, JSONScalar],
    unit: str,
    higher_is_better: bool | None = True,
) -> Measurement:
    """An interval holds its mean but for rounding, which equal values of all images would show; one image has none."""
    return Measurement(
        metric=metric,
        value=value,
        n=n,
        dims=dims,
        low=min(ends[0], value) if n > 1 else None,
        high=max(ends[1], value) if n > 1 else None,
        interval="bootstrap95" if n > 1 else None,
        unit=unit,
        higher_is_better=higher_is_better,
    )
