"""Where a killed run goes on: the counters of every cell of a pass, saved in one step beside the records."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import ParameterError, PluginError
from harness.run_folder import CHECKPOINTS, replacing, reported

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    import numpy.typing as npt

FORMAT_VERSION = 1
"""Version of the layout of a checkpoint file; one of another version is of no use and reported as damaged."""

_METADATA = "vit_harness"
_SUFFIX = ".safetensors"
_PASS_ID = re.compile(r"[A-Za-z0-9_\-]{1,100}\Z")
# What NumPy and safetensors call the dtypes that both hold.
_DTYPES = {"bool": "BOOL"} | {
    f"{kind}{bits}": f"{letter}{bits}"
    for kind, letter, widths in (
        ("int", "I", (8, 16, 32, 64)),
        ("uint", "U", (8, 16, 32, 64)),
        ("float", "F", (16, 32, 64)),
    )
    for bits in widths
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far one pass came. ``offset`` images of the walk are counted in every state.

    ``pass_id`` names the file: one per pass and shard. ``walk`` is the fingerprint of the images and their order; a
    checkpoint of another walk must not be used. ``batch_size`` and ``threads`` were in force. ``states``: by cell key,
    the arrays of that cell's counters; a mapping that makes them when asked keeps one cell's in memory at a time.
    """

    pass_id: str
    walk: str
    offset: int
    batch_size: int
    threads: int
    states: Mapping[str, Mapping[str, npt.NDArray[Any]]]

    def __post_init__(self) -> None:
        if not _PASS_ID.match(self.pass_id):
            raise ParameterError(f"checkpoint: pass_id must be letters, digits, '_' and '-', not {self.pass_id!r}")
        if self.offset < 0:
            raise ParameterError(f"checkpoint: offset must not be negative, but is {self.offset}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedCheckpoint:
    """A checkpoint file that cannot be used, and why: its pass starts anew."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCheckpoints:
    """The checkpoints of an output folder by name, and those that are of no use."""

    checkpoints: tuple[Checkpoint, ...]
    damaged: tuple[DamagedCheckpoint, ...] = ()


def checkpoint_path(folder: Path, pass_id: str) -> Path:
    """Where the checkpoint of a pass lies in the output folder ``folder``."""
    return folder / CHECKPOINTS / f"{pass_id}{_SUFFIX}"


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``checkpoint``, replacing an earlier one of its pass in one durable step.

    Raises :class:`PluginError` for a state that holds anything but arrays of bool, integer or floating point, and
    :class:`RecordsError` where the file cannot be written.
    """
    metadata = {
        "format": FORMAT_VERSION,
        "pass_id": checkpoint.pass_id,
        "walk": checkpoint.walk,
        "offset": checkpoint.offset,
        "batch_size": checkpoint.batch_size,
        "threads": checkpoint.threads,
        # A cell whose state is still empty has no tensor to be known by.
        "cells": list(checkpoint.states),
    }
    path = checkpoint_path(folder, checkpoint.pass_id)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_header(checkpoint.states, {_METADATA: json.dumps(metadata)}))
        for key, state in checkpoint.states.items():
            for name, array in state.items():
                file.write(_storable(array, key, name).tobytes())
    return path


def _header(states: Mapping[str, Mapping[str, npt.NDArray[Any]]], metadata: Mapping[str, str]) -> bytes:
    """The head of a safetensors file (the library writes only tensors that are all in memory, and as copies)."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for key, state in states.items():
        for name, array in state.items():
            stored = _storable(array, key, name)
            start, end = end, end + stored.nbytes
            entries[f"{key}:{name}"] = {
                "dtype": _DTYPES[stored.dtype.name],
                "shape": list(stored.shape),
                "data_offsets": [start, end],
            }
    text = json.dumps(entries).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def load_all(folder: Path) -> LoadedCheckpoints:
    """Every checkpoint of the output folder, in order of file names; damaged ones are named, not used and not removed.

    A folder without checkpoints gives none. Raises :class:`RecordsError` where the folder cannot be listed.
    """
    from safetensors import SafetensorError

    place = folder / CHECKPOINTS
    if not place.is_dir():
        return LoadedCheckpoints(checkpoints=())
    with reported("cannot list", place):
        paths = sorted(path for path in place.iterdir() if path.suffix == _SUFFIX and not path.name.startswith("."))
    found: list[Checkpoint] = []
    damaged: list[DamagedCheckpoint] = []
    for path in paths:
        try:
            found.append(_load(path))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, ParameterError) as error:
            damaged.append(DamagedCheckpoint(path=path, reason=str(error)))
    return LoadedCheckpoints(checkpoints=tuple(found), damaged=tuple(damaged))


def remove(folder: Path, pass_id: str) -> None:
    """Remove the checkpoint of a pass, if there is one."""
    path = checkpoint_path(folder, pass_id)
    with reported("cannot remove", path):
        path.unlink(missing_ok=True)


def drop(folder: Path, pass_id: str, keys: Collection[str]) -> None:
    """Take the states of ``keys`` out of the checkpoint of a pass; the file is removed where none is left.

    Raises :class:`RecordsError` where the file cannot be changed.
    """
    for checkpoint in load_all(folder).checkpoints:
        if checkpoint.pass_id == pass_id:
            _without(folder, checkpoint, frozenset(keys))


def prune(folder: Path, done_keys: Collection[str]) -> LoadedCheckpoints:
    """Drop the states of cells that have a record, which supersedes them, and say what is left.

    A checkpoint without cells is removed. Raises :class:`RecordsError` where a file cannot be changed.
    """
    done = frozenset(done_keys)
    loaded = load_all(folder)
    left = [_without(folder, checkpoint, done) for checkpoint in loaded.checkpoints]
    return dataclasses.replace(loaded, checkpoints=tuple(checkpoint for checkpoint in left if checkpoint is not None))


def _without(folder: Path, checkpoint: Checkpoint, keys: frozenset[str]) -> Checkpoint | None:
    states = {key: state for key, state in checkpoint.states.items() if key not in keys}
    if not states:
        remove(folder, checkpoint.pass_id)
        return None
    if len(states) == len(checkpoint.states):
        return checkpoint
    left = dataclasses.replace(checkpoint, states=states)
    save(folder, left)
    return left


def _storable(array: npt.NDArray[Any], key: str, name: str) -> npt.NDArray[Any]:
    import numpy as np

    if not isinstance(array, np.ndarray | np.generic) or array.dtype.name not in _DTYPES:
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise PluginError(
            f"the state of cell {key[:16]} holds {kind} as {name!r}",
            hint="state_dict() gives NumPy arrays of bool, integer or floating point",
        )
    return np.asarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def _load(path: Path) -> Checkpoint:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        raw = json.loads((file.metadata() or {}).get(_METADATA, "null"))
        if raw is None:
            raise ValueError("it is not a checkpoint of vit-harness")
        if raw["format"] != FORMAT_VERSION:
            raise ValueError(f"it has format {raw['format']}; this version reads format {FORMAT_VERSION}")
        if raw["pass_id"] != path.name.removesuffix(_SUFFIX):
            raise ValueError(f"it belongs to pass {raw['pass_id']}")
        states: dict[str, dict[str, npt.NDArray[Any]]] = {key: {} for key in raw["cells"]}
        for tensor in file.keys():  # noqa: SIM118 - a safetensors file is not iterable
            key, _, name = tensor.partition(":")
            states[key][name] = file.get_tensor(tensor)
    return Checkpoint(
        pass_id=raw["pass_id"],
        walk=raw["walk"],
        offset=raw["offset"],
        batch_size=raw["batch_size"],
        threads=raw["threads"],
        states=states,
    )
