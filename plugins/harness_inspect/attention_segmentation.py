"""Descriptor of the inspection of attention as a segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable

PREDICTED = "predicted"
"""As a token: of a model with a class token for each class, that of the class it predicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSegmentationParams:
    """Parameters of ``attention_segmentation``."""

    token: str = param(
        "cls",
        help="whose attention: a prefix token such as cls, dist or shape; mean for the mean over patches, auto for the "
        "class token where there is one and that mean elsewhere; predicted for the predicted class's token of a model "
        "with one for each class",
    )
    block: int = param(-1, help="the block by number, negative from the end")
    mass: float = param(
        0.9,
        help="share of the attention that a mask holds; IPViT takes 0.9, DINO 0.6, and their tables do not compare",
        low=0.0,
        high=1.0,
    )
    void: Literal["ignore", "background"] = param(
        "ignore", help="pixels of void are left out, or count as background in the union, as in the authors' code"
    )
    head: int | None = param(
        None,
        help="the head of the rule fixed; by default the best on one half of the images is asked about the other",
        low=0,
    )
    examples: int = param(6, help="how many images are shown", unit="images", low=0, high=24)

    def __post_init__(self) -> None:
        if not self.token:
            raise ParameterError("attention_segmentation: token is empty", hint="name a token, such as cls")


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``attention_segmentation``."""
    yield ProbeEntry(
        name="attention_segmentation",
        target="harness_inspect.attention_segmentation_probe:AttentionSegmentationProbe",
        summary="how well masks of a token's attention cover the objects, by rule, beside what chance scores",
        params=AttentionSegmentationParams,
        needs=frozenset({Capability.ATTENTION}),
        headline="jaccard",
        exhibit="harness_inspect.attention_segmentation_exhibit:exhibit",
    )
