"""Plugin ``zoo_torchvision``: SqueezeNet, AlexNet and GoogLeNet as torchvision has them, which timm has not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.entries import ModelEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.model_params import STAGED, NetworkParams
from harness.params import param
from harness.types import View
from harness_zoo.entry import zoo_entry

if TYPE_CHECKING:
    from harness.backbones.staged import StagedModel
    from harness.weights import WeightsChoice
    from harness_zoo.build import Source

Arch: TypeAlias = Literal["alexnet", "googlenet", "squeezenet1_0", "squeezenet1_1"]

_SIDE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchvisionParams(NetworkParams):
    """Parameters of ``torchvision_cnn``."""

    arch: Arch = param("squeezenet1_1", help="torchvision's name; googlenet comes without its auxiliary heads")


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``torchvision_cnn``."""
    yield zoo_entry(
        "torchvision_cnn",
        "harness_zoo.torchvision_cnns:build",
        "SqueezeNet, AlexNet or GoogLeNet of torchvision, which timm has not",
        view=_view(_SIDE),
        capabilities=STAGED,
        tags=("torchvision", "cnn"),
        params=TorchvisionParams,
    )


def build(
    *,
    weights: WeightsChoice,
    arch: Arch = "squeezenet1_1",
    input: int = 0,
    url: str | None = None,
    sha256: str | None = None,
) -> StagedModel:
    """A CNN that timm has not; parameters as of ``TorchvisionParams``.

    Weights of GoogLeNet with auxiliary heads, as torchvision's are, load with them; the heads serve training alone and
    are then left out. Its pixels get the normalisation that torchvision turns them to, (x - 0.5) / 0.5. Raises
    :class:`~harness.errors.ParameterError` for an input that is too small for the network, and ``WeightsError`` for
    weights that cannot be had or do not fit.
    """
    from harness_zoo.build import Source

    source = Source(entry="torchvision_cnn", weights=weights, input=input, url=url, sha256=sha256)
    return _build(arch, source)


def _build(name: Arch, source: Source) -> StagedModel:
    from harness.backbones.convnets import staged_model
    from harness_zoo.build import card, checkpoint, load

    side = source.input or _SIDE
    _check_side(name, side)
    given = checkpoint(source)
    options = {}
    if name == "googlenet":
        auxiliary = given is not None and any(key.startswith("aux") for key in given.state)
        options = {"transform_input": True, "init_weights": True, "aux_logits": auxiliary}
    net = _network(name, source.weights.seed, options)
    initial = load(net, given, source)
    if name == "googlenet":
        net.aux_logits, net.aux1, net.aux2 = False, None, None
    return staged_model(net, card(name, source, given, _view(side), initial=initial))


def _network(name: str, seed: int, options: dict[str, bool]) -> Any:
    import torch
    from torchvision.models import get_model

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed every accelerator, too.
        torch.default_generator.manual_seed(seed)
        return get_model(name, weights=None, **options)


def _check_side(name: str, side: int) -> None:
    from torchvision.models import get_model_weights

    smallest = max(get_model_weights(name).DEFAULT.meta["min_size"])
    if side < smallest:
        raise ParameterError(f"{name}: an input of {side} px is too small", hint=f"give at least {smallest} px")


def _view(side: int) -> View:
    """torchvision's evaluation: bilinear, the crop 224 of 256."""
    return View(resize=side * 256 // 224, crop=side, interpolation="bilinear")
