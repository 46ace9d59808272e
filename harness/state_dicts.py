"""Reading the tensors of a checkpoint, whoever wrote it, without running its code; and loading them strictly."""

from __future__ import annotations

import fnmatch
import json
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import WeightsError
from harness.naming import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

_TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".tar", ".ckpt")
WEIGHT_SUFFIXES = (".safetensors", ".npz", *_TORCH_SUFFIXES)
"""Endings of the files that are read."""

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher")
"""Where authors put the weights inside a checkpoint; averaged weights come first, as timm reads them."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data-parallel wrappers, the compiler and training frameworks put in front of every name."""

_BACKBONE = "backbone."
"""What self-distillation (DINO, iBOT) puts before the network's names; those of its projection heads have none."""

_SHOWN = 8


# --- reading ---------------------------------------------------------------------------------------------------


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, half precision widened to float32.

    Reads ``.safetensors``, ``.npz`` (numeric arrays) and PyTorch files (``.pth``, ``.pt``, ``.th``, ``.bin``,
    ``.tar``; tensors and plain values only, nothing that could run code). Authors' wrappers (``{"state_dict": ...}``,
    ``module.``) are taken off; of a teacher of self-distillation the network keeps its own names, without
    ``backbone.``, and the projection heads keep theirs. Raises :class:`~harness.errors.WeightsError` for anything
    else, saying what was found.
    """
    import torch

    check_container(path)
    if path.suffix == ".safetensors":
        raw: Any = _read_safetensors(path)
    elif path.suffix == ".npz":
        raw = _read_npz(path)
    else:
        raw = _read_torch(path)
    state = _unwrap(raw, path)
    half = (torch.float16, torch.bfloat16)
    return {name: value.detach().float() if value.dtype in half else value.detach() for name, value in state.items()}


def check_container(path: Path) -> None:
    """Check from the outside, without torch, that ``path`` is a whole file of a format that is read.

    Raises :class:`~harness.errors.WeightsError` for a missing, empty, foreign or truncated file.
    """
    found = container_fault(path)
    if found is not None:
        raise _unreadable(path, found)


def container_fault(path: Path) -> str | None:
    """Why ``path`` is no whole file, as far as that can be seen from the outside; see :func:`check_container`."""
    if path.suffix not in WEIGHT_SUFFIXES:
        raise WeightsError(
            f"weights: {path} has the ending {path.suffix!r}", hint=f"readable are {', '.join(WEIGHT_SUFFIXES)}"
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
        return "it is truncated, or no zip archive"
    return found


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
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless_globals()):
            warnings.simplefilter("ignore")  # torch's advice on pickles is for their authors
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unreadable(
            path, "it is damaged, or holds Python objects other than tensors, which could run code and are not loaded"
        ) from error
    except Exception as error:  # what a damaged pickle makes its reader raise has no common type
        raise _unreadable(path, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


def _harmless_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What checkpoints of training scripts hold beside tensors, by the names that they are pickled under.

    Each of them only stores what it is given: ``args`` of the command line, and single numbers such as
    ``best_prec1``. Whole arrays stay out, since nobody needs them and they could hold objects.
    """
    import argparse

    import numpy as np

    numbers = (
        *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, np.float32, np.float64),
    )
    scalar = np.float64(0).__reduce__()[0]
    assert callable(scalar)
    return [
        # A plain holder of attributes; its constructor sets them and does nothing else.
        argparse.Namespace,
        # Makes one number from its type and its bytes; NumPy 1 and 2 have it in different modules.
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        # The type of such a number: a description of bytes. A pickle names the general class and fills in one of these.
        (np.dtype, "numpy.dtype"),
        *((kind, f"numpy.dtypes.{kind.__name__}") for kind in (type(np.dtype(number)) for number in numbers)),
    ]


def _unreadable(path: Path, found: str) -> WeightsError:
    return WeightsError(
        f"weights: {path} cannot be used: {found}",
        hint="give a whole file of tensors (safetensors, PyTorch, npz); delete this one if it is a broken copy",
    )


def _unwrap(raw: Any, path: Path) -> dict[str, Tensor]:
    import torch

    wrappers: list[str] = []
    while isinstance(raw, Mapping):
        wrapper = next((name for name in _WRAPPERS if isinstance(raw.get(name), Mapping) and raw[name]), None)
        if wrapper is None:
            break
        raw = raw[wrapper]
        wrappers.append(wrapper)
    inside = "".join(f"[{wrapper!r}]" for wrapper in wrappers)
    if not isinstance(raw, Mapping) or not raw:
        raise _unreadable(path, f"it holds {type(raw).__name__}{inside} instead of tensors by name")
    others = [str(name) for name, value in raw.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise _unreadable(path, f"{_some(others)} {inside and f'in {inside} '}are no tensors")
    named = {str(name): value for name, value in raw.items()}
    if "n_averaged" in named and named["n_averaged"].ndim == 0:
        del named["n_averaged"]  # the counter of torch.optim.swa_utils.AveragedModel
    state = _strip_prefixes(named)
    return _without_backbone(state) if "teacher" in wrappers else state


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _strip_prefixes({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _without_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the backbone as its own; unchanged where one of them would then be another's."""
    bare = {name.removeprefix(_BACKBONE): value for name, value in state.items()}
    return bare if len(bare) == len(state) else state


# --- loading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What did not agree and was allowed not to: names that ``kept`` the module's values, and names ``left_out``."""

    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, allow_missing: Sequence[str] = ()
) -> Loaded:
    """Copy ``state`` into ``module``; every name and every shape must agree.

    ``allow_missing``: patterns (``head.*``) of names that need not be on both sides: one that ``state`` lacks keeps
    what the module has, one that the module lacks is left out. Counters of batches that old weights lack are no
    matter. ``source`` names the file in errors. Raises
    :class:`~harness.errors.WeightsError` listing what is missing, what is unexpected and which shapes differ, for a
    pattern that no name has, and where no name at all is on both sides; the module is then unchanged.
    """
    own = module.state_dict()
    state = {**_counters(own, state), **state}
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    _check_patterns(allow_missing, [*own, *unexpected], one_sided=[*missing, *unexpected], source=source)
    kept, left_out = _matching(missing, allow_missing), _matching(unexpected, allow_missing)
    faults = {
        "missing": [name for name in missing if name not in kept],
        "unexpected": [name for name in unexpected if name not in left_out],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
            for name, value in own.items()
            if name in state and state[name].shape != value.shape
        ],
    }
    if any(faults.values()):
        found = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in faults.items() if names)
        hint = "they belong to another architecture, another input size or another number of classes"
        one_sided = [*faults["missing"], *faults["unexpected"]]
        if one_sided and 2 * (len(missing) + len(faults["of another shape"])) < len(own):
            hint += (
                f"; where that is meant, --allow-missing {example_pattern(one_sided)!r} lets what the file lacks keep "
                "its initial values, and leaves out what the model lacks"
            )
        raise WeightsError(f"weights of {source} do not fit {type(module).__name__}: {found}", hint=hint)
    if allow_missing and not any(name in own for name in state):
        raise WeightsError(
            f"weights of {source} have no name in common with {type(module).__name__}: nothing would be loaded",
            hint="name only what may differ with --allow-missing; --weights random runs an untrained network",
        )
    _check_excuses(allow_missing, [*missing, *unexpected], source=source)
    agreeing = {name: value for name, value in state.items() if name in own}
    module.load_state_dict({**{name: own[name] for name in kept}, **agreeing}, strict=True)
    return Loaded(kept=tuple(kept), left_out=tuple(left_out))


def _counters(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How many batches each batch norm has seen, where ``state`` does not say.

    Weights saved before PyTorch 0.4.1 have no such counter; nothing reads it outside training, and PyTorch itself
    fills it in.
    """
    end = ".num_batches_tracked"
    return {
        name: value
        for name, value in own.items()
        if name.endswith(end) and name not in state and f"{name.removesuffix(end)}.running_mean" in state
    }


def example_pattern(names: Sequence[str]) -> str:
    """A pattern for the part of a network that most of ``names`` belong to.

    >>> example_pattern(["head.mlp.0.weight", "head.mlp.0.bias", "norm.bias"]), example_pattern(["pos_embed"])
    ('head.*', 'pos_embed')
    """
    ((part, count),) = Counter(name.partition(".")[0] for name in names).most_common(1)
    of_part = [name for name in names if name.partition(".")[0] == part]
    return of_part[0] if count == 1 else f"{part}.*"


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _check_patterns(patterns: Sequence[str], names: Sequence[str], *, one_sided: Sequence[str], source: str) -> None:
    """A pattern that matches nothing is a slip of the pen, which must not pass for a deliberate exception."""
    for pattern in patterns:
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            continue
        word = pattern.replace("*", "").replace("?", "").strip(".")
        parts = {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}
        hint = did_you_mean(word, one_sided) or did_you_mean(word, parts)
        alone = f"on one side only: {_some(one_sided)}" if one_sided else "every name is on both sides"
        raise WeightsError(
            f"weights of {source}: --allow-missing {pattern!r} matches no name, neither of the file nor of the model",
            hint=" ".join(filter(None, (hint, alone))),
        )


def _check_excuses(patterns: Sequence[str], one_sided: Sequence[str], *, source: str) -> None:
    """A pattern that excuses nothing would enter the key of a record for no reason."""
    for pattern in patterns:
        if not _matching(one_sided, [pattern]):
            raise WeightsError(
                f"weights of {source}: --allow-missing {pattern!r} excuses nothing: what it matches is on both sides",
                hint="leave it out",
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
