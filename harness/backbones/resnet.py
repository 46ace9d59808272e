"""timm's ResNet as a Model: its four stages are its blocks, their maps its patch tokens."""

from __future__ import annotations

from typing import Any

from harness.backbones.staged import StagedModel, Stages, chain, timm_stages
from harness.types import ModelInfo


class ResNetModel(StagedModel):
    """A ResNet of timm.

    Tokens of block i are the map that leaves stage i, a token a place in row-major order, without prefix; width and
    grid differ by stage. There is no final norm, so ``normed_tokens`` are the same. ``pooled`` is the pooled map in
    front of the classifier. Sites: ``stage:i`` sees the map that enters stage i, ``pool`` the one that is pooled.
    """

    def __init__(self, net: Any, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        super().__init__(net, card, resnet_stages(net))


def resnet_stages(net: Any) -> Stages:
    """A ResNet of timm, its kin with other blocks (ResNeXt, SE, Res2Net) included: ``layer1`` to ``layer4``."""
    stem = chain((net.conv1, net.bn1, net.act1, net.maxpool))
    return timm_stages(net, stem=stem, stages=(net.layer1, net.layer2, net.layer3, net.layer4))
