"""The dataset ``folder``: images on disk, indexed without decoding and decoded one batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from harness import views
from harness.errors import DataError, ParameterError
from harness.naming import did_you_mean
from harness.protocols import DatasetInfo, SplitIndex
from harness_datasets.class_folders import read_class_folders
from harness_datasets.labels_csv import read_labels_csv
from harness_datasets.listing import fingerprint
from harness_datasets.splits import NAMES, roles, support_rows

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.types import Ids, ImageBatch, View
    from harness_datasets.listing import LabelledFiles, Listing

_FOLDERS = "folders"
_DEFAULT_CSV = "labels.csv"
_DEFAULT_FRACTION = 0.5


class ImageFolder:
    """Labelled images of a folder; parameters as in :class:`harness_datasets.folder.FolderParams`.

    With several split folders (or a ``split`` column) ``train`` is the support split and ``val`` the query split, or
    ``test`` where there is no ``val``. With a single one, or none (then it is called ``all``), the whole is asked by
    probes that do not learn, and ``support`` and ``query`` divide it per class by a hash of each image's id (a class of
    one image is query; without any support image there are no such splits).

    Everything is listed when the dataset is made, which costs a look at each file's size, and the reading of 32 files
    for the fingerprint; afterwards nothing changes, so threads may share it. An id is a path relative to the root, with
    forward slashes; a split is sorted by label and then by id.

    Raises :class:`~harness.errors.DataError` for a folder whose classes are in doubt or that cannot be read, and
    :class:`~harness.errors.ParameterError` for a parameter that has no effect on it.
    """

    def __init__(
        self,
        *,
        root: str,
        labels: str | None = None,
        label_column: str | None = None,
        label_space: str | None = None,
        class_depth: int = 1,
        support_fraction: float = _DEFAULT_FRACTION,
        on_error: Literal["fail", "skip"] = "fail",
    ) -> None:
        self._root = _existing_folder(root)
        self._skip = on_error == "skip"
        listing = _list(self._root, labels, label_column, label_space, class_depth)
        self._notes = listing.notes
        self._indices = {
            split: SplitIndex(ids=files.ids, labels=files.labels)
            for split, files in sorted(listing.splits.items(), key=lambda item: (*NAMES, "all").index(item[0]))
        }
        if len(listing.splits) == 1:
            ((whole, files),) = listing.splits.items()
            self._indices |= _divided(files, support_fraction)
            support, query = ("support", "query") if "support" in self._indices else (None, whole)
        else:
            if support_fraction != _DEFAULT_FRACTION:
                raise ParameterError(
                    f"folder: support_fraction={support_fraction:g} has no effect on {self._root}, whose splits are "
                    f"{', '.join(listing.splits)}",
                    hint="leave it out, or point root at one of the splits to divide that",
                )
            found = roles(listing.splits)
            support, query, whole = found.support, found.query, found.query
        self._info = DatasetInfo(
            name="folder",
            classes=listing.classes.names,
            label_space=listing.classes.label_space,
            splits=tuple(self._indices),
            query_split=query,
            whole_split=whole,
            support_split=support,
            fingerprint=fingerprint(self._root, listing, tolerate_unreadable=self._skip),
        )

    @property
    def info(self) -> DatasetInfo:
        """Classes, splits and fingerprint."""
        return self._info

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was left out of the dataset, such as files that are no images."""
        return self._notes

    def index(self, split: str) -> SplitIndex:
        """Ids and labels of a split. Raises :class:`~harness.errors.DataError` for an unknown one."""
        try:
            return self._indices[split]
        except KeyError:
            raise DataError(
                f"{self._root}: no split {split!r}; there are {', '.join(self._indices)}",
                hint=did_you_mean(split, self._indices),
            ) from None

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """Decode the images at ``positions`` of ``split`` under ``view``, on the CPU, in that order.

        An image that cannot be decoded raises :class:`~harness.errors.DataError` naming its file, or is left out under
        ``on_error="skip"``. One smaller than the crop raises either way: then the view is wrong, not the image.
        Raises IndexError for a position outside the split.
        """
        index = self.index(split)
        pixels = np.empty((len(positions), 3, view.crop, view.crop), dtype=np.uint8)
        kept: list[int] = []
        for position in map(int, positions):
            if not 0 <= position < len(index):
                raise IndexError(f"position {position} of split {split!r}, which has {len(index)} images")
            path = self._root / index.ids[position]
            try:
                image = views.decode(path)
            except views.FileUnavailableError:
                raise
            except DataError as error:
                if self._skip:
                    continue
                hint = "on_error=skip leaves such images out, and says how many"
                raise DataError(error.message, hint=f"{error.hint} {hint}" if error.hint else hint) from error
            pixels[len(kept)] = views.render(image, view, name=str(path))
            kept.append(position)
        return views.to_batch(
            pixels[: len(kept)],
            labels=index.labels[kept],
            ids=[index.ids[position] for position in kept],
            positions=kept,
        )


class _ChosenIds(Sequence[str]):
    """Some of another sequence's ids, without a copy of their text."""

    def __init__(self, ids: Ids, rows: npt.NDArray[np.int64]) -> None:
        self._ids = ids
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._ids[row] for row in self._rows[index].tolist()]
        return self._ids[int(self._rows[index])]


def _divided(files: LabelledFiles, fraction: float) -> dict[str, SplitIndex]:
    support = support_rows(files.ids, files.labels, fraction, stream="folder.support")
    if not support.any():
        return {}
    rows = {"support": np.flatnonzero(support), "query": np.flatnonzero(~support)}
    return {
        split: SplitIndex(ids=_ChosenIds(files.ids, places), labels=files.labels[places])
        for split, places in rows.items()
    }


def _existing_folder(root: str) -> Path:
    path = Path(root).expanduser().absolute()
    try:
        if path.is_dir():
            return path
        exists = path.exists()
    except OSError as error:
        raise DataError(f"{path}: cannot be reached ({error.strerror})", hint="check its permissions") from error
    if exists:
        raise DataError(f"{path}: a file, but a folder of images is expected", hint="unpack an archive first")
    raise DataError(f"{path}: there is no such folder", hint="give the folder of images with --data DIR")


def _list(
    root: Path, labels: str | None, label_column: str | None, label_space: str | None, class_depth: int
) -> Listing:
    if labels is None:
        labels = _DEFAULT_CSV if (root / _DEFAULT_CSV).is_file() else _FOLDERS
    if labels == _FOLDERS:
        if label_column is not None:
            raise ParameterError(
                f"folder: label_column={label_column} has no effect: {root} is read by its folders' names",
                hint="name the CSV with labels=FILE",
            )
        return read_class_folders(root, class_depth=class_depth, label_space=label_space)
    if class_depth != 1:
        raise ParameterError(
            f"folder: class_depth={class_depth} has no effect: labels come from {labels}",
            hint="labels=folders reads the classes from the folders' names",
        )
    beside = root / Path(labels).expanduser()
    path = beside if beside.exists() else Path(labels).expanduser()
    return read_labels_csv(path, root, label_column=label_column, label_space=label_space)
