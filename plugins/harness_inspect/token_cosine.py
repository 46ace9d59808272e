"""Descriptor of the cosine between a model's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable

ALL = "all"
PATCH = "patch"
"""The mean patch token, among the names of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCosineParams:
    """Parameters of ``token_cosine``."""

    tokens: str = param(
        ALL,
        help="two or more tokens, such as cls+shape or cls+dist+patch (the mean patch token); all: the prefix tokens, "
        "of which an only one is compared with the mean patch token",
    )
    blocks: str = param("all", help="blocks, as in token ensembles: all, last, last4, 0+11")
    norm: bool = param(True, help="after the model's final norm, as the published token extractors do")

    def __post_init__(self) -> None:
        names = self.tokens.split("+")
        if self.tokens != ALL and (len(names) < 2 or len(set(names)) < len(names)):
            raise ParameterError(
                f"token_cosine: tokens={self.tokens} must name two different tokens or more",
                hint="for example cls+dist, or cls+patch",
            )
        TokenEnsemble.parse(f"patches/{self.blocks}")


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``token_cosine``."""
    yield ProbeEntry(
        name="token_cosine",
        target="harness_inspect.token_cosine_probe:TokenCosineProbe",
        summary="cosine between class, distillation and shape tokens, block by block",
        params=TokenCosineParams,
        needs=frozenset({Capability.TOKENS, Capability.CLASS_TOKEN}),
        headline="token_cosine",
        exhibit="harness_inspect.token_cosine_exhibit:exhibit",
    )
