"""Reading attention: which blocks have it, who asks in them, which keys are patches, and the rows of a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from harness.protocols import ProbeContext
    from harness.types import BlockAttention, ModelInfo

BlockChoice: TypeAlias = Literal["all"] | tuple[int, ...]
"""Blocks by number, negative ones from the end, or all of which a model gives attention."""

AUTO = "auto"
"""As a token: the class token of a model that has one, the mean over the patches of any other."""
MEAN = "mean"
"""As a token: the mean over all patches that ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """What the attention of a block is over, whatever the image.

    ``kind`` and ``distribution`` are those of :class:`~harness.types.BlockAttention`. ``queries`` and ``keys`` are
    counted with prefix tokens; ``grid``: rows and columns of the patches among the keys.
    """

    kind: Literal["global", "class"]
    distribution: bool
    heads: int
    queries: int
    keys: int
    grid: tuple[int, int]

    @property
    def patches(self) -> int:
        """How many keys are patches."""
        return self.grid[0] * self.grid[1]

    @property
    def prefix(self) -> int:
        """How many keys are prefix tokens; they come first."""
        return self.keys - self.patches


def attention_blocks(info: ModelInfo) -> tuple[int, ...]:
    """The blocks of which the model gives attention, rising; empty for one that gives none."""
    from harness.types import Capability

    if Capability.ATTENTION not in info.capabilities:
        return ()
    return tuple(sorted(info.attention_blocks)) if info.attention_blocks is not None else tuple(range(info.num_blocks))


def require_attention(info: ModelInfo, blocks: Iterable[int] | None = None) -> tuple[int, ...]:
    """``blocks`` (zero-based, negative from the end; None: all that have attention) as zero-based numbers, rising.

    Raises :class:`~harness.errors.CapabilityError` for a model without attention, or a block without.
    """
    there = attention_blocks(info)
    if not there:
        raise CapabilityError(f"model {info.name} gives no attention", hint="take a transformer")
    if blocks is None:
        return there
    found = sorted(
        {block % info.num_blocks if -info.num_blocks <= block < info.num_blocks else block for block in blocks}
    )
    if missing := [block for block in found if block not in there]:
        raise CapabilityError(
            f"model {info.name} gives no attention of block {', '.join(map(str, missing))}",
            hint=f"it gives that of blocks {', '.join(map(str, there))}",
        )
    return tuple(found)


def attention_layouts(context: ProbeContext, blocks: Iterable[int], probe: str) -> dict[int, AttentionLayout]:
    """What the attention of each of ``blocks`` is over: the model is asked about one black image.

    A card does not say which blocks attend among patches. Raises :class:`~harness.errors.CapabilityError` where the
    context holds no model, and as :func:`patch_grid` does.
    """
    import torch

    from harness.types import OutputSpec

    model, info, wanted = context.network, context.model, sorted(blocks)
    if model is None:
        raise CapabilityError(
            f"probe {probe} must ask the model what its blocks attend to, and was given its card alone"
        )
    black = torch.zeros(1, 3, info.input_size, info.input_size, device=context.device)
    with torch.no_grad():
        found = model.outputs(black, OutputSpec(attention=frozenset(wanted))).attention
    layouts = {}
    for block in wanted:
        grid = patch_grid(found[block], info)
        _, heads, queries, keys = found[block].weights.shape
        layouts[block] = AttentionLayout(
            kind="class" if found[block].kind == "class" else "global",
            distribution=found[block].distribution,
            heads=heads,
            queries=queries,
            keys=keys,
            grid=grid,
        )
    return layouts


def asking_token(info: ModelInfo, token: str) -> str:
    """``token``, with the one that :data:`AUTO` stands for in its place.

    Raises :class:`~harness.errors.CapabilityError` for a prefix token that the model has not.
    """
    if token == AUTO:
        return "cls" if "cls" in info.prefix else MEAN
    if token != MEAN and token not in info.prefix:
        named = f"its prefix tokens are {', '.join(info.prefix)}" if info.prefix else "it has patch tokens alone"
        raise CapabilityError(
            f"model {info.name} has no token named {token!r}", hint=f"{named}; token={MEAN} is the mean over patches"
        )
    return token


def token_asks(layout: AttentionLayout, info: ModelInfo, token: str) -> bool:
    """Whether ``token``, a prefix token or :data:`MEAN`, is among those that ask the patches in a block."""
    if token == MEAN:
        return layout.kind == "global"
    return layout.prefix == len(info.prefix) > 0


def patch_grid(attention: BlockAttention, info: ModelInfo) -> tuple[int, int]:
    """Rows and columns of the patches among the keys.

    Raises :class:`~harness.errors.CapabilityError` for attention within windows, and where patches were dropped, so
    that the rest fill no grid.
    """
    if attention.kind == "window":
        raise CapabilityError(
            f"model {info.name} attends within windows, not over the whole image",
            hint="take a model with global attention",
        )
    keys = attention.weights.shape[3]
    prefixed = attention.kind == "class" or attention.weights.shape[2] == keys
    for prefix in (len(info.prefix), 0, *range(1, len(info.prefix))) if prefixed else (0,):
        side = round((keys - prefix) ** 0.5) if keys > prefix else 0
        expected = info.input_size // info.patch_size if info.patch_size else side
        if side and side * side == keys - prefix and side == expected:
            return side, side
    raise CapabilityError(
        f"model {info.name}: attention over {keys} tokens, which are no whole grid of patches",
        hint="patches were dropped inside the model; perturb pixels instead",
    )


def token_to_patches(attention: BlockAttention, info: ModelInfo, token: str) -> Tensor:
    """Attention of a prefix token to the patches, (N, heads, patches) as it is, not made to sum to one again.

    Raises :class:`~harness.errors.CapabilityError` for a token that the model, or this block, has not.
    """
    rows, columns = patch_grid(attention, info)
    if token not in info.prefix:
        raise CapabilityError(
            f"model {info.name} has no token named {token!r}",
            hint=f"its prefix tokens are {', '.join(info.prefix)}" if info.prefix else "it has patch tokens alone",
        )
    prefix = attention.weights.shape[3] - rows * columns
    if attention.kind == "global" and prefix != len(info.prefix):
        raise CapabilityError(
            f"model {info.name}: this block's attention is among patches alone", hint="choose a later block"
        )
    found: Tensor = attention.weights[:, :, info.prefix.index(token), -rows * columns :]
    return found


def token_rows(attention: BlockAttention, info: ModelInfo, token: str) -> Tensor:
    """Attention of a prefix token, or of :data:`MEAN`, to all keys, (N, heads, keys); the last keys are the patches.

    Raises as :func:`token_to_patches` and :func:`patches_to_patches` do.
    """
    if token != MEAN:
        token_to_patches(attention, info, token)
        row: Tensor = attention.weights[:, :, info.prefix.index(token)]
        return row
    patches_to_patches(attention, info)
    rows, columns = patch_grid(attention, info)
    mean: Tensor = attention.weights[:, :, -rows * columns :].float().mean(dim=2)
    return mean


def patches_to_patches(attention: BlockAttention, info: ModelInfo) -> Tensor:
    """Attention among the patches, (N, heads, patches, patches) as it is, not made to sum to one again.

    Raises :class:`~harness.errors.CapabilityError` for a block in which only prefix tokens ask.
    """
    rows, columns = patch_grid(attention, info)
    if attention.kind != "global":
        raise CapabilityError(
            f"model {info.name}: in this block class tokens alone attend", hint="choose an earlier block"
        )
    found: Tensor = attention.weights[:, :, -rows * columns :, -rows * columns :]
    return found
