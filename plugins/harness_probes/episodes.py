"""Descriptor of the few-shot episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability
from harness_probes.shared_params import features_param

if TYPE_CHECKING:
    from collections.abc import Iterable

_WAYS, _SHOTS, _QUERIES, _LAMBDA, _METRIC = 5, 1, 15, 1.0, "euclidean"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodesParams:
    """Parameters of ``episodes``."""

    features: str = features_param()
    sampler: Literal["fixed", "meta_dataset"] = param(
        "fixed", help="same ways and shots in every episode, or drawn anew for each as Meta-Dataset does"
    )
    ways: int = param(_WAYS, help="classes of an episode of the fixed sampler", unit="classes", low=2)
    shots: int = param(_SHOTS, help="support images per class, fixed sampler", unit="images", low=1)
    queries: int = param(_QUERIES, help="query images per class, fixed sampler", unit="images", low=1)
    episodes: int = param(600, help="how many episodes are drawn", low=1)
    head: Literal["ridge", "logistic", "centroid"] = param("ridge", help="the classifier fitted on each support set")
    metric: Literal["euclidean", "cosine"] = param(_METRIC, help="nearest by which distance, head centroid")
    ridge_lambda: float = param(
        _LAMBDA, help="penalty on the squared weights of unit features, head ridge", low=1e-6, high=1e6
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", TokenEnsemble.parse(self.features).text)
        if self.sampler == "meta_dataset":
            for name, default in (("ways", _WAYS), ("shots", _SHOTS), ("queries", _QUERIES)):
                self._refuse(name, default, f"sampler=meta_dataset draws its own {name}")
        if self.head != "centroid":
            self._refuse("metric", _METRIC, f"head={self.head} has no metric; head=centroid has")
        if self.head != "ridge":
            self._refuse("ridge_lambda", _LAMBDA, f"head={self.head} has no ridge_lambda; head=ridge has")

    def _refuse(self, name: str, default: object, why: str) -> None:
        if getattr(self, name) != default:
            raise ParameterError(
                f"episodes: {name}={getattr(self, name)} would change nothing: {why}", hint=f"leave {name} out"
            )


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``episodes``."""
    yield ProbeEntry(
        name="episodes",
        target="harness_probes.episodes_probe:EpisodesProbe",
        summary="mean accuracy over few-shot episodes: N-way K-shot, or drawn as Meta-Dataset draws them",
        params=EpisodesParams,
        learns=True,
        stochastic=True,
        needs=frozenset({Capability.POOLED}),
        headline="accuracy",
        features_param="features",
    )
