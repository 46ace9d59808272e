"""What every wrapped module needs, and a wrapper that makes a Model of a Python user's own module."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import CapabilityError, ParameterError
from harness.types import Capability, ModelInfo, ModelOutputs, OutputSpec, View, WeightsInfo


def check_want(info: ModelInfo, want: OutputSpec) -> None:
    """Nothing if the model claims all of ``want``.

    Raises :class:`~harness.errors.CapabilityError` for a want it does not claim, a block it has not, and attention of
    a block that has none.
    """
    needs = {
        Capability.LOGITS: want.logits,
        Capability.POOLED: want.pooled,
        Capability.TOKENS: bool(want.tokens or want.normed_tokens),
        Capability.ATTENTION: bool(want.attention),
    }
    for capability, wanted in needs.items():
        if wanted and capability not in info.capabilities:
            claimed = ", ".join(sorted(info.capabilities)) or "nothing"
            raise CapabilityError(f"model {info.name} gives no {capability.value}; it gives {claimed}")
    blocks = want.tokens | want.normed_tokens | want.attention
    if outside := sorted(block for block in blocks if not 0 <= block < info.num_blocks):
        raise CapabilityError(f"block {outside[0]} was asked of model {info.name} with {info.num_blocks} blocks")
    if info.attention_blocks is not None and (silent := sorted(want.attention - set(info.attention_blocks))):
        raise CapabilityError(
            f"block {silent[0]} of model {info.name} has no attention",
            hint=f"its blocks with attention are {', '.join(map(str, info.attention_blocks))}",
        )


def model_input(images: Tensor, info: ModelInfo) -> Tensor:
    """Pixels (N, 3, H, W) in [0, 1] as the network takes them: at its input size, less its mean, over its std.

    Pixels of another size are resized bicubically with antialiasing and cut back to [0, 1], which bicubic
    interpolation overshoots. Differentiable.
    """
    size = (info.input_size, info.input_size)
    if tuple(images.shape[-2:]) != size:
        images = functional.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
        images = images.clamp(0, 1)
    mean = torch.tensor(info.mean, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(info.std, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


def wrap_module(
    module: nn.Module,
    *,
    name: str,
    view: View | str,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    label_space: str | None = None,
    gives: Literal["logits", "pooled"] = "logits",
    pooled_input_of: str | None = None,
) -> ModuleModel:
    """Make a :class:`~harness.protocols.Model` of any module that maps normalised (N, 3, H, W) to (N, C).

    ``view`` (or its text, ``resize=256,crop=224``), ``mean`` and ``std`` say what the module was trained on;
    ``label_space`` what its classes are.
    ``gives``: whether the (N, C) are class scores, or features of a backbone without a head.
    ``pooled_input_of`` names the submodule whose input is the pre-logits vector (``"fc"``, ``"head"``); a module
    with timm's ``forward_features`` and ``forward_head`` needs no such name.

    The module is tried on one black image to see what it gives. It stays the caller's: it is put into eval mode with
    frozen parameters for the length of each call only. The weights' identity is taken now, so wrap it again after
    training it further. Raises :class:`~harness.errors.ParameterError` for a module of other inputs or outputs.
    """
    if pooled_input_of is not None and pooled_input_of not in dict(module.named_modules()):
        raise ParameterError(
            f"model {name}: there is no submodule {pooled_input_of!r}",
            hint=f"its own parts are {', '.join(part for part, _ in module.named_children())}",
        )
    reading = hashlib.sha256(f"{module_digest(module)}|{gives}|{pooled_input_of}".encode()).hexdigest()
    info = ModelInfo(
        name=name,
        family="module",
        weights=WeightsInfo(origin="checkpoint", identity=f"sha256:{reading}", source=type(module).__qualname__),
        view=View.parse(view) if isinstance(view, str) else view,
        mean=mean,
        std=std,
        label_space=label_space if gives == "logits" else None,
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )
    return ModuleModel(module, _probe(module, info, gives, pooled_input_of), gives, pooled_input_of)


def module_digest(module: nn.Module) -> str:
    """SHA-256 (hex) over the module's class, what it prints of its parts, and its state: name, type, shape and value.

    What a forward method does beside its parts is not seen: give two such modules two names.
    """
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}|{module!r}".encode())
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().tobytes())
        else:
            digest.update(f"|{name}|{value!r}|".encode())
    return digest.hexdigest()


class ModuleModel:
    """A Python user's module as a Model; made by :func:`wrap_module`."""

    def __init__(
        self,
        module: nn.Module,
        info: ModelInfo,
        gives: Literal["logits", "pooled"],
        pooled_input_of: str | None,
    ) -> None:
        self._module = module
        self._info = info
        self._gives = gives
        self._pooled_input_of = pooled_input_of

    @property
    def info(self) -> ModelInfo:
        """The model's card."""
        return self._info

    def outputs(self, images: Tensor, want: OutputSpec) -> ModelOutputs:
        """See :meth:`harness.protocols.Model.outputs`."""
        check_want(self._info, want)
        with _as_model(self._module):
            given, pooled = _run(self._module, model_input(images, self._info), self._pooled_input_of, want.pooled)
        if self._gives == "pooled":
            return ModelOutputs(pooled=given)
        return ModelOutputs(
            logits={self._info.heads[0]: given.float()} if want.logits else {}, pooled=pooled if want.pooled else None
        )

    def to(self, device: torch.device | str) -> ModuleModel:
        """Moves the module itself, as ``nn.Module.to`` does."""
        self._module.to(device)
        return self


def _probe(module: nn.Module, info: ModelInfo, gives: str, pooled_input_of: str | None) -> ModelInfo:
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    black = torch.zeros(1, 3, info.input_size, info.input_size, device=device)
    timm_style = _has_timm_parts(module)
    with _as_model(module), torch.enable_grad():
        pixels = model_input(black, info).requires_grad_()
        direct = module(pixels)
        if not isinstance(direct, Tensor) or direct.ndim != 2 or len(direct) != 1:
            found = f"a tensor of shape {tuple(direct.shape)}" if isinstance(direct, Tensor) else type(direct).__name__
            raise ParameterError(
                f"model {info.name}: an image of shape (1, 3, {info.input_size}, {info.input_size}) gave {found}, "
                "not a tensor of shape (1, C)",
                hint="wrap it in a module whose forward returns the class scores alone",
            )
        through = torch.autograd.grad(direct.sum(), pixels, allow_unused=True)[0] if direct.requires_grad else None
        pooled: Tensor | None = None
        if gives == "logits" and (pooled_input_of is not None or timm_style):
            again, pooled = _run(module, pixels, pooled_input_of, pooled=True)
            _check_pooled(info, pooled, same=torch.allclose(again, direct, rtol=1e-4, atol=1e-5))
    capabilities = {Capability.LOGITS if gives == "logits" else Capability.POOLED}
    width = pooled.shape[1] if pooled is not None else direct.shape[1] if gives == "pooled" else None
    if width is not None:
        capabilities.add(Capability.POOLED)
    if through is not None:
        capabilities.add(Capability.GRADIENTS)
    return dataclasses.replace(
        info,
        num_classes=direct.shape[1] if gives == "logits" else None,
        embed_dim=width or 0,
        pooled_dim=width,
        heads=("head",) if gives == "logits" else (),
        capabilities=frozenset(capabilities),
    )


def _check_pooled(info: ModelInfo, pooled: Tensor | None, *, same: bool) -> None:
    if pooled is None or pooled.ndim != 2:
        found = "nothing" if pooled is None else f"shape {tuple(pooled.shape)}"
        raise ParameterError(f"model {info.name}: the pre-logits must have shape (1, D), but {found} came")
    if not same:
        raise ParameterError(
            f"model {info.name}: forward_head(forward_features(x)) and forward(x) differ",
            hint="name the head, pooled_input_of='head', so that the pre-logits are taken from forward itself",
        )


def _has_timm_parts(module: nn.Module) -> bool:
    head = getattr(module, "forward_head", None)
    if not callable(head) or not callable(getattr(module, "forward_features", None)):
        return False
    return "pre_logits" in inspect.signature(head).parameters


def _run(module: nn.Module, pixels: Tensor, pooled_input_of: str | None, pooled: bool) -> tuple[Tensor, Tensor | None]:
    """The module's output and, if asked for, its pre-logits, from one pass through its trunk."""
    if not pooled or (pooled_input_of is None and not _has_timm_parts(module)):
        return module(pixels), None
    if pooled_input_of is None:
        timm_like = cast(Any, module)
        features = timm_like.forward_features(pixels)
        return timm_like.forward_head(features), timm_like.forward_head(features, pre_logits=True)
    seen: list[Tensor] = []
    handle = module.get_submodule(pooled_input_of).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        given = module(pixels)
    finally:
        handle.remove()
    return given, seen[-1] if seen else None


@contextmanager
def _as_model(module: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters while the context is open, then everything as it was."""
    modes = [(part, part.training) for part in module.modules()]
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        if any(training for _, training in modes):
            module.eval()
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        if module.training != modes[0][1]:
            module.train(modes[0][1])
        for part, training in modes:
            part.training = training
        for parameter in learning:
            parameter.requires_grad_(True)
