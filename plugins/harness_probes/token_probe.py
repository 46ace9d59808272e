"""What all probes on frozen features have alike: a card, and a token ensemble that says what they ask of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.features import require_features
from harness.token_ensemble import TokenEnsemble

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.protocols import ProbeInfo
    from harness.types import FeatureSpec, ModelInfo, OutputSpec


class TokenProbe:
    """A probe on the vector that the token ensemble ``features`` names."""

    def __init__(self, info: ProbeInfo, *, features: str) -> None:
        self._info = info
        self._ensemble = TokenEnsemble.parse(features)

    @property
    def info(self) -> ProbeInfo:
        """Name, version and parameters."""
        return self._info

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The tokens of its ensemble. Raises :class:`~harness.errors.CapabilityError` for a model without them."""
        return self.features(model).outputs(model.num_blocks)

    def features(self, model: ModelInfo) -> FeatureSpec:
        """The vector of its ensemble. Raises :class:`~harness.errors.CapabilityError` for a model without it."""
        spec = self._ensemble.spec(model)
        require_features(spec, model)
        return spec


def spread_over_classes(labels: npt.NDArray[np.int64], per_class: int | None) -> npt.NDArray[np.int64]:
    """Positions in ``labels`` (N,), rising: all, or of every class at most ``per_class``, evenly spaced.

    >>> spread_over_classes(np.array([0, 0, 0, 0, 1]), 2).tolist()
    [0, 2, 4]
    """
    if per_class is None or not len(labels):
        return np.arange(len(labels), dtype=np.int64)
    chosen = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        taken = min(per_class, len(places))
        chosen.append(places[np.arange(taken) * len(places) // taken])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
