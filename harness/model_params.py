"""Parameters that model families have in common, for the descriptors of plugins: light values that import no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.params import param
from harness.types import Capability

STAGED = frozenset(Capability) - {Capability.CLASS_TOKEN, Capability.ATTENTION}
"""What convolutional networks give: their stages are maps, without a class token and without attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkParams:
    """Parameters of every network that takes more than one input size, and whose weights may lie anywhere."""

    input: int = param(0, help="side of the input; 0 for the architecture's own", unit="px", low=0, high=4096)
    url: str | None = param(None, help="address of the pretrained weights, where they lie at one", locates=True)
    sha256: str | None = param(None, help="their SHA-256 in hexadecimal digits, checked at every load", locates=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionedParams(NetworkParams):
    """Parameters of networks that add an embedding of its place to every patch; see :mod:`harness.backbones.positions`.

    Raises ``ValueError`` for values that would change nothing, since they would enter the key of a record.
    """

    posemb_interp: Literal["bicubic", "bilinear_corner"] = param(
        "bicubic", help="how position embeddings are interpolated for another input size than that of the weights"
    )
    positions: Literal["none", "zero", "shuffle", "mean"] = param(
        "none", help="what becomes of the position embeddings of patches; none leaves them as they are"
    )
    positions_seed: int = param(0, help="seed of positions=shuffle", low=0)

    def __post_init__(self) -> None:
        if self.posemb_interp != "bicubic" and not self.input:
            raise ValueError("posemb_interp has an effect only where input= asks for another size")
        if self.positions_seed and self.positions != "shuffle":
            raise ValueError("positions_seed has an effect only with positions=shuffle")
