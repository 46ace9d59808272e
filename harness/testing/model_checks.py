"""Checks of models: honest capabilities, one consistent forward pass, and nothing left changed behind."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.built_facts import torch_modules
from harness.errors import CapabilityError
from harness.protocols import Model
from harness.testing.kit import CheckFunction, NotApplicableError, Subject, expect, expect_refusal
from harness.testing.observe import (
    expect_close,
    global_randomness_untouched,
    largest,
    largest_difference,
    tensors_of,
)
from harness.testing.sample import sample_batch, take_outputs
from harness.types import Capability, ModelInfo, ModelOutputs, OutputSpec

TOLERANCE = 1e-4
"""Between two ways to compute one number in float32, relative to the largest magnitude."""


def check_capabilities_delivered(subject: Subject) -> None:
    """Every capability claimed is delivered, finite, and of the shape that the model's card says."""
    model, info, images = _tried(subject, count=2)
    given = model.outputs(images, _everything(info))
    n = len(images)
    expect(tuple(given.logits) == info.heads, f"expected logits of the heads {info.heads}, found {tuple(given.logits)}")
    for head, logits in given.logits.items():
        _expect_shape(f"logits {head}", logits, (n, info.num_classes))
    if Capability.POOLED in info.capabilities:
        expect(given.pooled is not None, "expected pooled features, as claimed, found none")
        expect(info.pooled_dim is not None, "pooled features are claimed, but the card gives no pooled_dim")
        _expect_shape("pooled", given.pooled, (n, info.pooled_dim))
    if Capability.TOKENS in info.capabilities:
        _expect_tokens(given, info, n)
    if Capability.ATTENTION in info.capabilities:
        _expect_attention(given, info, n)
    for name, tensor in tensors_of(given).items():
        expect(bool(tensor.isfinite().all()), f"{name}: expected finite numbers, found NaN or infinity")


def _expect_tokens(given: ModelOutputs, info: ModelInfo, n: int) -> None:
    blocks = _blocks(info)
    for kind, found in (("tokens", given.tokens), ("normed tokens", given.normed_tokens)):
        expect(set(found) == set(blocks), f"expected {kind} of blocks {blocks}, found those of {sorted(found)}")
        for block in blocks:
            what, tokens, width = f"{kind} of block {block}", found[block], found[block].patches.shape[-1]
            # Some transformers add their class token late; the last block decides.
            late = 0 if block < info.num_blocks - 1 and tokens.prefix.shape[1] == 0 else len(info.prefix)
            _expect_shape(f"{what}, prefix", tokens.prefix, (n, late, width))
            _expect_shape(f"{what}, patches", tokens.patches, (n, tokens.grid[0] * tokens.grid[1], width))
    width = given.tokens[info.num_blocks - 1].patches.shape[-1]
    expect(width == info.embed_dim, f"expected tokens of the last block {info.embed_dim} wide, found {width}")


def _expect_attention(given: ModelOutputs, info: ModelInfo, n: int) -> None:
    blocks = _attention_blocks(info)
    expect(
        set(given.attention) == set(blocks), f"expected attention of blocks {blocks}, found {sorted(given.attention)}"
    )
    for block, attention in given.attention.items():
        what, weights = f"attention of block {block}", attention.weights
        expect(weights.ndim == 4, f"{what}: expected (N, heads, queries, keys), found {tuple(weights.shape)}")
        if attention.kind != "window":
            expect(len(weights) == n, f"{what}: expected {n} images, found {len(weights)}")
        if not attention.distribution:
            continue
        off = largest_difference(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        expect(off <= TOLERANCE, f"{what}: expected every row to sum to 1, found one that is off by {off:.1e}")


def check_exactly_what_was_asked(subject: Subject) -> None:
    """Outputs hold what was asked for and nothing else."""
    model, info, images = _tried(subject)
    for name, want in _single_wants(info).items():
        given = model.outputs(images, want)
        found = {
            "logits": bool(given.logits),
            "pooled": given.pooled is not None,
            "tokens": bool(given.tokens),
            "normed_tokens": bool(given.normed_tokens),
            "attention": bool(given.attention),
        }
        held = [part for part, there in found.items() if there]
        expect(held == [name], f"asked for {name} alone, found {', '.join(held) or 'nothing'}")


def check_unclaimed_refused(subject: Subject) -> None:
    """What the model does not claim raises CapabilityError."""
    model, info, images = _tried(subject)
    wants = {
        Capability.LOGITS: OutputSpec(logits=True),
        Capability.POOLED: OutputSpec(pooled=True),
        Capability.TOKENS: OutputSpec(tokens=frozenset({0})),
        Capability.ATTENTION: OutputSpec(attention=frozenset({0})),
    }
    for capability, want in wants.items():
        if capability not in info.capabilities:
            ask = functools.partial(model.outputs, images, want)
            expect_refusal(CapabilityError, f"{capability} is not claimed", ask)
    if info.attention_blocks is not None:
        for block in sorted(set(_blocks(info)) - set(info.attention_blocks)):
            ask = functools.partial(model.outputs, images, OutputSpec(attention=frozenset({block})))
            expect_refusal(CapabilityError, f"attention of block {block} is not claimed", ask)
    if Capability.INTERVENTION not in info.capabilities and hasattr(model, "intervene"):
        expect_refusal(CapabilityError, "intervention is not claimed", lambda: _open(model, "block:0", images))


def check_missing_block_refused(subject: Subject) -> None:
    """A block that the model has not raises CapabilityError."""
    model, info, images = _tried(subject)
    if Capability.TOKENS not in info.capabilities:
        raise NotApplicableError("claims no tokens")
    for block in (info.num_blocks, -1):
        ask = functools.partial(model.outputs, images, OutputSpec(tokens=frozenset({block})))
        expect_refusal(CapabilityError, f"tokens of block {block} of {info.num_blocks}", ask)


def check_union_equals_parts(subject: Subject) -> None:
    """One call that asks for everything gives what separate calls give."""
    model, info, images = _tried(subject)
    whole = model.outputs(images, _everything(info))
    for name, want in _single_wants(info).items():
        part = {name: getattr(whole, name)}
        expect_close(ModelOutputs(**part), model.outputs(images, want), tolerance=TOLERANCE, what=f"{name} alone")


def check_images_independent(subject: Subject) -> None:
    """What comes out for an image does not depend on which others are in the batch."""
    model, info, images = _tried(subject, count=2)
    want = _everything(info)
    whole = model.outputs(images, want)
    windows = {block for block, attention in whole.attention.items() if attention.kind == "window"}
    want = replace(want, attention=want.attention - windows)
    whole = replace(whole, attention={b: a for b, a in whole.attention.items() if b not in windows})
    for row in range(len(images)):
        alone = model.outputs(images[row : row + 1], want)
        expect_close(take_outputs(whole, [row]), alone, tolerance=TOLERANCE, what=f"image {row} alone")


def check_deterministic(subject: Subject) -> None:
    """Two calls on the same images give the same bits."""
    model, info, images = _tried(subject)
    want = _everything(info)
    expect_close(model.outputs(images, want), model.outputs(images, want), tolerance=0.0, what="a second call")


def check_rebuilt_equal(subject: Subject) -> None:
    """Building the model again with the same weights gives the same model."""
    model, info, images = _tried(subject)
    want = _everything(info)
    again = subject.make().outputs(images, want)
    expect_close(model.outputs(images, want), again, tolerance=TOLERANCE, what="the model built again")


def check_global_randomness_untouched(subject: Subject) -> None:
    """Building the model and asking it leave the global random state alone."""
    with global_randomness_untouched("building the model"):
        model = subject.make()
    images = _images(model.info)
    with global_randomness_untouched("outputs"):
        model.outputs(images, _everything(model.info))


def check_eval_mode(subject: Subject) -> None:
    """Every forward pass runs in eval mode with frozen parameters."""
    model, info, images = _tried(subject)
    training: list[str] = []
    free: list[str] = []

    def look(name: str, module: nn.Module) -> None:
        if module.training:
            training.append(name)
        free.extend(f"{name}.{p}" for p, value in module.named_parameters(recurse=False) if value.requires_grad)

    seen = _watch(model, look, lambda: model.outputs(images, _everything(info)))
    expect(seen > 0, "expected a forward pass through the model's modules, found none")
    expect(not training, f"expected eval mode, found {len(training)} modules in train mode, such as {_first(training)}")
    expect(not free, f"expected frozen parameters, found {len(free)} that require gradients, such as {_first(free)}")


def check_state_untouched(subject: Subject) -> None:
    """Asking the model changes none of its parameters, buffers and running statistics."""
    model, info, images = _tried(subject)
    modules = _modules(model)
    before = [{name: value.clone() for name, value in _state(module).items()} for module in modules]
    model.outputs(images, _everything(info))
    for module, state in zip(modules, before, strict=True):
        for name, value in _state(module).items():
            same = name in state and state[name].shape == value.shape and torch.equal(state[name], value)
            expect(same, f"expected the state left as it was, found {name} changed by a call of outputs")


def check_images_untouched(subject: Subject) -> None:
    """The images given are not changed in place."""
    model, info, images = _tried(subject)
    before = images.clone()
    model.outputs(images, _everything(info))
    distance = largest_difference(before, images)
    expect(distance == 0, f"expected the caller's images left alone, found them changed by up to {distance:.3g}")


def check_unit_range_accepted(subject: Subject) -> None:
    """All-black and all-white images are taken and give finite numbers."""
    model, info, images = _tried(subject)
    black_and_white = torch.cat([torch.zeros_like(images), torch.ones_like(images)])
    for name, tensor in tensors_of(model.outputs(black_and_white, _everything(info))).items():
        expect(bool(tensor.isfinite().all()), f"{name}: expected finite numbers, found NaN or infinity")


def check_normalised_once(subject: Subject) -> None:
    """The first layer sees pixels less the card's mean, over its std: normalised inside, and once."""
    model, info, images = _tried(subject)
    inputs: list[tuple[str, Tensor]] = []

    def look(name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d | nn.Unfold | nn.Linear) and arguments and isinstance(arguments[0], Tensor):
            inputs.append((f"{type(module).__name__} {name}", arguments[0].detach().clone()))

    handles = [
        part.register_forward_pre_hook(lambda part, given, name=name: look(name, part, given))
        for module in _modules(model)
        for name, part in module.named_modules()
    ]
    try:
        model.outputs(images, next(iter(_single_wants(info).values())))
    finally:
        for handle in handles:
            handle.remove()
    if not inputs or inputs[0][1].shape != images.shape:
        raise NotApplicableError("the first layer does not take the whole image, so its input cannot be compared")
    layer, found = inputs[0]
    mean, std = torch.tensor(info.mean).view(1, 3, 1, 1), torch.tensor(info.std).view(1, 3, 1, 1)
    distance = largest_difference((images - mean) / std, found)
    ranges = f"expected (pixels - mean) / std, found numbers from {float(found.min()):.3g} to {float(found.max()):.3g}"
    expect(
        distance <= TOLERANCE * 10,
        f"input of {layer}: {ranges}, off by up to {distance:.3g} for mean {info.mean} and std {info.std}",
    )


def check_other_sizes_accepted(subject: Subject) -> None:
    """Images of another size than the model's own are resized inside and give outputs of the same shapes."""
    model, info, images = _tried(subject)
    want = _everything(info)
    own = {name: tuple(tensor.shape) for name, tensor in tensors_of(model.outputs(images, want)).items()}
    for side in (info.input_size + 17, max(8, info.input_size // 2)):
        other = sample_batch([0] * len(images), side_px=side).images
        found = {name: tuple(tensor.shape) for name, tensor in tensors_of(model.outputs(other, want)).items()}
        expect(found == own, f"images of {side} px: expected the shapes {own}, found {found}")


def check_differentiable_as_claimed(subject: Subject) -> None:
    """Outputs are differentiable in the images exactly if the model claims gradients, even after inference mode."""
    # A model of its own: what is kept from the first call must be made in inference mode.
    model = subject.make()
    info, images = model.info, _images(model.info)
    claimed = Capability.GRADIENTS in info.capabilities
    want = _everything(info)
    with torch.inference_mode():
        model.outputs(images, want)
    leaf = images.clone().requires_grad_()
    with torch.enable_grad():
        named = _tensors_with_graph(model.outputs(leaf, want))
    for name, tensor in named.items():
        verb = "do not carry" if claimed else "carry"
        expect(
            tensor.requires_grad == claimed,
            f"gradients are {'' if claimed else 'not '}claimed, but {name} {verb} a graph back to the images",
        )
        if claimed:
            # A plain sum of layer-normalised features has no gradient at all, hence weights that differ.
            loss = (tensor * torch.linspace(-1, 1, tensor[0].numel()).view(tensor[0].shape)).sum()
            (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
            for row, part in enumerate(gradient):
                size = largest(part)
                expect(0 < size < float("inf"), f"{name}: expected a finite gradient for image {row}, found {size:.3g}")


def check_moves(subject: Subject) -> None:
    """Moving the model to the device it is on gives the same model."""
    model, info, images = _tried(subject)
    before = model.outputs(images, _everything(info))
    moved = model.to("cpu")
    expect(isinstance(moved, Model), f"expected to() to return a model, found a {type(moved).__name__}")
    expect_close(before, moved.outputs(images, _everything(info)), tolerance=0.0, what="after to('cpu')")


CHECKS: tuple[CheckFunction, ...] = (
    check_capabilities_delivered,
    check_exactly_what_was_asked,
    check_unclaimed_refused,
    check_missing_block_refused,
    check_union_equals_parts,
    check_images_independent,
    check_deterministic,
    check_rebuilt_equal,
    check_global_randomness_untouched,
    check_eval_mode,
    check_state_untouched,
    check_images_untouched,
    check_unit_range_accepted,
    check_normalised_once,
    check_other_sizes_accepted,
    check_differentiable_as_claimed,
    check_moves,
)


def _tried(subject: Subject, *, count: int = 1) -> tuple[Model, ModelInfo, Tensor]:
    """The model, its card and ``count`` images of its own size: as few as will do, for a large model takes its time."""
    model: Model = subject.shared
    return model, model.info, _images(model.info, count=count)


def _images(info: ModelInfo, *, count: int = 1) -> Tensor:
    return sample_batch([*range(count)], side_px=info.input_size).images


def _blocks(info: ModelInfo) -> list[int]:
    return _spread(range(info.num_blocks))


def _attention_blocks(info: ModelInfo) -> list[int]:
    return _blocks(info) if info.attention_blocks is None else _spread(info.attention_blocks)


def _spread(blocks: Sequence[int]) -> list[int]:
    """The first, the middle and the last of ``blocks``."""
    return sorted({blocks[0], blocks[len(blocks) // 2], blocks[-1]}) if blocks else []


def _everything(info: ModelInfo) -> OutputSpec:
    want = OutputSpec()
    for single in _single_wants(info).values():
        want |= single
    return want


def _single_wants(info: ModelInfo) -> dict[str, OutputSpec]:
    blocks = frozenset(_blocks(info))
    wants = {
        "logits": (Capability.LOGITS, OutputSpec(logits=True)),
        "pooled": (Capability.POOLED, OutputSpec(pooled=True)),
        "tokens": (Capability.TOKENS, OutputSpec(tokens=blocks)),
        "normed_tokens": (Capability.TOKENS, OutputSpec(normed_tokens=blocks)),
        "attention": (Capability.ATTENTION, OutputSpec(attention=frozenset(_attention_blocks(info)))),
    }
    claimed = {name: want for name, (capability, want) in wants.items() if capability in info.capabilities}
    expect(bool(claimed), "expected at least one kind of output, found a card that claims none")
    return claimed


def _expect_shape(what: str, tensor: Tensor | None, shape: tuple[int | None, ...]) -> None:
    found = None if tensor is None else tuple(tensor.shape)
    expect(found == shape, f"{what}: expected shape {shape}, found {found}")
    assert tensor is not None
    expect(tensor.dtype == torch.float32, f"{what}: expected float32, found {tensor.dtype}")


def _tensors_with_graph(outputs: ModelOutputs) -> dict[str, Tensor]:
    """One tensor per kind of output, the last block's where there are several."""
    found = {f"logits {head}": logits for head, logits in outputs.logits.items()}
    if outputs.pooled is not None:
        found["pooled"] = outputs.pooled
    for kind, blocks in (("tokens", outputs.tokens), ("normed tokens", outputs.normed_tokens)):
        if blocks:
            found[f"{kind} of block {max(blocks)}"] = blocks[max(blocks)].patches
    if outputs.attention:
        found[f"attention of block {max(outputs.attention)}"] = outputs.attention[max(outputs.attention)].weights
    return found


def _modules(model: Model) -> list[nn.Module]:
    modules = torch_modules(model)
    if not modules:
        raise NotApplicableError("the model holds no torch module that could be watched")
    return modules


def _state(module: nn.Module) -> dict[str, Tensor]:
    return dict((*module.named_parameters(), *module.named_buffers()))


def _watch(model: Model, look: Callable[[str, nn.Module], None], action: Callable[[], object]) -> int:
    """Run ``action`` and show ``look`` every module that is called meanwhile; returns how many were."""
    seen = 0

    def before(name: str, module: nn.Module) -> None:
        nonlocal seen
        seen += 1
        look(name, module)

    handles = [
        part.register_forward_pre_hook(lambda part, _, name=name: before(name, part))
        for module in _modules(model)
        for name, part in module.named_modules()
    ]
    try:
        action()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _first(names: list[str]) -> str:
    return next(iter(names), "") or "the model itself"


def _open(model: Any, site: str, images: Tensor) -> None:
    with model.intervene(site, lambda tokens: tokens, ids=("sample",) * len(images)):
        pass
