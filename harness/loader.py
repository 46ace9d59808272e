"""Decoding ahead of the model: batches in order, from threads, of whatever size is in force."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.protocols import Dataset
from harness.types import ImageBatch, View

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(slots=True)
class BatchSize:
    """The batch size in force; out of memory halves it for all that follows."""

    value: int
    _asked: int = field(init=False)

    def __post_init__(self) -> None:
        self._asked = self.value

    def halve(self, images: int) -> bool:
        """Go on with half of a batch of ``images`` that was too large; False if one image is already too much."""
        if images <= 1:
            return False
        self.value = (min(images, self.value) + 1) // 2
        return True

    def restore(self) -> None:
        """Back to what was asked for: what did not fit even with one image takes no further part."""
        self.value = self._asked


def load_batches(
    dataset: Dataset,
    split: str,
    positions: npt.NDArray[np.int64],
    view: View,
    *,
    batch_size: BatchSize,
    workers: int,
) -> Iterator[tuple[int, ImageBatch]]:
    """Batches of the images at ``positions``, in that order, each with how many positions it consumed.

    A batch holds fewer images than it consumed where the dataset skips unreadable ones. ``workers`` threads decode
    ahead (0: none); pixels do not depend on their number. What ``dataset.load`` raises is raised here.
    """
    if workers == 0:
        start = 0
        while start < len(positions):
            chunk = positions[start : start + batch_size.value]
            yield len(chunk), dataset.load(split, chunk.tolist(), view)
            start += len(chunk)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="harness-decode") as pool:
        pending: deque[tuple[int, Future[ImageBatch]]] = deque()
        start = 0
        try:
            while start < len(positions) or pending:
                while start < len(positions) and len(pending) <= workers:
                    chunk = positions[start : start + batch_size.value]
                    pending.append((len(chunk), pool.submit(dataset.load, split, chunk.tolist(), view)))
                    start += len(chunk)
                consumed, future = pending.popleft()
                yield consumed, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def split_batch(batch: ImageBatch, size: int) -> list[ImageBatch]:
    """``batch`` cut into consecutive batches of at most ``size`` images."""
    if len(batch) <= size:
        return [batch]
    return [take(batch, slice(start, start + size)) for start in range(0, len(batch), size)]


def take(batch: ImageBatch, part: slice) -> ImageBatch:
    """The images of ``batch`` in ``part``, with everything known of them."""
    return ImageBatch(
        images=batch.images[part],
        labels=batch.labels[part],
        ids=batch.ids[part],
        positions=batch.positions[part],
        masks=None if batch.masks is None else batch.masks[part],
        regions=None if batch.regions is None else batch.regions[part],
        taken=None if batch.taken is None else batch.taken[part],
        columns={name: column[part] for name, column in batch.columns.items()},
        realised={name: column[part] for name, column in batch.realised.items()},
    )
