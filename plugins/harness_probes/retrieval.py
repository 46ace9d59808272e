"""Descriptor of the retrieval probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability
from harness_probes.shared_params import as_tuple, features_param, per_class_param

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalParams:
    """Parameters of ``retrieval``."""

    features: str = features_param()
    k: tuple[int, ...] = param((1, 5, 10, 20, 100), help="neighbours of recall@k, rising", unit="images", low=1)
    per_class: int | None = per_class_param()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", TokenEnsemble.parse(self.features).text)
        object.__setattr__(self, "k", as_tuple(self.k))
        if not self.k or list(self.k) != sorted(set(self.k)):
            text = "+".join(map(str, self.k)) or "nothing"
            raise ParameterError(f"retrieval: k must be numbers that rise, not {text}", hint="for example 1+5+20")


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``retrieval``.

    Its headline is the mean average precision: one number over the whole ranking, where recall@k needs a k and is
    near 1 for every model once k passes a few.
    """
    yield ProbeEntry(
        name="retrieval",
        target="harness_probes.retrieval_probe:RetrievalProbe",
        summary="how well the most similar support images are those of the class (recall@k, mAP, R-precision)",
        params=RetrievalParams,
        learns=True,
        needs=frozenset({Capability.POOLED}),
        headline="map",
        features_param="features",
    )
