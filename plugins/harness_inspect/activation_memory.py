"""The memory that a piece of work takes for tensors it makes: counted at every operation, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_of_new_tensors(run: Callable[[], object]) -> int:
    """Most bytes that tensors made by ``run`` hold at any moment between two of its operations.

    A storage counts once, however many views look at it, from the operation that makes it until nothing refers to it.
    Tensors that were there before (parameters, inputs) count nothing, nor does what an operation needs inside itself
    (a convolution's workspace). ``run`` is called without gradients. The same on every run and device, but for the
    kernels that a device chooses: fused attention never holds the matrix of weights that plain attention makes.
    """
    live = _LiveStorages()
    with torch.inference_mode(False), torch.no_grad(), live:
        run()
    return live.peak


class _LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Follows the storages of all tensors that operations take and give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        for tensor in _tensors((args, given)):
            self._meet(tensor, made=False)
        result = func(*args, **given)
        for tensor in _tensors(result):
            self._meet(tensor, made=True)
        self.peak = max(self.peak, self.now)
        return result

    def _meet(self, tensor: Tensor, *, made: bool) -> None:
        storage = tensor.untyped_storage()
        place = id(storage)
        if place in self._known:
            return
        size = storage.nbytes() if made else 0

        def gone(_: object) -> None:
            del self._known[place]
            self.now -= size

        # torch keeps one Python object for a storage as long as a tensor holds it, so its end is the storage's.
        self._known[place] = weakref.ref(storage, gone)
        self.now += size


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]
