"""Plugin ``zoo_attention_pool``: ResNet-50 that ends in the aggregation of PatchConvNet (arXiv 2112.13692)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.types import Capability, View
from harness_zoo.entry import zoo_entry

if TYPE_CHECKING:
    from harness.backbones.attention_pool import AttentionPoolModel
    from harness.weights import WeightsChoice

_SIDE = 224


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer ``resnet50_attnpool``."""
    yield zoo_entry(
        "resnet50_attnpool",
        "harness_zoo.attention_pool:build",
        "ResNet-50 with attention pooling; no weights published, those of a plain one fit with --allow-missing",
        view=_view(_SIDE),
        capabilities=frozenset(Capability) - {Capability.CLASS_TOKEN},
        tags=("cnn", "attention"),
    )


def build(
    *,
    weights: WeightsChoice,
    input: int = 0,
    url: str | None = None,
    sha256: str | None = None,
) -> AttentionPoolModel:
    """A ResNet-50 with attention pooling; parameters as of ``NetworkParams``.

    No weights of it were published. Those of a plain ResNet-50 fit where ``cls_token``, ``aggregation.*`` and
    ``norm.*`` may be missing; they leave the aggregation untrained, so that they start a training and give no
    classifier. Raises :class:`~harness.errors.WeightsError` for weights that cannot be had or do not fit.
    """
    from harness.backbones.attention_pool import AttentionPoolModel, AttentionPoolResNet
    from harness_zoo.build import CLASSES, Source, card, checkpoint, load

    source = Source(entry="resnet50_attnpool", weights=weights, input=input, url=url, sha256=sha256)
    given = checkpoint(source)
    net = AttentionPoolResNet(num_classes=CLASSES, seed=weights.seed)
    initial = load(net, given, source)
    return AttentionPoolModel(net, card("resnet50_attnpool", source, given, _view(input or _SIDE), initial=initial))


def _view(side: int) -> View:
    """That of ResNet-50: bilinear, the crop 224 of 256."""
    return View(resize=side * 256 // 224, crop=side, interpolation="bilinear")
