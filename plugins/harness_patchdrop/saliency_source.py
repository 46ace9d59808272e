"""Where saliency comes from: a model's attention, the gradient in the pixels, or the exact foreground."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.errors import CapabilityError, ParameterError
from harness.protocols import Model, PerturbationContext
from harness.types import Capability, ImageBatch, JSONValue, ModelInfo, OutputSpec
from harness_patchdrop.grids import cell_of_pixel
from harness_patchdrop.saliency_masks import whole_numbers
from harness_patchdrop.saliency_parameters import SALIENCY_WORDS, Head, SalientDropParams

NUMERICS_VERSION = 1
"""Raised whenever a map comes out otherwise; part of every key, so that stored maps are never mistaken for new ones."""

_OTHER_SOURCES = "name another source: saliency=dino_s16 for photographs, self for the evaluated model, or mask"


class Source(Protocol):
    """Gives maps of whole numbers from 0 up, none of them all zeros."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the maps."""
        ...

    @property
    def key(self) -> JSONValue:
        """All that a map depends on beside the image, or None for maps that are not worth keeping."""
        ...

    def maps(self, batch: ImageBatch, rows: Sequence[int]) -> npt.NDArray[np.int32]:
        """The maps (n, cells) int32 of the images at ``rows``."""
        ...


def source_of(
    params: SalientDropParams, given: Mapping[str, Model], grid: tuple[int, int], context: PerturbationContext
) -> Source:
    """The source that ``params`` name, for masks of ``grid``.

    ``given``: models by parameter, that of the caller before those of the context. Raises
    :class:`~harness.errors.ParameterError` for a name without a model, a parameter that says nothing there, and a
    model for images of quite another size, and :class:`~harness.errors.CapabilityError` for one that lacks what it
    takes.
    """
    if params.saliency != "gradient" and params.gradient_of != "self":
        raise ParameterError(
            f"gradient_of={params.gradient_of} says nothing with saliency={params.saliency}", hint="saliency=gradient"
        )
    if params.saliency in ("mask", "gradient") and (params.head, params.block) != ("mean", -1):
        raise ParameterError(
            f"head={params.head} and block={params.block} say nothing with saliency={params.saliency}, which reads no "
            "attention",
            hint="leave them out, or name a model whose attention is to be read",
        )
    if params.saliency_norm == "classifier" and params.saliency in SALIENCY_WORDS:
        raise ParameterError(
            f"saliency_norm=classifier is for the attention of a named model, not for saliency={params.saliency}"
        )
    if params.saliency == "mask":
        return MaskSource(grid=grid)
    parameter = "gradient_of" if params.saliency == "gradient" else "saliency"
    model = _model(parameter, getattr(params, parameter), given, context)
    if params.saliency == "gradient":
        return GradientSource(model=model, context=context, grid=grid)
    return AttentionSource(
        model=model, context=context, head=params.head, block=params.block, norm=_norm(params, context)
    )


class ModelSource(ABC):
    """A source that asks a model, once per image.

    Images are asked about one by one, whatever the batch: the sums inside a network are rounded otherwise in batches of
    another size on most devices, and a map in its last bit can be another mask.
    """

    def __init__(self, model: Model, context: PerturbationContext) -> None:
        self._model = model
        self._upstream: dict[str, JSONValue] = {
            "numerics": NUMERICS_VERSION,
            "model": model_identity(model.info),
            "view": context.view.text,
            "dataset": context.dataset_fingerprint,
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "timm")},
        }

    @abstractmethod
    def _map(self, image: Tensor) -> Tensor:
        """The map (cells,) float64 of one image (1, 3, H, W), on any device."""

    def maps(self, batch: ImageBatch, rows: Sequence[int]) -> npt.NDArray[np.int32]:
        """See :meth:`Source.maps`. Raises :class:`~harness.errors.DataError` for a map that is not finite."""
        with _exact(batch.images.device):
            found = [self._map(batch.images[row : row + 1]) for row in rows]
        maps = torch.stack(found).cpu().numpy()
        return np.stack([whole_numbers(values, batch.ids[row]) for values, row in zip(maps, rows, strict=True)])


class AttentionSource(ModelSource):
    """How much the class token attends to each patch in one block, or each query to it where class tokens alone ask.

    ``norm``: mean and standard deviation that pixels are normalised by in place of the model's own, the habit of the
    authors' code (protocol 1.6). The maps are those of the model's own patches.
    """

    def __init__(
        self,
        *,
        model: Model,
        context: PerturbationContext,
        head: Head = "mean",
        block: int = -1,
        norm: ModelInfo | None = None,
    ) -> None:
        super().__init__(model, context)
        self._block = _attention_block(model.info, block)
        self._head = head
        self._norm = norm
        if norm is not None and context.view.crop != model.info.input_size:
            raise ParameterError(
                f"saliency_norm=classifier: model {model.info.name} takes {model.info.input_size} px and the images "
                f"have {context.view.crop}; resized, pixels of another normalisation would be cut off",
                hint="use saliency_norm=own, or a view of the model's size",
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the model's patches."""
        info = self._model.info
        assert info.patch_size is not None
        return (info.input_size // info.patch_size, info.input_size // info.patch_size)

    @property
    def key(self) -> JSONValue:
        """See :attr:`Source.key`."""
        norm = None if self._norm is None else [self._norm.mean, self._norm.std]
        asked: JSONValue = {"kind": "attention", "block": self._block, "head": self._head, "norm": norm}
        return {**self._upstream, "source": asked, "grid": self.grid}

    @torch.no_grad()
    def _map(self, image: Tensor) -> Tensor:
        info, cells = self._model.info, self.grid[0] * self.grid[1]
        if self._norm is not None:
            image = _as_if_normalised(image, self._norm, info)
        attention = self._model.outputs(image, OutputSpec(attention=frozenset({self._block}))).attention[self._block]
        weights = attention.weights[0].double()
        if attention.kind == "window" or weights.shape[2] < cells:
            raise CapabilityError(
                f"model {info.name}: its attention does not run over all {cells} patches", hint=_OTHER_SOURCES
            )
        if attention.kind == "class":
            by_head = weights[:, :, -cells:].mean(dim=1)
        elif "cls" in info.prefix and weights.shape[2] > cells:
            by_head = weights[:, info.prefix.index("cls"), -cells:]
        else:
            raise CapabilityError(
                f"model {info.name} has no class token to ask in block {self._block}", hint=_OTHER_SOURCES
            )
        if self._head == "mean":
            return by_head.mean(dim=0)
        if self._head == "max":
            return by_head.amax(dim=0)
        if self._head >= len(by_head):
            raise ParameterError(
                f"head={self._head}: block {self._block} of model {info.name} has {len(by_head)} heads",
                hint=f"use 0 to {len(by_head) - 1}, mean or max",
            )
        return by_head[self._head]


class GradientSource(ModelSource):
    """Size of the gradient, in the pixels, of the log-probability of the class that a model predicts.

    Absolute values are summed over the channels and the pixels of a cell (Simonyan et al., arXiv 1312.6034, section
    3.1, takes the largest channel of the class score instead).
    """

    def __init__(self, *, model: Model, context: PerturbationContext, grid: tuple[int, int]) -> None:
        super().__init__(model, context)
        if missing := {Capability.LOGITS, Capability.GRADIENTS} - model.info.capabilities:
            raise CapabilityError(
                f"saliency=gradient: model {model.info.name} gives no {' and no '.join(sorted(missing))}",
                hint="name a classifier with gradient_of=, or another saliency",
            )
        self._grid = grid

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the masks."""
        return self._grid

    @property
    def key(self) -> JSONValue:
        """See :attr:`Source.key`."""
        return {**self._upstream, "source": {"kind": "gradient"}, "grid": self._grid}

    def _map(self, image: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            pixels = image.detach().clone().requires_grad_()
            logits = self._model.outputs(pixels, OutputSpec(logits=True)).logits[self._model.info.heads[0]]
            predicted = logits.log_softmax(dim=1).max()
            (gradient,) = torch.autograd.grad(predicted, pixels)
        sizes = gradient[0].double().abs().sum(dim=0).cpu().numpy()
        return torch.from_numpy(_sums_of_cells(sizes[None], self._grid)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSource:
    """The exact foreground: how many of a cell's pixels belong to it. An image without any is salient everywhere."""

    grid: tuple[int, int]
    key: JSONValue = None

    def maps(self, batch: ImageBatch, rows: Sequence[int]) -> npt.NDArray[np.int32]:
        """See :meth:`Source.maps`. Raises :class:`~harness.errors.CapabilityError` for images without masks."""
        if batch.masks is None:
            raise CapabilityError(
                "saliency=mask: these images come without masks of their foreground",
                hint="use a dataset that has them, such as shapes, or the attention of a model as saliency",
            )
        foreground = batch.masks[list(rows)].cpu().numpy().astype(np.int32)
        counts = _sums_of_cells(foreground, self.grid)
        counts[~counts.any(axis=1)] = 1
        return counts


def model_identity(info: ModelInfo) -> JSONValue:
    """What makes two models give the same maps: name, weights, and what they do to pixels."""
    return {
        "name": info.name,
        "weights": info.weights.identity,
        "mean": info.mean,
        "std": info.std,
        "input_size": info.input_size,
    }


def _model(parameter: str, name: str, given: Mapping[str, Model], context: PerturbationContext) -> Model:
    if name == "self":
        if context.evaluated is None:
            raise CapabilityError(f"{parameter}=self: there is no model that is evaluated here", hint=_OTHER_SOURCES)
        return context.evaluated
    model = given.get(parameter, context.models.get(parameter))
    if model is None or name in SALIENCY_WORDS:
        raise ParameterError(
            f"{parameter}={name}: there is no model of that name here",
            hint=f"give the perturbation as text, 'patchdrop_salient:{parameter}=NAME', or {parameter} as a Model",
        )
    info, side = model.info, context.view.crop
    if not side / 2 <= info.input_size <= 2 * side:
        raise ParameterError(
            f"{parameter}={name}: model {info.name} takes images of {info.input_size} px, and these have {side}: "
            "its map of them would be no map of what it knows",
            hint=_OTHER_SOURCES,
        )
    return model.to(context.device)


def _norm(params: SalientDropParams, context: PerturbationContext) -> ModelInfo | None:
    if params.saliency_norm == "own":
        return None
    if context.evaluated is None:
        raise CapabilityError("saliency_norm=classifier: there is no model that is evaluated here")
    return context.evaluated.info


def _attention_block(info: ModelInfo, block: int) -> int:
    side = info.patch_size
    if Capability.ATTENTION not in info.capabilities or side is None or info.input_size % side:
        raise CapabilityError(f"saliency: model {info.name} has no attention over patches", hint=_OTHER_SOURCES)
    there = tuple(range(info.num_blocks)) if info.attention_blocks is None else info.attention_blocks
    asked = there[block] if -len(there) <= block < 0 else block
    if asked not in there:
        raise ParameterError(
            f"block={block}: the blocks of model {info.name} with attention are {', '.join(map(str, there))}",
            hint=f"use one of them, or -1 to -{len(there)} from the last",
        )
    return asked


def _as_if_normalised(image: Tensor, by: ModelInfo, inside: ModelInfo) -> Tensor:
    """Pixels that the normalisation ``inside`` a model turns into those that ``by`` gives for ``image``."""

    def column(values: tuple[float, float, float]) -> Tensor:
        return torch.tensor(values, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)

    return (image - column(by.mean)) / column(by.std) * column(inside.std) + column(inside.mean)


def _sums_of_cells(values: npt.NDArray[Any], grid: tuple[int, int]) -> npt.NDArray[Any]:
    """Sums of the pixels (N, H, W) of each cell of ``grid``: (N, rows * columns), of the same dtype."""
    for axis, cells in enumerate(grid, start=1):
        first = np.unique(cell_of_pixel(values.shape[axis], cells), return_index=True)[1]
        values = np.add.reduceat(values, first, axis=axis, dtype=values.dtype)
    return values.reshape(len(values), -1)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """float32 in all of its 24 bits, and kernels that give the same twice, whatever the run's precision."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
