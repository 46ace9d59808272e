"""Arrays that a probe keeps for its pictures, on disk: one safetensors file per cell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from harness.errors import RecordsError
from harness.run_folder import ARTIFACTS, replacing, reported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

FOLDER = "arrays"
"""Where they lie, below the artifacts of an output folder."""

_KEY, _NAMES = "key", "cell"


def array_path(folder: Path, key: str) -> Path:
    """Where the arrays of the cell ``key`` lie in the output folder ``folder``."""
    return folder / ARTIFACTS / FOLDER / f"{key[:16]}.safetensors"


def write_arrays(
    folder: Path, key: str, arrays: Mapping[str, npt.NDArray[Any]], *, cell: Mapping[str, str | float | None]
) -> Path:
    """Write the arrays of one cell in one step, *before* its record, so that a record always has its arrays.

    ``cell`` says in the file's metadata whose they are. Raises :class:`RecordsError` where it cannot be written.
    """
    import numpy as np
    from safetensors.numpy import save_file

    path = array_path(folder, key)
    with replacing(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(values) for name, values in arrays.items()},
            temporary,
            metadata={_KEY: key, _NAMES: json.dumps(cell)},
        )
    return path


def read_arrays(folder: Path, key: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of the cell ``key``. Raises :class:`RecordsError` for a file that is missing, damaged or another's."""
    from safetensors import SafetensorError, safe_open

    path = array_path(folder, key)
    with reported("cannot read", path):
        if not path.is_file():
            raise RecordsError(f"{path}: there is no such file", hint="run the same command again: it is made anew")
        try:
            with safe_open(path, framework="numpy") as file:
                if (file.metadata() or {}).get(_KEY) != key:
                    raise RecordsError(f"{path} holds arrays of another cell", hint="remove it and run again")
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is no mapping
        except SafetensorError as error:
            raise RecordsError(
                f"{path} is damaged: {error}", hint="remove it and run again: it is made anew"
            ) from error
