"""What checks measure: differences between tensors, receipts of pixels, and the global random state."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from harness.testing.kit import ContractViolation, expect
from harness.types import ImageBatch, Measurement, ModelOutputs

_UNLIKELY_SEED = 1_234_567_891


def tensors_of(outputs: ModelOutputs) -> dict[str, Tensor]:
    """Every tensor of a model's outputs by a readable name, such as ``tokens of block 3, prefix``."""
    named = {f"logits {head}": logits for head, logits in outputs.logits.items()}
    if outputs.pooled is not None:
        named["pooled"] = outputs.pooled
    for kind, blocks in (("tokens", outputs.tokens), ("normed tokens", outputs.normed_tokens)):
        for block, tokens in blocks.items():
            named[f"{kind} of block {block}, prefix"] = tokens.prefix
            named[f"{kind} of block {block}, patches"] = tokens.patches
    for block, attention in outputs.attention.items():
        named[f"attention of block {block}"] = attention.weights
    return {name: tensor.detach() for name, tensor in named.items()}


def expect_close(expected: ModelOutputs, found: ModelOutputs, *, tolerance: float, what: str) -> None:
    """Raise unless both hold the same tensors to ``tolerance`` relative to the largest magnitude (at least 1)."""
    left, right = tensors_of(expected), tensors_of(found)
    expect(
        set(left) == set(right),
        f"{what}: expected {', '.join(left) or 'nothing'}, found {', '.join(right) or 'nothing'}",
    )
    for name, tensor in left.items():
        shapes = f"expected shape {tuple(tensor.shape)}, found {tuple(right[name].shape)}"
        expect(tensor.shape == right[name].shape, f"{what}: {name}: {shapes}")
        distance, bound = largest_difference(tensor, right[name]), tolerance * max(1.0, largest(tensor))
        # Written so that NaN does not pass.
        expect(
            distance <= bound, f"{what}: {name}: expected equal to {bound:.1e}, found a difference of {distance:.1e}"
        )


def largest(tensor: Tensor) -> float:
    """The largest magnitude, 0 for an empty tensor."""
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def largest_difference(left: Tensor, right: Tensor) -> float:
    """The largest magnitude of ``left - right``, of equal shapes; NaN if either holds NaN where the other does not."""
    same = (left == right) | (left.isnan() & right.isnan())
    return largest((left.double() - right.double())[~same])


def pixel_receipts(images: Tensor) -> list[str]:
    """SHA-256 (hex) of each image's pixels rounded to 256 steps: equal receipts, equal pictures."""
    steps = (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() for image in steps]


def copy_of(batch: ImageBatch) -> ImageBatch:
    """A batch that shares no memory with ``batch``."""
    return ImageBatch(
        images=batch.images.clone(),
        labels=batch.labels.clone(),
        ids=batch.ids,
        positions=batch.positions.copy(),
        masks=None if batch.masks is None else batch.masks.clone(),
        regions=None if batch.regions is None else batch.regions.clone(),
        taken=None if batch.taken is None else batch.taken.clone(),
        columns={name: column.clone() for name, column in batch.columns.items()},
        realised={name: column.clone() for name, column in batch.realised.items()},
    )


def differing_fields(before: ImageBatch, after: ImageBatch) -> list[str]:
    """Names of the parts, of those in ``before``, that are not bit for bit the same in ``after``."""
    wrong = [name for name in ("images", "labels") if not torch.equal(getattr(before, name), getattr(after, name))]
    if before.ids != after.ids:
        wrong.append("ids")
    if not np.array_equal(before.positions, after.positions):
        wrong.append("positions")
    for name in ("masks", "regions", "taken"):
        maps, kept_maps = getattr(before, name), getattr(after, name)
        if maps is not None and (kept_maps is None or not torch.equal(maps, kept_maps)):
            wrong.append(name)
    for what in ("columns", "realised"):
        kept = getattr(after, what)
        wrong += [
            f"{what}.{name}"
            for name, column in getattr(before, what).items()
            if name not in kept or not torch.equal(column, kept[name])
        ]
    return wrong


def measurements_differ(expected: list[Measurement], found: list[Measurement], *, tolerance: float) -> str | None:
    """The first difference between two results in words, None if there is none beyond ``tolerance``."""
    if len(expected) != len(found):
        return f"expected {len(expected)} measurements, found {len(found)}"
    for left, right in zip(expected, found, strict=True):
        label = f"{left.metric}{dict(left.dims) or ''}"
        if (left.metric, dict(left.dims), left.n) != (right.metric, dict(right.dims), right.n):
            return f"expected {label} over n={left.n}, found {right.metric}{dict(right.dims) or ''} over n={right.n}"
        for part in ("value", "low", "high"):
            a, b = getattr(left, part), getattr(right, part)
            same = a == b or (a is not None and b is not None and (abs(a - b) <= tolerance or (a != a and b != b)))
            if not same:
                return f"{label}: expected {part} {a!r}, found {b!r}"
    return None


@contextmanager
def global_randomness_untouched(what: str) -> Iterator[None]:
    """Raise :class:`ContractViolation` if the global state of torch, numpy or random changes inside; put it back."""
    numpy_state = np.random.get_state()  # noqa: NPY002  # the global state is what is watched
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    changed: list[str] = []
    try:
        # A state that no component is likely to seed by itself: seeding again what is seeded already would not show.
        np.random.seed(_UNLIKELY_SEED)  # noqa: NPY002  # see above
        random.seed(_UNLIKELY_SEED)
        torch.manual_seed(_UNLIKELY_SEED)
        before = np.random.get_state(), random.getstate(), torch.get_rng_state()  # noqa: NPY002  # see above
        yield
        now = np.random.get_state()  # noqa: NPY002  # see above
        if not all(np.array_equal(a, b) for a, b in zip(before[0], now, strict=True)):
            changed.append("numpy.random")
        if random.getstate() != before[1]:
            changed.append("random")
        if not torch.equal(torch.get_rng_state(), before[2]):
            changed.append("torch")
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002  # see above
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
    if changed:
        raise ContractViolation(
            f"{what}: expected the global random state left alone, found that of {' and '.join(changed)} changed; "
            "draw from harness.rng, or from a generator of your own"
        )
