"""Which plugins are installed, which of them are kept out, and what is said of one that fails."""

from __future__ import annotations

import importlib.metadata
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.errors import HarnessError, UsageError
from harness.hookspecs import ENTRY_POINT_GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

FailureStage: TypeAlias = Literal["load", "register", "verify", "collect", "observer"]

CORE_DISTRIBUTION = "vit-harness"
"""The distribution whose plugins are the harness' own."""
BUILTIN = "builtin"
"""The plugin that is part of the core and cannot be kept out."""
DISABLE_VARIABLE = "HARNESS_DISABLE_PLUGINS"
"""Comma list of plugins or distributions to keep out."""
AUTOLOAD_VARIABLE = "HARNESS_PLUGIN_AUTOLOAD"
"""``0`` keeps out every plugin of a distribution other than ``vit-harness``; what the caller hands in still loads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginFailure:
    """One plugin that does not work: who, at which stage, and why, in one line. ``cause`` keeps the traceback."""

    plugin: str
    distribution: str | None
    version: str | None
    stage: FailureStage
    error: str
    cause: BaseException | None = field(default=None, repr=False, compare=False)

    def describe(self) -> str:
        """One line for people.

        >>> failure = PluginFailure(plugin="leaves", distribution="leaf", version="1.2", stage="load", error="no x")
        >>> failure.describe()
        'plugin leaves (leaf 1.2): load: no x'
        """
        return f"{plugin_label(self.plugin, self.distribution, self.version)}: {self.stage}: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPlugin:
    """A plugin before it is loaded. ``core`` marks those of ``vit-harness`` itself."""

    name: str
    load: Callable[[], object]
    distribution: str | None = None
    version: str | None = None
    core: bool = False


def plugin_label(name: str, distribution: str | None, version: str | None) -> str:
    """``plugin NAME (DISTRIBUTION VERSION)`` as far as known."""
    origin = " ".join(part for part in (distribution, version) if part)
    return f"plugin {name} ({origin})" if origin else f"plugin {name}"


def one_line(error: BaseException) -> str:
    """``Type: message`` on one line; the message of a :class:`HarnessError` without its hint."""
    try:
        message = error.message if isinstance(error, HarnessError) else str(error)
    except Exception as broken:  # noqa: BLE001 - a stranger's exception may fail to print itself
        message = f"(its message cannot be shown: {type(broken).__name__})"
    text = " ".join(message.split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def installed_plugins() -> tuple[list[FoundPlugin], list[PluginFailure]]:
    """Every entry point of the group, the harness' own first, and the distributions whose metadata cannot be read."""
    try:
        points = list(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
        failures: list[PluginFailure] = []
    except Exception:  # noqa: BLE001 - one malformed file stops that call for all; find out whose it is
        points, failures = _entry_points_one_by_one()
    origins: dict[int, tuple[str | None, str | None]] = {}
    found = []
    for point in points:
        if id(point.dist) not in origins:
            origins[id(point.dist)] = _origin(point.dist)
        name, version = origins[id(point.dist)]
        core = name is not None and normalised(name) == CORE_DISTRIBUTION
        found.append(FoundPlugin(name=point.name, load=point.load, distribution=name, version=version, core=core))
    found.sort(key=lambda plugin: (not plugin.core, plugin.distribution or "", plugin.name))
    return found, failures


def blocked_plugins(block: Collection[str], found: Iterable[FoundPlugin]) -> dict[int, str]:
    """Why each kept-out plugin is kept out, by its place in ``found``.

    ``block`` and the environment name plugins or distributions. Raises :class:`UsageError` for an attempt on the
    built-in plugin and for a value of the environment that means nothing.
    """
    disabled = [word.strip() for word in os.environ.get(DISABLE_VARIABLE, "").split(",") if word.strip()]
    reasons = dict.fromkeys(disabled, f"named in {DISABLE_VARIABLE}") | dict.fromkeys(block, "kept out by the caller")
    if BUILTIN in reasons:
        raise UsageError(f"plugin {BUILTIN!r} cannot be kept out: the clean pass is part of every run")
    autoload = os.environ.get(AUTOLOAD_VARIABLE, "")
    if autoload not in ("", "0", "1"):
        raise UsageError(f"{AUTOLOAD_VARIABLE} must be 0 or 1, not {autoload!r}")
    blocked: dict[int, str] = {}
    for place, plugin in enumerate(found):
        names = [plugin.name, *([plugin.distribution] if plugin.distribution else [])]
        for word, reason in reasons.items():
            if word == plugin.name or normalised(word) in map(normalised, names[1:]):
                blocked[place] = reason
        if autoload == "0" and not plugin.core and plugin.distribution is not None:
            blocked.setdefault(place, f"{AUTOLOAD_VARIABLE}=0")
    return blocked


def normalised(distribution: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503).

    >>> normalised("My_Dist.X")
    'my-dist-x'
    """
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _origin(distribution: importlib.metadata.Distribution | None) -> tuple[str | None, str | None]:
    if distribution is None:
        return None, None
    try:
        return distribution.metadata["Name"], distribution.metadata["Version"]
    except Exception:  # noqa: BLE001 - METADATA may be missing or broken; the plugin may work all the same
        return None, None


def _entry_points_one_by_one() -> tuple[list[importlib.metadata.EntryPoint], list[PluginFailure]]:
    points: list[importlib.metadata.EntryPoint] = []
    failures: list[PluginFailure] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        text = distribution.read_text("entry_points.txt") or ""
        name, version = _origin(distribution)
        if ENTRY_POINT_GROUP not in text or normalised(name or "") in seen:
            continue
        seen.add(normalised(name or ""))
        try:
            points += distribution.entry_points.select(group=ENTRY_POINT_GROUP)
        except Exception as error:  # noqa: BLE001 - whatever a malformed file makes the parser raise
            failures.append(
                PluginFailure(
                    plugin=name or "?",
                    distribution=name,
                    version=version,
                    stage="load",
                    error=f"its entry_points.txt cannot be read: {one_line(error)}",
                    cause=error,
                )
            )
    return points, failures
