"""Classes in groups, such as ImageNet's super-classes, from a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DataError
from harness.naming import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_groups(path: str, classes: Sequence[str]) -> dict[str, str]:
    """The group of every class of ``classes``, from a file with the columns ``class`` and ``group``.

    Classes are called as the dataset calls them. Raises :class:`~harness.errors.DataError` for a file that cannot be
    read, lacks a column, names an unknown class or one twice, or leaves a class out.
    """
    file = Path(path).expanduser()
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            lacking = [name for name in ("class", "group") if name not in (reader.fieldnames or ())]
            if lacking:
                raise DataError(
                    f"{file}: no column {' and no column '.join(lacking)}",
                    hint="its first line must name class and group",
                )
            rows = [(reader.line_num, row["class"], row["group"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read ({error})", hint="groups names a CSV file") from error
    known, groups = set(classes), dict[str, str]()
    for line, name, group in rows:
        if name not in known:
            raise DataError(
                f"{file}, line {line}: the dataset has no class {name!r}",
                hint=did_you_mean(name or "", classes) or f"its classes are {', '.join(classes[:5])}, ...",
            )
        if name in groups or not group:
            problem = "is named twice" if name in groups else "has no group"
            raise DataError(f"{file}, line {line}: class {name!r} {problem}", hint="give every class one group")
        groups[name] = group
    if missing := [name for name in classes if name not in groups]:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(f"{file}: no group for the classes {shown}", hint="give every class of the dataset a row")
    return groups
