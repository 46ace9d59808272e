"""A dataset from images and labels that are already in memory, for use from Python."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from harness import views
from harness.errors import DataError
from harness.naming import did_you_mean
from harness.protocols import DatasetInfo, SplitIndex
from harness.types import Ids, canonical_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from harness.types import ImageBatch, View

    Array = Tensor | npt.NDArray[Any]

_ROUNDING = 1e-6
"""How far outside [0, 1] a pixel may lie, as one does where a normalisation was undone; it is then clipped."""


class TensorDataset:
    """Images and labels in memory, of a torch tensor or NumPy array each.

    ``images``: (N, 3, H, W), uint8 or floating point in [0, 1]. ``labels``: N whole numbers from 0. ``classes`` names
    them (default: ``"0"``, ``"1"``, ... up to the largest label). ``label_space`` is needed by probes of a model's own
    head, and is that of the model. ``support`` holds images and labels that probes may learn from; without it, no
    probe that learns can run.

    The splits are ``query`` and, if given, ``support``; ids are ``query-000000`` and so on, in the order given.
    8-bit images go through a view as a file would. Floating point images stay exact where the view only crops, and are
    resized in floating point where it resizes. Everything is copied, so changing the tensors later changes nothing
    here. The fingerprint is the SHA-256 of all of it.

    Raises :class:`~harness.errors.DataError` for another shape, type or range.
    """

    def __init__(
        self,
        images: Array,
        labels: Array | Sequence[int],
        *,
        name: str,
        classes: Sequence[str] | None = None,
        label_space: str | None = None,
        support: tuple[Array, Array | Sequence[int]] | None = None,
    ) -> None:
        self._parts = {"query": _part(images, labels, f"dataset {name}")}
        if support is not None:
            self._parts["support"] = _part(*support, f"dataset {name}, support")
        highest = max(int(part.labels.max()) for part in self._parts.values())
        names = tuple(map(str, range(highest + 1))) if classes is None else tuple(classes)
        if highest >= len(names):
            raise DataError(f"dataset {name}: label {highest}, but {len(names)} classes", hint="labels count from 0")
        self._indices = {
            split: SplitIndex(ids=Ids(f"{split}-{i:06d}" for i in range(len(part.labels))), labels=part.labels)
            for split, part in self._parts.items()
        }
        content = hashlib.sha256(canonical_json([label_space, names]).encode())
        for split, part in self._parts.items():
            header = f"\0{split}\0{part.pixels.dtype.name}\0{part.pixels.shape}\0"
            for piece in (header.encode(), part.pixels.data, part.labels.data):
                content.update(piece)
        self._info = DatasetInfo(
            name=name,
            classes=names,
            label_space=label_space,
            splits=tuple(self._parts),
            query_split="query",
            whole_split="query",
            support_split="support" if support is not None else None,
            fingerprint=content.hexdigest(),
        )

    @property
    def info(self) -> DatasetInfo:
        """Classes, splits and fingerprint."""
        return self._info

    def index(self, split: str) -> SplitIndex:
        """Ids and labels of a split. Raises :class:`~harness.errors.DataError` for an unknown one."""
        try:
            return self._indices[split]
        except KeyError:
            raise DataError(
                f"dataset {self._info.name}: no split {split!r}; there are {', '.join(self._indices)}",
                hint=did_you_mean(split, self._indices),
            ) from None

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """The images at ``positions`` of ``split`` under ``view``, on the CPU, in that order.

        Raises :class:`~harness.errors.DataError` for images smaller than the crop of a view that does not resize, and
        IndexError for a position outside the split.
        """
        index = self.index(split)
        source = self._parts[split].pixels
        pixels = np.empty((len(positions), 3, view.crop, view.crop), dtype=source.dtype)
        ids = []
        for slot, position in zip(pixels, positions, strict=True):
            if not 0 <= position < len(index):
                raise IndexError(f"position {position} of split {split!r}, which has {len(index)} images")
            ids.append(index.ids[position])
            if source.dtype == np.uint8:
                image = Image.fromarray(np.ascontiguousarray(source[position].transpose(1, 2, 0)))
                slot[:] = views.render(image, view, name=ids[-1])
            else:
                slot[:] = views.render_float(source[position], view, name=ids[-1])
        return views.to_batch(pixels, labels=index.labels[list(positions)], ids=ids, positions=positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    pixels: npt.NDArray[Any]
    """(N, 3, H, W), uint8 or float32."""
    labels: npt.NDArray[np.int64]


def _part(images: Array, labels: Array | Sequence[int], where: str) -> _Part:
    pixels = _numpy(images)
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise DataError(f"{where}: images must be (N, 3, H, W), not {pixels.shape}", hint=_shape_hint(pixels.shape))
    if not pixels.size:
        raise DataError(f"{where}: no pixels in images of shape {pixels.shape}")
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = pixels.astype(np.float32)
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise DataError(
                f"{where}: floating point pixels must lie in [0, 1], found {low:g} to {high:g}",
                hint="models normalise inside: undo any mean and standard deviation, or give uint8",
            )
        pixels = pixels.clip(0, 1)
    elif pixels.dtype != np.uint8:
        raise DataError(f"{where}: images must be uint8 or floating point, not {pixels.dtype}")
    values = _numpy(labels)
    if values.shape != (len(pixels),) or not np.issubdtype(values.dtype, np.integer):
        raise DataError(
            f"{where}: labels must be {len(pixels)} whole numbers, not {values.dtype} of shape {values.shape}"
        )
    if values.min() < 0:
        raise DataError(f"{where}: label {values.min()}; labels count from 0")
    return _Part(
        pixels=np.array(pixels, dtype=pixels.dtype, order="C"), labels=np.array(values, dtype=np.int64, order="C")
    )


def _numpy(values: Array | Sequence[int]) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _shape_hint(shape: tuple[int, ...]) -> str | None:
    if len(shape) == 4 and shape[1] == 1:
        return "repeat grey images over three channels: images.repeat(1, 3, 1, 1)"
    if len(shape) == 4 and shape[3] == 3:
        return "put the channels first: images.permute(0, 3, 1, 2)"
    return None
