"""Which records of an output folder are those of baseline models, over all commands that ever wrote into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.errors import RecordsError
from harness.run_folder import BASELINES, reported

if TYPE_CHECKING:
    from pathlib import Path


def note_baselines(folder: Path, baselines: Mapping[str, Mapping[str, str]]) -> None:
    """Note the keys of baseline records by the key of the record that is read against them, and the baseline's name.

    One line is appended, so that shards may write side by side; nothing where there is nothing new.
    """
    known = read_baselines(folder)
    news = {key: dict(named) for key, named in baselines.items() if not named.items() <= known.get(key, {}).items()}
    if news:
        path = folder / BASELINES
        with reported("cannot write", path), path.open("a") as file:
            file.write(json.dumps(news) + "\n")


def read_baselines(folder: Path) -> dict[str, dict[str, str]]:
    """What :func:`note_baselines` has noted in ``folder``.

    Raises :class:`RecordsError` for a file that cannot be read.
    """
    path = folder / BASELINES
    if not path.is_file():
        return {}
    with reported("cannot read", path):
        lines = path.read_text().splitlines()
    found: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            for key, named in json.loads(line).items():
                found.setdefault(key, {}).update({str(name): str(other) for name, other in named.items()})
        except (ValueError, AttributeError) as error:
            raise RecordsError(
                f"{path}:{number} cannot be read: {error!r}",
                hint="remove the file; the next run with --baseline writes it anew",
            ) from error
    return found
