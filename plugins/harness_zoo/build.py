"""What building any architecture of the zoo takes: where its weights come from, loading them, and its card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.state_dicts import load_strict, read_state_dict
from harness.types import ModelInfo, View
from harness.weights import WeightsChoice, file_digest, identify

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 1000
"""Of ImageNet-1k, the classes in their usual order."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, which every architecture of the zoo is fed with, those for CIFAR included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which weights of ``entry``, at which input size; see :class:`harness.model_params.NetworkParams`."""

    entry: str
    weights: WeightsChoice
    input: int = 0
    url: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights as they were read from a file: tensors by the names that the file gives them."""

    path: Path
    state: dict[str, Tensor]


def checkpoint(source: Source) -> Checkpoint | None:
    """The weights of ``source``; None for random ones.

    Raises :class:`~harness.errors.WeightsError` for pretrained weights without an address, and for weights that cannot
    be had or read.
    """
    path = source.weights.path
    if source.weights.origin == "pretrained":
        identify(source.weights, use=source.entry, url=source.url)  # refuses an architecture without an address
        from harness.url_weights import url_file

        path = url_file(str(source.url), sha256=source.sha256)
    return None if path is None else Checkpoint(path=path, state=read_state_dict(path))


def load(net: nn.Module, given: Checkpoint | None, source: Source) -> tuple[str, ...]:
    """Copy the weights into ``net``, which keeps its initial ones where none are given.

    Returns the names that were allowed to be missing, and were. Raises :class:`~harness.errors.WeightsError` for
    weights that do not fit.
    """
    if given is None:
        return ()
    return load_strict(net, given.state, source=str(given.path), allow_missing=source.weights.allow_missing).kept


def card(
    name: str,
    source: Source,
    given: Checkpoint | None,
    view: View,
    *,
    initial: tuple[str, ...],
    label_space: str = "imagenet1k",
) -> ModelInfo:
    """What is known without the network; the wrapper adds what it reads off it. ``initial``: as of :func:`load`."""
    identity = identify(source.weights, use=source.entry, url=source.url)
    return ModelInfo(
        name=name,
        family=source.entry,
        weights=identity if given is None else replace(identity, sha256=file_digest(given.path), initial=initial),
        view=view,
        mean=_MEAN,
        std=_STD,
        label_space=label_space,
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )
