"""Any network of a stem, stages whose maps are tokens, a pool and a classifier, as a Model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from harness.backbones.network import NetworkModel, map_tokens
from harness.types import BlockTokens, Capability, ModelInfo, ModelOutputs, OutputSpec


def unchanged(x: Tensor) -> Tensor:
    """What stands in for a part that a network has not."""
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Where a network is cut: its parts, in the order in which a forward pass goes through them.

    ``stem`` takes normalised pixels (N, 3, H, W), each of ``stages`` the map (N, C, H, W) that left the one before, and
    ``norm`` the map of the last, whose width it keeps; what leaves it is pooled. ``pool`` makes the pre-logits vector
    (N, D) of it, ``classify`` class scores (N, ``num_classes``) of that vector.
    ``embed_dim`` is the width of the last map, ``pooled_dim`` is D; ``num_classes`` is 0 for a network without a head.
    ``classify_reads``: ``map`` for a classifier that reads the map itself, past the pool.
    """

    stem: Callable[[Tensor], Tensor]
    stages: Sequence[Callable[[Tensor], Tensor]]
    pool: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor]
    embed_dim: int
    pooled_dim: int
    num_classes: int
    norm: Callable[[Tensor], Tensor] = unchanged
    classify_reads: Literal["pooled", "map"] = "pooled"


def chain(parts: Iterable[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """``parts`` one after the other; unlike an ``nn.Sequential`` it is no module with a mode of its own."""
    held = tuple(parts)

    def run(x: Tensor) -> Tensor:
        for part in held:
            x = part(x)
        return x

    return run


def timm_stages(
    net: Any,
    *,
    stem: Callable[[Tensor], Tensor],
    stages: Sequence[Callable[[Tensor], Tensor]],
    norm: Callable[[Tensor], Tensor] = unchanged,
) -> Stages:
    """Stages of a network that ends with timm's ``forward_head``: pooling, classifier and sizes are read off it."""

    def pool(x: Tensor) -> Tensor:
        pooled: Tensor = net.forward_head(x, pre_logits=True)
        return pooled

    return Stages(
        stem=stem,
        stages=stages,
        norm=norm,
        pool=pool,
        classify=net.get_classifier(),
        embed_dim=net.num_features,
        pooled_dim=net.head_hidden_size,
        num_classes=net.num_classes,
    )


class StagedModel(NetworkModel):
    """A network in stages.

    Tokens of block i are the map that leaves stage i, a token a place in row-major order, without prefix; width and
    grid differ by stage. ``normed_tokens`` of the last stage went through ``norm``; those of the others are the same as
    their tokens, since it has another width. ``pooled`` is what ``pool`` gives. Sites: ``stage:i`` sees the map that
    enters stage i, ``pool`` the one that is pooled; places cannot be dropped.
    """

    def __init__(self, net: Any, card: ModelInfo, stages: Stages) -> None:
        """``card``: what is known without the network; the rest is read off ``stages``."""
        self._stages = stages
        count, classes = len(stages.stages), stages.num_classes
        capabilities = {Capability.POOLED, Capability.TOKENS, Capability.GRADIENTS, Capability.INTERVENTION}
        info = replace(
            card,
            label_space=card.label_space if classes else None,
            num_classes=classes or None,
            num_blocks=count,
            embed_dim=stages.embed_dim,
            pooled_dim=stages.pooled_dim,
            heads=("head",) if classes else (),
            capabilities=frozenset(capabilities | ({Capability.LOGITS} if classes else set())),
        )
        super().__init__(net, info, sites=[*(f"stage:{i}" for i in range(count)), "pool"], droppable=False)

    def _forward(self, pixels: Tensor, want: OutputSpec) -> ModelOutputs:
        parts = self._stages
        tokens: dict[int, BlockTokens] = {}
        wanted = want.tokens | want.normed_tokens
        head, end = want.logits or want.pooled, len(parts.stages) - 1
        last = end if head else max(wanted, default=-1)
        x = parts.stem(pixels)
        for i, stage in enumerate(parts.stages[: last + 1]):
            x = stage(self._enter_map(f"stage:{i}", x))
            if i in wanted:
                tokens[i] = map_tokens(x)
        normed = tokens
        if head or end in want.normed_tokens:
            x = parts.norm(x)
            normed = {**tokens, end: map_tokens(x)}
        logits, pooled = self._head(self._enter_map("pool", x), want) if head else (None, None)
        return ModelOutputs(
            logits={} if logits is None else {"head": logits.float()},
            pooled=pooled,
            tokens={i: tokens[i] for i in want.tokens},
            normed_tokens={i: normed[i] for i in want.normed_tokens},
        )

    def _head(self, x: Tensor, want: OutputSpec) -> tuple[Tensor | None, Tensor | None]:
        """Logits and pooled, as far as they are wanted."""
        parts, reads_map = self._stages, self._stages.classify_reads == "map"
        pooled = parts.pool(x) if want.pooled or not reads_map else x
        logits = parts.classify(x if reads_map else pooled) if want.logits else None
        return logits, pooled if want.pooled else None
