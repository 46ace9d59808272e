"""Plugin ``timm_deit``: DeiT, plain and distilled (Touvron et al., ICML 2021), and DeiT III with timm's weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability, View
from harness_timm.entry import PositionedTimmParams, timm_entry

if TYPE_CHECKING:
    from harness.backbones.network import NetworkModel
    from harness.backbones.positions import Ablation, Interpolation
    from harness.weights import WeightsChoice

SecondToken = Literal["dist", "shape"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeiTParams(PositionedTimmParams):
    """Parameters of ``deit``."""

    second_token: SecondToken = param(
        "dist", help="name of the second token of a distilled network: shape where its teacher saw shapes only"
    )
    pos_embed: bool = param(True, help="whether the network was trained with position embeddings")
    patch: int = param(0, help="side of a patch; 0 for the architecture's own", unit="px", low=0)


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``deit``."""
    yield timm_entry(
        "deit",
        "data-efficient image transformer of timm, plain or distilled",
        view=View(resize=248, crop=224, interpolation="bicubic"),
        capabilities=Capability,
        tags=("transformer",),
        target="harness_timm.deit:build",
        params=DeiTParams,
    )


def build(
    *,
    arch: str,
    weights: WeightsChoice,
    input: int = 0,
    url: str | None = None,
    sha256: str | None = None,
    posemb_interp: Interpolation = "bicubic",
    positions: Ablation = "none",
    positions_seed: int = 0,
    second_token: SecondToken = "dist",  # noqa: S107  # a token of a transformer, no password
    pos_embed: bool = True,
    patch: int = 0,
) -> NetworkModel:
    """A DeiT, plain or distilled; parameters as of :class:`DeiTParams`, errors as of ``build_positioned``."""
    from harness_timm.builders import build_positioned
    from harness_timm.transformer import transformer_family

    options = {**({} if pos_embed else {"pos_embed": "none"}), **({"patch_size": patch} if patch else {})}
    return build_positioned(
        partial(transformer_family, "deit", distilled=True, second_token=second_token, options=options),
        arch=arch,
        weights=weights,
        input=input,
        url=url,
        sha256=sha256,
        posemb_interp=posemb_interp,
        positions=positions,
        positions_seed=positions_seed,
    )
