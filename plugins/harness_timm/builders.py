"""The targets of the families' entries: one function a family, all alike but for how its networks are made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from harness_timm import (
    cait,
    convit,
    convnext,
    densenet,
    efficientnet,
    inception,
    mobilenet,
    pit,
    regnet,
    resnet,
    swin,
    tnt,
    vgg,
    xcit,
)
from harness_timm.build import Family, Positions, Source, build_network
from harness_timm.transformer import transformer_family

if TYPE_CHECKING:
    from harness.backbones.network import NetworkModel
    from harness.backbones.positions import Ablation, Interpolation
    from harness.weights import WeightsChoice


def build_plain(
    family: Callable[[], Family],
    *,
    arch: str,
    weights: WeightsChoice,
    input: int = 0,
    url: str | None = None,
    sha256: str | None = None,
) -> NetworkModel:
    """A network without position embeddings of its patches; parameters as of ``TimmParams``.

    ``family`` is called once the weights are there, since it imports timm. Raises as
    :func:`harness_timm.build.build_network`.
    """
    return build_network(Source(arch=arch, weights=weights, input=input, url=url, sha256=sha256), family)


def build_positioned(
    family: Callable[[], Family],
    *,
    arch: str,
    weights: WeightsChoice,
    input: int = 0,
    url: str | None = None,
    sha256: str | None = None,
    posemb_interp: Interpolation = "bicubic",
    positions: Ablation = "none",
    positions_seed: int = 0,
) -> NetworkModel:
    """A network with position embeddings of its patches; parameters as of ``PositionedTimmParams``.

    Raises as :func:`build_plain`.
    """
    return build_network(
        Source(arch=arch, weights=weights, input=input, url=url, sha256=sha256),
        family,
        positions=Positions(interpolation=posemb_interp, ablation=positions, seed=positions_seed),
    )


build_vit = partial(build_positioned, partial(transformer_family, "vit", distilled=False))
build_dino = partial(build_positioned, partial(transformer_family, "dino", distilled=False))
build_tnt = partial(build_positioned, tnt.family)
build_cait = partial(build_positioned, cait.family)
build_pit = partial(build_positioned, pit.family)
build_convit = partial(build_positioned, convit.family)
build_swin = partial(build_plain, swin.family)
build_xcit = partial(build_plain, xcit.family)
build_resnet = partial(build_plain, resnet.family)
build_vgg = partial(build_plain, vgg.family)
build_densenet = partial(build_plain, densenet.family)
build_inception = partial(build_plain, inception.family)
build_regnet = partial(build_plain, regnet.family)
build_mobilenet = partial(build_plain, mobilenet.family)
build_efficientnet = partial(build_plain, efficientnet.family)
build_convnext = partial(build_plain, convnext.family)
