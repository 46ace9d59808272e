"""The catalog: entries of plugins and presets of the registry under the names people type."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from harness.discovery import normalised
from harness.entries import DatasetEntry, Entry, ModelEntry, PerturbationEntry
from harness.errors import HarnessError, ParameterError, PluginError, RegistryError
from harness.grammar import Selector, is_glob, match_glob, parse_selector, split_name
from harness.naming import did_you_mean, plural, suggest
from harness.params import canonical, describe, differing, identity
from harness.preset_checks import check_preset, coerce_params, entry_claims, offers_for, required_params
from harness.registry import Preset, load_registry
from harness.resolved import Resolved
from harness.targets import load_target, missing_packages
from harness.types import KINDS, Capability, ResolvedRef, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from harness.manager import HarnessManager, Offer
    from harness.registry import Defaults, Registry, Source, Suite
    from harness.types import JSONValue, Kind

_NO_FACTS = frozenset(f.name for f in fields(Entry)) | {"level"}
_REPAIR = "repair or upgrade that plugin; harness plugins shows them all"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRow:
    """One line of ``harness list``.

    ``use`` is the entry behind the name, ``plugin`` who offers that. ``requires`` names parameters that must still be
    given. ``extra_missing`` is the extra to install first, ``problem`` why the name cannot be used at all.
    """

    kind: Kind
    name: str
    aliases: tuple[str, ...]
    summary: str
    plugin: str | None
    use: str
    extra_missing: str | None
    tags: tuple[str, ...]
    source: Source | None
    requires: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """One selector to use, and whether a glob brought it in (what makes no sense is then skipped, not an error)."""

    text: str
    from_glob: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Named:
    """One holder of a name: an entry, or a preset with the entry it uses (None where no plugin offers that)."""

    kind: Kind
    name: str
    offer: Offer | None
    preset: Preset | None = None
    aliases: tuple[str, ...] = ()
    tag: str | None = None
    """The tag of pretrained weights that is its name, behind the name of its plugin."""

    @property
    def owner(self) -> str:
        if self.preset is not None:
            return f"the preset at {self.preset.source}"
        return self.offer.owner if self.offer is not None else "no plugin"

    @property
    def is_qualified(self) -> bool:
        """Whether it is reached by ``plugin:name`` only."""
        return self.preset is None and self.offer is not None and self.offer.entry.qualified

    @property
    def qualifiers(self) -> list[str]:
        """Words that tell it from others of the name, the best first: plugin or layer, then distribution."""
        words = [] if self.preset is None else [self.preset.layer]
        if self.offer is not None:
            words += [self.offer.plugin, normalised(self.offer.distribution or self.offer.plugin)]
        return words


def build_catalog(manager: HarnessManager, *, registry_files: Sequence[Path] = ()) -> Catalog:
    """Join what the plugins of ``manager`` offer with the packaged registry, theirs, and the user's files.

    Raises :class:`RegistryError` where a file of the user breaks the schema, takes a name without ``override: true``,
    or gives parameters that the entry has not. A plugin whose file does so is taken out of service.
    """
    registry = load_registry(
        registry_files,
        plugin_files=manager.registry_files(),
        entries=entry_claims(manager),
        check=lambda preset: check_preset(preset, offers_for(manager, preset)),
        on_plugin_error=lambda plugin, error: manager.fail(plugin, "collect", error),
    )
    return Catalog(manager, registry)


class Catalog:
    """Every name of every kind. Made by :func:`build_catalog`."""

    def __init__(self, manager: HarnessManager, registry: Registry) -> None:
        self._manager = manager
        self._registry = registry
        self._lacking: dict[str | None, bool] = {}
        self._named: dict[Kind, dict[str, list[_Named]]] = {kind: {} for kind in KINDS}
        for kind in KINDS:
            self._index(kind)

    @property
    def manager(self) -> HarnessManager:
        """The plugins behind this catalog."""
        return self._manager

    @property
    def defaults(self) -> Defaults:
        """What a run uses where nothing is said."""
        return self._registry.defaults

    @property
    def suites(self) -> Mapping[str, Suite]:
        """The suites that can be asked for, by name."""
        return self._registry.suites

    def suite(self, name: str) -> Suite:
        """The suite called ``name``. Raises :class:`RegistryError` for an unknown name, with suggestions."""
        if name in self._registry.suites:
            return self._registry.suites[name]
        if contested := self._registry.contested_suites.get(name):
            places = " and ".join(str(suite.source) for suite in contested)
            raise PluginError(f"suite {name!r} is ambiguous: it stands at {places}", hint="keep one of the plugins out")
        known = ", ".join(self._registry.suites) or "none"
        raise RegistryError(
            f"no suite named {name!r}", hint=did_you_mean(name, self._registry.suites) or f"suites are: {known}"
        )

    def names(self, kind: Kind) -> list[str]:
        """Every name of a kind, aliases left out, sorted; one that several plugins use comes as ``plugin:name``."""
        return [row.name for row in self.rows(kind)]

    def rows(self, kind: Kind) -> list[CatalogRow]:
        """What there is of a kind, by name, with what each still needs."""
        return sorted((self._row(named) for named in self._all(kind)), key=lambda row: row.name)

    def expand(self, kind: Kind, texts: Iterable[str]) -> list[Expansion]:
        """``texts`` with globs replaced by the names they match, each selector once, in order.

        A glob passes over names that lack a parameter or an entry. Raises :class:`RegistryError` for a glob that
        matches nothing.
        """
        found: dict[str, bool] = {}
        for text in texts:
            if not is_glob(text):
                found |= dict.fromkeys(self._at_levels(kind, text), False)
                continue
            pattern, rest = split_name(text)
            given = parse_selector(f"any{rest}").params
            rows = [row for row in self.rows(kind) if row.problem is None and not set(row.requires) - set(given)]
            names = match_glob(pattern, [row.name for row in rows])
            if not names:
                raise RegistryError(
                    f"no {kind} matches {pattern!r}", hint=f"harness list {plural(kind)} shows all names"
                )
            for name in names:
                found.setdefault(name + rest, True)
        return [Expansion(text=text, from_glob=from_glob) for text, from_glob in found.items()]

    def _at_levels(self, kind: Kind, text: str) -> list[str]:
        """``text``, or one text per level for a dataset whose levels are values of a parameter."""
        if kind != "dataset" or "@" not in split_name(text)[1]:
            return [text]
        selector = parse_selector(text)
        entry = self._offer(self._find(kind, selector)).entry
        if not isinstance(entry, DatasetEntry) or entry.level is None or entry.level_param is None:
            return [text]
        name, spec = entry.level_param, entry.level
        if name in selector.params:
            raise ParameterError(f"dataset {text}: {name} is given twice, as a parameter and behind '@'")
        asked = spec.values if selector.levels == "all" else selector.levels or ()
        levels = [spec.check(level, f"dataset {selector.name}") for level in asked]
        return [replace(selector, levels=None, params={**selector.params, name: f"{level:g}"}).text for level in levels]

    def resolve(
        self, kind: Kind, selector: Selector | str, *, overrides: Mapping[str, object] | None = None
    ) -> Resolved:
        """Look a selector up and check its parameters and levels, importing nothing.

        Parameters come from the preset, then the selector, then ``overrides`` (typed values). Raises
        :class:`RegistryError` for an unknown name, :class:`PluginError` for an ambiguous name or one whose plugin
        failed, :class:`ParameterError` for a parameter or level of wrong name, type or range.
        """
        if isinstance(selector, str):
            selector = parse_selector(selector)
        named = self._find(kind, selector)
        offer, preset = self._offer(named), named.preset
        entry = offer.entry
        own = {**(preset.params if preset else {}), **_tag_of(named, selector)}
        given = {**own, **selector.params, **(overrides or {})}
        where = f"{kind} {named.name}" + (f" ({preset.source})" if preset else "")
        params = coerce_params(entry.params, given, where)
        name = f"{offer.plugin}:{named.name}" if named.is_qualified else named.name
        resolved = Resolved(
            kind=kind,
            name=name,
            entry=entry,
            plugin=offer.plugin,
            ref=ResolvedRef(
                kind=kind,
                name=name,
                use=self._key_name(kind, offer),
                version=entry.version,
                params=canonical(params),
                identity=identity(params),
                given=None if preset is None and named.tag is None else _beside(own, given, entry, params),
            ),
            params=params,
            preset=preset,
            levels=_levels(selector, kind, entry),
            label_space=entry.label_space if isinstance(entry, DatasetEntry) else None,
        )
        return _with_model_facts(resolved, entry) if isinstance(entry, ModelEntry) else resolved

    def takes(self, kind: Kind, selector: Selector, parameter: str) -> bool:
        """Whether the component of that name has a parameter. Raises as :meth:`resolve` does for an unknown name."""
        return parameter in {f.name for f in fields(self._offer(self._find(kind, selector)).entry.params)}

    def load_target(self, entry: Entry) -> Callable[..., object]:
        """The code behind an entry; see :func:`harness.targets.load_target`."""
        return load_target(entry)

    def instantiate(self, resolved: Resolved) -> object:
        """Build a component that is no model (a model needs its weights chosen). Raises what its constructor raises."""
        if resolved.kind == "model":
            raise TypeError("a model is built with weights=..., by load_target(entry)(**arguments, weights=...)")
        return load_target(resolved.entry)(**resolved.arguments)

    def describe(self, kind: Kind, name: str) -> dict[str, JSONValue]:
        """Everything known of a name as plain JSON values, for ``harness show``. Raises as :meth:`resolve` does."""
        named = self._find(kind, parse_selector(name))
        offer, preset = self._offer(named), named.preset
        entry, row = offer.entry, self._row(named)
        parameters: list[JSONValue] = []
        for info in describe(entry.params):
            values: dict[str, JSONValue] = {f.name: getattr(info, f.name) for f in fields(info)}
            if info.name in (fixed := {**(preset.params if preset else {}), **_tag_of(named, parse_selector(name))}):
                values["preset"] = fixed[info.name]
            parameters.append(values)
        facts: dict[str, JSONValue] = {
            f.name: _plain(getattr(entry, f.name)) for f in fields(entry) if f.name not in _NO_FACTS
        }
        if isinstance(entry, ModelEntry):
            view, label_space, capabilities = _model_facts(entry, preset)
            facts |= {"view": view.text, "label_space": label_space, "capabilities": _plain(capabilities)}
        level = getattr(entry, "level", None)
        return {
            "kind": kind,
            "name": row.name,
            "aliases": list(row.aliases),
            "summary": row.summary,
            "use": entry.name,
            "plugin": offer.plugin,
            "distribution": offer.distribution,
            "distribution_version": offer.version,
            "target": entry.target,
            "version": entry.version,
            "api_version": entry.api_version,
            "tags": list(entry.tags),
            "extra": entry.extra,
            "extra_missing": row.extra_missing,
            "source": str(preset.source) if preset is not None else None,
            "params": parameters,
            "levels": None if level is None else {f.name: _plain(getattr(level, f.name)) for f in fields(level)},
            "facts": facts,
        }

    # --- the index of names ------------------------------------------------------------------------------------

    def _index(self, kind: Kind) -> None:
        index = self._named[kind]
        presets = [*self._registry.presets.get(kind, {}).values()]
        presets += [preset for group in self._registry.contested.get(kind, {}).values() for preset in group]
        replaced = {preset.name: preset for preset in presets if preset.override}
        inherited: dict[str, list[str]] = {}
        holders: list[_Named] = []
        for offer in self._manager.entries(kind):
            if offer.entry.name in replaced:
                inherited.setdefault(offer.entry.name, []).extend(offer.entry.aliases)
            else:
                holders.append(_Named(kind=kind, name=offer.entry.name, offer=offer, aliases=offer.entry.aliases))
        for preset in presets:
            aliases = tuple(dict.fromkeys((*preset.aliases, *inherited.get(preset.name, ()))))
            offers = offers_for(self._manager, preset)
            offer_used = offers[0] if len(offers) == 1 else None
            holders.append(_Named(kind=kind, name=preset.name, offer=offer_used, preset=preset, aliases=aliases))
        for holder in holders:
            for name in (holder.name, *holder.aliases):
                index.setdefault(name, []).append(holder)

    def _all(self, kind: Kind) -> Iterator[_Named]:
        for name, holders in self._named[kind].items():
            yield from (holder for holder in holders if holder.name == name)

    def _find(self, kind: Kind, selector: Selector) -> _Named:
        holders = self._named[kind].get(selector.name, [])
        if selector.plugin is not None:
            words = {selector.plugin, normalised(selector.plugin)}
            holders = [holder for holder in holders if words & set(holder.qualifiers)] or self._by_tag(kind, selector)
        else:
            holders = [holder for holder in holders if not holder.is_qualified]
        if len(holders) == 1:
            return holders[0]
        if not holders:
            raise self._unknown(kind, selector)
        owners = " and ".join(holder.owner for holder in holders)
        ways = " or ".join(f"{_qualifier(holder, holders)}:{selector.name}" for holder in holders)
        raise PluginError(f"{kind} {selector.name!r} is ambiguous: it comes from {owners}", hint=f"write {ways}")

    def _by_tag(self, kind: Kind, selector: Selector) -> list[_Named]:
        """The entry of a plugin that takes any other name behind the plugin's as the tag of pretrained weights."""
        return [
            _Named(kind=kind, name=selector.name, offer=offer, tag=selector.name)
            for offer in self._manager.entries(kind)
            if offer.plugin == selector.plugin and isinstance(offer.entry, ModelEntry) and offer.entry.names_tags
        ]

    def _unknown(self, kind: Kind, selector: Selector) -> HarnessError:
        name = selector.name
        if (failure := self._manager.withheld(kind, name)) is not None:
            return PluginError(f"{kind} {name!r} is not available: {failure.describe()}", hint=_REPAIR)
        if selector.plugin is not None:
            for failure in self._manager.failures:
                if selector.plugin in (failure.plugin, failure.distribution):
                    return PluginError(f"{kind} {name!r} is not available: {failure.describe()}", hint=_REPAIR)
        known = {
            spelled: holders
            for spelled, named in self._named[kind].items()
            if (holders := [holder for holder in named if not holder.is_qualified])
        }
        reachable = [*known, *(row.name for row in self.rows(kind))]
        hints = [did_you_mean(name, reachable)] if suggest(name, reachable) else []
        if selector.plugin is None and (wrapped := self._named[kind].get(name)):
            hints = [f"write {' or '.join(self._row(holder).name for holder in wrapped)}"]
        hints += [f"{name!r} is a {other}" for other in KINDS if other != kind and name in self._named[other]]
        if selector.plugin is not None and name in known:
            hints = [f"it comes from {' and '.join(holder.owner for holder in known[name])}"]
        hints = hints or [f"harness list {plural(kind)} shows all names"]
        hints += [
            f"{row.name} was kept out ({row.reason})" for row in self._manager.plugins() if row.status == "blocked"
        ]
        if failures := self._manager.failures:
            hints.append("it may belong to a plugin that failed: " + "; ".join(f.describe() for f in failures))
        return RegistryError(f"no {kind} named {selector.qualified_name!r}", hint="; ".join(filter(None, hints)))

    def _offer(self, named: _Named) -> Offer:
        if named.offer is not None:
            return named.offer
        preset = named.preset
        assert preset is not None
        where = f"{preset.source}: {preset.path}.use"
        if offers := offers_for(self._manager, preset):
            owners = " and ".join(offer.owner for offer in offers)
            raise PluginError(
                f"{where}: {preset.use!r} is ambiguous: it comes from {owners}", hint="write plugin:entry"
            )
        if any(holder.preset is not None for holder in self._named[named.kind].get(preset.use, ())):
            raise RegistryError(f"{where}: {preset.use!r} is a preset; a preset uses an entry of a plugin")
        error = self._unknown(named.kind, parse_selector(preset.use))
        raise type(error)(f"{where}: {error.message}", hint=error.hint)

    def _key_name(self, kind: Kind, offer: Offer) -> str:
        """The entry as records know it: by its name, unless another entry of the name computes something else."""
        if offer.entry.qualified:
            return f"{offer.plugin}:{offer.entry.name}"
        rivals = [
            other
            for other in self._manager.entries(kind)
            if other.entry.name == offer.entry.name and not other.entry.qualified
        ]
        if len(rivals) == 1:
            return offer.entry.name
        alone = sum(other.plugin == offer.plugin for other in rivals) == 1
        origin = offer.plugin if alone else normalised(offer.distribution or offer.plugin)
        return f"{origin}:{offer.entry.name}"

    def _row(self, named: _Named) -> CatalogRow:
        preset, offer = named.preset, named.offer
        holders = [holder for holder in self._named[named.kind].get(named.name, ()) if not holder.is_qualified]
        alone = not named.is_qualified and len(holders) == 1
        row = CatalogRow(
            kind=named.kind,
            name=named.name if alone else f"{_qualifier(named, holders)}:{named.name}",
            aliases=named.aliases,
            summary="" if preset is None else preset.summary,
            plugin=None,
            use=named.name if preset is None else preset.use,
            extra_missing=None,
            tags=(),
            source=None if preset is None else preset.source,
        )
        if offer is None:
            return replace(row, problem=f"no plugin offers {named.kind} entry {row.use!r}")
        given = () if preset is None else preset.params
        return replace(
            row,
            summary=row.summary or offer.entry.summary,
            plugin=offer.plugin,
            use=offer.entry.name,
            extra_missing=offer.entry.extra if self._lacks(offer.entry.extra) else None,
            tags=offer.entry.tags,
            requires=tuple(name for name in required_params(offer.entry.params) if name not in given),
        )

    def _lacks(self, extra: str | None) -> bool:
        if extra not in self._lacking:
            self._lacking[extra] = bool(missing_packages(extra))
        return self._lacking[extra]


def _qualifier(named: _Named, holders: list[_Named]) -> str:
    """The first of its qualifiers that no other holder of the name answers to."""
    others = {word for other in holders if other is not named for word in other.qualifiers}
    return next((word for word in named.qualifiers if word not in others), named.qualifiers[-1])


def _beside(
    own: Mapping[str, object], given: Mapping[str, object], entry: Entry, params: Any
) -> Mapping[str, JSONValue]:
    """The parameters that ``own``, those that the name says, have otherwise, or do not settle."""
    open_ones = {name: given[name] for name in required_params(entry.params) if name not in own}
    alone = coerce_params(entry.params, {**own, **open_ones}, "")
    return {name: value for name, value in identity(params).items() if name in open_ones} | differing(params, alone)


def _tag_of(named: _Named, selector: Selector) -> dict[str, str]:
    """The tag that is the name itself, as the parameter that holds it."""
    if named.tag is None or named.offer is None or not isinstance(named.offer.entry, ModelEntry):
        return {}
    name = str(named.offer.entry.tag_param)
    if name in selector.params:
        raise ParameterError(f"model {selector.text}: {name} is given twice, as a name and as a parameter")
    return {name: named.tag}


def _levels(selector: Selector, kind: Kind, entry: Entry) -> tuple[float, ...] | None:
    if selector.levels is None:
        return None
    level = entry.level if isinstance(entry, PerturbationEntry) else None
    if level is None:
        hint = f"leave out {selector.text[selector.text.rindex('@') :]}"
        raise ParameterError(f"{kind} {selector.name} has no levels", hint=hint)
    if selector.levels == "all":
        return level.values
    return tuple(level.check(value, f"perturbation {selector.name}") for value in selector.levels)


def _model_facts(entry: ModelEntry, preset: Preset | None) -> tuple[View, str | None, frozenset[Capability]]:
    if preset is None:
        return entry.view, entry.label_space, entry.capabilities
    view = entry.view if preset.view is None else preset.view
    if preset.capabilities is None:
        return view, preset.label_space or entry.label_space, entry.capabilities
    # A model that gives no logits has no labels of its own, whatever the family it is built from has.
    inherited = entry.label_space if Capability.LOGITS in preset.capabilities else None
    return view, preset.label_space or inherited, preset.capabilities


def _with_model_facts(resolved: Resolved, entry: ModelEntry) -> Resolved:
    view, label_space, capabilities = _model_facts(entry, resolved.preset)
    tag, url, sha256 = (
        None if name is None else resolved.arguments[name]
        for name in (entry.tag_param, entry.url_param, entry.sha256_param)
    )
    return replace(
        resolved,
        view=view,
        label_space=label_space,
        capabilities=capabilities,
        tag=url or tag,
        architecture=tag,
        weights_url=url,
        weights_sha256=sha256,
    )


def _plain(value: object) -> JSONValue:
    if isinstance(value, View):
        return value.text
    if isinstance(value, frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
