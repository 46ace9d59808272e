"""The few images that ``harness show`` asks a probe about, as datasets: files, or some images of another dataset."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from harness.decision_files import cues_of
from harness.errors import DataError, UsageError
from harness.label_maps import find_label_map
from harness.protocols import DatasetInfo, SplitIndex
from harness.types import digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from harness.protocols import Dataset
    from harness.types import ImageBatch, View

SPLIT = "shown"


class ImageFiles:
    """Image files as a dataset of one split.

    Files called as the stimuli of the cue conflict are (``cat1-elephant2.png``) have its classes and its cues; others
    are of one class, ``image``. ``masks``: files with the object of each image, where it is not black. Raises
    :class:`~harness.errors.DataError` for a file that cannot be read.
    """

    def __init__(self, files: Sequence[Path], masks: Sequence[Path]) -> None:
        from harness.views import decode

        if masks and len(masks) != len(files):
            raise UsageError(
                f"{len(files)} images and {len(masks)} masks were given", hint="give --mask FILE once for every --image"
            )
        self._images = [decode(path) for path in files]
        self._masks = [_object(path, image) for path, image in zip(masks, self._images, strict=True)] if masks else None
        cues = [found for path in files if (found := cues_of(path.name)) is not None]
        label_map = find_label_map("imagenet1k", "imagenet16")
        assert label_map is not None
        self._cues: list[tuple[int, int]] | None = None
        if len(cues) == len(files) and all(name in label_map.classes for pair in cues for name in pair):
            self._cues = [(label_map.classes.index(shape), label_map.classes.index(texture)) for shape, texture in cues]
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*files, *masks)]
        names = [path.name for path in files]
        self._ids = tuple(
            name if names.count(name) == 1 else str(path) for name, path in zip(names, files, strict=True)
        )
        self._info = DatasetInfo(
            name="files",
            classes=("image",) if self._cues is None else label_map.classes,
            label_space=None if self._cues is None else "imagenet16",
            splits=(SPLIT,),
            query_split=SPLIT,
            whole_split=SPLIT,
            support_split=None,
            fingerprint=digest([*contents, *self._ids]),
        )

    @property
    def info(self) -> DatasetInfo:
        """The card of these files."""
        return self._info

    def index(self, split: str) -> SplitIndex:  # noqa: ARG002  # there is one
        """Names and labels."""
        import numpy as np

        labels = [0] * len(self._ids) if self._cues is None else [shape for shape, _ in self._cues]
        return SplitIndex(ids=self._ids, labels=np.array(labels, dtype=np.int64))

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """The images under ``view``, their masks under it, too."""
        import dataclasses

        import numpy as np
        import torch

        from harness.views import render, to_batch

        pixels = [render(self._images[place], view, name=self._ids[place]) for place in positions]
        batch = to_batch(
            np.stack(pixels),
            labels=self.index(split).labels[list(positions)],
            ids=[self._ids[place] for place in positions],
            positions=positions,
        )
        if self._masks is not None:
            nearest = dataclasses.replace(view, interpolation="nearest")
            found = [render(self._masks[place], nearest, name=self._ids[place])[0] > 0 for place in positions]
            batch = dataclasses.replace(batch, masks=torch.from_numpy(np.stack(found)))
        if self._cues is not None:
            shape, texture = (torch.tensor([self._cues[place][which] for place in positions]) for which in (0, 1))
            columns = {"shape": shape, "texture": texture, "conflict": (shape != texture).long()}
            batch = dataclasses.replace(batch, columns=columns)
        return batch


class ChosenImages:
    """Some images of another dataset, at ``positions`` of ``split``; probes learn from the same images as there."""

    def __init__(self, dataset: Dataset, split: str | None, positions: Sequence[int]) -> None:
        info = dataset.info
        self._dataset, self._split = dataset, split or info.query_split
        size = len(dataset.index(self._split))
        if outside := [position for position in positions if position >= size]:
            raise UsageError(
                f"--index {outside[0]}: split {self._split} of {info.name} has only {size:,} images",
                hint=f"give places from 0 to {size - 1}" if size else "choose another with --split",
            )
        self._positions = sorted(positions)
        self._info = DatasetInfo(
            name=info.name,
            classes=info.classes,
            label_space=info.label_space,
            splits=(SPLIT, *(() if info.support_split is None else (info.support_split,))),
            query_split=SPLIT,
            whole_split=SPLIT,
            support_split=info.support_split,
            fingerprint=digest([info.fingerprint, self._split, self._positions]),
            view=info.view,
        )

    @property
    def info(self) -> DatasetInfo:
        """The card of the other dataset, with other splits."""
        return self._info

    def index(self, split: str) -> SplitIndex:
        """Ids and labels of the images chosen, or of those that are learned from."""
        if split != SPLIT:
            return self._dataset.index(split)
        whole = self._dataset.index(self._split)
        return SplitIndex(ids=[whole.ids[place] for place in self._positions], labels=whole.labels[self._positions])

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """Images as the other dataset gives them."""
        import dataclasses

        import numpy as np

        if split != SPLIT:
            return self._dataset.load(split, positions, view)
        batch = self._dataset.load(self._split, [self._positions[place] for place in positions], view)
        places = np.searchsorted(self._positions, batch.positions).astype(np.int64)
        return dataclasses.replace(batch, positions=places)


def _object(path: Path, image: Image.Image) -> Image.Image:
    """The object of an image as a picture that is white where the mask is not 0."""
    from PIL import Image as Pictures

    from harness.views import decode

    decode(path)  # for its errors
    with Pictures.open(path) as opened:
        # The numbers of a palette are what is meant, not its colours.
        values = opened if opened.mode in ("P", "L", "1") else opened.convert("L")
        found = values.point(lambda value: 255 if value else 0, mode="L") if values.mode != "1" else values.convert("L")
    if found.size != image.size:
        raise DataError(
            f"--mask {path}: {found.size[0]} x {found.size[1]} pixels, its image has {image.size[0]} x {image.size[1]}",
            hint="give the mask of that very image",
        )
    return found.convert("RGB")
