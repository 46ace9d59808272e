"""Work on one image after the other, spread over the threads that torch may use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def by_image(make: Callable[[Any], npt.NDArray[Any]], items: Iterable[Any]) -> npt.NDArray[Any]:
    """``make`` of every item, stacked in their order; at least one item.

    NumPy's arithmetic, sorting and generators, and Pillow's filters, leave other threads free to run meanwhile.
    """
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        return np.stack(list(pool.map(make, items)))
