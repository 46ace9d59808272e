"""Labels from a CSV file: a column ``file`` and a class column, optionally ``split`` and ``class_name``."""

from __future__ import annotations

import csv
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import DataError
from harness.imagenet_classes import is_wnid
from harness.label_maps import IMAGENET
from harness.naming import did_you_mean
from harness.types import Ids
from harness_datasets import splits as split_names
from harness_datasets.classes import OWN, ClassSet, known_classes, name_classes, number_classes
from harness_datasets.listing import LabelledFiles, Listing

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASS_COLUMNS = ("wnid", "class_index", "label", "class_name")


@dataclass(frozen=True, slots=True)
class _Row:
    """One image: the line of the file it ends on, and its fields by column."""

    line: int
    fields: dict[str, str]


def read_labels_csv(path: Path, root: Path, *, label_column: str | None, label_space: str | None) -> Listing:
    """The images that ``path`` lists, whose ``file`` column is relative to ``root``.

    The class column is ``label_column``, else the first there is of ``wnid`` (ImageNet ids), ``class_index``,
    ``label`` and ``class_name``; ``wnid`` gives way to the others under a label space that is not ImageNet's. A column
    of whole numbers counts as class indices, named by ``class_name`` where that is another column. Where ``wnid`` and
    ``class_index`` are both there, they must agree. A column ``split`` holds ``train``, ``val``, ``valid``,
    ``validation`` or ``test``; without it the single split is called ``all``.

    Raises :class:`~harness.errors.DataError` with the line number for anything that cannot be what was meant.
    """
    columns, rows = _read(path)
    if "file" not in columns:
        raise DataError(
            f"{path}: no column 'file'; the columns are {', '.join(columns)}",
            hint="the first line names the columns: file, and one of " + ", ".join(CLASS_COLUMNS),
        )
    column = _class_column(path, columns, label_column, label_space)
    classes, labels = _classes(path, columns, rows, column, label_space)
    ids, sizes = _files(path, root, rows)
    splits: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        splits.setdefault(_split(path, row), []).append(place)
    found = {}
    for split, places in splits.items():
        ordered = sorted(places, key=lambda place: (labels[place], ids[place]))
        found[split] = LabelledFiles(
            ids=Ids(ids[place] for place in ordered),
            labels=np.array([labels[place] for place in ordered], dtype=np.int64),
            sizes=np.array([sizes[place] for place in ordered], dtype=np.int64),
        )
    return Listing(classes=classes, splits=found)


def _read(path: Path) -> tuple[list[str], list[_Row]]:
    rows: list[_Row] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            if len(set(columns)) < len(columns):
                raise DataError(f"{path}: two columns of the same name in {', '.join(columns)}")
            for values in reader:
                if not any(map(str.strip, values)):
                    continue
                if len(values) != len(columns):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(values)} fields, expected {len(columns)}",
                        hint="put a name that holds a comma into double quotes",
                    )
                rows.append(_Row(reader.line_num, dict(zip(columns, map(str.strip, values), strict=True))))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", hint="labels=FILE names the CSV") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})", hint="save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file ({error})", hint="save it as comma-separated text") from error
    if not rows:
        raise DataError(f"{path}: lists no images", hint="one line per image, after the line that names the columns")
    return columns, rows


def _class_column(path: Path, columns: Sequence[str], label_column: str | None, label_space: str | None) -> str:
    if label_column is not None:
        if label_column not in columns:
            raise DataError(
                f"{path}: no column {label_column!r}; the columns are {', '.join(columns)}",
                hint=did_you_mean(label_column, columns),
            )
        return label_column
    known = known_classes(label_space)
    wnids_first = label_space in (None, OWN) or (known is not None and is_wnid(known[0]))
    order = CLASS_COLUMNS if wnids_first else (*CLASS_COLUMNS[1:], CLASS_COLUMNS[0])
    for column in order:
        if column in columns:
            return column
    raise DataError(
        f"{path}: none of the class columns {', '.join(CLASS_COLUMNS)}; the columns are {', '.join(columns)}",
        hint="name the class column with label_column=NAME, or read classes from the folders with labels=folders",
    )


def _classes(
    path: Path, columns: Sequence[str], rows: Sequence[_Row], column: str, label_space: str | None
) -> tuple[ClassSet, list[int]]:
    texts = [row.fields[column] for row in rows]
    for row, text in zip(rows, texts, strict=True):
        if not text:
            raise DataError(f"{path}, line {row.line}: nothing in column {column!r}")
    where = f"{path}, column {column!r}"
    numeric = column != "wnid" and all(text.isascii() and text.isdigit() for text in texts)
    if not numeric:
        if column == "class_index":
            row = next(row for row in rows if not (row.fields[column].isascii() and row.fields[column].isdigit()))
            raise DataError(
                f"{path}, line {row.line}: class_index must be a whole number from 0, not {row.fields[column]!r}"
            )
        classes = name_classes(set(texts), label_space=label_space, where=where)
        by_name = classes.labels()
        labels = [by_name[text] for text in texts]
    else:
        labels = [int(text) for text in texts]
        named = "class_name" in columns and column != "class_name"
        names = _names_of_indices(path, rows, labels) if named else {}
        classes = number_classes(set(labels), names, label_space=label_space, where=where)
    if classes.label_space == IMAGENET:
        _check_agreement(path, columns, rows, labels, classes)
    return classes, labels


def _names_of_indices(path: Path, rows: Sequence[_Row], labels: Sequence[int]) -> dict[int, str]:
    first: dict[int, _Row] = {}
    for row, label in zip(rows, labels, strict=True):
        other = first.setdefault(label, row)
        if other.fields["class_name"] != row.fields["class_name"]:
            raise DataError(
                f"{path}, line {row.line}: class {label} is called {row.fields['class_name']!r}, "
                f"but {other.fields['class_name']!r} in line {other.line}"
            )
    return {label: row.fields["class_name"] or str(label) for label, row in first.items()}


def _check_agreement(
    path: Path, columns: Sequence[str], rows: Sequence[_Row], labels: Sequence[int], classes: ClassSet
) -> None:
    for row, label in zip(rows, labels, strict=True):
        stated = {"wnid": classes.names[label], "class_index": str(label)}
        for column, expected in stated.items():
            if column in columns and row.fields[column] not in ("", expected):
                raise DataError(
                    f"{path}, line {row.line}: {stated['wnid']} is ImageNet's class {label}, "
                    f"but the line's {column} is {row.fields[column]}",
                    hint="class indices follow the sorted ids, from 0; correct the line or remove one of the columns",
                )


def _files(path: Path, root: Path, rows: Sequence[_Row]) -> tuple[list[str], list[int]]:
    ids: list[str] = []
    sizes: list[int] = []
    lines: dict[str, int] = {}
    missing: list[str] = []
    for row in rows:
        name = _relative(path, row)
        if name in lines:
            raise DataError(
                f"{path}, line {row.line}: {name} is listed in line {lines[name]} already", hint="remove one of the two"
            )
        lines[name] = row.line
        try:
            status = (root / name).stat()
        except (OSError, ValueError):
            missing.append(f"{name} (line {row.line})")
            continue
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}, line {row.line}: {name} is no file")
        ids.append(name)
        sizes.append(status.st_size)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(
            f"{path}: of {len(rows)} files these are not in {root}: {', '.join(missing[:3])}{more}",
            hint="the column 'file' is relative to root, with forward slashes",
        )
    return ids, sizes


def _relative(path: Path, row: _Row) -> str:
    text = row.fields["file"]
    name = PurePosixPath(text)
    if not text or name.is_absolute() or Path(text).is_absolute() or ".." in name.parts:
        raise DataError(
            f"{path}, line {row.line}: {text!r} is no path inside the folder",
            hint="the column 'file' is relative to root, with forward slashes",
        )
    return str(name)


def _split(path: Path, row: _Row) -> str:
    text = row.fields.get("split")
    if text is None:
        return "all"
    if text.lower() not in split_names.NAMES:
        raise DataError(
            f"{path}, line {row.line}: split {text!r}; expected one of {', '.join(split_names.NAMES)}",
            hint=did_you_mean(text, split_names.NAMES),
        )
    return text.lower()
