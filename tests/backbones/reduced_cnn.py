"""Reduced convolutional networks of every family that is cut into stages, and what their tests have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import timm
import torch
import torchvision.transforms.v2.functional as tv
from timm.models.densenet import DenseNet
from timm.models.vgg import VGG
from torch import nn
from torchvision.models.alexnet import AlexNet
from torchvision.models.googlenet import GoogLeNet
from torchvision.models.squeezenet import SqueezeNet

from harness.backbones.convnets import staged_model
from harness.entries import ModelEntry
from harness.testing import Subject
from harness.types import Capability, ModelInfo, View, WeightsInfo
from harness.weights import WeightsChoice

CLASSES = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAPABILITIES = frozenset(Capability) - {Capability.ATTENTION, Capability.CLASS_TOKEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network small enough to be tried on one core, and where its authors' code has the parts of its stages.

    ``starts`` and ``ends`` name the first and the last module of each stage, ``pool`` the module that takes the map
    that is pooled, ``classifier`` the last linear layer, None if there is none that reads a vector. ``norm`` names the
    module between the last stage and the pool. ``taps``: which of timm's intermediates is the map of a stage.
    ``gain`` multiplies weights that are so small at first that no image is told from another.
    """

    make: Callable[[], Any]
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    pool: str
    classifier: str | None
    widths: tuple[int, int]
    side: int = 64
    gain: float = 1.0
    norm: str | None = None
    taps: Mapping[int, int] = field(default_factory=dict)


def _numbered(text: str, numbers: range) -> tuple[str, ...]:
    return tuple(text.format(i) for i in numbers)


def _timm(arch: str, **changes: Any) -> Callable[[], Any]:
    return partial(timm.create_model, arch, pretrained=False, num_classes=CLASSES, **changes)


_VGG = {"cfg": [8, "M", 12, "M", 16, 16, "M", 16, "M", 24, "M"], "num_classes": CLASSES, "mlp_ratio": 0.005}
_REGNET = {"pool": "head", "classifier": "head.fc"}
_CONVNEXT = {
    "starts": _numbered("stages.{}", range(4)),
    "ends": _numbered("stages.{}", range(4)),
    "pool": "head",
    "classifier": "head.fc",
    "widths": (64, 64),
    "gain": 2.0,
    "taps": {i: i for i in range(4)},
}
_GOOGLENET = {
    "starts": ("inception3a", "maxpool3", "maxpool4"),
    "ends": ("inception3b", "inception4e", "inception5b"),
    "pool": "avgpool",
    "classifier": "fc",
    "widths": (1024, 1024),
}
_INCEPTION_ENDS = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")

CASES: dict[str, Case] = {
    "resnet": Case(
        make=_timm("test_resnet"),
        starts=_numbered("layer{}", range(1, 5)),
        ends=_numbered("layer{}", range(1, 5)),
        pool="global_pool",
        classifier="fc",
        widths=(96, 96),
        taps={i: i + 1 for i in range(4)},
    ),
    "vgg": Case(
        make=partial(VGG, **_VGG),
        starts=("features.0", "features.3", "features.6", "features.11", "features.14"),
        ends=("features.2", "features.5", "features.10", "features.13", "features.16"),
        pool="pre_logits",
        classifier="head.fc",
        widths=(24, 4096),
        taps={4: 5},
    ),
    "vgg_bn": Case(
        make=partial(VGG, **_VGG, norm_layer=nn.BatchNorm2d),
        starts=("features.0", "features.4", "features.8", "features.15", "features.19"),
        ends=("features.3", "features.7", "features.14", "features.18", "features.22"),
        pool="pre_logits",
        classifier="head.fc",
        widths=(24, 4096),
        taps={4: 5},
    ),
    "densenet": Case(
        make=partial(DenseNet, growth_rate=8, block_config=(2, 3, 2, 2), num_classes=CLASSES),
        starts=("features.denseblock1", *_numbered("features.transition{}", range(1, 4))),
        ends=_numbered("features.denseblock{}", range(1, 5)),
        norm="features.norm5",
        pool="global_pool",
        classifier="classifier",
        widths=(34, 34),
        taps={0: 1, 1: 2, 2: 3},
    ),
    "inception_v3": Case(
        make=_timm("inception_v3"),
        starts=("Conv2d_2a_3x3", "Pool1", "Pool2", "Mixed_6a", "Mixed_7a"),
        ends=_INCEPTION_ENDS,
        pool="global_pool",
        classifier="fc",
        widths=(2048, 2048),
        side=96,
        taps={i: i for i in range(5)},
    ),
    "regnety": Case(
        make=_timm("regnety_002"),
        starts=_numbered("s{}", range(1, 5)),
        ends=_numbered("s{}", range(1, 5)),
        widths=(368, 368),
        taps={i: i + 1 for i in range(4)},
        **_REGNET,
    ),
    "regnet_preact": Case(
        make=_timm("regnetx_002", preact=True),
        starts=_numbered("s{}", range(1, 5)),
        ends=_numbered("s{}", range(1, 5)),
        norm="final_conv",
        widths=(368, 368),
        taps={i: i + 1 for i in range(4)},
        **_REGNET,
    ),
    "regnetz": Case(
        make=_timm("regnetz_005", num_features=96),
        starts=(*_numbered("s{}", range(1, 5)), "final_conv"),
        ends=(*_numbered("s{}", range(1, 5)), "final_conv"),
        widths=(96, 96),
        taps={i: i + 1 for i in range(4)},
        **_REGNET,
    ),
    "efficientnet": Case(
        make=_timm("test_efficientnet"),
        starts=(*_numbered("blocks.{}", range(5)), "conv_head"),
        ends=(*_numbered("blocks.{}", range(5)), "bn2"),
        pool="global_pool",
        classifier="classifier",
        widths=(256, 256),
        taps={i: i for i in range(5)},
    ),
    "mobilenetv2": Case(
        make=_timm("mobilenetv2_035"),
        starts=(*_numbered("blocks.{}", range(7)), "conv_head"),
        ends=(*_numbered("blocks.{}", range(7)), "bn2"),
        pool="global_pool",
        classifier="classifier",
        widths=(1280, 1280),
        taps={0: 0, 1: 1, 2: 2, 4: 3, 6: 4},
    ),
    "mobilenetv3": Case(
        make=_timm("mobilenetv3_small_050"),
        starts=_numbered("blocks.{}", range(6)),
        ends=_numbered("blocks.{}", range(6)),
        pool="global_pool",
        classifier="classifier",
        widths=(288, 1024),
        taps={0: 1, 1: 2, 3: 3, 5: 4},
    ),
    "convnext": Case(make=_timm("test_convnext"), **_CONVNEXT),
    "convnext_norm_first": Case(make=_timm("test_convnext", head_norm_first=True), norm="norm_pre", **_CONVNEXT),
    "convnext_hidden": Case(make=_timm("test_convnext", head_hidden_size=48), **{**_CONVNEXT, "widths": (64, 48)}),
    "alexnet": Case(
        make=partial(AlexNet, num_classes=CLASSES),
        starts=("features.0", "features.3", "features.6", "features.8", "features.10"),
        ends=("features.2", "features.5", "features.7", "features.9", "features.12"),
        pool="avgpool",
        classifier="classifier.6",
        widths=(256, 4096),
        gain=2.0,
    ),
    "squeezenet1_0": Case(
        make=partial(SqueezeNet, "1_0", num_classes=CLASSES),
        starts=("features.3", "features.6", "features.11"),
        ends=("features.5", "features.10", "features.12"),
        pool="classifier",
        classifier=None,
        widths=(512, 512),
    ),
    "squeezenet1_1": Case(
        make=partial(SqueezeNet, "1_1", num_classes=CLASSES),
        starts=("features.3", "features.5", "features.8"),
        ends=("features.4", "features.7", "features.12"),
        pool="classifier",
        classifier=None,
        widths=(512, 512),
    ),
    "googlenet": Case(make=partial(GoogLeNet, num_classes=CLASSES, aux_logits=False, init_weights=False), **_GOOGLENET),
    "googlenet_transforming": Case(
        make=partial(GoogLeNet, num_classes=CLASSES, aux_logits=False, init_weights=False, transform_input=True),
        **_GOOGLENET,
    ),
}


def random_network(case: Case, seed: int = 0) -> Any:
    """The reduced network in eval mode, with no branch shut.

    The statistics of batch norms fit its weights, so that numbers stay in range.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        net = case.make().eval()
        norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
        for parameter in net.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.1 * torch.randn(parameter.shape))
            else:
                parameter.mul_(case.gain)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train().momentum = 1.0
        net(normalised(_pictures(8, case.side)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum
            # Channels that hardly vary would make rounding errors large.
            norm.running_var.add_(0.1)
    return net


def card(name: str) -> ModelInfo:
    """What is known of a case without its network."""
    return ModelInfo(
        name=name,
        family="cnn",
        weights=WeightsInfo(origin="random", identity=f"random:{name}:0"),
        view=View(crop=CASES[name].side),
        mean=MEAN,
        std=STD,
        label_space="sample",
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )


def build(name: str, seed: int = 0) -> Any:
    """A new Model of the case."""
    return staged_model(random_network(CASES[name], seed), card(name))


@cache
def built(name: str) -> Any:
    """One Model of the case for all tests that leave it as it was."""
    return build(name)


@cache
def bare(name: str) -> Any:
    """The authors' network with the same weights."""
    return random_network(CASES[name]).requires_grad_(False)


def pixels(name: str, n: int = 3) -> torch.Tensor:
    """Images in [0, 1] of the case's size."""
    return _pictures(n, CASES[name].side)


def _pictures(n: int, side: int) -> torch.Tensor:
    """Noise of another strength in each image, channel and half, so that their means differ, too."""
    generator = torch.Generator().manual_seed(n)
    strength = torch.rand(n, 3, 2, 1, generator=generator).repeat_interleave(side // 2, dim=2)
    return strength * torch.rand(n, 3, side, side, generator=generator)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """By torchvision."""
    return tv.normalize(images, list(MEAN), list(STD))


def watched(net: Any, names: Mapping[Any, str], images: torch.Tensor, *, entering: bool = False) -> dict[Any, Any]:
    """What leaves (or enters) the modules ``names`` in the authors' own forward pass, and its output as ``logits``."""
    found: dict[Any, Any] = {}

    def keep(key: Any, given: torch.Tensor, result: torch.Tensor) -> None:
        # A copy, since a layer behind may work in place.
        found[key] = (given if entering else result).clone()

    handles = [
        net.get_submodule(name).register_forward_hook(lambda _, given, result, key=key: keep(key, given[0], result))
        for key, name in names.items()
    ]
    if entering:
        for handle in handles:
            handle.remove()
        handles = [
            net.get_submodule(name).register_forward_pre_hook(lambda _, given, key=key: keep(key, given[0], given[0]))
            for key, name in names.items()
        ]
    try:
        found["logits"] = net(normalised(images))
    finally:
        for handle in handles:
            handle.remove()
    return found


def entered_by(
    net: Any, name: str, change: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor
) -> torch.Tensor:
    """Logits of the authors' network where ``change`` of what enters the module ``name`` enters it instead."""
    handle = net.get_submodule(name).register_forward_pre_hook(lambda _, given: (change(given[0]),))
    try:
        return net(normalised(images))
    finally:
        handle.remove()


def _target(name: str) -> Callable[..., Any]:
    """The builder of a case, as an entry names it."""

    def make(*, weights: WeightsChoice) -> Any:
        return build(name, weights.seed)

    return make


# An entry finds its target by an attribute of this module.
for _name in CASES:
    globals()[f"build_{_name}"] = _target(_name)


def subject(name: str) -> Subject:
    """The case as a subject of the contract kit."""
    entry = ModelEntry(
        name=name,
        target=f"{__name__}:build_{name}",
        summary="a reduced network",
        view=View(crop=CASES[name].side),
        label_space="sample",
        capabilities=CAPABILITIES,
    )
    return Subject(entry=entry, make=lambda: build(name))
