"""The arithmetic of an attack's own forward and backward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from harness.errors import ParameterError
from harness_attacks.parameters import AttackPrecision

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FP16_SCALE = 1024.0


def autocast(precision: AttackPrecision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_HALVES[precision])


def loss_scale(precision: AttackPrecision) -> float:
    """What a loss is multiplied by before it is differentiated, and its gradient with it.

    The small gradients of a confident classifier would vanish in fp16, whose smallest number is 6e-8. An attack goes
    by signs and normalised gradients, so the scale need not be taken out again.
    """
    return _FP16_SCALE if precision == "fp16" else 1.0


@contextmanager
def differentiating(precision: AttackPrecision, device: torch.device) -> Iterator[None]:
    """Autograd on whatever the caller's mode; fp32 in all of its 24 bits, which CUDA would cut to TF32's 11."""
    with torch.inference_mode(False), torch.enable_grad():
        if precision != "fp32" or device.type != "cuda":
            yield
            return
        before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def require_precision(precision: AttackPrecision, device: torch.device, attack: str) -> None:
    """Raise :class:`~harness.errors.ParameterError` for fp16 on a CPU, where kernels are missing or very slow."""
    if precision == "fp16" and device.type == "cpu":
        raise ParameterError(
            f"{attack}: precision=fp16 is for accelerators, and this run is on the CPU",
            hint="use precision=bf16, which has float32's range, or fp32",
        )
