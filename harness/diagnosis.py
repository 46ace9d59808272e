"""What ``harness doctor`` looks at: versions, libraries, devices, plugins, cache, hub and optional packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.discovery import CORE_DISTRIBUTION, normalised
from harness.errors import WeightsError
from harness.hub import hub_cache_dir, hub_endpoint, preflight
from harness.library_probe import STEPS
from harness.paths import cache_dir
from harness.targets import EXTRAS, missing_packages
from harness.transfer import PREFLIGHT_S, is_offline

if TYPE_CHECKING:
    from harness.manager import HarnessManager
    from harness.types import JSONValue

Status: TypeAlias = Literal["ok", "note", "problem"]

PROBE_LIMIT_S = 180.0
"""A first import from a cold disk takes minutes on some machines."""

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*(?:>=\s*([0-9.]+))?")
_VARIABLES = ("HARNESS_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HARNESS_CACHE_DIR")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_PINNED_BY_TORCHATTACKS = ("requests", "idna", "urllib3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. A ``problem`` keeps something from working, a ``note`` does not; ``advice``: what to do."""

    area: str
    name: str
    found: str
    status: Status = "ok"
    advice: str = ""

    def as_dict(self) -> dict[str, JSONValue]:
        """Plain values for ``--json``."""
        return {
            "area": self.area,
            "name": self.name,
            "found": self.found,
            "status": self.status,
            "advice": self.advice,
        }


def diagnose(manager: HarnessManager, *, offline: bool = False) -> list[Finding]:
    """Look at everything. ``offline`` leaves the hub alone, as the environment's offline variables do."""
    return [
        *version_findings(),
        *library_findings(),
        *plugin_findings(manager),
        *cache_findings(),
        *hub_findings(offline=offline),
        *extra_findings(),
        *torchattacks_findings(),
    ]


# --- versions --------------------------------------------------------------------------------------------------


def version_findings() -> Iterator[Finding]:
    """Python, the harness, and what it requires: there, and new enough."""
    yield Finding(area="versions", name="python", found=f"{platform.python_version()}, {platform.platform()}")
    yield Finding(area="versions", name=CORE_DISTRIBUTION, found=_version(CORE_DISTRIBUTION) or "not installed")
    for requirement in importlib.metadata.requires(CORE_DISTRIBUTION) or ():
        parts = _REQUIREMENT.match(requirement)
        if parts is None or ";" in requirement:
            continue
        yield _requirement_finding(parts[1], parts[2])


def _requirement_finding(name: str, lowest: str | None) -> Finding:
    version = _version(name)
    repair = f"pip install '{name}>={lowest}'" if lowest else f"pip install {name}"
    if version is None:
        return Finding(area="versions", name=name, found="not installed", status="problem", advice=repair)
    if lowest is not None and release(version) < release(lowest):
        return Finding(area="versions", name=name, found=f"{version}, needs {lowest}", status="problem", advice=repair)
    return Finding(area="versions", name=name, found=version)


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, zeros at the end left out, so that they compare as PEP 440 orders final releases.

    >>> release("2.10.0+cpu") > release("2.4"), release("2.4") == release("2.4.0")
    (True, True)
    """
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- libraries and devices -------------------------------------------------------------------------------------


def library_findings(command: tuple[str, ...] = (sys.executable, "-m", "harness.library_probe")) -> Iterator[Finding]:
    """Import the heavy libraries in a process of their own, and say what came of it."""
    steps, crash = _probe(command)
    for name in STEPS:
        if name in steps:
            yield from _step_findings(name, steps[name], steps)
        else:
            yield Finding(
                area="libraries",
                name=name,
                found=crash or "gave no answer",
                status="problem",
                advice="torch, torchvision and faiss of different builds do that; reinstall them together",
            )
            return


def _probe(command: tuple[str, ...]) -> tuple[dict[str, dict[str, Any]], str | None]:
    """The steps that answered, and how the process ended if it did not end well."""
    crash = None
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter on our own module
            command, capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False
        )
        output = done.stdout
        if done.returncode < 0:
            crash = f"ended its process with {signal.Signals(-done.returncode).name}"
        elif done.returncode:
            crash = f"ended its process: {done.stderr.strip().rpartition(chr(10))[2] or done.returncode}"
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        crash = f"did not finish within {PROBE_LIMIT_S:g} seconds"
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"step": ')]
    return {line["step"]: line for line in lines}, crash


def _step_findings(name: str, found: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    if "error" in found:
        yield Finding(area="libraries", name=name, found=found["error"], status="problem", advice=_advice(name, steps))
    elif name == "torch":
        build = f"built for CUDA {found['cuda_build']}" if found["cuda_build"] else "built without CUDA"
        threads = f"{found['threads']} threads, {found['interop_threads']} between operations"
        yield Finding(area="libraries", name="torch", found=f"{found['version']}, {build}; {threads}")
        yield from _device_findings(found)
    elif name == "torchvision":
        yield Finding(area="libraries", name=name, found=f"{found['version']}, its operators work with this torch")
    elif name == "faiss":
        yield Finding(area="libraries", name=name, found=f"{found['version']}; {found['threads']} threads")
    else:
        yield _openmp_finding(found["runtimes"])


def _device_findings(torch: Mapping[str, Any]) -> Iterator[Finding]:
    for device, description in torch["devices"].items():
        yield Finding(area="devices", name=device, found=description)
    driver = Path("/proc/driver/nvidia/version").exists()
    if driver and not any(device.startswith("cuda") for device in torch["devices"]):
        built = torch["cuda_build"] is not None
        yield Finding(
            area="devices",
            name="cuda",
            found="an NVIDIA driver is there, but torch finds no device",
            status="note",
            advice="look at CUDA_VISIBLE_DEVICES and at the driver's version" if built else "install a torch with CUDA",
        )


def _advice(name: str, steps: Mapping[str, Mapping[str, Any]]) -> str:
    if name == "torchvision" and "error" not in steps.get("torch", {}):
        versions = f"torch {_version('torch')} and torchvision {_version('torchvision')}"
        return (
            f"{versions} do not belong together: install both from one index in one command, "
            "pip install --force-reinstall torch torchvision"
        )
    distribution = {"faiss": "faiss-cpu", "openmp": "threadpoolctl"}.get(name, name)
    return f"pip install --force-reinstall {distribution}"


def _openmp_finding(runtimes: list[str]) -> Finding:
    names = ", ".join(Path(runtime).name for runtime in runtimes)
    if len(runtimes) < 2:
        return Finding(area="libraries", name="openmp", found=names or "none loaded")
    return Finding(
        area="libraries",
        name="openmp",
        found=f"{len(runtimes)} runtimes in one process: {names}",
        status="note",
        advice="torch and faiss each bring one; import torch first, as the harness does, and set OMP_NUM_THREADS "
        "if threads compete",
    )


# --- plugins, cache, hub ---------------------------------------------------------------------------------------


def plugin_findings(manager: HarnessManager) -> Iterator[Finding]:
    """Every plugin that failed or was kept out, and how many work."""
    rows = manager.plugins()
    working = [row.name for row in rows if row.status == "ok"]
    yield Finding(area="plugins", name="working", found=f"{len(working)}: {', '.join(working)}")
    for row in rows:
        if row.status == "blocked":
            yield Finding(area="plugins", name=row.name, found=f"kept out, {row.reason}", status="note")
    for failure in manager.failures:
        yield Finding(
            area="plugins",
            name=failure.plugin,
            found=f"{failure.stage}: {failure.error}",
            status="problem",
            advice=f"repair, upgrade or uninstall {failure.distribution or 'it'}",
        )


def cache_findings() -> Iterator[Finding]:
    """The cache folder: where, how large, and whether it can be written to."""
    folder = cache_dir()
    # What does not exist yet is made in the nearest folder that does.
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    size = folder_bytes(folder)
    yield Finding(
        area="cache",
        name="folder",
        found=f"{folder}, {readable_bytes(size)}" if folder.exists() else f"{folder}, not made yet",
        status="ok" if writable else "problem",
        advice="" if writable else f"{place} cannot be written to; set HARNESS_CACHE_DIR to a folder that can",
    )


def folder_bytes(folder: Path) -> int:
    """The bytes of all files in a folder, 0 for one that is not there."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def readable_bytes(count: int) -> str:
    """A number of bytes for people.

    >>> readable_bytes(1_500_000)
    '1.5 MB'
    """
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def hub_findings(*, offline: bool) -> Iterator[Finding]:
    """Whether pretrained weights can be fetched, where they lie, and the environment that decides it."""
    for name in _VARIABLES:
        if name in os.environ:
            yield Finding(area="hub", name=name, found=os.environ[name])
    if proxies := [name for name in _PROXIES if os.environ.get(name)]:
        # Their values may hold a password.
        yield Finding(area="hub", name="proxy", found=f"{', '.join(proxies)} set")
    yield Finding(area="hub", name="weights cache", found=str(hub_cache_dir()))
    if offline or is_offline():
        yield Finding(area="hub", name=hub_endpoint(), found="not asked: offline")
        return
    try:
        preflight(timeout_s=PREFLIGHT_S)
    except WeightsError as error:
        yield Finding(
            area="hub",
            name=hub_endpoint(),
            found=error.message,
            status="problem",
            advice="without a network, set HARNESS_OFFLINE=1 and copy the weights cache from elsewhere; behind a "
            "proxy, set HTTPS_PROXY; for a mirror, HF_ENDPOINT",
        )
    else:
        yield Finding(area="hub", name=hub_endpoint(), found="answers")


# --- optional packages -----------------------------------------------------------------------------------------


def extra_findings() -> Iterator[Finding]:
    """Which optional dependency groups are installed."""
    for extra, packages in EXTRAS.items():
        if missing := missing_packages(extra):
            found = f"not installed ({', '.join(missing)})"
            advice = f"pip install 'vit-harness[{extra}]' if wanted"
            yield Finding(area="extras", name=extra, found=found, status="note", advice=advice)
        else:
            versions = ", ".join(f"{package} {_version(package) or '?'}" for package in packages)
            yield Finding(area="extras", name=extra, found=versions)


def torchattacks_findings() -> Iterator[Finding]:
    """What an installed torchattacks did to the environment: old pins, and somebody else's top-level package."""
    try:
        distribution = importlib.metadata.distribution("torchattacks")
    except importlib.metadata.PackageNotFoundError:
        return
    pins = {}
    for requirement in distribution.requires or ():
        parts = re.match(r"([A-Za-z0-9._-]+)\s*\(?([~=<][^;)]*)", requirement)
        if parts is not None and normalised(parts[1]) in _PINNED_BY_TORCHATTACKS:
            pins[normalised(parts[1])] = parts[2].strip()
    if pins:
        held = ", ".join(f"{name} at {_version(name) or 'nothing'} ({name}{pin})" for name, pin in pins.items())
        yield Finding(
            area="extras",
            name="torchattacks",
            found=f"holds {held}",
            status="note",
            advice="its attacks use none of them; upgrading them is safe, whatever pip says",
        )
    if any(file.parts[0] == "robustbench" for file in distribution.files or ()):
        own = _version("robustbench")
        yield Finding(
            area="extras",
            name="robustbench",
            found="the top-level package is an old copy that torchattacks brought"
            + (f", in the place of the installed robustbench {own}" if own else ""),
            status="note",
            advice="`import robustbench` may give that copy; use the real one in an environment without torchattacks",
        )
