"""Which kind a name on the command line belongs to, where the person did not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import HarnessError, PluginError, RegistryError, UsageError
from harness.naming import did_you_mean
from harness.types import KINDS

if TYPE_CHECKING:
    from harness.catalog import Catalog
    from harness.types import Kind

SECTIONS: tuple[str, ...] = (*KINDS, "suite", "plugin")
"""The kinds that can be listed and shown."""


def component_kind(word: str) -> Kind:
    """``word`` as a kind of component. Raises :class:`UsageError` for any other word."""
    from harness.cli.options import kind_named

    named = kind_named(word, KINDS)
    return next(kind for kind in KINDS if kind == named)


def names_of(catalog: Catalog, section: str) -> list[str]:
    """Every name and alias of one section."""
    if section == "suite":
        return list(catalog.suites)
    if section == "plugin":
        return [row.name for row in catalog.manager.plugins()]
    return [name for row in catalog.rows(component_kind(section)) for name in (row.name, *row.aliases)]


def kind_of(catalog: Catalog, name: str, sections: Sequence[str] = SECTIONS) -> str:
    """The one section that has ``name``, which may be ``plugin:name``.

    A plugin counts only where nothing else has the name, since plugins are often called as what they offer. Raises
    :class:`UsageError` for a name of several kinds, :class:`RegistryError` for an unknown one, and
    :class:`PluginError` for one whose plugin failed or that several plugins use.
    """
    found: list[str] = []
    refused: HarnessError | None = None
    for section in sections:
        try:
            if section == "suite":
                catalog.suite(name)
            elif section == "plugin":
                if found or name not in names_of(catalog, section):
                    continue
            else:
                catalog.describe(component_kind(section), name)
            found.append(section)
        except PluginError as error:
            refused = refused or error
        except RegistryError as error:
            # A preset whose entry is not there is known, and cannot be used; any other name belongs elsewhere.
            if name in names_of(catalog, section):
                refused = refused or error
    if len(found) > 1:
        raise UsageError(f"{name!r} is a {' and a '.join(found)}", hint="say which by giving the kind, too")
    if found:
        return found[0]
    raise refused or _unknown(catalog, name, sections)


def _unknown(catalog: Catalog, name: str, sections: Sequence[str]) -> RegistryError:
    known = [word for section in sections for word in names_of(catalog, section)]
    hints = [did_you_mean(name, known) or "harness list shows all names"]
    rows = catalog.manager.plugins()
    hints += [f"{row.name} was kept out ({row.reason})" for row in rows if row.status == "blocked"]
    if failures := catalog.manager.failures:
        hints.append("it may belong to a plugin that failed: " + "; ".join(failure.describe() for failure in failures))
    return RegistryError(f"nothing is named {name!r}", hint="; ".join(hints))
