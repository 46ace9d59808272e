"""The dataset ``digits``: the optical recognition of handwritten digits set that scikit-learn ships.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998: counts of ink
in 4x4 cells of a 32x32 bitmap, hence 8x8 pixels with values from 0 to 16.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harness import views
from harness.errors import DataError
from harness.naming import did_you_mean
from harness.protocols import DatasetInfo, SplitIndex
from harness.types import Ids
from harness_datasets.splits import support_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from harness.types import ImageBatch, View

_SUPPORT_FRACTION = 0.5


class HandwrittenDigits:
    """1,797 grey images of 8x8 pixels, ten classes, split in half per class by a hash of each image's id.

    A value v of 0 (paper) to 16 (ink) becomes the byte ``rint(v * 255 / 16)``, the same in all three channels, and is
    resized under the view as any image is. Ids are ``digit-0000`` on, in scikit-learn's order. ``train`` is the
    support split, ``test`` the query split. Held in memory and never changed, so threads may share it.

    Raises :class:`~harness.errors.DataError` without scikit-learn.
    """

    def __init__(self) -> None:
        values, labels = _read()
        self._grey = np.rint(values * (255 / 16)).astype(np.uint8)
        ids = [f"digit-{i:04d}" for i in range(len(labels))]
        support = support_rows(ids, labels, _SUPPORT_FRACTION, stream="digits.support")
        self._rows = {"train": np.flatnonzero(support), "test": np.flatnonzero(~support)}
        self._indices = {
            split: SplitIndex(ids=Ids(ids[row] for row in rows), labels=labels[rows])
            for split, rows in self._rows.items()
        }
        content = hashlib.sha256(values.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes())
        self._info = DatasetInfo(
            name="digits",
            classes=tuple("0123456789"),
            label_space="digits",
            splits=tuple(self._indices),
            query_split="test",
            whole_split="test",
            support_split="train",
            fingerprint=content.hexdigest(),
        )

    @property
    def info(self) -> DatasetInfo:
        """Classes, splits and fingerprint, the SHA-256 of all values and labels."""
        return self._info

    def index(self, split: str) -> SplitIndex:
        """Ids and labels of a split. Raises :class:`~harness.errors.DataError` for an unknown one."""
        try:
            return self._indices[split]
        except KeyError:
            raise DataError(
                f"digits: no split {split!r}; there are {', '.join(self._indices)}",
                hint=did_you_mean(split, self._indices),
            ) from None

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """The images at ``positions`` of ``split`` under ``view``, on the CPU, in that order.

        Raises :class:`~harness.errors.DataError` for a view that crops more than 8 pixels without resizing, and
        IndexError for a position outside the split.
        """
        index = self.index(split)
        pixels = np.empty((len(positions), 3, view.crop, view.crop), dtype=np.uint8)
        for slot, position in zip(pixels, positions, strict=True):
            if not 0 <= position < len(index):
                raise IndexError(f"position {position} of split {split!r}, which has {len(index)} images")
            image = Image.fromarray(self._grey[self._rows[split][position]])
            slot[:] = views.render(image, view, name=index.ids[position])
        return views.to_batch(
            pixels,
            labels=index.labels[list(positions)],
            ids=[index.ids[position] for position in positions],
            positions=positions,
        )


def _read() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Values (1797, 8, 8) from 0 to 16, and labels (1797,)."""
    path = _data_file()
    try:
        table = _read_file(path) if path.is_file() else _load_from_scikit_learn()
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"cannot read the handwritten digits: {error}", hint="reinstall scikit-learn") from error
    if table.shape != (1797, 65) or table[:, :64].min() < 0 or table[:, :64].max() > 16:
        raise DataError(f"{path}: expected 1,797 images of 8x8 values from 0 to 16", hint="reinstall scikit-learn")
    return table[:, :64].reshape(-1, 8, 8), table[:, 64].copy()


def _data_file() -> Path:
    """Where scikit-learn keeps the file that its ``load_digits`` reads.

    Reading it here spares the import of ``sklearn.datasets``, which takes seconds that a dry run would wait for.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the handwritten digits come with scikit-learn, which is not installed", hint="pip install scikit-learn"
        )
    return Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")


def _read_file(path: Path) -> npt.NDArray[np.int64]:
    with gzip.open(path, "rt", encoding="ascii") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.int64)


def _load_from_scikit_learn() -> npt.NDArray[np.int64]:
    """The same table by the public way, for a scikit-learn that keeps its file elsewhere."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.int64)
