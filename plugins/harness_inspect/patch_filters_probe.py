"""The filters by which a model first sees pixels: their principal components, and what these amount to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.errors import CapabilityError, DataError
from harness.params import canonical, checked
from harness.protocols import FittedProbe, HasPatchFilters, ProbeContext, ProbeInfo
from harness.types import FeatureTable, Measurement
from harness_inspect.model_inspection import ModelFindings, measured_model
from harness_inspect.model_probe import ModelProbe
from harness_inspect.patch_filters import PatchFiltersParams

if TYPE_CHECKING:
    import numpy.typing as npt

COMPONENTS = "components"
"""(K, 3, P, P) float32: the first principal components, each of length 1, over normalised pixels."""
VARIANCE = "variance"
"""(R,) float64, falling: each component's share of the variance of the filters; R is their rank at most."""

LOW_CYCLES_PER_PIXEL = 0.125
"""A quarter of Nyquist's half a cycle per pixel."""

_LARGE = 0.5
_ROUNDING = 1e-12


class PatchFiltersProbe(ModelProbe):
    """Principal components of the D filters of the first layer, each 3 x P x P numbers over *normalised* pixels.

    Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021, arXiv 2010.11929), section 4.5 and figure 7 left:
    the first 28 components of the embedding filters. The filters are what
    :meth:`~harness.protocols.HasPatchFilters.patch_filters` gives; their mean is subtracted. A component's sign is
    free: here the first of its large entries (at least half the largest), channel by channel and row by row, is
    positive.

    Measured, without intervals, since nothing is drawn at random:

    - ``explained_variance``: share of the filters' variance in the first ``components``; 1 where there are no more.
    - ``effective_rank``: (sum of variances)^2 / sum of their squares, the participation ratio, from 1 to the rank.
    - ``low_frequency_share``: share of the filters' energy (mean filter included) in the frequencies of a P x P
      Fourier transform whose length is at most a quarter of Nyquist's, 1/8 cycle per pixel: periods of 8 px and more,
      and the mean. Of filters narrower than 8 px that is the mean alone: compare filters of one size.
    """

    def __init__(self, *, components: int = 28) -> None:
        self._params = checked(PatchFiltersParams(components=components), "patch_filters")
        super().__init__(
            ProbeInfo(
                name="patch_filters", of_model=True, headline="explained_variance", params=canonical(self._params)
            )
        )

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002  # there is none
        """Measure the model's filters.

        Raises :class:`~harness.errors.CapabilityError` for a model whose first layer is no linear map of squares of
        pixels, and :class:`~harness.errors.DataError` for filters that are not finite or all alike.
        """
        model = measured_model(context, "patch_filters")
        if not isinstance(model, HasPatchFilters):
            raise CapabilityError(
                f"model {context.model.name} does not say what filters it begins with",
                hint="give it a method patch_filters, as harness.protocols.HasPatchFilters describes it",
            )
        filters = model.patch_filters().detach().to("cpu", torch.float64).numpy()
        if not np.isfinite(filters).all():
            raise DataError(f"model {context.model.name}: its first filters hold values that are not finite")
        components, shares = principal_components(filters, context.model.name)
        kept = components[: self._params.components]
        found = {
            "explained_variance": (float(shares[: len(kept)].sum()) if len(kept) < len(shares) else 1.0, "fraction"),
            "effective_rank": (float(1 / (shares**2).sum()), ""),
            "low_frequency_share": (low_frequency_share(filters), "fraction"),
        }
        return ModelFindings(
            [
                Measurement(
                    metric=metric,
                    value=value,
                    n=len(filters),
                    unit=unit,
                    counted="filters",
                    higher_is_better=None,
                )
                for metric, (value, unit) in found.items()
            ],
            {COMPONENTS: kept.astype(np.float32), VARIANCE: shares},
        )


def principal_components(
    filters: npt.NDArray[np.float64], model: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Components (R, 3, P, P) of length 1 and their shares (R,) of the variance of ``filters`` (D, 3, P, P), falling.

    Raises :class:`~harness.errors.DataError` for filters that are all alike.
    """
    rows = filters.reshape(len(filters), -1)
    _, scales, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    variances = scales**2
    if not variances.sum() > _ROUNDING * float((rows**2).sum()):
        raise DataError(f"model {model}: its first filters are all alike, so that they have no components")
    # What the mean took away leaves a direction whose share is rounding alone.
    there = variances > _ROUNDING * variances[0]
    directions, variances = directions[there], variances[there]
    large = np.abs(directions) >= _LARGE * np.abs(directions).max(axis=1, keepdims=True)
    signs = np.sign(np.take_along_axis(directions, large.argmax(axis=1)[:, None], axis=1))
    return (signs * directions).reshape(-1, *filters.shape[1:]), variances / variances.sum()


def low_frequency_share(filters: npt.NDArray[np.float64]) -> float:
    """Share of the energy of ``filters`` (D, 3, P, P) at no more than :data:`LOW_CYCLES_PER_PIXEL`, in any direction.

    1 where the filters are constant over their square.
    """
    frequencies = np.fft.fftfreq(filters.shape[-1])
    energy = (np.abs(np.fft.fft2(filters)) ** 2).sum(axis=(0, 1))
    low = np.hypot(frequencies[:, None], frequencies[None, :]) <= LOW_CYCLES_PER_PIXEL
    return float(energy[low].sum() / energy.sum())
