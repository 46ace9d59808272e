"""The registry: packaged file, files of plugins and files of the user, laid over each other.

A file holds any of ``models``, ``perturbations``, ``probes``, ``datasets`` (presets by name), ``suites`` and
``defaults``. A name of an earlier layer is replaced only where ``override: true`` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import HarnessError, RegistryError
from harness.naming import did_you_mean
from harness.registry_file import (
    PACKAGED,
    SECTIONS,
    USER,
    Defaults,
    Document,
    Preset,
    Suite,
    packaged_document,
    read_document,
)
from harness.strict_yaml import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from harness.types import Kind

__all__ = ["Claim", "Defaults", "Preset", "Registry", "Source", "Suite", "load_registry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who holds a name already: ``owner`` in words, the plugin or layer, and whether it is the harness' own.

    A ``reserved`` name has a meaning that every run relies on (``none``), and cannot be replaced.
    """

    owner: str
    plugin: str
    core: bool
    name: str
    reserved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Presets by kind and name, and suites, after all layers.

    ``contested`` and ``contested_suites`` hold what several plugins give under one name.
    """

    presets: Mapping[Kind, Mapping[str, Preset]]
    contested: Mapping[Kind, Mapping[str, tuple[Preset, ...]]]
    suites: Mapping[str, Suite]
    contested_suites: Mapping[str, tuple[Suite, ...]]
    defaults: Defaults


def load_registry(
    files: Sequence[Path] = (),
    *,
    plugin_files: Sequence[tuple[str, Path]] = (),
    entries: Mapping[Kind, Mapping[str, Claim]] | None = None,
    check: Callable[[Preset], None] | None = None,
    on_plugin_error: Callable[[str, HarnessError], None] | None = None,
) -> Registry:
    """Read the packaged file, then ``plugin_files`` (plugin, path), then the user's ``files``.

    ``entries`` holds the names and aliases that plugins give by themselves: replacing one needs ``override: true`` too.
    ``check`` is called with every preset and raises where its parameters are wrong. A broken file of a plugin leaves
    out all files of that plugin and is handed to ``on_plugin_error``; without that, and for any other file, it raises
    :class:`RegistryError`.
    """
    merged = RegistryMerge(entries or {}, check)
    merged.add([packaged_document()])
    by_plugin: dict[str, list[Path]] = {}
    for plugin, path in plugin_files:
        by_plugin.setdefault(plugin, []).append(path)
    for plugin, paths in by_plugin.items():
        try:
            merged.add([read_document(path, plugin) for path in paths])
        except HarnessError as error:
            if on_plugin_error is None:
                raise
            on_plugin_error(plugin, error)
    for path in files:
        merged.add([read_document(path, USER)])
    return merged.registry()


class RegistryMerge:
    """Layers put on top of each other; a group of documents is accepted whole or not at all."""

    def __init__(self, entries: Mapping[Kind, Mapping[str, Claim]], check: Callable[[Preset], None] | None) -> None:
        self._check = check
        self._claims: dict[str, dict[str, Claim]] = {kind: dict(entries.get(kind, {})) for kind in SECTIONS.values()}
        self._claims["suite"] = {}
        self._presets: list[Preset] = []
        self._suites: list[Suite] = []
        self._defaults = Defaults()

    def add(self, documents: Sequence[Document]) -> None:
        claims = {kind: dict(taken) for kind, taken in self._claims.items()}
        presets, suites, defaults = list(self._presets), list(self._suites), self._defaults
        for document in documents:
            # The new names of a file are compared with what was there before it, then with each other.
            for preset in document.presets:
                _claim(preset, preset.kind, preset.aliases, claims[preset.kind])
                if self._check is not None:
                    self._check(preset)
                replaced: list[Preset] = []
                if preset.override:
                    replaced = [p for p in presets if (p.kind, p.name) == (preset.kind, preset.name)]
                    presets = [p for p in presets if p not in replaced]
                presets.append(_with_aliases_of(preset, replaced))
            for suite in document.suites:
                _claim(suite, "suite", (), claims["suite"])
                suites = [s for s in suites if not (suite.override and s.name == suite.name)]
                suites.append(suite)
            defaults = replace(defaults, **document.defaults)
        self._claims, self._presets, self._suites, self._defaults = claims, presets, suites, defaults

    def registry(self) -> Registry:
        named: dict[Kind, dict[str, list[Preset]]] = {kind: {} for kind in SECTIONS.values()}
        for preset in self._presets:
            named[preset.kind].setdefault(preset.name, []).append(preset)
        suites: dict[str, list[Suite]] = {}
        for suite in self._suites:
            suites.setdefault(suite.name, []).append(suite)
        return Registry(
            presets={k: {n: ps[0] for n, ps in group.items() if len(ps) == 1} for k, group in named.items()},
            contested={k: {n: tuple(ps) for n, ps in group.items() if len(ps) > 1} for k, group in named.items()},
            suites={name: group[0] for name, group in suites.items() if len(group) == 1},
            contested_suites={name: tuple(group) for name, group in suites.items() if len(group) > 1},
            defaults=self._defaults,
        )


def _with_aliases_of(preset: Preset, replaced: list[Preset]) -> Preset:
    """What is replaced leaves its aliases to the replacement, so that no alias leads to what is no longer there."""
    inherited = dict.fromkeys((*preset.aliases, *(alias for old in replaced for alias in old.aliases)))
    return replace(preset, aliases=tuple(inherited)) if replaced else preset


def _claim(item: Preset | Suite, kind: str, aliases: tuple[str, ...], taken: dict[str, Claim]) -> None:
    holder = taken.get(item.name)
    if item.override:
        if holder is None:
            raise _refused(
                item,
                f"override: true, but no earlier file or plugin has a {kind} {item.name!r}",
                did_you_mean(item.name, taken) or "leave override out for a new name",
            )
        if holder.reserved:
            raise _refused(
                item, f"{kind} {item.name!r} is part of every run and cannot be replaced", "choose another name"
            )
        if holder.name != item.name:
            raise _refused(item, f"{item.name!r} is an alias of {holder.name}; override {holder.name} itself")
    elif holder is not None and not _left_ambiguous(item.layer, holder):
        raise _refused(
            item, f"{kind} {item.name!r} is already {holder.owner}", "add override: true to replace it, or rename"
        )
    mine = Claim(owner=f"at {item.source}", plugin=item.layer, core=item.layer == PACKAGED, name=item.name)
    for alias in aliases:
        holder = taken.get(alias)
        if alias == item.name or (
            holder is not None and holder.name != item.name and not _left_ambiguous(item.layer, holder)
        ):
            owner = "its own name" if alias == item.name or holder is None else f"already {holder.owner}"
            raise _refused(item, f"alias {alias!r} is {owner}", "an alias must differ from every name and alias")
        taken[alias] = mine
    taken[item.name] = mine


def _left_ambiguous(layer: str, holder: Claim) -> bool:
    """Whether a clash is nobody's mistake: plugins that know nothing of each other. Asking for the name settles it."""
    return layer != USER and not holder.core and holder.plugin not in (USER, layer)


def _refused(item: Preset | Suite, problem: str, hint: str | None = None) -> RegistryError:
    return RegistryError(f"{item.source}: {item.path}: {problem}", hint=hint)
