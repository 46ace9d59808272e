"""How much of an image's features a perturbation leaves: Naseer et al. (arXiv 2105.10497), section 3.1 and table 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness import stats
from harness.errors import DataError
from harness.features import extract, require_features
from harness.params import canonical, checked
from harness.protocols import FittedProbe, Outcomes, Probe, ProbeContext, ProbeInfo, ProbeRun
from harness.token_ensemble import TokenEnsemble
from harness.types import FeatureSpec, FeatureTable, ImageBatch, Measurement, ModelInfo, ModelOutputs, OutputSpec
from harness_inspect.class_groups import read_groups
from harness_inspect.correlation import Axis, By, CorrelationParams
from harness_inspect.inspection import MEAN, Found, InspectionRun
from harness_inspect.pearson import CORRELATIONS, Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from harness_inspect.inspection import Arrays

    Values = npt.NDArray[np.float64]

# Sums over the images are kept to 2**-32 of numbers below 2**11: standardised features may be large.
_SCALE = 2.0**-7
_STILL = 1e-3
"""Deviation of a dimension over the images, relative to the largest of all, below which it says nothing."""

_FARTHEST = 32.0
"""Size of a standardised and scaled feature from which on its square would outgrow what sums can hold."""

_FLAT = 4e-3
"""Deviation of a standardised dimension under a perturbation below which the sums, as they are kept, say nothing."""


class CorrelationProbe(Probe):
    """Pearson correlation (population deviation) of the features of an image and of its perturbed self.

    ``axis="per_image"`` (the reading that fits the published deviations): over the D dimensions of a vector, then the
    mean and deviation over the images. ``axis="per_dim"``: over the images for each dimension, then over dimensions.
    Features of untrained networks correlate highly, too: so each number stands beside its floor, the correlation of an
    image's perturbed features with the *clean features of other images*, and beside what is left of both once the mean
    clean features of the dataset are taken away. The reference for both is drawn from the images that are asked about.
    """

    def __init__(
        self,
        *,
        features: str = "pooled",
        axis: Axis = "per_image",
        by: By = "none",
        groups: str | None = None,
        groups_sha256: str | None = None,
        reference_images: int = 2048,
    ) -> None:
        params = CorrelationParams(
            features=features,
            axis=axis,
            by=by,
            groups=groups,
            groups_sha256=groups_sha256,
            reference_images=reference_images,
        )
        self._params = checked(params, "correlation")
        self._ensemble = TokenEnsemble.parse(self._params.features)
        self._info = ProbeInfo(
            name="correlation",
            compares=True,
            reference=True,
            headline="correlation",
            params=canonical(self._params),
        )

    @property
    def info(self) -> ProbeInfo:
        """Its card."""
        return self._info

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The features. Raises :class:`~harness.errors.CapabilityError` for a model without them."""
        return self.features(model).outputs(model.num_blocks)

    def features(self, model: ModelInfo) -> FeatureSpec:
        """The vector. Raises :class:`~harness.errors.CapabilityError` for a model without it."""
        spec = self._ensemble.spec(model)
        require_features(spec, model)
        return spec

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:  # noqa: ARG002  # the contract's
        """At most ``reference_images`` of the images, evenly spaced."""
        count = min(len(labels), self._params.reference_images)
        return np.arange(count, dtype=np.int64) * len(labels) // max(1, count)

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:
        """Means and sums of the reference.

        Raises :class:`~harness.errors.DataError` for no or infinite features, and for groups that leave a class out.
        """
        if support is None or not len(support):
            raise DataError("correlation: there is no image to take a mean over", hint="give it images to look at")
        x = np.asarray(support.x, dtype=np.float64)
        if not np.isfinite(x).all():
            raise DataError(
                f"correlation: features of {context.model.name} that are not finite", hint="try --precision fp32"
            )
        groups = None if self._params.groups is None else read_groups(self._params.groups, context.classes)
        if self._params.by == "class":
            groups = {name: name for name in context.classes}
        names = tuple(dict.fromkeys(groups.values())) if groups else ()
        return FittedCorrelation(
            model=context.model,
            spec=support.spec,
            reference=Reference.of(x, support.ids),
            deviation=x.std(axis=0) if self._params.axis == "per_dim" else None,
            groups=names,
            group_of_label=np.array(
                [names.index(groups[name]) for name in context.classes] if groups else [], np.int64
            ),
            by=self._params.by,
        )


class FittedCorrelation(FittedProbe):
    """The ``reference``: its mean, and the images that others are paired with.

    ``deviation`` (D,): for correlations over the images, None for those over dimensions. ``group_of_label``: for each
    class the place of its group in ``groups``.
    """

    name = "correlation"
    variants: tuple[Mapping[str, str], ...] = ({},)
    shown_images = 0

    def __init__(
        self,
        *,
        model: ModelInfo,
        spec: FeatureSpec,
        reference: Reference,
        deviation: Values | None,
        groups: Sequence[str],
        group_of_label: npt.NDArray[np.int64],
        by: By,
    ) -> None:
        self._model = model
        self._spec = spec
        self._reference = reference
        self._varies = None if deviation is None else deviation > _STILL * max(float(deviation.max()), 1e-300)
        self._deviation = None if deviation is None or self._varies is None else np.where(self._varies, deviation, 1.0)
        self._groups, self._group_of_label, self._by = tuple(groups), group_of_label, by
        self.columns: dict[str, npt.DTypeLike] = dict.fromkeys(CORRELATIONS, np.float32)
        if groups:
            self.columns["group"] = np.int32

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return InspectionRun(self)

    def scores(self, outputs: ModelOutputs) -> None:
        """None: it scores nothing."""

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:
        """The four correlations of every image; NaN where its features are constant.

        Raises :class:`~harness.errors.DataError` for features that are not finite.
        """
        assert clean is not None, "the engine gives the clean outputs to probes that compare"
        before, after = self._vectors(clean, batch.ids), self._vectors(outputs, batch.ids)
        values = self._reference.correlations(after, before, batch.ids)
        columns = {name: values[name][None].astype(np.float32) for name in CORRELATIONS}
        if self._groups:
            columns["group"] = self._group_of_label[batch.labels.cpu().numpy()][None].astype(np.int32)
        return Found(values=columns, maps=self._sums(before, after))

    def _vectors(self, outputs: ModelOutputs, ids: Sequence[str]) -> Values:
        found: Values = extract(outputs, self._spec, self._model).cpu().double().numpy()
        if not (finite := np.isfinite(found).all(axis=1)).all():
            raise DataError(
                f"correlation: features of {self._model.name} for image {ids[int(finite.argmin())]} are not finite",
                hint="try --precision fp32",
            )
        return found

    def _sums(self, before: Values, after: Values) -> Arrays:
        if self._deviation is None:
            return {}
        u, v = ((x - self._reference.mean) / self._deviation * _SCALE for x in (before, after))
        # A unit that hardly ever fires on clean images may fire under a perturbation, thousands of its deviations away.
        beyond = np.maximum(np.abs(u), np.abs(v)) >= _FARTHEST
        u, v = np.where(beyond, 0.0, u), np.where(beyond, 0.0, v)
        return {"u": u, "v": v, "uu": u * u, "vv": v * v, "uv": u * v, "beyond": beyond.astype(np.float64)}

    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:
        """Each of the four as a mean with its interval and as deviation (``_sd``), over images or over dimensions.

        ``undefined``: how many images, or dimensions, have no correlation, as their features do not vary; of dimensions
        also those that hardly vary on clean images and leap under the perturbation, by more than 4096 deviations. They
        are in no mean; without any other there is no row but this.
        """
        if self._varies is not None:
            return self._over_images(arrays, len(outcomes.positions))
        columns = {name: outcomes.columns[name][0].astype(np.float64) for name in CORRELATIONS}
        rows = _rows(columns, counted="images")
        if self._groups:
            groups, dim = outcomes.columns["group"][0], "class" if self._by == "class" else "group"
            for place, name in enumerate(self._groups):
                mine = {kind: values[groups == place] for kind, values in columns.items()}
                if len(mine["correlation"]):
                    rows += _rows(mine, counted="images", dims={dim: name}, suffix=f"_of_{dim}")
        return rows

    def _over_images(self, arrays: Arrays, images: int) -> list[Measurement]:
        """Of every dimension the correlation over the images; that of all mismatched pairs follows from it exactly."""
        assert self._varies is not None
        u, v, uu, vv, uv = (arrays[f"{MEAN}{name}"] for name in ("u", "v", "uu", "vv", "uv"))
        spreads = [np.maximum(uu - u * u, 0), np.maximum(vv - v * v, 0)]
        defined = self._varies & (np.minimum(*spreads) > (_SCALE * _FLAT) ** 2) & (arrays[f"{MEAN}beyond"] == 0)
        spread = np.sqrt(spreads[0] * spreads[1])
        found = np.where(defined, (uv - u * v) / np.where(defined, spread, 1.0), np.nan)
        # Over images a mean that is common to all changes nothing, and pairs of different images, all taken together,
        # correlate as much less than zero as those of the same image do more, divided among N - 1 partners.
        floor = -found / (images - 1) if images > 1 else np.full_like(found, np.nan)
        values = {"correlation": found, "correlation_centred": found}
        values |= {"correlation_floor": floor, "correlation_centred_floor": floor}
        return _rows(values, counted="dimensions")


def _rows(
    values: Mapping[str, Values], *, counted: str, dims: Mapping[str, str] | None = None, suffix: str = ""
) -> list[Measurement]:
    rows = []
    for kind, column in values.items():
        defined = column[~np.isnan(column)]
        if not len(defined):
            continue
        # Dimensions of one vector are no sample of anything: their mean has no interval.
        interval = stats.bootstrap_mean(defined) if len(defined) > 1 and counted == "images" else None
        better = True if kind in ("correlation", "correlation_centred") else None
        rows.append(
            Measurement(
                metric=f"{kind}{suffix}",
                dims=dims or {},
                value=float(defined.mean()),
                low=None if interval is None else interval.low,
                high=None if interval is None else interval.high,
                interval=None if interval is None else interval.method,
                n=len(defined),
                unit="correlation",
                counted=counted,
                higher_is_better=better,
            )
        )
        rows.append(
            Measurement(
                metric=f"{kind}_sd{suffix}",
                dims=dims or {},
                value=float(defined.std()),
                n=len(defined),
                unit="correlation",
                counted=counted,
                higher_is_better=None,
            )
        )
    undefined = int(np.isnan(values["correlation"]).sum())
    if undefined or not rows:
        rows.append(
            Measurement(
                metric=f"undefined{suffix}",
                dims=dims or {},
                value=undefined,
                n=len(values["correlation"]),
                unit=counted,
                counted=counted,
                higher_is_better=None,
            )
        )
    return rows
