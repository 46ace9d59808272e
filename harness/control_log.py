"""Which records of an output folder are there as controls of others only, over all commands that ever wrote into it."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from harness.errors import RecordsError
from harness.run_folder import CONTROLS, reported

if TYPE_CHECKING:
    from pathlib import Path

_CONTROL, _ASKED = "controls", "asked"


def note_controls(folder: Path, *, asked: Collection[str], controls: Collection[str]) -> None:
    """Note the keys of a plan: ``controls`` nobody asked for, and which of ``asked`` were controls only until now.

    One line is appended, so that shards may write side by side; nothing where there is nothing to say.
    """
    news = {_CONTROL: sorted(controls), _ASKED: sorted(control_only(folder) & set(asked))}
    if any(news.values()):
        path = folder / CONTROLS
        with reported("cannot write", path), path.open("a") as file:
            file.write(json.dumps(news) + "\n")


def control_only(folder: Path) -> frozenset[str]:
    """Keys of records that are in ``folder`` as controls only: no command has asked for them in their own right.

    Raises :class:`RecordsError` for a file that cannot be read.
    """
    path = folder / CONTROLS
    if not path.is_file():
        return frozenset()
    controls: set[str] = set()
    asked: set[str] = set()
    with reported("cannot read", path):
        lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            raw = json.loads(line)
            controls |= set(raw[_CONTROL])
            asked |= set(raw[_ASKED])
        except (ValueError, KeyError, TypeError) as error:
            raise RecordsError(
                f"{path}:{number} cannot be read: {error!r}",
                hint="remove the file; the next run with --controls writes it anew",
            ) from error
    return frozenset(controls - asked)
