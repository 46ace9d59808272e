"""How convolutional networks of timm and torchvision are cut into stages, family by family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.inception_v3 import InceptionV3
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from timm.models.vgg import VGG
from torch import Tensor, nn
from torchvision.models.alexnet import AlexNet
from torchvision.models.googlenet import GoogLeNet
from torchvision.models.squeezenet import SqueezeNet

from harness.backbones.resnet import ResNetModel, resnet_stages
from harness.backbones.staged import StagedModel, Stages, chain, timm_stages, unchanged
from harness.errors import CapabilityError
from harness.types import ModelInfo

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What torchvision's ``GoogLeNet(transform_input=True)`` expects its pixels to be normalised with."""

_INCEPTION_V3 = (
    "Conv2d_2a_3x3 Conv2d_2b_3x3",
    "Pool1 Conv2d_3b_1x1 Conv2d_4a_3x3",
    "Pool2 Mixed_5b Mixed_5c Mixed_5d",
    "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e",
    "Mixed_7a Mixed_7b Mixed_7c",
)
"""Inception v3's parts by scale."""


def staged_model(net: Any, card: ModelInfo) -> StagedModel:
    """Wrap a network of one of :data:`FAMILIES`. ``card``: what is known without the network.

    A torchvision GoogLeNet that normalises a second time (``transform_input``) gets a card with both normalisations in
    one, so that its first layer sees exactly what it sees in torchvision. Raises
    :class:`~harness.errors.CapabilityError` for a network of another class.
    """
    cut = FAMILIES.get(type(net))
    if cut is None:
        known = ", ".join(sorted(family.__name__ for family in FAMILIES))
        raise CapabilityError(
            f"model {card.name}: nothing says how a {type(net).__name__} is cut into stages",
            hint=f"there are stages of {known}; wrap another network of timm with AnyTimmModel",
        )
    if isinstance(net, ResNet):
        return ResNetModel(net, card)
    return StagedModel(net, transformed_input(net, card) if isinstance(net, GoogLeNet) else card, cut(net))


# --- timm ------------------------------------------------------------------------------------------------------


def vgg_stages(net: Any) -> Stages:
    """VGG (Simonyan and Zisserman, arXiv 1409.1556): its five groups of convolutions, each with its max-pooling.

    There is no stem: ``stage:0`` sees the normalised pixels. ``pooled`` is the second hidden layer of 4096 that the
    classifier reads, behind its ReLU, and not a mean of the last map.
    """
    layers = list(net.features)
    ends = [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    return timm_stages(net, stem=unchanged, stages=_cut(layers, ends))


def densenet_stages(net: Any) -> Stages:
    """DenseNet (Huang et al., arXiv 1608.06993): its dense blocks, each with the transition ahead of it.

    ``norm`` is the batch norm, with ReLU, that the last map goes through before it is pooled.
    """
    names = [name for name, _ in net.features.named_children()]
    layers = [*net.features]
    starts = [i + 1 for i, name in enumerate(names) if name.startswith("denseblock")]
    stem, *stages = _cut(layers[:-1], [names.index("denseblock1"), *starts])
    return timm_stages(net, stem=stem, stages=stages, norm=layers[-1])


def inception_v3_stages(net: Any) -> Stages:
    """Inception v3 (Szegedy et al., arXiv 1512.00567): its five scales, from 1/2 to 1/32 of the side.

    The stem is the first convolution. The auxiliary classifier, if the network has one, is not run.
    """
    stages = [chain(getattr(net, name) for name in names.split()) for names in _INCEPTION_V3]
    return timm_stages(net, stem=net.Conv2d_1a_3x3, stages=stages)


def regnet_stages(net: Any) -> Stages:
    """RegNet (Radosavovic et al., arXiv 2003.13678): its four stages.

    A convolution behind them, which some have, is a stage of its own; an activation there is ``norm``.
    """
    stages = [net.s1, net.s2, net.s3, net.s4]
    if any(True for _ in net.final_conv.parameters()):
        return timm_stages(net, stem=net.stem, stages=[*stages, net.final_conv])
    return timm_stages(net, stem=net.stem, stages=stages, norm=net.final_conv)


def efficientnet_stages(net: Any) -> Stages:
    """EfficientNet (Tan and Le, arXiv 1905.11946) and timm's others of that class, as MobileNetV2 and MNASNet.

    Its groups of blocks, seven in EfficientNet, and, as the last stage, the 1x1 convolution behind them, whose wider
    map is what is pooled.
    """
    stages = [*net.blocks]
    if not isinstance(net.conv_head, nn.Identity):
        stages.append(chain((net.conv_head, net.bn2)))
    return timm_stages(net, stem=chain((net.conv_stem, net.bn1)), stages=stages)


def mobilenet_v3_stages(net: Any) -> Stages:
    """MobileNetV3 (Howard et al., arXiv 1905.02244): its groups of blocks.

    Its head convolution comes behind the pooling, so ``pooled``, which the classifier reads, is wider than the map.
    """
    return timm_stages(net, stem=chain((net.conv_stem, net.bn1)), stages=[*net.blocks])


def convnext_stages(net: Any) -> Stages:
    """ConvNeXt (Liu et al., arXiv 2201.03545): its four stages, each with the downsampling ahead of it.

    It normalises the pooled vector, so ``pooled`` is behind that norm and ``normed_tokens`` are the tokens; only
    networks built with timm's ``head_norm_first`` normalise the map instead.
    """
    return timm_stages(net, stem=net.stem, stages=[*net.stages], norm=net.norm_pre)


# --- torchvision -----------------------------------------------------------------------------------------------


def alexnet_stages(net: Any) -> Stages:
    """AlexNet as torchvision has it (Krizhevsky, arXiv 1404.5997): its five convolutions, each with ReLU and pooling.

    There is no stem: ``stage:0`` sees the normalised pixels. ``pooled`` is the second hidden layer of 4096 that the
    last linear layer reads, behind its ReLU.
    """
    layers = [*net.features]
    starts = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    *hidden, last = net.classifier
    return Stages(
        stem=unchanged,
        stages=_cut(layers, starts[1:]),
        pool=chain((net.avgpool, nn.Flatten(), *hidden)),
        classify=last,
        embed_dim=layers[starts[-1]].out_channels,
        pooled_dim=last.in_features,
        num_classes=last.out_features,
    )


def squeezenet_stages(net: Any) -> Stages:
    """SqueezeNet 1.0 and 1.1 (Iandola et al., arXiv 1602.07360): its fire modules, a stage at each resolution.

    Its classifier is a convolution to a map for each class, which is then averaged behind a ReLU: there is no vector
    that a linear head reads. ``pooled`` is the mean of the last map, 512 wide, which gives the logits by no function;
    they come from the map. An intervention at ``pool`` sees that map and so reaches both.
    """
    layers = [*net.features]
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    stem, *stages = _cut(layers, [pools[0] + 1, *pools[1:]])
    convolution = next(layer for layer in net.classifier if isinstance(layer, nn.Conv2d))
    return Stages(
        stem=stem,
        stages=stages,
        pool=_mean,
        classify=chain((net.classifier, nn.Flatten())),
        classify_reads="map",
        embed_dim=convolution.in_channels,
        pooled_dim=convolution.in_channels,
        num_classes=convolution.out_channels,
    )


def googlenet_stages(net: Any) -> Stages:
    """GoogLeNet (Szegedy et al., arXiv 1409.4842): inception modules 3, 4 and 5, a stage at each resolution.

    The auxiliary classifiers, if the network has them, are not run, nor is the second normalisation that
    ``transform_input`` stands for: see :func:`transformed_input`.
    """
    return Stages(
        stem=chain((net.conv1, net.maxpool1, net.conv2, net.conv3, net.maxpool2)),
        stages=[
            chain((net.inception3a, net.inception3b)),
            chain((net.maxpool3, *(getattr(net, f"inception4{part}") for part in "abcde"))),
            chain((net.maxpool4, net.inception5a, net.inception5b)),
        ],
        pool=chain((net.avgpool, nn.Flatten(), net.dropout)),
        classify=net.fc,
        embed_dim=net.fc.in_features,
        pooled_dim=net.fc.in_features,
        num_classes=net.fc.out_features,
    )


def transformed_input(net: Any, card: ModelInfo) -> ModelInfo:
    """``card`` with the normalisation that a GoogLeNet's first layer sees.

    With ``transform_input``, as torchvision builds it with pretrained weights, the network takes pixels normalised
    with ImageNet's statistics and turns them into (x - 0.5) / 0.5, which is what it was trained on. The card that says
    ImageNet's mean and std comes back with 0.5 and 0.5; without ``transform_input`` the card is true as it is.
    """
    if not net.transform_input:
        return card
    # y = a (x - mean) / std + b, with a and b as the network has them, is (x - (mean - b std / a)) / (std / a).
    mean, std = [], []
    for m, s, imagenet_mean, imagenet_std in zip(card.mean, card.std, _IMAGENET_MEAN, _IMAGENET_STD, strict=True):
        a, b = imagenet_std / 0.5, (imagenet_mean - 0.5) / 0.5
        std.append(round(s / a, 12))
        mean.append(round(m - b * s / a, 12))
    return replace(card, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))


FAMILIES: Mapping[type, Callable[[Any], Stages]] = {
    AlexNet: alexnet_stages,
    ConvNeXt: convnext_stages,
    DenseNet: densenet_stages,
    EfficientNet: efficientnet_stages,
    GoogLeNet: googlenet_stages,
    InceptionV3: inception_v3_stages,
    MobileNetV3: mobilenet_v3_stages,
    RegNet: regnet_stages,
    ResNet: resnet_stages,
    SqueezeNet: squeezenet_stages,
    VGG: vgg_stages,
}
"""How a network of each class is cut; a class stands for itself alone, since another may run its parts otherwise."""


def _cut(layers: Iterable[Callable[[Tensor], Tensor]], bounds: Sequence[int]) -> list[Callable[[Tensor], Tensor]]:
    """``layers`` in runs that begin at 0 and at each of ``bounds``; without an empty one at the end."""
    held = list(layers)
    edges = sorted({0, *bounds, len(held)})
    return [chain(held[start:end]) for start, end in pairwise(edges)]


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))
