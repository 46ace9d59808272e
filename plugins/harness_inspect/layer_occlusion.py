"""Descriptor of the inspection of what every block's features keep under a perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability
from harness_inspect.attention_weights import BlockChoice

if TYPE_CHECKING:
    from collections.abc import Iterable

Tokens = Literal["patches", "cls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOcclusionParams:
    """Parameters of ``layer_occlusion``."""

    tokens: Tokens = param(
        "patches",
        help="what of every block: the mean of its patch tokens, which every backbone has, or its class token",
    )
    norm: bool = param(
        True,
        help="tokens of every block through the model's final norm; of networks whose stages differ in width, those "
        "of the last stage alone",
    )
    blocks: BlockChoice = param("all", help="blocks by number, such as 0+5+11 or -1, or all")
    shots: int = param(10, help="support images per class; all of a class that has fewer", unit="images", low=1)
    ridge_per_dimension: float = param(
        1.0,
        help="penalty of a block's classifier over its width, so that blocks of other widths compare; the published "
        "1024 is 1 at a width of 1024",
        low=1e-6,
    )

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ParameterError("layer_occlusion: blocks is empty", hint="name blocks, such as 0+11, or all")


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``layer_occlusion``."""
    yield ProbeEntry(
        name="layer_occlusion",
        target="harness_inspect.layer_occlusion_probe:LayerOcclusionProbe",
        summary="few-shot accuracy of every block, and correlation of its features with those of the clean image",
        params=LayerOcclusionParams,
        learns=True,
        compares=True,
        stochastic=True,
        needs=frozenset({Capability.TOKENS}),
        headline="accuracy",
        exhibit="harness_inspect.layer_occlusion_exhibit:exhibit",
    )
