"""A reference dataset, and doubles that each break one promise of a dataset."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

import numpy as np
import torch

from contract_doubles.subjects import doubles_of, subject
from harness.entries import DatasetEntry
from harness.errors import DataError
from harness.protocols import DatasetInfo, SplitIndex
from harness.types import ImageBatch, View

CLASSES = ("red", "green", "blue")


class GoodColours:
    """Twelve plain colours in each of two splits."""

    queries = 12

    @property
    def info(self):
        return DatasetInfo(
            name="colours",
            classes=CLASSES,
            label_space="colours",
            splits=("train", "test"),
            query_split="test",
            whole_split="test",
            support_split="train",
            fingerprint="0123456789abcdef",
        )

    def index(self, split):
        if split not in self.info.splits:
            raise DataError(f"colours: no split {split!r}")
        return SplitIndex(ids=[self.id(split, i) for i in range(self.queries)], labels=self.labels(split))

    def id(self, split, i):
        return f"{split}/{i}"

    def labels(self, split):
        return np.arange(self.queries, dtype=np.int64) % len(CLASSES)

    def pixels(self, split, position, view):
        picture = torch.full((3, view.crop, view.crop), 0.05 * position)
        picture[self.labels(split)[position] % 3] = 1.0
        return picture

    def load(self, split, positions, view):
        index = self.index(split)
        pictures = [self.pixels(split, position, view) for position in positions]
        return ImageBatch(
            images=torch.stack(pictures),
            labels=torch.from_numpy(index.labels[list(positions)]),
            ids=tuple(index.ids[position] for position in positions),
            positions=np.array(positions, dtype=np.int64),
        )


class AsksAboutAMissingSplit(GoodColours):
    @property
    def info(self):
        return replace(super().info, whole_split="val")


class OtherOrderEachTime(GoodColours):
    opened = 0

    def __init__(self):
        type(self).opened += 1
        self.shift = self.opened

    def id(self, split, i):
        return f"{split}/{(i + self.shift) % self.queries}"


class OtherFingerprintEachTime(GoodColours):
    opened = 0

    def __init__(self):
        type(self).opened += 1
        self.fingerprint = f"{self.opened:016x}"

    @property
    def info(self):
        return replace(super().info, fingerprint=self.fingerprint)


class SharesIdsBetweenSplits(GoodColours):
    def id(self, split, i):
        return str(i)


class RepeatsAnId(GoodColours):
    def id(self, split, i):
        return super().id(split, max(i, 1))


class CountsClassesFromOne(GoodColours):
    def labels(self, split):
        return super().labels(split) + 1


class KeyErrorForAnUnknownSplit(GoodColours):
    def index(self, split):
        if split not in self.info.splits:
            raise KeyError(split)
        return super().index(split)


class SortsPositions(GoodColours):
    def load(self, split, positions, view):
        return super().load(split, sorted(positions), view)


class LabelsOfAnotherSplit(GoodColours):
    def load(self, split, positions, view):
        batch = super().load(split, positions, view)
        return replace(batch, labels=(batch.labels + 1) % len(CLASSES))


class BytesInsteadOfFractions(GoodColours):
    def pixels(self, split, position, view):
        return super().pixels(split, position, view) * 255


class IgnoresTheView(GoodColours):
    def pixels(self, split, position, view):
        return super().pixels(split, position, replace(view, resize=40, crop=40))


class StretchesContrastByBatch(GoodColours):
    def load(self, split, positions, view):
        batch = super().load(split, positions, view)
        return batch.with_images(batch.images * (0.5 + 0.5 * float(batch.images.mean())))


class SharesABuffer(GoodColours):
    """As a file handle that every thread seeks and then reads."""

    def __init__(self):
        self.inside = 0
        self.lock = threading.Lock()

    def pixels(self, split, position, view):
        with self.lock:
            self.inside += 1
        time.sleep(0.002)
        alone = self.inside == 1
        with self.lock:
            self.inside -= 1
        picture = super().pixels(split, position, view)
        return picture if alone else 1 - picture


class ShufflesWithTheGlobalGenerator(GoodColours):
    def index(self, split):
        random.random()
        return super().index(split)


class OtherLabelSpaceThanTheEntry(GoodColours):
    @property
    def info(self):
        return replace(super().info, label_space="shades")


class StoredColours(GoodColours):
    """Ready to use at 24 pixels: nothing of it is resized again."""

    @property
    def info(self):
        return replace(super().info, view=View(crop=24))

    def load(self, split, positions, view):
        if view.resize is not None:
            raise DataError(f"these images are not resized again: view {view.text}")
        return super().load(split, positions, view)


class ResizesStoredImages(StoredColours):
    def load(self, split, positions, view):
        return super().load(split, positions, replace(view, resize=None))


COLOURS = DatasetEntry(name="colours", target=f"{__name__}:GoodColours", summary="plain colours", label_space="colours")

REFERENCES = {
    "GoodColours": subject(COLOURS),
    "StoredColours": subject(replace(COLOURS, target=f"{__name__}:StoredColours")),
}
DOUBLES = doubles_of(
    COLOURS,
    AsksAboutAMissingSplit,
    OtherOrderEachTime,
    OtherFingerprintEachTime,
    SharesIdsBetweenSplits,
    RepeatsAnId,
    CountsClassesFromOne,
    KeyErrorForAnUnknownSplit,
    SortsPositions,
    LabelsOfAnotherSplit,
    BytesInsteadOfFractions,
    IgnoresTheView,
    ResizesStoredImages,
    StretchesContrastByBatch,
    SharesABuffer,
    ShufflesWithTheGlobalGenerator,
    OtherLabelSpaceThanTheEntry,
)
