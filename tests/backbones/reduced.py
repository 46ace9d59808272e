"""Reduced networks of timm's transformer families: each wrapped, bare, and as a subject of the contract kit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import timm
import torch
import torchvision.transforms.v2.functional as tv

from harness.backbones.cait import CaiTModel
from harness.backbones.convit import ConViTModel
from harness.backbones.pit import PiTModel
from harness.backbones.swin import SwinModel
from harness.backbones.tnt import TNTModel
from harness.backbones.xcit import XCiTModel
from harness.entries import ModelEntry
from harness.params import param
from harness.testing import SampleOptions, Subject
from harness.types import Capability, ModelInfo, OutputSpec, View, WeightsInfo
from harness.weights import WeightsChoice

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES = 10
EVERY_CAPABILITY = frozenset(Capability)
LATE_CLASS_TOKEN = EVERY_CAPABILITY - {Capability.CLASS_TOKEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One reduced network: timm's name and arguments, and what its wrapper is expected to say."""

    wrapper: type
    arch: str
    side: int
    blocks: int
    width: int
    prefix: tuple[str, ...] = ()
    droppable: bool = False
    positions: bool = True
    pool_site: bool = False
    capabilities: frozenset[Capability] = LATE_CLASS_TOKEN
    attention_blocks: tuple[int, ...] | None = None
    heads: tuple[str, ...] = ("head",)
    patch_size: int | None = 16
    sizes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> list[str]:
        named = (("pos_embed", self.positions), ("pool", self.pool_site))
        return [*(f"block:{i}" for i in range(self.blocks)), *(site for site, there in named if there)]


_CAIT = {"embed_dim": 32, "depth": 3, "num_heads": 4, "depth_token_only": 2}
_CONVIT = {"embed_dim": 8, "num_heads": 4, "depth": 4, "local_up_to_layer": 2}
_PIT = {"base_dims": (8, 8, 8), "depth": (1, 2, 2), "heads": (2, 4, 8)}
_SWIN = {"embed_dim": 8, "depths": (2, 2, 3), "num_heads": (2, 2, 4), "window_size": 4}
_TNT = {"embed_dim": 24, "inner_dim": 8, "depth": 3, "num_heads_outer": 3, "num_heads_inner": 2}
_XCIT = {"embed_dim": 32, "depth": 2, "num_heads": 4}

CASES = {
    "cait": Case(
        wrapper=CaiTModel, arch="cait_xxs24_224", side=64, blocks=5, width=32, prefix=("cls",), droppable=True,
        sizes=_CAIT,
    ),
    "cait_average": Case(
        wrapper=CaiTModel, arch="cait_xxs24_224", side=48, blocks=5, width=32, prefix=("cls",), droppable=True,
        sizes={**_CAIT, "global_pool": "avg"},
    ),
    "convit": Case(
        wrapper=ConViTModel, arch="convit_tiny", side=64, blocks=4, width=32, prefix=("cls",), droppable=True,
        sizes=_CONVIT,
    ),
    "convit_no_positions": Case(
        wrapper=ConViTModel, arch="convit_tiny", side=48, blocks=4, width=32, prefix=("cls",), droppable=True,
        positions=False, sizes={**_CONVIT, "use_pos_embed": False},
    ),
    "pit": Case(
        wrapper=PiTModel, arch="pit_ti_224", side=64, blocks=5, width=64, prefix=("cls",),
        capabilities=EVERY_CAPABILITY, patch_size=None, sizes=_PIT,
    ),
    "pit_distilled": Case(
        wrapper=PiTModel, arch="pit_ti_distilled_224", side=56, blocks=5, width=64, prefix=("cls", "dist"),
        capabilities=EVERY_CAPABILITY, heads=("average", "cls", "dist"), patch_size=None, sizes=_PIT,
    ),
    "swin": Case(
        wrapper=SwinModel, arch="swin_tiny_patch4_window7_224", side=64, blocks=7, width=32, positions=False,
        pool_site=True, patch_size=4, sizes=_SWIN,
    ),
    "swin_padded": Case(
        wrapper=SwinModel, arch="swin_tiny_patch4_window7_224", side=56, blocks=7, width=32, positions=False,
        pool_site=True, patch_size=4, sizes=_SWIN,
    ),
    "tnt": Case(
        wrapper=TNTModel, arch="tnt_s_patch16_224", side=64, blocks=3, width=24, prefix=("cls",), droppable=True,
        capabilities=EVERY_CAPABILITY, sizes=_TNT,
    ),
    "tnt_legacy": Case(
        wrapper=TNTModel, arch="tnt_s_legacy_patch16_224", side=48, blocks=3, width=24, prefix=("cls",),
        droppable=True, capabilities=EVERY_CAPABILITY, sizes=_TNT,
    ),
    "xcit": Case(
        wrapper=XCiTModel, arch="xcit_nano_12_p16_224", side=64, blocks=4, width=32, prefix=("cls",),
        attention_blocks=(2, 3), sizes=_XCIT,
    ),
    "xcit_p8_no_positions": Case(
        wrapper=XCiTModel, arch="xcit_tiny_12_p8_224", side=32, blocks=4, width=32, prefix=("cls",), positions=False,
        attention_blocks=(2, 3), patch_size=8, sizes={**_XCIT, "use_pos_embed": False},
    ),
}  # fmt: skip


def random_network(case: Case, seed: int = 0) -> Any:
    """timm's reduced network in eval mode, with no parameter near its initial value.

    Scales of branches and variances lie in [0.5, 1.5], so that a wrong branch is seen; all else is shifted by normal
    draws large enough that attention is far from uniform.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        net = timm.create_model(
            case.arch, pretrained=False, img_size=case.side, num_classes=CLASSES, **case.sizes
        ).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if "gamma" in name or "running_var" in name:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        else:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return net


def card(name: str) -> ModelInfo:
    """What is known of a case without its network."""
    return ModelInfo(
        name=name,
        family="timm",
        weights=WeightsInfo(origin="random", identity=f"random:{name}:1"),
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
    return CASES[name].wrapper(random_network(CASES[name], seed), card(name))


@cache
def built(name: str) -> Any:
    """One Model of the case for all tests that leave it as it was."""
    return build(name)


@cache
def bare(name: str) -> Any:
    """timm's own network with the same weights."""
    return random_network(CASES[name]).requires_grad_(False)


def pixels(name: str, n: int = 3) -> torch.Tensor:
    side = CASES[name].side
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(n))


def normalised(images: torch.Tensor) -> torch.Tensor:
    """By torchvision."""
    return tv.normalize(images, list(MEAN), list(STD))


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal to ``tolerance``, relative to the largest magnitude where that is over one."""
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance * scale)


def logits(name: str, images: torch.Tensor) -> torch.Tensor:
    """Those of the default head."""
    return built(name).outputs(images, OutputSpec(logits=True)).logits[CASES[name].heads[0]]


def pooled(name, images):
    return built(name).outputs(images, OutputSpec(pooled=True)).pooled


def everything(name: str) -> OutputSpec:
    case = CASES[name]
    blocks = frozenset(range(case.blocks))
    attention = blocks if case.attention_blocks is None else frozenset(case.attention_blocks)
    return OutputSpec(logits=True, pooled=True, tokens=blocks, normed_tokens=blocks, attention=attention)


def ids_of(images: torch.Tensor) -> tuple[str, ...]:
    return tuple(f"image{i}" for i in range(len(images)))


def zeroed(tokens):
    """An intervention that sets every token to zero."""
    return replace(tokens, prefix=torch.zeros_like(tokens.prefix), patches=torch.zeros_like(tokens.patches))


def keep(indices: torch.Tensor):
    """An intervention that keeps the patches ``indices`` (N, K) of those that are there."""

    def fn(tokens):
        n, there = tokens.patches.shape[:2]
        before = torch.arange(there).expand(n, -1) if tokens.kept is None else tokens.kept
        patches = tokens.patches.take_along_dim(indices.unsqueeze(-1), dim=1)
        return replace(tokens, patches=patches, kept=before.take_along_dim(indices, dim=1))

    return fn


def some_patches(n: int, cells: int, count: int, seed: int = 0) -> torch.Tensor:
    """Indices (N, count) of patches, other ones for every image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(cells, generator=generator)[:count].sort().values for _ in range(n)])


def rows(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Tokens (N, K, D) of ``x`` (N, L, D), an image at a time."""
    return torch.stack([image[places] for image, places in zip(x, indices, strict=True)])


def seen_by(net: Any, modules: Mapping[Any, Any], images: torch.Tensor, *, entering: bool = False) -> dict[Any, Any]:
    """What leaves (or enters) each of ``modules`` in timm's own forward pass."""
    found: dict[Any, Any] = {}
    handles = [
        module.register_forward_hook(
            lambda _, given, result, key=key: found.__setitem__(key, given[0] if entering else result)
        )
        for key, module in modules.items()
    ]
    try:
        net(normalised(images))
    finally:
        for handle in handles:
            handle.remove()
    return found


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(N, T, heads * d) as (N, heads, T, d)."""
    n, t, width = x.shape
    return x.reshape(n, t, heads, width // heads).transpose(1, 2)


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """By the definition."""
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseParams:
    """Which of :data:`CASES`."""

    case: str = param(help="name of a reduced network")


def build_case(*, case: str, weights: WeightsChoice) -> Any:
    """The target of every case's entry; random weights are drawn from their seed."""
    return build(case, weights.seed)


def subject(name: str) -> Subject:
    """The case as a subject of the contract kit."""
    case = CASES[name]
    entry = ModelEntry(
        name=name,
        summary="a reduced network",
        target=f"{__name__}:build_case",
        params=CaseParams,
        view=View(crop=case.side),
        capabilities=case.capabilities,
        label_space="sample",
    )
    return Subject(
        entry=entry,
        make=lambda: build_case(case=name, weights=WeightsChoice(origin="random")),
        params={"case": name},
        facts={"view": entry.view, "label_space": "sample", "capabilities": case.capabilities},
        sample=SampleOptions(side_px=case.side, classes=CLASSES),
    )
