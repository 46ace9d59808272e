"""Reduced networks of timm of many kinds, for the wrapper that knows none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import timm
import torch
import torchvision.transforms.v2.functional as tv
from timm.models.mlp_mixer import MlpMixer

from harness.backbones.any_timm import AnyTimmModel
from harness.entries import ModelEntry
from harness.testing import Subject
from harness.types import Capability, ModelInfo, View, WeightsInfo
from harness.weights import WeightsChoice

CLASSES = 10
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PLAIN = frozenset({Capability.LOGITS, Capability.POOLED, Capability.TOKENS, Capability.GRADIENTS})
WITH_CLASS_TOKEN = PLAIN | {Capability.CLASS_TOKEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network at a small size, and what is expected of its card.

    ``parts`` names the modules that its blocks end with, and ``layout`` how what leaves them is laid out, both None
    where no module gives a block's tokens. ``norm`` names the one that gives the last block's normed tokens, None where
    they are expected to be its tokens.
    """

    make: Callable[[], Any]
    widths: tuple[int, ...]
    grids: tuple[int, ...]
    pooled: int
    parts: tuple[str, ...] | None = None
    layout: Literal["NCHW", "NHWC", "NLC"] | None = None
    norm: str | None = None
    prefix: tuple[str, ...] = ()
    patch_size: int | None = None
    side: int = 64
    capabilities: frozenset[Capability] = PLAIN
    num_classes: int | None = CLASSES


def _timm(arch: str, *, num_classes: int = CLASSES, **changes: Any) -> Callable[[], Any]:
    return partial(timm.create_model, arch, pretrained=False, num_classes=num_classes, **changes)


def _numbered(text: str, count: int) -> tuple[str, ...]:
    return tuple(text.format(i) for i in range(count))


_SMALL = {"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 2}
_PLAIN: dict[str, Any] = {
    "widths": (32, 32, 32),
    "grids": (4, 4, 4),
    "pooled": 32,
    "patch_size": 16,
    "parts": _numbered("blocks.{}", 3),
    "layout": "NLC",
}
_WITH_CLASS_TOKEN: dict[str, Any] = {**_PLAIN, "prefix": ("cls",), "capabilities": WITH_CLASS_TOKEN}
_EVA: dict[str, Any] = {**_WITH_CLASS_TOKEN, "patch_size": 14, "side": 56}

CASES: dict[str, Case] = {
    "byobnet": Case(
        make=_timm("test_byobnet"),
        widths=(24, 32, 64, 128, 256),
        grids=(32, 16, 8, 4, 2),
        pooled=256,
        parts=("stem", *_numbered("stages.{}", 4)),
        layout="NCHW",
    ),
    "nfnet": Case(make=_timm("test_nfnet"), widths=(64, 32, 64, 96, 192), grids=(32, 16, 8, 4, 2), pooled=192),
    "mambaout": Case(
        make=_timm("test_mambaout"),
        widths=(16, 32, 48, 64),
        grids=(16, 8, 4, 2),
        pooled=256,
        parts=_numbered("stages.{}", 4),
        layout="NHWC",
    ),
    "maxvit": Case(
        make=_timm("test_maxvit", img_size=64),
        widths=(32, 32, 64, 96, 128),
        grids=(32, 16, 8, 4, 2),
        pooled=128,
        parts=("stem", *_numbered("stages.{}", 4)),
        layout="NCHW",
        norm="norm",
    ),
    "mixer": Case(
        make=partial(MlpMixer, num_classes=CLASSES, img_size=64, num_blocks=3, embed_dim=32),
        **{**_PLAIN, "norm": "norm"},
    ),
    "levit": Case(
        make=_timm("levit_128s", img_size=64, embed_dim=(32, 48, 64), num_heads=(2, 2, 2), depth=(1, 1, 1), key_dim=8),
        widths=(32, 48, 64),
        grids=(4, 2, 1),
        pooled=64,
        parts=_numbered("stages.{}", 3),
        layout="NLC",
    ),
    "swin": Case(
        make=_timm(
            "swin_tiny_patch4_window7_224",
            img_size=64,
            embed_dim=16,
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 2, 4),
            window_size=4,
        ),
        widths=(16, 32, 64, 128),
        grids=(16, 8, 4, 2),
        pooled=128,
        parts=_numbered("layers.{}", 4),
        layout="NHWC",
        norm="norm",
    ),
    "beit": Case(make=_timm("beit_base_patch16_224", **_SMALL), **_WITH_CLASS_TOKEN),
    "eva": Case(make=_timm("eva02_tiny_patch14_224", **{**_SMALL, "img_size": 56}), **_EVA),
    "eva_registers": Case(
        make=_timm("eva02_tiny_patch14_224", num_reg_tokens=2, global_pool="token", **{**_SMALL, "img_size": 56}),
        **{**_EVA, "prefix": ("cls", "register0", "register1"), "norm": "norm"},
    ),
    "distilled": Case(
        make=_timm("deit_tiny_distilled_patch16_224", **_SMALL),
        **{**_WITH_CLASS_TOKEN, "prefix": ("cls", "dist"), "norm": "norm"},
    ),
    # timm's method takes return_prefix_tokens here, but breaks on it where there are none.
    "relative_positions": Case(make=_timm("vit_relpos_small_patch16_224", **_SMALL), **_PLAIN),
    "headless": Case(
        make=_timm("test_vit", num_classes=0, img_size=64),
        widths=(64,) * 6,
        grids=(4,) * 6,
        pooled=64,
        parts=_numbered("blocks.{}", 6),
        layout="NLC",
        norm="norm",
        prefix=("cls",),
        patch_size=16,
        capabilities=WITH_CLASS_TOKEN - {Capability.LOGITS},
        num_classes=None,
    ),
    # Its class token joins in behind the blocks whose tokens timm gives.
    "cait": Case(make=_timm("cait_xxs24_224", **_SMALL), **_PLAIN),
    # Windows are unrolled inside, so no module holds a block's tokens in their order.
    "hiera": Case(
        make=_timm("hiera_tiny_224", img_size=64, embed_dim=32, num_heads=1, stages=(1, 1, 2, 1)),
        widths=(32, 64, 128, 256),
        grids=(16, 8, 4, 2),
        pooled=256,
    ),
    # Its features are a list of tensors, which its own head takes.
    "coat": Case(
        make=_timm("coat_tiny", img_size=64, serial_depths=(1, 1, 1, 1), parallel_depth=1),
        widths=(152,) * 4,
        grids=(16, 8, 4, 2),
        pooled=152,
    ),
    "segment_anything": Case(
        make=_timm("samvit_base_patch16", neck_chans=24, global_attn_indexes=(1,), window_size=2, **_SMALL),
        **{**_PLAIN, "pooled": 24, "layout": "NHWC"},
    ),
}


def random_network(case: Case, seed: int = 0) -> Any:
    """timm's reduced network in eval mode, with no branch shut and statistics of batch norms that fit its weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        net = case.make().eval()
        for parameter in net.parameters():
            parameter.add_((0.1 if parameter.ndim < 2 else 0.02) * torch.randn(parameter.shape))
        norms = [part for part in net.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train().momentum = 1.0
        net(torch.randn(8, 3, case.side, case.side))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum
            # Channels that hardly vary would make rounding errors large.
            norm.running_var.add_(0.1)
    return net


def card(name: str, side: int) -> ModelInfo:
    """What is known of a network without it."""
    return ModelInfo(
        name=name,
        family="timm",
        weights=WeightsInfo(origin="random", identity=f"random:{name}:0"),
        view=View(crop=side),
        mean=MEAN,
        std=STD,
        label_space="sample",
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )


def build(name: str, seed: int = 0) -> AnyTimmModel:
    """A new Model of the case."""
    return AnyTimmModel(random_network(CASES[name], seed), card(name, CASES[name].side))


@cache
def built(name: str) -> AnyTimmModel:
    """One Model of the case for all tests that leave it as it was."""
    return build(name)


@cache
def bare(name: str) -> Any:
    """timm's own network with the same weights."""
    return random_network(CASES[name]).requires_grad_(False)


def pixels(name: str, n: int = 3) -> torch.Tensor:
    """Noise of another strength in each image, channel and half, so that their means differ, too."""
    side, generator = CASES[name].side, torch.Generator().manual_seed(n)
    strength = torch.rand(n, 3, 2, 1, generator=generator).repeat_interleave(side // 2, dim=2)
    return strength * torch.rand(n, 3, side, side, generator=generator)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """By torchvision."""
    return tv.normalize(images, list(MEAN), list(STD))


def _target(name: str) -> Callable[..., AnyTimmModel]:
    """The builder of a case, as an entry names it."""

    def make(*, weights: WeightsChoice) -> AnyTimmModel:
        return build(name, weights.seed)

    return make


# An entry finds its target by an attribute of this module.
for _name in CASES:
    globals()[f"build_{_name}"] = _target(_name)


def subject(name: str) -> Subject:
    """The case as a subject of the contract kit."""
    case = CASES[name]
    entry = ModelEntry(
        name=name,
        target=f"{__name__}:build_{name}",
        summary="a reduced network",
        view=View(crop=case.side),
        label_space=None if case.num_classes is None else "sample",
        capabilities=case.capabilities,
    )
    return Subject(entry=entry, make=lambda: build(name))
