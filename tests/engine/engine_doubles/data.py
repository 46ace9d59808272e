"""Generated images in memory, and a dataset that writes down what is loaded from it."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from engine_doubles.models import CLASSES, SIDE_PX, SPACE
from harness import TensorDataset
from harness.errors import DataError
from harness.loader import take
from harness.protocols import SplitIndex
from harness.types import View


def pictures(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3, SIDE_PX, SIDE_PX) float32 in [0, 1], a tint per class under noise; labels sorted, as in folders."""
    generator = np.random.default_rng(seed)
    labels = np.sort(np.arange(count) % len(CLASSES))
    tint = np.random.default_rng(7).uniform(0.25, 0.75, (len(CLASSES), 3, 1, 1))
    images = tint[labels] + generator.uniform(-0.25, 0.25, (count, 3, SIDE_PX, SIDE_PX))
    return images.astype(np.float32), labels


def tiny_dataset(*, query=33, support=18, label_space=SPACE, name="tints") -> TensorDataset:
    return TensorDataset(
        *pictures(query, seed=1),
        name=name,
        classes=CLASSES,
        label_space=label_space,
        support=pictures(support, seed=2) if support else None,
    )


class CountingDataset:
    """``loaded``: (split, position) of every image decoded. Unreadable positions fail, or are skipped if told so."""

    def __init__(self, dataset=None, *, unreadable=(), skip=False, ids=None, **info):
        self._dataset = dataset or tiny_dataset()
        self._unreadable = set(unreadable)
        self._skip = skip
        self._ids = ids or {}
        self._info = replace(self._dataset.info, **info)
        self._lock = threading.Lock()
        self.loaded: list[tuple[str, int]] = []
        self.threads: set[str] = set()

    @property
    def info(self):
        return self._info

    def index(self, split):
        index = self._dataset.index(split)
        return SplitIndex(ids=self._ids[split], labels=index.labels) if split in self._ids else index

    def load(self, split, positions, view):
        with self._lock:
            self.loaded += [(split, position) for position in positions]
            self.threads.add(threading.current_thread().name)
        good = [position for position in positions if (split, position) not in self._unreadable]
        if len(good) < len(positions) and not self._skip:
            bad = next(position for position in positions if (split, position) in self._unreadable)
            raise DataError(f"cannot decode {self.index(split).ids[bad]}")
        if not good:
            return take(self._dataset.load(split, list(positions), view), slice(0, 0))
        return self._dataset.load(split, good, view)

    def positions(self, split: str) -> list[int]:
        return sorted(position for where, position in self.loaded if where == split)


def make_tints():
    return tiny_dataset()


def make_graded(*, grade: int = 1):
    return CountingDataset(fingerprint=f"graded {grade}", view=View(crop=12))
