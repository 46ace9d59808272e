"""Plugin ``zoo_patchconvnet``: PatchConvNet (Touvron et al., arXiv 2112.13692), with the names of its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.model_params import NetworkParams
from harness.params import param
from harness.types import Capability, View
from harness_zoo.entry import zoo_entry

if TYPE_CHECKING:
    from harness.backbones.patchconvnet import PatchConvNetModel
    from harness.weights import WeightsChoice

Arch: TypeAlias = Literal["s60", "s120", "b60", "b120", "l60", "l120", "s60_multi"]

_SIDE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Width and trunk blocks, what branches are multiplied by at the start, and whether each class has a token."""

    width: int
    depth: int
    layer_scale: float
    per_class: bool = False


SIZES: dict[Arch, Sizes] = {
    "s60": Sizes(width=384, depth=60, layer_scale=1e-4),
    "s120": Sizes(width=384, depth=120, layer_scale=1e-6),
    "b60": Sizes(width=768, depth=60, layer_scale=1e-6),
    "b120": Sizes(width=768, depth=120, layer_scale=1e-6),
    "l60": Sizes(width=1024, depth=60, layer_scale=1e-6),
    "l120": Sizes(width=1024, depth=120, layer_scale=1e-6),
    "s60_multi": Sizes(width=384, depth=60, layer_scale=1e-4, per_class=True),
}
"""The paper's: S, B and L are the widths, the number is that of the trunk's blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchConvNetParams(NetworkParams):
    """Parameters of ``patchconvnet``."""

    arch: Arch = param("s60", help="width and number of trunk blocks; s60_multi has a class token for each class")


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``patchconvnet``."""
    yield zoo_entry(
        "patchconvnet",
        "harness_zoo.patchconvnet:build",
        "PatchConvNet S60 to L120: a convolutional trunk, gathered by attention of a class token",
        view=_view(_SIDE),
        capabilities=frozenset(Capability) - {Capability.CLASS_TOKEN},
        tags=("cnn", "attention"),
        params=PatchConvNetParams,
    )


def build(
    *,
    weights: WeightsChoice,
    arch: Arch = "s60",
    input: int = 0,
    url: str | None = None,
    sha256: str | None = None,
) -> PatchConvNetModel:
    """A PatchConvNet; parameters as of ``PatchConvNetParams``. Its trunk takes any input size.

    Raises :class:`~harness.errors.WeightsError` for weights that cannot be had or do not fit.
    """
    from harness.backbones.patchconvnet import PatchConvNet, PatchConvNetModel
    from harness_zoo.build import CLASSES, Source, card, checkpoint, load

    source = Source(entry="patchconvnet", weights=weights, input=input, url=url, sha256=sha256)
    given, sizes = checkpoint(source), SIZES[arch]
    net = PatchConvNet(
        width=sizes.width,
        depth=sizes.depth,
        num_classes=CLASSES,
        layer_scale=sizes.layer_scale,
        per_class=sizes.per_class,
        seed=weights.seed,
    )
    initial = load(net, given, source)
    return PatchConvNetModel(net, card(f"patchconvnet_{arch}", source, given, _view(input or _SIDE), initial=initial))


def _view(side: int) -> View:
    """Bicubic, the crop as large as the shorter side."""
    return View(resize=side, crop=side, interpolation="bicubic")
