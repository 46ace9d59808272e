"""Global random generators, seeded for the length of a call of a library that draws from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """The global generators of Python, NumPy and torch start from ``seed`` (64 bits); afterwards they are as before.

    Those of every accelerator that is in use are among them. No other thread may draw from them meanwhile.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what the library draws from
    metal = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]  # torch's own
    with torch.random.fork_rng(devices=cuda):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - what the library draws from
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002 - what the library draws from
            if metal is not None:
                torch.mps.set_rng_state(metal)
