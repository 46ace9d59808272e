"""Descriptor of the k-nearest-neighbour probe."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability
from harness_probes.shared_params import as_tuple, features_param, per_class_param

if TYPE_CHECKING:
    from collections.abc import Iterable

Backend = Literal["auto", "faiss", "torch"]
IndexName = Literal["flat", "ivf", "hnsw"]
Weights = Literal["temperature", "uniform"]

_OF_INDEX = {"nlist": "ivf", "nprobe": "ivf", "hnsw_m": "hnsw", "ef_search": "hnsw"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnParams:
    """Parameters of ``knn``."""

    features: str = features_param()
    k: tuple[int, ...] = param((1, 5, 10, 20, 100, 200), help="neighbours that vote, rising", unit="images", low=1)
    weights: Weights = param(
        "temperature", help="a vote's weight: exp(similarity / temperature), or the same for every neighbour"
    )
    temperature: float = param(0.07, help="the smaller, the more the nearest count", low=1e-3)
    per_class: int | None = per_class_param()
    index: IndexName = param("flat", help="flat is exact; ivf and hnsw search faster and miss some neighbours")
    nlist: int | None = param(None, help="ivf: lists that the support is sorted into; none: its square root", low=1)
    nprobe: int = param(16, help="ivf: lists that are searched for a query", low=1)
    hnsw_m: int = param(32, help="hnsw: links of a support image", low=2)
    ef_search: int = param(256, help="hnsw: candidates kept while searching", low=1)
    backend: Backend = param("auto", help="what searches; auto: torch for flat, faiss for the others")

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", TokenEnsemble.parse(self.features).text)
        object.__setattr__(self, "k", as_tuple(self.k))
        if not self.k or list(self.k) != sorted(set(self.k)):
            text = "+".join(map(str, self.k)) or "nothing"
            raise ParameterError(f"knn: k must be numbers that rise, not {text}", hint="for example 1+5+20")
        for field in fields(self):
            index = _OF_INDEX.get(field.name, self.index)
            if index != self.index and getattr(self, field.name) != field.default:
                raise ParameterError(
                    f"knn: {field.name} means nothing to index={self.index}",
                    hint=f"leave it out, or take index={index}",
                )
        if self.index != "flat" and self.backend == "torch":
            raise ParameterError(
                f"knn: index={self.index} is searched by faiss, not by torch", hint="leave backend out, or index=flat"
            )


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``knn``."""
    yield ProbeEntry(
        name="knn",
        target="harness_probes.knn_probe:KnnProbe",
        summary="accuracy of a vote among the most similar support images (cosine, weighted, as DINO's k-NN)",
        params=KnnParams,
        learns=True,
        needs=frozenset({Capability.POOLED}),
        headline="accuracy",
        features_param="features",
    )
