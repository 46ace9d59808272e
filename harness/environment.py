"""What a number was computed on: versions, machine, commit, time and memory; nothing here can change the number."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.types import JSONValue

_DISTRIBUTIONS = ("vit-harness", "torch", "torchvision", "timm", "numpy")
_COMMAND_SECONDS = 3.0


def environment_block(
    *,
    device: object,
    batch_size: int,
    threads: int,
    workers: int,
    seconds: float,
    weights_sha256: str | None = None,
    initial_weights: Sequence[str] = (),
    distributions: Iterable[str] = (),
) -> dict[str, JSONValue]:
    """The ``environment`` of a record whose work took ``seconds`` and ends now; plain JSON values.

    ``device`` is a torch device or its text; ``threads`` those of one torch operation, ``workers`` those that decode.
    ``initial_weights``: parameters that the weights' file lacked. ``distributions`` names the packages of the plugins
    at work. Peak memory is that of the process so far, in bytes; that of the device as torch's allocator counts it.
    What cannot be told is None; host and user names are left out.
    """
    names = dict.fromkeys((*_DISTRIBUTIONS, *sorted(distributions)))
    machine: dict[str, JSONValue] = {
        "python": platform.python_version(),
        "platform": _platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
    }
    return {
        "versions": {name: _version(name) for name in names},
        **machine,
        "device": str(device),
        "device_name": _device_name(str(device)),
        "batch_size": batch_size,
        "threads": threads,
        "workers": workers,
        "weights_sha256": weights_sha256,
        "initial_weights": list(initial_weights),
        **source_state(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_memory_bytes": _peak_device_memory_bytes(str(device)),
    }


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _platform() -> str:
    return platform.platform()


@functools.cache
def cpu_name() -> str | None:
    """The processor's model name as the system gives it, None where it gives none."""
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        named = [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == "model name"]
        if named:
            return named[0]
    if sys.platform == "darwin" and (name := _ask("sysctl", "-n", "machdep.cpu.brand_string")):
        return name
    return platform.processor() or platform.machine() or None


@functools.cache
def source_state(root: Path | None = None) -> dict[str, JSONValue]:
    """``commit`` of the checkout that the harness runs from, and whether it is ``dirty``; empty if it is none.

    ``root`` is that tree, by default the folder above the package. A repository that merely *contains* the
    installation (a virtual environment inside somebody's project) is not asked.
    """
    tree = Path(__file__).resolve().parent.parent if root is None else root
    if not (tree / ".git").exists():
        return {}
    commit = _ask("git", "-C", str(tree), "rev-parse", "--verify", "HEAD")
    changes = _ask("git", "-C", str(tree), "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None:
        return {}
    return {"commit": commit, "dirty": bool(changes)}


def _ask(*command: str) -> str | None:
    """What a command prints, None if it is not installed, fails or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands; git and sysctl come from the PATH as for the user
            command,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def peak_memory_bytes() -> int | None:
    """Most memory this process has held so far, in bytes; None where the system does not tell (Windows)."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        # getrusage would count what the process that started this one held, up to the moment of exec.
        with contextlib.suppress(OSError, ValueError):
            for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux and the BSDs count in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


@functools.cache
def _device_name(device: str) -> str | None:
    if not device.startswith("cuda"):
        return cpu_name() if device == "cpu" else None
    import torch

    return torch.cuda.get_device_name(device)


def _peak_device_memory_bytes(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_allocated(device)
