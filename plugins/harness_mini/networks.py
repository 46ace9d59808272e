"""The zoo's networks: classes of timm and of the harness at a size for 56 px, with 14x14 places of 4 px."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from harness.backbones.patchconvnet import PatchConvNet
from harness_mini.generator.outlines import CLASS_OUTLINES

SIDE_PX = 56
PATCH_PX = 4
CELLS = SIDE_PX // PATCH_PX
"""Patches along each side."""
NUM_CLASSES = len(CLASS_OUTLINES)

Family = Literal["vit", "deit", "resnet", "patchconvnet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One architecture: the family whose wrapper reads it, and how to make it. ``make`` may draw from torch's state."""

    family: Family
    make: Callable[[int], nn.Module]
    second_token: str = "dist"  # noqa: S105  # a token of a transformer, no password


def build(name: str, *, seed: int) -> nn.Module:
    """The network ``name`` with the initial weights of ``seed``; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return NETWORKS[name].make(seed)


_TRANSFORMER: dict[str, Any] = {
    "img_size": SIDE_PX,
    "patch_size": PATCH_PX,
    "embed_dim": 64,
    "depth": 6,
    "num_heads": 4,
}


def _vit(seed: int, *, num_classes: int = NUM_CLASSES, pos_embed: str = "learn") -> nn.Module:  # noqa: ARG001  # drawn from torch's state, which build() seeds
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**_TRANSFORMER, num_classes=num_classes, pos_embed=pos_embed)


def _deit(seed: int) -> nn.Module:  # noqa: ARG001  # drawn from torch's state, which build() seeds
    from timm.models.deit import VisionTransformerDistilled

    make = cast("Callable[..., nn.Module]", VisionTransformerDistilled)  # timm leaves it without types
    return make(**_TRANSFORMER, num_classes=NUM_CLASSES)


def _resnet(seed: int) -> nn.Module:  # noqa: ARG001  # drawn from torch's state, which build() seeds
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(
        cast(Any, BasicBlock),  # timm asks for an instance where it means the class
        (1, 1, 1, 1),
        num_classes=NUM_CLASSES,
        channels=(24, 48, 72, 96),
        stem_type="deep",
        stem_width=16,
    )


def _patchconvnet(seed: int, *, per_class: bool = False) -> nn.Module:
    return PatchConvNet(
        width=96,
        depth=8,
        num_classes=NUM_CLASSES,
        layer_scale=0.1,
        per_class=per_class,
        stem_widths=(48, 96),
        seed=seed,
    )


NETWORKS: Mapping[str, Network] = {
    "vit_mini": Network(family="vit", make=_vit),
    "vit_mini_nopos": Network(family="vit", make=lambda seed: _vit(seed, pos_embed="none")),
    "vit_mini_sin": Network(family="vit", make=_vit),
    "dino_mini": Network(family="vit", make=lambda seed: _vit(seed, num_classes=0)),
    "deit_mini": Network(family="deit", make=_deit),
    "deit_mini_shape": Network(family="deit", make=_deit, second_token="shape"),  # noqa: S106  # a token, no password
    "cnn_mini": Network(family="resnet", make=_resnet),
    "cnn_mini_sin": Network(family="resnet", make=_resnet),
    "patchconv_mini": Network(family="patchconvnet", make=_patchconvnet),
    "patchconv_mini_multi": Network(family="patchconvnet", make=lambda seed: _patchconvnet(seed, per_class=True)),
}
"""Architectures by the name of the model; models of one architecture differ in their recipes."""
