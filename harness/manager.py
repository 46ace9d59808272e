"""Load the plugins, each behind its own guard, and keep what they offer, by kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias

import pluggy

from harness import builtin, hookspecs
from harness.discovery import (
    BUILTIN,
    CORE_DISTRIBUTION,
    FailureStage,
    FoundPlugin,
    PluginFailure,
    blocked_plugins,
    installed_plugins,
    one_line,
    plugin_label,
)
from harness.entries import DatasetEntry, Entry, ModelEntry, PerturbationEntry, ProbeEntry, SummaryEntry
from harness.errors import HarnessError, PluginError
from harness.types import KINDS
from harness.verify import check_descriptor, check_hooks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from harness.api import RunResult
    from harness.planning import RunPlan
    from harness.types import Kind, ResultRecord

__all__ = ["HarnessManager", "Offer", "PluginFailure", "PluginRow", "build_manager"]

Status: TypeAlias = Literal["ok", "failed", "blocked"]
_REGISTER: dict[str, type[Entry]] = {
    "harness_register_models": ModelEntry,
    "harness_register_perturbations": PerturbationEntry,
    "harness_register_probes": ProbeEntry,
    "harness_register_datasets": DatasetEntry,
    "harness_register_summaries": SummaryEntry,
}
_FILES = "harness_registry_files"
_SPECS = tuple(name for name in vars(hookspecs) if name.startswith(f"{hookspecs.PROJECT}_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One entry and who offers it. ``core``: it belongs to ``vit-harness`` itself."""

    entry: Entry
    plugin: str
    distribution: str | None
    version: str | None
    core: bool

    @property
    def owner(self) -> str:
        """The plugin with its distribution and version, for people."""
        return plugin_label(self.plugin, self.distribution, self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRow:
    """One line of ``harness plugins``. ``reason`` says why a plugin failed or was kept out, or that an observer did."""

    name: str
    distribution: str | None
    version: str | None
    status: Status
    reason: str | None
    counts: Mapping[Kind, int]


@dataclass(slots=True, kw_only=True)
class _Plugin:
    """A plugin as the manager knows it; ``key`` is its name, made unique where two distributions use one name."""

    key: str
    found: FoundPlugin
    status: Status = "ok"
    reason: str | None = None
    entries: list[Entry] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    observers: dict[str, list[pluggy.HookImpl]] = field(default_factory=dict)


def build_manager(
    *,
    discover: bool = True,
    extra: Sequence[object] = (),
    block: Collection[str] = (),
    strict: bool = False,
) -> HarnessManager:
    """A manager with the built-in plugin, the installed ones if ``discover``, and ``extra``.

    An extra plugin is a module, an object with hook methods, or a pair of a name and one of these. ``block`` names
    plugins or distributions to keep out, as does the environment (:data:`~harness.discovery.DISABLE_VARIABLE`,
    :data:`~harness.discovery.AUTOLOAD_VARIABLE`). A plugin that fails is left out and listed in
    :attr:`HarnessManager.failures`; with ``strict`` the first failure raises :class:`PluginError`.
    """
    installed, unreadable = installed_plugins() if discover else ([], [])
    own_version = next((plugin.version for plugin in installed if plugin.core), None)
    core = FoundPlugin(
        name=BUILTIN, load=lambda: builtin, distribution=CORE_DISTRIBUTION, version=own_version, core=True
    )
    found = [core, *installed, *map(_extra_plugin, extra)]
    manager = HarnessManager(strict=strict)
    for failure in unreadable:
        manager.add_failure(failure)
    blocked = blocked_plugins(block, found)
    for place, plugin in enumerate(found):
        manager.add(plugin, blocked=blocked.get(place))
    return manager


class HarnessManager:
    """What the plugins offer, who failed and who was kept out. Made by :func:`build_manager`."""

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._hooks = pluggy.PluginManager(hookspecs.PROJECT)
        self._hooks.add_hookspecs(hookspecs)
        self._plugins: dict[str, _Plugin] = {}
        self._failures: list[PluginFailure] = []
        self._withheld: dict[tuple[Kind, str], PluginFailure] = {}
        self._offers: dict[Kind, tuple[Offer, ...]] = {}
        self._reserved: set[tuple[Kind, str]] = set()

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        """Every failure so far, in the order of their happening."""
        return tuple(self._failures)

    def entries(self, kind: Kind) -> tuple[Offer, ...]:
        """Every entry of a kind, by name; plugins that clash both stand here."""
        if kind in self._offers:
            return self._offers[kind]
        offers = [
            Offer(
                entry=entry,
                plugin=plugin.found.name,
                distribution=plugin.found.distribution,
                version=plugin.found.version,
                core=plugin.found.core,
            )
            for plugin in self._plugins.values()
            if plugin.status == "ok"
            for entry in plugin.entries
            if entry.kind == kind
        ]
        self._offers[kind] = tuple(sorted(offers, key=lambda offer: (offer.entry.name, offer.plugin)))
        return self._offers[kind]

    def withheld(self, kind: Kind, name: str) -> PluginFailure | None:
        """The failure that keeps ``name`` from being offered, if its plugin had got as far as naming it."""
        return self._withheld.get((kind, name))

    def registry_files(self) -> tuple[tuple[str, Path], ...]:
        """Registry files of plugins, each with the key that :meth:`fail` takes."""
        working = (plugin for plugin in self._plugins.values() if plugin.status == "ok")
        return tuple((plugin.key, path) for plugin in working for path in plugin.files)

    def plugins(self) -> tuple[PluginRow, ...]:
        """All plugins found, the failed and the kept-out included."""
        return tuple(
            PluginRow(
                name=plugin.found.name,
                distribution=plugin.found.distribution,
                version=plugin.found.version,
                status=plugin.status,
                reason=plugin.reason,
                counts={kind: sum(entry.kind == kind for entry in plugin.entries) for kind in KINDS},
            )
            for plugin in self._plugins.values()
        )

    def add(self, found: FoundPlugin, *, blocked: str | None = None) -> None:
        """Load, register, verify and collect one plugin, or note that it is kept out, and why."""
        plugin = _Plugin(key=self._unique_key(found), found=found)
        self._plugins[plugin.key] = plugin
        self._offers.clear()
        if blocked is not None:
            plugin.status, plugin.reason = "blocked", blocked
            return
        stage: FailureStage = "load"
        try:
            loaded = found.load()
            stage = "register"
            if loaded is None or isinstance(loaded, str):
                raise PluginError(f"a plugin is a module or an object with hook methods, not {loaded!r}")
            self._hooks.register(loaded, name=plugin.key)
            stage = "verify"
            callers = self._hooks.get_hookcallers(loaded) or []
            check_hooks(loaded, callers, _SPECS)
            stage = "collect"
            self._collect(plugin, {caller.name: _implementations(caller, loaded) for caller in callers})
        except pluggy.PluginValidationError as error:
            self.fail(plugin.key, "verify", error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; it is reported by name
            self.fail(plugin.key, stage, error)

    def fail(self, key: str, stage: FailureStage, error: BaseException) -> None:
        """Take a plugin and all its names out of service. With ``strict``, raises :class:`PluginError` instead."""
        plugin = self._plugins[key]
        failure = _failure(plugin, stage, error)
        self._offers.clear()
        plugin.status, plugin.reason = "failed", f"{stage}: {failure.error}"
        for entry in plugin.entries:
            for name in (entry.name, *entry.aliases):
                self._withheld[entry.kind, name] = failure
        plugin.entries, plugin.files, plugin.observers = [], [], {}
        if self._hooks.has_plugin(key):
            self._hooks.unregister(name=key)
        self.add_failure(failure)

    def add_failure(self, failure: PluginFailure) -> None:
        """Note a failure. With ``strict``, raises :class:`PluginError` naming it."""
        self._failures.append(failure)
        if self._strict:
            raise PluginError(failure.describe()) from failure.cause

    def notify_run_started(self, plan: RunPlan) -> tuple[PluginFailure, ...]:
        """Tell the observers that a run begins; returns the failures of those that raised, who are then left out."""
        return self._notify("harness_run_started", {"plan": plan})

    def notify_record_written(self, record: ResultRecord) -> tuple[PluginFailure, ...]:
        """Tell the observers of a record; returns failures as :meth:`notify_run_started` does."""
        return self._notify("harness_record_written", {"record": record})

    def notify_run_finished(self, result: RunResult) -> tuple[PluginFailure, ...]:
        """Tell the observers that a run ended; returns failures as :meth:`notify_run_started` does."""
        return self._notify("harness_run_finished", {"result": result})

    def _notify(self, hook: str, arguments: Mapping[str, object]) -> tuple[PluginFailure, ...]:
        failed = []
        for plugin in self._plugins.values():
            try:
                for observer in plugin.observers.get(hook, ()):
                    observer.function(*(arguments[name] for name in observer.argnames))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - an observer cannot change a run, so not end it
                plugin.observers = {}
                failure = _failure(plugin, "observer", error)
                plugin.reason = f"observer: {failure.error}"
                failed.append(failure)
        self._failures += failed
        return tuple(failed)

    def _unique_key(self, found: FoundPlugin) -> str:
        key = found.name if found.name not in self._plugins else f"{found.distribution or 'extra'}:{found.name}"
        while key in self._plugins:
            key += "'"
        return key

    def _collect(self, plugin: _Plugin, hooks: Mapping[str, list[pluggy.HookImpl]]) -> None:
        taken: set[tuple[Kind, str]] = set()
        for hook, expected in _REGISTER.items():
            for item in _given(hook, hooks.get(hook, ()), expected.__name__):
                if isinstance(item, Entry):
                    plugin.entries.append(item)  # before it is checked, so that a failure knows its name
                entry = check_descriptor(item, expected, hook)
                for name in (entry.name, *entry.aliases):
                    if (entry.kind, name) in self._reserved:
                        raise PluginError(f"{entry.kind} {name!r} belongs to the harness itself; choose another name")
                    if (entry.kind, name) in taken:
                        raise PluginError(f"{entry.kind} {name!r} is offered twice by this plugin")
                    taken.add((entry.kind, name))
        for item in _given(_FILES, hooks.get(_FILES, ()), "Path"):
            if not isinstance(item, Path):
                raise PluginError(f"{_FILES} must give pathlib.Path objects, not a {type(item).__name__}")
            plugin.files.append(item)
        observers = hooks.keys() - _REGISTER.keys() - {_FILES}
        plugin.observers = {hook: hooks[hook] for hook in observers}
        if plugin.found.core and plugin.found.name == BUILTIN:
            self._reserved = taken


def _given(hook: str, implementations: Iterable[pluggy.HookImpl], expected: str) -> Iterator[object]:
    for implementation in implementations:
        given = implementation.function()
        try:
            items = iter(given)  # type: ignore[call-overload]  # what a stranger returns is unknown
        except TypeError:
            raise PluginError(
                f"{hook} must yield {expected} objects or return a list of them, not {type(given).__name__}"
            ) from None
        yield from items


def _implementations(caller: pluggy.HookCaller, plugin: object) -> list[pluggy.HookImpl]:
    return [implementation for implementation in caller.get_hookimpls() if implementation.plugin is plugin]


def _failure(plugin: _Plugin, stage: FailureStage, error: BaseException) -> PluginFailure:
    text = one_line(error)
    if isinstance(error, HarnessError):
        text = error.message if error.hint is None else f"{error.message} ({error.hint})"
    return PluginFailure(
        plugin=plugin.found.name,
        distribution=plugin.found.distribution,
        version=plugin.found.version,
        stage=stage,
        error=" ".join(text.split()),
        cause=error,
    )


def _extra_plugin(extra: object) -> FoundPlugin:
    if isinstance(extra, tuple) and len(extra) == 2 and isinstance(extra[0], str):
        name, plugin = extra
    else:
        plugin = extra
        name = plugin.__name__ if isinstance(plugin, ModuleType | type) else type(plugin).__name__
    return FoundPlugin(name=name, load=lambda: plugin)
