"""Targets: the code behind an entry, imported on first use, and the optional packages it may need."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from harness.discovery import one_line
from harness.errors import MissingDependencyError, PluginError
from harness.naming import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.entries import Entry, ProbeEntry

EXTRAS: dict[str, tuple[str, ...]] = {
    "attacks": ("torchattacks",),
    "corruptions": ("imagecorruptions",),
    "ray": ("ray",),
}
"""The import packages that each optional dependency group of ``vit-harness`` brings."""


def missing_packages(extra: str | None) -> tuple[str, ...]:
    """The packages of ``extra`` that are not installed, found out without importing any."""
    return tuple(package for package in EXTRAS.get(extra or "", ()) if not _is_installed(package))


def load_target(entry: Entry) -> Callable[..., object]:
    """Import ``entry.target``.

    Raises :class:`MissingDependencyError` where packages of an extra are missing, and :class:`PluginError` with the
    cause in one line for any other failure.
    """
    return _load(entry, entry.target)


def load_exhibit(entry: ProbeEntry) -> Callable[..., object]:
    """Import what draws the exhibit of a probe that has one. Raises as :func:`load_target` does."""
    if entry.exhibit is None:
        raise PluginError(f"probe {entry.name} has no exhibit")
    return _load(entry, entry.exhibit)


def _load(entry: Entry, path: str) -> Callable[..., object]:
    where = f"{entry.kind} {entry.name}"
    if missing := missing_packages(entry.extra):
        assert entry.extra is not None
        raise MissingDependencyError(f"{where} needs {', '.join(missing)}, not installed", extra=entry.extra)
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and (extra := _extra_of(error.name)) is not None:
            raise MissingDependencyError(f"{where} needs {error.name}, not installed", extra=extra) from error
        raise PluginError(f"{where}: cannot import {module_name}: {one_line(error)}") from error
    target: Callable[..., object] | None = getattr(module, attribute, None)
    if not callable(target):
        problem = "is not there" if target is None else f"is a {type(target).__name__}, which cannot be called"
        near = did_you_mean(attribute, (name for name in vars(module) if not name.startswith("_")))
        raise PluginError(f"{where}: {path} {problem}", hint=near)
    return target


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module put into sys.modules by hand has no spec, and is there all the same
        return True


def _extra_of(module: str | None) -> str | None:
    top = (module or "").partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if top in packages), None)
