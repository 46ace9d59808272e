"""Which weights a model gets: the choice, its identity without building anything, and strict loading."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import json
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import HarnessError, WeightsError
from harness.paths import ensure_cache_dir
from harness.types import WeightsInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

CHOICES = "pretrained, random, random:SEED, or the path of a checkpoint"

_TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".tar")
_SUFFIXES = (".safetensors", ".npz", *_TORCH_SUFFIXES)

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher")
"""Where authors put the weights inside a checkpoint; averaged weights come first, as timm reads them."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data-parallel wrappers, the compiler and training frameworks put in front of every name."""

_SHOWN = 8


# --- the choice ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsChoice:
    """What ``--weights`` said: the tag's own, those of the checkpoint at ``path``, or initialised from ``seed``."""

    origin: Literal["pretrained", "random", "checkpoint"] = "pretrained"
    path: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.origin == "checkpoint") != (self.path is not None):
            raise WeightsError(f"weights of origin {self.origin!r} with path {self.path}", hint=f"choose {CHOICES}")
        if not 0 <= self.seed < 2**63:
            raise WeightsError(f"weights: the seed must lie in [0, 2**63), not {self.seed}")


def parse_weights(text: str) -> WeightsChoice:
    """Read ``pretrained``, ``random``, ``random:SEED`` or a path.

    Raises :class:`~harness.errors.WeightsError` for a path that is no file and for a seed that is no number.

    >>> parse_weights("random:3")
    WeightsChoice(origin='random', path=None, seed=3)
    """
    if text == "pretrained":
        return WeightsChoice(origin="pretrained")
    kind, separator, seed = text.partition(":")
    if kind == "random" and (seed.isdecimal() or not separator):
        return WeightsChoice(origin="random", seed=int(seed or 0))
    path = Path(text).expanduser()
    if not path.is_file():
        if kind == "random":
            found = f"{seed!r} is no seed"
        else:
            found = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise WeightsError(f"weights {text!r}: {found}", hint=f"choose {CHOICES}")
    return WeightsChoice(origin="checkpoint", path=path)


# --- identity --------------------------------------------------------------------------------------------------


def identify(choice: WeightsChoice, *, use: str, tag: str | None = None, embedded: str | None = None) -> WeightsInfo:
    """The identity of the weights that a model would get, without building it and without importing torch.

    ``use`` is the model entry, ``tag`` what names its pretrained weights, ``embedded`` the name of weights that its
    plugin carries. Random weights are those of a seed under two library versions, since initialisers change.
    Raises :class:`~harness.errors.WeightsError` for a checkpoint that cannot be read, and for pretrained weights of a
    model that has none.
    """
    if choice.path is not None:
        digest = file_digest(choice.path)
        return WeightsInfo(origin="checkpoint", identity=f"sha256:{digest}", source=str(choice.path), sha256=digest)
    if choice.origin == "random":
        versions = ":".join(f"{name}-{importlib.metadata.version(name)}" for name in ("torch", "timm"))
        return WeightsInfo(
            origin="random",
            identity=f"random:{tag or use}:{choice.seed}:{versions}",
            source=f"random initialisation, seed {choice.seed}",
        )
    if tag is not None:
        return WeightsInfo(origin="pretrained", identity=f"pretrained:{tag}", source=tag)
    if embedded is not None:
        return WeightsInfo(origin="embedded", identity=f"embedded:{embedded}", source=embedded)
    raise WeightsError(f"model {use} has no pretrained weights", hint="use --weights PATH or --weights random")


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file, remembered in the cache folder by path, size and time of last change.

    Raises :class:`~harness.errors.WeightsError` for a file that cannot be read.
    """
    try:
        path = path.resolve(strict=True)
        before = path.stat()
        signature: dict[str, str | int] = {"path": str(path), "size": before.st_size, "mtime_ns": before.st_mtime_ns}
        remembered = _remembered(signature)
        if remembered is not None:
            return remembered
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"weights: cannot read {path}: {error.strerror or error}") from error
    # A file changed within the resolution of its time stamp could change again without showing it.
    if time.time_ns() - before.st_mtime_ns > 2_000_000_000:
        _remember(signature, digest)
    return digest


def _remembered(signature: dict[str, str | int]) -> str | None:
    try:
        entry = json.loads(_digest_entry(signature).read_bytes())
    except (OSError, ValueError, HarnessError):
        return None
    if not isinstance(entry, dict) or {name: entry.get(name) for name in signature} != signature:
        return None
    digest = entry.get("sha256")
    return digest if isinstance(digest, str) and len(digest) == 64 else None


def _remember(signature: Mapping[str, str | int], digest: str) -> None:
    # The digest is right with or without this note, so a cache that cannot be written costs time only.
    try:
        target = _digest_entry(signature)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, suffix=".part", delete=False) as part:
            json.dump({**signature, "sha256": digest}, part)
        Path(part.name).replace(target)
    except (OSError, HarnessError):
        return


def _digest_entry(signature: Mapping[str, str | int]) -> Path:
    name = hashlib.sha256(str(signature["path"]).encode()).hexdigest()
    return ensure_cache_dir("digests") / f"{name}.json"


# --- reading ---------------------------------------------------------------------------------------------------


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, half precision widened to float32.

    Reads ``.safetensors``, ``.npz`` (numeric arrays) and PyTorch files (``.pth``, ``.pt``, ``.th``, ``.bin``,
    ``.tar``; tensors only, nothing that could run code). Authors' wrappers (``{"state_dict": ...}``, ``module.``) are
    taken off. Raises :class:`~harness.errors.WeightsError` for anything else, saying what was found.
    """
    import torch

    check_container(path)
    if path.suffix == ".safetensors":
        raw: Any = _read_safetensors(path)
    elif path.suffix == ".npz":
        raw = _read_npz(path)
    else:
        raw = _read_torch(path)
    state = _strip_prefixes(_unwrap(raw, path))
    half = (torch.float16, torch.bfloat16)
    return {name: value.detach().float() if value.dtype in half else value.detach() for name, value in state.items()}


def check_container(path: Path) -> None:
    """Check from the outside, without torch, that ``path`` is a whole file of a format that is read.

    Raises :class:`~harness.errors.WeightsError` for a missing, empty, foreign or truncated file.
    """
    if path.suffix not in _SUFFIXES:
        raise WeightsError(
            f"weights: {path} has the ending {path.suffix!r}", hint=f"readable are {', '.join(_SUFFIXES)}"
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
            found = _foreign(head)
            if found is None and path.suffix == ".safetensors":
                found = _safetensors_fault(head[:8], file, size)
    except OSError as error:
        raise WeightsError(f"weights: cannot read {path}: {error.strerror or error}") from error
    if found is None and (path.suffix == ".npz" or head[:2] == b"PK") and not zipfile.is_zipfile(path):
        found = "it is truncated, or no zip archive"
    if found is not None:
        raise _unreadable(path, found)


def _foreign(head: bytes) -> str | None:
    text = head.lstrip().lower()
    if not text:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it looks like an HTML page, not like weights"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file that it points to"
    return None


def _safetensors_fault(start: bytes, file: Any, size: int) -> str | None:
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        return f"its safetensors header does not fit into {size} bytes: it is truncated, or no safetensors file"
    file.seek(8)
    try:
        header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "its safetensors header cannot be read"
    return None if size >= 8 + length + end else f"it is truncated: {size} of {8 + length + end} bytes"


def _read_safetensors(path: Path) -> Any:
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, str(error)) from error


def _read_npz(path: Path) -> Any:
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _unreadable(path, str(error)) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise _unreadable(path, f"{name!r} is {getattr(array, 'dtype', 'no array')}, not an array of numbers")
    # A copy in native byte order, the only one that torch takes.
    return {
        name: torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
        for name, array in arrays.items()
    }


def _read_torch(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unreadable(
            path, "it is damaged, or holds Python objects other than tensors, which could run code and are not loaded"
        ) from error
    except Exception as error:  # what a damaged pickle makes its reader raise has no common type
        raise _unreadable(path, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


def _unreadable(path: Path, found: str) -> WeightsError:
    return WeightsError(
        f"weights: {path} cannot be used: {found}",
        hint="give a whole file of tensors (safetensors, PyTorch, npz); delete this one if it is a broken copy",
    )


def _unwrap(raw: Any, path: Path) -> dict[str, Tensor]:
    import torch

    inside = ""
    while isinstance(raw, Mapping):
        wrapper = next((name for name in _WRAPPERS if isinstance(raw.get(name), Mapping)), None)
        if wrapper is None:
            break
        raw, inside = raw[wrapper], f"{inside}[{wrapper!r}]"
    if not isinstance(raw, Mapping) or not raw:
        raise _unreadable(path, f"it holds {type(raw).__name__}{inside} instead of tensors by name")
    others = [str(name) for name, value in raw.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise _unreadable(path, f"{_some(others)} {inside and f'in {inside} '}are no tensors")
    return {str(name): value for name, value in raw.items()}


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _strip_prefixes({name.removeprefix(prefix): value for name, value in state.items()})
    return state


# --- loading ---------------------------------------------------------------------------------------------------


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, allow_missing: Sequence[str] = ()
) -> None:
    """Copy ``state`` into ``module``; every name and every shape must agree.

    ``allow_missing``: patterns (``*.num_batches_tracked``) of names that may keep what the module has. ``source``
    names the file in errors. Raises :class:`~harness.errors.WeightsError` listing what is missing, what is
    unexpected and which shapes differ; the module is then unchanged.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    kept = [name for name in missing if any(fnmatch.fnmatchcase(name, pattern) for pattern in allow_missing)]
    missing = [name for name in missing if name not in kept]
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(faults.values()):
        found = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in faults.items() if names)
        raise WeightsError(
            f"weights of {source} do not fit {type(module).__name__}: {found}",
            hint="they belong to another architecture, another input size or another number of classes",
        )
    module.load_state_dict({**{name: own[name] for name in kept}, **state}, strict=True)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
