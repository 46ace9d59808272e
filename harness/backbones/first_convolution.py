"""The first convolution that a forward pass makes, with the weights that it really multiplies by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def first_convolution(run: Callable[[], object]) -> Tensor | None:
    """The weight (D, C / groups, rows, columns) of the first 2-d convolution that ``run`` makes, None if it makes none.

    It is what the convolution is given, so that of a layer that standardises its weights it is the standardised one.
    """
    with torch.no_grad(), _Listening() as heard:
        run()
    return None if heard.weight is None else heard.weight.detach()


class _Listening(TorchFunctionMode):
    """Lets everything through and remembers the first weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor | None = None

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.conv2d and self.weight is None:
            self.weight = args[1] if len(args) > 1 else given["weight"]
        return func(*args, **given)
