"""Plugin ``zoo_cifar_resnet``: the ResNets for CIFAR-10 (He et al., CVPR 2016), with the names of their checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.model_params import STAGED, NetworkParams
from harness.params import param
from harness.types import View
from harness_zoo.entry import zoo_entry

if TYPE_CHECKING:
    from harness.backbones.cifar_resnet import CifarResNetModel
    from harness.weights import WeightsChoice

Depth: TypeAlias = Literal[20, 32, 44, 56, 110]

_SIDE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CifarResNetParams(NetworkParams):
    """Parameters of ``cifar_resnet``."""

    depth: Depth = param(20, help="number of layers")


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``cifar_resnet``."""
    yield zoo_entry(
        "cifar_resnet",
        "harness_zoo.cifar_resnet:build",
        "ResNet for the 32 px and ten classes of CIFAR-10",
        view=_view(_SIDE),
        label_space="cifar10",
        capabilities=STAGED,
        tags=("cnn", "cifar"),
        params=CifarResNetParams,
    )


def build(
    *,
    weights: WeightsChoice,
    depth: Depth = 20,
    input: int = 0,
    url: str | None = None,
    sha256: str | None = None,
) -> CifarResNetModel:
    """A ResNet for CIFAR-10; parameters as of ``CifarResNetParams``. It takes any input size.

    Raises :class:`~harness.errors.WeightsError` for weights that cannot be had or do not fit.
    """
    from harness.backbones.cifar_resnet import CifarResNet, CifarResNetModel
    from harness_zoo.build import Source, card, checkpoint, load

    source = Source(entry="cifar_resnet", weights=weights, input=input, url=url, sha256=sha256)
    given = checkpoint(source)
    net = CifarResNet(depth=depth, seed=weights.seed)
    initial = load(net, given, source)
    view = _view(input or _SIDE)
    return CifarResNetModel(
        net, card(f"resnet{depth}_cifar10", source, given, view, label_space="cifar10", initial=initial)
    )


def _view(side: int) -> View:
    """Images of CIFAR are taken as they are; larger ones are made as large as the input."""
    return View(resize=side, crop=side, interpolation="bilinear")
