"""Descriptor of the nearest-centroid probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability
from harness_probes.shared_params import features_param, per_class_param

if TYPE_CHECKING:
    from collections.abc import Iterable

Metric = Literal["cosine", "euclidean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CentroidParams:
    """Parameters of ``centroid``."""

    features: str = features_param()
    metric: Metric = param("cosine", help="cosine: of normalised features and their normalised mean; euclidean: raw")
    centre: bool = param(False, help="subtract the mean of the support before normalising (cosine only)")
    per_class: int | None = per_class_param()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", TokenEnsemble.parse(self.features).text)
        if self.metric == "euclidean" and self.centre is True:
            raise ParameterError(
                "centroid: centring changes no Euclidean distance", hint="leave centre out, or take metric=cosine"
            )


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``centroid``."""
    yield ProbeEntry(
        name="centroid",
        target="harness_probes.centroid_probe:CentroidProbe",
        summary="accuracy of the nearest mean of a class (cosine or Euclidean)",
        params=CentroidParams,
        learns=True,
        needs=frozenset({Capability.POOLED}),
        headline="accuracy",
        features_param="features",
    )
