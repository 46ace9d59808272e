"""What a plugin must get right before its names are offered: its hooks and its descriptors."""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache
from typing import TYPE_CHECKING

from harness.entries import API_VERSION, DatasetEntry, Entry, ModelEntry, PerturbationEntry, ProbeEntry
from harness.errors import PluginError
from harness.hookspecs import PROJECT
from harness.naming import did_you_mean
from harness.params import describe
from harness.targets import EXTRAS
from harness.types import Capability, LevelSpec, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pluggy

OLDEST_API_VERSION = 1
"""The oldest version of the hooks and contracts that this harness still understands."""


def check_hooks(plugin: object, callers: Sequence[pluggy.HookCaller], known: Iterable[str]) -> None:
    """Check the hooks of a registered plugin; ``callers``: those pluggy found in it, ``known``: names of the specs.

    Raises :class:`PluginError` for a function called ``harness_*`` without decorator, a hook that does not exist, a
    wrapper or coroutine, and a plugin without any hook.
    """
    known = sorted(known)
    for name in dir(plugin):
        if name.startswith(f"{PROJECT}_") and _is_undecorated(plugin, name):
            raise PluginError(f"{name} is not decorated with harness.hookspecs.hookimpl, so it would never be called")
    for caller in callers:
        if not caller.has_spec():
            hint = did_you_mean(caller.name, known) or f"hooks are: {', '.join(known)}"
            raise PluginError(f"there is no hook {caller.name!r}; {hint}")
        for implementation in caller.get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            if implementation.wrapper or implementation.hookwrapper:
                raise PluginError(f"{caller.name} is a hook wrapper; a plugin cannot change what other plugins offer")
            if inspect.iscoroutinefunction(implementation.function):
                raise PluginError(f"{caller.name} is a coroutine; hooks are plain functions")
    if not callers:
        raise PluginError("it implements no hook; decorate its functions with harness.hookspecs.hookimpl")


def check_descriptor(item: object, expected: type[Entry], hook: str) -> Entry:
    """``item`` as the entry it should be.

    Raises :class:`PluginError` for a thing of another kind, another API version, or facts that contradict its
    parameters.
    """
    if not isinstance(item, expected):
        raise PluginError(f"{hook} must give {expected.__name__} objects, not a {type(item).__name__}")
    if problem := _version_problem(item) or _facts_problem(item) or _params_problem(item):
        raise PluginError(f"{item.kind} {item.name}: {problem}")
    return item


def _is_undecorated(plugin: object, name: str) -> bool:
    attribute = inspect.getattr_static(plugin, name, None)
    function = getattr(attribute, "__func__", attribute)
    if not inspect.isfunction(function):
        return False
    if inspect.ismodule(plugin) and function.__module__ != plugin.__name__:
        return False  # imported for its own use, such as a hook specification
    marker = f"{PROJECT}_impl"
    return not (hasattr(attribute, marker) or hasattr(function, marker))


def _version_problem(entry: Entry) -> str | None:
    if not isinstance(entry.api_version, int) or entry.api_version > API_VERSION:
        return f"written for api_version {entry.api_version}, this harness offers {API_VERSION}: upgrade vit-harness"
    if entry.api_version < OLDEST_API_VERSION:
        return (
            f"written for api_version {entry.api_version}, the oldest known is {OLDEST_API_VERSION}: upgrade the plugin"
        )
    return None


def _facts_problem(entry: Entry) -> str | None:
    if not isinstance(entry.aliases, tuple) or not isinstance(entry.tags, tuple):
        return "aliases and tags must be tuples of texts"
    if len({entry.name, *entry.aliases}) != 1 + len(entry.aliases):
        return f"aliases {entry.aliases} repeat a name"
    if entry.extra is not None and entry.extra not in EXTRAS:
        return f"extra {entry.extra!r} is none of {', '.join(EXTRAS)}"
    if isinstance(entry, ModelEntry) and not isinstance(entry.view, View):
        return f"view must be a View, not {entry.view!r}"
    if isinstance(entry, ModelEntry) and entry.names_tags and not (entry.qualified and entry.tag_param):
        return "names_tags needs qualified=True and a tag_param"
    if isinstance(entry, PerturbationEntry) and not isinstance(entry.level, LevelSpec | None):
        return f"level must be a LevelSpec, not {entry.level!r}"
    claimed = entry.needs if isinstance(entry, PerturbationEntry | ProbeEntry) else getattr(entry, "capabilities", ())
    unknown = [str(name) for name in claimed if name not in set(Capability)]
    return f"unknown capability {unknown[0]!r}" if unknown else None


def _params_problem(entry: Entry) -> str | None:
    if not isinstance(entry.params, type):
        return f"params must be a dataclass, not {entry.params!r}"
    problem, names = _schema(entry.params)
    if problem is not None:
        return problem
    named: list[str | None] = []
    if isinstance(entry, ModelEntry):
        named = [*entry.weights_params]
    elif isinstance(entry, PerturbationEntry):
        named = [entry.target_param, entry.source_param, *entry.model_params]
    elif isinstance(entry, DatasetEntry):
        named = [entry.level_param]
    if wrong := [name for name in named if name is not None and name not in names]:
        return f"{wrong[0]!r} is not one of its parameters ({', '.join(names) or 'none'})"
    return None


@cache
def _schema(schema: type) -> tuple[str | None, tuple[str, ...]]:
    """What is wrong with a parameter dataclass, and its parameters; many entries share one."""
    if not dataclasses.is_dataclass(schema):
        return f"params must be a dataclass, not {schema!r}", ()
    if not schema.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # the stubs leave this attribute out
        return f"params dataclass {schema.__name__} must be frozen", ()
    try:
        return None, tuple(row.name for row in describe(schema))
    except (TypeError, NameError, AttributeError) as error:
        return f"params dataclass {schema.__name__}: {error}", ()
