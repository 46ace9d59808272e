"""Descriptor of the few-shot linear probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability
from harness_probes.shared_params import as_tuple, features_param

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotParams:
    """Parameters of ``fewshot``."""

    features: str = features_param()
    shots: tuple[int, ...] = param((1, 5, 10, 25), help="support images per class, rising", unit="images", low=1)
    seeds: int = param(3, help="how many supports are drawn", low=1)
    ridge_lambda: float | Literal["auto"] = param(
        1024.0,
        help="penalty on the squared weights of standardised features, or auto: chosen on further support images, "
        "which comparisons of features of different width need",
        low=1e-6,
        high=1e9,
    )
    validation_images: int = param(
        10,
        help="with ridge_lambda=auto: support images per class that it is chosen on, fewer where no more are left",
        unit="images",
        low=1,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", TokenEnsemble.parse(self.features).text)
        object.__setattr__(self, "shots", as_tuple(self.shots))
        if not self.shots or list(self.shots) != sorted(set(self.shots)):
            text = "+".join(map(str, self.shots)) or "nothing"
            raise ParameterError(f"fewshot: shots must be numbers that rise, not {text}", hint="for example 1+5+10")
        if self.ridge_lambda != "auto" and self.validation_images != 10:
            raise ParameterError(
                f"fewshot: validation_images={self.validation_images} says nothing with "
                f"ridge_lambda={self.ridge_lambda:g}",
                hint="leave it out, or give ridge_lambda=auto",
            )


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``fewshot``."""
    yield ProbeEntry(
        name="fewshot",
        target="harness_probes.fewshot_probe:FewShotProbe",
        summary="accuracy of a linear classifier fitted on a few images per class (ridge regression)",
        params=FewShotParams,
        learns=True,
        stochastic=True,
        needs=frozenset({Capability.POOLED}),
        headline="accuracy",
        features_param="features",
    )
