"""Shape bias: of the decisions on images of two conflicting cues that follow one of them, how many follow the shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness import stats
from harness.errors import DataError, ParameterError
from harness.types import JSONScalar, Measurement

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.stats import Interval

NONE = -1
"""Of an image: it has no shape, or no texture, of any class. Of a decision: no class was named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CueDecisions:
    """N decisions on images whose shape and texture are those of classes.

    ``shape``, ``texture`` and ``named``: (N,) int64, numbers of ``classes`` or -1 for none. ``images``: (N,) int64,
    which image each decision is about, where several observers, or one of them repeatedly, decided on the same images;
    None where each decision is about an image of its own.
    """

    classes: tuple[str, ...]
    shape: npt.NDArray[np.int64]
    texture: npt.NDArray[np.int64]
    named: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        given = {"shape": self.shape, "texture": self.texture, "named": self.named}
        if self.images is not None and len(self.images) != len(self.shape):
            raise ParameterError(f"decisions: {len(self.shape)} shapes, but {len(self.images)} images")
        for name, values in given.items():
            if values.shape != (len(self.shape),) or values.dtype.kind not in "iu":
                raise ParameterError(
                    f"decisions: {name} must be ({len(self.shape)},) whole numbers, not {values.shape} {values.dtype}"
                )
            if len(values) and not NONE <= values.min() <= values.max() < len(self.classes):
                raise ParameterError(
                    f"decisions: {name} must be -1 or one of the {len(self.classes)} classes from 0, "
                    f"not {values.min()} to {values.max()}"
                )

    @property
    def conflict(self) -> npt.NDArray[np.bool_]:
        """(N,): whether the image has a shape and a texture, of different classes."""
        found: npt.NDArray[np.bool_] = (self.shape != self.texture) & (self.shape != NONE) & (self.texture != NONE)
        return found

    @property
    def by_shape(self) -> npt.NDArray[np.bool_]:
        """(N,): whether the class of the shape was named, of an image whose cues are in conflict."""
        found: npt.NDArray[np.bool_] = self.conflict & (self.named == self.shape)
        return found

    @property
    def by_texture(self) -> npt.NDArray[np.bool_]:
        """(N,): whether the class of the texture was named, of an image whose cues are in conflict."""
        found: npt.NDArray[np.bool_] = self.conflict & (self.named == self.texture)
        return found

    @property
    def repeated(self) -> bool:
        """Whether several decisions are about one image, and so are no independent units."""
        return self.images is not None and len(np.unique(self.images)) < len(self.images)

    def counts(self) -> CueCounts:
        """How many decisions followed which cue, class by class of the shape."""
        agreeing = (self.shape == self.texture) & (self.shape != NONE)

        def per_class(chosen: npt.NDArray[np.bool_]) -> tuple[int, ...]:
            found: list[int] = np.bincount(self.shape[chosen], minlength=len(self.classes)).tolist()
            return tuple(found)

        return CueCounts(
            classes=self.classes,
            shape=per_class(self.by_shape),
            texture=per_class(self.by_texture),
            conflict=per_class(self.conflict),
            agreeing=int(agreeing.sum()),
            agreeing_right=int((agreeing & (self.named == self.shape)).sum()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CueCounts:
    """Counts of decisions by the class of the shape, (C,) each, over images whose cues are in conflict.

    ``shape`` and ``texture``: how many named the class of the shape, and of the texture; ``conflict``: how many there
    are. Images whose shape and texture are of one class say nothing of a bias: ``agreeing`` of them are left out, of
    which ``agreeing_right`` were named rightly.

    >>> counts = CueCounts(classes=("cat", "dog"), shape=(3, 0), texture=(1, 4), conflict=(10, 10))
    >>> counts.bias, counts.class_mean, counts.coverage
    (0.375, 0.375, 0.4)
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    texture: tuple[int, ...]
    conflict: tuple[int, ...]
    agreeing: int = 0
    agreeing_right: int = 0

    @property
    def decided(self) -> tuple[int, ...]:
        """(C,): decisions that followed either cue."""
        return tuple(shape + texture for shape, texture in zip(self.shape, self.texture, strict=True))

    @property
    def bias(self) -> float | None:
        """Shape bias, pooled over all decisions: n_shape / (n_shape + n_texture); None where neither was followed.

        Geirhos et al., "ImageNet-trained CNNs are biased towards texture" (ICLR 2019, arXiv 1811.12231), section 2.
        """
        return _ratio(sum(self.shape), sum(self.decided))

    @property
    def by_class(self) -> tuple[float | None, ...]:
        """(C,): the shape bias for the images of each shape class; None for a class of which nothing was decided."""
        return tuple(_ratio(shape, decided) for shape, decided in zip(self.shape, self.decided, strict=True))

    @property
    def class_mean(self) -> float | None:
        """Mean of :attr:`by_class` over the classes that have decided images (IPViT, figure 6); None without any."""
        found = [bias for bias in self.by_class if bias is not None]
        return sum(found) / len(found) if found else None

    @property
    def lacking(self) -> tuple[str, ...]:
        """The classes that :attr:`class_mean` leaves out, since neither cue was followed on any of their images."""
        return tuple(name for name, decided in zip(self.classes, self.decided, strict=True) if not decided)

    @property
    def coverage(self) -> float | None:
        """Share of the images in conflict on which either cue was followed: what the bias rests on."""
        return _ratio(sum(self.decided), sum(self.conflict))

    @property
    def shape_accuracy(self) -> float | None:
        """Share of the images in conflict whose shape was named: bias times coverage."""
        return _ratio(sum(self.shape), sum(self.conflict))

    @property
    def accuracy(self) -> float | None:
        """Share of all images whose shape was named, those of agreeing cues included: accuracy by the shape's label."""
        return _ratio(sum(self.shape) + self.agreeing_right, sum(self.conflict) + self.agreeing)


def shape_bias_measurements(
    decisions: CueDecisions, *, dims: Mapping[str, JSONScalar] | None = None
) -> list[Measurement]:
    """What the decisions amount to, with intervals over images.

    ``shape_bias`` (pooled), ``shape_bias_class_mean``, and ``shape_bias_of_class`` with ``{"class": name}``, each left
    out where it is undefined, since nothing was decided by either cue; ``coverage`` and ``shape_accuracy`` over the
    images in conflict, ``accuracy`` over all that have both cues; and the counts ``shape_decisions``,
    ``texture_decisions`` and ``agreeing_images``. The intervals of biases are given the images that were decided. Where
    each image is decided once they are Wilson's, for the class mean bootstrapped within classes; else images are drawn
    with all that was decided on them.

    Raises :class:`~harness.errors.DataError` where no image has cues in conflict.
    """
    counts = decisions.counts()
    conflict = sum(counts.conflict)
    if not conflict:
        raise DataError(
            f"not one of {len(decisions.shape)} images has a shape and a texture of different classes",
            hint="shape bias is measured on cue-conflict images, and a small --limit may leave only images whose cues "
            "agree",
        )
    own = dict(dims or {})
    images = decisions.images if decisions.repeated else None
    rows: list[Measurement] = []

    def ratio(
        metric: str,
        hits: npt.NDArray[np.bool_],
        of: npt.NDArray[np.bool_],
        *,
        higher: bool | None = None,
        class_name: str | None = None,
    ) -> None:
        if of.any():
            value = float((hits & of).sum() / of.sum())
            interval, n = _ratio_interval(hits, of, images)
            named = {} if class_name is None else {"class": class_name}
            rows.append(_row(metric, value, n, interval, {**own, **named}, higher=higher))

    by_shape, decided = decisions.by_shape, decisions.by_shape | decisions.by_texture
    ratio("shape_bias", by_shape, decided)
    if counts.class_mean is not None:
        rows.append(_class_mean(decisions, counts, own))
    ratio("coverage", decided, decisions.conflict)
    ratio("shape_accuracy", by_shape, decisions.conflict, higher=True)
    whole = (decisions.shape != NONE) & (decisions.texture != NONE)
    ratio("accuracy", whole & (decisions.named == decisions.shape), whole, higher=True)
    for metric, number, n in (
        ("shape_decisions", sum(counts.shape), conflict),
        ("texture_decisions", sum(counts.texture), conflict),
        ("agreeing_images", counts.agreeing, len(decisions.shape)),
    ):
        rows.append(_row(metric, float(number), n, None, own, unit="images"))
    for place, name in enumerate(decisions.classes):
        ratio("shape_bias_of_class", by_shape, decided & (decisions.shape == place), class_name=name)
    return rows


def pooled(parts: Sequence[CueDecisions]) -> CueDecisions:
    """The decisions of several observers on the same images as one: each counts alike.

    Raises :class:`~harness.errors.ParameterError` for parts of other classes, or that do not say their images.
    """
    images = [part.images for part in parts if part.images is not None]
    if len({part.classes for part in parts}) != 1 or len(images) < len(parts):
        raise ParameterError("decisions can be pooled that are over the same classes and say what images they are of")
    return CueDecisions(
        classes=parts[0].classes,
        shape=np.concatenate([part.shape for part in parts]),
        texture=np.concatenate([part.texture for part in parts]),
        named=np.concatenate([part.named for part in parts]),
        images=np.concatenate(images),
    )


def mean_over_observers(parts: Sequence[CueDecisions]) -> list[Measurement]:
    """Means over observers of their ``shape_bias``, ``shape_bias_class_mean``, ``coverage`` and accuracies.

    Each observer counts alike, however many decisions it has, and one without the number does not count; intervals
    are Student's, over the observers: they speak of others like them, on exactly these images.
    """
    counts = [part.counts() for part in parts]
    rows = []
    for metric, values, higher in (
        ("shape_bias", [found.bias for found in counts], None),
        ("shape_bias_class_mean", [found.class_mean for found in counts], None),
        ("coverage", [found.coverage for found in counts], None),
        ("shape_accuracy", [found.shape_accuracy for found in counts], True),
        ("accuracy", [found.accuracy for found in counts], True),
    ):
        known = [value for value in values if value is not None]
        if known:
            interval = stats.t_interval(known) if len(known) > 1 else None
            rows.append(
                _row(metric, float(np.mean(known)), len(known), interval, {}, higher=higher, counted="observers")
            )
    return rows


def _ratio(hits: int, of: int) -> float | None:
    return hits / of if of else None


def _row(
    metric: str,
    value: float,
    n: int,
    interval: Interval | None,
    dims: Mapping[str, JSONScalar],
    *,
    higher: bool | None = None,
    unit: str = "fraction",
    counted: str = "images",
) -> Measurement:
    return Measurement(
        metric=metric,
        value=value,
        n=n,
        dims=dict(dims),
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        interval=None if interval is None else interval.method,
        unit=unit,
        higher_is_better=higher,
        counted=counted,
    )


def _ratio_interval(
    hits: npt.NDArray[np.bool_], of: npt.NDArray[np.bool_], images: npt.NDArray[np.int64] | None
) -> tuple[Interval | None, int]:
    """The interval of sum(hits & of) / sum(of), and over how many images; None for a single one of many decisions."""
    if images is None:
        n = int(of.sum())
        return stats.wilson(int((hits & of).sum()), n), n
    sums = _sums(hits, of, images)
    # Drawn are images of which something counts, so that no resample is a ratio of nothing.
    n = sums.shape[1]
    return (stats.bootstrap_statistic(sums, lambda means: means[:, 0] / means[:, 1]) if n > 1 else None), n


def _sums(
    hits: npt.NDArray[np.bool_], of: npt.NDArray[np.bool_], images: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """(2, M): decisions that are hits, and that count, on each of the M images on which any counts."""
    _, codes = np.unique(images[of], return_inverse=True)
    return np.stack([np.bincount(codes, hits[of]), np.bincount(codes)]).astype(np.float64)


def _class_mean(decisions: CueDecisions, counts: CueCounts, dims: Mapping[str, JSONScalar]) -> Measurement:
    value = counts.class_mean
    assert value is not None
    metric = "shape_bias_class_mean"
    if not decisions.repeated or decisions.images is None:
        n = sum(counts.decided)
        # One image shows no spread.
        interval = stats.bootstrap_class_mean(counts.shape, counts.decided) if n > 1 else None
        return _row(metric, value, n, interval, dims)
    decided = decisions.by_shape | decisions.by_texture
    by_class = [
        _sums(decisions.by_shape, decided & (decisions.shape == place), decisions.images)
        for place, number in enumerate(counts.decided)
        if number
    ]
    n = sum(sums.shape[1] for sums in by_class)
    if n == len(by_class):  # an image a class: nothing to draw from
        return _row(metric, value, n, None, dims)
    drawn = [stats.resampled_means(sums, seed=place) for place, sums in enumerate(by_class)]
    means = np.mean([found[:, 0] / found[:, 1] for found in drawn], axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    interval = stats.Interval(float(low), float(high), "bootstrap95")
    return _row(metric, value, n, interval, dims)
